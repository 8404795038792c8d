//! What it costs a foreign thread to ask a shard for a record in its memory: the way there and back. Beside it, a map
//! in the same thread, and a bare message to another thread and back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;

use common::{Rng, SCRATCH, key};
use criterion::{Criterion, criterion_group, criterion_main};
use op_engine::{Block, BlockHash, Collection, Config, Engine, Height};
use tempfile::TempDir;

const RECORDS: u64 = 100_000;

struct Records;

impl Collection for Records {
    const NAME: &'static str = "records";
    type Key = [u8; 32];
    type Value = (u64, [u8; 32]);
}

fn engine(dir: &TempDir) -> Engine {
    let config = Config::new(dir.path().join("store")).collection::<Records>().shards(1).calibrate(false);
    let engine = Engine::open_blocking(config).expect("a new store opens");
    let mut block = Block::new(Height(0), BlockHash([1; 32]), BlockHash([0; 32]));
    for n in 0..RECORDS {
        block.put::<Records>(&key(n), &(n, [7; 32]));
    }
    engine.blocking().commit(block).expect("a block is committed");
    engine
}

fn round_trip(criterion: &mut Criterion) {
    let dir = TempDir::with_prefix_in("round-trip-", SCRATCH).expect("a directory");
    common::print_machine(dir.path());
    let engine = engine(&dir);
    let map: BTreeMap<[u8; 32], (u64, [u8; 32])> = (0..RECORDS).map(|n| (key(n), (n, [7; 32]))).collect();
    let mut rng = Rng(1);
    let mut group = criterion.benchmark_group("one record in memory");

    group.bench_function("map in the same thread", |bencher| {
        bencher.iter(|| black_box(map.get(&key(rng.below(RECORDS)))));
    });

    let (ask, asked) = crossbeam_channel::bounded::<crossbeam_channel::Sender<u64>>(1);
    let echo = std::thread::spawn(move || asked.into_iter().all(|answer| answer.send(1).is_ok()));
    group.bench_function("message to a sleeping thread and back", |bencher| {
        bencher.iter(|| {
            let (sender, answer) = crossbeam_channel::bounded(1);
            ask.send(sender).expect("the other thread lives");
            black_box(answer.recv())
        });
    });
    drop(ask);
    assert!(echo.join().expect("the other thread ends"));

    group.bench_function("get from a foreign thread, blocking", |bencher| {
        bencher.iter(|| {
            let found = engine.blocking().get::<Records>(&key(rng.below(RECORDS))).expect("a read");
            assert!(found.is_some());
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("records in memory");
    for many in [10, 100, 1000] {
        group.throughput(criterion::Throughput::Elements(many));
        group.bench_function(format!("get_many of {many}"), |bencher| {
            bencher.iter(|| {
                let keys: Vec<_> = (0..many).map(|_| key(rng.below(RECORDS))).collect();
                let found = engine.blocking().get_many::<Records>(&keys).expect("a read");
                assert!(found.iter().all(Option::is_some));
            });
        });
    }
    group.finish();
    engine.close_blocking().expect("the store closes");
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
