//! All blocks of a run, made before it, with what a store must answer at each height.

use std::collections::BTreeMap;

use super::block::{CoinKey, CoinValue, OldValues};
use super::digest::{Digests, answers_digest};
use super::model::{Life, Model, Shape};
use super::random::Random;

/// The blocks of a run.
#[derive(Debug)]
pub struct Chain {
    blocks: Vec<Vec<u8>>,
    reads: Vec<u128>,
    digests: Vec<Digests>,
    lives: Vec<Life>,
    bytes: u64,
}

impl Chain {
    /// Makes all blocks up to `tip`.
    #[must_use]
    pub fn new(shape: &Shape, tip: u32) -> Self {
        let mut model = Model::new(shape.clone());
        let (mut blocks, mut reads, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=tip {
            let (block, old) = model.next_block();
            blocks.push(block.encode());
            reads.push(reads_digest(&old));
            digests.push(model.digests());
        }
        Self { blocks, reads, digests, bytes: model.bytes(), lives: model.into_lives() }
    }

    /// A block as bytes.
    #[must_use]
    pub fn block(&self, height: u32) -> &[u8] {
        &self.blocks[height as usize]
    }

    /// The digest of the values that must be read before a block is committed.
    #[must_use]
    pub fn reads_digest(&self, height: u32) -> u128 {
        self.reads[height as usize]
    }

    /// The digests of all tables after a block.
    #[must_use]
    pub fn digests(&self, height: u32) -> Digests {
        self.digests[height as usize]
    }

    /// Random coins that are unspent after a block, each once, in the order of their keys. There are more than `count`.
    #[must_use]
    pub fn unspent(&self, height: u32, count: usize, seed: u64) -> Vec<(CoinKey, CoinValue)> {
        let (mut random, mut coins) = (Random::new(seed ^ u64::from(height)), BTreeMap::new());
        while coins.len() < count {
            let life = &self.lives[random.below(self.lives.len())];
            if life.heights.contains(&height) {
                coins.insert(life.key, life.value);
            }
        }
        coins.into_iter().collect()
    }

    /// Random coins that never were, in the order of their keys.
    #[must_use]
    pub fn absent(&self, height: u32, count: usize, seed: u64) -> Vec<CoinKey> {
        let mut random = Random::new(!seed ^ u64::from(height));
        let mut keys: Vec<CoinKey> = (0..count).map(|_| random.bytes()).collect();
        keys.sort_unstable();
        keys
    }

    /// Coins that a rollback from `tip` to `height` must remove or bring back, in the order of their keys.
    #[must_use]
    pub fn touched(&self, height: u32, tip: u32, count: usize) -> Vec<(CoinKey, Option<CoinValue>)> {
        let above = height + 1..tip + 1;
        let made = self.lives.iter().filter(|life| above.contains(&life.heights.start));
        let spent = self
            .lives
            .iter()
            .filter(|life| life.heights.contains(&height) && above.contains(&life.heights.end));
        let mut coins: Vec<_> = made.take(count / 2).map(|life| (life.key, None)).collect();
        coins.extend(spent.take(count / 2).map(|life| (life.key, Some(life.value))));
        coins.sort_unstable();
        coins
    }

    /// Keys and values that are live after the last block, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The digest of what is read before a block is committed.
#[must_use]
pub fn reads_digest(old: &OldValues) -> u128 {
    let coins = old.coins.iter().map(|coin| coin.as_ref().map(|value| &value[..]));
    let slots = old.slots.iter().map(|slot| slot.as_ref().map(|value| &value[..]));
    answers_digest(coins.chain(slots))
}
