//! Going back 100 large blocks beside going back one small one. Both write one frame to each shard: the ratio shall be
//! at most 3, and the time below 50 ms.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a benchmark fails by panicking"
)]

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::{RUNS, Rng, SCRATCH, key, median, print_machine};
use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, Index, IndexList};
use tempfile::TempDir;

const DEEP_BLOCKS: u64 = 100;
const DEEP_TRANSACTIONS: u64 = 2500;
const SHALLOW_TRANSACTIONS: u64 = 10;
const RATIO_MAX: f64 = 3.0;
const TIME_MAX_MILLIS: f64 = 50.0;

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    type Value = (u64, [u8; 32]);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByScript>()
    }
}

struct ByScript;

impl Index for ByScript {
    const NAME: &'static str = "by_script";
    type Of = Coins;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &([u8; 32], u32), coin: &(u64, [u8; 32]), emit: &mut dyn FnMut([u8; 32], ())) {
        emit(coin.1, ());
    }
}

/// Commits blocks in which each transaction makes 2.4 coins and spends 2.
struct Chain {
    engine: Engine,
    height: u64,
    /// Never goes back, so that no two blocks are the same.
    transactions: u64,
    unspent: VecDeque<([u8; 32], u32)>,
    /// What was unspent before the blocks that were added last.
    unspent_before: VecDeque<([u8; 32], u32)>,
    hashes: Vec<BlockHash>,
    rng: Rng,
}

impl Chain {
    fn new(engine: Engine) -> Self {
        let hashes = vec![BlockHash([0; 32])];
        let (unspent, unspent_before) = (VecDeque::new(), VecDeque::new());
        Self { engine, height: 0, transactions: 0, unspent, unspent_before, hashes, rng: Rng(3) }
    }

    fn extend(&mut self, blocks: u64, transactions: u64) {
        let mut pending = VecDeque::new();
        self.unspent_before = self.unspent.clone();
        for _ in 0..blocks {
            let block = self.block(transactions);
            pending.push_back(self.engine.blocking().submit(block).unwrap());
            if pending.len() > 8 {
                pending.pop_front().unwrap().wait().unwrap();
            }
        }
        for block in pending {
            block.wait().unwrap();
        }
    }

    fn block(&mut self, transactions: u64) -> Block {
        let parent = *self.hashes.last().unwrap();
        self.height += 1;
        let hash = BlockHash(key(!self.transactions));
        self.hashes.push(hash);
        let mut block = Block::new(Height(self.height), hash, parent);
        for _ in 0..transactions {
            self.transactions += 1;
            let id = key(self.transactions);
            for output in 0..2 + u32::from(self.transactions % 5 < 2) {
                let script = key(1 << 40 | self.rng.below(100_000));
                block.put::<Coins>(&(id, output), &(self.rng.next(), script));
                self.unspent.push_back((id, output));
            }
            for _ in 0..2.min(self.unspent.len() / 20_000 + 1) {
                let spent = self.unspent.pop_front().unwrap();
                block.delete::<Coins>(&spent);
            }
        }
        block
    }

    /// Takes back the blocks that were added last, and tells how many milliseconds it took.
    fn back(&mut self, blocks: u64) -> f64 {
        let target = self.height - blocks;
        let began = Instant::now();
        self.engine.blocking().reorg_to(Height(target)).unwrap();
        let took = began.elapsed();
        assert_eq!(self.engine.tip().unwrap().height, Height(target));
        self.height = target;
        self.unspent = std::mem::take(&mut self.unspent_before);
        self.hashes.truncate(target as usize + 1);
        took.as_secs_f64() * 1e3
    }

    /// Waits until flushes and merges are done.
    fn settle(&self) {
        let work = || {
            let stats = self.engine.blocking().stats().unwrap();
            stats
                .shards
                .iter()
                .map(|it| (it.memtables_frozen, it.flush_bytes, it.merge_bytes))
                .collect::<Vec<_>>()
        };
        let mut before = work();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let after = work();
            if after == before && after.iter().all(|(frozen, ..)| *frozen == 0) {
                return;
            }
            before = after;
        }
    }
}

fn main() {
    let dir = TempDir::with_prefix_in("reorg-", SCRATCH).unwrap();
    print_machine(dir.path());
    let config = Config::new(dir.path().join("store")).collection::<Coins>().calibrate(false);
    let mut chain = Chain::new(Engine::open_blocking(config).unwrap());
    chain.extend(20, DEEP_TRANSACTIONS);
    let (mut deep, mut busy, mut shallow) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        chain.extend(1, SHALLOW_TRANSACTIONS);
        chain.settle();
        shallow.push(chain.back(1));
        chain.extend(DEEP_BLOCKS, DEEP_TRANSACTIONS);
        chain.settle();
        deep.push(chain.back(DEEP_BLOCKS));
        chain.extend(DEEP_BLOCKS, DEEP_TRANSACTIONS);
        busy.push(chain.back(DEEP_BLOCKS));
    }
    println!("{} shard(s), medians of {RUNS} interleaved runs:", chain.engine.shard_count());
    let (deep_all, busy_all, shallow_all) = (deep.clone(), busy.clone(), shallow.clone());
    let (deep, busy, shallow) = (median(deep), median(busy), median(shallow));
    println!(
        "  1 block of {SHALLOW_TRANSACTIONS} transactions                 {shallow:>8.2} ms  {shallow_all:.2?}"
    );
    println!(
        "  {DEEP_BLOCKS} blocks of {DEEP_TRANSACTIONS} transactions            {deep:>8.2} ms  {deep_all:.2?}"
    );
    println!("  the same, while flushes and merges run  {busy:>8.2} ms  {busy_all:.2?}");
    let ratio = deep / shallow;
    let verdict = |good| if good { "met" } else { "missed" };
    println!("  ratio {ratio:.2}, at most {RATIO_MAX}: {}", verdict(ratio <= RATIO_MAX));
    println!("  time below {TIME_MAX_MILLIS} ms: {}", verdict(deep.max(busy) < TIME_MAX_MILLIS));
    chain.engine.close_blocking().unwrap();
}
