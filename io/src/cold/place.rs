//! The directory of a target, by calls that block.
//!
//! Every path is resolved below an open directory handle. The handle is opened at first use and again after a failure, or
//! when the path has come to lead elsewhere: a mount that was missing and comes back covers the directory that was
//! there without it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::Failure;
use super::fault::ColdFault;
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::env::{Dir, FileName};
use crate::num::{to_u64, to_usize};
use crate::real::sys;

/// How the name of every upload ends that is not finished.
pub(super) const PART_SUFFIX: &str = ".part";

/// The directory of a target.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    handle: Mutex<Option<Arc<OwnedFd>>>,
    /// Whether the filesystem has not refused direct I/O so far.
    direct: AtomicBool,
    /// The uploads of this life.
    parts: Mutex<BTreeSet<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    /// Does not touch the directory.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, handle: Mutex::default(), direct: AtomicBool::new(true), parts: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    pub(super) fn set_buffered(&self) {
        self.direct.store(false, Ordering::Relaxed);
    }

    pub(super) fn add_part(&self, part: String) {
        lock(&self.parts).insert(part);
    }

    pub(super) fn forget_part(&self, part: &str) {
        lock(&self.parts).remove(part);
    }

    /// The directory, as the path leads to it now.
    fn open(&self) -> Result<Arc<OwnedFd>, Failure> {
        // Opening can hang: others must not wait for the lock meanwhile.
        if let Some(handle) = &*lock(&self.handle) {
            return Ok(Arc::clone(handle));
        }
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&self.path);
        let dir = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::new(
                ColdFault::Unreachable,
                "the directory does not exist: mount what holds it, or create it by hand. It is not created here, \
                 because it may be missing for want of a mount",
            ),
            _ => Failure::from(error),
        })?;
        let dir = Arc::new(OwnedFd::from(dir));
        *lock(&self.handle) = Some(Arc::clone(&dir));
        Ok(dir)
    }

    /// Whether the path leads elsewhere than the open handle.
    fn has_moved(&self) -> bool {
        let Some(handle) = lock(&self.handle).clone() else { return false };
        let open = sys::status(handle.as_fd()).map(|status| (status.st_dev, status.st_ino));
        let found = std::fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        open.ok() != found.ok()
    }

    fn forget(&self) {
        *lock(&self.handle) = None;
    }

    /// Runs a call below the directory; again if it failed because the directory is another one by now.
    fn read_within<T>(&self, call: impl Fn(BorrowedFd<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let tried = self.open().and_then(|dir| call(dir.as_fd()));
        match &tried {
            Err(Failure { fault: ColdFault::Unreachable | ColdFault::Missing, .. }) if self.has_moved() => {
                self.forget();
                self.open().and_then(|dir| call(dir.as_fd()))
            }
            Err(Failure { fault: ColdFault::Unreachable, .. }) => {
                self.forget();
                tried
            }
            _ => tried,
        }
    }

    /// Runs a call that changes something below the directory that the path leads to.
    fn change_within<T>(
        &self,
        call: impl FnOnce(BorrowedFd<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.has_moved() {
            self.forget();
        }
        let tried = self.open().and_then(|dir| call(dir.as_fd()));
        if matches!(tried, Err(Failure { fault: ColdFault::Unreachable | ColdFault::Missing, .. })) {
            self.forget();
        }
        tried
    }

    /// A directory of the store, to put names into. Created if it is missing.
    pub(super) fn make_dir(&self, dir: Dir) -> Result<OwnedFd, Failure> {
        self.change_within(|root| match open_dir(root, dir) {
            Err(libc::ENOENT) => {
                match sys::make_dir_at(root, &dir.to_string()) {
                    Ok(()) | Err(libc::EEXIST) => {}
                    Err(errno) => return Err(Failure::of_errno(errno)),
                }
                sys::sync_all(root).map_err(Failure::of_errno)?;
                open_dir(root, dir).map_err(Failure::of_errno)
            }
            opened => opened.map_err(Failure::of_errno),
        })
    }

    /// Removes a name if it is there, durably.
    pub(super) fn remove(&self, name: FileName) -> Result<(), Failure> {
        self.change_within(|root| {
            let dir = match open_dir(root, name.dir) {
                Err(libc::ENOENT) => return Ok(()),
                opened => opened.map_err(Failure::of_errno)?,
            };
            match sys::unlink_at(dir.as_fd(), &name.leaf()) {
                Ok(()) | Err(libc::ENOENT) => {}
                Err(errno) => return Err(Failure::of_errno(errno)),
            }
            sys::sync_all(dir.as_fd()).map_err(Failure::of_errno)
        })
    }

    /// The objects of a directory in order. Uploads of earlier lives are removed.
    pub(super) fn list(&self, dir: Dir) -> Result<Vec<FileName>, Failure> {
        self.change_within(|root| {
            let fd = match open_dir(root, dir) {
                Err(libc::ENOENT) => return Ok(Vec::new()),
                opened => opened.map_err(Failure::of_errno)?,
            };
            let names = sys::names(fd.try_clone()?).map_err(Failure::of_errno)?;
            let mut objects = Vec::new();
            for (leaf, _) in names {
                if let Some(name) = FileName::parse(dir, &leaf) {
                    objects.push(name);
                } else if is_part(dir, &leaf) && !lock(&self.parts).contains(&part_key(dir, &leaf)) {
                    match sys::unlink_at(fd.as_fd(), &leaf) {
                        Ok(()) | Err(libc::ENOENT) => {}
                        Err(errno) => return Err(Failure::of_errno(errno)),
                    }
                }
            }
            objects.sort_unstable();
            Ok(objects)
        })
    }

    pub(super) fn length(&self, name: FileName) -> Result<u64, Failure> {
        self.read_within(|root| Ok(self.open_object(root, name)?.metadata()?.len()))
    }

    /// Exactly these bytes of an object.
    pub(super) fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
        self.read_within(|root| {
            let file = self.open_object(root, name)?;
            let len = file.metadata()?.len();
            // Also what keeps a wrong length from becoming an allocation.
            if offset.saturating_add(bytes) > len {
                return Err(Failure::short(len, offset, bytes));
            }
            if self.is_direct() {
                match read_direct(&file, offset, bytes) {
                    // Some filesystems refuse direct I/O only when it is tried.
                    Err(failure) if failure == Failure::of_errno(libc::EINVAL) => {
                        self.set_buffered();
                        sys::clear_direct(file.as_fd()).map_err(Failure::of_errno)?;
                    }
                    tried => return tried,
                }
            }
            let mut found = vec![0; to_usize(bytes)];
            let filled = fill(&file, &mut found, offset)?;
            sys::forget_pages(file.as_fd());
            if filled < found.len() { Err(Failure::short(len, offset, bytes)) } else { Ok(found) }
        })
    }

    fn open_object(&self, root: BorrowedFd<'_>, name: FileName) -> Result<File, Failure> {
        let dir = open_dir(root, name.dir).map_err(Failure::of_errno)?;
        self.open_file(dir.as_fd(), &name.leaf(), libc::O_RDONLY)
    }

    /// Opens a file for direct I/O, if the filesystem has it.
    pub(super) fn open_file(&self, dir: BorrowedFd<'_>, leaf: &str, flags: i32) -> Result<File, Failure> {
        if self.is_direct() {
            match sys::open_at(dir, leaf, flags | libc::O_DIRECT, 0o600) {
                Err(libc::EINVAL) => self.set_buffered(),
                opened => return opened.map(File::from).map_err(Failure::of_errno),
            }
            // A file that was to be created may have been before the flag was refused.
            if flags & libc::O_EXCL != 0 {
                let _ = sys::unlink_at(dir, leaf);
            }
        }
        sys::open_at(dir, leaf, flags, 0o600).map(File::from).map_err(Failure::of_errno)
    }
}

