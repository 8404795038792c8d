//! The same calls for threads that may block, as contracts are executed by.

use op_engine_io::block_on;

use super::overlay::Overlay;
use crate::collection::{Collection, Index};
use crate::engine::IndexHit;
use crate::error::Result;

/// An overlay whose calls block. See the method of the same name of [`Overlay`] for what each does and how it fails.
///
/// A read of what is in memory does not block: it takes a look into a map. Never use these from a task of an async
/// runtime.
pub struct BlockingOverlay<'a>(pub(super) &'a mut Overlay);

impl BlockingOverlay<'_> {
    /// See [`Overlay::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get<C: Collection>(&mut self, key: &C::Key) -> Result<Option<C::Value>> {
        match self.0.known::<C>(key)? {
            Some(known) => Ok(known),
            None => block_on(self.0.get::<C>(key)),
        }
    }

    /// See [`Overlay::get_many`].
    ///
    /// # Errors
    /// As there.
    pub fn get_many<C: Collection>(&mut self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        block_on(self.0.get_many::<C>(keys))
    }

    /// See [`Overlay::exists`].
    ///
    /// # Errors
    /// As there.
    pub fn exists<C: Collection>(&mut self, key: &C::Key) -> Result<bool> {
        match self.0.seen::<C>(key)? {
            Some(seen) => Ok(seen.is_some()),
            None => block_on(self.0.exists::<C>(key)),
        }
    }

    /// See [`Overlay::warm`].
    ///
    /// # Errors
    /// As there.
    pub fn warm<C: Collection>(&mut self, keys: &[C::Key]) -> Result<()> {
        block_on(self.0.warm::<C>(keys))
    }

    /// See [`Overlay::get_by`].
    ///
    /// # Errors
    /// As there.
    pub fn get_by<I: Index>(&mut self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        block_on(self.0.get_by::<I>(key))
    }
}
