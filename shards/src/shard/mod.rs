//! One shard: recovery, then its tasks over one state.
//!
//! - `serve` answers requests and hands commits on;
//! - `apply` makes commits visible, in order, and queues their frames;
//! - `commit log` makes frames durable, many at a time;
//! - `flush` and `merge` turn memtables into segments and segments into fewer ones;
//! - `prefetch` reads filters and page indexes while there is room for them.
//! - `tier` moves old data to the cold target and back;
//! - `reserve` keeps space on the disk for what must not fail.
//!
//! State changes happen in synchronous functions; no borrow of the state lives across an await.

mod apply;
mod archive;
mod archiving;
mod commit_log;
mod compact;
mod flush;
mod job;
mod policy;
mod prefetch;
mod pressure;
mod purged;
mod read;
mod recover;
mod release;
mod room;
mod scan;
mod serve;
mod state;
mod tiering;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use op_engine_io::mailbox::{Receiver, Sender};
use op_engine_io::num::to_u64;
use op_engine_io::{Env, Reply, ReplySender, TaskClass};

use crate::cache::{PageCache, Shelf};
use crate::config::ShardConfig;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::log::{Frame, Identity};
use crate::manifest::Manifest;
use crate::message::{CommitPart, Event, GoOn, RecoveryReport, Request, Started};
use crate::reserve::Reserve;
use crate::segment::{FilterKey, PartitionCache, Segment, SegmentHome};
use crate::signal::Signal;
use crate::stats::{SegmentState, SegmentStats, ShardStats};
use crate::wal::Wal;

pub use recover::create;
pub use state::{encode_catalog, encode_rollback};

use job::Claims;
use pressure::Pressure;
use room::Shortage;
use state::State;
use tiering::Tiering;

/// What a shard is connected to.
pub struct Links {
    /// Requests to this shard.
    pub requests: Receiver<Request>,
    /// Reports to the barrier.
    pub events: Sender<Event>,
    /// Gets what recovery found, or why it failed.
    pub recovered: ReplySender<Result<RecoveryReport>>,
    /// Brings the order to go on.
    pub start: Reply<GoOn>,
    /// Gets what the shard serves from.
    pub started: ReplySender<Result<Started>>,
}

/// Frames on their way to the WAL.
#[derive(Default)]
struct LogQueue {
    frames: RefCell<VecDeque<(Frame, bool)>>,
    bytes: Cell<usize>,
    sync_wanted: Cell<bool>,
    /// The last commit that was written to the WAL.
    written: Cell<Seq>,
    /// The highest cut that a mark has recorded.
    marked: Cell<Seq>,
    grown: Signal,
    shrunk: Signal,
}

/// What a shard writes its commits to.
struct Writer<E: Env> {
    wal: Wal<E>,
    manifest: Manifest<E>,
    reserve: Rc<Reserve<E>>,
}

/// What waits to be applied.
enum Part {
    Commit(CommitPart),
    /// A sync was asked for after the parts before it.
    Sync,
}

/// One shard, shared by its tasks.
struct Shard<E: Env> {
    env: E,
    identity: Identity,
    config: ShardConfig,
    home: SegmentHome,
    filter_key: FilterKey,
    state: RefCell<State<E>>,
    /// Absent when the store was opened for reading only.
    writer: Option<Writer<E>>,
    cache: Rc<PageCache>,
    /// Filters and page indexes of all segments.
    partitions: Rc<PartitionCache>,
    events: Sender<Event>,
    parts: RefCell<VecDeque<Part>>,
    parts_grown: Signal,
    log: LogQueue,
    /// Raised when a memtable is frozen, the cut moves, or somebody wants a flush.
    work: Signal,
    /// Raised when a memtable has been flushed, or flushing has failed.
    flushed: Signal,
    /// Raised when the set of segments has changed, or merges are put off.
    segments_changed: Signal,
    closing: Cell<bool>,
    /// Somebody wants everything up to this commit flushed, not only what is full or old.
    flush_wanted: Cell<Seq>,
    /// Somebody wants everything final merged into the bottom runs, whatever that costs.
    compaction_wanted: Cell<bool>,
    pressure: Pressure,
    shortage: Shortage,
    claims: Claims,
    tiering: Tiering<E>,
    stats: RefCell<ShardStats>,
}

