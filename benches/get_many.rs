//! Point reads from the device: `get_many` of 1,000 random keys beside a bare ring that reads random pages of the same
//! files at the same depth. The goal is 80 % of the bare ring's reads.
//!
//! Prints a table of medians of interleaved runs first; criterion's own report follows. The stores are built once and
//! stay in the build directory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking"
)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::raw_reads::{RawThread, Samples, largest_segments, read_batch};
use common::{RUNS, Rng, SCRATCH, key, print_machine, timed};
use criterion::{Criterion, Throughput};
use op_engine::{Block, BlockHash, Collection, Config, Durability, Engine, Height, ShardConfig};

const RECORDS: u64 = 2_000_000;
const BLOCK_RECORDS: u64 = 20_000;
const KEYS: usize = 1000;
/// Reads of one run.
const RUN_READS: usize = 40_000;
const DEPTHS: [u32; 2] = [32, 128];

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = [u8; 32];
    type Value = (u64, [u8; 32], [u8; 28]);
}

fn config(path: &Path, shards: u16, depth: u32) -> Config {
    // No page is found in memory: each key costs a read.
    let settings = ShardConfig { cache_bytes: 64 << 10, ..ShardConfig::default() };
    let config = Config::new(path).collection::<Coins>().shards(shards).calibrate(false).read_depth(depth);
    config.shard_settings(settings)
}

fn hash(height: u64) -> BlockHash {
    BlockHash(key(!height))
}

/// The store with that many shards, built if it is not there.
fn store(shards: u16) -> PathBuf {
    let path = Path::new(SCRATCH).join(format!("bench-get-many-{shards}"));
    let blocks = RECORDS / BLOCK_RECORDS;
    let last = Height(blocks - 1);
    if let Ok(engine) = Engine::open_blocking(config(&path, shards, 32).create(false)) {
        let is_whole = engine.tip().is_some_and(|tip| tip.height == last);
        engine.close_blocking().expect("the store closes");
        if is_whole {
            return path;
        }
    }
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("a store of an earlier build goes");
    }
    let config = config(&path, shards, 32).durability(Durability::deferred()).reorg_window(6);
    let engine = Engine::open_blocking(config).expect("a new store opens");
    let mut pending = std::collections::VecDeque::new();
    for height in 0..blocks {
        let parent = height.checked_sub(1).map_or(BlockHash([0; 32]), hash);
        let mut block = Block::new(Height(height), hash(height), parent);
        for n in height * BLOCK_RECORDS..(height + 1) * BLOCK_RECORDS {
            block.put::<Coins>(&key(n), &(n, key(n + 1), [3; 28]));
        }
        pending.push_back(engine.blocking().submit(block).expect("a block is taken"));
        if pending.len() > 8
            && let Some(oldest) = pending.pop_front()
        {
            oldest.wait().expect("a block is committed");
        }
    }
    for block in pending {
        block.wait().expect("a block is committed");
    }
    engine.blocking().flush().expect("a flush");
    wait_for_merges(&engine);
    engine.close_blocking().expect("the store closes");
    path
}

fn wait_for_merges(engine: &Engine) {
    let merges =
        || engine.blocking().stats().expect("stats").shards.iter().map(|it| it.merge_bytes).sum::<u64>();
    let mut before = merges();
    loop {
        std::thread::sleep(Duration::from_secs(3));
        let after = merges();
        if after == before {
            return;
        }
        before = after;
    }
}

fn get_some(engine: &Engine, rng: &mut Rng) {
    let keys: Vec<_> = (0..KEYS).map(|_| key(rng.below(RECORDS))).collect();
    let found = engine.blocking().get_many::<Coins>(&keys).expect("a read");
    assert!(found.iter().all(Option::is_some), "every key is there");
}

fn device_reads(engine: &Engine) -> u64 {
    engine.blocking().stats().expect("stats").device.expect("a real device").reads
}

/// `get_many` from some threads at once.
fn measure_engine(engine: &Engine, callers: usize, run: usize, into: &mut Samples) {
    let before = device_reads(engine);
    let ((), elapsed, cpu) = timed(|| {
        std::thread::scope(|scope| {
            for caller in 0..callers {
                scope.spawn(move || {
                    let mut rng = Rng((run * 64 + caller) as u64);
                    (0..RUN_READS / KEYS / callers).for_each(|_| get_some(engine, &mut rng));
                });
            }
        });
    });
    into.add((device_reads(engine) - before) as f64, elapsed, cpu);
}

fn measure_raw(threads: &[RawThread], batch: usize, into: &mut Samples) {
    let ((), elapsed, cpu) = timed(|| (0..RUN_READS / batch).for_each(|_| read_batch(threads, batch)));
    into.add((RUN_READS / batch * batch) as f64, elapsed, cpu);
}

fn compare(path: &Path, shards: u16, depth: u32) {
    let engine = Engine::open_blocking(config(path, shards, depth)).expect("the store opens");
    let threads: Vec<_> = largest_segments(path, shards)
        .into_iter()
        .enumerate()
        .map(|(at, segment)| RawThread::new(segment, depth, at as u64))
        .collect();
    let [mut raw, mut batches, mut one, mut two]: [Samples; 4] = Default::default();
    measure_engine(&engine, 1, 99, &mut Samples::default());
    for run in 0..RUNS {
        measure_raw(&threads, RUN_READS, &mut raw);
        measure_raw(&threads, KEYS, &mut batches);
        measure_engine(&engine, 1, run, &mut one);
        measure_engine(&engine, 2, run, &mut two);
    }
    println!("{shards} shard(s), depth {depth}, medians of {RUNS} interleaved runs of {RUN_READS} reads:");
    raw.print("bare ring, without a pause", &raw);
    batches.print("bare ring, batches of 1000", &raw);
    one.print("get_many(1000), one caller", &raw);
    two.print("get_many(1000), two callers", &raw);
    engine.close_blocking().expect("the store closes");
}

fn main() {
    let stores = [(1, store(1)), (2, store(2))];
    print_machine(Path::new(SCRATCH));
    // A profile shall show nothing but the engine.
    if !std::env::args().any(|argument| argument == "--profile-time") {
        for (shards, path) in &stores {
            DEPTHS.into_iter().for_each(|depth| compare(path, *shards, depth));
        }
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    for (shards, path) in &stores {
        let engine = Engine::open_blocking(config(path, *shards, 32)).expect("the store opens");
        let mut rng = Rng(7);
        let mut group = criterion.benchmark_group(format!("{shards} shard(s), depth 32"));
        group.throughput(Throughput::Elements(KEYS as u64));
        group.bench_function("get_many of 1000 keys on disk", |bencher| {
            bencher.iter(|| get_some(&engine, &mut rng));
        });
        group.finish();
        engine.close_blocking().expect("the store closes");
    }
    criterion.final_summary();
}
