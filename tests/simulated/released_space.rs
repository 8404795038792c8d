//! Merges of runs that are one large file each: what they have gone past is given back while they go on, and not while
//! somebody reads it.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, ShardConfig};
use op_engine_io::sim::{Personality, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Env as _, FileOp};
use op_engine_shards::mutants::{Mutant, activate};

const RUNS: u64 = 8;
const KEYS: u64 = 20_000;
const VALUE_BYTES: usize = 60;

struct Records;

impl Collection for Records {
    const NAME: &'static str = "records";
    type Key = u64;
    type Value = Vec<u8>;
}

fn settings() -> ShardConfig {
    ShardConfig {
        wal_file_bytes: 1 << 20,
        memtable_bytes_max: 8 << 20,
        segment_bytes_max: 8 << 20,
        merge_file_bytes_min: 64 << 10,
        // Nothing is merged before that is asked for.
        merge_fan_in: 100,
        space_reserve_bytes: Some(64 << 10),
        ..ShardConfig::default()
    }
}

async fn open(machine: SimWorld) -> Engine {
    let config = Config::new("/simulated").collection::<Records>().reorg_window(1);
    Engine::open_on(machine, config, 1, settings()).await.unwrap()
}

fn hash(height: u64) -> BlockHash {
    BlockHash([height as u8; 32])
}

fn value(key: u64) -> Vec<u8> {
    vec![key as u8; VALUE_BYTES]
}

/// Runs of one file each, whose keys lie between each other.
async fn fill(engine: &Engine) {
    for height in 1..=RUNS + 2 {
        let mut block = Block::new(Height(height), hash(height), hash(height - 1));
        for key in (0..KEYS).filter(|key| key % RUNS == height % RUNS && height <= RUNS) {
            block.put::<Records>(&key, &value(key));
        }
        engine.commit(block).await.unwrap();
        engine.flush().await.unwrap();
    }
}

/// What the store takes on the disk now.
async fn taken(env: &SimEnv) -> u64 {
    let space = env.space().await.unwrap();
    space.total_bytes - space.available_bytes
}

/// Reads everything in both directions until `is_over`, and looks how much the store takes.
async fn read_all(engine: &Engine, env: &SimEnv, is_over: &Cell<bool>) -> u64 {
    let mut most = 0;
    let expected: Vec<(u64, Vec<u8>)> = (0..KEYS).map(|key| (key, value(key))).collect();
    while !is_over.get() {
        let forward = engine.scan::<Records>().collect().await.unwrap();
        assert!(forward == expected, "{} rows", forward.len());
        most = most.max(taken(env).await);
        let mut backward = engine.scan::<Records>().descending().collect().await.unwrap();
        backward.reverse();
        assert!(backward == expected, "{} rows backwards", backward.len());
        most = most.max(taken(env).await);
    }
    most
}

/// Merges everything while everything is read. Gives what the store took before, at most meanwhile, and what was given back.
fn merge_while_reading(seed: u64) -> (u64, u64, u64) {
    let options =
        SimOptions { free_bytes: Some(64 << 20), step_max: u64::MAX, ..SimOptions::with_seed(seed) };
    let world = SimWorld::new(options, SimDisk::new());
    let (machine, env) = (world.clone(), world.env());
    let ran = world.run(async move {
        let engine = open(machine).await;
        fill(&engine).await;
        env.sleep(Duration::from_secs(1)).await;
        let before = taken(&env).await;
        let is_over = Rc::new(Cell::new(false));
        let merging = async {
            engine.compact().await.unwrap();
            is_over.set(true);
        };
        let ((), most) = join(merging, read_all(&engine, &env, &is_over)).await;
        let stats = engine.stats().await.unwrap();
        engine.close().await.unwrap();
        (before, most, stats.shards.iter().map(|shard| shard.released_bytes).sum())
    });
    assert_eq!(world.panics(), Vec::new());
    drop(world.stop());
    ran.done().expect("the run ends")
}

#[test]
fn a_merge_of_large_files_takes_little_space_although_everything_is_read_meanwhile() {
    for seed in 0..5 {
        let (before, most, released) = merge_while_reading(seed);
        let records = KEYS * (VALUE_BYTES as u64 + 8);
        println!("seed {seed}: {before} bytes before, {most} at most, {released} given back");
        assert!(released > records / 2, "{released} of {records} bytes are given back before their files go");
        assert!(most < before + records / 2, "{most} bytes are taken, {before} before");
    }
}

/// What a crash before, during and after each hole leaves on the disk, while everything is merged.
fn crash_at_holes(personality: Personality) -> Vec<SimDisk> {
    let options = SimOptions { personality, step_max: u64::MAX, ..SimOptions::with_seed(3) };
    let world = SimWorld::new(options, SimDisk::new());
    let images: Rc<RefCell<Vec<SimDisk>>> = Rc::default();
    let (machine, found, after) = (world.clone(), Rc::clone(&images), Cell::new(0));
    world.on_io(move |index, event, disk| {
        let is_hole = event.op == FileOp::Release;
        after.set(if is_hole { 3 } else { u32::saturating_sub(after.get(), 1) });
        if after.get() > 0 {
            found.borrow_mut().push(disk.crash(index, personality));
        }
    });
    let ran = world.run(async move {
        let engine = open(machine).await;
        fill(&engine).await;
        engine.compact().await.unwrap();
        engine.close().await.unwrap();
    });
    ran.done().expect("the run ends");
    drop(world.stop());
    images.take()
}

#[test]
fn a_crash_around_a_hole_loses_nothing() {
    for personality in [Personality::Strict, Personality::Ext4] {
        let images = crash_at_holes(personality);
        assert!(images.len() > 30, "{} crashes", images.len());
        for (nth, image) in images.into_iter().enumerate() {
            let options = SimOptions { personality, step_max: u64::MAX, ..SimOptions::with_seed(nth as u64) };
            let world = SimWorld::new(options, image);
            let (machine, env) = (world.clone(), world.env());
            let ran = world.run(async move {
                let engine = open(machine).await;
                let is_over = Rc::new(Cell::new(false));
                let merging = async {
                    engine.compact().await.unwrap();
                    is_over.set(true);
                };
                join(merging, read_all(&engine, &env, &is_over)).await;
                engine.close().await.unwrap();
            });
            ran.done().expect("the run ends");
            assert_eq!(world.panics(), Vec::new());
            drop(world.stop());
        }
    }
}

#[test]
fn a_hole_under_readers_is_caught() {
    activate(Some(Mutant::ReleaseUnderReaders));
    let found = (0..50).find(|seed| {
        let ran = catch_unwind(AssertUnwindSafe(|| merge_while_reading(*seed)));
        ran.is_err()
    });
    activate(None);
    assert!(found.is_some());
}
