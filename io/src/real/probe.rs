//! The detection ladder: does this machine offer what the engine needs, and if not, why.
//!
//! Each step is tried with a ring of its own before any executor starts. A step that fails ends the ladder with the
//! typed reason; a step that gets less than it asked for is noted and the engine works with less.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};

use super::arena::Arena;
use super::directory::{PROBE_NAME, Root, path_error};
use super::host::LOCKED_BYTES_MIN;
use super::ring_setup::{self, refusal};
use super::sys;
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::error::{Error, FileOp, Result};

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The machine offers it; what exactly.
    Passed(String),
    /// The machine offers less than the best; the engine works, at a cost.
    Reduced(String),
    /// The engine cannot work.
    Failed(Error),
}

/// One step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// What was tried.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for ProbeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passed(what) => write!(f, "{}: {what}", self.name),
            Outcome::Reduced(what) => write!(f, "{}: reduced: {what}", self.name),
            Outcome::Failed(error) => write!(f, "{}: FAILED: {error}", self.name),
        }
    }
}

/// The steps that were tried, in order. The last one is the first that failed, if any did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// The steps.
    pub steps: Vec<ProbeStep>,
}

impl ProbeReport {
    /// Fails with the reason if the engine cannot work here.
    ///
    /// # Errors
    /// The error of the step that failed.
    pub fn require(&self) -> Result<()> {
        for step in &self.steps {
            if let Outcome::Failed(error) = &step.outcome {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// Notes a step and hands its value on if there is one.
    fn note<T>(&mut self, name: &'static str, tried: Result<(T, Outcome)>) -> Option<T> {
        let (value, outcome) = match tried {
            Ok((value, outcome)) => (Some(value), outcome),
            Err(error) => (None, Outcome::Failed(error)),
        };
        self.steps.push(ProbeStep { name, outcome });
        value
    }
}

/// Tries everything the engine needs, the direct I/O in the directory `root`, and a registration of `arena_bytes`.
/// Leaves nothing behind.
#[must_use]
pub fn probe(root: &Path, arena_bytes: usize) -> ProbeReport {
    match Root::open(root, false) {
        Ok(root) => climb(&root, arena_bytes),
        Err(error) => {
            let outcome = Outcome::Failed(error);
            ProbeReport { steps: vec![ProbeStep { name: "data directory", outcome }] }
        }
    }
}

/// The same in a directory that is open.
pub(super) fn climb(root: &Root, arena_bytes: usize) -> ProbeReport {
    let mut report = ProbeReport::default();
    // The steps note themselves; where they end is in the report.
    let _: Option<()> = climb_into(&mut report, root, arena_bytes);
    report
}

fn climb_into(report: &mut ProbeReport, root: &Root, arena_bytes: usize) -> Option<()> {
    let mut ring = report.note("io_uring", set_up())?;
    report.note("features", features(&ring))?;
    report.note("operations", operations(&ring))?;
    report.note("round trip", round_trip(&mut ring))?;
    report.note("setup flags", setup_flags())?;
    report.note("locked memory", locked_memory(sys::limit(libc::RLIMIT_MEMLOCK)))?;
    report.note("registered buffers", registered_buffers(&ring, arena_bytes))?;
    report.note("registered files", registered_files(&ring))?;
    report.note("direct I/O", direct_io(&mut ring, root))
}

type Tried<T = ()> = Result<(T, Outcome)>;

fn passed(what: impl Into<String>) -> Tried {
    Ok(((), Outcome::Passed(what.into())))
}

fn lacking(what: &str, cause: String) -> Error {
    let remedy = "use Linux 6.1 or newer".to_owned();
    Error::Unsupported { what: what.to_owned(), cause, remedy }
}

fn set_up() -> Tried<IoUring> {
    let ring = IoUring::new(8).map_err(|error| refusal("io_uring", sys::errno_of(&error)))?;
    Ok((ring, Outcome::Passed("a ring can be set up".to_owned())))
}

fn features(ring: &IoUring) -> Tried {
    let params = ring.params();
    let needed = [("NODROP", params.is_feature_nodrop()), ("EXT_ARG", params.is_feature_ext_arg())];
    match needed.iter().find(|(_, there)| !there) {
        None => passed("NODROP, EXT_ARG"),
        Some((name, _)) => Err(lacking("io_uring features", format!("the kernel lacks {name}"))),
    }
}

fn operations(ring: &IoUring) -> Tried {
    let needed = [
        ("NOP", opcode::Nop::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
    ];
    let mut probe = Probe::new();
    let asked = ring.submitter().register_probe(&mut probe);
    asked.map_err(|error| refusal("asking for io_uring operations", sys::errno_of(&error)))?;
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => passed(needed.map(|(name, _)| name).join(", ")),
        Some((name, _)) => Err(lacking("io_uring operations", format!("the kernel lacks {name}"))),
    }
}

fn round_trip(ring: &mut IoUring) -> Tried {
    // SAFETY: the operation touches no memory.
    let result = unsafe { run(ring, &opcode::Nop::new().build()) }
        .map_err(|errno| refusal("an io_uring NOP", errno))?;
    if result == 0 {
        passed("an operation went into the kernel and back")
    } else {
        Err(refusal("an io_uring NOP", -result))
    }
}

/// Runs one operation to its end.
///
/// # Safety
/// What the entry points to is valid, and nobody else uses it, until this returns.
unsafe fn run(ring: &mut IoUring, entry: &Entry) -> Result<i32, i32> {
    // SAFETY: as the caller vouches; the completion is awaited below.
    if unsafe { ring.submission().push(entry) }.is_err() {
        return Err(libc::EBUSY);
    }
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if sys::errno_of(&error) != libc::EINTR => return Err(sys::errno_of(&error)),
            _ => {}
        }
        if let Some(completion) = ring.completion().next() {
            return Ok(completion.result());
        }
    }
}

fn setup_flags() -> Tried {
    for (set, name) in ring_setup::flag_sets() {
        match ring_setup::create_with(set, 8) {
            Ok(_) if set == 0 => return passed(name),
            Ok(_) => {
                return Ok((
                    (),
                    Outcome::Reduced(format!("the kernel knows only {name}: more CPU per operation")),
                ));
            }
            Err(libc::EINVAL) => {}
            Err(errno) => return Err(refusal("io_uring", errno)),
        }
    }
    Err(refusal("io_uring", libc::EINVAL))
}

fn locked_memory(limit: Option<u64>) -> Tried {
    match limit {
        None => passed("no limit"),
        Some(limit) if limit >= LOCKED_BYTES_MIN => passed(format!("limit {} KiB", limit >> 10)),
        Some(limit) => Err(Error::Unsupported {
            what: "locked memory".to_owned(),
            cause: format!("the limit is {} KiB, and {} KiB are needed", limit >> 10, LOCKED_BYTES_MIN >> 10),
            remedy: "raise LimitMEMLOCK= of the service or `ulimit -l`".to_owned(),
        }),
    }
}

fn registered_buffers(ring: &IoUring, arena_bytes: usize) -> Tried {
    let arena = Arena::new(arena_bytes).map_err(|errno| refusal("buffer memory", errno))?;
    let registered = ring_setup::register_arena(ring, &arena);
    // The arena goes before the ring does.
    let unregistered = if registered > 0 { ring.submitter().unregister_buffers() } else { Ok(()) };
    unregistered.map_err(|error| refusal("unregistering buffers", sys::errno_of(&error)))?;
    if registered == arena.bytes() {
        return passed(format!("{} KiB", registered >> 10));
    }
    let limit = sys::limit(libc::RLIMIT_MEMLOCK)
        .map_or_else(|| "none".to_owned(), |limit| format!("{} KiB", limit >> 10));
    Ok((
        (),
        Outcome::Reduced(format!(
            "{} of {} KiB (limit of locked memory: {limit}): the rest costs more CPU; raise LimitMEMLOCK= or `ulimit -l`",
            registered >> 10,
            arena.bytes() >> 10
        )),
    ))
}

fn registered_files(ring: &IoUring) -> Tried {
    let (_, places) = ring_setup::register_files(ring, 1024, None)?;
    if places > 0 {
        passed(format!("{places} places"))
    } else {
        Ok(((), Outcome::Reduced("the kernel refuses the table: more CPU per operation".to_owned())))
    }
}

/// Writes one unit past all caches, makes it durable and reads it back. A store on a filesystem that is full can be
/// opened all the same: it has been opened before.
fn direct_io(ring: &mut IoUring, root: &Root) -> Tried {
    match write_and_read_back(ring, root) {
        Err(Error::OutOfSpace { .. }) => {
            let what = "no room to write a unit and read it back: free some space";
            Ok(((), Outcome::Reduced(what.to_owned())))
        }
        tried => tried,
    }
}

fn write_and_read_back(ring: &mut IoUring, root: &Root) -> Tried {
    let fd = nameless_file(root)?;
    let raw = types::Fd(fd.as_raw_fd());
    let mut out = IoBuf::zeroed(IO_UNIT_BYTES);
    for (byte, value) in out.as_mut_slice().iter_mut().zip((1..=251).cycle()) {
        *byte = value;
    }
    let back = IoBuf::zeroed(IO_UNIT_BYTES);
    let len = u32::try_from(IO_UNIT_BYTES).unwrap_or(u32::MAX);
    let steps = [
        (FileOp::Write, opcode::Write::new(raw, out.as_ptr(), len).build(), IO_UNIT_BYTES),
        (FileOp::Sync, opcode::Fsync::new(raw).flags(types::FsyncFlags::DATASYNC).build(), 0),
        (FileOp::Read, opcode::Read::new(raw, back.as_ptr(), len).build(), IO_UNIT_BYTES),
    ];
    for (op, entry, expected) in steps {
        // SAFETY: both buffers and the file outlive the call, which waits for the completion.
        let result = unsafe { run(ring, &entry) }.unwrap_or_else(|errno| -errno);
        match usize::try_from(result) {
            Ok(bytes) if bytes == expected => {}
            Err(_) if result == -libc::EINVAL => return Err(root.no_direct_io()),
            other => {
                let errno = if other.is_ok() { libc::EIO } else { -result };
                return Err(path_error(op, root.path(), &std::io::Error::from_raw_os_error(errno)));
            }
        }
    }
    if back.as_slice() != out.as_slice() {
        return Err(Error::Unsupported {
            what: format!("direct I/O in {}", root.path().display()),
            cause: "what was written was not what was read back".to_owned(),
            remedy: "check the device: it does not keep data".to_owned(),
        });
    }
    passed(format!("{} wrote, synced and read back {IO_UNIT_BYTES} bytes", sys::filesystem_name(root.fd())))
}

/// A file without a name, or one whose name is removed at once.
pub(super) fn nameless_file(root: &Root) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_DIRECT;
    match sys::open_at(root.fd(), ".", flags | libc::O_TMPFILE, 0o600) {
        Err(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL) => {}
        opened => {
            return opened.map_err(|errno| {
                path_error(FileOp::Open, root.path(), &std::io::Error::from_raw_os_error(errno))
            });
        }
    }
    let named = || {
        match sys::unlink_at(root.fd(), PROBE_NAME) {
            Ok(()) | Err(libc::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let fd = sys::open_at(root.fd(), PROBE_NAME, flags | libc::O_CREAT | libc::O_EXCL, 0o600)?;
        sys::unlink_at(root.fd(), PROBE_NAME)?;
        Ok(fd)
    };
    named().map_err(|errno| match errno {
        libc::EINVAL => root.no_direct_io(),
        _ => path_error(FileOp::Open, root.path(), &std::io::Error::from_raw_os_error(errno)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_passes_here_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let report = probe(temp.path(), 1 << 20);
        report.require().unwrap();
        let names: Vec<&str> = report.steps.iter().map(|step| step.name).collect();
        assert_eq!(names.first().copied(), Some("io_uring"));
        assert_eq!(names.last().copied(), Some("direct I/O"));
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn too_little_locked_memory_is_said_before_an_executor_fails_on_it() {
        assert!(locked_memory(None).is_ok());
        assert!(locked_memory(Some(LOCKED_BYTES_MIN)).is_ok());
        let error = locked_memory(Some(64 << 10)).unwrap_err();
        assert!(error.to_string().contains("64 KiB, and 512 KiB"), "{error}");
    }

    #[test]
    fn a_filesystem_without_direct_io_or_a_missing_directory_is_named() {
        let report = probe(Path::new("/proc/no-such-directory"), 1 << 20);
        assert!(matches!(report.require(), Err(Error::NotFound { .. })));
        // procfs holds no files of ours at all.
        let report = probe(Path::new("/proc/tty"), 1 << 20);
        let failed = report.steps.last().unwrap();
        assert_eq!(failed.name, "direct I/O");
        assert!(failed.to_string().contains("FAILED"), "{failed}");
    }
}
