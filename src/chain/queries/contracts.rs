//! Contracts.
//!
//! A node asks for a contract at or below a height (`<=`, the whole record) and for an address below one (`<`): the first
//! is the state after that block, the second the state after the block before it.

use super::paging::page;
use super::{ChainView, Page, Paging};
use crate::chain::collections::{
    Contract, ContractSummary, Contracts, ContractsByAddress, ContractsByDeployer, ContractsByHeight,
    ContractsByHybridKey,
};
use crate::{Result, Snapshot};

/// A contract without its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployedContract {
    /// Its key.
    pub contract: [u8; 32],
    /// Its address as text.
    pub address: String,
    /// The height of the block that deployed it.
    pub height: u64,
}

impl DeployedContract {
    fn new(contract: [u8; 32], ContractSummary { address, height }: ContractSummary) -> Self {
        Self { contract, address, height }
    }
}

/// A contract by its key.
///
/// # Errors
/// If the store cannot be read.
pub async fn contract(view: &impl ChainView, key: &[u8; 32]) -> Result<Option<Contract>> {
    view.view().await?.get::<Contracts>(key).await
}

/// A contract by its address as text, with its key.
///
/// # Errors
/// If the store cannot be read.
pub async fn contract_by_address(
    view: &impl ChainView,
    address: &str,
) -> Result<Option<([u8; 32], Contract)>> {
    view.view().await?.get_by::<ContractsByAddress>(&address.to_owned()).await
}

/// A contract by its key in hybrid form, with its key.
///
/// # Errors
/// If the store cannot be read.
pub async fn contract_by_hybrid_key(
    view: &impl ChainView,
    key: &[u8; 65],
) -> Result<Option<([u8; 32], Contract)>> {
    view.view().await?.get_by::<ContractsByHybridKey>(key).await
}

/// The address of a contract as text, by its key.
///
/// # Errors
/// If the store cannot be read.
pub async fn contract_address(view: &impl ChainView, key: &[u8; 32]) -> Result<Option<String>> {
    Ok(contract(view, key).await?.map(|contract| contract.address))
}

/// The contracts that a block deployed, by their keys.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn contracts_deployed_at(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    contracts_at(&view.view().await?, (height, height), paging).await
}

/// The contracts that were deployed at or below a height, by height and key.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn contracts_deployed_up_to(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    contracts_at(&view.view().await?, (0, height), paging).await
}

/// The contracts of a deployer, by height and key.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn contracts_of_deployer(
    view: &impl ChainView,
    deployer: &[u8; 32],
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<ContractsByDeployer>().prefix(&(*deployer,));
    let found = page(rows, ((*deployer, 0), (*deployer, u64::MAX)), paging).await?;
    Ok(found.map(|(_, key, summary)| DeployedContract::new(key, summary)))
}

pub(super) async fn contracts_at(
    snapshot: &Snapshot,
    heights: (u64, u64),
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    let mut rows = snapshot.scan_index::<ContractsByHeight>();
    if heights.0 == heights.1 {
        rows = rows.prefix(&heights.0);
    }
    let found = page(rows, heights, paging).await?;
    Ok(found.map(|(_, key, summary)| DeployedContract::new(key, summary)))
}
