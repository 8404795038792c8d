//! `op-engine stats`

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use op_engine::{Engine, IndexProgress, IndexStatus, Stats};
use op_engine_io::num::to_u64;
use op_engine_io::{Dir, FileKind, block_on};
use op_engine_shards::CollectionId;
use op_engine_shards::segment_meta::Level;
use op_engine_shards::segment_meta::Tier;
use op_engine_shards::stats::{
    LevelStats, SegmentState, ShardStats, SpaceStats, StallReason, TierStats, Traffic,
};

use super::failure::Outcome;
use super::show::{Out, bytes, count, percent, plural, table, wide_table};
use super::store::StoreArgs;
use super::tier;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  op-engine stats --store /var/lib/opnet/store\n  op-engine stats --store \
/var/lib/opnet/store --segments"
)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// List every segment
    #[arg(long)]
    segments: bool,
}

pub(crate) fn run(args: &StatsArgs, out: &mut Out) -> Outcome {
    let engine = args.store.open_to_read()?;
    let stats = block_on(engine.stats())?;
    show(&engine, &stats, args, out)?;
    block_on(engine.close())?;
    Ok(())
}

fn show(engine: &Engine, stats: &Stats, args: &StatsArgs, out: &mut Out) -> Outcome {
    let tip =
        stats.tip.map_or_else(|| "none".to_owned(), |tip| format!("{} {}", count(tip.height.0), tip.hash));
    out.line(format_args!("tip      {tip}"))?;
    out.line(format_args!("horizon  {}", count(stats.horizon.0)))?;
    out.line(format_args!(
        "commits  {} applied, {} durable",
        count(stats.applied.0),
        count(stats.durable.0)
    ))?;
    if let Some(failure) = &stats.failure {
        out.line(format_args!("failure  {failure}"))?;
    }
    upkeep(stats, out)?;
    out.line("")?;
    let names: BTreeMap<CollectionId, String> = engine.collection_names().into_iter().collect();
    let name = |id: &CollectionId| names.get(id).cloned().unwrap_or_else(|| format!("collection {id}"));
    collections(stats, &name, out)?;
    levels(stats, &name, out)?;
    shards(stats, &args.store.store, out)?;
    if args.segments { all_segments(stats, &name, out) } else { Ok(()) }
}

/// Indexes that were added later, and purging.
fn upkeep(stats: &Stats, out: &mut Out) -> Outcome {
    for IndexProgress { index, status, records_done, records_estimated, stalled } in &stats.indexes {
        let status = match status {
            IndexStatus::Ready => continue,
            IndexStatus::Building => {
                let (done, estimated) = (count(*records_done), count(*records_estimated));
                format!("being filled, {done} of about {estimated} records")
            }
            IndexStatus::Failed { why } => format!("failed: {why}"),
        };
        let stalled = stalled.as_ref().map_or_else(String::new, |error| format!("; rests: {error}"));
        out.line(format_args!("index    {index} {status}{stalled}"))?;
    }
    for progress in &stats.purges {
        let (name, below, removed) =
            (&progress.collection, count(progress.below.0), count(progress.records_removed));
        out.line(format_args!("purging  {name} below {below}, {removed} records removed"))?;
        if let Some(failure) = &progress.failure {
            out.line(format_args!("         stopped: {failure}"))?;
        }
    }
    Ok(())
}

/// Sums over the levels of one collection, or of all.
#[derive(Default)]
struct Sum {
    segments: u64,
    young: u64,
    entries: u64,
    file_bytes: u64,
    memory_bytes: u64,
    /// The most runs on a shard.
    runs: u64,
    traffic: Traffic,
}

impl Sum {
    fn add(&mut self, level: &LevelStats) {
        self.segments += level.segments;
        self.young += level.young;
        self.entries += level.entries;
        self.file_bytes += level.file_bytes;
        self.memory_bytes += level.memory_bytes;
    }

