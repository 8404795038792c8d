//! Where a chain comes from.

use std::sync::Arc;

use op_engine_io::num::to_u64;

use crate::chain::ChainBlock;
use crate::chain::block_files::{BlockFileError, BlockFiles};

/// Blocks in the order of the chain. The first error is the last item.
pub type SourceBlocks<'a> = Box<dyn Iterator<Item = Result<Arc<ChainBlock>, BlockFileError>> + Send + 'a>;

/// A chain of blocks that a store can follow.
pub trait ChainSource {
    /// The height of its first block.
    fn first_height(&self) -> u64;

    /// The height of its last block.
    fn tip_height(&self) -> u64;

    /// The hash of its block at `height`.
    fn hash_at(&self, height: u64) -> Option<[u8; 32]>;

    /// Its blocks from `from_height` on.
    ///
    /// # Errors
    /// If they cannot be read.
    fn blocks(&self, from_height: u64) -> Result<SourceBlocks<'_>, BlockFileError>;
}

impl ChainSource for BlockFiles {
    fn first_height(&self) -> u64 {
        Self::first_height(self)
    }

    fn tip_height(&self) -> u64 {
        Self::tip_height(self)
    }

    fn hash_at(&self, height: u64) -> Option<[u8; 32]> {
        Self::hash_at(self, height)
    }

    fn blocks(&self, from_height: u64) -> Result<SourceBlocks<'_>, BlockFileError> {
        Ok(Box::new(Self::blocks(self, from_height)?.map(|block| block.map(Arc::new))))
    }
}

/// Blocks in memory, each the parent of the next.
impl ChainSource for [Arc<ChainBlock>] {
    fn first_height(&self) -> u64 {
        self.first().map_or(0, |block| block.height)
    }

    fn tip_height(&self) -> u64 {
        self.last().map_or(0, |block| block.height)
    }

    fn hash_at(&self, height: u64) -> Option<[u8; 32]> {
        let offset = height.checked_sub(self.first_height())?;
        self.get(op_engine_io::num::to_usize(offset)).map(|block| block.hash)
    }

    fn blocks(&self, from_height: u64) -> Result<SourceBlocks<'_>, BlockFileError> {
        let first = self.first_height();
        let skipped = from_height
            .checked_sub(first)
            .ok_or(BlockFileError::BelowFirst { height: from_height, first })?;
        let skipped = op_engine_io::num::to_usize(skipped.min(to_u64(self.len())));
        Ok(Box::new(self.iter().skip(skipped).map(|block| Ok(Arc::clone(block)))))
    }
}
