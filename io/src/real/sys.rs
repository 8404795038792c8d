//! The system calls that neither the standard library nor the ring offers, each behind a safe function.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::env::Space;

/// How long a turn is that a thread asks for which must not be kept waiting: as long as the longest slice of the background,
/// after which it offers its core anyway.
const PROMPT_TURN: Duration = Duration::from_micros(500);
/// How nice a thread is that gives way: others get about ten times its time.
const GIVING_WAY: libc::c_int = 10;

/// The error number of the last failed call.
pub(super) fn last_errno() -> i32 {
    errno_of(&io::Error::last_os_error())
}

/// The error number inside an [`io::Error`]; EIO if it carries none.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn check(result: libc::c_int) -> Result<libc::c_int, i32> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Repeats a call that a signal interrupted.
fn retried(mut call: impl FnMut() -> libc::c_int) -> Result<libc::c_int, i32> {
    loop {
        match check(call()) {
            Err(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// A name for the kernel. Fails with EINVAL if it holds a zero byte.
pub(super) fn c_name(name: &str) -> Result<CString, i32> {
    CString::new(name).map_err(|_| libc::EINVAL)
}

/// Opens `name` below `dir`. O_CLOEXEC and O_NOFOLLOW are always added.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &str, flags: i32, mode: u32) -> Result<OwnedFd, i32> {
    let name = c_name(name)?;
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the name is a C string that lives through the call; the descriptor is open.
    let fd = retried(|| unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode) })?;
    Ok(owned(fd))
}

/// Takes a descriptor that a call has just returned.
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes a fresh descriptor that nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Creates a directory below `dir`, for its owner only.
pub(crate) fn make_dir_at(dir: BorrowedFd<'_>, name: &str) -> Result<(), i32> {
    let name = c_name(name)?;
    // SAFETY: as in `open_at`.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), 0o700) }).map(drop)
}

/// Removes a file's name from `dir`.
pub(crate) fn unlink_at(dir: BorrowedFd<'_>, name: &str) -> Result<(), i32> {
    let name = c_name(name)?;
    // SAFETY: as in `open_at`.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Renames within `dir`, replacing what was there.
pub(crate) fn rename_at(dir: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), i32> {
    let (from, to) = (c_name(from)?, c_name(to)?);
    let dir = dir.as_raw_fd();
    // SAFETY: as in `open_at`, for both names.
    check(unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) }).map(drop)
}

