//! What a contract's reads cost: slot after slot, each depending on the last, as execution reads them. From a draft after
//! `warm`, beside a bare map, and beside asking the shards each time.
//!
//! The goal is at most 0.5 us for a slot of a 64-byte key and a 32-byte value, present or absent.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
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

/// The next of `slots` numbers: known only when the last value has been read.
fn next(value: &[u8; 32], count: &mut u64, slots: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *value;
    *count += 1;
    mix(u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ *count) % slots
}

fn reads(criterion: &mut Criterion) {
    let dir = TempDir::with_prefix_in("draft-", SCRATCH).expect("a directory");
    common::print_machine(dir.path());
    let engine = engine(&dir);
    let mut group = criterion.benchmark_group("one slot after another");
    for warm in WARM {
        let step = SLOTS / warm;
        let (present, absent) = (|n: u64| slot(n * step), |n: u64| slot(SLOTS + 1 + n));
        let all = |of: &dyn Fn(u64) -> SlotKey| (0..warm).map(of).collect::<Vec<_>>();
        let (mut at, mut count) = (0, 0);

        group.bench_function(BenchmarkId::new("making the key alone", warm), |bencher| {
            bencher.iter(|| at = next(&present(at).1, &mut count, warm));
        });
        let map: HashMap<SlotKey, [u8; 32], ahash::RandomState> =
            all(&present).into_iter().map(|slot| (slot, slot.1)).collect();
        group.bench_function(BenchmarkId::new("a map of keys and values", warm), |bencher| {
            bencher.iter(|| at = next(&map[&present(at)], &mut count, warm));
        });
        drop(map);

        let mut draft = draft(&engine);
        draft.blocking().warm::<Slots>(&all(&present)).expect("a read");
        draft.blocking().warm::<Slots>(&all(&absent)).expect("a read");
        println!("{} bytes held for {} slots", draft.bytes(), 2 * warm);
        group.bench_function(BenchmarkId::new("draft after warm, present", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&present(at)).expect("a read").expect("present");
                at = next(&value, &mut count, warm);
            });
        });
        group.bench_function(BenchmarkId::new("draft after warm, absent", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&absent(at)).expect("a read");
                assert!(value.is_none(), "absent");
                at = next(&value.unwrap_or_default(), &mut count, warm);
            });
        });
        group.bench_function(BenchmarkId::new("draft, read and written", warm), |bencher| {
            bencher.iter(|| {
                let value = draft.blocking().get::<Slots>(&present(at)).expect("a read").expect("present");
                draft.put::<Slots>(&present(at), &value).expect("a write");
                at = next(&value, &mut count, warm);
            });
        });
    }
    let keys: Vec<SlotKey> = (0..20_000).map(slot).collect();
    let (mut at, mut count) = (0, 0);
    group.bench_function("asking the shards each time", |bencher| {
        bencher.iter(|| {
            let value = engine.blocking().get::<Slots>(&slot(at)).expect("a read").expect("present");
            at = next(&value, &mut count, 20_000);
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
