//! Many keys at once: repeated keys, keys that are not there, keys whose versions fill pages, and more of them than are
//! located before the first read, with a cache that keeps nothing and one that keeps all.

use std::collections::BTreeMap;
use std::time::Duration;

use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, ShardConfig};
use op_engine_io::sim::{SimDisk, SimOptions, SimWorld};

const BLOCKS: u64 = 240;
const KEYS: u64 = 900;

struct Records;

impl Collection for Records {
    const NAME: &'static str = "records";
    type Key = u64;
    type Value = (u64, Vec<u8>);
}

fn hash(height: u64) -> BlockHash {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

/// What a block changes: a few keys over and over, and others now and then.
fn changes(height: u64) -> Vec<(u64, Option<(u64, Vec<u8>)>)> {
    let often = (0..3).map(|key| (key, Some((height, vec![1; 300]))));
    let seldom = (0..20).map(|n| {
        let key = 10 + (height * 7919 + n * 104_729) % KEYS;
        let value = !(height + n).is_multiple_of(5);
        (key, value.then(|| (height, vec![2; usize::try_from(key % 90).unwrap()])))
    });
    often.chain(seldom).collect()
}

type State = BTreeMap<u64, (u64, Vec<u8>)>;

fn state_at(height: u64) -> State {
    let mut state = State::new();
    for (key, value) in (1..=height).flat_map(changes) {
        match value {
            Some(value) => drop(state.insert(key, value)),
            None => drop(state.remove(&key)),
        }
    }
    state
}

/// Every key and some that never were, in no order, some of them twice.
fn wanted() -> Vec<u64> {
    let all = (0..KEYS + 100).map(|n| n * 617 % (KEYS + 100));
    let again = (0..150).map(|n| n * 31 % 40);
    all.chain(again).collect()
}

async fn fill(engine: &Engine) {
    for height in 1..=BLOCKS {
        let mut block = Block::new(Height(height), hash(height), hash(height - 1));
        for (key, value) in changes(height) {
            match value {
                Some(value) => block.put::<Records>(&key, &value),
                None => block.delete::<Records>(&key),
            };
        }
        engine.commit(block).await.unwrap();
    }
}

async fn compare(engine: &Engine) {
    let keys = wanted();
    for height in [BLOCKS, BLOCKS - 1, BLOCKS / 2, 3] {
        let state = state_at(height);
        let expected: Vec<_> = keys.iter().map(|key| state.get(key).cloned()).collect();
        let snapshot = engine.at(Height(height)).await.unwrap();
        assert_eq!(snapshot.get_many::<Records>(&keys).await.unwrap(), expected, "at height {height}");
        for (key, expected) in keys.iter().zip(&expected).step_by(97) {
            assert_eq!(snapshot.get::<Records>(key).await.unwrap(), *expected);
        }
    }
}

#[test]
fn many_keys_at_once_are_what_each_key_is() {
    for (cache_bytes, page_bytes, merge_fan_in, filter_bytes_max) in
        [(1, 4096, 4, 0), (64 << 20, 4096, 1000, 1 << 20), (16 << 10, 8192, 2, 3 << 10)]
    {
        let settings = ShardConfig {
            wal_file_bytes: 64 << 10,
            memtable_bytes_max: 24 << 10,
            memtable_age_max: Duration::from_secs(1),
            cache_bytes,
            filter_bytes_max,
            page_bytes,
            merge_fan_in,
            space_reserve_bytes: Some(64 << 10),
            ..ShardConfig::default()
        };
        let world = SimWorld::new(SimOptions::with_seed(cache_bytes), SimDisk::new());
        let machine = world.clone();
        let pages_read = world
            .run(async move {
                let config = Config::new("/simulated").collection::<Records>();
                let engine = Engine::open_on(machine, config, 2, settings).await.unwrap();
                fill(&engine).await;
                compare(&engine).await;
                engine.flush().await.unwrap();
                compare(&engine).await;
                let stats = engine.stats().await.unwrap();
                engine.close().await.unwrap();
                stats.shards.iter().map(|shard| shard.cache_misses).sum::<u64>()
            })
            .done()
            .expect("the run ends");
        assert!(pages_read > 50, "keys are read from segments: {pages_read} pages");
        assert_eq!(world.panics(), Vec::new());
        drop(world.stop());
    }
}