/// Runs a shard from recovery to its end.
pub async fn run<E: Env>(
    env: E,
    identity: Identity,
    config: ShardConfig,
    filter_key: FilterKey,
    links: Links,
) {
    let Links { requests, events, recovered, start, started } = links;
    let recovery = match recover::recover(&env, identity, &config).await {
        Ok(recovery) => recovery,
        Err(error) => return recovered.send(Err(error)),
    };
    recovered.send(Ok(recovery.report()));
    // Nothing has been changed so far. Without the order to go on, nothing will be.
    let Ok(order) = start.await else { return };
    let shard = match recovery.go_on(&env, config, filter_key, events, order).await {
        Ok(shard) => Rc::new(shard),
        Err(error) => return started.send(Err(error)),
    };
    let (catalog, in_use) = {
        let state = shard.state.borrow();
        (state.catalog.as_ref().clone(), state.collections_in_use())
    };
    started.send(Ok(Started { catalog, in_use, need: shard.space_need() }));

    env.spawn(TaskClass::Background, "prefetch", Rc::clone(&shard).prefetch());
    if shard.writer.is_none() {
        return shard.serve(requests).await;
    }
    env.spawn(TaskClass::Commit, "apply", Rc::clone(&shard).apply_commits());
    env.spawn(TaskClass::Commit, "commit log", Rc::clone(&shard).write_log());
    env.spawn(TaskClass::Background, "flush", Rc::clone(&shard).flush_memtables());
    env.spawn(TaskClass::Background, "merge", Rc::clone(&shard).merge_segments());
    env.spawn(TaskClass::Background, "tier", Rc::clone(&shard).move_between_tiers());
    env.spawn(TaskClass::Background, "reserve", Rc::clone(&shard).keep_reserve());
    shard.serve(requests).await;
}

impl<E: Env> Shard<E> {
    /// Stops commits on this shard for good, and tells the barrier, which stops them everywhere.
    async fn fail(&self, cause: Error) {
        if self.stop(cause.clone()) {
            // A barrier that is gone has nobody left to tell.
            let _: Result<(), _> = self.events.send(Event::Failed(self.identity.shard, cause)).await;
        }
    }

    /// Stops commits on this shard for good. Says whether they had not been stopped before.
    fn stop(&self, cause: Error) -> bool {
        let mut state = self.state.borrow_mut();
        let news = state.failed.is_none();
        if news {
            state.failed = Some(cause.poison());
        }
        drop(state);
        // Whoever waits for progress looks at the failure.
        let progress = [&self.flushed, &self.pressure.flush_moved, &self.segments_changed, &self.log.shrunk];
        let work = [&self.log.grown, &self.parts_grown, &self.work];
        progress.into_iter().chain(work).for_each(Signal::raise);
        news
    }

    /// What commits are written to. Only tasks that commit ask for it, and they do not run on a shard that is only read.
    #[expect(clippy::expect_used, reason = "tasks that commit are started only if there is a writer")]
    fn writer(&self) -> &Writer<E> {
        self.writer.as_ref().expect("a shard that commits has a writer")
    }

    /// Gives the background more of the core the further it is behind.
    fn balance(&self) {
        const AT_EASE: u32 = 20;
        const FLUSHING: u32 = 60;
        const HOLDING_UP_COMMITS: u32 = 100;
        let frozen = self.state.borrow().frozen.len();
        if self.is_held_up_by_merges() {
            return self.env.set_background_share(HOLDING_UP_COMMITS);
        }
        self.env.set_background_share(match frozen {
            0 => AT_EASE,
            some if some <= self.config.memtables_frozen_max => FLUSHING,
            _ => HOLDING_UP_COMMITS,
        });
    }

    fn failure(&self) -> Option<Error> {
        self.state.borrow().failed.clone()
    }

    fn describe(&self) -> ShardStats {
        let state = self.state.borrow();
        let wal = self.writer.as_ref().map(|writer| writer.wal.stats()).unwrap_or_default();
        let mut stats = self.stats.borrow().clone();
        stats.applied = state.applied;
        stats.durable = state.durable;
        stats.flushed = state.flushed;
        stats.memtable_bytes = to_u64(state.memtable_bytes());
        stats.memtables_frozen = to_u64(state.frozen.len());
        stats.wal_files = to_u64(wal.files + wal.free_files);
        stats.wal_bytes = wal.bytes_appended;
        stats.cache_hits = self.cache.hits(Shelf::Hot);
        stats.cache_misses = self.cache.misses(Shelf::Hot);
        let partitions = self.partitions.bytes();
        stats.filter_bytes = partitions.filter;
        stats.index_bytes = partitions.index + partitions.directory;
        stats.filter_bytes_max = self.partitions.bytes_max();
        stats.partition_reads = self.partitions.reads();
        stats.partition_evictions = self.partitions.evictions();
        stats.space = self.describe_space();
        stats.tiering = self.describe_tiering();
        for (collection, bytes) in &state.committed_bytes {
            stats.traffic.entry(*collection).or_default().committed_bytes = *bytes;
        }
        stats.rollbacks = to_u64(state.rollbacks.len());
        stats.segments = state
            .runs
            .values()
            .flat_map(|runs| runs.files())
            .map(|segment| state.describe(segment))
            .collect();
        stats
    }
}

impl<E: Env> State<E> {
    fn describe(&self, segment: &Rc<Segment<E>>) -> SegmentStats {
        let meta = segment.meta();
        let state = if self.orphaned(segment) {
            SegmentState::Orphaned
        } else if meta.seq_max <= self.progress.horizon.seq {
            SegmentState::Final
        } else {
            SegmentState::Young
        };
        SegmentStats {
            collection: meta.collection,
            number: meta.number,
            level: meta.place.level,
            run: meta.place.run,
            state,
            tier: meta.tier,
            file_bytes: meta.file_bytes,
            entries: meta.entries,
            keys: segment.keys(),
            heights: (meta.height_min, meta.height_max),
            memory_bytes: to_u64(segment.memory_bytes()),
        }
    }
}
