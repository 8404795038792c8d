//! The part of the chain that a reorg can reach: heights, hashes and commit numbers.

use std::collections::VecDeque;

use op_engine_shards::message::Horizon;
use op_engine_shards::{BlockHash, Height, Seq};

use crate::error::{Error, Result};

/// A block of the chain, as the engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// The hash of the block below.
    pub parent: BlockHash,
    /// The commit that brought it.
    pub seq: Seq,
}

/// The blocks from the horizon to the tip, without a gap.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainWindow {
    blocks: VecDeque<Tip>,
    /// The first block that the store ever got.
    first: Option<Height>,
    horizon: Horizon,
    /// How many blocks below the durable tip stay reachable.
    depth: u64,
}

impl ChainWindow {
    /// A window over `blocks`, which ascend by one.
    pub(crate) fn new(depth: u64, first: Option<Height>, horizon: Horizon, blocks: VecDeque<Tip>) -> Self {
        Self { blocks, first, horizon, depth }
    }

    pub(crate) fn tip(&self) -> Option<Tip> {
        self.blocks.back().copied()
    }

    pub(crate) fn first(&self) -> Option<Height> {
        self.first
    }

    pub(crate) fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// The lowest height that a reorg can go back to.
    pub(crate) fn reachable(&self) -> Height {
        self.horizon.height.max(self.first.unwrap_or_default())
    }

    /// The block at a height, if it is in the window.
    pub(crate) fn at(&self, height: Height) -> Option<Tip> {
        let base = self.blocks.front()?.height;
        let offset = height.0.checked_sub(base.0)?;
        self.blocks.get(op_engine_io::num::to_usize(offset)).copied()
    }

    /// Whether a block links to the tip.
    pub(crate) fn check_link(&self, height: Height, parent: BlockHash) -> Result<()> {
        check_link(self.tip(), height, parent)
    }

    pub(crate) fn push(&mut self, block: Tip) {
        assert!(self.tip().is_none_or(|tip| tip.height.0 + 1 == block.height.0), "blocks ascend by one");
        self.first.get_or_insert(block.height);
        self.blocks.push_back(block);
    }

    /// The block that a reorg to `target` makes the tip.
    pub(crate) fn check_reorg(&self, target: Height) -> Result<Tip> {
        let tip = self.tip().ok_or(Error::EmptyChain)?;
        if target > tip.height {
            return Err(Error::ReorgAboveTip { target, tip: tip.height });
        }
        let horizon = self.reachable();
        if target < horizon {
            return Err(Error::ReorgBelowHorizon { target, horizon });
        }
        self.at(target).ok_or(Error::ReorgBelowHorizon { target, horizon })
    }

    /// Drops the blocks above a height.
    pub(crate) fn go_back(&mut self, target: Height) {
        while self.tip().is_some_and(|tip| tip.height > target) {
            self.blocks.pop_back();
        }
    }

    /// Moves the horizon up to what the durable tip allows. It never goes down.
    pub(crate) fn advance(&mut self, cut: Seq) {
        let durable = self.blocks.partition_point(|block| block.seq <= cut);
        let Some(tip) = durable.checked_sub(1).and_then(|at| self.blocks.get(at)) else { return };
        let Some(height) = tip.height.0.checked_sub(self.depth) else { return };
        if let Some(block) = self.at(Height(height)) {
            self.horizon = self.horizon.max(Horizon { height: block.height, seq: block.seq });
        }
        while self.blocks.front().is_some_and(|block| block.height < self.horizon.height) {
            self.blocks.pop_front();
        }
    }

    /// The highest block that is both in the window and in `headers`.
    pub(crate) fn find_fork(&self, headers: &[(Height, BlockHash)]) -> Option<Tip> {
        let shared =
            headers.iter().filter_map(|(height, hash)| self.at(*height).filter(|block| block.hash == *hash));
        shared.max_by_key(|block| block.height)
    }
}

/// Whether a block links to a tip. Any block does if there is none.
pub(crate) fn check_link(tip: Option<Tip>, height: Height, parent: BlockHash) -> Result<()> {
    let Some(tip) = tip else { return Ok(()) };
    let expected = Height(tip.height.0 + 1);
    if height != expected {
        return Err(Error::HeightMismatch { expected, got: height });
    }
    if parent != tip.hash {
        return Err(Error::BrokenLink { height, expected: tip.hash, got: parent });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(height: u64, seq: u64) -> Tip {
        let hash = |height: u64| BlockHash([u8::try_from(height).unwrap(); 32]);
        Tip { height: Height(height), hash: hash(height), parent: hash(height - 1), seq: Seq(seq) }
    }

    #[test]
    fn the_horizon_follows_the_durable_tip_and_never_goes_down() {
        let mut window = ChainWindow::new(3, None, Horizon::default(), VecDeque::new());
        for height in 10..20 {
            window.push(block(height, height));
        }
        window.advance(Seq(9));
        assert_eq!(window.reachable(), Height(10));
        window.advance(Seq(17));
        assert_eq!(window.reachable(), Height(14));
        assert!(matches!(window.check_reorg(Height(13)), Err(Error::ReorgBelowHorizon { .. })));
        window.go_back(Height(14));
        window.advance(Seq(30));
        assert_eq!(window.reachable(), Height(14));
        assert_eq!(window.tip(), Some(block(14, 14)));
    }

    #[test]
    fn the_fork_is_the_highest_shared_block() {
        let mut window = ChainWindow::new(100, None, Horizon::default(), VecDeque::new());
        for height in 10..20 {
            window.push(block(height, height));
        }
        let headers = [
            (Height(15), block(15, 0).hash),
            (Height(16), BlockHash([0; 32])),
            (Height(12), block(12, 0).hash),
        ];
        assert_eq!(window.find_fork(&headers), Some(block(15, 15)));
    }
}
