//! The chain that fills a store: coins that are created and spent, young ones more often than old ones; contract slots;
//! bodies of transactions. Every record follows from its number.

use op_engine::{Block, BlockHash, Collection, Config, Height, Layout};
use op_engine_io::num::{to_u64, to_usize};

use crate::cli::bench::chain::{Kind, Rng, coin_key, id, mix, slot_key};

/// What one block does. A coin in three is spent; a slot in three is overwritten; what is left is new.
const BLOCK_CREATED: u64 = 7_000;
const BLOCK_SPENT: u64 = 3_000;
const BLOCK_SLOTS_NEW: u64 = 3_000;
const BLOCK_SLOTS_OVERWRITTEN: u64 = 1_500;
const BLOCK_BODIES: u64 = 1_500;
const BODY_BYTES: usize = 250;
/// What is created and left unspent by a block: the size of the store counts these.
pub(super) const BLOCK_GAIN: u64 = BLOCK_CREATED - BLOCK_SPENT;
/// Half of what is spent is not older than ten blocks.
const RECENT: u64 = 10 * BLOCK_CREATED;
/// How often a coin is drawn that is spent already before the block does with fewer.
const DRAWS_MAX: u32 = 64;
/// Parts of a hundred that a small block has of a large one.
pub(super) const SMALL_PERCENT: u64 = 5;

const COIN_BYTES: u64 = 36 + 60;
const SLOT_BYTES: u64 = 64 + 32;
const BODY_ROW_BYTES: u64 = 32 + 250;

pub(super) struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = ([u8; 32], u32);
    type Value = [u8; 60];
}

pub(super) struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = ([u8; 32], [u8; 32]);
    type Value = [u8; 32];
}

pub(super) struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = [u8; 32];
    type Value = [u8; BODY_BYTES];
    const LAYOUT: Layout = Layout::AppendOnly;
}

pub(super) fn collections(config: Config) -> Config {
    config.collection::<Coins>().collection::<Slots>().collection::<Bodies>()
}

pub(super) fn coin_value(number: u64) -> [u8; 60] {
    let mut value = [0; 60];
    for (part, bytes) in value.chunks_mut(8).zip(0..) {
        let word = mix(number ^ bytes << 48).to_be_bytes();
        part.iter_mut().zip(word).for_each(|(to, from)| *to = from);
    }
    value
}

/// Bytes of keys and values that were committed, by layout.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UserBytes {
    pub(super) mutable: u64,
    pub(super) append_only: u64,
}

/// The chain so far.
pub(super) struct Load {
    rng: Rng,
    height: u64,
    tip: BlockHash,
    /// Coins ever created, and which of them are spent.
    pub(super) created: u64,
    spent: Vec<u64>,
    spent_count: u64,
    pub(super) slots: u64,
    pub(super) bodies: u64,
    pub(super) committed: UserBytes,
    pub(super) operations: u64,
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            rng: Rng(21),
            height: 0,
            tip: BlockHash([0; 32]),
            created: 0,
            spent: Vec::new(),
            spent_count: 0,
            slots: 0,
            bodies: 0,
            committed: UserBytes::default(),
            operations: 0,
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.height
    }

    /// Coins that are not spent.
    pub(super) fn coins(&self) -> u64 {
        self.created - self.spent_count
    }

    /// Bytes of the keys and values that a reader of the tip sees.
    pub(super) fn live_bytes(&self) -> u64 {
        self.coins() * COIN_BYTES + self.slots * SLOT_BYTES + self.bodies * BODY_ROW_BYTES
    }

    fn is_spent(&self, coin: u64) -> bool {
        self.spent.get(to_usize(coin / 64)).is_some_and(|word| word >> (coin % 64) & 1 == 1)
    }

    fn spend(&mut self, recent: bool) -> Option<u64> {
        let count = self.created;
        for _ in 0..DRAWS_MAX {
            let coin = if recent {
                count.checked_sub(1 + self.rng.below(RECENT.min(count)))?
            } else {
                self.rng.below(count)
            };
            if count > 0 && !self.is_spent(coin) {
                self.spent.resize(to_usize(count.div_ceil(64)), 0);
                if let Some(word) = self.spent.get_mut(to_usize(coin / 64)) {
                    *word |= 1 << (coin % 64);
                    self.spent_count += 1;
                }
                return Some(coin);
            }
        }
        None
    }

    /// A coin that is there, drawn uniformly.
    pub(super) fn present(&self, rng: &mut Rng) -> u64 {
        loop {
            let coin = rng.below(self.created);
            if !self.is_spent(coin) {
                return coin;
            }
        }
    }

    /// The next block, with so many hundredths of what a block usually has.
    pub(super) fn next_block(&mut self, percent: u64) -> Block {
        let part = |of: u64| of * percent / 100;
        let spent: Vec<u64> = (0..part(BLOCK_SPENT)).filter_map(|turn| self.spend(turn % 2 == 0)).collect();
        let parent = self.tip;
        self.tip = BlockHash(id(Kind::Block, self.height));
        let mut block = Block::new(Height(self.height), self.tip, parent);
        for coin in self.created..self.created + part(BLOCK_CREATED) {
            block.put::<Coins>(&coin_key(coin), &coin_value(coin));
        }
        for coin in &spent {
            block.delete::<Coins>(&coin_key(*coin));
        }
        let old = self.slots;
        let mut slots: Vec<u64> = (old..old + part(BLOCK_SLOTS_NEW)).collect();
        slots.extend((0..part(BLOCK_SLOTS_OVERWRITTEN)).map(|_| self.rng.zipf(old.max(1))));
        slots.sort_unstable();
        slots.dedup();
        for slot in &slots {
            block.put::<Slots>(&slot_key(*slot), &id(Kind::Pointer, slot ^ self.height << 40));
        }
        for body in self.bodies..self.bodies + part(BLOCK_BODIES) {
            let mut bytes = [0; BODY_BYTES];
            for (to, word) in bytes.chunks_mut(32).zip(0..) {
                let from = id(Kind::Transaction, body ^ word << 48);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
            }
            block.put::<Bodies>(&id(Kind::Transaction, body), &bytes);
        }
        self.height += 1;
        self.created += part(BLOCK_CREATED);
        self.slots += part(BLOCK_SLOTS_NEW);
        self.bodies += part(BLOCK_BODIES);
        let gone = to_u64(spent.len());
        self.committed.mutable +=
            part(BLOCK_CREATED) * COIN_BYTES + gone * 36 + to_u64(slots.len()) * SLOT_BYTES;
        self.committed.append_only += part(BLOCK_BODIES) * BODY_ROW_BYTES;
        self.operations += part(BLOCK_CREATED) + gone + to_u64(slots.len()) + part(BLOCK_BODIES);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_coin_is_spent_twice_and_what_is_there_is_known() {
        let mut load = Load::new();
        for _ in 0..30 {
            load.next_block(20);
        }
        assert_eq!(load.blocks(), 30);
        let counted = (0..load.created).filter(|coin| !load.is_spent(*coin)).count();
        assert_eq!(to_u64(counted), load.coins());
        assert!(load.coins() < load.created && load.live_bytes() < load.committed.mutable * 2);
        let mut rng = Rng(3);
        assert!((0..100).all(|_| !load.is_spent(load.present(&mut rng))));
    }
}
