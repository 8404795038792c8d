//! Witnesses of blocks.

use std::ops::RangeInclusive;

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{BlockWitness, BlockWitnesses, WitnessesByKey, witness_key_hash};
use crate::{Page, Result};

/// A witness of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundWitness {
    /// The height of the block.
    pub height: u64,
    /// Who it is: the identity, or the hash of the signature.
    pub id: [u8; 32],
    /// What it attests.
    pub witness: BlockWitness,
}

/// The witnesses of a block, by [id](BlockWitness::id).
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn witnesses_of_block(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<FoundWitness>> {
    let rows = paged(view.scan::<BlockWitnesses>().prefix(&(height,)), paging).page(paging.limit).await?;
    Ok(mapped(rows, |((height, id), witness)| FoundWitness { height, id, witness }))
}

/// The first witnesses of each of some blocks, by height and [id](BlockWitness::id): those of an epoch's blocks.
///
/// # Errors
/// If the store cannot be read.
pub async fn witnesses_of_blocks(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    limit_per_block: usize,
) -> Result<Vec<FoundWitness>> {
    let snapshot = view.view().await?;
    let mut found = Vec::new();
    for height in heights {
        found.extend(witnesses_of_block(&snapshot, height, &Paging::first(limit_per_block)).await?.rows);
    }
    Ok(found)
}

/// Whether a block has a witness with this public key and signature.
///
/// # Errors
/// If the store cannot be read.
pub async fn witness_exists(
    view: &impl ChainView,
    height: u64,
    public_key: &[u8],
    signature: &[u8],
) -> Result<bool> {
    let signature = signature.to_vec();
    let rows = view.scan_index::<WitnessesByKey>().prefix(&(witness_key_hash(public_key), height)).limit(1);
    let mut rows = rows.with_records().filter(move |_, witness| witness.signature == signature);
    Ok(rows.next().await?.is_some())
}
