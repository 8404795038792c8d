//! What a node asks about itself.

use super::paging::filtered_page;
use super::{ChainView, Page, Paging};
use crate::Result;
use crate::chain::collections::{
    AnyoneCanSpend, AnyoneCanSpendOutput, BlockchainInformation, ChainProgress, Outpoint, Reorgs,
};

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
/// If the store cannot be read, or the page does not belong to the question.
pub async fn reorgs_between(
    view: &impl ChainView,
    from: u64,
    to: u64,
    paging: &Paging,
) -> Result<Page<FoundReorg>> {
    let snapshot = view.view().await?;
    // No reorg ends below its beginning.
    let range = ((from, from), (to.max(from), u64::MAX));
    let found = filtered_page(snapshot.scan::<Reorgs>(), range, paging, |((_, last), _)| *last <= to).await?;
    Ok(found.map(|((from, to), reorg)| FoundReorg { from, to, timestamp_ms: reorg.timestamp_ms }))
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
