//! Contracts.
//!
//! A node asks for a contract at or below a height (`<=`, the whole record) and for an address below one (`<`): the first
//! is the state after that block, the second the state after the block before it.

use std::ops::Bound;

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    Contract, ContractSummary, Contracts, ContractsByAddress, ContractsByDeployer, ContractsByHeight,
    ContractsByHybridKey,
};
use crate::{Page, Result};

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
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn contracts_deployed_at(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    contracts_at(view, (height, height), paging).await
}

/// The contracts that were deployed at or below a height, by height and key.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn contracts_deployed_up_to(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    contracts_at(view, (0, height), paging).await
}

/// The contracts of a deployer, by height and key.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn contracts_of_deployer(
    view: &impl ChainView,
    deployer: &[u8; 32],
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    let rows = paged(view.scan_index::<ContractsByDeployer>().prefix(&(*deployer,)), paging);
    let rows = rows.page(paging.limit).await?;
    Ok(mapped(rows, |(_, key, summary)| DeployedContract::new(key, summary)))
}

pub(super) async fn contracts_at(
    view: &impl ChainView,
    (first, last): (u64, u64),
    paging: &Paging,
) -> Result<Page<DeployedContract>> {
    let rows = view.scan_index::<ContractsByHeight>().range(Bound::Included(&first), Bound::Included(&last));
    let rows = paged(rows, paging).page(paging.limit).await?;
    Ok(mapped(rows, |(_, key, summary)| DeployedContract::new(key, summary)))
}
