//! Events.

use std::ops::RangeInclusive;

use super::paging::page;
use super::{ChainView, Page, Paging};
use crate::chain::collections::{ContractEvent, EventKey, Events, EventsByContract, EventsByName};
use crate::{Result, Snapshot};

/// An event and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEvent {
    /// The height of the block.
    pub height: u64,
    /// The position of the transaction in the block.
    pub position: u32,
    /// The number of the event in the transaction.
    pub number: u32,
    /// The event.
    pub event: ContractEvent,
}

impl FoundEvent {
    fn new((height, position, number): EventKey, event: ContractEvent) -> Self {
        Self { height, position, number, event }
    }
}

/// The events of some blocks, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn events_of_block_range(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let snapshot = view.view().await?;
    let range = ((*heights.start(), 0, 0), (*heights.end(), u32::MAX, u32::MAX));
    let mut rows = snapshot.scan::<Events>();
    if heights.start() == heights.end() {
        rows = rows.prefix(&(*heights.start(),));
    }
    Ok(page(rows, range, paging).await?.map(|(key, event)| FoundEvent::new(key, event)))
}

/// The events of a transaction, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read.
pub async fn events_of_transaction(
    view: &impl ChainView,
    height: u64,
    position: u32,
) -> Result<Vec<ContractEvent>> {
    let rows = view.view().await?.scan::<Events>().prefix(&(height, position)).collect().await?;
    Ok(rows.into_iter().map(|(_, event)| event).collect())
}

/// The events of a contract in some blocks, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn events_of_contract(
    view: &impl ChainView,
    contract: &[u8; 32],
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let snapshot = view.view().await?;
    let range = ((*contract, *heights.start()), (*contract, *heights.end()));
    let rows = snapshot.scan_index::<EventsByContract>().prefix(&(*contract,));
    let found = page(rows, range, paging).await?.map(|(_, key, ())| key);
    read(&snapshot, found).await
}

/// The events of a contract with a name in some blocks, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn events_with_name(
    view: &impl ChainView,
    contract: &[u8; 32],
    name: &str,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let snapshot = view.view().await?;
    let name = name.to_owned();
    let range = ((*contract, name.clone(), *heights.start()), (*contract, name.clone(), *heights.end()));
    let rows = snapshot.scan_index::<EventsByName>().prefix(&(*contract, name));
    let found = page(rows, range, paging).await?.map(|(_, key, ())| key);
    read(&snapshot, found).await
}

/// The events at the places of a page.
async fn read(snapshot: &Snapshot, found: Page<EventKey>) -> Result<Page<FoundEvent>> {
    let events = snapshot.get_many::<Events>(&found.rows).await?;
    let rows = found.rows.into_iter().zip(events);
    let rows = rows.filter_map(|(key, event)| Some(FoundEvent::new(key, event?))).collect();
    Ok(Page { rows, next: found.next })
}
