//! What a contract's reads cost: slot after slot, each depending on the last, as execution reads them. From a draft after
//! `warm`, beside a bare map, and beside asking the shards each time.
//!
//! The goal is at most 0.5 us for a slot of a 64-byte key and a 32-byte value, present or absent.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

mod common;

use std::collections::HashMap;
use std::hint::black_box;

use common::{SCRATCH, key, mix};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use op_engine::{Block, BlockHash, Collection, Config, Draft, Engine, Height};
use tempfile::TempDir;

const SLOTS: u64 = 1_000_000;
/// Slots that are warmed: what a block may touch, and what stays in the caches of a core.
const WARM: [u64; 3] = [1_000, 20_000, 200_000];

type SlotKey = ([u8; 32], [u8; 32]);

struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = SlotKey;
    type Value = [u8; 32];
}

fn slot(n: u64) -> SlotKey {
    (key(n % 512), key(n))
}

fn engine(dir: &TempDir) -> Engine {
    let config = Config::new(dir.path().join("store")).collection::<Slots>().shards(2).calibrate(false);
    let engine = Engine::open_blocking(config).expect("a new store opens");
    let mut parent = BlockHash([0; 32]);
    for height in 0..20 {
        let hash = BlockHash(key(!height));
        let mut block = Block::new(Height(height), hash, parent);
        for n in height * SLOTS / 20..(height + 1) * SLOTS / 20 {
            block.put::<Slots>(&slot(n), &key(n + 1));
        }
        engine.blocking().commit(block).expect("a block is committed");
        parent = hash;
    }
    engine.blocking().flush().expect("a flush");
    engine
}

fn draft(engine: &Engine) -> Draft {
    let tip = engine.tip().expect("there is a tip");
    engine.blocking().draft(Height(tip.height.0 + 1), tip.hash).expect("a draft")
}

/// The next slot of a chain of reads: known only when the last one has been read.
fn next(value: &[u8; 32], keys: &[SlotKey]) -> usize {
    let [a, b, c, d, e, f, g, h, ..] = *value;
    let number = mix(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    usize::try_from(number % keys.len() as u64).expect("an index")
}

fn reads(criterion: &mut Criterion) {
    let dir = TempDir::with_prefix_in("draft-", SCRATCH).expect("a directory");
    common::print_machine(dir.path());
    let engine = engine(&dir);
    let mut group = criterion.benchmark_group("one slot after another");
    for warm in WARM {
        let present: Vec<SlotKey> = (0..warm).map(|n| slot(n * (SLOTS / warm))).collect();
        let absent: Vec<SlotKey> = (0..warm).map(|n| slot(SLOTS + 1 + n)).collect();
        let map: HashMap<SlotKey, [u8; 32], ahash::RandomState> =
            present.iter().enumerate().map(|(n, slot)| (*slot, key(n as u64))).collect();
        let mut at = 0;
        group.bench_function(BenchmarkId::new("a map of keys and values", warm), |bencher| {
            bencher.iter(|| at = next(&map[&present[at]], &present));
        });

        let mut draft = draft(&engine);
        draft.blocking().warm::<Slots>(&present).expect("a read");
        draft.blocking().warm::<Slots>(&absent).expect("a read");
        println!("{} bytes held for {} slots", draft.bytes(), 2 * warm);
        let mut at = 0;
        group.bench_function(BenchmarkId::new("draft after warm, present", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&present[at]).expect("a read").expect("present");
                at = next(&value, &present);
            });
        });
        let (mut at, mut count) = (0, 0u64);
        group.bench_function(BenchmarkId::new("draft after warm, absent", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&absent[at]).expect("a read");
                count += 1;
                at = next(&value.unwrap_or(key(count)), &absent);
            });
        });
        group.bench_function(BenchmarkId::new("key and mix alone", warm), |bencher| {
            bencher.iter(|| {
                count += 1;
                at = next(&key(count), &absent);
            });
        });
        let mut at = 0;
        group.bench_function(BenchmarkId::new("draft, written and read", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&present[at]).expect("a read").expect("present");
                draft.put::<Slots>(&present[at], &value).expect("a write");
                at = next(&value, &present);
            });
        });
    }
    let keys: Vec<SlotKey> = (0..20_000).map(slot).collect();
    let mut at = 0;
    group.bench_function("asking the shards each time", |bencher| {
        bencher.iter(|| {
            let value = engine.blocking().get::<Slots>(&keys[at]).expect("a read").expect("present");
            at = next(&value, &keys);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("ahead");
    group.sample_size(20).throughput(Throughput::Elements(20_000));
    group.bench_function("warm of 20000 slots", |bencher| {
        bencher.iter_batched_ref(
            || draft(&engine),
            |draft| draft.blocking().warm::<Slots>(&keys).expect("a read"),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();

    let mut group = criterion.benchmark_group("a call that fails");
    let mut draft = draft(&engine);
    for writes in [10u64, 1_000] {
        group.throughput(Throughput::Elements(writes));
        group.bench_function(BenchmarkId::new("savepoint, writes, rollback", writes), |bencher| {
            bencher.iter(|| {
                let call = draft.savepoint();
                for n in 0..writes {
                    draft.put::<Slots>(&keys[n as usize], black_box(&[7; 32])).expect("a write");
                }
                draft.rollback(call).expect("the savepoint is open");
            });
        });
    }
    group.finish();
    drop(draft);
    engine.close_blocking().expect("the store closes");
}

criterion_group!(benches, reads);
criterion_main!(benches);
