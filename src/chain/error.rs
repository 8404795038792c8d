//! What can go wrong when a chain is brought into a store.

use crate::chain::block_files::BlockFileError;
use crate::{BlockHash, Height};

/// What can go wrong when a chain is brought into a store. Whole blocks that were committed before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The store refused or failed.
    #[error(transparent)]
    Engine(#[from] crate::Error),
    /// A block could not be read. All blocks before it are committed.
    #[error(transparent)]
    BlockFile(#[from] BlockFileError),
    /// The chain has left the store's branch below what a reorg can reach.
    #[error(
        "the chain shares no block with the store from height {horizon} on, the lowest that a reorg can reach; the \
         store's tip is {tip_hash} at height {tip}. Index again into a new store, with a larger reorg window"
    )]
    ForkBelowHorizon {
        /// The height of the store's tip.
        tip: Height,
        /// The hash of the store's tip.
        tip_hash: BlockHash,
        /// The lowest height that a reorg can go back to.
        horizon: Height,
    },
    /// The chain begins too far above the store's tip.
    #[error(
        "the chain begins at height {first}, the store needs the block above {tip}. Use a node that has not pruned it"
    )]
    Gap {
        /// The height of the store's tip.
        tip: Height,
        /// The height of the chain's first block.
        first: Height,
    },
    /// A thread could not be started.
    #[error("could not start a thread that prepares blocks: {source}")]
    Thread {
        /// The reason.
        source: std::io::Error,
    },
    /// A thread panicked while it prepared a block.
    #[error("a bug: preparing block {height} panicked. Please report it, with the block")]
    Panicked {
        /// The height of the block.
        height: Height,
    },
}
