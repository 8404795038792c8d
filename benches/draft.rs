//! What a contract's reads cost: slot after slot, each depending on the last, as execution reads them. From a draft after
//! `warm`, beside a bare map, and beside asking the shards each time. The goal is at most 0.5 us for a slot of a 64-byte
//! key and a 32-byte value, present or absent.
//!
//! Before that, a table: blocks that spend 4,000 coins which are on the device, made as drafts and without. Without one, the
//! maker reads the coins to check them, and the committer reads them again for what they have in the index.
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

use common::{RUNS, SCRATCH, key, median, mix, timed};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use op_engine::{
    Block, BlockHash, Collection, Config, Desc, Draft, Durability, Engine, Height, Index, IndexList,
    ShardConfig,
};
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

const COINS: u64 = 1_000_000;
/// Coins that a block spends, and makes.
const SPENT: u64 = 4_000;

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    type Value = (u64, [u8; 32]);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<CoinsByOwner>()
    }
}

struct CoinsByOwner;

impl Index for CoinsByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Coins;
    type Key = ([u8; 32], Desc<u64>);
    type Covered = ();

    fn entries(_: &([u8; 32], u32), coin: &(u64, [u8; 32]), emit: &mut dyn FnMut(Self::Key, ())) {
        emit((coin.1, Desc(coin.0)), ());
    }
}

/// The blocks of a chain of coins: the next one that has not been spent, and the next that has not been made.
struct CoinChain {
    engine: Engine,
    spent: u64,
    made: u64,
}

impl CoinChain {
    fn new(dir: &TempDir) -> Self {
        // No page is found in memory: each coin costs a read.
        let settings = ShardConfig { cache_bytes: 64 << 10, ..ShardConfig::default() };
        let config = Config::new(dir.path().join("coins")).collection::<Coins>().shards(2).calibrate(false);
        let config = config.durability(Durability::deferred()).shard_settings(settings);
        let engine = Engine::open_blocking(config).expect("a new store opens");
        let mut chain = Self { engine, spent: 0, made: 0 };
        while chain.made < COINS {
            let (height, hash, parent) = chain.next();
            let mut block = Block::new(height, hash, parent);
            for _ in 0..COINS / 20 {
                block.put::<Coins>(&(key(chain.made), 0), &chain.make());
            }
            chain.engine.blocking().commit(block).expect("a block is committed");
        }
        chain.engine.blocking().compact().expect("a merge");
        chain
    }

    fn next(&self) -> (Height, BlockHash, BlockHash) {
        let height = self.engine.tip().map_or(0, |tip| tip.height.0 + 1);
        let parent = self.engine.tip().map_or(BlockHash([0; 32]), |tip| tip.hash);
        (Height(height), BlockHash(key(!height)), parent)
    }

    fn make(&mut self) -> (u64, [u8; 32]) {
        self.made += 1;
        (self.made, key(self.made % 100_000))
    }

    fn next_spent(&mut self) -> Vec<([u8; 32], u32)> {
        let from = self.spent;
        self.spent += SPENT;
        (from..self.spent).map(|n| (key(n), 0)).collect()
    }

    fn plain_block(&mut self) {
        let coins = self.next_spent();
        let (height, hash, parent) = self.next();
        let found = self.engine.blocking().get_many::<Coins>(&coins).expect("a read");
        assert!(found.iter().all(Option::is_some), "every coin is there");
        let mut block = Block::new(height, hash, parent);
        for coin in &coins {
            block.delete::<Coins>(coin);
            block.put::<Coins>(&(key(self.made), 0), &self.make());
        }
        self.engine.blocking().commit(block).expect("a block is committed");
    }

    fn drafted_block(&mut self) {
        let coins = self.next_spent();
        let (height, hash, parent) = self.next();
        let mut draft = self.engine.blocking().draft(height, parent).expect("a draft");
        let found = draft.blocking().get_many::<Coins>(&coins).expect("a read");
        assert!(found.iter().all(Option::is_some), "every coin is there");
        let made: Vec<_> = coins.iter().map(|_| ((key(self.made), 0), self.make())).collect();
        for (coin, (key, value)) in coins.iter().zip(&made) {
            draft.delete::<Coins>(coin).expect("a change");
            draft.put::<Coins>(key, value).expect("a change");
        }
        self.engine.blocking().commit(draft.finish(hash)).expect("a block is committed");
    }

    fn reads(&self) -> u64 {
        self.engine.blocking().stats().expect("stats").device.expect("a real device").reads
    }
}

fn compare_blocks(dir: &TempDir) {
    let mut chain = CoinChain::new(dir);
    let (mut plain, mut drafted, mut reads) = (Vec::new(), Vec::new(), [0, 0]);
    for _ in 0..2 * RUNS {
        let before = chain.reads();
        let ((), elapsed, _) = timed(|| chain.plain_block());
        plain.push(elapsed.as_secs_f64() * 1e3);
        let between = chain.reads();
        let ((), elapsed, _) = timed(|| chain.drafted_block());
        drafted.push(elapsed.as_secs_f64() * 1e3);
        reads = [reads[0] + between - before, reads[1] + chain.reads() - between];
    }
    let (plain, drafted) = (median(plain), median(drafted));
    let [plain_reads, drafted_reads] = reads.map(|reads| reads / (2 * RUNS as u64));
    println!("a block that spends {SPENT} coins on the device, medians of {} interleaved runs:", 2 * RUNS);
    println!("  read, then committed   {plain:>7.2} ms {plain_reads:>6} reads");
    println!(
        "  made as a draft        {drafted:>7.2} ms {drafted_reads:>6} reads  {:>5.2} x",
        drafted / plain
    );
    chain.engine.close_blocking().expect("the store closes");
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
    // A profile shall show nothing but the draft.
    if !std::env::args().any(|argument| argument == "--profile-time") {
        compare_blocks(&dir);
    }
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
