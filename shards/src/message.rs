//! What shards, the barrier and readers say to each other. Every message owns what it carries.

use std::sync::Arc;

use op_engine_io::ReplySender;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::ids::{BlockHash, CollectionId, Height, Seq, ShardId, Term};
use crate::stats::ShardStats;

pub use crate::lists::{KeyList, RowList, ValueList};
pub use crate::manifest::Horizon;
pub use crate::range::{Direction, KeyRange};
pub use crate::select::{RowTest, Select, Totals, Verdict, Wants};

/// What a commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitKind {
    /// Extends the chain by a block.
    Block,
    /// Changes collections outside the chain.
    Global,
    /// Takes the chain back.
    Reorg,
    /// Defines collections.
    Schema,
}

/// One shard's part of a commit.
#[derive(Debug, Clone)]
pub struct CommitPart {
    /// What the commit does.
    pub kind: CommitKind,
    /// Its number.
    pub seq: Seq,
    /// The number of the commit before it.
    pub prev: Seq,
    /// The height of the block, or the height that a reorg goes back to.
    pub height: Height,
    /// The hash of the block at that height.
    pub hash: BlockHash,
    /// The hash of the block below.
    pub parent: BlockHash,
    /// Operations, as [`crate::ops`] encodes them; for a reorg the rollback; for a schema the catalog.
    pub payload: Arc<[u8]>,
    /// Whether the commit's acknowledgement waits for its durability.
    pub durable: bool,
    /// What is known when it is sent.
    pub progress: Progress,
}

/// What the barrier knows, told to shards with every commit and when nothing else is to be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Commits up to here are durable on every shard.
    pub cut: Seq,
    /// The lowest height that a reorg can still reach, by the durable tip.
    pub horizon: Horizon,
}

/// What a shard may still take from the disk, as of its newest commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceNeed {
    /// For a flush of all its memtables, for its manifest, and for what is missing of its reserve, in bytes.
    pub bytes: u64,
    /// The largest WAL frame that needs no new file, in bytes.
    pub wal_room_bytes: u64,
    /// The length of a new WAL file, in bytes.
    pub wal_file_bytes: u64,
    /// What must be free for a reorg, because the reserve does not answer for it, in bytes.
    pub reorg_bytes: u64,
    /// The disk did not give what was asked for when it was last asked, whatever it says of itself.
    pub refused: bool,
    /// No memtable is left for more commits.
    pub memtables_full: bool,
    /// Rises with every flush and every change of the reserve that was tried.
    pub attempts: u64,
}

/// The views that must stay readable.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Rises with every change, so that an older set never replaces a newer one.
    pub version: u64,
    /// The views, ascending.
    pub views: Arc<[Seq]>,
}

/// Point look-ups, answered in the order of the keys.
#[derive(Debug)]
pub struct GetRequest {
    /// What the reader sees.
    pub view: Seq,
    /// What to look up.
    pub keys: KeyList,
    /// Gets a value, or none, for each key.
    pub reply: ReplySender<Result<ValueList>>,
}

/// An ordered scan of one collection on this shard.
#[derive(Debug)]
pub struct ScanRequest {
    /// What the reader sees.
    pub view: Seq,
    /// The collection or index.
    pub collection: CollectionId,
    /// The keys.
    pub range: KeyRange,
    /// Which end to begin at.
    pub direction: Direction,
    /// Rows at most in one answer.
    pub rows_max: usize,
    /// Bytes of keys and values in one answer, roughly; at least one row is given.
    pub bytes_max: usize,
    /// It goes on after an earlier answer. A scan as long as that reads pages that are not worth keeping.
    pub goes_on: bool,
    /// What is wanted of the rows.
    pub select: Select,
    /// Gets the rows.
    pub reply: ReplySender<Result<ScanPage>>,
}

/// Some rows of a scan, or what they add up to.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// Keys and values in the order of the scan.
    pub rows: RowList,
    /// How many rows were counted instead, and their sum.
    pub totals: Totals,
    /// How many entries were gone through.
    pub entries: u64,
    /// The last key that was gone through, if rows may follow: ask again from after it.
    pub more_after: Option<Vec<u8>>,
}

