//! Moving old data to the cold target, and back.
//!
//! A move is a merge whose output is an object: written, made durable, read back, and then referred to by one manifest
//! record, after which the old files go. What fails before the record leaves everything as it was; what a crash leaves
//! behind, nothing refers to, and it is removed. An object that is not needed any more is removed when nobody reads it.
//!
//! A target that fails stops moves and reads of what is there. Moves are tried again after a pause.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use op_engine_io::num::to_u64;
use op_engine_io::{ColdStore as _, Dir, Env, Error as IoError, FileKind, ReplySender};

use crate::cold_mark;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::message::{TierOrder, TierReport};
use crate::segment::{ColdPace, ObjectUse, Segment};
use crate::signal::Signal;
use crate::stats::TierStats;

use super::Shard;
use super::job::Job;
use super::room::step_bytes_max;

/// The pause after a failure, and how long it grows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often objects that are needed no more are looked at while somebody reads them.
const GARBAGE_PAUSE: Duration = Duration::from_secs(1);

struct Order {
    order: TierOrder,
    report: TierReport,
    reply: ReplySender<Result<TierReport>>,
}

/// What a shard remembers of its moves.
pub(super) struct Tiering<E: Env> {
    pace: ColdPace,
    orders: RefCell<VecDeque<Order>>,
    wanted: Signal,
    garbage: RefCell<Vec<ObjectUse>>,
    /// The target is ours, and holds nothing that nothing refers to.
    is_ready: Cell<bool>,
    /// Up to where a checkpoint covers the WAL.
    wal_covered: Cell<Seq>,
    pause: Cell<Duration>,
    not_before: Cell<Duration>,
    stats: RefCell<TierStats>,
    _env: std::marker::PhantomData<E>,
}

impl<E: Env> Tiering<E> {
    pub(super) fn new(pace: ColdPace) -> Self {
        Self {
            pace,
            orders: RefCell::default(),
            wanted: Signal::default(),
            garbage: RefCell::default(),
            is_ready: Cell::default(),
            wal_covered: Cell::default(),
            pause: Cell::new(PAUSE_MIN),
            not_before: Cell::default(),
            stats: RefCell::default(),
            _env: std::marker::PhantomData,
        }
    }

    pub(super) fn pace(&self) -> ColdPace {
        self.pace.clone()
    }

    /// Notes that a checkpoint covers WAL files.
    pub(super) fn cover_wal(&self, through: Seq) {
        self.wal_covered.set(self.wal_covered.get().max(through));
        self.wanted.raise();
    }

    pub(super) fn covered_wal(&self) -> Seq {
        self.wal_covered.get()
    }

    pub(super) fn note_archived(&self) {
        self.stats.borrow_mut().files_archived += 1;
    }

    pub(super) fn note_not_archived(&self, files: u64) {
        self.stats.borrow_mut().files_not_archived += files;
    }

    pub(super) fn stats(&self) -> TierStats {
        self.stats.borrow().clone()
    }

    /// A merge has ended: what it had may be moved.
    pub(super) fn note_merged(&self) {
        self.wanted.raise();
    }

    /// Takes note of segments that nothing refers to any more: their objects are to go.
    pub(super) fn forget(&self, segments: &[Rc<Segment<E>>]) {
        self.garbage.borrow_mut().extend(segments.iter().filter_map(|segment| segment.object()));
        self.wanted.raise();
    }

    /// A read has failed, perhaps because of the target.
    pub(super) fn note_failed_read(&self, error: &Error) {
        if !error.is_cold() && !is_about_target(error) {
            return;
        }
        let mut stats = self.stats.borrow_mut();
        stats.reads_failed += 1;
        stats.last_failure = Some(error.to_string());
    }

    fn note_failure(&self, now: Duration, error: &Error) {
        self.is_ready.set(false);
        let pause = self.pause.get();
        self.not_before.set(now.saturating_add(pause));
        self.pause.set(pause.saturating_mul(2).min(PAUSE_MAX));
        let mut stats = self.stats.borrow_mut();
        stats.moves_failed += 1;
        stats.last_failure = Some(error.to_string());
    }
}

