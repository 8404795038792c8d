//! The store that is measured.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use op_engine::{Config, Durability, Engine, Pending, ShardConfig};
use op_engine_io::SyncMode;
use op_engine_io::hardware::Tuning;

use super::chain::{Bodies, Chain, Coins, Headers, LOAD_COINS, LOAD_SLOTS, Slots};
use crate::cli::failure::Outcome;

/// Blocks on their way at once.
const PIPELINE: usize = 8;
/// Memory for pages when every read shall reach the device.
const NO_CACHE_BYTES: u64 = 64 << 10;
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How long merges may go on after a store was filled.
const MERGES_MAX: Duration = Duration::from_secs(120);

/// A store below the working directory, and what is in it.
pub(crate) struct BenchStore {
    pub(crate) path: PathBuf,
    pub(crate) shards: u16,
    /// Coins that filling it creates.
    pub(crate) records: u64,
    read_depth: u32,
    sync_mode: SyncMode,
    /// Slots that filling it writes.
    pub(crate) slots: u64,
    pub(crate) chain: Chain,
}

/// How the store is opened.
#[derive(Clone, Copy)]
pub(crate) enum Opening {
    /// Each read of a page reaches the device, and that many may be in flight on each shard.
    Uncached { read_depth: u32 },
    /// As a node opens it.
    Usual(Durability),
}

impl BenchStore {
    pub(crate) fn new(dir: &Path, shards: u16, records: u64, tuning: &Tuning) -> Self {
        let blocks = records.div_ceil(LOAD_COINS).max(1);
        // Each slot gets about three versions.
        let slots = LOAD_SLOTS * (blocks / 3).max(1);
        Self {
            path: dir.join(format!("store-{shards}-{records}")),
            shards,
            records: blocks * LOAD_COINS,
            read_depth: tuning.read_depth,
            sync_mode: tuning.sync_mode,
            slots,
            chain: Chain::new(slots),
        }
    }

    pub(crate) fn open(&self, opening: Opening) -> Outcome<Engine> {
        Ok(Engine::open_blocking(self.config(opening))?)
    }

    fn config(&self, opening: Opening) -> Config {
        let config = config(&self.path).shards(self.shards).sync_mode(self.sync_mode);
        match opening {
            Opening::Usual(durability) => config.durability(durability).read_depth(self.read_depth),
            Opening::Uncached { read_depth } => {
                let settings = ShardConfig { cache_bytes: NO_CACHE_BYTES, ..ShardConfig::default() };
                config.shard_settings(settings).read_depth(read_depth)
            }
        }
    }

    /// Fills the store. Gives the bytes of keys and values.
    pub(crate) fn fill(&mut self, engine: &Engine) -> Outcome<u64> {
        let mut bytes = 0;
        let mut pipeline = Pipeline::default();
        while self.chain.coins() < self.records {
            let (block, block_bytes) = self.chain.load_block().block();
            bytes += block_bytes;
            pipeline.push(engine.blocking().submit(block)?)?;
        }
        pipeline.finish()?;
        Ok(bytes)
    }

    /// The height at which a slot was written last, at or below another height, while the store was filled.
    pub(crate) fn slot_height(&self, slot: u64, height: u64) -> u64 {
        let cycle = self.slot_cycle_blocks();
        height - (height + cycle - slot / LOAD_SLOTS % cycle) % cycle
    }

    /// After how many blocks each slot has been written once.
    pub(crate) fn slot_cycle_blocks(&self) -> u64 {
        (self.slots / LOAD_SLOTS).max(1)
    }
}

/// The configuration of every store that is measured.
pub(crate) fn config(path: &Path) -> Config {
    let config = Config::new(path).collection::<Coins>().collection::<Slots>();
    config.collection::<Headers>().collection::<Bodies>().calibrate(false).lock_wait(LOCK_WAIT)
}

/// Blocks on their way.
#[derive(Default)]
pub(crate) struct Pipeline(VecDeque<Pending>);

impl Pipeline {
    /// Adds a block, and waits for the oldest if there are many.
    pub(crate) fn push(&mut self, pending: Pending) -> Outcome {
        self.0.push_back(pending);
        if self.0.len() > PIPELINE
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.wait()?;
        }
        Ok(())
    }

    /// Waits for all of them.
    pub(crate) fn finish(self) -> Outcome {
        for pending in self.0 {
            pending.wait()?;
        }
        Ok(())
    }
}

/// Flushes, and waits until nothing is merged any more.
pub(crate) fn settle(engine: &Engine) -> Outcome {
    engine.blocking().flush()?;
    let started = Instant::now();
    let mut before = None;
    let mut quiet_turns = 0;
    while quiet_turns < 3 && started.elapsed() < MERGES_MAX {
        let stats = engine.blocking().stats()?;
        let written = stats.device.unwrap_or_default().written_bytes;
        let merged: u64 = stats.shards.iter().map(|shard| shard.merges).sum();
        quiet_turns = if before == Some((written, merged)) { quiet_turns + 1 } else { 0 };
        before = Some((written, merged));
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}
