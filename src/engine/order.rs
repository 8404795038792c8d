//! What the committer is asked to do.

use op_engine_io::ReplySender;
use op_engine_shards::tier::TierPolicy;
use op_engine_shards::{BlockHash, CollectionId, Height, Seq};

use crate::batch::Below;
use crate::collection::IndexEntry;
use crate::engine::basis::Basis;
use crate::error::Result;

/// The new entries of a record in one index.
#[derive(Debug, Clone)]
pub(crate) struct NewEntries {
    /// The position of the index among the collection's.
    pub(crate) index: usize,
    pub(crate) entries: Vec<IndexEntry>,
}

/// One change of an indexed collection: what its old record had in the indexes is not known yet.
#[derive(Debug, Clone)]
pub(crate) struct IndexedChange {
    /// The type of the collection, to find its indexes by.
    pub(crate) type_id: std::any::TypeId,
    pub(crate) name: &'static str,
    pub(crate) collection: CollectionId,
    pub(crate) shard: usize,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) entries: Vec<NewEntries>,
    /// The old record, if a draft has read it. True only of the state that the draft was made on.
    pub(crate) below: Below,
}

/// A batch with everything that could be done on the thread of its maker.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// Operations on collections without indexes, encoded for each shard.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Changes of collections with indexes.
    pub(crate) indexed: Vec<IndexedChange>,
    /// The collections that are changed, ascending.
    pub(crate) collections: Vec<CollectionId>,
}

/// A block that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The number of the commit.
    pub seq: Seq,
    /// Whether it survives a crash already.
    pub durable: bool,
}

/// A reorg that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorged {
    /// The number of the commit.
    pub seq: Seq,
    /// The height of the tip before.
    pub from: Height,
    /// The height of the tip after.
    pub to: Height,
}

/// What the committer is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    Block {
        height: Height,
        hash: BlockHash,
        parent: BlockHash,
        changes: Resolved,
        /// What the block was made on, if it comes of a draft.
        basis: Option<Basis>,
        reply: ReplySender<Result<Committed>>,
    },
    Global {
        changes: Resolved,
        reply: ReplySender<Result<Committed>>,
    },
    Reorg {
        target: Height,
        reply: ReplySender<Result<Reorged>>,
    },
    /// Change when data of a collection moves to the cold target.
    Tier {
        collection: CollectionId,
        policy: TierPolicy,
        reply: ReplySender<Result<()>>,
    },
    /// Put the store's mark on its cold target, unless it is there.
    MarkColdTarget(ReplySender<Result<()>>),
    /// Say when every order before this one has been applied or refused.
    Settle(ReplySender<Result<()>>),
    /// Make everything applied so far durable.
    Sync(ReplySender<Result<()>>),
    /// Finish, flush and end.
    Close(ReplySender<Result<()>>),
}
