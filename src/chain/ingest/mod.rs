//! Brings a chain into a store, and follows it.
//!
//! [`Ingest::run`] compares the store with the chain, takes back what the chain has left, and commits what the store
//! lacks. It can be run again at any time: after a crash, after an error, and whenever the node has new blocks.
//!
//! ```no_run
//! use op_engine::chain::block_files::{BlockFiles, BlockFilesOptions};
//! use op_engine::chain::{self, Ingest};
//! use op_engine::{Config, Engine};
//!
//! # fn main() -> Result<(), op_engine::chain::ChainError> {
//! let engine = Engine::open_blocking(Config::new("store").collections(chain::collections))?;
//! let files = BlockFiles::open("/var/lib/bitcoind", BlockFilesOptions::default())?;
//! let report = Ingest::new().on_progress(|now| println!("{} of {}", now.height, now.target)).run(&engine, &files)?;
//! println!("{} blocks, {} transactions", report.counts.blocks, report.counts.transactions);
//! # Ok(())
//! # }
//! ```
//!
//! Blocks are read, parsed and turned into changes by threads of their own, and handed over before the ones before
//! them are acknowledged, so that neither the shards nor the device wait for them.

mod changes;
mod demo;
mod pipeline;
mod source;
mod start;

use std::time::{Duration, Instant};

use op_engine_io::block_on;

use crate::{Engine, Height, Tip};

use super::ChainError;

pub use changes::block_changes;
pub use demo::DemoSlots;
pub use source::{ChainSource, SourceBlocks};

use start::Start;

/// What has been committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestCounts {
    /// Blocks.
    pub blocks: u64,
    /// Transactions in them, the coinbases included.
    pub transactions: u64,
    /// Outputs of the transactions, those that can never be spent included.
    pub outputs: u64,
    /// Outputs that were spent.
    pub spends: u64,
    /// Bytes of the blocks as the network serialises them.
    pub bytes: u64,
}

/// How far an ingest is. Told after each block that is acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct IngestProgress {
    /// The height of the block.
    pub height: u64,
    /// The height at which the ingest will end.
    pub target: u64,
    /// What has been committed so far.
    pub counts: IngestCounts,
    /// The time since the start.
    pub elapsed: Duration,
}

/// A branch that was taken back because the chain has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestReorg {
    /// The height of the store's tip before.
    pub from: Height,
    /// The highest block that the store shared with the chain.
    pub to: Height,
}

/// What an ingest did.
#[derive(Debug, Clone, Copy)]
pub struct IngestReport {
    /// What was committed.
    pub counts: IngestCounts,
    /// The branch that was taken back first, if the chain had left the store's.
    pub reorged: Option<IngestReorg>,
    /// The store's tip at the end.
    pub tip: Option<Tip>,
    /// How long it took.
    pub elapsed: Duration,
}

type TellProgress<'a> = Box<dyn FnMut(&IngestProgress) + 'a>;

/// How a chain is brought into a store.
pub struct Ingest<'a> {
    progress: Option<TellProgress<'a>>,
    until: Option<u64>,
    depth: usize,
    threads: usize,
    slots: Option<DemoSlots>,
}

impl Default for Ingest<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Ingest<'a> {
    /// To the end of the chain.
    #[must_use]
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(8));
        Self { progress: None, until: None, depth: 16, threads, slots: None }
    }

    /// Not above this height. A store that is above it already is left as it is.
    #[must_use]
    pub fn until(mut self, height: u64) -> Self {
        self.until = Some(height);
        self
    }

    /// Calls `progress` after each block, on the calling thread.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&IngestProgress) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// How many blocks may be prepared ahead, and how many may wait for their acknowledgement. Default: 16. A block
    /// that is prepared takes about three times its bytes.
    #[must_use]
    pub fn pipeline_depth(mut self, blocks: usize) -> Self {
        self.depth = blocks.max(1);
        self
    }

    /// How many threads turn blocks into changes. Default: one for each CPU, at most 8. They inherit the CPUs of the
    /// calling thread, which should not be pinned to a shard's.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Adds made-up writes of contract slots to every block: Bitcoin has none.
    #[must_use]
    pub fn demo_slots(mut self, slots: DemoSlots) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Brings the store to the end of the chain. Blocks the calling thread.
    ///
    /// The chain is believed: if it has another block at the height of the store's tip, the store goes back to the
    /// highest block that they share. A chain that ends below the store's tip without another block there changes
    /// nothing. When it returns, all is durable, whatever the engine's durability is.
    ///
    /// # Errors
    /// [`ChainError::BlockFile`] for a block that cannot be read, after all blocks before it have been committed;
    /// [`ChainError::ForkBelowHorizon`] and [`ChainError::Gap`], which change nothing; [`ChainError::Engine`].
    pub fn run(
        mut self,
        engine: &Engine,
        source: &(impl ChainSource + ?Sized),
    ) -> Result<IngestReport, ChainError> {
        let begun = Instant::now();
        let target = source.tip_height().min(self.until.unwrap_or(u64::MAX));
        let mut report = IngestReport {
            counts: IngestCounts::default(),
            reorged: None,
            tip: None,
            elapsed: Duration::ZERO,
        };
        if let Start::At { height, back_to } = start::find(engine, source, target)? {
            if let Some(fork) = back_to {
                let reorged = block_on(engine.reorg_to(fork))?;
                report.reorged = Some(IngestReorg { from: reorged.from, to: reorged.to });
            }
            let blocks = source.blocks(height)?;
            let count = op_engine_io::num::to_usize((target + 1).saturating_sub(height));
            let mut progress = self.progress.take();
            let mut acknowledged = |height, counts: IngestCounts| {
                report.counts = report.counts.plus(counts);
                if let Some(tell) = &mut progress {
                    let counts = report.counts;
                    tell(&IngestProgress { height, target, counts, elapsed: begun.elapsed() });
                }
            };
            pipeline::run(engine, blocks.take(count), &self, &mut acknowledged)?;
        }
        block_on(engine.sync())?;
        report.tip = engine.tip();
        report.elapsed = begun.elapsed();
        Ok(report)
    }
}

impl IngestCounts {
    fn plus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            transactions: self.transactions + other.transactions,
            outputs: self.outputs + other.outputs,
            spends: self.spends + other.spends,
            bytes: self.bytes + other.bytes,
        }
    }
}
