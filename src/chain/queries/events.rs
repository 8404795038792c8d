//! Events.

use std::ops::{Bound, RangeInclusive};

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{ContractEvent, EventKey, Events, EventsByContract, EventsByName};
use crate::{Page, Result};

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
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn events_of_block_range(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let (first, last) = (Bound::Included(&(*heights.start(),)), Bound::Included(&(*heights.end(),)));
    let rows = paged(view.scan::<Events>().range(first, last), paging).page(paging.limit).await?;
    Ok(mapped(rows, |(key, event)| FoundEvent::new(key, event)))
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
    let rows = view.scan::<Events>().prefix(&(height, position)).collect().await?;
    Ok(rows.into_iter().map(|(_, event)| event).collect())
}

/// The events of a contract in some blocks, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn events_of_contract(
    view: &impl ChainView,
    contract: &[u8; 32],
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let (first, last) = ((*contract, *heights.start()), (*contract, *heights.end()));
    let rows = view.scan_index::<EventsByContract>().range(Bound::Included(&first), Bound::Included(&last));
    let rows = paged(rows, paging).with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, key, ()), event)| FoundEvent::new(key, event)))
}

/// The events of a contract with a name in some blocks, in the order in which they happened.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn events_with_name(
    view: &impl ChainView,
    contract: &[u8; 32],
    name: &str,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundEvent>> {
    let key = |height| (*contract, name.to_owned(), height);
    let (first, last) = (key(*heights.start()), key(*heights.end()));
    let rows = view.scan_index::<EventsByName>().range(Bound::Included(&first), Bound::Included(&last));
    let rows = paged(rows, paging).with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, key, ()), event)| FoundEvent::new(key, event)))
}
