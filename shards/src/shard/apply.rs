//! Making commits visible, in order.

use std::rc::Rc;

use op_engine_io::Env;

use crate::bytes::Malformed;
use crate::error::Error;
use crate::log::{Frame, FrameKind};
use crate::message::{CommitKind, CommitPart, Event, Progress};

use super::{Part, Shard};

/// A frame for a part of a commit.
fn frame_of(part: CommitPart) -> (Frame, bool) {
    let kind = match part.kind {
        CommitKind::Block => FrameKind::Block,
        CommitKind::Global => FrameKind::Global,
        CommitKind::Reorg => FrameKind::Reorg,
        CommitKind::Schema => FrameKind::Schema,
    };
    let frame = Frame {
        kind,
        seq: part.seq,
        prev: part.prev,
        cut: part.progress.cut,
        height: part.height,
        hash: part.hash,
        parent: part.parent,
        payload: part.payload,
    };
    (frame, part.durable)
}

impl<E: Env> Shard<E> {
    /// Queues a part. Parts come in the order of their numbers.
    pub(super) fn accept(&self, part: CommitPart) {
        self.note(part.progress);
        self.parts.borrow_mut().push_back(Part::Commit(part));
        self.parts_grown.raise();
    }

    /// Has everything synced that has been accepted so far: what is in the queue to the WAL at once, because room for
    /// the rest may depend on it, and the rest when it is applied.
    pub(super) fn accept_sync(&self) {
        self.want_sync();
        self.parts.borrow_mut().push_back(Part::Sync);
        self.parts_grown.raise();
    }

    fn want_sync(&self) {
        self.log.sync_wanted.set(true);
        self.log.grown.raise();
    }

    /// Takes in what the barrier knows.
    pub(super) fn note(&self, progress: Progress) {
        let moved = {
            let mut state = self.state.borrow_mut();
            let before = (state.progress.cut, state.progress.horizon);
            state.advance(progress);
            before != (state.progress.cut, state.progress.horizon)
        };
        if moved {
            self.work.raise();
        }
    }

    /// Applies queued parts for as long as the shard lives.
    pub(super) async fn apply_commits(self: Rc<Self>) {
        loop {
            let mark = self.parts_grown.mark();
            if self.failure().is_some() {
                return;
            }
            let part = self.parts.borrow_mut().pop_front();
            let Some(part) = part else {
                self.parts_grown.raised_since(mark).await;
                continue;
            };
            let part = match part {
                Part::Commit(part) => part,
                Part::Sync => {
                    self.want_sync();
                    continue;
                }
            };
            self.wait_for_room().await;
            if self.failure().is_some() {
                return;
            }
            let (frame, durable) = frame_of(part);
            let seq = frame.seq;
            if let Err(error) = self.apply_frame(&frame) {
                return self.fail(error).await;
            }
            self.queue_frame(frame, durable);
            if self.events.send(Event::Applied(self.identity.shard, seq)).await.is_err() {
                return;
            }
        }
    }

    fn apply_frame(&self, frame: &Frame) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        state
            .apply(frame, self.env.now())
            .map_err(|Malformed(what)| Error::Refused { what: what.to_owned() })?;
        let full = state.active.borrow().bytes() >= self.config.memtable_bytes_max;
        if full {
            state.freeze();
            drop(state);
            self.balance();
            self.work.raise();
        }
        Ok(())
    }

    pub(super) fn queue_frame(&self, frame: Frame, durable: bool) {
        self.log.bytes.set(self.log.bytes.get() + frame.payload.len());
        self.log.frames.borrow_mut().push_back((frame, durable));
        self.log.grown.raise();
    }

    /// Waits until there is room for another commit: in memtables, and in the queue to the WAL.
    async fn wait_for_room(&self) {
        let full = |shard: &Self| shard.state.borrow().frozen.len() > shard.config.memtables_frozen_max;
        if full(self) {
            let began = self.env.now();
            while full(self) && self.failure().is_none() {
                let mark = self.flushed.mark();
                if full(self) {
                    self.flushed.raised_since(mark).await;
                }
            }
            let waited = self.env.now().saturating_sub(began);
            let mut stats = self.stats.borrow_mut();
            stats.stalls += 1;
            stats.stall_nanos += u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        }
        while self.log.bytes.get() > self.config.wal_queue_bytes_max && self.failure().is_none() {
            let mark = self.log.shrunk.mark();
            self.want_sync();
            self.log.shrunk.raised_since(mark).await;
        }
    }
}
