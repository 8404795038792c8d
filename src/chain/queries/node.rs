//! What a node asks about itself.

use std::ops::Bound;

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    AnyoneCanSpend, AnyoneCanSpendOutput, BlockchainInformation, ChainProgress, Outpoint, Reorgs,
};
use crate::{Page, Result};

/// A reorg that the node went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundReorg {
    /// The first height that was replaced.
    pub from: u64,
    /// The last height that was replaced.
    pub to: u64,
    /// When it happened, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// The reorgs that replaced nothing below one height and nothing above another, by height.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn reorgs_between(
    view: &impl ChainView,
    from: u64,
    to: u64,
    paging: &Paging,
) -> Result<Page<FoundReorg>> {
    // A reorg does not end below its beginning.
    let rows = view.scan::<Reorgs>().range(Bound::Included(&(from,)), Bound::Included(&(to,)));
    let rows = paged(rows.filter_key(move |(_, last)| *last <= to), paging).page(paging.limit).await?;
    Ok(mapped(rows, |((from, to), reorg)| FoundReorg { from, to, timestamp_ms: reorg.timestamp_ms }))
}

/// Why anyone can spend an output, if that is known.
///
/// # Errors
/// If the store cannot be read.
pub async fn anyone_can_spend(
    view: &impl ChainView,
    output: &Outpoint,
) -> Result<Option<AnyoneCanSpendOutput>> {
    view.view().await?.get::<AnyoneCanSpend>(output).await
}

/// How far the node is on a network.
///
/// # Errors
/// If the store cannot be read.
pub async fn chain_progress(view: &impl ChainView, network: &str) -> Result<Option<ChainProgress>> {
    view.view().await?.get::<BlockchainInformation>(&network.to_owned()).await
}
