//! Making frames durable. Whatever has queued while one write was in flight goes out together with the next.

use std::rc::Rc;

use op_engine_io::Env;

use crate::error::Result;
use crate::ids::Seq;
use crate::log::Frame;
use crate::message::{Event, Progress};

use super::Shard;

/// Frames to write, and whether a sync follows.
struct Batch {
    frames: Vec<Frame>,
    durable: bool,
}

impl<E: Env> Shard<E> {
    /// Writes queued frames for as long as the shard lives.
    pub(super) async fn write_log(self: Rc<Self>) {
        // Whether something that was written still waits for a sync.
        let mut unsynced = false;
        loop {
            let mark = self.log.grown.mark();
            if self.failure().is_some() {
                return;
            }
            let Some(batch) = self.take_batch(unsynced) else {
                self.log.grown.raised_since(mark).await;
                continue;
            };
            let durable = batch.durable;
            let last = batch.frames.last().map(|frame| frame.seq);
            if let Err(error) = self.write_batch(batch, unsynced).await {
                return self.fail(error).await;
            }
            if let Some(last) = last {
                self.log.written.set(last);
            }
            unsynced = !durable;
            self.log.shrunk.raise();
            if !durable {
                continue;
            }
            self.env.note_request();
            let durable_through = self.publish_durable();
            if self.events.send(Event::Durable(self.identity.shard, durable_through)).await.is_err() {
                return;
            }
        }
    }

    /// All queued frames, if it is time to write them.
    fn take_batch(&self, unsynced: bool) -> Option<Batch> {
        let mut frames = self.log.frames.borrow_mut();
        let durable = self.log.sync_wanted.get() || frames.iter().any(|(_, durable)| *durable);
        let gathered = self.log.bytes.get() >= self.config.wal_gather_bytes;
        if frames.is_empty() && !(durable && unsynced) {
            // A sync of nothing is done already; its asker is told by the watermark.
            if self.log.sync_wanted.replace(false) {
                drop(frames);
                return Some(Batch { frames: Vec::new(), durable: true });
            }
            return None;
        }
        if !durable && !gathered {
            return None;
        }
        self.log.sync_wanted.set(false);
        self.log.bytes.set(0);
        let frames = frames.drain(..).map(|(frame, _)| frame).collect();
        Some(Batch { frames, durable })
    }

    async fn write_batch(&self, batch: Batch, unsynced: bool) -> Result<()> {
        let Batch { frames, durable } = batch;
        // A durable write covers only itself; what was written before it needs a sync of the file.
        let sync_apart = durable && unsynced;
        if !frames.is_empty() {
            self.writer().wal.append(frames, durable && !sync_apart).await?;
        }
        if sync_apart {
            self.writer().wal.sync().await?;
        }
        Ok(())
    }

    fn publish_durable(&self) -> Seq {
        let mut state = self.state.borrow_mut();
        state.durable = state.durable.max(self.log.written.get());
        state.durable
    }

    /// Records the cut in a frame of its own, so that the last commit is known to be acknowledged.
    pub(super) fn record_mark(&self, progress: Progress) {
        self.note(progress);
        let (last, failed) = {
            let state = self.state.borrow();
            (state.applied, state.failed.is_some())
        };
        if failed || self.log.marked.get() >= progress.cut {
            return;
        }
        self.log.marked.set(progress.cut);
        self.queue_frame(Frame::mark(last, progress.cut), true);
    }
}