/// What `fstat` tells.
pub(crate) fn status(fd: BorrowedFd<'_>) -> Result<libc::stat, i32> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure; the descriptor is open.
    check(unsafe { libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the structure is filled.
    Ok(unsafe { status.assume_init() })
}

/// The length of an open file.
pub(super) fn file_len(fd: BorrowedFd<'_>) -> Result<u64, i32> {
    Ok(u64::try_from(status(fd)?.st_size).unwrap_or(0))
}

/// How full the filesystem of `fd` is for an unprivileged writer.
pub(super) fn space(fd: BorrowedFd<'_>) -> Result<Space, i32> {
    let mut status = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the kernel fills the structure; the descriptor is open.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the structure is filled.
    let status = unsafe { status.assume_init() };
    Ok(Space {
        available_bytes: status.f_bavail.saturating_mul(status.f_frsize),
        total_bytes: status.f_blocks.saturating_mul(status.f_frsize),
    })
}

/// The kind of filesystem that holds `fd`, by name where the number is a common one.
pub(super) fn filesystem_name(fd: BorrowedFd<'_>) -> String {
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the structure; the descriptor is open.
    if let Err(errno) = check(unsafe { libc::fstatfs(fd.as_raw_fd(), status.as_mut_ptr()) }) {
        return format!("a filesystem that cannot be asked (os error {errno})");
    }
    // SAFETY: the call succeeded, so the structure is filled.
    let kind = unsafe { status.assume_init() }.f_type;
    match kind {
        0xEF53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794C_7630 => "overlayfs".to_owned(),
        0x2FC1_2FC1 => "zfs".to_owned(),
        0xF2F5_2010 => "f2fs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x0102_1997 => "9p".to_owned(),
        0x6573_5546 => "fuse".to_owned(),
        other => format!("the filesystem of type {other:#x}"),
    }
}

/// Tries to lock a file for this process alone, without waiting.
pub(super) fn try_lock(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: a call without pointers on an open descriptor.
    retried(|| unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Releases the lock of [`try_lock`], for every descriptor and ring that shares the open file.
pub(super) fn unlock(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: a call without pointers on an open descriptor.
    retried(|| unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

/// Makes a directory's entries, or a file's data and metadata, durable.
pub(crate) fn sync_all(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: a call without pointers on an open descriptor.
    retried(|| unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// Cuts an open file off at a length, or extends it with a hole.
pub(super) fn truncate(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), i32> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| libc::EFBIG)?;
    // SAFETY: a call without pointers on an open descriptor.
    retried(|| unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) }).map(drop)
}

/// Whether nobody else on the machine has the file open that `fd` has open for writing. Other copies of the same
/// descriptor, and rings that know it, do not count.
///
/// The kernel grants a lease for writing exactly then (fcntl(2), F_SETLEASE). Fails where there are no leases.
pub(super) fn is_only_descriptor(fd: BorrowedFd<'_>) -> Result<bool, i32> {
    // SAFETY: a call without pointers on an open descriptor.
    match check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) }) {
        Ok(_) => {
            // SAFETY: as above.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) })?;
            Ok(true)
        }
        Err(libc::EAGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Switches direct I/O on an open file off.
pub(crate) fn clear_direct(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: a call without pointers on an open descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) }).map(drop)
}

/// Tells the kernel that a file's pages in its cache will not be needed. Only advice: failure means nothing.
pub(crate) fn forget_pages(fd: BorrowedFd<'_>) {
    // SAFETY: a call without pointers on an open descriptor.
    unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// A counter descriptor whose reads wait.
pub(super) fn event_fd() -> Result<OwnedFd, i32> {
    // SAFETY: a call without pointers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).map(owned)
}

/// Random bytes of the system.
pub(crate) fn random_u64() -> Result<u64, i32> {
    let mut bytes = [0_u8; 8];
    retried(|| {
        // SAFETY: the kernel writes at most the length given. Eight bytes are never delivered in part.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == 8 { 0 } else { -1 }
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A limit of this process, the soft one; `None` if there is none.
pub(super) fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }).ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The names in a directory, without `.` and `..`, each with whether it is known to be a directory.
pub(crate) fn names(dir: OwnedFd) -> Result<Vec<(String, bool)>, i32> {
    let stream = DirStream::new(dir)?;
    let mut names = Vec::new();
    while let Some((name, is_dir)) = stream.next()? {
        if name != "." && name != ".." {
            names.push((name, is_dir));
        }
    }
    Ok(names)
}

struct DirStream(*mut libc::DIR);

impl DirStream {
    fn new(dir: OwnedFd) -> Result<Self, i32> {
        // SAFETY: the descriptor is open; on success the stream owns it, hence `forget`.
        let stream = unsafe { libc::fdopendir(dir.as_raw_fd()) };
        if stream.is_null() {
            return Err(last_errno());
        }
        std::mem::forget(dir);
        Ok(Self(stream))
    }

    fn next(&self) -> Result<Option<(String, bool)>, i32> {
        // SAFETY: errno is this thread's own; readdir tells its end from its failure only by it.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open and used by this thread only.
        let entry = unsafe { libc::readdir64(self.0) };
        if entry.is_null() {
            return match last_errno() {
                0 => Ok(None),
                errno => Err(errno),
            };
        }
        // SAFETY: the entry stays valid until the next call on this stream; its name is a C string inside it.
        let (name, kind) = unsafe { (CStr::from_ptr((*entry).d_name.as_ptr()), (*entry).d_type) };
        Ok(Some((name.to_string_lossy().into_owned(), kind == libc::DT_DIR)))
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and nobody uses it after this.
        unsafe { libc::closedir(self.0) };
    }
}

/// Asks the scheduler for short turns for the calling thread. From Linux 6.12 on a thread with shorter turns than the running
/// one gets the core as soon as it is woken and has not had more than its share; before, the kernel takes no notice.
///
/// Source: the kernel's `Documentation/scheduler/sched-eevdf.rst`, and `sched_setattr(2)`.
pub(super) fn ask_for_prompt_turns() -> Result<(), i32> {
    set_turns(PROMPT_TURN)
}

/// Makes the calling thread give way to others, and undoes [`ask_for_prompt_turns`] if its maker has asked for that.
pub(super) fn give_way() -> Result<(), i32> {
    let turns = set_turns(Duration::ZERO);
    // SAFETY: no memory is passed; on Linux, 0 is the calling thread and no other.
    let niceness = check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, GIVING_WAY) });
    // Where a sandbox refuses one of the calls, the other still counts.
    niceness.map(drop).and(turns)
}

