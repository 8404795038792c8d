//! What an OPNet node asks: the most valuable coins of a script, its balance, and many slots at a past height.
//!
//! Prints tables of medians of interleaved runs first; criterion's own report follows. The store is built once and stays
//! in the build directory. `QUERIES_COINS` sets how many coins it has; one script holds 100,000, the others about ten each.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking"
)]

mod common;

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::raw_reads::{RawThread, Samples, largest_segments, read_batch};
use common::{RUNS, Rng, SCRATCH, key, median, mix, print_machine, timed};
use criterion::Criterion;
use op_engine::{
    Block, BlockHash, Collection, Config, Desc, Durability, Engine, Height, History, Index, IndexList,
    ShardConfig,
};

const SHARDS: u16 = 2;
const BLOCKS: u64 = 400;
/// Coins of the largest script.
const LARGEST: u64 = 100_000;
const SLOTS: u64 = 500_000;
const SLOTS_A_BLOCK: u64 = 5_000;
const TOP: usize = 2_000;
/// Slots of one call.
const CALL: usize = 10_000;
const DEPTH: u32 = 32;

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    /// Value, height, script.
    type Value = (u64, u64, [u8; 32]);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByScript>()
    }
}

struct ByScript;

impl Index for ByScript {
    const NAME: &'static str = "by_script";
    type Of = Coins;
    type Key = ([u8; 32], Desc<u64>);
    /// Height.
    type Covered = (u64,);

    fn entries(_: &([u8; 32], u32), coin: &(u64, u64, [u8; 32]), emit: &mut dyn FnMut(Self::Key, (u64,))) {
        emit((coin.2, Desc(coin.0)), (coin.1,));
    }
}

struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = ([u8; 32], [u8; 32]);
    type Value = [u8; 32];
    const HISTORY: History = History::All;
}

fn coins() -> u64 {
    std::env::var("QUERIES_COINS").map_or(2_000_000, |text| text.parse().expect("a number of coins"))
}

/// The script of a coin: every so often the largest one.
fn script(coin: u64) -> [u8; 32] {
    if coin.is_multiple_of(coins() / LARGEST) { key(0) } else { key(1 + mix(coin) % (coins() / 10)) }
}

fn slot(number: u64) -> ([u8; 32], [u8; 32]) {
    (key(number % 1000), key(number))
}

fn slot_written(height: u64, nth: u64) -> u64 {
    mix(height * SLOTS_A_BLOCK + nth) % SLOTS
}

fn config(path: &Path, cache_bytes: u64) -> Config {
    let settings = ShardConfig { cache_bytes, ..ShardConfig::default() };
    let config = Config::new(path).collection::<Coins>().collection::<Slots>().reorg_window(6);
    config.shards(SHARDS).calibrate(false).read_depth(DEPTH).shard_settings(settings)
}

fn hash(height: u64) -> BlockHash {
    BlockHash(key(!height))
}

fn block(height: u64) -> Block {
    let parent = height.checked_sub(1).map_or(BlockHash([0; 32]), hash);
    let mut block = Block::new(Height(height), hash(height), parent);
    let each = coins() / BLOCKS;
    for coin in height * each..(height + 1) * each {
        let value = 330 + mix(coin ^ 0x5A5A) % 100_000_000;
        block.put::<Coins>(&(key(coin), 0), &(value, height, script(coin)));
    }
    for nth in 0..SLOTS_A_BLOCK {
        block.put::<Slots>(&slot(slot_written(height, nth)), &key(height * SLOTS_A_BLOCK + nth));
    }
    block
}

/// The store, built if it is not there.
fn store() -> PathBuf {
    let path = Path::new(SCRATCH).join(format!("bench-queries-{}", coins()));
    if let Ok(engine) = Engine::open_blocking(config(&path, 64 << 20).create(false)) {
        let is_whole = engine.tip().is_some_and(|tip| tip.height == Height(BLOCKS - 1));
        engine.close_blocking().expect("the store closes");
        if is_whole {
            return path;
        }
    }
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("a store of an earlier build goes");
    }
    let config = config(&path, 64 << 20).durability(Durability::deferred());
    let engine = Engine::open_blocking(config).expect("a new store opens");
    let mut pending = VecDeque::new();
    for height in 0..BLOCKS {
        pending.push_back(engine.blocking().submit(block(height)).expect("a block is taken"));
        if pending.len() > 4
            && let Some(oldest) = pending.pop_front()
        {
            oldest.wait().expect("a block is committed");
        }
    }
    for block in pending {
        block.wait().expect("a block is committed");
    }
    engine.blocking().compact().expect("everything is merged");
    engine.close_blocking().expect("the store closes");
    path
}

