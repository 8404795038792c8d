//! How a store is opened.

use std::any::TypeId;
use std::path::{Path, PathBuf};
use std::time::Duration;

use op_engine_io::hardware::{CpuId, Overrides};
use op_engine_io::{ColdLimits, ColdTarget};
use op_engine_shards::ShardConfig;

use crate::collection::{Collection, CollectionDef, Purge, PurgeSpec, TierPolicy};

/// When a block is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it survives a crash. The default.
    Block,
    /// When readers see it. It is made durable later, together with others: a crash loses whole blocks from the end,
    /// never a hole and never part of a block. For the first sync of a chain, which can be repeated.
    Deferred {
        /// Sync after this many blocks.
        blocks: u64,
        /// Sync after this time, if no more blocks come.
        interval: Duration,
    },
}

impl Durability {
    /// Deferred with syncs every 100 blocks and every second.
    #[must_use]
    pub const fn deferred() -> Self {
        Self::Deferred { blocks: 100, interval: Duration::from_secs(1) }
    }

    pub(crate) const fn waits(self) -> bool {
        matches!(self, Self::Block)
    }
}

/// How a store is opened. What is not set is derived from the machine; `op-engine detect` shows how.
///
/// ```no_run
/// use op_engine::{Config, Engine, chain};
///
/// # fn main() -> op_engine::Result<()> {
/// let config = Config::new("/var/lib/opnet/store").collections(chain::collections).reorg_window(288);
/// let engine = Engine::open_blocking(config)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) path: PathBuf,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) collections: Vec<CollectionDef>,
    pub(crate) durability: Durability,
    pub(crate) reorg_window_blocks: u64,
    pub(crate) overrides: Overrides,
    pub(crate) calibrate: bool,
    pub(crate) lock_wait: Duration,
    pub(crate) shard_settings: Option<ShardConfig>,
    pub(crate) commits_in_flight_max: usize,
    pub(crate) space_reserve_bytes: Option<u64>,
    pub(crate) drops: Vec<String>,
    pub(crate) upkeep_rows_max: usize,
    pub(crate) purges: Vec<(TypeId, Option<PurgeSpec>)>,
    pub(crate) tiers: Vec<(TypeId, TierPolicy)>,
    pub(crate) cold: Option<ColdTarget>,
    pub(crate) cold_limits: ColdLimits,
    pub(crate) cold_bytes_per_second: Option<u64>,
    pub(crate) cold_segment_bytes: Option<u64>,
    pub(crate) archives: (bool, bool),
}

