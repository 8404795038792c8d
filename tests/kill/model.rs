//! What the store must hold after each operation. An operation is a pure function of the seed, its number and the
//! heights of the chain, so that the process that is killed and the one that checks agree without a word.

use std::collections::{BTreeMap, VecDeque};

use op_engine::{Batch, Block, BlockHash, Height};

use crate::schema::{Coin, Coins, Pool, Slots, Wallet};

/// How many blocks a reorg may go back.
pub const WINDOW: u64 = 24;
/// The number of the first block.
const FIRST_HEIGHT: u64 = 100;
const COIN_KEYS: u64 = 3000;
/// The key under which every writing operation leaves its number.
const JOURNAL: u32 = 0;

/// A small generator: the same numbers everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn small(&mut self, bound: u32) -> u32 {
        (self.next() >> 33) as u32 % bound
    }
}

/// The heights of the chain: which operation brought each block that a reorg can still reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    base: u64,
    blocks: VecDeque<u64>,
    highest: u64,
}

impl Chain {
    pub fn new() -> Self {
        Self { base: FIRST_HEIGHT, blocks: VecDeque::new(), highest: FIRST_HEIGHT }
    }

    /// As one word for the command line of another process.
    pub fn to_text(&self) -> String {
        let blocks: Vec<String> = self.blocks.iter().map(u64::to_string).collect();
        format!("{}:{}:{}", self.base, self.highest, blocks.join(","))
    }

    pub fn from_text(text: &str) -> Self {
        let parts: Vec<&str> = text.split(':').collect();
        let blocks = parts[2].split(',').filter(|block| !block.is_empty());
        Self {
            base: parts[0].parse().unwrap(),
            highest: parts[1].parse().unwrap(),
            blocks: blocks.map(|block| block.parse().unwrap()).collect(),
        }
    }

    fn next_height(&self) -> u64 {
        self.base + self.blocks.len() as u64
    }

    /// The lowest height that a reorg can surely reach.
    fn reachable(&self) -> u64 {
        self.base.max(self.highest.saturating_sub(WINDOW))
    }

    /// Height and operation of the tip.
    pub fn tip(&self) -> Option<(u64, u64)> {
        Some((self.next_height() - 1, *self.blocks.back()?))
    }

    /// Takes an operation in; returns how many blocks it takes back.
    pub fn apply(&mut self, number: u64, op: &Op) -> usize {
        match op {
            Op::Block(..) => {
                self.highest = self.highest.max(self.next_height());
                self.blocks.push_back(number);
                if self.blocks.len() as u64 > 2 * WINDOW {
                    self.blocks.pop_front();
                    self.base += 1;
                }
                0
            }
            Op::Global(_) => 0,
            Op::Reorg(target) => {
                let gone = (self.next_height() - 1 - target) as usize;
                self.blocks.truncate(self.blocks.len() - gone);
                gone
            }
        }
    }
}

/// One change of one record.
#[derive(Debug, Clone)]
pub enum Change {
    Coin(u64, Option<Coin>),
    Slot((u32, u32), Option<u64>),
    Pool(u32, Option<u64>),
    Wallet(u32, Option<u64>),
}

#[derive(Debug)]
pub enum Op {
    Block(Vec<Change>),
    Global(Vec<Change>),
    Reorg(u64),
}

/// The operation with a number. No two reorgs follow each other, and each takes back at least one block: so the tip and
/// the journal together tell which operation was the last.
pub fn plan(seed: u64, number: u64, chain: &Chain) -> Op {
    let mut rng = Rng::new(seed, number);
    if number.is_multiple_of(23)
        && let Some((tip, _)) = chain.tip()
    {
        let target = tip.saturating_sub(1 + rng.below(8)).max(chain.reachable());
        if target < tip {
            return Op::Reorg(target);
        }
    }
    let journal = Change::Wallet(JOURNAL, Some(number));
    if number % 29 == 7 {
        return Op::Global(vec![journal, Change::Wallet(1 + rng.small(200), Some(rng.next()))]);
    }
    let mut changes = block_changes(&mut rng, number);
    changes.push(journal);
    Op::Block(changes)
}

fn block_changes(rng: &mut Rng, number: u64) -> Vec<Change> {
    let count = if rng.below(64) == 0 { 400 } else { 2 + rng.below(30) };
    (0..count)
        .map(|at| match rng.below(20) {
            0..9 => {
                let script_bytes = if rng.below(200) == 0 { 20_000 } else { rng.below(120) };
                let script = vec![rng.next() as u8; script_bytes as usize];
                Change::Coin(rng.below(COIN_KEYS), Some((number * 4096 + at, rng.small(40), script)))
            }
            9..14 => Change::Coin(rng.below(COIN_KEYS), None),
            14..17 => Change::Slot((rng.small(20), rng.small(20)), Some(rng.next())),
            17 => Change::Slot((rng.small(20), rng.small(20)), None),
            18 => Change::Pool(rng.small(100), (rng.below(3) > 0).then_some(number)),
            _ => Change::Wallet(1 + rng.small(200), (rng.below(3) > 0).then_some(number)),
        })
        .collect()
}

