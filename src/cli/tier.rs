//! `op-engine tier`

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use op_engine::{ColdAfter, Engine, Height, Stats, TierReport};
use op_engine_io::block_on;
use op_engine_shards::CollectionId;
use op_engine_shards::segment_meta::Tier;

use super::failure::{Failure, Outcome};
use super::show::{Out, bytes, count, plural, time, wide_table};
use super::store::StoreArgs;

#[derive(Args)]
#[command(
    after_help = "Old blocks, transactions, events, witnesses and old versions of contract slots move to a directory on \
another device, or to an object store; coins, the newest contract slots and all indexes stay. Credentials of an object store come from \
the environment (AWS_ACCESS_KEY_ID and the like) only.\n\nExamples:\n  op-engine tier status  --store STORE --cold-target /mnt/hdd/opnet\n  \
op-engine tier run     --store STORE --cold-target /mnt/hdd/opnet\n  op-engine tier warm-up --store STORE --cold-target /mnt/hdd/opnet --from 800000 \
--to 810000"
)]
pub(crate) struct TierArgs {
    #[command(subcommand)]
    command: TierCommand,
}

#[derive(Subcommand)]
enum TierCommand {
    /// Show what is in which tier
    Status(StatusArgs),
    /// Move everything whose time has come to the cold target
    Run(RunArgs),
    /// Bring back from the cold target what blocks of a range of heights wrote
    WarmUp(WarmUpArgs),
}

#[derive(Args)]
struct StatusArgs {
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Take along what was brought back with warm-up
    #[arg(long)]
    warmed: bool,
    /// Confirmations after which data moves, in place of what the collections say; fewer than the reorg window count as that
    #[arg(long, value_name = "BLOCKS")]
    after: Option<u32>,
    /// MiB a second that each shard may move; 0 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    rate: u64,
}

#[derive(Args)]
struct WarmUpArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The lowest height
    #[arg(long, value_name = "HEIGHT")]
    from: u64,
    /// The highest height
    #[arg(long, value_name = "HEIGHT")]
    to: u64,
    /// MiB a second that each shard may move; 0 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    rate: u64,
}

pub(crate) fn run(args: &TierArgs, out: &mut Out) -> Outcome {
    match &args.command {
        TierCommand::Status(args) => {
            let engine = args.store.open_to_read()?;
            let shown = block_on(engine.stats())
                .map_err(Failure::from)
                .and_then(|stats| status(&engine, &stats, out));
            let closed = block_on(engine.close());
            shown?;
            Ok(closed?)
        }
        TierCommand::Run(args) => {
            require_target(&args.store)?;
            let mut config = args.store.config()?.cold_rate(args.rate << 20);
            if let Some(confirmations) = args.after {
                config = op_engine::chain::cold_after(config, ColdAfter::Confirmations(confirmations));
            }
            let warmed = args.warmed;
            move_data(Engine::open_blocking(config)?, "moved to the cold target", out, move |engine| {
                block_on(engine.move_to_cold(warmed))
            })
        }
        TierCommand::WarmUp(args) => {
            if args.from > args.to {
                return Err(Failure::Usage("--from is above --to".to_owned()));
            }
            require_target(&args.store)?;
            let config = args.store.config()?.cold_rate(args.rate << 20);
            let (from, to) = (Height(args.from), Height(args.to));
            move_data(Engine::open_blocking(config)?, "brought back", out, move |engine| {
                block_on(engine.warm_up(from, to))
            })
        }
    }
}

fn require_target(store: &StoreArgs) -> Outcome {
    if store.has_cold_target() {
        return Ok(());
    }
    Err(Failure::Usage(
        "no cold target is given: say --cold-target DIRECTORY, or --cold-target s3://bucket/prefix"
            .to_owned(),
    ))
}

/// Moves data on a thread of its own, and shows how much has been moved.
fn move_data(
    engine: Engine,
    what: &str,
    out: &mut Out,
    work: impl FnOnce(&Engine) -> op_engine::Result<TierReport> + Send + 'static,
) -> Outcome {
    let began = Instant::now();
    let (sender, done) = channel();
    let mover = engine.clone();
    let thread = std::thread::Builder::new().name("tier".to_owned()).spawn(move || {
        // The receiver waits for as long as this runs.
        drop(sender.send(work(&mover)));
    });
    let thread = thread.map_err(|error| Failure::os("start a thread", error))?;
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    let moved = loop {
        match done.recv_timeout(Duration::from_millis(200)) {
            Ok(moved) => break moved,
            Err(RecvTimeoutError::Timeout) => {
                if let Ok(stats) = block_on(engine.stats()) {
                    let so_far = sum(&stats);
                    let (before, after) = (bytes(so_far.bytes_before), bytes(so_far.bytes_after));
                    bar.set_message(format!("{before} {what}, {after} there"));
                }
                bar.tick();
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Other(
                    "a bug: the move ended without a result. Please report it".to_owned(),
                ));
            }
        }
    };
    bar.finish_and_clear();
    drop(thread.join());
    let closed = block_on(engine.close());
    let TierReport { segments, bytes_before, bytes_after } = moved?;
    closed?;
    out.line(format_args!(
        "{} {what}: {} before, {} now ({}), in {}",
        plural(segments, "segment"),
        bytes(bytes_before),
        bytes(bytes_after),
        ratio(bytes_before, bytes_after),
        time(began.elapsed())
    ))
}

