//! The store's directory: every path of the real world is resolved below one open descriptor.
//!
//! These calls block: what waits for the journal is done by the thread for files, and the syncs, which wait for the
//! device, go through the ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::removed::{PIECE_BYTES, Removed};
use super::sys;
use crate::env::{Dir, FileName, OpenMode, Space};
use crate::error::{Error, FileOp, Result};

/// The lock file in the store's directory.
pub(super) const LOCK_NAME: &str = "LOCK";
/// The cached result of a calibration.
pub(super) const TUNING_NAME: &str = "tuning";
/// The same while it is being written.
pub(super) const TUNING_NEW_NAME: &str = "tuning.new";
/// A file that the probe makes where the filesystem has no nameless files. It lives for milliseconds.
pub(super) const PROBE_NAME: &str = "probe.tmp";

/// Names in the store's directory that are no files of the store, and yet ours. The last is the filesystem's own,
/// when the store's directory is the root of a filesystem.
const KNOWN_NAMES: [&str; 5] = [LOCK_NAME, TUNING_NAME, TUNING_NEW_NAME, PROBE_NAME, "lost+found"];

/// The store's directory, held open.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory; creates it, for its owner only, if `create` says so.
    pub(super) fn open(path: &Path, create: bool) -> Result<Self> {
        if create && !path.exists() {
            let builder = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            builder.map_err(|error| path_error(FileOp::CreateDir, path, &error))?;
            Self::sync_parent(path)?;
        }
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
        let dir = options.open(path).map_err(|error| path_error(FileOp::Open, path, &error))?;
        Ok(Self { fd: dir.into(), path: path.to_owned() })
    }

    fn sync_parent(path: &Path) -> Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|error| path_error(FileOp::SyncDir, parent, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The number of the device that holds the directory.
    pub(super) fn device(&self) -> Result<u64> {
        sys::status(self.fd())
            .map(|status| status.st_dev)
            .map_err(|errno| dir_error(FileOp::Open, Dir::Root, errno))
    }

    /// Opens one of the store's directories; `None` if it does not exist.
    pub(super) fn open_dir(&self, dir: Dir) -> Result<Option<OwnedFd>, i32> {
        let name = dir.to_string();
        match sys::open_at(self.fd(), &name, libc::O_RDONLY | libc::O_DIRECTORY, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(libc::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Runs a call below the directory that holds, or will hold, a file.
    fn within<T>(&self, dir: Dir, call: impl FnOnce(BorrowedFd<'_>) -> Result<T, i32>) -> Result<T, i32> {
        match dir {
            Dir::Root => call(self.fd()),
            Dir::Shard(_) => call(self.open_dir(dir)?.ok_or(libc::ENOENT)?.as_fd()),
        }
    }

    /// Opens a file for direct I/O.
    pub(super) fn open_file(&self, name: FileName, mode: OpenMode) -> Result<OwnedFd> {
        let flags = libc::O_DIRECT
            | match mode {
                OpenMode::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
                OpenMode::ReadWrite => libc::O_RDWR,
                OpenMode::Read => libc::O_RDONLY,
            };
        let opened = self.within(name.dir, |dir| sys::open_at(dir, &name.leaf(), flags, 0o600));
        opened.map_err(|errno| match errno {
            libc::EINVAL => self.no_direct_io(),
            _ => Error::from_errno(FileOp::Open, name, 0, 0, errno),
        })
    }

    /// The error for a filesystem that refuses direct I/O.
    pub(super) fn no_direct_io(&self) -> Error {
        Error::Unsupported {
            what: format!("direct I/O in {}", self.path.display()),
            cause: format!("{} does not offer it (O_DIRECT: EINVAL)", sys::filesystem_name(self.fd())),
            remedy: "put the store on ext4 or XFS on a local device".to_owned(),
        }
    }

    /// Removes a name. Of a large file the descriptor comes back that keeps its space until it is freed by little.
    pub(super) fn remove(&self, name: FileName) -> Result<Option<Removed>> {
        let removed = self.within(name.dir, |dir| {
            let leaf = name.leaf();
            let large = sys::open_at(dir, &leaf, libc::O_WRONLY, 0).ok().and_then(|fd| {
                let bytes = sys::file_len(fd.as_fd()).ok().filter(|bytes| *bytes > PIECE_BYTES)?;
                Some(Removed::new(fd, dir.try_clone_to_owned().ok()?, bytes))
            });
            sys::unlink_at(dir, &leaf)?;
            Ok(large)
        });
        removed.map_err(|errno| Error::from_errno(FileOp::Remove, name, 0, 0, errno))
    }

    /// Creates a directory if it is not there. Its name is durable only after a sync of the root.
    pub(super) fn make_dir(&self, dir: Dir) -> Result<()> {
        if dir == Dir::Root {
            return Ok(());
        }
        let made = match sys::make_dir_at(self.fd(), &dir.to_string()) {
            // Whatever has the name must be a directory and no link.
            Err(libc::EEXIST) => self.open_dir(dir).map(drop),
            made => made,
        };
        made.map_err(|errno| dir_error(FileOp::CreateDir, dir, errno))
    }

    /// The store's files in a directory, in order of name.
    pub(super) fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        let list_error = |errno| dir_error(FileOp::List, dir, errno);
        let Some(fd) = self.open_dir(dir).map_err(list_error)? else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for (leaf, is_dir) in sys::names(fd).map_err(list_error)? {
            if let Some(name) = FileName::parse(dir, &leaf) {
                files.push(name);
            } else if dir != Dir::Root
                || !(KNOWN_NAMES.contains(&leaf.as_str()) || is_dir && is_shard_dir(&leaf))
            {
                let file = if dir == Dir::Root { leaf } else { format!("{dir}/{leaf}") };
                return Err(Error::ForeignFile { file });
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    pub(super) fn space(&self) -> Result<Space> {
        sys::space(self.fd()).map_err(|errno| dir_error(FileOp::Length, Dir::Root, errno))
    }
}

fn is_shard_dir(leaf: &str) -> bool {
    let digits = leaf.strip_prefix("shard-");
    let shard = digits.and_then(|digits| digits.parse().ok());
    shard.is_some_and(|shard| Dir::Shard(shard).to_string() == leaf)
}

/// The typed error for an operation on one of the store's directories.
pub(super) fn dir_error(op: FileOp, dir: Dir, errno: i32) -> Error {
    match errno {
        libc::ENOSPC | libc::EDQUOT => Error::OutOfSpace { file: dir.to_string(), needed: 0 },
        libc::ENOENT => Error::NotFound { file: dir.to_string() },
        _ => Error::Os { op, file: dir.to_string(), offset: 0, errno },
    }
}

/// The typed error for an operation on a path outside of the store's own names.
pub(super) fn path_error(op: FileOp, path: &Path, error: &io::Error) -> Error {
    let file = path.display().to_string();
    match sys::errno_of(error) {
        libc::ENOENT => Error::NotFound { file },
        libc::ENOSPC | libc::EDQUOT => Error::OutOfSpace { file, needed: 0 },
        errno => Error::Os { op, file, offset: 0, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::FileKind;

    #[test]
    fn a_foreign_name_is_refused_and_our_own_extras_are_not_listed() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path(), false).unwrap();
        root.make_dir(Dir::Shard(7)).unwrap();
        root.make_dir(Dir::Shard(7)).unwrap();
        for name in KNOWN_NAMES {
            std::fs::write(temp.path().join(name), b"").unwrap();
        }
        let files = [(FileKind::Superblock, 2), (FileKind::Superblock, 1)];
        for (kind, number) in files {
            let name = FileName { dir: Dir::Root, kind, number };
            std::fs::write(temp.path().join(name.leaf()), b"").unwrap();
        }
        let numbers: Vec<u64> = root.list(Dir::Root).unwrap().iter().map(|name| name.number).collect();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(root.list(Dir::Shard(7)).unwrap(), []);
        assert_eq!(root.list(Dir::Shard(8)).unwrap(), [], "a directory that is not there holds nothing");

        std::fs::write(temp.path().join("shard-007/LOCK"), b"").unwrap();
        assert_eq!(root.list(Dir::Shard(7)), Err(Error::ForeignFile { file: "shard-007/LOCK".to_owned() }));
        std::fs::write(temp.path().join("shard-9"), b"").unwrap();
        assert_eq!(root.list(Dir::Root), Err(Error::ForeignFile { file: "shard-9".to_owned() }));
    }

    #[test]
    fn a_missing_root_is_created_only_on_request() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        assert!(matches!(Root::open(&path, false), Err(Error::NotFound { .. })));
        let root = Root::open(&path, true).unwrap();
        let mode = sys::status(root.fd()).unwrap().st_mode & 0o777;
        assert_eq!(mode, 0o700);
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("shard-001")).unwrap();
        let root = Root::open(temp.path(), false).unwrap();
        assert!(matches!(root.make_dir(Dir::Shard(1)), Err(Error::Os { op: FileOp::CreateDir, .. })));
        assert!(root.list(Dir::Shard(1)).is_err());
    }
}
