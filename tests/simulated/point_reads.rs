//! What a read costs: one page for a key that is there and next to none for one that is not, however many runs hold the
//! keys. And what is answered, and kept in memory, when the filters and page indexes of the store do not fit.

use std::collections::BTreeMap;
use std::time::Duration;

use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, ShardConfig};
use op_engine_io::Env as _;
use op_engine_io::sim::{Rng, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_shards::stats::ShardStats;

const BLOCKS: u64 = 10;
const BLOCK_KEYS: u64 = 4000;
const SHARDS: u16 = 2;
const LOOKUPS: usize = 4000;

struct Coins;

type Outpoint = [u8; 36];

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = Outpoint;
    type Value = (u64, [u8; 52]);
}

fn outpoint(n: u64) -> Outpoint {
    let mut bytes = [0; 36];
    Rng::new(n / 2).fill(&mut bytes[..32]);
    bytes[35] = (n % 2) as u8;
    bytes
}

fn hash(height: u64) -> BlockHash {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

/// The numbers of the keys, and the heights at which they were written last.
type State = BTreeMap<u64, u64>;

/// Each block adds coins, writes some over and spends some, and is flushed into a run of its own.
async fn fill(engine: &Engine) -> State {
    let (mut state, mut rng) = (State::new(), Rng::new(1));
    for height in 1..=BLOCKS {
        let mut block = Block::new(Height(height), hash(height), hash(height - 1));
        let mut changes: BTreeMap<u64, Option<u64>> = (0..BLOCK_KEYS / 20)
            .filter(|_| height > 1)
            .map(|n| (rng.below((height - 1) * BLOCK_KEYS), n.is_multiple_of(2).then_some(height)))
            .collect();
        changes.extend(((height - 1) * BLOCK_KEYS..height * BLOCK_KEYS).map(|n| (n, Some(height))));
        for (n, written) in changes {
            match written {
                Some(height) => {
                    block.put::<Coins>(&outpoint(n), &(height, [n as u8; 52]));
                    state.insert(n, height);
                }
                None => {
                    block.delete::<Coins>(&outpoint(n));
                    state.remove(&n);
                }
            }
        }
        engine.commit(block).await.unwrap();
        engine.flush().await.unwrap();
    }
    state
}

/// Sums over all shards.
#[derive(Debug, Clone, Copy)]
struct Sums {
    pages: u64,
    partitions: u64,
    evictions: u64,
    resident_bytes: u64,
    /// Those with coins.
    segments: u64,
}

async fn sums(engine: &Engine) -> Sums {
    let shards = engine.stats().await.unwrap().shards;
    let sum = |of: &dyn Fn(&ShardStats) -> u64| shards.iter().map(of).sum();
    Sums {
        pages: sum(&|shard| shard.cache_misses),
        partitions: sum(&|shard| shard.partition_reads),
        evictions: sum(&|shard| shard.partition_evictions),
        resident_bytes: sum(&|shard| shard.filter_bytes + shard.index_bytes),
        segments: sum(&|shard| shard.segments.iter().filter(|segment| segment.entries > 1000).count() as u64),
    }
}

/// Pages and partitions that are read for a key, looking up random keys one by one.
async fn cost(engine: &Engine, keys: impl FnMut() -> (u64, Option<u64>)) -> (f64, f64) {
    let before = sums(engine).await;
    let mut keys = keys;
    for _ in 0..LOOKUPS {
        let (n, height) = keys();
        let found = engine.get::<Coins>(&outpoint(n)).await.unwrap();
        assert_eq!(found, height.map(|height| (height, [n as u8; 52])), "key {n}");
    }
    let after = sums(engine).await;
    let each = |count: u64| count as f64 / LOOKUPS as f64;
    (each(after.pages - before.pages), each(after.partitions - before.partitions))
}

/// Random keys that are there.
fn present(state: &State, seed: u64) -> impl FnMut() -> (u64, Option<u64>) {
    let keys: Vec<(u64, u64)> = state.iter().map(|(n, height)| (*n, *height)).collect();
    let mut rng = Rng::new(seed);
    move || {
        let (n, height) = keys[rng.index(keys.len())];
        (n, Some(height))
    }
}

/// Random keys that never were.
fn absent(seed: u64) -> impl FnMut() -> (u64, Option<u64>) {
    let mut rng = Rng::new(seed);
    move || (rng.below(1 << 40) + (1 << 41), None)
}

/// Pages are never kept.
fn settings() -> ShardConfig {
    ShardConfig { cache_bytes: 1, merge_fan_in: 1000, merge_inputs_max: 1000, ..ShardConfig::default() }
}

fn run(settings: ShardConfig, disk: SimDisk, body: impl AsyncFnOnce(Engine, SimEnv)) -> SimDisk {
    let world = SimWorld::new(SimOptions { step_max: u64::MAX, ..SimOptions::with_seed(5) }, disk);
    let (machine, env) = (world.clone(), world.env());
    world
        .run(async move {
            let config = Config::new("/simulated").collection::<Coins>();
            let engine = Engine::open_on(machine, config, SHARDS, settings).await.unwrap();
            body(engine.clone(), env).await;
            engine.close().await.unwrap();
        })
        .done()
        .expect("the run ends");
    assert_eq!(world.panics(), Vec::new());
    world.stop()
}

/// Written once, in runs that are not merged.
fn store() -> (SimDisk, State) {
    let mut state = State::new();
    let disk = run(settings(), SimDisk::new(), async |engine, _| state = fill(&engine).await);
    (disk, state)
}

async fn check_costs(engine: &Engine, state: &State) {
    let (pages, partitions) = cost(engine, present(state, 2)).await;
    println!("present: {pages} pages and {partitions} partitions a key");
    assert!((0.99..=1.05).contains(&pages) && partitions == 0.0, "{pages} pages, {partitions} partitions");
    let (pages, partitions) = cost(engine, absent(3)).await;
    println!("absent: {pages} pages and {partitions} partitions a key");
    assert!(pages <= 0.02 && partitions == 0.0, "{pages} pages, {partitions} partitions");
}

#[test]
fn a_key_costs_one_page_and_an_absent_one_next_to_none() {
    // Runs that are as they were flushed, and runs that were merged.
    for (merge_fan_in, segments) in [(1000, 20..=20), (3, 4..=16)] {
        let settings = ShardConfig { merge_fan_in, young_runs_max: 3, ..settings() };
        run(settings, SimDisk::new(), async |engine, _| {
            let state = fill(&engine).await;
            let sums = sums(&engine).await;
            println!("{} segments, {} bytes for {} keys", sums.segments, sums.resident_bytes, state.len());
            assert!(segments.contains(&sums.segments), "{} segments", sums.segments);
            assert_eq!((sums.partitions, sums.evictions), (0, 0), "what was written is in memory");
            check_costs(&engine, &state).await;
        });
    }
}

#[test]
fn an_opened_store_has_its_filters_in_memory_soon() {
    let (disk, state) = store();
    run(settings(), disk, async |engine, env| {
        env.sleep(Duration::from_secs(1)).await;
        check_costs(&engine, &state).await;
        assert_eq!(sums(&engine).await.evictions, 0);
    });
}

/// Everything by single keys, by many at once and by a scan.
async fn check_answers(engine: &Engine, state: &State) {
    let mut rng = Rng::new(7);
    for _ in 0..5 {
        let wanted: Vec<u64> = (0..1000).map(|_| rng.below(BLOCKS * BLOCK_KEYS * 2)).collect();
        let keys: Vec<Outpoint> = wanted.iter().map(|n| outpoint(*n)).collect();
        let before = sums(engine).await;
        let found = engine.get_many::<Coins>(&keys).await.unwrap();
        let after = sums(engine).await;
        for (n, found) in wanted.iter().zip(found) {
            assert_eq!(found, state.get(n).map(|height| (*height, [*n as u8; 52])), "key {n}");
        }
        // The filter and the page index of a run are one partition each. Those that wait for one read it once; it may
        // be gone when others come to need it.
        let partitions = after.partitions - before.partitions;
        assert!(partitions <= 4 * after.segments, "{partitions} partitions are read for one batch");
    }
    let rows = engine.scan::<Coins>().collect().await.unwrap();
    assert_eq!(rows.len(), state.len());
    let expected: BTreeMap<Outpoint, u64> = state.iter().map(|(n, height)| (outpoint(*n), *height)).collect();
    assert!(
        rows.iter()
            .zip(&expected)
            .all(|((key, value), (expected, height))| { key == expected && value.0 == *height })
    );
}

#[test]
fn a_budget_that_is_too_small_is_kept_and_answers_are_right() {
    let (disk, state) = store();
    for filter_bytes_max in [0, 20 << 10, 40 << 10] {
        let settings = ShardConfig { filter_bytes_max, ..settings() };
        run(settings, disk.clone(), async |engine, _| {
            check_answers(&engine, &state).await;
            let (pages, partitions) = cost(&engine, present(&state, 8)).await;
            assert!(
                (0.99..=1.05).contains(&pages) && partitions > 0.5,
                "{pages} pages, {partitions} partitions"
            );
            let stats = engine.stats().await.unwrap();
            for shard in &stats.shards {
                assert_eq!(shard.filter_bytes_max, filter_bytes_max);
                let kept = shard.filter_bytes + shard.index_bytes;
                if filter_bytes_max == 0 {
                    assert_eq!((shard.filter_bytes, shard.partition_evictions), (0, 0));
                } else {
                    assert!(kept <= filter_bytes_max, "{kept} of {filter_bytes_max} bytes");
                    assert!(kept > filter_bytes_max / 2 && shard.partition_evictions > 100);
                }
                let of_segments: u64 = shard.segments.iter().map(|segment| segment.memory_bytes).sum();
                assert!(of_segments >= kept && of_segments < kept + (16 << 10), "{of_segments} and {kept}");
            }
        });
    }
}

#[test]
fn a_scan_leaves_the_pages_that_are_read_often() {
    let (disk, state) = store();
    let settings = ShardConfig { cache_bytes: 150 << 10, ..settings() };
    run(settings, disk, async |engine, _| {
        // 30 keys are on as many pages, and fill most of the cache.
        let hot: Vec<u64> = state.keys().step_by(state.len() / 30).copied().collect();
        let read_hot = async || {
            let before = sums(&engine).await.pages;
            for n in &hot {
                engine.get::<Coins>(&outpoint(*n)).await.unwrap();
            }
            sums(&engine).await.pages - before
        };
        read_hot().await;
        read_hot().await;
        assert_eq!(read_hot().await, 0);
        for _ in 0..3 {
            assert_eq!(engine.scan::<Coins>().collect().await.unwrap().len(), state.len());
        }
        let lost = read_hot().await;
        assert!(lost <= 3, "{lost} of {} pages", hot.len());
    });
}

#[test]
fn versions_that_a_reorg_killed_are_passed_over_from_page_to_page() {
    // With nothing in memory, the page index is asked again for each page.
    for filter_bytes_max in [0, 1 << 20] {
        let settings = ShardConfig { filter_bytes_max, ..settings() };
        run(settings, SimDisk::new(), async |engine, _| {
            let key = outpoint(1);
            for height in 1..=600 {
                let mut block = Block::new(Height(height), hash(height), hash(height - 1));
                block.put::<Coins>(&key, &(height, [height as u8; 52]));
                engine.commit(block).await.unwrap();
            }
            engine.flush().await.unwrap();
            // What the snapshot sees stays where it is.
            let before = engine.snapshot().await.unwrap();
            engine.reorg_to(Height(400)).await.unwrap();
            let pages = sums(&engine).await.pages;
            assert_eq!(engine.get::<Coins>(&key).await.unwrap().map(|value| value.0), Some(400));
            let pages = sums(&engine).await.pages - pages;
            assert!(pages > 3, "{pages} pages");
            assert_eq!(before.get::<Coins>(&key).await.unwrap().map(|value| value.0), Some(600));
        });
    }
}
