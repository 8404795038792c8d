//! What a store costs beside the records that it holds: bytes written, bytes on the disk, memory of filters and page
//! indexes, and device reads.
//!
//! Coins are created and spent as on Bitcoin, half of the spent ones young; slots of contracts are overwritten; bodies of
//! transactions are only added. All of it comes through block commits into memtables and files so small that runs of
//! several levels arise. What is counted:
//!
//! - *Write amplification* of a layout: the bytes of its segments, and its part of the bytes of WAL files by what was
//!   committed, zeros that fill new files included, for each byte of key and value committed.
//! - *Space amplification*: the bytes of segment files, of those that are being written and of those that wait to be
//!   removed as well, for each byte of key and value that the tip shows, looked at whenever a file grows once the store
//!   has a quarter of its size. WAL files, manifests and reserve are left out: they are as large as they were set to be,
//!   however much the store holds, and this one holds little.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, Layout, ShardConfig, Stats};
use op_engine_io::sim::{IoEvent, IoPhase, Rng, SimDisk, SimOptions, SimWorld};
use op_engine_io::{Env as _, FileKind, FileName, FileOp};

const SHARDS: u16 = 2;
const BLOCKS: u64 = 2500;
const CREATED: u64 = 140;
const SPENT: u64 = 60;
/// Half of what is spent is at most ten blocks old.
const RECENT: u64 = 10 * CREATED;
const SLOTS_NEW: u64 = 60;
const SLOTS_OVERWRITTEN: u64 = 30;
const BODIES: u64 = 20;
const LOOKUPS: u64 = 3000;

const COIN_BYTES: u64 = 36 + 60;
const COIN_KEY_BYTES: u64 = 36;
const SLOT_BYTES: u64 = 64 + 32;
const BODY_BYTES: u64 = 32 + 250;

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    type Value = [u8; 60];
}

struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = ([u8; 32], [u8; 32]);
    type Value = [u8; 32];
}

struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = [u8; 32];
    type Value = [u8; 250];
    const LAYOUT: Layout = Layout::AppendOnly;
}

fn bytes<const N: usize>(kind: u64, number: u64) -> [u8; N] {
    let mut bytes = [0; N];
    Rng::new(kind << 56 ^ number).fill(&mut bytes);
    bytes
}

fn coin_key(coin: u64) -> ([u8; 32], u32) {
    (bytes(1, coin), (coin % 3) as u32)
}

/// The chain as it is made up.
struct Chain {
    rng: Rng,
    height: u64,
    tip: BlockHash,
    /// Each coin that was ever created, and whether it is spent.
    coins: Vec<bool>,
    unspent: u64,
    slots: u64,
    bodies: u64,
    mutable_bytes: u64,
    append_only_bytes: u64,
}

impl Chain {
    fn new() -> Self {
        Self {
            rng: Rng::new(21),
            height: 0,
            tip: BlockHash([0; 32]),
            coins: Vec::new(),
            unspent: 0,
            slots: 0,
            bodies: 0,
            mutable_bytes: 0,
            append_only_bytes: 0,
        }
    }

    fn live_bytes(&self) -> u64 {
        self.unspent * COIN_BYTES + self.slots * SLOT_BYTES + self.bodies * BODY_BYTES
    }

    fn spend(&mut self, recent: bool) -> Option<u64> {
        let count = self.coins.len() as u64;
        let from = if recent { count.saturating_sub(RECENT) } else { 0 };
        let coin = (0..64).map(|_| from + self.rng.below((count - from).max(1)));
        let coin = coin.into_iter().find(|coin| self.coins.get(*coin as usize) == Some(&false))?;
        self.coins[coin as usize] = true;
        self.unspent -= 1;
        Some(coin)
    }

    fn next_block(&mut self) -> Block {
        self.height += 1;
        let parent = std::mem::replace(&mut self.tip, BlockHash(bytes(4, self.height)));
        let mut block = Block::new(Height(self.height), self.tip, parent);
        for nth in 0..SPENT {
            if let Some(coin) = self.spend(nth % 2 == 0) {
                block.delete::<Coins>(&coin_key(coin));
                self.mutable_bytes += COIN_KEY_BYTES;
            }
        }
        for _ in 0..CREATED {
            let coin = self.coins.len() as u64;
            self.coins.push(false);
            block.put::<Coins>(&coin_key(coin), &bytes(2, coin));
        }
        self.unspent += CREATED;
        let overwritten = (0..SLOTS_OVERWRITTEN).map(|_| self.rng.below(self.slots.max(1)));
        let slots: Vec<u64> = overwritten.chain(self.slots..self.slots + SLOTS_NEW).collect();
        for slot in &slots {
            let key = (bytes(5, slot / 8), bytes(6, *slot));
            block.put::<Slots>(&key, &bytes(7, slot ^ self.height << 32));
        }
        for body in self.bodies..self.bodies + BODIES {
            block.put::<Bodies>(&bytes(8, body), &bytes(9, body));
        }
        self.slots += SLOTS_NEW;
        self.bodies += BODIES;
        self.mutable_bytes += CREATED * COIN_BYTES + slots.len() as u64 * SLOT_BYTES;
        self.append_only_bytes += BODIES * BODY_BYTES;
        block
    }
}

