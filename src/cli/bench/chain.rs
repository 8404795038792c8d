//! A made-up chain with the load of a node: coins that are created and spent, contract slots, headers and bodies.
//!
//! Every record follows from a number, so every answer can be checked without keeping what was written.

use std::ops::Range;

use op_engine::{Block, BlockHash, Collection, Height, History, Index, IndexList, Layout};
use op_engine_io::num::{to_u64, to_usize};

/// Transactions of a block, and what they do (means of recent blocks of Bitcoin, and a busy overlay).
pub(crate) const BLOCK_TRANSACTIONS: u64 = 2_000;
const BLOCK_CREATED: u64 = 4_400;
const BLOCK_SPENT: u64 = 4_000;
const BLOCK_SLOTS: u64 = 6_000;
const SLOTS_OVERWRITTEN_PERCENT: u64 = 70;
const BODY_BYTES: usize = 250;
/// Recently created coins are those of about ten blocks.
const RECENT: u64 = 10 * BLOCK_CREATED;
/// What a block holds while a store is filled.
pub(crate) const LOAD_COINS: u64 = 20_000;
pub(crate) const LOAD_SLOTS: u64 = 5_000;
const COINS_OF_SCRIPT: u64 = 10;

/// Coins, by outpoint.
pub(crate) struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    /// Amount, height, script.
    type Value = (u64, u32, [u8; 32]);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<CoinsByScript>()
    }
}

/// Coins of a script.
pub(crate) struct CoinsByScript;

impl Index for CoinsByScript {
    const NAME: &'static str = "by_script";
    type Of = Coins;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &([u8; 32], u32), coin: &(u64, u32, [u8; 32]), emit: &mut dyn FnMut([u8; 32], ())) {
        emit(coin.2, ());
    }
}

/// Contract storage, by contract and pointer, in all its versions.
pub(crate) struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = ([u8; 32], [u8; 32]);
    type Value = [u8; 32];
    const HISTORY: History = History::All;
}

/// Block headers, by height.
pub(crate) struct Headers;

impl Collection for Headers {
    const NAME: &'static str = "headers";
    type Key = u64;
    type Value = [u8; 80];
    const LAYOUT: Layout = Layout::AppendOnly;
}

/// Transactions, by id.
pub(crate) struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = [u8; 32];
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
}

/// What numbers are of, so that no two kinds share an id.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Coin = 1,
    Script,
    Contract,
    Pointer,
    Block,
    Transaction,
    Nothing,
}

/// Spreads a number over all bits (the finalizer of SplitMix64, Steele et al. 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub(crate) fn id(kind: Kind, number: u64) -> [u8; 32] {
    let mut id = [0; 32];
    let mut word = number ^ (kind as u64) << 56;
    for part in id.as_chunks_mut::<8>().0 {
        word = mix(word);
        *part = word.to_be_bytes();
    }
    id
}

/// Random numbers of a seed.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// From 0 to `bound`, where number k is drawn in proportion to 1/(k+1): Zipf's law.
    pub(crate) fn zipf(&mut self, bound: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let drawn = (bound.max(1) as f64).powf(unit);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and the bound"
        )]
        let drawn = drawn as u64;
        (drawn - 1).min(bound.saturating_sub(1))
    }
}

pub(crate) fn coin_key(number: u64) -> ([u8; 32], u32) {
    (id(Kind::Coin, number), 1)
}

/// A key that no coin has.
pub(crate) fn absent_key(number: u64) -> ([u8; 32], u32) {
    (id(Kind::Nothing, number), 1)
}

pub(crate) fn coin_amount(number: u64) -> u64 {
    mix(number) >> 12
}

pub(crate) fn script_of(number: u64) -> [u8; 32] {
    id(Kind::Script, number / COINS_OF_SCRIPT)
}

pub(crate) fn slot_key(number: u64) -> ([u8; 32], [u8; 32]) {
    (id(Kind::Contract, mix(number) % 100), id(Kind::Pointer, number))
}

/// What a slot holds after the block at a height wrote it.
pub(crate) fn slot_value(number: u64, height: u64) -> [u8; 32] {
    id(Kind::Pointer, mix(number) ^ height)
}

/// What a block of the chain does.
pub(crate) struct Plan {
    height: u64,
    hash: BlockHash,
    parent: BlockHash,
    created: Range<u64>,
    pub(crate) spent: Vec<u64>,
    pub(crate) slots: Vec<u64>,
    transactions: Range<u64>,
}

impl Plan {
    /// The block, and how many bytes of keys and values it carries.
    pub(crate) fn block(&self) -> (Block, u64) {
        let mut block = Block::new(Height(self.height), self.hash, self.parent);
        let mut bytes = 0;
        let height = u32::try_from(self.height).unwrap_or(u32::MAX);
        for number in self.created.clone() {
            block.put::<Coins>(&coin_key(number), &(coin_amount(number), height, script_of(number)));
            bytes += (36 + 44) + (32 + 36);
        }
        for number in &self.spent {
            block.delete::<Coins>(&coin_key(*number));
            bytes += 36 + (32 + 36);
        }
        for number in &self.slots {
            block.put::<Slots>(&slot_key(*number), &slot_value(*number, self.height));
            bytes += 64 + 32;
        }
        block.put::<Headers>(&self.height, &[7; 80]);
        for number in self.transactions.clone() {
            let mut body = Vec::with_capacity(BODY_BYTES);
            while body.len() < BODY_BYTES {
                body.extend_from_slice(&id(Kind::Transaction, number ^ to_u64(body.len()) << 40));
            }
            body.truncate(BODY_BYTES);
            block.put::<Bodies>(&id(Kind::Transaction, number), &body);
            bytes += 32 + to_u64(BODY_BYTES);
        }
        (block, bytes + 88)
    }
}

