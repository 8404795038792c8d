//! Blocks.

use super::contracts::{DeployedContract, contracts_at};
use super::transactions::transactions_of;
use super::{ChainView, Paging};
use crate::Result;
use crate::chain::collections::{BlockInfo, Blocks, BlocksByChecksum, BlocksByHash, StoredTransaction};

/// A block with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockContents {
    /// Its height.
    pub height: u64,
    /// Its header, and more.
    pub block: BlockInfo,
    /// Its transactions, in their order.
    pub transactions: Vec<StoredTransaction>,
    /// The contracts that it deployed, without their code.
    pub deployed: Vec<DeployedContract>,
}

/// The block at a height.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_at(view: &impl ChainView, height: u64) -> Result<Option<BlockInfo>> {
    view.view().await?.get::<Blocks>(&height).await
}

/// A block's height and header.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Option<(u64, BlockInfo)>> {
    view.view().await?.get_by::<BlocksByHash>(hash).await
}

/// The block with a checksum root.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_by_checksum(view: &impl ChainView, root: &[u8; 32]) -> Result<Option<(u64, BlockInfo)>> {
    view.view().await?.get_by::<BlocksByChecksum>(root).await
}

/// The newest block.
///
/// # Errors
/// If the store cannot be read.
pub async fn latest_block(view: &impl ChainView) -> Result<Option<(u64, BlockInfo)>> {
    let snapshot = view.view().await?;
    let Some(tip) = snapshot.tip() else { return Ok(None) };
    let block = snapshot.get::<Blocks>(&tip.height.0).await?;
    Ok(block.map(|block| (tip.height.0, block)))
}

/// A block with all of its transactions and the contracts that it deployed.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_contents(view: &impl ChainView, height: u64) -> Result<Option<BlockContents>> {
    let snapshot = view.view().await?;
    let Some(block) = snapshot.get::<Blocks>(&height).await? else { return Ok(None) };
    let transactions = transactions_of(&snapshot, height).await?;
    let deployed = contracts_at(&snapshot, (height, height), &Paging::first(usize::MAX)).await?.rows;
    Ok(Some(BlockContents { height, block, transactions, deployed }))
}
