//! Reading filters and page indexes before anybody needs them, as long as there is room.
//!
//! Opening a segment reads its directory only. Here the rest follows in the background, so that an open takes no longer
//! for what a store holds, and its first reads find most of what they need. The smallest segments come first: they are
//! the newest, each is asked for every key that it might hold, and each of their bytes is used most often.

use std::cmp::Reverse;
use std::rc::{Rc, Weak};

use op_engine_io::Env;

use crate::segment::{Completeness, Segment};

use super::Shard;

impl<E: Env> Shard<E> {
    /// Fills the room for partitions, now and whenever segments have changed, for as long as the shard lives.
    pub(super) async fn prefetch(self: Rc<Self>) {
        loop {
            let mark = self.segments_changed.mark();
            self.fill_room().await;
            if self.closing.get() {
                return;
            }
            self.segments_changed.raised_since(mark).await;
        }
    }

    async fn fill_room(&self) {
        let mut slice_ends = self.env.now() + self.env.background_slice();
        for segment in self.smallest_first() {
            // One that was merged meanwhile is gone, and so is what it had in memory.
            let Some(segment) = segment.upgrade() else { continue };
            match segment.load_partitions(&self.env).await {
                Ok(Completeness::Whole) => {}
                Ok(Completeness::NoRoom) => return,
                // Reads that need what cannot be had fail with the same error.
                Err(error) => tracing::warn!(%error, "a filter or page index cannot be loaded"),
            }
            if self.env.now() >= slice_ends {
                self.env.yield_now().await;
                slice_ends = self.env.now() + self.env.background_slice();
            }
        }
    }

    fn smallest_first(&self) -> Vec<Weak<Segment<E>>> {
        let state = self.state.borrow();
        let mut segments: Vec<_> = state.runs.values().flat_map(|runs| runs.files()).collect();
        segments.sort_by_key(|segment| (segment.meta().file_bytes, Reverse(segment.meta().seq_max)));
        segments.into_iter().map(Rc::downgrade).collect()
    }
}