/// Whether a failure concerns the cold target alone: everything else is as it was.
fn is_harmless(error: &Error) -> bool {
    error.is_cold() || error.is_out_of_space() || is_about_target(error)
}

/// What is wrong with the target itself or with one of its objects.
fn is_about_target(error: &Error) -> bool {
    let cold = format!(".{}", FileKind::Cold.extension());
    match error {
        Error::ColdTargetUnknown { .. } => true,
        Error::Foreign { file, .. }
        | Error::Corruption { file, .. }
        | Error::UnsupportedVersion { file, .. } => file.contains(&cold),
        _ => false,
    }
}

impl<E: Env> Shard<E> {
    /// Moves data between tiers, for as long as the shard lives.
    pub(super) async fn move_between_tiers(self: Rc<Self>) {
        loop {
            let marks = (self.work.mark(), self.segments_changed.mark(), self.tiering.wanted.mark());
            if self.closing.get() || self.failure().is_some() {
                let failure = self.failure().unwrap_or(Error::Closed);
                let orders = self.tiering.orders.take();
                orders.into_iter().for_each(|order| order.reply.send(Err(failure.clone())));
                return;
            }
            match self.move_something().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    if !is_harmless(&error) {
                        return self.fail(error).await;
                    }
                    tracing::info!(shard = %self.identity.shard, %error, "moves to the cold target wait");
                    self.tiering.note_failure(self.env.now(), &error);
                }
            }
            let signals = select(
                Box::pin(self.work.raised_since(marks.0)),
                Box::pin(select(
                    Box::pin(self.segments_changed.raised_since(marks.1)),
                    Box::pin(self.tiering.wanted.raised_since(marks.2)),
                )),
            );
            select(Box::pin(signals), Box::pin(self.time_to_look())).await;
        }
    }

    /// Asks for a move.
    pub(super) fn tier_on_request(&self, order: TierOrder, reply: ReplySender<Result<TierReport>>) {
        if let Some(failure) = self.failure() {
            return reply.send(Err(failure));
        }
        let report = TierReport::default();
        self.tiering.orders.borrow_mut().push_back(Order { order, report, reply });
        self.tiering.wanted.raise();
    }

    /// Resolves when a pause ends, or it is time to look at objects that are still read.
    async fn time_to_look(&self) {
        let now = self.env.now();
        let until = self.tiering.not_before.get();
        let has_garbage = !self.tiering.garbage.borrow().is_empty();
        if until > now {
            self.env.sleep(until.saturating_sub(now)).await;
        } else if has_garbage {
            self.env.sleep(GARBAGE_PAUSE).await;
        } else {
            futures_util::future::pending::<()>().await;
        }
    }

    /// Does the next thing that is to be done. Tells whether there was any.
    async fn move_something(&self) -> Result<bool> {
        let order = self.tiering.orders.borrow().front().map(|order| order.order);
        let moved = self.move_for(order).await;
        if matches!((order, &moved), (Some(TierOrder::Run { .. }), Ok(false))) && self.waits_for_merge() {
            return moved;
        }
        if order.is_some() && !moved.as_ref().is_ok_and(|moved| *moved) {
            self.end_order(moved.clone().map(|_| ()));
            return moved.map(|_| true);
        }
        moved
    }

    async fn move_for(&self, order: Option<TierOrder>) -> Result<bool> {
        if order.is_none() && self.env.now() < self.tiering.not_before.get() {
            return Ok(false);
        }
        let has_target = self.env.cold().is_some() && self.state.borrow().catalog.cold_mark.is_some();
        if order.is_none() && !has_target {
            return Ok(false);
        }
        // What an earlier life has left on the target goes even if nothing is to be moved.
        self.get_target_ready().await?;
        if self.remove_garbage().await? || self.archive_something().await? {
            return Ok(true);
        }
        let job = match order {
            None => self.choose_move(false),
            Some(TierOrder::Run { warmed }) => {
                self.choose_move(true).or_else(|| if warmed { self.choose_warmed() } else { None })
            }
            Some(TierOrder::WarmUp { from, to }) => self.choose_warm_up(from, to),
        };
        let Some(job) = job else { return Ok(false) };
        self.claims.set_moving(&job.inputs);
        let moved = self.run_move(job).await;
        self.claims.set_moving(&[]);
        // Whoever waited for the segments may go on.
        self.segments_changed.raise();
        moved?;
        self.tiering.pause.set(PAUSE_MIN);
        Ok(true)
    }

    /// Answers the order in hand, if there is one.
    fn end_order(&self, result: Result<()>) {
        let order = self.tiering.orders.borrow_mut().pop_front();
        if let Some(Order { report, reply, .. }) = order {
            reply.send(result.map(|()| report));
        }
    }

    async fn run_move(&self, mut job: Job) -> Result<()> {
        loop {
            if self.closing.get() {
                return Ok(());
            }
            self.check_room(&job).await?;
            let before = self.bytes_of(&job);
            let (written_before, objects_before) = self.written_by_moves();
            let has_ended = self.take_step(&mut job).await?;
            self.claims.set_moving(&job.inputs);
            let (written, objects) = self.written_by_moves();
            let moved = TierReport {
                segments: objects - objects_before,
                bytes_before: before.saturating_sub(self.bytes_of(&job)),
                bytes_after: written - written_before,
            };
            self.tiering.stats.borrow_mut().moved.add(moved);
            if let Some(order) = self.tiering.orders.borrow_mut().front_mut() {
                order.report.add(moved);
            }
            if has_ended {
                return Ok(());
            }
        }
    }

    /// Bytes and number of segments that moves have written to the archive.
    fn written_by_moves(&self) -> (u64, u64) {
        let stats = self.stats.borrow();
        (stats.archived_bytes, stats.archived_segments)
    }

    /// Refuses a step for which the store's own device has no room.
    async fn check_room(&self, job: &Job) -> Result<()> {
        let bytes = self.bytes_of(job);
        let needed = step_bytes_max(bytes, self.config.segment_bytes_max) + self.needed_by_all();
        if self.available_bytes().await >= needed {
            return Ok(());
        }
        let file = self.home.file_name(self.state.borrow().next_segment).to_string();
        Err(IoError::OutOfSpace { file, needed }.into())
    }

    /// Makes sure that the target is the one of this store, and removes what nothing refers to.
    async fn get_target_ready(&self) -> Result<()> {
        if self.tiering.is_ready.get() {
            return Ok(());
        }
        let mark = self.state.borrow().catalog.cold_mark;
        let (Some(target), Some(mark)) = (self.env.cold(), mark) else {
            let file = self.home.cold_name(0).to_string();
            return Err(Error::NoColdTarget { file });
        };
        cold_mark::check(&target, self.identity.store, mark).await?;
        let found = target.list(Dir::Shard(self.identity.shard.0)).await?;
        for name in found.into_iter().filter(|name| name.kind == FileKind::Cold) {
            if !self.is_referred_to(name.number) {
                target.remove(name).await?;
            }
        }
        self.tiering.is_ready.set(true);
        Ok(())
    }

    /// Whether a segment or a reader has an object.
    fn is_referred_to(&self, number: u64) -> bool {
        let garbage = self.tiering.garbage.borrow();
        let is_read = garbage.iter().any(|object| object.name.number == number);
        is_read
            || self
                .state
                .borrow()
                .runs
                .values()
                .any(|runs| runs.files().any(|file| file.meta().number == number))
    }

    /// Removes objects that nobody needs any more. Tells whether there were any.
    async fn remove_garbage(&self) -> Result<bool> {
        let unused = self.tiering.garbage.borrow().iter().find(|object| !object.is_used()).cloned();
        let Some(unused) = unused else { return Ok(false) };
        if let Some(target) = self.env.cold() {
            target.remove(unused.name).await?;
        }
        self.tiering.garbage.borrow_mut().retain(|object| object.name != unused.name);
        Ok(true)
    }

    /// What moves and reads of the cold target have come to.
    pub(super) fn describe_tiering(&self) -> TierStats {
        let waiting: u64 = {
            let garbage = self.tiering.garbage.borrow();
            to_u64(garbage.len())
        };
        TierStats { objects_to_remove: waiting, ..self.tiering.stats() }
    }
}