    fn row(&self, name: String) -> [String; 9] {
        [
            name,
            count(self.segments),
            count(self.young),
            count(self.runs),
            count(self.entries),
            bytes(self.file_bytes),
            bytes(self.memory_bytes),
            ratio(self.traffic.write_amplification()),
            ratio(self.traffic.read_amplification()),
        ]
    }
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn collections(stats: &Stats, name: &dyn Fn(&CollectionId) -> String, out: &mut Out) -> Outcome {
    let mut sums: BTreeMap<CollectionId, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for shard in &stats.shards {
        let mut runs: BTreeMap<CollectionId, u64> = BTreeMap::new();
        for ((collection, _), level) in shard.levels() {
            sums.entry(collection).or_default().add(&level);
            *runs.entry(collection).or_default() += level.runs;
            total.add(&level);
        }
        for (collection, runs) in runs {
            let sum = sums.entry(collection).or_default();
            sum.runs = sum.runs.max(runs);
            total.runs = total.runs.max(runs);
        }
        for (collection, traffic) in &shard.traffic {
            sums.entry(*collection).or_default().traffic.add(traffic);
            total.traffic.add(traffic);
        }
    }
    let columns = [
        "collection",
        "segments>",
        "young>",
        "runs>",
        "versions>",
        "on disk>",
        "in memory>",
        "written>",
        "reads>",
    ];
    let mut rows = wide_table(&columns);
    for (id, sum) in &sums {
        rows.add_row(sum.row(name(id)));
    }
    rows.add_row(total.row("all".to_owned()));
    out.table("Collections and indexes: segments of all shards", &rows)?;
    out.line("runs     the most on a shard: what a key may have to be looked for in")?;
    out.line("written  bytes of segments for each byte committed since the store was opened")?;
    out.line("reads    of the device for each key looked up since the store was opened")?;
    out.line("")
}

/// The segments of each collection on each shard, level by level: the newest first, the bottom last.
fn levels(stats: &Stats, name: &dyn Fn(&CollectionId) -> String, out: &mut Out) -> Outcome {
    let columns = [
        "collection",
        "shard>",
        "level>",
        "runs>",
        "segments>",
        "state",
        "heights",
        "versions>",
        "on disk>",
        "in memory>",
        "written>",
        "device reads>",
        "cold reads>",
    ];
    let mut rows = wide_table(&columns);
    let mut all: Vec<_> = stats
        .shards
        .iter()
        .flat_map(|shard| shard.levels().into_iter().map(move |(place, level)| (place, shard, level)))
        .collect();
    all.sort_by_key(|((collection, level), shard, _)| (*collection, shard.shard, *level));
    for ((collection, level), shard, sum) in all {
        let traffic = shard.traffic.get(&collection).and_then(|traffic| traffic.levels.get(&level));
        let traffic = traffic.copied().unwrap_or_default();
        rows.add_row([
            name(&collection),
            shard.shard.to_string(),
            level_name(level),
            count(sum.runs),
            count(sum.segments),
            states(&sum),
            sum.heights.map_or_else(String::new, |(lowest, highest)| format!("{}-{}", lowest.0, highest.0)),
            count(sum.entries),
            bytes(sum.file_bytes),
            bytes(sum.memory_bytes),
            bytes(traffic.written_bytes),
            count(traffic.device_reads),
            count(traffic.cold_reads),
        ]);
    }
    out.table("Levels: 1 as flushed, one more with each merge", &rows)
}

fn level_name(level: Level) -> String {
    match level {
        Level::BOTTOM => "bottom".to_owned(),
        Level::ARCHIVED => "archive".to_owned(),
        level => level.number().to_string(),
    }
}

/// How many segments are in which state.
fn states(sum: &LevelStats) -> String {
    let finals = sum.segments.saturating_sub(sum.young + sum.orphaned);
    let parts = [(finals, "final"), (sum.young, "young"), (sum.orphaned, "orphaned")];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    parts.map(|(number, state)| format!("{} {state}", count(number))).collect::<Vec<_>>().join(", ")
}

fn shards(stats: &Stats, store: &Path, out: &mut Out) -> Outcome {
    let mut rows = wide_table(&[
        "shard>",
        "segments>",
        "flushed to>",
        "memtables>",
        "WAL on disk>",
        "reserve>",
        "rollbacks>",
    ]);
    for shard in &stats.shards {
        rows.add_row([
            shard.shard.to_string(),
            count(to_u64(shard.segments.len())),
            count(shard.flushed.0),
            bytes(shard.memtable_bytes),
            on_disk(&store.join(Dir::Shard(shard.shard.0).to_string()), FileKind::Wal),
            on_disk(&store.join(Dir::Shard(shard.shard.0).to_string()), FileKind::Reserve),
            count(shard.rollbacks),
        ]);
    }
    out.table("Shards", &rows)?;
    stalls(stats, out)?;
    out.line(tier::summary(stats))?;
    cold_target(stats, out)?;
    let reads: u64 = stats.shards.iter().map(|shard| shard.cache_misses).sum();
    let hits: u64 = stats.shards.iter().map(|shard| shard.cache_hits).sum();
    out.line(format_args!(
        "pages: {} from the cache, {} from the device: {} hits",
        count(hits),
        count(reads),
        percent(hits, hits + reads)
    ))?;
    let sum = |of: fn(&ShardStats) -> u64| stats.shards.iter().map(of).sum::<u64>();
    out.line(format_args!(
        "filters and page indexes: {} and {} in memory of at most {}, {} partitions read when needed, {} evicted",
        bytes(sum(|shard| shard.filter_bytes)),
        bytes(sum(|shard| shard.index_bytes)),
        bytes(sum(|shard| shard.filter_bytes_max)),
        count(sum(|shard| shard.partition_reads)),
        count(sum(|shard| shard.partition_evictions))
    ))?;
    out.line(format_args!(
        "merges: {} done, {} of them into the bottom, in {}; {} trimmed ({} given back early), {} cleaned, {} of a reorg \
         deleted",
        count(sum(|shard| shard.merges)),
        count(sum(|shard| shard.descents)),
        plural(sum(|shard| shard.merge_steps), "step"),
        plural(sum(|shard| shard.segments_trimmed), "segment"),
        bytes(sum(|shard| shard.released_bytes)),
        count(sum(|shard| shard.segments_cleaned)),
        count(sum(|shard| shard.orphans_deleted))
    ))?;
    if let Some(device) = &stats.device {
        out.line(format_args!(
            "device: {} reads ({}), {} writes ({}), {} syncs since the store was opened",
            count(device.reads),
            bytes(device.read_bytes),
            count(device.writes),
            bytes(device.written_bytes),
            count(device.syncs)
        ))?;
    }
    Ok(())
}

/// How the cold target fares, if it was used.
fn cold_target(stats: &Stats, out: &mut Out) -> Outcome {
    let sum = |of: fn(&TierStats) -> u64| stats.shards.iter().map(|shard| of(&shard.tiering)).sum::<u64>();
    let failed = sum(|tiers| tiers.moves_failed) + sum(|tiers| tiers.reads_failed);
    let archived = sum(|tiers| tiers.files_archived) + sum(|tiers| tiers.files_not_archived);
    if failed > 0 {
        let last = stats.shards.iter().find_map(|shard| shard.tiering.last_failure.as_deref());
        out.line(format_args!(
            "cold target: {} moves and {} reads failed since the store was opened; last: {}",
            count(sum(|tiers| tiers.moves_failed)),
            count(sum(|tiers| tiers.reads_failed)),
            last.unwrap_or_default()
        ))?;
    }
    if archived > 0 {
        out.line(format_args!(
            "archive: {} copied, {} gone without a copy",
            plural(sum(|tiers| tiers.files_archived), "file"),
            count(sum(|tiers| tiers.files_not_archived))
        ))?;
    }
    Ok(())
}

/// Why commits were held up, and what the disk has to do with it.
fn stalls(stats: &Stats, out: &mut Out) -> Outcome {
    let mut rows = table(&["shard>", "commits held up by", "times>", "for>"]);
    for shard in &stats.shards {
        for (reason, stall) in shard.stalls.iter() {
            let for_ms = stall.nanos / 1_000_000;
            rows.add_row([
                shard.shard.to_string(),
                reason_name(reason).to_owned(),
                count(stall.count),
                format!("{} ms", count(for_ms)),
            ]);
        }
    }
    out.table("Stalls since the store was opened", &rows)?;
    let sum = |of: fn(&SpaceStats) -> u64| stats.shards.iter().map(|shard| of(&shard.space)).sum::<u64>();
    out.line(format_args!(
        "full disk: {} refused, {} flushes and {} merges put off since the store was opened",
        plural(stats.refused_for_space, "commit"),
        count(sum(|space| space.flushes_put_off)),
        count(sum(|space| space.merges_put_off)),
    ))
}

fn reason_name(reason: StallReason) -> &'static str {
    match reason {
        StallReason::MemtablesFull => "flushes",
        StallReason::MergesBehind => "merges",
        StallReason::WalQueueFull => "the WAL",
        StallReason::OutOfSpace => "a full disk",
    }
}