/// Sets how long the turns of the calling thread are; zero is what the kernel thinks best. A thread that has been given a
/// policy of its own keeps it as it is.
fn set_turns(turn: Duration) -> Result<(), i32> {
    let mut attr = scheduling()?;
    if i32::try_from(attr.sched_policy) != Ok(libc::SCHED_OTHER) {
        return Ok(());
    }
    attr.sched_runtime = u64::try_from(turn.as_nanos()).unwrap_or(0);
    // SAFETY: 0 is the calling thread; the kernel reads the struct, whose first field is its size, and keeps nothing.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set < 0 { Err(last_errno()) } else { Ok(()) }
}

/// How the calling thread is scheduled.
fn scheduling() -> Result<libc::sched_attr, i32> {
    let mut attr = MaybeUninit::<libc::sched_attr>::zeroed();
    // SAFETY: 0 is the calling thread; the kernel writes at most the size given.
    let got = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, attr.as_mut_ptr(), size_of::<libc::sched_attr>(), 0)
    };
    if got < 0 {
        return Err(last_errno());
    }
    // SAFETY: zeroed above, which is a valid value, and filled by the call.
    Ok(unsafe { attr.assume_init() })
}

/// The set of cores that the calling thread may run on.
#[derive(Clone)]
pub(crate) struct Affinity(libc::cpu_set_t);

impl Affinity {
    /// Asks the kernel. Fails with EINVAL on machines with more than 1024 cores.
    pub(super) fn of_this_thread() -> Result<Self, i32> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the kernel writes at most the size given; all-zero is a valid set.
        check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) })?;
        // SAFETY: zeroed above and filled by the call.
        Ok(Self(unsafe { set.assume_init() }))
    }

    /// Whether a core is in the set.
    pub(super) fn holds(&self, cpu: usize) -> bool {
        // SAFETY: CPU_ISSET reads inside the set for indices below its size, checked first.
        cpu < libc::CPU_SETSIZE.unsigned_abs() as usize && unsafe { libc::CPU_ISSET(cpu, &self.0) }
    }

    /// Allows the calling thread to run on every core of the set.
    pub(crate) fn apply(&self) -> Result<(), i32> {
        // SAFETY: the set lives through the call.
        check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) })
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_thread_that_gives_way_does_not_keep_the_turns_of_its_maker() {
        let prompt = u64::try_from(PROMPT_TURN.as_nanos()).unwrap();
        let maker = std::thread::spawn(move || {
            ask_for_prompt_turns().unwrap();
            let asked = scheduling().unwrap();
            // Kernels before 6.12 know of no turns and tell none.
            assert!([0, prompt].contains(&asked.sched_runtime), "{}", asked.sched_runtime);
            std::thread::spawn(|| give_way().and_then(|()| scheduling()).unwrap()).join().unwrap()
        });
        let made = maker.join().unwrap();
        assert_eq!(made.sched_nice, GIVING_WAY);
        assert_ne!(made.sched_runtime, prompt);
    }

    #[test]
    fn a_directory_lists_what_was_made_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = OwnedFd::from(std::fs::File::open(temp.path()).unwrap());
        make_dir_at(dir.as_fd(), "inner").unwrap();
        drop(open_at(dir.as_fd(), "file", libc::O_RDWR | libc::O_CREAT, 0o600).unwrap());
        let mut found = names(dir.try_clone().unwrap()).unwrap();
        found.sort();
        assert_eq!(found, [("file".to_owned(), false), ("inner".to_owned(), true)]);
        unlink_at(dir.as_fd(), "file").unwrap();
        assert_eq!(unlink_at(dir.as_fd(), "file"), Err(libc::ENOENT));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", temp.path().join("link")).unwrap();
        let dir = OwnedFd::from(std::fs::File::open(temp.path()).unwrap());
        assert_eq!(open_at(dir.as_fd(), "link", libc::O_RDONLY, 0).unwrap_err(), libc::ELOOP);
    }

    #[test]
    fn this_thread_may_run_somewhere() {
        let affinity = Affinity::of_this_thread().unwrap();
        assert!((0..1024).any(|cpu| affinity.holds(cpu)));
        assert!(!affinity.holds(1 << 20));
        affinity.apply().unwrap();
    }
}
