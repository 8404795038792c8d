//! Making commits visible, in order.

use std::rc::Rc;
use std::time::Duration;

use op_engine_io::Env;
use op_engine_io::num::to_u64;

use crate::bytes::Malformed;
use crate::error::Error;
use crate::log::{Frame, FrameKind};
use crate::message::{CommitKind, CommitPart, Event, Progress};
use crate::signal::Signal;
use crate::stats::StallReason;

use super::pressure::{Debt, memtable_marks, still_due};
use super::{Part, Shard};

/// How often it is looked whether a commit must still be delayed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

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
            self.wait_for_room(&part).await;
            if self.failure().is_some() {
                return;
            }
            let (frame, durable) = frame_of(part);
            if durable {
                self.env.note_request();
            }
            let seq = frame.seq;
            if let Err(error) = self.apply_frame(&frame) {
                return self.fail(error).await;
            }
            self.queue_frame(frame, durable);
            let applied = Event::Applied(self.identity.shard, seq, self.space_need());
            if self.events.send(applied).await.is_err() {
                return;
            }
        }
    }

    fn apply_frame(&self, frame: &Frame) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        let before = state.active.borrow().bytes();
        state
            .apply(frame, self.env.now())
            .map_err(|Malformed(what)| Error::Refused { what: what.to_owned() })?;
        let active = Rc::clone(&state.active);
        self.pressure.note_commit(frame.payload.len(), active.borrow().bytes().saturating_sub(before));
        let full = active.borrow().is_full(self.config.memtable_bytes_max);
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

    /// Holds a commit back: smoothly while flushes or merges are behind, at the limits until there is room.
    async fn wait_for_room(&self, part: &CommitPart) {
        // Whatever else a commit is, it brings no entries.
        if matches!(part.kind, CommitKind::Block | CommitKind::Global) {
            // Flushes that wait for space may do so for long. The committer sends no more then; what it has sent goes on.
            let full = |shard: &Self| {
                shard.state.borrow().frozen.len() > shard.config.memtables_frozen_max
                    && !shard.shortage.holds_flushes()
            };
            self.wait_while(StallReason::MemtablesFull, &self.flushed, full).await;
            let ahead = Self::is_ahead_of_flush;
            self.wait_while(StallReason::MemtablesFull, &self.pressure.flush_moved, ahead).await;
            let behind = Self::is_held_up_by_merges;
            self.wait_while(StallReason::MergesBehind, &self.segments_changed, behind).await;
            self.slow_down(part.payload.len()).await;
        }
        let queued = |shard: &Self| shard.log.bytes.get() > shard.config.wal_queue_bytes_max;
        if queued(self) {
            self.want_sync();
            self.wait_while(StallReason::WalQueueFull, &self.log.shrunk, queued).await;
        }
    }

    /// Whether commits fill the last memtable that there is room for faster than the first is flushed.
    fn is_ahead_of_flush(&self) -> bool {
        let state = self.state.borrow();
        let is_last = state.frozen.len() == self.config.memtables_frozen_max;
        is_last
            && !state.frozen.is_empty()
            && !self.shortage.holds_flushes()
            && self.pressure.is_ahead_of_flush(state.active.borrow().bytes(), self.config.memtable_bytes_max)
    }

    /// Whether merges that are under way are so far behind that commits wait for them.
    pub(super) fn is_held_up_by_merges(&self) -> bool {
        self.shortage.is_merging() && self.merge_debt().is_at_limit()
    }

    async fn wait_while(&self, reason: StallReason, signal: &Signal, is_over: impl Fn(&Self) -> bool) {
        if !is_over(self) {
            return;
        }
        let began = self.env.now();
        while self.failure().is_none() {
            let mark = signal.mark();
            if !is_over(self) {
                break;
            }
            signal.raised_since(mark).await;
        }
        let waited = self.env.now().saturating_sub(began);
        self.stats.borrow_mut().stalls.add(reason, waited);
    }

    /// Delays a commit of `bytes` in proportion to how far merges, or flushes that wait for space, are behind. It is looked
    /// again and again: a delay that outlasts the merge helps nobody.
    async fn slow_down(&self, bytes: usize) {
        let full_disk = self.shortage.holds_flushes();
        let (flushes, merges) = self.levels();
        let reason = if merges > flushes { StallReason::MergesBehind } else { StallReason::OutOfSpace };
        let level = flushes.max(merges);
        let delay = self.pressure.delay(bytes, level, full_disk);
        if delay.is_zero() {
            return;
        }
        let began = self.env.now();
        let mut elapsed = Duration::ZERO;
        while self.failure().is_none() {
            let (flushes, merges) = self.levels();
            let left = still_due(delay, level, flushes.max(merges)).saturating_sub(elapsed);
            if left.is_zero() {
                break;
            }
            self.env.sleep(left.min(LOOK_EVERY)).await;
            elapsed = self.env.now().saturating_sub(began);
        }
        self.stats.borrow_mut().stalls.add(reason, elapsed);
    }

    /// How far flushes that wait for space, and merges, are behind.
    fn levels(&self) -> (u64, u64) {
        let (soft, hard) = memtable_marks(self.config.memtable_bytes_max, self.config.memtables_frozen_max);
        let amount = to_u64(self.state.borrow().memtable_bytes());
        let flushes = if self.shortage.holds_flushes() { Debt { amount, soft, hard }.level() } else { 0 };
        let merges = if self.shortage.is_merging() { self.merge_debt().level() } else { 0 };
        (flushes, merges)
    }
}