pub fn hash(seed: u64, number: u64) -> BlockHash {
    let mut bytes = [0; 32];
    let mut rng = Rng::new(!seed, number);
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&rng.next().to_le_bytes());
    }
    BlockHash(bytes)
}

/// The block that an operation commits.
pub fn block(seed: u64, number: u64, chain: &Chain, changes: Vec<Change>) -> Block {
    let parent = chain.tip().map_or(BlockHash([7; 32]), |(_, operation)| hash(seed, operation));
    let mut block = Block::new(Height(chain.next_height()), hash(seed, number), parent);
    for change in changes {
        match change {
            Change::Coin(key, Some(coin)) => block.put::<Coins>(&key, &coin),
            Change::Coin(key, None) => block.delete::<Coins>(&key),
            Change::Slot(key, Some(value)) => block.put::<Slots>(&key, &value),
            Change::Slot(key, None) => block.delete::<Slots>(&key),
            Change::Pool(key, Some(value)) => block.put::<Pool>(&key, &value),
            Change::Pool(key, None) => block.delete::<Pool>(&key),
            Change::Wallet(key, Some(value)) => block.put::<Wallet>(&key, &value),
            Change::Wallet(key, None) => block.delete::<Wallet>(&key),
        };
    }
    block
}

/// The changes of an operation outside the chain.
pub fn batch(changes: Vec<Change>) -> Batch {
    let mut batch = Batch::new();
    for change in changes {
        if let Change::Wallet(key, Some(value)) = change {
            batch.put::<Wallet>(&key, &value);
        }
    }
    batch
}

/// Records of the collections that follow reorgs.
#[derive(Debug, Clone, Default)]
pub struct ChainState {
    pub coins: BTreeMap<u64, Coin>,
    pub slots: BTreeMap<(u32, u32), u64>,
}

impl ChainState {
    /// Makes a change and returns the one that takes it back.
    fn apply(&mut self, change: Change) -> Option<Change> {
        match change {
            Change::Coin(key, coin) => Some(Change::Coin(key, set(&mut self.coins, key, coin))),
            Change::Slot(key, value) => Some(Change::Slot(key, set(&mut self.slots, key, value))),
            Change::Pool(..) | Change::Wallet(..) => None,
        }
    }

    fn undo(&mut self, changes: &[Change]) {
        for change in changes.iter().rev() {
            self.apply(change.clone());
        }
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// The whole store after an operation.
#[derive(Debug)]
pub struct Model {
    seed: u64,
    pub number: u64,
    pub chain: Chain,
    pub state: ChainState,
    pub pool: BTreeMap<u32, u64>,
    pub wallet: BTreeMap<u32, u64>,
    /// What takes each of the newest blocks back.
    undo: Vec<Vec<Change>>,
}

impl Model {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            number: 0,
            chain: Chain::new(),
            state: ChainState::default(),
            pool: BTreeMap::new(),
            wallet: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    pub fn advance(&mut self) {
        self.number += 1;
        let op = plan(self.seed, self.number, &self.chain);
        let gone = self.chain.apply(self.number, &op);
        match op {
            Op::Block(changes) => {
                let undo = changes.into_iter().filter_map(|change| self.change(change)).collect();
                self.undo.push(undo);
                let kept = 2 * WINDOW as usize;
                self.undo.drain(..self.undo.len().saturating_sub(kept));
            }
            Op::Global(changes) => changes.into_iter().for_each(|change| drop(self.change(change))),
            Op::Reorg(_) => {
                for undo in self.undo.split_off(self.undo.len() - gone).iter().rev() {
                    self.state.undo(undo);
                }
                self.pool.clear();
            }
        }
    }

    fn change(&mut self, change: Change) -> Option<Change> {
        match change {
            Change::Pool(key, value) => drop(set(&mut self.pool, key, value)),
            Change::Wallet(key, value) => drop(set(&mut self.wallet, key, value)),
            change => return self.state.apply(change),
        }
        None
    }

    /// The operation that a journal and a tip speak for, if it is this one or a later one.
    pub fn advance_to(&mut self, journal: u64, tip: BlockHash) {
        assert!(
            self.number <= journal + 1,
            "the store went back from operation {} to {journal}",
            self.number
        );
        while self.number < journal {
            self.advance();
        }
        if self.tip_hash() != Some(tip) {
            // Reorgs leave no journal: it may have been the last.
            self.advance();
        }
        assert_eq!(self.tip_hash(), Some(tip), "the tip is not that of operation {journal} nor of the next");
        assert_eq!(
            self.wallet.get(&JOURNAL),
            Some(&journal),
            "the model keeps the journal as the store does"
        );
    }

    fn tip_hash(&self) -> Option<BlockHash> {
        self.chain.tip().map(|(_, operation)| hash(self.seed, operation))
    }

    /// The heights whose state must still be readable.
    pub fn heights(&self) -> std::ops::RangeInclusive<u64> {
        let (tip, _) = self.chain.tip().unwrap();
        self.chain.reachable()..=tip
    }

    /// What was on the chain after the block at a height.
    pub fn at(&self, height: u64) -> ChainState {
        let (tip, _) = self.chain.tip().unwrap();
        let mut state = self.state.clone();
        for undo in self.undo.iter().rev().take((tip - height) as usize) {
            state.undo(undo);
        }
        state
    }
}