/// The files of a kind that a shard has, in use or not. A store that is only read has none of them open.
fn on_disk(shard: &Path, kind: FileKind) -> String {
    let files = std::fs::read_dir(shard).into_iter().flatten().flatten();
    let mine = files.filter(|file| file.path().extension().is_some_and(|ext| ext == kind.extension()));
    let sizes: Vec<u64> = mine.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    format!("{} in {}", bytes(sizes.iter().sum()), plural(to_u64(sizes.len()), "file"))
}

fn all_segments(stats: &Stats, name: &dyn Fn(&CollectionId) -> String, out: &mut Out) -> Outcome {
    out.line("")?;
    let columns =
        ["shard>", "number>", "collection", "level>", "run>", "state", "heights", "versions>", "on disk>"];
    let mut rows = wide_table(&columns);
    for shard in &stats.shards {
        for segment in &shard.segments {
            let state = match segment.state {
                SegmentState::Young => "young",
                SegmentState::Final if segment.tier.is_cold() => "cold",
                SegmentState::Final if segment.tier == Tier::Warm => "warm",
                SegmentState::Final => "final",
                SegmentState::Orphaned => "orphaned",
            };
            rows.add_row([
                shard.shard.to_string(),
                segment.number.to_string(),
                name(&segment.collection),
                level_name(segment.level),
                segment.run.to_string(),
                state.to_owned(),
                format!("{}-{}", segment.heights.0, segment.heights.1),
                count(segment.entries),
                bytes(segment.file_bytes),
            ]);
        }
    }
    out.table("Segments", &rows)
}
