//! The slots of contracts.

use crate::collection;

/// A contract and a pointer.
pub type SlotKey = ([u8; 32], [u8; 32]);

collection! {
    /// What contracts have stored, by contract and pointer.
    ///
    /// A slot that was never written is absent, and a slot that was set to zero is not: what a write costs depends on it,
    /// so the difference is one of consensus. Slots are never deleted.
    ///
    /// Follows reorgs; every version is kept, so that the state after any block stays readable; overwritten; spread by the
    /// whole key, so that a busy contract is on all shards.
    pub collection ContractState = "contract_state": SlotKey => Slot where history: All, tier: (super::WHEN_FINAL);

    /// A version of a slot.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Slot {
        version 1 {
            /// What the contract stored.
            pub value: [u8; 32],
            /// The height of the block that wrote it. A write of the same value is a version of its own.
            pub height: u64 as Compact,
            /// The hashes that lead from the slot to that block's storage root.
            pub proofs: Vec<[u8; 32]>,
        }
    }
}
