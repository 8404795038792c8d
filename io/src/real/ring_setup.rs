//! Setting a ring up, with as much as the kernel grants, and what to tell when it grants nothing.

use std::os::fd::RawFd;

use io_uring::IoUring;

use super::arena::{Arena, CHUNK_BYTES};
use super::file_table::{FileTable, LOCK_PLACE};
use super::sys;
use crate::error::{Error, Result};
use crate::num::to_u64;

/// Sets of setup flags, richest first, with their names for reports.
const FLAG_SETS: [&str; 3] =
    ["SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", "COOP_TASKRUN|TASKRUN_FLAG", "none"];

/// Creates a ring for `in_flight_max` operations, and names the flags it got.
pub(super) fn create(in_flight_max: usize) -> Result<(IoUring, &'static str)> {
    let entries = u32::try_from(in_flight_max.clamp(8, 4096)).unwrap_or(4096).next_power_of_two();
    let mut refused = libc::EINVAL;
    for (set, flags) in FLAG_SETS.into_iter().enumerate() {
        match create_with(set, entries) {
            Ok(uring) => return Ok((uring, flags)),
            Err(libc::EINVAL) => {}
            Err(errno) => {
                refused = errno;
                break;
            }
        }
    }
    Err(refusal("io_uring", refused))
}

/// Creates a ring with one of the sets of flags.
pub(super) fn create_with(set: usize, entries: u32) -> Result<IoUring, i32> {
    let mut builder = IoUring::builder();
    // An operation has at most two completions, and one more is the doorbell's: four times the submissions never
    // overflow.
    builder.dontfork().setup_cqsize(entries * 4);
    if set == 0 {
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    }
    if set <= 1 {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    builder.build(entries).map_err(|error| sys::errno_of(&error))
}

/// Names of the sets of flags.
pub(super) fn flag_sets() -> impl Iterator<Item = (usize, &'static str)> {
    FLAG_SETS.into_iter().enumerate()
}

/// Registers as many chunks of the arena as the limit of locked memory lets us; tells how many bytes.
pub(super) fn register_arena(uring: &IoUring, arena: &Arena) -> usize {
    let iovecs = arena.iovecs();
    let mut count = iovecs.len().min(1024);
    while count > 0 {
        let chunks = iovecs.get(..count).unwrap_or_default();
        // SAFETY: the arena's memory stays mapped until after the ring is closed: the ring's owner drops it later, and
        // every buffer holds the arena.
        if unsafe { uring.submitter().register_buffers(chunks) }.is_ok() {
            break;
        }
        count /= 2;
    }
    arena.set_registered(count);
    count * CHUNK_BYTES
}

/// Registers a table of files with the lock in the first place. Without such tables at least the lock is registered.
pub(super) fn register_files(
    uring: &IoUring,
    file_places: usize,
    lock: Option<RawFd>,
) -> Result<(FileTable, usize)> {
    let submitter = uring.submitter();
    let limit = sys::limit(libc::RLIMIT_NOFILE).unwrap_or(u64::MAX);
    // The lock has the first place in any case; the kernel's own bound is far above the second.
    let places = u32::try_from(to_u64(file_places).min(limit / 2).clamp(1, 1 << 15)).unwrap_or(1);
    if submitter.register_files_sparse(places).is_ok() {
        if let Some(lock) = lock {
            let registered = submitter.register_files_update(LOCK_PLACE, &[lock]);
            registered.map_err(|error| refusal("registering the lock file", sys::errno_of(&error)))?;
        }
        return Ok((FileTable::new(places), places as usize));
    }
    if let Some(lock) = lock {
        let registered = submitter.register_files(&[lock]);
        registered.map_err(|error| refusal("registering the lock file", sys::errno_of(&error)))?;
    }
    Ok((FileTable::default(), 0))
}

/// The typed error for a refused set-up, with what the machine says about the reason.
pub(super) fn refusal(what: &str, errno: i32) -> Error {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    refusal_with(what, errno, sysctl.as_deref().map(str::trim), sys::limit(libc::RLIMIT_MEMLOCK))
}

fn refusal_with(what: &str, errno: i32, sysctl: Option<&str>, memlock: Option<u64>) -> Error {
    let text = std::io::Error::from_raw_os_error(errno);
    let (cause, remedy) = match (errno, sysctl) {
        (libc::ENOSYS, _) => (
            "the kernel has no io_uring, or a container filter hides it (ENOSYS)".to_owned(),
            "use Linux 6.1 or newer, and a seccomp profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register",
        ),
        (libc::EPERM | libc::EACCES, Some(value @ ("1" | "2"))) => (
            format!("the sysctl kernel.io_uring_disabled is {value}"),
            "set kernel.io_uring_disabled to 0, or to 1 with this user in the group kernel.io_uring_group",
        ),
        (libc::EPERM | libc::EACCES, _) => (
            "a seccomp filter or security module forbids io_uring, as containers do by default".to_owned(),
            "run with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
        (libc::ENOMEM, _) => {
            let limit = memlock.map_or_else(|| "none".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
            (format!("not enough memory, or the limit of locked memory is reached (limit: {limit})"), {
                "raise LimitMEMLOCK= of the service or `ulimit -l`, or make the arena smaller"
            })
        }
        (libc::EMFILE | libc::ENFILE, _) => {
            ("too many open files".to_owned(), "raise LimitNOFILE= of the service or `ulimit -n`")
        }
        (libc::EINVAL, _) => {
            ("the kernel does not know what was asked for".to_owned(), "use Linux 6.1 or newer")
        }
        _ => (text.to_string(), "run `op-engine detect` for the whole picture"),
    };
    Error::Unsupported { what: what.to_owned(), cause, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(errno: i32, sysctl: Option<&str>) -> String {
        let Error::Unsupported { cause, remedy, .. } = refusal_with("io_uring", errno, sysctl, Some(65536))
        else {
            panic!("every refusal is typed")
        };
        assert!(!remedy.is_empty());
        cause
    }

    #[test]
    fn the_cause_names_the_sysctl_or_the_filter() {
        assert!(cause(libc::EPERM, Some("2")).contains("io_uring_disabled is 2"));
        assert!(cause(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(cause(libc::EPERM, None).contains("seccomp"));
        assert!(cause(libc::ENOSYS, None).contains("ENOSYS"));
        assert!(cause(libc::ENOMEM, None).contains("64 KiB"));
        assert!(cause(libc::EMFILE, None).contains("open files"));
    }

    #[test]
    fn every_set_of_flags_of_this_kernel_makes_a_ring() {
        let made: Vec<bool> = flag_sets().map(|(set, _)| create_with(set, 8).is_ok()).collect();
        assert_eq!(made.last(), Some(&true), "the plain ring works wherever the tests can run");
        assert!(create(64).is_ok());
    }
}
