//! What can go wrong between the engine and the machine.

use std::fmt;
use std::path::PathBuf;

use crate::cold::ColdFault;
use crate::env::FileName;

/// The result of an operation on the world.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was being done to a file or directory when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileOp {
    /// Opening or creating.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making writes durable.
    Sync,
    /// Reserving space and filling it with zeros.
    ZeroFill,
    /// Taking space ahead of use.
    Allocate,
    /// Asking for the length.
    Length,
    /// Giving back space inside a file.
    Release,
    /// Removing a name.
    Remove,
    /// Listing a directory.
    List,
    /// Making a directory's entries durable.
    SyncDir,
    /// Creating a directory.
    CreateDir,
    /// Taking the store's lock.
    Lock,
    /// Giving a finished object of the cold target its name.
    Finish,
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::ZeroFill => "zero-fill",
            Self::Allocate => "allocate space for",
            Self::Length => "measure",
            Self::Release => "give back space of",
            Self::Remove => "remove",
            Self::List => "list",
            Self::SyncDir => "sync the directory of",
            Self::CreateDir => "create the directory of",
            Self::Lock => "lock",
            Self::Finish => "finish",
        })
    }
}

/// What can go wrong between the engine and the machine. Cheap to clone, so that one failure can be told to
/// every waiting caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or the device refused an operation on a file.
    #[error("could not {op} {file} at offset {offset}: {} (os error {errno})", errno_text(*.errno))]
    Os {
        /// What was being done.
        op: FileOp,
        /// The file or directory, relative to the store.
        file: String,
        /// Where in the file, in bytes; 0 for operations on the whole file.
        offset: u64,
        /// The operating system's error number.
        errno: i32,
    },
    /// The file ends before the range that was asked for.
    #[error("{file} ends at byte {len}, but bytes up to {wanted} were asked for")]
    ShortFile {
        /// The file, relative to the store.
        file: String,
        /// The end of the range that was asked for, in bytes.
        wanted: u64,
        /// The length of the file, in bytes.
        len: u64,
    },
    /// The file does not exist.
    #[error("{file} does not exist")]
    NotFound {
        /// The file, relative to the store.
        file: String,
    },
    /// A file that was to be created is already there.
    #[error("{file} already exists")]
    AlreadyExists {
        /// The file, relative to the store.
        file: String,
    },
    /// The filesystem or quota is full.
    #[error("no space left for {file} ({needed} bytes needed): free some space and open the store again")]
    OutOfSpace {
        /// The file that could not grow, relative to the store.
        file: String,
        /// How many bytes were to be written.
        needed: u64,
    },
    /// Another process, or the kernel on behalf of one that was killed, still owns the store.
    #[error("{} is in use by another process: stop it, or wait until its last writes have landed", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The machine lacks something that the engine needs.
    #[error("{what}: {cause}. Remedy: {remedy}")]
    Unsupported {
        /// What was tried.
        what: String,
        /// Why it failed, as far as it can be known.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// A setting has a value that cannot be used.
    #[error("the setting {name} cannot be {value}: {why}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would do.
        why: String,
    },
    /// A name in the store's directory is not one that the engine gives.
    #[error("{file} is not a file of this store: move it elsewhere")]
    ForeignFile {
        /// The name, relative to the store.
        file: String,
    },
    /// The cold target did not do what it was asked. Data in the store's own directory is not affected.
    #[error("could not {op} {file} in the cold target {target}: {fault} ({what}). Remedy: {}", .fault.remedy())]
    Cold {
        /// The target, without secrets.
        target: String,
        /// What was being done.
        op: FileOp,
        /// The object or directory, relative to the target.
        file: String,
        /// In which way it failed.
        fault: ColdFault,
        /// What the target said.
        what: String,
    },
    /// The world has been shut down, or a simulated machine has lost power.
    #[error("the machine has stopped")]
    Stopped,
}

impl Error {
    /// The typed error for an error number that an operation on `file` got.
    #[must_use]
    pub fn from_errno(op: FileOp, file: FileName, offset: u64, bytes: u64, errno: i32) -> Self {
        let file = file.to_string();
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::OutOfSpace { file, needed: bytes },
            libc::ENOENT => Self::NotFound { file },
            libc::EEXIST => Self::AlreadyExists { file },
            _ => Self::Os { op, file, offset, errno },
        }
    }

    /// Whether the cold target failed, and nothing of the store's own directory did.
    #[must_use]
    pub const fn is_cold(&self) -> bool {
        matches!(self, Self::Cold { .. })
    }
}

fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