fn top(engine: &Engine) -> usize {
    let rows = engine.scan_index::<ByScript>().prefix(&(key(0),)).limit(TOP);
    rows.collect_blocking().expect("a scan").len()
}

fn top_with_records(engine: &Engine) -> usize {
    let rows = engine.scan_index::<ByScript>().prefix(&(key(0),)).limit(TOP);
    rows.with_records().collect_blocking().expect("a scan").len()
}

/// Those of enough value that a block below the middle has made.
fn top_filtered(engine: &Engine) -> usize {
    let enough = (key(0), Desc(1000));
    let rows = engine.scan_index::<ByScript>().prefix(&(key(0),));
    let rows = rows.range(Bound::Unbounded, Bound::Included(&enough)).filter(|row| row.2.0 <= BLOCKS / 2);
    rows.limit(TOP).collect_blocking().expect("a scan").len()
}

fn all_by_pages(engine: &Engine) -> usize {
    let (mut token, mut found) = (None, 0);
    loop {
        let mut rows = engine.scan_index::<ByScript>().prefix(&(key(0),));
        if let Some(token) = &token {
            rows = rows.resume(token);
        }
        let page = rows.page_blocking(1000).expect("a page");
        found += page.rows.len();
        token = page.token;
        if token.is_none() {
            return found;
        }
    }
}

fn all_rows(engine: &Engine) -> usize {
    let mut rows = engine.scan_index::<ByScript>().prefix(&(key(0),));
    let mut found = 0;
    while rows.next_blocking().expect("a row").is_some() {
        found += 1;
    }
    found
}

fn balance(engine: &Engine) -> usize {
    let rows = engine.scan_index::<ByScript>().prefix(&(key(0),));
    let totals = rows.sum_blocking(|((_, Desc(value)), ..)| *value).expect("a sum");
    usize::try_from(totals.rows).expect("some coins")
}

fn count_all(engine: &Engine) -> usize {
    usize::try_from(engine.scan::<Coins>().count_blocking().expect("a count")).expect("some coins")
}

