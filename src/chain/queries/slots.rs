//! Slots of contracts.
//!
//! They can be read after any block there ever was: `ContractState` keeps every version. A node that executes block `h`
//! reads the newest value *below* `h`: that is the state after block `h - 1`.

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{ContractState, Slot, SlotKey};
use crate::{Page, Result};

/// A slot; `None` if it was never written. A slot that was set to zero was written.
///
/// # Errors
/// If the store cannot be read.
pub async fn slot(view: &impl ChainView, contract: &[u8; 32], pointer: &[u8; 32]) -> Result<Option<Slot>> {
    view.view().await?.get::<ContractState>(&(*contract, *pointer)).await
}

/// Many slots, in the order of the keys: one message to each shard, and all of its reads in flight together.
///
/// # Errors
/// If the store cannot be read.
pub async fn slots(view: &impl ChainView, keys: &[SlotKey]) -> Result<Vec<Option<Slot>>> {
    view.view().await?.get_many::<ContractState>(keys).await
}

/// Whether a slot was ever written. The price of a write depends on it, and not on its value.
///
/// # Errors
/// If the store cannot be read.
pub async fn slot_exists(view: &impl ChainView, contract: &[u8; 32], pointer: &[u8; 32]) -> Result<bool> {
    Ok(slot(view, contract, pointer).await?.is_some())
}

/// The slots of a contract in the order of their pointers. They lie on all shards and are merged.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn slots_of_contract(
    view: &impl ChainView,
    contract: &[u8; 32],
    paging: &Paging,
) -> Result<Page<([u8; 32], Slot)>> {
    let rows = paged(view.scan::<ContractState>().prefix(&(*contract,)), paging).page(paging.limit).await?;
    Ok(mapped(rows, |((_, pointer), slot)| (pointer, slot)))
}