fn sum(stats: &Stats) -> TierReport {
    let mut sum = TierReport::default();
    stats.shards.iter().for_each(|shard| sum.add(shard.tiering.moved));
    sum
}

#[expect(clippy::cast_precision_loss, reason = "a ratio that people look at")]
fn ratio(before: u64, after: u64) -> String {
    if after == 0 { "-".to_owned() } else { format!("{:.2} to 1", before as f64 / after as f64) }
}

/// What a collection has in each tier.
#[derive(Default)]
struct Tiers {
    hot: (u64, u64),
    warm: (u64, u64),
    cold: (u64, u64),
    /// Of the cold ones, before they were packed.
    plain_bytes: u64,
    /// Of the cold ones, what is on the store's own device.
    index_bytes: u64,
    heights: Option<(u64, u64)>,
}

impl Tiers {
    fn add(&mut self, of: &Self) {
        for (sum, more) in [(&mut self.hot, of.hot), (&mut self.warm, of.warm), (&mut self.cold, of.cold)] {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
        self.plain_bytes += of.plain_bytes;
        self.index_bytes += of.index_bytes;
    }
}

/// What each collection has in each tier.
fn tiers_of(stats: &Stats) -> BTreeMap<CollectionId, Tiers> {
    let mut tiers: BTreeMap<CollectionId, Tiers> = BTreeMap::new();
    for segment in stats.shards.iter().flat_map(|shard| &shard.segments) {
        let of = tiers.entry(segment.collection).or_default();
        match segment.tier {
            Tier::Hot => of.hot = (of.hot.0 + 1, of.hot.1 + segment.file_bytes),
            Tier::Warm => of.warm = (of.warm.0 + 1, of.warm.1 + segment.file_bytes),
            Tier::Cold { data_bytes, plain_bytes } => {
                of.cold = (of.cold.0 + 1, of.cold.1 + data_bytes);
                of.plain_bytes += plain_bytes;
                of.index_bytes += segment.file_bytes;
                let (low, high) = (segment.heights.0.0, segment.heights.1.0);
                let (lowest, highest) = of.heights.unwrap_or((low, high));
                of.heights = Some((lowest.min(low), highest.max(high)));
            }
        }
    }
    tiers
}

/// All collections in a line.
pub(crate) fn summary(stats: &Stats) -> String {
    let mut total = Tiers::default();
    tiers_of(stats).values().for_each(|of| total.add(of));
    let Tiers { hot, warm, cold, plain_bytes, index_bytes, .. } = total;
    format!(
        "tiers: {} hot with {}, {} brought back with {}, {} cold with {} there ({}) and {} here",
        plural(hot.0, "segment"),
        bytes(hot.1),
        count(warm.0),
        bytes(warm.1),
        count(cold.0),
        bytes(cold.1),
        ratio(plain_bytes, cold.1),
        bytes(index_bytes)
    )
}

fn status(engine: &Engine, stats: &Stats, out: &mut Out) -> Outcome {
    let tiers = tiers_of(stats);
    let names: BTreeMap<CollectionId, String> = engine.collection_names().into_iter().collect();
    let columns = [
        "collection",
        "hot>",
        "bytes>",
        "warm>",
        "bytes>",
        "cold>",
        "bytes>",
        "unpacked>",
        "ratio>",
        "index on hot>",
        "heights",
    ];
    let mut rows = wide_table(&columns);
    let mut total = Tiers::default();
    for (id, of) in &tiers {
        total.add(of);
        rows.add_row(row(names.get(id).cloned().unwrap_or_else(|| format!("collection {id}")), of));
    }
    rows.add_row(row("all".to_owned(), &total));
    out.table("Segments and their data by tier", &rows)?;
    out.line(match engine.cold_target() {
        Some(target) => format!("cold target  {target}"),
        None => "cold target  none is given: --cold-target".to_owned(),
    })?;
    let failed = stats.shards.iter().filter_map(|shard| shard.tiering.last_failure.as_ref()).next();
    if let Some(failure) = failed {
        out.line(format_args!("last failure {failure}"))?;
    }
    let waiting: u64 = stats.shards.iter().map(|shard| shard.tiering.objects_to_remove).sum();
    out.line(format_args!("to remove    {}", plural(waiting, "object")))
}

fn row(name: String, of: &Tiers) -> [String; 11] {
    [
        name,
        count(of.hot.0),
        bytes(of.hot.1),
        count(of.warm.0),
        bytes(of.warm.1),
        count(of.cold.0),
        bytes(of.cold.1),
        bytes(of.plain_bytes),
        ratio(of.plain_bytes, of.cold.1),
        bytes(of.index_bytes),
        of.heights.map_or_else(String::new, |(low, high)| format!("{}-{}", count(low), count(high))),
    ]
}
