//! What can go wrong in a shard.

use std::sync::Arc;

use op_engine_io::FileName;

use crate::bytes::Malformed;
use crate::ids::{CollectionId, Seq, ShardId};

/// The result of a shard's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a shard. Cheap to clone, so that one failure can be told to every waiting caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine refused.
    #[error(transparent)]
    Io(#[from] op_engine_io::Error),
    /// Bytes on disk are not what was written there. What depends on them cannot be answered.
    #[error(
        "{file} is damaged at offset {offset}: {what}. Restore the store from a copy, or index again; `op-engine verify` \
         lists all damage"
    )]
    Corruption {
        /// The file, relative to the store.
        file: String,
        /// Where the damaged unit begins, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A commit that was acknowledged is not on this shard any more.
    #[error(
        "shard {shard} has lost acknowledged commits: it ends at commit {found} ({file}, offset {offset}), but commit \
         {acknowledged} was acknowledged. Nothing was changed. Restore the store from a copy, or index again"
    )]
    AcknowledgedDataMissing {
        /// The shard that lacks them.
        shard: ShardId,
        /// The file in which its last commit ends, relative to the store.
        file: String,
        /// Where in that file the next commit should be, in bytes.
        offset: u64,
        /// The last commit that is there.
        found: Seq,
        /// The highest commit known to have been acknowledged.
        acknowledged: Seq,
    },
    /// The store was written by another version of the format.
    #[error(
        "{file} has format version {found}, this build reads version {supported}. Use the build that wrote it"
    )]
    UnsupportedVersion {
        /// The file, relative to the store.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// A file belongs to another store, shard or purpose.
    #[error("{file} does not belong here: {what}. Nothing was changed; move the file elsewhere")]
    Foreign {
        /// The file, relative to the store.
        file: String,
        /// How that is known.
        what: String,
    },
    /// A file that the store refers to is not there.
    #[error("{file} is missing: {what}. Nothing was changed; restore the file from a copy")]
    Missing {
        /// The file, relative to the store.
        file: String,
        /// What it held.
        what: String,
    },
    /// No collection has this number.
    #[error("collection {collection} does not exist")]
    UnknownCollection {
        /// The number asked for.
        collection: CollectionId,
    },
    /// A view that was not pinned has been overtaken: versions it needs may be gone.
    #[error("the view at commit {view} has expired; take a new one")]
    ViewExpired {
        /// The view.
        view: Seq,
    },
    /// The filter of a scan, or what it adds up, panicked. Only the scan has ended.
    #[error("the filter of a scan panicked: {message}. Nothing but the scan has ended")]
    RowTestPanicked {
        /// The panic's message.
        message: String,
    },
    /// Old data lies on a cold target, and the store was opened without one.
    #[error(
        "{file} lies on a cold target, and the store was opened without one: open it with the one that it was moved to"
    )]
    NoColdTarget {
        /// The object, relative to the target.
        file: String,
    },
    /// The cold target is not the one that the store's data was moved to.
    #[error(
        "the cold target {target} is not that of this store: {what}. Nothing was written there; mount the target that belongs \
         to the store, or point the store to it"
    )]
    ColdTargetUnknown {
        /// The target.
        target: String,
        /// How that is known.
        what: &'static str,
    },
    /// A commit cannot be applied, which is a bug of the layer above.
    #[error("a bug: a commit cannot be applied: {what}. Please report it")]
    Refused {
        /// Why not.
        what: String,
    },
    /// Something is larger than it may be.
    #[error("{what} is {value}, the limit is {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// How large it may be.
        max: u64,
    },
    /// An earlier failure has stopped all commits. Reads go on; open the store again once the cause is removed.
    #[error(
        "commits have stopped after a failure, reads go on. Remove the cause and open the store again. The cause: {cause}"
    )]
    Poisoned {
        /// The failure.
        cause: Arc<Self>,
    },
    /// A task of the engine panicked, which is a bug.
    #[error(
        "a bug: task {task} of {host} panicked: {message}. Please report it; the store on disk is intact"
    )]
    Panicked {
        /// The host of the task.
        host: String,
        /// The task.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// The engine has been closed.
    #[error("the engine is closed")]
    Closed,
}

impl Error {
    /// Damage found in a file.
    #[must_use]
    pub fn corruption(file: FileName, offset: u64, what: impl Into<String>) -> Self {
        Self::Corruption { file: file.to_string(), offset, what: what.into() }
    }

    /// Damage found while decoding.
    #[must_use]
    pub fn malformed(file: FileName, offset: u64, why: Malformed) -> Self {
        Self::corruption(file, offset, why.0)
    }

    /// Whether the filesystem or a quota was full, and nothing worse has come of it.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io(op_engine_io::Error::OutOfSpace { .. }))
    }

    /// Whether bytes are not what was written.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corruption { .. })
    }

    /// Whether the cold target has failed, which stops what needs it and nothing else.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        matches!(self, Self::NoColdTarget { .. }) || matches!(self, Self::Io(error) if error.is_cold())
    }

    /// The error that every commit after this failure gets.
    #[must_use]
    pub fn poison(self) -> Self {
        match self {
            Self::Poisoned { .. } | Self::Closed => self,
            cause => Self::Poisoned { cause: Arc::new(cause) },
        }
    }
}

impl From<op_engine_io::Disconnected> for Error {
    fn from(_: op_engine_io::Disconnected) -> Self {
        Self::Closed
    }
}
