//! The slots of contracts.

use crate::{Collection, History};

/// What contracts have stored, by contract and pointer.
///
/// A slot that was never written is absent, and a slot that was set to zero is not: what a write costs depends on it,
/// so the difference is one of consensus. Slots are never deleted, and their state after every block stays readable.
///
/// A slot's shard is chosen by its whole key, so that a busy contract is spread over all of them.
#[derive(Debug)]
pub struct ContractState;

impl Collection for ContractState {
    const NAME: &'static str = "contract_state";
    /// The contract, and the pointer.
    type Key = ([u8; 32], [u8; 32]);
    type Value = [u8; 32];
    const HISTORY: History = History::All;
}
