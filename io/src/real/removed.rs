//! A removed file, whose space goes back to the filesystem piece by piece.
//!
//! A filesystem that is mounted with `discard` tells the device about every piece of freed space at once, and while a
//! device takes note of a large one it may do nothing else: 42 ms for 256 MiB, in which every durable write waits. So
//! the file is held open beyond its name, and made shorter by little until nothing is left. Not before it is durable that the
//! name is gone: a filesystem without a journal could bring it back after a crash, and with it a file that was cut off.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::sys;

/// What is freed at once. Smaller pieces cost more calls, larger ones keep the device longer.
pub(super) const PIECE_BYTES: u64 = 4 << 20;
/// After each piece the thread pauses for so many times what the piece took, and at least for [`PAUSE_MIN`]: the filesystem
/// may pass pieces on later than it frees them.
const PAUSE_FACTOR: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// When to look again whether somebody still has the file open.
const RETRY: Duration = Duration::from_millis(50);

/// A file without a name, held open to be freed by little.
#[derive(Debug)]
pub(super) struct Removed {
    fd: OwnedFd,
    /// Where its name was.
    dir: OwnedFd,
    bytes: u64,
    /// Whether nobody else has it open. As it has no name, nobody will.
    is_ours: bool,
    due: Instant,
}

/// What one turn has led to.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is more to do, when it is due.
    Later(Removed),
    /// The rest of its space goes when its last descriptor does.
    Done,
}

impl Removed {
    /// A file whose name is gone from `dir`, opened for writing.
    pub(super) fn new(fd: OwnedFd, dir: OwnedFd, bytes: u64) -> Self {
        Self { fd, dir, bytes, is_ours: false, due: Instant::now() }
    }

    /// When the next turn is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Frees the last piece, unless somebody still has the file open.
    pub(super) fn turn(mut self) -> Turn {
        if !self.is_ours {
            match self.claim() {
                Ok(true) => self.is_ours = true,
                Ok(false) => return self.later(RETRY),
                // It cannot be known here, so the file is left whole for those who may read it.
                Err(errno) => {
                    tracing::debug!(errno, "a removed file is freed at once");
                    return Turn::Done;
                }
            }
        }
        if self.bytes <= PIECE_BYTES {
            return Turn::Done;
        }
        let began = Instant::now();
        self.bytes -= PIECE_BYTES;
        match sys::truncate(self.fd.as_fd(), self.bytes) {
            Ok(()) => self.later((began.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)),
            Err(errno) => {
                tracing::debug!(errno, "the rest of a removed file is freed at once");
                Turn::Done
            }
        }
    }

    /// Whether the file may be cut off: nobody else has it open, and its name cannot come back.
    fn claim(&self) -> Result<bool, i32> {
        if !sys::is_only_descriptor(self.fd.as_fd())? {
            return Ok(false);
        }
        sys::sync_all(self.dir.as_fd())?;
        Ok(true)
    }

    fn later(mut self, pause: Duration) -> Turn {
        self.due = Instant::now() + pause;
        Turn::Later(self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::num::{to_u64, to_usize};

    fn removed(bytes: usize) -> (File, Removed) {
        let dir = tempfile::tempdir().unwrap();
        let temp = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        temp.as_file().write_all(&vec![7; bytes]).unwrap();
        let writer = File::options().write(true).open(temp.path()).unwrap();
        let reader = File::open(temp.path()).unwrap();
        temp.close().unwrap();
        let dir = File::open(dir.path()).unwrap();
        (reader, Removed::new(writer.into(), dir.into(), to_u64(bytes)))
    }

    #[test]
    fn a_file_is_freed_by_pieces_and_the_last_one_by_its_closing() {
        let pieces = 3;
        let bytes = to_usize(PIECE_BYTES) * pieces + 1;
        let (reader, mut file) = removed(bytes);
        drop(reader);
        for done in 1..=pieces {
            let Turn::Later(rest) = file.turn() else { panic!("finished after {done} pieces") };
            assert!(rest.due() > Instant::now(), "it pauses");
            file = rest;
            let left = to_u64(bytes) - PIECE_BYTES * to_u64(done);
            assert_eq!(sys::file_len(file.fd.as_fd()), Ok(left));
        }
        assert!(matches!(file.turn(), Turn::Done));
    }

    #[test]
    fn a_file_that_somebody_reads_keeps_everything() {
        let bytes = to_usize(PIECE_BYTES) + 1;
        let (reader, file) = removed(bytes);
        let Turn::Later(file) = file.turn() else { panic!("finished under a reader") };
        assert_eq!(reader.metadata().unwrap().len(), to_u64(bytes));
        drop(reader);
        let Turn::Later(file) = file.turn() else { panic!("finished before its end") };
        assert_eq!(sys::file_len(file.fd.as_fd()), Ok(1));
    }

    #[test]
    fn a_file_whose_name_may_come_back_is_not_cut_off() {
        let bytes = to_usize(PIECE_BYTES) + 1;
        let (reader, file) = removed(bytes);
        drop(reader);
        // A pipe cannot be synced.
        let file = Removed { dir: std::io::pipe().unwrap().1.into(), ..file };
        let fd = file.fd.try_clone().unwrap();
        assert!(matches!(file.turn(), Turn::Done));
        assert_eq!(sys::file_len(fd.as_fd()), Ok(to_u64(bytes)));
    }
}
