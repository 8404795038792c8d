//! A file of a target's directory before it has its name, by calls that block.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::failure::Failure;
use super::fault::ColdFault;
use super::place::{PART_SUFFIX, Place, part_key};
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::env::FileName;
use crate::num::to_u64;
use crate::real::sys;

/// How much is written by one call.
const WRITE_BYTES: usize = 1 << 20;

/// A file that becomes an object by being renamed.
///
/// Its own name is one that no other upload has, of the same object or not: one that hangs, is given up by its asker and
/// goes on much later must not rename what another is still writing.
#[derive(Debug)]
pub(super) struct Part {
    place: Arc<Place>,
    dir: OwnedFd,
    file: File,
    name: FileName,
    leaf: String,
    offset: u64,
    direct: bool,
}

impl Part {
    /// Creates the file, and its directory if need be.
    pub(super) fn create(place: &Arc<Place>, name: FileName) -> Result<Self, Failure> {
        let dir = place.make_dir(name.dir)?;
        let random = sys::random_u64().map_err(Failure::of_errno)?;
        let leaf = format!("{}.{random:016x}{PART_SUFFIX}", name.leaf());
        place.add_part(part_key(name.dir, &leaf));
        match place.open_file(dir.as_fd(), &leaf, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) {
            Ok(file) => {
                let direct = place.is_direct();
                Ok(Self { place: Arc::clone(place), dir, file, name, leaf, offset: 0, direct })
            }
            Err(failure) => {
                place.forget_part(&part_key(name.dir, &leaf));
                Err(failure)
            }
        }
    }

    /// Adds whole units at the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        debug_assert!(bytes.len().is_multiple_of(IO_UNIT_BYTES));
        if !self.direct {
            return self.put(bytes);
        }
        let mut buf = IoBuf::zeroed(WRITE_BYTES.min(bytes.len()));
        for chunk in bytes.chunks(WRITE_BYTES) {
            let aligned = buf.as_mut_slice().get_mut(..chunk.len());
            let Some(aligned) = aligned else { return Err(Failure::of_errno(libc::EINVAL)) };
            aligned.copy_from_slice(chunk);
            match self.put(aligned) {
                // Some filesystems refuse direct I/O only when it is tried.
                Err(failure) if failure == Failure::of_errno(libc::EINVAL) && self.direct => {
                    self.place.set_buffered();
                    self.write_buffered(chunk)?;
                }
                put => put?,
            }
        }
        Ok(())
    }

    fn write_buffered(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.direct {
            sys::clear_direct(self.file.as_fd()).map_err(Failure::of_errno)?;
            self.direct = false;
        }
        self.put(bytes)
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.file.write_at(bytes, self.offset) {
                Ok(0) => return Err(Failure::new(ColdFault::Other, "the file takes no more bytes")),
                Ok(written) => {
                    self.offset += to_u64(written);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::from(error)),
            }
        }
        Ok(())
    }

    /// Adds the last bytes, makes all of them durable, and then the name. Nothing gets a name if nobody waits for it any
    /// more.
    pub(super) fn finish(mut self, tail: &[u8], has_gone: &dyn Fn() -> bool) -> Result<(), Failure> {
        let whole = tail.len() - tail.len() % IO_UNIT_BYTES;
        let (units, rest) = tail.split_at(whole);
        let renamed = self.write(units).and_then(|()| {
            if !rest.is_empty() {
                self.write_buffered(rest)?;
            }
            self.file.sync_data()?;
            let len = self.file.metadata()?.len();
            if len != self.offset {
                let what = format!("the file has {len} bytes after {} were written", self.offset);
                return Err(Failure::new(ColdFault::Other, what));
            }
            if !self.direct {
                sys::forget_pages(self.file.as_fd());
            }
            if has_gone() {
                return Err(Failure::new(ColdFault::TimedOut, "nobody waits for it any more"));
            }
            sys::rename_at(self.dir.as_fd(), &self.leaf, &self.name.leaf()).map_err(Failure::of_errno)
        });
        match renamed {
            Ok(()) => {
                self.place.forget_part(&part_key(self.name.dir, &self.leaf));
                sys::sync_all(self.dir.as_fd()).map_err(Failure::of_errno)
            }
            Err(failure) => {
                self.abort();
                Err(failure)
            }
        }
    }

    /// Removes the file. What cannot be removed is when the directory is listed.
    pub(super) fn abort(self) {
        if let Err(errno) = sys::unlink_at(self.dir.as_fd(), &self.leaf) {
            tracing::debug!(
                errno,
                part = self.leaf,
                "could not remove an upload that is not wanted any more"
            );
        }
        self.place.forget_part(&part_key(self.name.dir, &self.leaf));
    }

    /// How many of these bytes make whole units.
    pub(super) fn whole_units(bytes: usize) -> usize {
        bytes - bytes % IO_UNIT_BYTES
    }
}