/// The chain up to its tip, and what there is to spend.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) height: u64,
    tip: BlockHash,
    coins: u64,
    /// The numbers of unspent coins, the recent ones near the end.
    unspent: Vec<u64>,
    slots: u64,
    transactions: u64,
    rng: Rng,
}

impl Chain {
    /// No block yet. `slots` is how many contract slots the filling of the store writes, over and over.
    pub(crate) fn new(slots: u64) -> Self {
        Self {
            height: 0,
            tip: BlockHash([0; 32]),
            coins: 0,
            unspent: Vec::new(),
            slots,
            transactions: 0,
            rng: Rng(1),
        }
    }

    /// Coins ever created.
    pub(crate) fn coins(&self) -> u64 {
        self.coins
    }

    /// A block that fills the store: it spends nothing, and writes the next stretch of slots.
    pub(crate) fn load_block(&mut self) -> Plan {
        let first = (self.height * LOAD_SLOTS) % self.slots.max(LOAD_SLOTS);
        self.plan(LOAD_COINS, Vec::new(), (first..first + LOAD_SLOTS).collect(), 0)
    }

    /// The next block of a busy node.
    pub(crate) fn next_block(&mut self) -> Plan {
        let spent = (0..BLOCK_SPENT).filter_map(|turn| self.spend(turn % 2 == 0)).collect();
        let mut slots: Vec<u64> = Vec::with_capacity(to_usize(BLOCK_SLOTS));
        for _ in 0..BLOCK_SLOTS {
            if self.rng.below(100) < SLOTS_OVERWRITTEN_PERCENT {
                slots.push(self.rng.zipf(self.slots));
            } else {
                slots.push(self.slots);
                self.slots += 1;
            }
        }
        slots.sort_unstable();
        slots.dedup();
        self.plan(BLOCK_CREATED, spent, slots, BLOCK_TRANSACTIONS)
    }

    /// The next block without anything spent, which needs no memory of the chain.
    pub(crate) fn next_block_unspending(&mut self) -> Plan {
        let first = self.slots;
        self.slots += BLOCK_SLOTS;
        self.plan(BLOCK_CREATED, Vec::new(), (first..first + BLOCK_SLOTS).collect(), BLOCK_TRANSACTIONS)
    }

    /// Goes on behind a tip of which nothing else is known, with records that nobody else makes.
    pub(crate) fn behind(height: u64, tip: BlockHash, seed: u64) -> Self {
        let start = (1 << 40) + (seed << 32);
        Self { height: height + 1, tip, coins: start, transactions: start, ..Self::new(start) }
    }

    /// Makes what follows differ from what was committed behind this tip before.
    pub(crate) fn branch_off(&mut self) {
        self.coins += 1 << 32;
        self.transactions += 1 << 32;
    }

    fn spend(&mut self, recent: bool) -> Option<u64> {
        let count = to_u64(self.unspent.len());
        let at = if recent {
            count.checked_sub(1 + self.rng.below(RECENT.min(count)))?
        } else {
            self.rng.below(count)
        };
        (count > 0).then(|| self.unspent.swap_remove(to_usize(at)))
    }

    fn plan(&mut self, created: u64, spent: Vec<u64>, slots: Vec<u64>, transactions: u64) -> Plan {
        let parent = self.tip;
        // Blocks of another branch differ, because the coins that they create do.
        self.tip = BlockHash(id(Kind::Block, self.height ^ mix(self.coins) >> 8));
        let plan = Plan {
            height: self.height,
            hash: self.tip,
            parent,
            created: self.coins..self.coins + created,
            spent,
            slots,
            transactions: self.transactions..self.transactions + transactions,
        };
        self.unspent.extend(plan.created.clone());
        self.coins += created;
        self.transactions += transactions;
        self.height += 1;
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_spent_twice_and_the_same_chain_comes_again() {
        let mut chain = Chain::new(LOAD_SLOTS);
        let mut again = Chain::new(LOAD_SLOTS);
        let mut spent = std::collections::HashSet::new();
        for chain in [&mut chain, &mut again] {
            chain.load_block();
        }
        for _ in 0..20 {
            let (plan, other) = (chain.next_block(), again.next_block());
            assert_eq!((plan.hash, &plan.spent, &plan.slots), (other.hash, &other.spent, &other.slots));
            assert_eq!(to_u64(plan.spent.len()), BLOCK_SPENT);
            assert!(plan.spent.iter().all(|number| *number < chain.coins() && spent.insert(*number)));
        }
    }

    #[test]
    fn low_numbers_are_drawn_more_often() {
        let mut rng = Rng(5);
        let drawn: Vec<u64> = (0..10_000).map(|_| rng.zipf(1000)).collect();
        assert!(drawn.iter().all(|number| *number < 1000));
        let low = drawn.iter().filter(|number| **number < 31).count();
        assert!((4500..5500).contains(&low), "half of them are below the square root: {low}");
    }
}
