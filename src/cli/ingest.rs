//! `op-engine ingest`

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use op_engine::chain::Ingest;
use op_engine::chain::block_files::{BlockFiles, BlockFilesOptions};
use op_engine::chain::ingest::{IngestProgress, IngestReport};
use op_engine::{Config, Durability, Engine};
use op_engine_io::block_on;
use op_engine_io::num::to_u64;

use super::detect::TuningArgs;
use super::failure::{Failure, Outcome};
use super::show::{Out, bytes, count, hex, parse_hex, plural, rate, tell, time};
use super::store::{config, holds_store};

/// Warnings about block files that are shown in full.
const WARNINGS_SHOWN_MAX: usize = 10;

#[derive(Args)]
#[command(
    after_help = "The store is created if it is not there. Run it again to go on where it ended: after a crash, after an \
error, and when the node has new blocks. If the node's chain has left that of the store, the store goes back first.\n\n\
Examples:\n  op-engine ingest --store /var/lib/opnet/store --blocks ~/.bitcoin\n  op-engine ingest --store s --blocks ~/.bitcoin \
--until 100000 --deferred\n  op-engine ingest --store s --blocks ~/.bitcoin/regtest --magic fabfb5da"
)]
pub(crate) struct IngestArgs {
    /// The directory of the store, which is created if it is not there
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The data or blocks directory of a Bitcoin node
    #[arg(long, value_name = "DIR")]
    blocks: PathBuf,
    /// The magic of the network, four bytes in hexadecimal digits; taken from the files if not given
    #[arg(long, value_name = "HEX")]
    magic: Option<String>,
    /// The height of the first block, if the node is pruned and the block does not name it
    #[arg(long, value_name = "HEIGHT")]
    first_height: Option<u64>,
    /// Not above this height
    #[arg(long, value_name = "HEIGHT")]
    until: Option<u64>,
    /// Acknowledge blocks before they survive a crash: faster, and a crash loses whole blocks from the end
    #[arg(long)]
    deferred: bool,
    /// How many blocks below the tip a reorg can take back
    #[arg(long, value_name = "BLOCKS", default_value_t = 288)]
    reorg_window: u64,
    /// Threads that read blocks, and as many that prepare them
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    tuning: TuningArgs,
}

pub(crate) fn run(args: &IngestArgs, out: &mut Out) -> Outcome {
    let magic = args.magic.as_deref().map(parse_magic).transpose()?;
    check_place(&args.store)?;
    // The input comes before the store: a mistake there must not leave an empty one behind.
    let files = open_files(args, magic, out)?;
    let engine = Engine::open_blocking(config_of(args))?;
    let outcome = bring(&engine, args, &files);
    let closed = block_on(engine.close());
    let report = outcome?;
    closed?;
    summary(&report, out)
}

fn parse_magic(text: &str) -> Outcome<[u8; 4]> {
    let bytes = parse_hex(text).map_err(|why| Failure::Usage(format!("the magic cannot be used: {why}")))?;
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| Failure::Usage(format!("the magic cannot be used: it has {length} bytes, 4 are needed")))
}

fn open_files(args: &IngestArgs, magic: Option<[u8; 4]>, out: &mut Out) -> Outcome<BlockFiles> {
    let mut options =
        BlockFilesOptions { magic, first_height: args.first_height, ..BlockFilesOptions::default() };
    if let Some(threads) = args.threads {
        options.threads = threads.max(1);
    }
    let files = BlockFiles::open(&args.blocks, options)?;
    let report = files.report();
    out.line(format_args!(
        "chain     heights {} to {}, magic {}, {} not in the chain",
        count(files.first_height()),
        count(files.tip_height()),
        hex(&files.magic()),
        plural(report.stale + report.orphans, "block")
    ))?;
    out.flush()?;
    for warning in report.warnings.iter().take(WARNINGS_SHOWN_MAX) {
        tell(format_args!("warning: {warning}"));
    }
    let hidden = report.warnings.len().saturating_sub(WARNINGS_SHOWN_MAX);
    if hidden > 0 {
        tell(format_args!("warning: and {} more places in block files", count(to_u64(hidden))));
    }
    Ok(files)
}

