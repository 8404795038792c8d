//! `op-engine stats`

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use op_engine::{Engine, Stats};
use op_engine_io::num::to_u64;
use op_engine_io::{Dir, FileKind, block_on};
use op_engine_shards::CollectionId;
use op_engine_shards::stats::{SegmentState, SegmentStats, ShardStats, SpaceStats, StallReason};

use super::failure::Outcome;
use super::show::{Out, bytes, count, percent, plural, table};
use super::store::StoreArgs;

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
    out.line("")?;
    let names: BTreeMap<CollectionId, String> = engine.collection_names().into_iter().collect();
    let name = |id: &CollectionId| names.get(id).cloned().unwrap_or_else(|| format!("collection {id}"));
    collections(stats, &name, out)?;
    shards(stats, &args.store.store, out)?;
    if args.segments { all_segments(stats, &name, out) } else { Ok(()) }
}

/// Sums over the segments of one collection.
#[derive(Default)]
struct Sum {
    segments: u64,
    young: u64,
    entries: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

impl Sum {
    fn add(&mut self, segment: &SegmentStats) {
        self.segments += 1;
        self.young += u64::from(segment.state == SegmentState::Young);
        self.entries += segment.entries;
        self.file_bytes += segment.file_bytes;
        self.memory_bytes += segment.memory_bytes;
    }

    fn row(&self, name: String) -> [String; 6] {
        let Self { segments, young, entries, file_bytes, memory_bytes } = self;
        [name, count(*segments), count(*young), count(*entries), bytes(*file_bytes), bytes(*memory_bytes)]
    }
}

fn collections(stats: &Stats, name: &dyn Fn(&CollectionId) -> String, out: &mut Out) -> Outcome {
    let mut sums: BTreeMap<CollectionId, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for segment in stats.shards.iter().flat_map(|shard| &shard.segments) {
        sums.entry(segment.collection).or_default().add(segment);
        total.add(segment);
    }
    let mut rows = table(&["collection", "segments>", "young>", "versions>", "on disk>", "in memory>"]);
    for (id, sum) in &sums {
        rows.add_row(sum.row(name(id)));
    }
    rows.add_row(total.row("all".to_owned()));
    out.table("Collections and indexes: segments of all shards", &rows)
}

fn shards(stats: &Stats, store: &Path, out: &mut Out) -> Outcome {
    let mut rows = table(&[
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
    let mut rows = table(&["shard>", "number>", "collection", "state", "heights", "versions>", "on disk>"]);
    for shard in &stats.shards {
        for segment in &shard.segments {
            let state = match segment.state {
                SegmentState::Young => "young",
                SegmentState::Final => "final",
                SegmentState::Orphaned => "orphaned",
            };
            rows.add_row([
                shard.shard.to_string(),
                segment.number.to_string(),
                name(&segment.collection),
                state.to_owned(),
                format!("{}-{}", segment.heights.0, segment.heights.1),
                count(segment.entries),
                bytes(segment.file_bytes),
            ]);
        }
    }
    out.table("Segments", &rows)
}
