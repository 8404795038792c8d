//! The next block of a random chain, and what happens between blocks.

mod coins;
mod opnet;
mod outside;

use op_engine::chain::collections::*;
use op_engine_io::sim::Rng;

use super::pools::*;
use super::state::State;

/// Makes blocks up. Numbers that must not occur twice are counted over all branches.
pub struct Growth {
    pub rng: Rng,
    serial: u64,
}

/// What a block does to outputs.
#[derive(Default)]
pub struct Moves {
    pub made: Vec<(Outpoint, Utxo)>,
    pub spent: Vec<Outpoint>,
}

impl Growth {
    pub fn new(rng: Rng) -> Self {
        Self { rng, serial: 0 }
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.rng.below(one_in) == 0
    }

    pub fn next_hash(&mut self) -> [u8; 32] {
        id(Of::Block, self.next())
    }

    /// Adds a block to a state.
    pub fn grow(&mut self, state: &mut State, height: u64, hash: [u8; 32], parent: [u8; 32]) -> Moves {
        let moves = self.transactions(state, height);
        self.block(state, height, hash, parent);
        self.events(state, height);
        self.slots(state, height);
        self.contracts(state, height);
        self.epochs(state, height);
        self.submissions(state, height);
        self.witnesses(state, height);
        self.mldsa(state, height);
        moves
    }

    fn block(&mut self, state: &mut State, height: u64, hash: [u8; 32], parent: [u8; 32]) {
        let parent_checksum = state.blocks.values().last().and_then(|block| block.opnet.as_ref());
        let parent_checksum = parent_checksum.map_or([0; 32], |opnet| opnet.checksum_root);
        let proofs = self.rng.below(3);
        let opnet = (!self.chance(4)).then(|| OpnetBlock {
            parent_checksum,
            checksum_root: id(Of::Checksum, self.next()),
            storage_root: id(Of::Other, height),
            receipt_root: [0; 32],
            ema: self.rng.below(1000),
            base_gas: 1,
            gas_used: self.rng.next_u64(),
            checksum_proofs: (0..proofs).map(|leaf| (leaf as u32, vec![[9; 32]; leaf as usize])).collect(),
        });
        let transactions = state.transactions.range((height, 0)..(height + 1, 0)).count() as u32;
        let block = BlockInfo {
            hash,
            parent,
            merkle_root: id(Of::Other, self.serial),
            version: 1,
            time: 1_700_000_000,
            median_time: None,
            bits: 0x207f_ffff,
            nonce: self.serial as u32,
            transactions,
            size_bytes: 300,
            stripped_bytes: 200,
            weight: 900,
            opnet,
        };
        state.blocks.insert(height, block);
    }
}