type Ask = (&'static str, fn(&Engine) -> usize, usize);

fn queries() -> [Ask; 6] {
    let largest = usize::try_from(LARGEST).expect("a number of rows");
    [
        ("top 2,000 by value, covered", top, TOP),
        ("top 2,000 by value, with records", top_with_records, TOP),
        ("top 2,000 of value and height", top_filtered, TOP),
        ("100,000 rows in pages of 1,000", all_by_pages, largest),
        ("100,000 rows, one by one", all_rows, largest),
        ("count and sum of 100,000 rows", balance, largest),
    ]
}

fn print_queries(engine: &Engine) {
    println!("warm cache, medians of {RUNS} interleaved runs:");
    let mut times = vec![Vec::new(); queries().len()];
    for run in 0..=RUNS {
        for ((_, ask, rows), times) in queries().into_iter().zip(&mut times) {
            let (found, elapsed, _) = timed(|| ask(engine));
            assert_eq!(found, rows);
            if run > 0 {
                times.push(elapsed.as_secs_f64() * 1e3);
            }
        }
    }
    for ((name, ..), times) in queries().into_iter().zip(times) {
        println!("  {name:<36} {:>9.3} ms", median(times));
    }
    let (count, elapsed, _) = timed(|| count_all(engine));
    println!("  count of all {count} coins {:>22.3} ms", elapsed.as_secs_f64() * 1e3);
}

fn some_slots(rng: &mut Rng, height: u64) -> Vec<([u8; 32], [u8; 32])> {
    // Written at or below the height, so that each is there.
    (0..CALL).map(|_| slot(slot_written(rng.below(height + 1), rng.below(SLOTS_A_BLOCK)))).collect()
}

fn device_reads(engine: &Engine) -> u64 {
    engine.blocking().stats().expect("stats").device.expect("a real device").reads
}

/// 10,000 slots at a height in one call, beside as many reads of bare rings.
fn print_slots(path: &Path) {
    let engine = Engine::open_blocking(config(path, 64 << 10)).expect("the store opens");
    let threads: Vec<_> = largest_segments(path, SHARDS)
        .into_iter()
        .enumerate()
        .map(|(at, segment)| RawThread::new(segment, DEPTH, at as u64))
        .collect();
    let [mut raw, mut batches, mut at_height, mut held, mut below]: [Samples; 5] = Default::default();
    let mut rng = Rng(3);
    let mut ask = |height: u64, hold: bool, into: &mut Samples| {
        let slots = some_slots(&mut rng, height);
        let before = device_reads(&engine);
        let (found, elapsed, cpu) = timed(|| {
            if hold {
                engine.blocking().at(Height(height)).unwrap().blocking().get_many::<Slots>(&slots).unwrap()
            } else {
                engine.blocking().get_many_at::<Slots>(Height(height), &slots).unwrap()
            }
        });
        assert!(found.iter().all(Option::is_some), "every slot is there");
        into.add((device_reads(&engine) - before) as f64, elapsed, cpu);
    };
    ask(BLOCKS - 2, false, &mut Samples::default());
    for _ in 0..RUNS {
        let ((), elapsed, cpu) = timed(|| read_batch(&threads, CALL * 4));
        raw.add((CALL * 4) as f64, elapsed, cpu);
        let ((), elapsed, cpu) = timed(|| read_batch(&threads, CALL));
        batches.add(CALL as f64, elapsed, cpu);
        ask(BLOCKS - 3, false, &mut at_height);
        ask(BLOCKS - 3, true, &mut held);
        ask(BLOCKS / 2, false, &mut below);
    }
    println!("{CALL} slots at a height from the device, depth {DEPTH}, medians of {RUNS} interleaved runs:");
    raw.print("bare ring, without a pause", &raw);
    batches.print("bare ring, batches of 10,000", &raw);
    at_height.print("get_many_at, in the window", &raw);
    held.print("at + get_many, in the window", &raw);
    below.print("get_many_at, below the window", &raw);
    engine.close_blocking().expect("the store closes");
}

/// What it costs to look at a past height, for one key in memory.
fn print_heights(engine: &Engine) {
    let height = BLOCKS - 2;
    let key = slot(slot_written(height, 7));
    let get: &dyn Fn() -> bool = &|| engine.blocking().get::<Slots>(&key).unwrap().is_some();
    let get_at = || engine.blocking().get_at::<Slots>(Height(height), &key).unwrap().is_some();
    let held = || {
        let snapshot = engine.blocking().at(Height(height)).unwrap();
        snapshot.blocking().get::<Slots>(&key).unwrap().is_some()
    };
    let ways = [("get, at the tip", get), ("get_at, at a height", &get_at), ("at and get", &held)];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..RUNS {
        for ((_, ask), times) in ways.iter().zip(&mut times) {
            let ((), elapsed, _) = timed(|| (0..2000).for_each(|_| assert!(ask())));
            times.push(elapsed.as_secs_f64() * 1e6 / 2000.0);
        }
    }
    println!("one slot from the cache, medians of {RUNS} interleaved runs:");
    for ((name, _), times) in ways.iter().zip(times) {
        println!("  {name:<36} {:>9.2} us", median(times));
    }
}

fn main() {
    let path = store();
    print_machine(Path::new(SCRATCH));
    // A profile shall show nothing but the engine.
    if !std::env::args().any(|argument| argument == "--profile-time") {
        print_slots(&path);
    }
    let engine = Engine::open_blocking(config(&path, 512 << 20)).expect("the store opens");
    if !std::env::args().any(|argument| argument == "--profile-time") {
        print_queries(&engine);
        print_heights(&engine);
    }
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let mut group = criterion.benchmark_group(format!("a script with {LARGEST} coins"));
    for (name, ask, _) in queries() {
        group.bench_function(name, |bencher| bencher.iter(|| ask(&engine)));
    }
    group.finish();
    engine.close_blocking().expect("the store closes");
    criterion.final_summary();
}