/// Follows every operation on the disk.
#[derive(Default)]
struct Meter {
    /// The segment files that are there, and how long they are.
    segments: BTreeMap<FileName, u64>,
    segment_bytes: u64,
    /// Bytes written to WAL files.
    wal_bytes: u64,
    /// Reads of segments.
    reads: u64,
    /// What the tip shows, and whether that is enough for space to be looked at.
    live_bytes: u64,
    is_large: bool,
    /// The most space for each live byte.
    space_max: f64,
}

impl Meter {
    fn see(&mut self, event: &IoEvent) {
        let Some(file) = event.file else { return };
        match (event.phase, event.op, file.kind) {
            (IoPhase::Submitted, FileOp::Write, FileKind::Segment) => {
                let len = self.segments.entry(file).or_default();
                let grown = (event.offset + event.len).saturating_sub(*len);
                *len += grown;
                self.segment_bytes += grown;
                if self.is_large {
                    self.space_max = self.space_max.max(self.space());
                }
            }
            (IoPhase::Completed, FileOp::Remove, FileKind::Segment) => {
                self.segment_bytes -= self.segments.remove(&file).unwrap_or_default();
            }
            (IoPhase::Submitted, FileOp::Write | FileOp::ZeroFill, FileKind::Wal) => {
                self.wal_bytes += event.len;
            }
            (IoPhase::Submitted, FileOp::Read, FileKind::Segment) => self.reads += 1,
            _ => {}
        }
    }

    fn space(&self) -> f64 {
        self.segment_bytes as f64 / self.live_bytes.max(1) as f64
    }
}

fn settings() -> ShardConfig {
    ShardConfig {
        wal_file_bytes: 768 << 10,
        memtable_bytes_max: 768 << 10,
        segment_bytes_max: 768 << 10,
        segment_write_bytes: 64 << 10,
        append_run_bytes_max: 384 << 10,
        young_runs_max: 4,
        space_reserve_bytes: Some(256 << 10),
        ..ShardConfig::default()
    }
}

/// Runs a store on a disk, with a meter.
fn run(
    disk: SimDisk,
    settings: ShardConfig,
    body: impl AsyncFnOnce(Engine, SimWorld, Rc<RefCell<Meter>>),
) -> SimDisk {
    let world = SimWorld::new(SimOptions { step_max: u64::MAX, ..SimOptions::with_seed(7) }, disk);
    let meter: Rc<RefCell<Meter>> = Rc::default();
    {
        let meter = Rc::clone(&meter);
        world.on_io(move |_, event, _| meter.borrow_mut().see(event));
    }
    let machine = world.clone();
    world
        .run(async {
            let config = Config::new("/simulated").reorg_window(12);
            let config = config.collection::<Coins>().collection::<Slots>().collection::<Bodies>();
            let engine = Engine::open_on(machine.clone(), config, SHARDS, settings).await.unwrap();
            body(engine.clone(), machine, meter).await;
            engine.close().await.unwrap();
        })
        .done()
        .expect("the run ends");
    assert_eq!(world.panics(), Vec::new());
    world.stop()
}

async fn fill(engine: &Engine, world: &SimWorld, chain: &mut Chain, meter: &RefCell<Meter>) {
    let mut on_the_way = VecDeque::new();
    for height in 1..=BLOCKS {
        on_the_way.push_back(engine.submit(chain.next_block()).await.unwrap());
        // A node has its blocks to check: merges are not what it waits for.
        world.env().sleep(Duration::from_millis(2)).await;
        if on_the_way.len() == 4 {
            on_the_way.pop_front().unwrap().acknowledged().await.unwrap();
        }
        let mut meter = meter.borrow_mut();
        meter.live_bytes = chain.live_bytes();
        meter.is_large = height > BLOCKS / 4;
    }
    for pending in on_the_way {
        pending.acknowledged().await.unwrap();
    }
}

/// Bytes of segments for each byte committed.
fn written(engine: &Engine, stats: &Stats, name: &[&str]) -> u64 {
    let names = engine.collection_names();
    let ids: Vec<_> =
        names.iter().filter(|(_, other)| name.contains(&other.as_str())).map(|(id, _)| *id).collect();
    let all = stats.shards.iter().flat_map(|shard| &shard.traffic);
    all.filter(|(id, _)| ids.contains(id)).map(|(_, traffic)| traffic.written_bytes()).sum()
}

