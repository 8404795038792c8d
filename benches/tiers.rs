//! Two tiers: how close old data is packed, what a cold read costs, and what a move costs those who use hot data meanwhile.
//!
//! Prints tables. `TIERS_BLOCKS` sets how long the generated chain is.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitcoin::consensus::encode::deserialize;
use bitcoin::hashes::Hash as _;
use common::{Rng, SCRATCH, key, median, print_machine};
use op_engine::chain::collections::{ContractState, Slot, Transactions};
use op_engine::chain::ingest::block_changes;
use op_engine::chain::regtest::{RegtestChain, RegtestOptions};
use op_engine::chain::{self, ChainBlock};
use op_engine::{
    Block, BlockHash, ColdAfter, ColdTarget, Collection, Compression, Config, Durability, Engine, Height,
    Layout, ShardConfig, TierPolicy,
};
use op_engine_shards::segment_meta::Tier;

const SHARDS: u16 = 2;
const RUNS: usize = 7;

fn blocks() -> u64 {
    std::env::var("TIERS_BLOCKS").map_or(10_000, |text| text.parse().expect("a number of blocks"))
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir_in(SCRATCH).expect("a directory for the store"))
    }

    fn config(&self) -> Config {
        let cold = self.0.path().join("cold");
        std::fs::create_dir_all(&cold).expect("a directory for cold data");
        Config::new(self.0.path().join("store"))
            .shards(SHARDS)
            .calibrate(false)
            .reorg_window(0)
            .durability(Durability::deferred())
            .cold(ColdTarget::Directory(cold))
    }
}

/// Bytes before and after, and the cold reads of each key.
struct Packed {
    plain_bytes: u64,
    bytes: u64,
    records: u64,
    reads_each: f64,
}

/// Commits blocks, moves everything, and reads some of it.
fn pack<C: Collection>(
    blocks: &[Block],
    compression: Compression,
    keys: &[C::Key],
    read: impl Fn(&Engine, &C::Key) -> bool,
) -> Packed {
    let scratch = Scratch::new();
    let policy = TierPolicy { after: ColdAfter::Confirmations(0), compression };
    let settings = ShardConfig { cold_cache_bytes: 1, ..ShardConfig::default() };
    let config = scratch
        .config()
        .collections(chain::collections)
        .tier::<C>(policy)
        .shard_settings(settings)
        .cold_rate(0);
    let engine = Engine::open_blocking(config).expect("a new store opens");
    for block in blocks {
        engine.blocking().submit(block.clone()).expect("a block is taken");
    }
    engine.blocking().compact().expect("everything is merged");
    op_engine_io::block_on(engine.move_to_cold(false)).expect("everything moves");
    let id = engine.collection_names().into_iter().find(|(_, name)| name == C::NAME).expect("it is there").0;
    let stats = op_engine_io::block_on(engine.stats()).expect("stats");
    let mut packed = Packed { plain_bytes: 0, bytes: 0, records: 0, reads_each: 0.0 };
    for segment in
        stats.shards.iter().flat_map(|shard| &shard.segments).filter(|segment| segment.collection == id)
    {
        if let Tier::Cold { data_bytes, plain_bytes } = segment.tier {
            packed.plain_bytes += plain_bytes;
            packed.bytes += data_bytes;
            packed.records += segment.entries;
        }
    }
    let cold_reads = || {
        let stats = op_engine_io::block_on(engine.stats()).expect("stats");
        let of = |shard: &op_engine_shards::stats::ShardStats| {
            shard
                .traffic
                .get(&id)
                .map_or(0, |traffic| traffic.levels.values().map(|level| level.cold_reads).sum::<u64>())
        };
        stats.shards.iter().map(of).sum::<u64>()
    };
    let before = cold_reads();
    for key in keys {
        assert!(read(&engine, key), "a record that has moved is found");
    }
    packed.reads_each = (cold_reads() - before) as f64 / keys.len().max(1) as f64;
    engine.close_blocking().expect("the store closes");
    packed
}

