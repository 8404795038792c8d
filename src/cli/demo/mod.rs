//! `op-engine demo`: everything the engine does, on a chain made up for it.
//!
//! What the store answers is compared with what the maker of the chain knows. A wrong answer ends the demo with an
//! error.

mod answers;
mod crash;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use op_engine::chain::Ingest;
use op_engine::chain::block_files::{BlockFiles, BlockFilesOptions};
use op_engine::chain::ingest::{DemoSlots, IngestReport};
use op_engine::chain::regtest::{RegtestChain, RegtestOptions};
use op_engine::{Engine, Event, VerifyScope};
use op_engine_io::block_on;
use op_engine_io::num::{to_u64, to_usize};

use super::failure::{Failure, Outcome};
use super::ingest::Bar;
use super::show::{Out, bytes, count, plural, rate, shortened, table, time};
use super::store::config;
use super::verify;
use super::workdir::Workdir;

use answers::{Model, ask};
pub(crate) use crash::{VictimArgs, run_victim};

/// Contract slots, which Bitcoin's blocks do not have.
const SLOTS: DemoSlots = DemoSlots { contracts: 20, slots_per_contract: 50, writes_per_block: 20 };
/// Blocks of the branch that loses, and of the one that wins.
const BRANCHES: (u64, u64) = (6, 8);
/// How far back in time the demo looks.
const LOOK_BACK_BLOCKS: u64 = 5;
/// A key over the block files, as newer nodes have it.
const XOR_KEY: [u8; 8] = [0x1c, 0x58, 0xa3, 0x07, 0xe2, 0x9b, 0x46, 0xd1];

#[derive(Args)]
#[command(after_help = "Examples:\n  op-engine demo\n  op-engine demo --path /mnt/nvme --blocks 2000 --keep")]
pub(crate) struct DemoArgs {
    /// Where to make a directory for it, on the device that is to be shown [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Blocks of the chain
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(20..=100_000))]
    blocks: u64,
    /// Transactions in each block
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    transactions: u64,
    /// Keep the directory
    #[arg(long)]
    keep: bool,
}

/// What happened, told as it happens and once more at the end.
pub(crate) struct Story<'a> {
    out: &'a mut Out,
    rows: Vec<[String; 3]>,
}

impl Story<'_> {
    /// Begins a chapter.
    fn chapter(&mut self, title: &str) -> Outcome {
        self.out.line(format_args!("\n{title}"))?;
        self.out.flush()
    }

    /// Something that happened, for the table at the end too.
    fn happened(&mut self, what: &str, result: String, took: Duration) -> Outcome {
        self.out.line(format_args!("  {what}: {result} ({})", time(took)))?;
        self.rows.push([what.to_owned(), result, time(took)]);
        self.out.flush()
    }

    /// A detail.
    fn detail(&mut self, line: impl std::fmt::Display) -> Outcome {
        self.out.line(format_args!("    {line}"))?;
        self.out.flush()
    }
}

/// Fails with a wrong answer of the engine.
fn check(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds {
        return Ok(());
    }
    Err(Failure::Other(format!("the store is wrong: {}. Please report it, with `op-engine detect`", what())))
}

pub(crate) fn run(args: &DemoArgs, out: &mut Out) -> Outcome {
    let started = Instant::now();
    let workdir = Workdir::create("demo", args.path.as_deref(), args.keep)?;
    out.line(format_args!("The demo works in {}", workdir.path().display()))?;
    let mut story = Story { out, rows: Vec::new() };
    tell_story(args, &workdir, &mut story)?;
    let mut rows = table(&["what", "result", "time>"]);
    for row in &story.rows {
        rows.add_row(row);
    }
    out.line("")?;
    out.table("In short", &rows)?;
    out.line(format_args!("All answers were right. The whole took {}.", time(started.elapsed())))?;
    if args.keep {
        let store = workdir.store();
        out.line(format_args!(
            "The store is kept. Look into it: op-engine stats --store {}",
            store.display()
        ))?;
    }
    Ok(())
}