/// What is to move between the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierOrder {
    /// To the cold target: everything whose time has come by the policies, however little it is.
    Run {
        /// And what was brought back.
        warmed: bool,
    },
    /// Back from the cold target: every segment that has entries of blocks of these heights.
    WarmUp {
        /// The lowest height.
        from: Height,
        /// The highest height.
        to: Height,
    },
}

/// What has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierReport {
    /// Segments that were written.
    pub segments: u64,
    /// Bytes of the files and objects that what moved was in before.
    pub bytes_before: u64,
    /// Bytes of the files and objects that it is in now.
    pub bytes_after: u64,
}

impl TierReport {
    /// Adds what has moved elsewhere.
    pub fn add(&mut self, other: Self) {
        self.segments += other.segments;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

/// What a shard is asked.
#[derive(Debug)]
pub enum Request {
    /// Take part in a commit.
    Commit(CommitPart),
    /// Make every commit so far durable, and say so.
    Sync,
    /// Record progress, since no commit follows soon.
    Mark(Progress),
    /// Keep these views readable. Answered with whether `added` can be.
    Pin {
        /// All pinned views.
        pins: Pins,
        /// The view that is new in the set, if the change adds one.
        added: Option<Seq>,
        /// Gets the answer.
        reply: ReplySender<Result<()>>,
    },
    /// Look up keys.
    Get(GetRequest),
    /// Scan a range.
    Scan(ScanRequest),
    /// A commit was refused for lack of space: flush, give back what can be given back, and try again what failed.
    MakeRoom,
    /// Commits have stopped on every shard because of a failure somewhere.
    Stop(Error),
    /// Flush everything that is durable, and answer when it is done.
    Flush(ReplySender<Result<()>>),
    /// Flush everything that is durable, merge all that is final as far as it goes, and answer when it is done.
    Compact(ReplySender<Result<()>>),
    /// Move data between the tiers, and answer when it is done.
    Tier(TierOrder, ReplySender<Result<TierReport>>),
    /// Describe the shard.
    Stats(ReplySender<ShardStats>),
    /// Flush, and end.
    Close(ReplySender<Result<()>>),
}

/// What a shard tells the barrier.
#[derive(Debug)]
pub enum Event {
    /// Readers of this shard see commits up to here, after which it may need so much space.
    Applied(ShardId, Seq, SpaceNeed),
    /// What the shard may need has changed without a commit.
    Space(ShardId, SpaceNeed),
    /// Commits up to here survive a crash on this shard.
    Durable(ShardId, Seq),
    /// The shard wants to flush a memtable that ends here.
    CutWanted(ShardId, Seq),
    /// The shard cannot make anything durable any more.
    Failed(ShardId, Error),
}

/// What a shard found when it recovered.
#[derive(Debug, Clone)]
pub struct RecoveryReport {
    /// The shard.
    pub shard: ShardId,
    /// Its last commit without a gap before it.
    pub last: Seq,
    /// Where that commit ends: file and offset.
    pub last_at: (String, u64),
    /// The highest commit that any of its frames knows to be acknowledged.
    pub acknowledged: Seq,
    /// The highest number that it has seen, even beyond a gap.
    pub seq_seen_max: Seq,
    /// The highest term that it has seen.
    pub term_max: Term,
    /// The lowest height that a reorg could still reach.
    pub horizon: Horizon,
    /// Bytes after the last commit that look like an unfinished write.
    pub torn_tail_bytes: u64,
}

/// The term that begins after a recovery.
#[derive(Debug, Clone, Copy)]
pub struct StartTerm {
    /// The new term.
    pub term: Term,
    /// Commits above this number are discarded.
    pub cut: Seq,
    /// Numbers up to here are used up.
    pub seq_floor: Seq,
}

/// How a shard goes on after its recovery.
#[derive(Debug, Clone, Copy)]
pub enum GoOn {
    /// Start a term, in which commits are taken.
    Write(StartTerm),
    /// Serve reads of what is there up to this commit, and change nothing on disk.
    ReadOnly(Seq),
}

/// What a shard serves from, once its term has started.
#[derive(Debug, Clone)]
pub struct Started {
    /// The collections as of the cut.
    pub catalog: Catalog,
    /// The collections that it holds anything of.
    pub in_use: Vec<CollectionId>,
    /// What it may take from the disk.
    pub need: SpaceNeed,
}
