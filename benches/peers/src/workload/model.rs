//! The state of the chain in memory, from which blocks are made.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use super::block::{Block, CoinKey, CoinValue, OldValues, SlotKey, SlotValue, script_hash, script_key};
use super::digest::Digests;
use super::random::Random;
use crate::stores::Table;

/// Coins of this many blocks count as recent.
const RECENT_BLOCKS: usize = 6;
const CONTRACTS: usize = 2_000;
const SCRIPTS: usize = 400_000;

/// How large everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Everything random follows from it.
    pub seed: u64,
    /// Blocks that only fill the store, before anything is measured.
    pub base_blocks: u32,
    /// Coins that they create.
    pub base_coins: usize,
    /// Slots that they write.
    pub base_slots: usize,
    /// Transactions of a block that is measured.
    pub transactions: usize,
}

/// A coin and the blocks after which it is unspent.
#[derive(Debug, Clone)]
pub struct Life {
    /// Its key.
    pub key: CoinKey,
    /// Its value.
    pub value: CoinValue,
    /// From the block that makes it to the one that spends it.
    pub heights: Range<u32>,
}

/// The chain so far.
#[derive(Debug)]
pub struct Model {
    shape: Shape,
    random: Random,
    height: u32,
    parent: [u8; 32],
    lives: Vec<Life>,
    /// Numbers of unspent coins, those of the last blocks by block.
    recent: VecDeque<Vec<usize>>,
    old: Vec<usize>,
    slots: Vec<(SlotKey, SlotValue)>,
    digests: Digests,
    bytes: u64,
}

