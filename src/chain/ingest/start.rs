//! Where a store and a chain part.

use op_engine_io::block_on;

use super::ChainSource;
use crate::chain::ChainError;
use crate::chain::collections::Blocks;
use crate::{BlockHash, Engine, Height};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The store has every block of the chain.
    UpToDate,
    /// The blocks from `height` on are missing, after the store has gone back to `back_to` if it must.
    At { height: u64, back_to: Option<Height> },
}

/// Compares the store with the chain up to `target`.
pub(super) fn find(
    engine: &Engine,
    source: &(impl ChainSource + ?Sized),
    target: u64,
) -> Result<Start, ChainError> {
    let first = source.first_height();
    let Some(tip) = engine.tip() else {
        let empty = target < first || source.hash_at(first).is_none();
        return Ok(if empty { Start::UpToDate } else { Start::At { height: first, back_to: None } });
    };
    let next = tip.height.0 + 1;
    if next < first {
        return Err(ChainError::Gap { tip: tip.height, first: Height(first) });
    }
    if next == first {
        // There is no common height; whether the block links is for the engine to say.
        let begins = target >= first && source.hash_at(first).is_some();
        return Ok(if begins { Start::At { height: first, back_to: None } } else { Start::UpToDate });
    }
    let highest = tip.height.0.min(target);
    let Some(hash) = source.hash_at(highest) else { return Ok(Start::UpToDate) };
    if hash_in_store(engine, Height(highest))? == Some(BlockHash(hash)) {
        let behind = highest < target;
        return Ok(if behind { Start::At { height: next, back_to: None } } else { Start::UpToDate });
    }
    let reachable = engine.horizon();
    let headers: Vec<(Height, BlockHash)> = (reachable.0.max(first)..=highest)
        .filter_map(|height| Some((Height(height), BlockHash(source.hash_at(height)?))))
        .collect();
    match engine.find_fork(&headers) {
        Some(fork) => Ok(Start::At { height: fork.height.0 + 1, back_to: Some(fork.height) }),
        None => Err(ChainError::ForkBelowHorizon { tip: tip.height, tip_hash: tip.hash, horizon: reachable }),
    }
}

/// The hash of the store's block at a height, also below the part of the chain that a reorg can reach.
fn hash_in_store(engine: &Engine, height: Height) -> Result<Option<BlockHash>, ChainError> {
    if let Some(block) = engine.block_at(height) {
        return Ok(Some(block.hash));
    }
    let block = block_on(engine.get::<Blocks>(&height.0))?;
    Ok(block.map(|block| BlockHash(block.hash)))
}