fn open_dir(root: BorrowedFd<'_>, dir: Dir) -> Result<OwnedFd, i32> {
    let name = match dir {
        Dir::Root => ".".to_owned(),
        Dir::Shard(_) => dir.to_string(),
    };
    sys::open_at(root, &name, libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// Whether a name is one that an upload has before it is finished.
fn is_part(dir: Dir, leaf: &str) -> bool {
    let stem = leaf.strip_suffix(PART_SUFFIX).and_then(|stem| stem.rsplit_once('.'));
    stem.is_some_and(|(object, _)| FileName::parse(dir, object).is_some())
}

/// What an upload is known by.
pub(super) fn part_key(dir: Dir, leaf: &str) -> String {
    format!("{dir}/{leaf}")
}

/// Reads until the buffer is full or the file ends, and returns how far it got.
fn fill(file: &File, into: &mut [u8], offset: u64) -> Result<usize, Failure> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(to_u64(filled))) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::from(error)),
        }
    }
    Ok(filled)
}

fn read_direct(file: &File, offset: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
    let unit = to_u64(IO_UNIT_BYTES);
    let start = offset - offset % unit;
    let skipped = to_usize(offset - start);
    let wanted = skipped..skipped + to_usize(bytes);
    let mut buf = IoBuf::zeroed(wanted.end);
    let mut filled = 0;
    while filled < wanted.end {
        // A length that is no multiple of the unit is the file's end, and reading on from there would be refused.
        if !filled.is_multiple_of(IO_UNIT_BYTES) {
            break;
        }
        let Some(rest) = buf.as_mut_slice().get_mut(filled..) else { break };
        match file.read_at(rest, start + to_u64(filled)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::from(error)),
        }
    }
    match buf.as_slice().get(wanted).filter(|found| skipped + found.len() <= filled) {
        Some(found) => Ok(found.to_vec()),
        None => Err(Failure::short(start + to_u64(filled), offset, bytes)),
    }
}