fn show<C: Collection>(
    what: &str,
    blocks: &[Block],
    keys: &[C::Key],
    read: impl Fn(&Engine, &C::Key) -> bool,
) {
    for level in [3, 9] {
        let [with, without] =
            [true, false].map(|dictionary| pack::<C>(blocks, Compression { level, dictionary }, keys, &read));
        let ratio = |packed: &Packed| packed.plain_bytes as f64 / packed.bytes.max(1) as f64;
        println!(
            "{what:<44} {:>9} {:>10.1} KiB  zstd {level:>2}: {:>5.2}   with a dictionary: {:>5.2}   cold reads a record: {:.2}",
            with.records,
            with.plain_bytes as f64 / 1024.0,
            ratio(&without),
            ratio(&with),
            with.reads_each,
        );
    }
}

/// What tokens do all day: balances of some holders change. A pointer is a hash, an amount a number in 32 bytes.
fn write_balances(rng: &mut Rng, height: u64, block: &mut Block) {
    for _ in 0..20 {
        let (contract, holder) = (rng.below(50), rng.below(400));
        let mut value = [0; 32];
        value[16..].copy_from_slice(&(u128::from(rng.next() >> 20) * 1_000_000_000).to_be_bytes());
        let slot = Slot { value, height, proofs: Vec::new() };
        block.put::<ContractState>(&(key(contract), key(contract << 32 | holder)), &slot);
    }
}

fn compression() {
    println!("\nHow close data is packed: bytes before to bytes after, pages of 32 KiB");
    let read_transaction = |engine: &Engine, key: &(u64, u32)| {
        engine.blocking().get::<Transactions>(key).expect("a read").is_some()
    };
    let raw: &[u8] = bitcoin_test_data::blocks::mainnet_702861();
    let block: bitcoin::Block = deserialize(raw).expect("a block");
    let mainnet = ChainBlock {
        height: 702_861,
        hash: block.block_hash().to_byte_array(),
        parent: block.header.prev_blockhash.to_byte_array(),
        txids: block.txdata.iter().map(|transaction| transaction.compute_txid().to_byte_array()).collect(),
        raw: raw.to_vec(),
        block,
    };
    let count = u32::try_from(mainnet.txids.len()).expect("a block has few transactions");
    let keys: Vec<(u64, u32)> = (0..count).step_by(97).map(|at| (702_861, at)).collect();
    show::<Transactions>(
        "mainnet block 702861, transactions",
        &[block_changes(&mainnet)],
        &keys,
        read_transaction,
    );

    let mut chain = RegtestChain::new(RegtestOptions::default());
    let mut changes = Vec::new();
    let mut amounts = Rng(9);
    for _ in 0..blocks() {
        let block = chain.mine();
        let mut block_with_slots = block_changes(&block);
        write_balances(&mut amounts, block.height, &mut block_with_slots);
        changes.push(block_with_slots);
        chain.forget_below(block.height.saturating_sub(200));
    }
    let mut rng = Rng(5);
    let keys: Vec<(u64, u32)> = (0..200).map(|_| (1 + rng.below(blocks() - 2), 0)).collect();
    show::<Transactions>(
        &format!("generated chain of {} blocks, transactions", blocks()),
        &changes,
        &keys,
        read_transaction,
    );
    show::<ContractState>("the same chain, old 32-byte values of slots", &changes, &[], |_, _| true);
}

/// Read from the disk while old data moves.
struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = [u8; 32];
    type Value = [u8; 60];
}

/// Written meanwhile.
struct Ledger;

impl Collection for Ledger {
    const NAME: &'static str = "ledger";
    type Key = [u8; 32];
    type Value = [u8; 60];
}

/// Moves.
struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = (u64, u32);
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;
}

const COINS: u64 = 200_000;
const BODY_BLOCKS: u64 = 400;

fn hash(height: u64) -> BlockHash {
    BlockHash(key(!height))
}

fn next(engine: &Engine) -> Block {
    let height = engine.tip().map_or(0, |tip| tip.height.0 + 1);
    Block::new(Height(height), hash(height), height.checked_sub(1).map_or(BlockHash([0; 32]), hash))
}

/// Records read, or blocks committed, in a second.
fn rate(mut work: impl FnMut() -> u64) -> f64 {
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(1500) {
        done += work();
    }
    done as f64 / began.elapsed().as_secs_f64()
}