impl Model {
    /// An empty chain.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let random = Random::new(shape.seed);
        Self {
            shape,
            random,
            height: 0,
            parent: [0; 32],
            lives: Vec::new(),
            recent: VecDeque::new(),
            old: Vec::new(),
            slots: Vec::new(),
            digests: Digests::default(),
            bytes: 0,
        }
    }

    /// The next block, and what a store must have answered before it.
    pub fn next_block(&mut self) -> (Block, OldValues) {
        let (mut old, mut created) = (OldValues::default(), Vec::new());
        let (mut spent, mut slots, transactions);
        if self.height < self.shape.base_blocks {
            let blocks = self.shape.base_blocks as usize;
            self.create(self.shape.base_coins / blocks * 5 / 11, &mut created);
            slots = self.write_slots(self.shape.base_slots / blocks, 0);
            (spent, transactions) = (Vec::new(), Vec::new());
        } else {
            let count = self.shape.transactions;
            spent = self.spend(count * 2);
            transactions = self.create(count, &mut created);
            slots = self.write_slots(count * 3, 70);
        }
        created.sort_unstable();
        spent.sort_unstable();
        slots.sort_unstable();
        old.coins = spent.iter().map(|(_, value)| Some(*value)).collect();
        old.slots = slots.iter().map(|(.., old)| *old).collect();
        let block = Block {
            height: self.height,
            hash: self.random.bytes(),
            parent: self.parent,
            header: self.random.bytes(),
            created,
            spent: spent.iter().map(|(key, _)| *key).collect(),
            slots: slots.iter().map(|(key, value, _)| (*key, *value)).collect(),
            transactions,
        };
        self.account(&block, &old);
        self.live(&block);
        self.parent = block.hash;
        self.height += 1;
        (block, old)
    }

    /// Digests of all tables.
    #[must_use]
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Keys and values of all tables, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All coins that ever were.
    #[must_use]
    pub fn into_lives(self) -> Vec<Life> {
        self.lives
    }

    /// Creates the outputs of some transactions, 11 for every 5, and tells their ids and bodies.
    fn create(
        &mut self,
        transactions: usize,
        created: &mut Vec<(CoinKey, CoinValue)>,
    ) -> Vec<([u8; 32], Vec<u8>)> {
        let mut bodies = Vec::with_capacity(transactions);
        for n in 0..transactions {
            let txid = self.random.bytes::<32>();
            for output in 0..2 + u32::from(n % 5 == 0) {
                let mut key = [0; 36];
                key[..32].copy_from_slice(&txid);
                key[32..].copy_from_slice(&output.to_be_bytes());
                created.push((key, self.coin_value()));
            }
            let mut body = vec![0; 200 + self.random.below(101)];
            self.random.fill(&mut body);
            bodies.push((txid, body));
        }
        bodies
    }

    fn coin_value(&mut self) -> CoinValue {
        let mut value: CoinValue = self.random.bytes();
        value[8..12].copy_from_slice(&self.height.to_le_bytes());
        value[12] = 0;
        let script = self.random.below(SCRIPTS) as u64;
        value[13..45].copy_from_slice(&Random::new(!script).bytes::<32>());
        value
    }

    /// Takes unspent coins out, half of them recent and half of any age.
    fn spend(&mut self, count: usize) -> Vec<(CoinKey, CoinValue)> {
        let mut spent = Vec::with_capacity(count);
        let mut recent: Vec<_> = (0..self.recent.len()).filter(|at| !self.recent[*at].is_empty()).collect();
        while spent.len() < count / 2 && !recent.is_empty() {
            let choice = self.random.below(recent.len());
            let coins = &mut self.recent[recent[choice]];
            spent.push(coins.swap_remove(self.random.below(coins.len())));
            if coins.is_empty() {
                recent.swap_remove(choice);
            }
        }
        while spent.len() < count && !self.old.is_empty() {
            spent.push(self.old.swap_remove(self.random.below(self.old.len())));
        }
        for number in &spent {
            self.lives[*number].heights.end = self.height;
        }
        spent.into_iter().map(|number| (self.lives[number].key, self.lives[number].value)).collect()
    }

    /// Writes slots, a part of them over existing ones; tells key, value and old value.
    fn write_slots(
        &mut self,
        count: usize,
        existing_percent: usize,
    ) -> Vec<(SlotKey, SlotValue, Option<SlotValue>)> {
        let (known, mut places, mut written) = (self.slots.len(), HashSet::new(), Vec::with_capacity(count));
        let existing = (count * existing_percent / 100).min(known / 2);
        while places.len() < existing {
            let place = self.random.zipf(known);
            if places.insert(place) {
                let value = self.random.bytes();
                let (key, old) = self.slots[place];
                self.slots[place].1 = value;
                written.push((key, value, Some(old)));
            }
        }
        for _ in existing..count {
            let contract = self.random.zipf(CONTRACTS) as u64;
            let mut key = [0; 64];
            key[..32].copy_from_slice(&Random::new(contract).bytes::<32>());
            key[32..].copy_from_slice(&self.random.bytes::<32>());
            let value = self.random.bytes();
            self.slots.push((key, value));
            written.push((key, value, None));
        }
        written
    }

    /// The coins of a block can be spent from now on.
    fn live(&mut self, block: &Block) {
        let first = self.lives.len();
        let heights = block.height..u32::MAX;
        let made = block.created.iter().map(|(key, value)| (*key, *value, heights.clone()));
        self.lives.extend(made.map(|(key, value, heights)| Life { key, value, heights }));
        self.recent.push_front((first..self.lives.len()).collect());
        if self.recent.len() > RECENT_BLOCKS {
            self.old.extend(self.recent.pop_back().unwrap_or_default());
        }
    }

    fn account(&mut self, block: &Block, old: &OldValues) {
        for (key, value) in &block.created {
            self.add(Table::Coins, key, value);
            self.add(Table::Scripts, &script_key(&script_hash(value), key), &[]);
        }
        for (key, value) in block.spent.iter().zip(old.coins.iter().flatten()) {
            self.remove(Table::Coins, key, value);
            self.remove(Table::Scripts, &script_key(&script_hash(value), key), &[]);
        }
        for ((key, value), old) in block.slots.iter().zip(&old.slots) {
            if let Some(old) = old {
                self.remove(Table::Slots, key, old);
            }
            self.add(Table::Slots, key, value);
        }
        for (txid, body) in &block.transactions {
            self.add(Table::Transactions, txid, body);
        }
        self.add(Table::Ids, &block.height.to_be_bytes(), &block.ids());
        self.add(Table::Headers, &block.height.to_be_bytes(), &block.header);
    }

    fn add(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.bytes += (key.len() + value.len()) as u64;
        self.digests[table as usize].add(key, value);
    }

    fn remove(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.bytes -= (key.len() + value.len()) as u64;
        self.digests[table as usize].remove(key, value);
    }
}
