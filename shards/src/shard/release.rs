//! Giving back the space of what merges have taken over, while they still go on.
//!
//! A merge frees its inputs file by file, so an input in one large file would take its space until the end. Its pages
//! are given back as the merge goes past them.

use std::rc::Rc;

use op_engine_io::{Env, Error as IoError, File as _, OpenMode};

use crate::error::{Error, Result};
use crate::segment::Segment;

use super::Shard;

impl<E: Env> Shard<E> {
    /// Gives back the space of all pages that merges have taken over and that nobody reads any more.
    pub(super) async fn release_taken_over(&self) -> Result<()> {
        for segment in self.with_releasable_space() {
            // A reader that has come meanwhile sees nothing of what was taken over.
            let Some(range) = segment.releasable() else { continue };
            match self.release(&segment, range.start, range.end).await {
                Ok(()) => {
                    segment.note_released(range.end);
                    self.stats.borrow_mut().released_bytes += range.end - range.start;
                }
                // It is gone altogether, or the hole itself finds no space: later it may.
                Err(IoError::NotFound { .. } | IoError::OutOfSpace { .. }) => {}
                Err(error) => return Err(Error::from(error)),
            }
        }
        Ok(())
    }

    fn with_releasable_space(&self) -> Vec<Rc<Segment<E>>> {
        let state = self.state.borrow();
        let files = state.runs.values().flat_map(|runs| runs.files());
        files.filter(|segment| segment.releasable().is_some()).cloned().collect()
    }

    async fn release(&self, segment: &Segment<E>, from: u64, to: u64) -> Result<(), IoError> {
        let file = self.env.open(segment.file_name(), OpenMode::ReadWrite).await?;
        file.release(from, to).await
    }
}
