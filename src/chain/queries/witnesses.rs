//! Witnesses of blocks.

use std::ops::RangeInclusive;

use super::paging::page;
use super::{ChainView, Page, Paging};
use crate::chain::collections::{BlockWitness, BlockWitnesses, WitnessesByKey, witness_key_hash};
use crate::{Result, Snapshot};

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
/// If the store cannot be read, or the page does not belong to the question.
pub async fn witnesses_of_block(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<FoundWitness>> {
    of_block(&view.view().await?, height, paging).await
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
        found.extend(of_block(&snapshot, height, &Paging::first(limit_per_block)).await?.rows);
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
    let snapshot = view.view().await?;
    let prefix = (witness_key_hash(public_key), height);
    let rows = snapshot.scan_index::<WitnessesByKey>().prefix(&prefix).collect().await?;
    let keys: Vec<_> = rows.into_iter().map(|(_, key, ())| key).collect();
    let witnesses = snapshot.get_many::<BlockWitnesses>(&keys).await?;
    Ok(witnesses.iter().flatten().any(|witness| witness.signature == signature))
}

async fn of_block(snapshot: &Snapshot, height: u64, paging: &Paging) -> Result<Page<FoundWitness>> {
    let rows = snapshot.scan::<BlockWitnesses>().prefix(&(height,));
    let found = page(rows, ((height, [0; 32]), (height, [0xff; 32])), paging).await?;
    Ok(found.map(|((height, id), witness)| FoundWitness { height, id, witness }))
}