impl Config {
    /// A store in the directory `path`, which is created if it is missing.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            create: true,
            read_only: false,
            collections: Vec::new(),
            durability: Durability::Block,
            reorg_window_blocks: 288,
            overrides: Overrides::default(),
            calibrate: true,
            lock_wait: Duration::from_secs(5),
            shard_settings: None,
            commits_in_flight_max: 64,
            space_reserve_bytes: None,
            drops: Vec::new(),
            upkeep_rows_max: 500,
            purges: Vec::new(),
            tiers: Vec::new(),
            cold: None,
            cold_limits: ColdLimits::default(),
            cold_bytes_per_second: None,
            cold_segment_bytes: None,
            archives: (false, false),
        }
    }

    /// Adds a collection with its indexes. All that is to be read or written must be added at every open.
    #[must_use]
    pub fn collection<C: Collection>(mut self) -> Self {
        self.collections.push(CollectionDef::of::<C>());
        self
    }

    /// Adds a set of collections.
    #[must_use]
    pub fn collections(self, add: impl FnOnce(Self) -> Self) -> Self {
        add(self)
    }

    /// Removes an index that is not declared any more, and frees its space in the background. Nothing happens if there is
    /// no such index, so this can stay in a program.
    ///
    /// An index is never removed because it is not declared: a program that has forgotten it would cost the hours that it
    /// takes to fill it again. So that is an error.
    #[must_use]
    pub fn drop_index(mut self, collection: &str, index: &str) -> Self {
        self.drops.push(format!("{collection}.{index}"));
        self
    }

    /// Removes a collection that is not declared any more, with all of its records and indexes, and frees its space in the
    /// background. Nothing happens if there is none. No reorg brings it back.
    #[must_use]
    pub fn drop_collection(mut self, collection: &str) -> Self {
        self.drops.push(collection.to_owned());
        self
    }

    /// What is removed of a collection in the background, in place of what its declaration says; nothing if `None`.
    #[must_use]
    pub fn purge<C: Collection>(mut self, purge: Option<Purge<C>>) -> Self {
        self.purges.push((TypeId::of::<C>(), purge.map(Purge::spec)));
        self
    }

    /// Where old data moves to: a directory on another device, or an object store. It belongs to one store, and every open of a store
    /// whose data has moved needs it. What lies there cannot be read while it is away; the rest goes on.
    #[must_use]
    pub fn cold(mut self, target: ColdTarget) -> Self {
        self.cold = Some(target);
        self
    }

    /// How much is asked of the cold target at once, and how long an answer may take.
    #[must_use]
    pub fn cold_limits(mut self, limits: ColdLimits) -> Self {
        self.cold_limits = limits;
        self
    }

    /// When data of a collection moves to the cold target, in place of what its declaration says.
    #[must_use]
    pub fn tier<C: Collection>(mut self, policy: TierPolicy) -> Self {
        self.tiers.push((TypeId::of::<C>(), policy));
        self
    }

    /// What each shard may move to and from the cold target, in bytes a second; 0 for no limit. Default: 64 MiB.
    #[must_use]
    pub fn cold_rate(mut self, bytes_per_second: u64) -> Self {
        self.cold_bytes_per_second = Some(bytes_per_second);
        self
    }

    /// Whether WAL files, and segments that a reorg has killed, are copied to the cold target instead of being lost. Nothing here reads
    /// the copies or removes them. Where the store's own device runs short, or too many wait while the target is away, they
    /// go without, which [`Engine::stats`](crate::Engine::stats) count. Default: neither.
    #[must_use]
    pub fn archive(mut self, wal: bool, orphans: bool) -> Self {
        self.archives = (wal, orphans);
        self
    }

    /// How long an object of the cold target is, in bytes. Data moves once there is so much of a collection on a shard whose time
    /// has come. Default: 1 GiB.
    #[must_use]
    pub fn cold_segment(mut self, bytes: u64) -> Self {
        self.cold_segment_bytes = Some(bytes.max(1 << 20));
        self
    }

    /// Records that one commit of work in the background covers: of filling an index, and of purging. Blocks take turns
    /// with such commits. Default: 500.
    #[must_use]
    pub fn upkeep_rows(mut self, rows: usize) -> Self {
        self.upkeep_rows_max = rows.max(1);
        self
    }

    /// Whether a store is created where there is none. Default: true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether the store is only read: nothing on disk is changed, not even by recovery, and every commit is refused.
    /// The store is locked all the same. Default: false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// When a block is acknowledged. Default: when it survives a crash.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many blocks below the durable tip a reorg can take back. Default: 288, two days.
    #[must_use]
    pub fn reorg_window(mut self, blocks: u64) -> Self {
        self.reorg_window_blocks = blocks;
        self
    }

    /// The number of shards of a store that is created; an existing store keeps its own.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.overrides.shards = Some(shards);
        self
    }

    /// The CPU of each shard.
    #[must_use]
    pub fn cores(mut self, cores: Vec<u32>) -> Self {
        self.overrides.shard_cpus = Some(cores.into_iter().map(CpuId).collect());
        self
    }

    /// Memory for memtables, caches, filters and indexes together, in bytes.
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.overrides.memory_budget_bytes = Some(bytes);
        self
    }

    /// The part of the memory budget that caches pages of segments, in bytes; the rest is shared out as usual.
    #[must_use]
    pub fn read_cache_budget(mut self, bytes: u64) -> Self {
        self.overrides.read_cache_bytes = Some(bytes);
        self
    }

    /// Reads in flight at once on each shard.
    #[must_use]
    pub fn read_depth(mut self, depth: u32) -> Self {
        self.overrides.read_depth = Some(depth);
        self
    }

    /// How the WAL is made durable.
    #[must_use]
    pub fn sync_mode(mut self, mode: op_engine_io::SyncMode) -> Self {
        self.overrides.sync_mode = Some(mode);
        self
    }

    /// Registered buffer memory of each shard, in bytes.
    #[must_use]
    pub fn arena(mut self, bytes: u64) -> Self {
        self.overrides.arena_bytes = Some(bytes);
        self
    }

    /// Whether depth and sync mode are measured on the device at the first open, which takes 1 to 2 seconds.
    /// Default: true.
    #[must_use]
    pub fn calibrate(mut self, calibrate: bool) -> Self {
        self.calibrate = calibrate;
        self
    }

    /// How long to wait for another process, or the kernel on behalf of a killed one, to let go of the store.
    /// Default: 5 seconds.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// Blocks that may wait to be committed before their makers wait. Default: 64.
    #[must_use]
    pub fn commits_in_flight(mut self, blocks: usize) -> Self {
        self.commits_in_flight_max = blocks.max(1);
        self
    }

    /// Space that each shard keeps for what must not fail when the disk is full: reorgs, closing and opening, in bytes.
    /// Much less than a MiB may not be enough. Default: 64 MiB, or a hundredth of the filesystem if that is less.
    #[must_use]
    pub fn space_reserve(mut self, bytes: u64) -> Self {
        self.space_reserve_bytes = Some(bytes);
        self
    }

    /// All settings of each shard, in place of those derived from the memory budget.
    #[must_use]
    pub fn shard_settings(mut self, settings: ShardConfig) -> Self {
        self.shard_settings = Some(settings);
        self
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
