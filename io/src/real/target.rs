//! What an operation works on: an open file or directory.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::squeue::Flags;
use io_uring::types;

use super::file_thread::FileCalls;
use super::ring::Ring;
use super::sys;
use crate::env::{Dir, FileName};
use crate::error::{Error, FileOp, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    File(FileName),
    Dir(Dir),
}

/// An open file or directory. Operations share it, so it is closed after the last of them has completed.
pub(super) struct Target {
    /// Absent only while it is dropped.
    fd: Option<OwnedFd>,
    label: Label,
    /// The place in the ring's table of files, if it has one.
    registered: Option<(Rc<Ring>, u32)>,
    /// Who closes it, if this thread should not.
    closer: Option<FileCalls>,
}

impl Target {
    /// A file that no ring knows.
    #[cfg(test)]
    pub(super) fn file(fd: OwnedFd, name: FileName) -> Self {
        Self { fd: Some(fd), label: Label::File(name), registered: None, closer: None }
    }

    /// A file that gets a place in the ring's table, if one is free.
    pub(super) fn registered_file(ring: &Rc<Ring>, closer: FileCalls, fd: OwnedFd, name: FileName) -> Self {
        let place = ring.register_file(fd.as_raw_fd());
        let registered = place.map(|place| (Rc::clone(ring), place));
        Self { fd: Some(fd), label: Label::File(name), registered, closer: Some(closer) }
    }

    /// A directory.
    pub(super) fn dir(fd: OwnedFd, dir: Dir) -> Self {
        Self { fd: Some(fd), label: Label::Dir(dir), registered: None, closer: None }
    }

    /// The descriptor as the ring takes it: a number and the flag that says what the number means.
    pub(super) fn ring_fd(&self) -> (types::Fd, Flags) {
        match &self.registered {
            Some((_, place)) => (types::Fd(i32::try_from(*place).unwrap_or(-1)), Flags::FIXED_FILE),
            None => (types::Fd(self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)), Flags::empty()),
        }
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> Result<u64> {
        let len = self.fd.as_ref().map_or(Err(libc::EBADF), |fd| sys::file_len(fd.as_fd()));
        len.map_err(|errno| self.error(FileOp::Length, 0, 0, errno))
    }

    /// The typed error for a failed operation.
    pub(super) fn error(&self, op: FileOp, offset: u64, bytes: u64, errno: i32) -> Error {
        match self.label {
            Label::File(name) => Error::from_errno(op, name, offset, bytes, errno),
            Label::Dir(dir) => {
                let op = if op == FileOp::Sync { FileOp::SyncDir } else { op };
                Error::Os { op, file: dir.to_string(), offset, errno }
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label {
            Label::File(name) => name.fmt(f),
            Label::Dir(dir) => dir.fmt(f),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Before the descriptor is closed: the ring's table holds the open file too.
        if let Some((ring, place)) = self.registered.take() {
            ring.release_file(place);
        }
        if let (Some(closer), Some(fd)) = (&self.closer, self.fd.take()) {
            closer.close(fd);
        }
    }
}