/// A thread that moves data to and fro for as long as it is told to.
struct Mover {
    wanted: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Whether a move is going on: one that has begun goes on to its end, whatever is wanted.
    busy: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Mover {
    fn new(engine: Engine) -> Self {
        let [wanted, stop, busy] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let flags = [&wanted, &stop, &busy].map(Arc::clone);
        let thread = std::thread::spawn(move || {
            let ([wanted, stop, busy], mut moved) = (flags, 0);
            while !stop.load(Ordering::Relaxed) {
                if wanted.load(Ordering::Relaxed) {
                    busy.store(true, Ordering::Relaxed);
                    let there = op_engine_io::block_on(engine.move_to_cold(true)).expect("it moves");
                    let all = (Height(0), Height(u64::MAX));
                    let back = op_engine_io::block_on(engine.warm_up(all.0, all.1)).expect("it moves back");
                    moved += there.bytes_before + back.bytes_before;
                } else {
                    busy.store(false, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            moved
        });
        Self { wanted, stop, busy, thread }
    }

    /// Begins to move, or waits until nothing moves any more.
    fn set(&self, moves: bool) {
        self.wanted.store(moves, Ordering::Relaxed);
        while self.busy.load(Ordering::Relaxed) != moves {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
    }

    /// Bytes moved, both ways.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the mover ends")
    }
}

fn interference(rate_mib: u64) {
    println!("\nHot reads and durable commits while old data moves at up to {rate_mib} MiB/s a shard");
    let scratch = Scratch::new();
    let settings = ShardConfig { cache_bytes: 4 << 20, ..ShardConfig::default() };
    let config = || {
        let config = scratch
            .config()
            .collection::<Coins>()
            .collection::<Ledger>()
            .collection::<Bodies>()
            .durability(Durability::Block);
        let config = config.tier::<Bodies>(TierPolicy::after_confirmations(0));
        config.cold_rate(rate_mib << 20).shard_settings(settings.clone())
    };
    let engine = Engine::open_blocking(config()).expect("a new store opens");
    let mut rng = Rng(11);
    for height in 0..BODY_BLOCKS {
        let mut block = next(&engine);
        for n in 0..COINS / BODY_BLOCKS {
            block.put::<Coins>(&key(height * (COINS / BODY_BLOCKS) + n), &[7; 60]);
        }
        for n in 0..400u32 {
            let body: Vec<u8> = (0..500).flat_map(|_| (rng.below(200) as u32).to_le_bytes()).collect();
            block.put::<Bodies>(&(height, n), &body);
        }
        engine.blocking().commit(block).expect("a block is committed");
    }
    engine.blocking().compact().expect("everything is merged");
    let mover = Mover::new(engine.clone());
    let keys = |rng: &mut Rng| -> Vec<[u8; 32]> { (0..1000).map(|_| key(rng.below(COINS))).collect() };
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..RUNS {
        for is_moving in [false, true] {
            mover.set(is_moving);
            let read = rate(|| {
                let found = engine.blocking().get_many::<Coins>(&keys(&mut rng)).expect("a read");
                assert!(found.iter().all(Option::is_some), "every coin is there");
                found.len() as u64
            });
            let committed = rate(|| {
                let mut block = next(&engine);
                for _ in 0..500 {
                    block.put::<Ledger>(&key(rng.below(COINS)), &[9; 60]);
                }
                engine.blocking().commit(block).expect("a commit");
                1
            });
            rates[usize::from(is_moving)].push(read);
            rates[2 + usize::from(is_moving)].push(committed);
        }
    }
    let moved = mover.stop();
    let [read, read_moving, committed, committed_moving] = rates.map(median);
    println!("moved to and fro meanwhile: {:.0} MiB", moved as f64 / (1 << 20) as f64);
    for (what, alone, moving) in [
        ("records read in batches of 1,000", read, read_moving),
        ("durable blocks of 500 records", committed, committed_moving),
    ] {
        let kept = moving / alone * 100.0;
        let mark = if kept >= 90.0 { "met" } else { "MISSED" };
        println!(
            "{what:<36} {alone:>10.1}/s alone {moving:>10.1}/s while moving: {kept:>5.1} %, at least 90: {mark}"
        );
    }
    engine.close_blocking().expect("the store closes");
}

fn main() {
    print_machine(Path::new(SCRATCH));
    compression();
    interference(16);
}
