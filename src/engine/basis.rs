//! What a draft was made on, and whether that is still there.

use std::cell::{Cell, RefCell};

use ahash::AHashMap;
use op_engine_shards::{CollectionId, Height, Seq};

use crate::engine::chain_window::Tip;
use crate::error::{Error, Result};

/// The state that a draft was made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Basis {
    pub(crate) tip: Option<Tip>,
    pub(crate) view: Seq,
    /// The collections outside the chain that the draft has used.
    pub(crate) outside: Vec<CollectionId>,
}

/// When collections were last changed by something else than a block.
///
/// What follows the chain is as it was while the tip has the same commit number. What does not may change between blocks:
/// a global batch changes some collections, and a reorg, even one to the tip itself, clears others.
#[derive(Debug, Default)]
pub(crate) struct BetweenBlocks {
    /// By collection. Bounded by their number.
    batches: RefCell<AHashMap<CollectionId, Seq>>,
    reorg: Cell<Seq>,
}

impl BetweenBlocks {
    pub(crate) fn note_batch(&self, seq: Seq, collections: &[CollectionId]) {
        self.batches.borrow_mut().extend(collections.iter().map(|collection| (*collection, seq)));
    }

    pub(crate) fn note_reorg(&self, seq: Seq) {
        self.reorg.set(seq);
    }

    /// Whether a draft still shows what a block above `tip` would be made on.
    ///
    /// # Errors
    /// [`Error::StaleDraft`].
    pub(crate) fn check(&self, basis: &Basis, height: Height, tip: Option<Tip>) -> Result<()> {
        let stale = |what: String| Err(Error::StaleDraft { height, what });
        if basis.tip != tip {
            let now = tip.map_or("none".to_owned(), |tip| format!("block {}, {}", tip.height, tip.hash));
            return stale(format!("the tip is another one: {now}"));
        }
        let batches = self.batches.borrow();
        let batch = |collection: &CollectionId| batches.get(collection).copied().unwrap_or_default();
        let is_newer = |collection: &CollectionId| batch(collection).max(self.reorg.get()) > basis.view;
        if basis.outside.iter().any(is_newer) {
            return stale("a collection outside the chain that it has used was changed".to_owned());
        }
        Ok(())
    }
}