async fn check_writes(engine: &Engine, chain: &Chain, meter: &RefCell<Meter>) {
    let stats = engine.stats().await.unwrap();
    let segment_bytes = meter.borrow().segment_bytes;
    let known: u64 =
        stats.shards.iter().flat_map(|shard| &shard.segments).map(|segment| segment.file_bytes).sum();
    assert_eq!(segment_bytes, known, "no file is left over, and none is longer than it says");
    let levels: BTreeSet<_> = stats
        .shards
        .iter()
        .flat_map(|shard| &shard.traffic)
        .flat_map(|(_, traffic)| traffic.levels.keys())
        .collect();
    assert!(levels.len() >= 4, "runs of several levels were written: {levels:?}");
    for shard in &stats.shards {
        let (merges, descents, partial) = (shard.merges, shard.descents, shard.merge_steps_partial);
        assert!(merges > descents && descents > 1 && partial > descents, "{merges} {descents} {partial}");
    }
    let committed = chain.mutable_bytes + chain.append_only_bytes;
    let wal = meter.borrow().wal_bytes as f64 / committed as f64;
    let each = |written: u64, committed: u64| wal + written as f64 / committed as f64;
    let mutable = each(written(engine, &stats, &["coins", "slots"]), chain.mutable_bytes);
    let append_only = each(written(engine, &stats, &["bodies"]), chain.append_only_bytes);
    println!("written: Mutable {mutable:.2}, AppendOnly {append_only:.2}, the WAL's part of both {wal:.2}");
    assert!((2.0..=6.0).contains(&mutable), "{mutable:.2} bytes written for each byte, Mutable");
    assert!((2.0..=4.0).contains(&append_only), "{append_only:.2} bytes written for each byte, AppendOnly");
}

async fn check_space(engine: &Engine, meter: &RefCell<Meter>) {
    let (settled, most) = (meter.borrow().space(), meter.borrow().space_max);
    println!("space: {settled:.3} after compacting, {most:.3} at most");
    assert!((1.0..=1.15).contains(&settled), "{settled:.3} bytes for each live byte after compacting");
    assert!(most <= 1.6, "{most:.3} bytes for each live byte at some moment");
    let stats = engine.stats().await.unwrap();
    let segments = || stats.shards.iter().flat_map(|shard| &shard.segments);
    let memory: u64 = segments().map(|segment| segment.memory_bytes).sum();
    let keys: u64 = segments().map(|segment| segment.keys).sum();
    let memory = memory as f64 / keys as f64;
    println!("memory of filters and page indexes: {memory:.2} bytes for each of {keys} keys");
    assert!((1.0..=2.0).contains(&memory), "{memory:.2} bytes of memory a key");
}

/// Reads of the device for each of many coins that are read one by one.
async fn reads(engine: &Engine, meter: &RefCell<Meter>, mut coin: impl FnMut() -> (u64, bool)) -> f64 {
    let before = meter.borrow().reads;
    for _ in 0..LOOKUPS {
        let (number, is_there) = coin();
        let found = engine.get::<Coins>(&coin_key(number)).await.unwrap();
        assert_eq!(found, is_there.then(|| bytes(2, number)), "coin {number}");
    }
    (meter.borrow().reads - before) as f64 / LOOKUPS as f64
}

#[test]
fn a_store_writes_keeps_and_reads_little_more_than_its_records() {
    let filled = RefCell::new(Chain::new());
    let disk = run(SimDisk::new(), settings(), async |engine, world, meter| {
        let mut chain = Chain::new();
        fill(&engine, &world, &mut chain, &meter).await;
        engine.flush().await.unwrap();
        engine.compact().await.unwrap();
        check_writes(&engine, &chain, &meter).await;
        check_space(&engine, &meter).await;
        filled.replace(chain);
    });
    // Nothing but filters and page indexes is kept in memory.
    let cold = ShardConfig { cache_bytes: 1, ..settings() };
    run(disk, cold, async |engine, world, meter| {
        let chain = filled.replace(Chain::new());
        world.env().sleep(Duration::from_secs(1)).await;
        let (mut rng, coins) = (Rng::new(3), chain.coins.len() as u64);
        let unspent = || loop {
            let coin = rng.below(coins);
            if !chain.coins[coin as usize] {
                return (coin, true);
            }
        };
        let present = reads(&engine, &meter, unspent).await;
        let next = Cell::new(1 << 40);
        let absent = reads(&engine, &meter, || (next.replace(next.get() + 1), false)).await;
        println!("device reads: {present:.3} for a coin that is there, {absent:.3} for one that never was");
        assert!((0.99..=1.05).contains(&present), "{present:.3} reads of a coin that is there");
        assert!(absent <= 0.02, "{absent:.3} reads of a coin that never was");
    });
}
