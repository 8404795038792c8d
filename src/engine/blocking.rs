//! The same calls for threads that may block.
//!
//! Never use these from a task of an async runtime: the calling thread sleeps until the answer is there.

use op_engine_io::block_on;
use op_engine_shards::{BlockHash, Height};

use crate::batch::{Batch, Block};
use crate::collection::{Collection, Index};
use crate::draft::Draft;
use crate::engine::order::{Committed, Reorged};
use crate::engine::reader::IndexHit;
use crate::engine::snapshot::Snapshot;
use crate::engine::{Engine, Pending, Stats};
use crate::error::Result;

/// An engine whose calls block. See the method of the same name of [`Engine`] for what each does and how it fails.
#[derive(Clone, Copy)]
pub struct BlockingEngine<'a>(pub(crate) &'a Engine);

impl BlockingEngine<'_> {
    /// See [`Engine::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(&self, block: Block) -> Result<Committed> {
        block_on(self.0.commit(block))
    }

    /// See [`Engine::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(&self, block: Block) -> Result<Pending> {
        block_on(self.0.submit(block))
    }

    /// See [`Engine::draft`].
    ///
    /// # Errors
    /// As there.
    pub fn draft(&self, height: Height, parent: BlockHash) -> Result<Draft> {
        block_on(self.0.draft(height, parent))
    }

    /// See [`Engine::commit_global`].
    ///
    /// # Errors
    /// As there.
    pub fn commit_global(&self, batch: Batch) -> Result<Committed> {
        block_on(self.0.commit_global(batch))
    }

    /// See [`Engine::reorg_to`].
    ///
    /// # Errors
    /// As there.
    pub fn reorg_to(&self, height: Height) -> Result<Reorged> {
        block_on(self.0.reorg_to(height))
    }

    /// See [`Engine::sync`].
    ///
    /// # Errors
    /// As there.
    pub fn sync(&self) -> Result<()> {
        block_on(self.0.sync())
    }

    /// See [`Engine::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<()> {
        block_on(self.0.flush())
    }

    /// See [`Engine::compact`].
    ///
    /// # Errors
    /// As there.
    pub fn compact(&self) -> Result<()> {
        block_on(self.0.compact())
    }

    /// See [`Engine::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get<C: Collection>(&self, key: &C::Key) -> Result<Option<C::Value>> {
        block_on(self.0.get::<C>(key))
    }

    /// See [`Engine::get_many`].
    ///
    /// # Errors
    /// As there.
    pub fn get_many<C: Collection>(&self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        block_on(self.0.get_many::<C>(keys))
    }

    /// See [`Engine::get_at`].
    ///
    /// # Errors
    /// As there.
    pub fn get_at<C: Collection>(&self, height: Height, key: &C::Key) -> Result<Option<C::Value>> {
        block_on(self.0.get_at::<C>(height, key))
    }

    /// See [`Engine::get_many_at`].
    ///
    /// # Errors
    /// As there.
    pub fn get_many_at<C: Collection>(
        &self,
        height: Height,
        keys: &[C::Key],
    ) -> Result<Vec<Option<C::Value>>> {
        block_on(self.0.get_many_at::<C>(height, keys))
    }

    /// See [`Engine::get_by`].
    ///
    /// # Errors
    /// As there.
    pub fn get_by<I: Index>(&self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        block_on(self.0.get_by::<I>(key))
    }

    /// See [`Engine::snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self) -> Result<Snapshot> {
        block_on(self.0.snapshot())
    }

    /// See [`Engine::at`].
    ///
    /// # Errors
    /// As there.
    pub fn at(&self, height: Height) -> Result<Snapshot> {
        block_on(self.0.at(height))
    }

    /// See [`Engine::stats`].
    ///
    /// # Errors
    /// As there.
    pub fn stats(&self) -> Result<Stats> {
        block_on(self.0.stats())
    }
}

/// A snapshot whose calls block. See the method of the same name of [`Snapshot`].
#[derive(Clone, Copy)]
pub struct BlockingSnapshot<'a>(pub(crate) &'a Snapshot);

impl BlockingSnapshot<'_> {
    /// See [`Snapshot::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get<C: Collection>(&self, key: &C::Key) -> Result<Option<C::Value>> {
        block_on(self.0.get::<C>(key))
    }

    /// See [`Snapshot::get_many`].
    ///
    /// # Errors
    /// As there.
    pub fn get_many<C: Collection>(&self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        block_on(self.0.get_many::<C>(keys))
    }

    /// See [`Snapshot::get_by`].
    ///
    /// # Errors
    /// As there.
    pub fn get_by<I: Index>(&self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        block_on(self.0.get_by::<I>(key))
    }
}