fn tell_story(args: &DemoArgs, workdir: &Workdir, story: &mut Story<'_>) -> Outcome {
    story.chapter("1. A chain")?;
    let begun = Instant::now();
    let mut chain = RegtestChain::new(RegtestOptions {
        transactions_per_block: to_usize(args.transactions),
        coinbase_maturity: 100.min(args.blocks / 4),
        ..RegtestOptions::default()
    });
    chain.mine_blocks(args.blocks - LOOK_BACK_BLOCKS);
    let past = Model::of(&chain);
    chain.mine_blocks(LOOK_BACK_BLOCKS);
    let files = write_blocks(&chain, workdir, 1)?;
    let made: u64 = chain.mined().iter().map(|block| to_u64(block.raw.len())).sum();
    let result = format!("{} on regtest, {}", plural(args.blocks, "block"), bytes(made));
    story.happened("mined and written to block files", result, begun.elapsed())?;

    story.chapter("2. Into a store")?;
    let begun = Instant::now();
    let engine = Engine::open_blocking(config(&workdir.store()))?;
    let result = format!("on {}", plural(to_u64(engine.shard_count()), "shard"));
    story.happened("created a store, measured the device", result, begun.elapsed())?;
    let outcome = (|| {
        let report = ingest(&engine, &files)?;
        let result = format!(
            "{} transactions/s, {} blocks/s, each block durable",
            rate(report.counts.transactions, report.elapsed),
            rate(report.counts.blocks, report.elapsed)
        );
        story.happened("ingested", result, report.elapsed)?;
        story.chapter("3. Questions")?;
        ask(&engine, &chain, &past, story)?;
        story.chapter("4. Bitcoin reorganises")?;
        reorganise(&engine, &mut chain, workdir, story)
    })();
    let closed = block_on(engine.close());
    outcome?;
    closed?;

    story.chapter("5. A process is killed in the middle of commits")?;
    crash::kill_and_reopen(&mut chain, workdir, story, args.blocks)?;

    story.chapter("6. Every byte is checked")?;
    let begun = Instant::now();
    let report = verify::check(config(&workdir.store()).create(false), VerifyScope::Hot)?;
    let fault = report.faults.first().map(ToString::to_string);
    check(report.is_sound(), || format!("verify finds {}", fault.unwrap_or_default()))?;
    let compared = report.compared.unwrap_or_default();
    let result = format!(
        "{} sound; {} match {} index entries",
        bytes(report.bytes),
        plural(compared.records, "record"),
        count(compared.index_entries)
    );
    story.happened("verified the store", result, begun.elapsed())
}

/// Writes all blocks that were ever mined, as a node has them.
fn write_blocks(chain: &RegtestChain, workdir: &Workdir, generation: u32) -> Outcome<PathBuf> {
    let dir = workdir.path().join(format!("blocks-{generation}"));
    std::fs::create_dir_all(&dir).map_err(|error| Failure::os(format!("create {}", dir.display()), error))?;
    chain.write_block_files(&dir, Some(XOR_KEY))?;
    Ok(dir)
}

fn open_files(dir: &Path) -> Outcome<BlockFiles> {
    Ok(BlockFiles::open(dir, BlockFilesOptions::default())?)
}

fn ingest(engine: &Engine, dir: &Path) -> Outcome<IngestReport> {
    let bar = Bar::new();
    let report =
        Ingest::new().demo_slots(SLOTS).on_progress(|now| bar.show(now)).run(engine, &open_files(dir)?);
    bar.clear();
    Ok(report?)
}

/// A competing branch wins. Ingesting again finds the fork, goes back and forward.
fn reorganise(
    engine: &Engine,
    chain: &mut RegtestChain,
    workdir: &Workdir,
    story: &mut Story<'_>,
) -> Outcome {
    let (old_blocks, new_blocks) = BRANCHES;
    let old = chain.height();
    let lost = chain.tip().map(|block| block.hash);
    check(chain.fork_from(old - old_blocks), || "the chain cannot fork".to_owned())?;
    chain.mine_blocks(new_blocks);
    let files = write_blocks(chain, workdir, 2)?;
    let mut events = engine.subscribe();
    let watcher = std::thread::spawn(move || {
        while let Some(event) = events.next_blocking() {
            if let Event::Reorged { .. } = event {
                return Some(Instant::now());
            }
        }
        None
    });
    let files = open_files(&files)?;
    let begun = Instant::now();
    let report = Ingest::new().demo_slots(SLOTS).run(engine, &files)?;
    let took = begun.elapsed();
    let went_back = report.reorged.map(|reorg| reorg.from.0 - reorg.to.0);
    check(went_back == Some(old_blocks), || {
        format!("{went_back:?} blocks were taken back instead of {old_blocks}")
    })?;
    let reorged = watcher.join().ok().flatten().map_or(took, |at| at.duration_since(begun));
    let result = format!("{} taken back in all collections at once, durably", plural(old_blocks, "block"));
    story.happened("reorg", result, reorged)?;
    let result = format!("{}, tip at {}", plural(report.counts.blocks, "block"), count(chain.height()));
    story.happened("the other branch", result, took.saturating_sub(reorged))?;
    if let Some(lost) = lost {
        let found = block_on(op_engine::chain::queries::block_by_hash(engine, &lost))?;
        check(found.is_none(), || "a block of the branch that lost is still found".to_owned())?;
        story.detail(format_args!("block {} is gone", shortened(&super::show::hash(&lost), 19)))?;
    }
    let begun = Instant::now();
    Model::of(chain).compare(&block_on(engine.snapshot())?)?;
    story.happened("UTXO set compared with the chain's", "equal".to_owned(), begun.elapsed())
}