fn config_of(args: &IngestArgs) -> Config {
    let durability = if args.deferred { Durability::deferred() } else { Durability::Block };
    args.tuning.apply(config(&args.store)).durability(durability).reorg_window(args.reorg_window)
}

/// Refuses a directory that holds something else, before anything is written to it.
fn check_place(store: &Path) -> Outcome {
    const HARMLESS: [&str; 4] = ["LOCK", "tuning", "tuning.new", "lost+found"];
    let Ok(mut entries) = std::fs::read_dir(store) else { return Ok(()) };
    if holds_store(store) {
        return Ok(());
    }
    let foreign = entries.find_map(|entry| {
        let name = entry.ok()?.file_name();
        (!HARMLESS.iter().any(|harmless| name == *harmless)).then_some(name)
    });
    match foreign {
        None => Ok(()),
        Some(name) => Err(Failure::Other(format!(
            "{} is no store and not empty: it holds {}. Give a directory of its own",
            store.display(),
            name.display()
        ))),
    }
}

fn bring(engine: &Engine, args: &IngestArgs, files: &BlockFiles) -> Outcome<IngestReport> {
    let mut ingest = Ingest::new();
    if let Some(height) = args.until {
        ingest = ingest.until(height);
    }
    if let Some(threads) = args.threads {
        ingest = ingest.threads(threads);
    }
    let bar = Bar::new();
    let report = ingest.on_progress(|now| bar.show(now)).run(engine, files);
    bar.clear();
    Ok(report?)
}

/// The progress of an ingest on the standard error; hidden if that is no terminal.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {msg}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar }
    }

    pub(crate) fn show(&self, now: &IngestProgress) {
        let IngestProgress { height, target, counts, elapsed } = now;
        self.bar.set_length(target.saturating_sub(*height).saturating_add(counts.blocks));
        self.bar.set_position(counts.blocks);
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_message(format!(
            "{} of {}: {} blocks/s, {} tx/s, {}/s",
            count(*height),
            count(*target),
            rate(counts.blocks, *elapsed),
            rate(counts.transactions, *elapsed),
            bytes(per_second(counts.bytes, *elapsed))
        ));
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn per_second(amount: u64, elapsed: std::time::Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(amount) * 1000 / millis).unwrap_or(u64::MAX)
}

fn summary(report: &IngestReport, out: &mut Out) -> Outcome {
    let IngestReport { counts, reorged, tip, elapsed } = report;
    if let Some(reorg) = reorged {
        let depth = reorg.from.0.saturating_sub(reorg.to.0);
        out.line(format_args!(
            "reorg     the chain had left that of the store: {} taken back, to height {}",
            plural(depth, "block"),
            count(reorg.to.0)
        ))?;
    }
    if counts.blocks == 0 {
        out.line("ingested  nothing: the store had every block already")?;
    } else {
        out.line(format_args!(
            "ingested  {}, {}, {} made, {} spent",
            plural(counts.blocks, "block"),
            plural(counts.transactions, "transaction"),
            plural(counts.outputs, "output"),
            count(counts.spends)
        ))?;
        out.line(format_args!(
            "speed     {} in {}: {} blocks/s, {} tx/s, {}/s",
            bytes(counts.bytes),
            time(*elapsed),
            rate(counts.blocks, *elapsed),
            rate(counts.transactions, *elapsed),
            bytes(per_second(counts.bytes, *elapsed))
        ))?;
    }
    match tip {
        Some(tip) => out.line(format_args!("tip       {} {}", count(tip.height.0), tip.hash)),
        None => out.line("tip       none: the store is empty"),
    }
}
