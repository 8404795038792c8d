//! Contract slots for demonstrations: Bitcoin's blocks have none.

use bitcoin::hashes::{Hash, sha256};

use crate::Block;
use crate::chain::ChainBlock;
use crate::chain::collections::{ContractState, Slot};

/// Slot writes made up from the hash of each block, so that the same chain gives the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoSlots {
    /// How many contracts there are.
    pub contracts: u32,
    /// How many slots a contract has.
    pub slots_per_contract: u32,
    /// How many slots each block writes.
    pub writes_per_block: u32,
}

impl DemoSlots {
    /// The contract of a number, as it occurs in the keys of [`ContractState`].
    #[must_use]
    pub fn contract(number: u32) -> [u8; 32] {
        sha256::Hash::hash(&[b"contract", &number.to_be_bytes()[..]].concat()).to_byte_array()
    }

    /// The pointer of a number.
    #[must_use]
    pub fn pointer(number: u32) -> [u8; 32] {
        let mut pointer = [0; 32];
        if let Some(end) = pointer.last_chunk_mut() {
            *end = number.to_be_bytes();
        }
        pointer
    }

    /// Adds the writes of a block to its changes.
    pub fn write(self, block: &ChainBlock, changes: &mut Block) {
        for number in 0..self.writes_per_block {
            let value =
                sha256::Hash::hash(&[&block.hash[..], &number.to_be_bytes()].concat()).to_byte_array();
            let [a, b, c, d, e, f, g, h, ..] = value;
            let (some, other) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            let contract = Self::contract(some.checked_rem(self.contracts).unwrap_or(0));
            let pointer = Self::pointer(other.checked_rem(self.slots_per_contract).unwrap_or(0));
            let slot = Slot { value, height: block.height, proofs: Vec::new() };
            changes.put::<ContractState>(&(contract, pointer), &slot);
        }
    }
}
