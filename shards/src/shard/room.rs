//! Space on the disk: what this shard may still take, and what it does when there is none.
//!
//! A flush that the disk has no space for leaves nothing behind and is tried again after a pause; a merge is given up
//! after its last whole step until there is more. Neither stops commits: they go on while there are memtables for them,
//! are slowed down meanwhile, and are then refused by the committer, which knows from here what every shard may need.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{pending, select};
use op_engine_io::num::to_u64;
use op_engine_io::{Env, Error as IoError};

use crate::error::{Error, Result};
use crate::ids::CollectionId;
use crate::log::{UNIT_BYTES, unit_ceil};
use crate::message::{Event, SpaceNeed};
use crate::segment_meta::SegmentMeta;
use crate::signal::Signal;
use crate::stats::SpaceStats;

use super::job::Job;
use super::state::Frozen;
use super::{Shard, Writer};

/// A pause lasts at least this long, whoever asks for another attempt.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// How often it is looked whether there is more space.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After this time it is tried again whatever the disk says: a quota may have been raised.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a segment takes beside its entries: header, filter, index, meta page, footer, and the ends of pages.
const SEGMENT_OVERHEAD_BYTES: u64 = 8 * UNIT_BYTES;
/// A flush makes so many runs of a collection: what no reorg can reach, and the rest.
const RUNS_PER_FLUSH: u64 = 2;
/// Entries take at most so many times their bytes in memory: pages that are half empty are the worst case.
const SEGMENT_GROWTH: u64 = 2;
/// A reorg and the mark that follows it.
const REORG_BYTES: u64 = 2 * UNIT_BYTES;

/// Filter and index of a segment are taken to be no more than this part of its entries.
const ENTRIES_PER_INDEX: u64 = 4;

/// How merges are put off.
#[derive(Debug, Clone)]
struct PutOff {
    why: Error,
    /// Until so much is free.
    until_bytes: u64,
    since: Duration,
    /// Not even a manifest record has found space.
    holds_discards: bool,
}

/// What a shard remembers of a disk that was full.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Why the flush in hand has to wait, if it does.
    flush: RefCell<Option<Error>>,
    merges: RefCell<Option<PutOff>>,
    merging: Cell<bool>,
    trim_wanted: Cell<bool>,
    /// Flushes and refills of the reserve that were tried.
    attempts: Cell<u64>,
    flushes_put_off: Cell<u64>,
    merges_put_off: Cell<u64>,
    /// Raised when somebody wants another attempt.
    retry: Signal,
}

impl Shortage {
    /// Whether flushes wait for space.
    pub(super) fn holds_flushes(&self) -> bool {
        self.flush.borrow().is_some()
    }

    /// How many flushes were put off so far.
    pub(super) fn flushes_put_off(&self) -> u64 {
        self.flushes_put_off.get()
    }

    /// Why the flush in hand waits, if one was put off after the first `before`.
    pub(super) fn put_off_after(&self, before: u64) -> Option<Error> {
        self.flush.borrow().clone().filter(|_| self.flushes_put_off.get() > before)
    }

    /// Whether merges wait for space.
    pub(super) fn holds_merges(&self) -> bool {
        self.merges.borrow().is_some()
    }

    /// Whether even what is dead waits for space to be discarded.
    pub(super) fn holds_discards(&self) -> bool {
        self.merges.borrow().as_ref().is_some_and(|put_off| put_off.holds_discards)
    }

    /// How often merges were put off.
    pub(super) fn merges_put_off(&self) -> u64 {
        self.merges_put_off.get()
    }

    /// Why merges wait, if they were put off after the first `times`.
    pub(super) fn merges_failed_after(&self, times: u64) -> Option<Error> {
        let put_off = self.merges.borrow();
        put_off.as_ref().filter(|_| self.merges_put_off.get() > times).map(|put_off| put_off.why.clone())
    }

    /// Whether there are merges under way.
    pub(super) fn is_merging(&self) -> bool {
        self.merging.get()
    }
}

/// The numbers of segments that are being written. If the disk is full, none of them stays.
#[derive(Debug, Default)]
pub(super) struct Unfinished(RefCell<Vec<u64>>);

impl Unfinished {
    pub(super) fn add(&self, number: u64) {
        self.0.borrow_mut().push(number);
    }
}

/// The most that a flush of a memtable can take.
fn flush_bytes_max(memtable_bytes: u64, collections: u64, segment_bytes_max: u64) -> u64 {
    let entry_bytes = memtable_bytes * SEGMENT_GROWTH;
    let segments = entry_bytes / segment_bytes_max.max(UNIT_BYTES) + collections * RUNS_PER_FLUSH;
    entry_bytes + segments * SEGMENT_OVERHEAD_BYTES
}

/// The most that a step of a merge usually takes: one file. What its inputs have goes when it is done.
pub(super) fn step_bytes_max(input_bytes: u64, segment_bytes_max: u64) -> u64 {
    let entry_bytes = input_bytes.min(segment_bytes_max);
    entry_bytes + entry_bytes / ENTRIES_PER_INDEX + SEGMENT_OVERHEAD_BYTES
}

impl<E: Env> Shard<E> {
    /// What this shard may still take from the disk.
    pub(super) fn space_need(&self) -> SpaceNeed {
        let Some(Writer { wal, manifest, reserve }) = &self.writer else { return SpaceNeed::default() };
        let state = self.state.borrow();
        let collections = to_u64(state.catalog.collections.len());
        let memtables: u64 = state
            .memtables()
            .map(|memtable| to_u64(memtable.borrow().bytes()))
            .map(|bytes| flush_bytes_max(bytes, collections, self.config.segment_bytes_max))
            .sum();
        let flushes = memtables.saturating_sub(self.pressure.flushed_bytes() * SEGMENT_GROWTH);
        let queued = to_u64(self.log.bytes.get()) + to_u64(self.log.frames.borrow().len()) * UNIT_BYTES;
        let wal_room_bytes = wal.room_bytes(unit_ceil(queued));
        let (next_manifest, least_manifest) = manifest.next_file_bytes();
        SpaceNeed {
            bytes: flushes + next_manifest + reserve.missing_bytes(),
            wal_room_bytes,
            wal_file_bytes: wal.file_bytes(),
            reorg_bytes: if wal_room_bytes >= REORG_BYTES {
                0
            } else {
                // A file for the reorg, and those that the next open needs.
                let small_wal = reserve.cost_bytes(wal.small_file_bytes());
                let needed = 2 * small_wal + reserve.cost_bytes(least_manifest);
                needed.saturating_sub(reserve.bytes())
            },
            refused: self.shortage.holds_flushes() || reserve.is_refused(),
            memtables_full: state.frozen.len() > self.config.memtables_frozen_max,
            attempts: self.shortage.attempts.get(),
        }
    }

    /// What all shards together may still take, on the assumption that they are alike.
    pub(super) fn needed_by_all(&self) -> u64 {
        let need = self.space_need();
        (need.bytes + need.wal_file_bytes) * u64::from(self.identity.shard_count)
    }

    pub(super) fn describe_space(&self) -> SpaceStats {
        let reserve = self.writer.as_ref().map(|writer| &writer.reserve);
        SpaceStats {
            reserve_bytes: reserve.map_or(0, |reserve| reserve.bytes()),
            reserve_missing_bytes: reserve.map_or(0, |reserve| reserve.missing_bytes()),
            flushes_put_off: self.shortage.flushes_put_off.get(),
            merges_put_off: self.shortage.merges_put_off.get(),
        }
    }

    async fn tell_need(&self) {
        // A barrier that is gone needs to know nothing.
        let _: Result<(), _> = self.events.send(Event::Space(self.identity.shard, self.space_need())).await;
    }

    /// What the disk says it has; nothing if it does not say.
    pub(super) async fn available_bytes(&self) -> u64 {
        self.env.space().await.map_or(0, |space| space.available_bytes)
    }

    /// Waits until the disk has `wanted` bytes and more than now, somebody asks for another attempt, or a while has
    /// passed.
    async fn pause(&self, wanted: u64) {
        let retry = self.shortage.retry.mark();
        let began = self.env.now();
        let wanted = wanted.max(self.available_bytes().await.saturating_add(1));
        self.env.sleep(PAUSE_MIN).await;
        while self.env.now().saturating_sub(began) < PAUSE_MAX
            && !self.closing.get()
            && self.failure().is_none()
            && self.shortage.retry.mark() == retry
            && self.available_bytes().await < wanted
        {
            let look = Box::pin(self.env.sleep(LOOK_EVERY));
            select(look, Box::pin(self.shortage.retry.raised_since(retry))).await;
        }
    }

    /// A commit was refused for lack of space. What is in memory may hold WAL files on the disk, which a flush gives
    /// back; a flush that gives none back would only take space.
    pub(super) fn make_room(&self) {
        let Some(writer) = &self.writer else { return };
        if writer.wal.stats().files > 1 {
            self.flush_wanted.set(self.state.borrow().applied);
        }
        self.shortage.trim_wanted.set(true);
        self.shortage.retry.raise();
        self.work.raise();
    }

    /// Has a flush that waits for space tried again.
    pub(super) fn want_retry(&self) {
        self.shortage.retry.raise();
    }

    /// Keeps a WAL file ready for the next rotation while there is space for it.
    pub(super) async fn tend_wal(&self) -> Result<()> {
        let wal = &self.writer().wal;
        if self.shortage.trim_wanted.take() {
            wal.trim().await?;
        }
        if wal.stats().free_files > 0 || self.available_bytes().await < self.needed_by_all() {
            return Ok(());
        }
        wal.prepare().await
    }

    /// Makes what is missing of the reserve, for as long as the shard lives.
    pub(super) async fn keep_reserve(self: Rc<Self>) {
        loop {
            let reserve = &self.writer().reserve;
            let given_up = reserve.given_up().mark();
            if self.closing.get() || self.failure().is_some() {
                return;
            }
            if reserve.missing_bytes() == 0 {
                reserve.given_up().raised_since(given_up).await;
                continue;
            }
            // A flush that is under way comes first: it gives WAL files back. One that waits for space must not take
            // what the store keeps for openings.
            let flushed = self.flushed.mark();
            let flushing = !self.state.borrow().frozen.is_empty() && !self.shortage.holds_flushes();
            if flushing {
                self.flushed.raised_since(flushed).await;
                continue;
            }
            match self.refill_reserve().await {
                Ok(true) => {}
                Ok(false) => self.pause(reserve.chunk_bytes()).await,
                Err(error) => return self.fail(error).await,
            }
        }
    }

    /// Makes a chunk of the reserve.
    async fn refill_reserve(&self) -> Result<bool> {
        let reserve = &self.writer().reserve;
        let was_refused = reserve.is_refused();
        let filled = reserve.refill().await;
        self.shortage.attempts.set(self.shortage.attempts.get() + 1);
        if was_refused || filled.is_err() || reserve.missing_bytes() == 0 {
            self.tell_need().await;
        }
        match filled {
            Ok(made) => Ok(made),
            Err(error) if error.is_out_of_space() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what a flush or merge that found no space has written.
    pub(super) async fn remove_unfinished(&self, unfinished: Unfinished) -> Result<()> {
        for number in unfinished.0.into_inner() {
            match self.env.remove(self.home.file_name(number)).await {
                // It could not even be created.
                Err(IoError::NotFound { .. }) => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// A flush has been done.
    pub(super) async fn note_flushed(&self) {
        self.shortage.attempts.set(self.shortage.attempts.get() + 1);
        if self.shortage.flush.take().is_some() {
            tracing::info!(shard = %self.identity.shard, "there is space again: flushes go on");
        }
        self.raise_flushed();
        self.tell_need().await;
    }

    /// A flush has found no space: says so, gives back what can be given back, and waits for the next attempt.
    pub(super) async fn put_off_flush(&self, frozen: &Frozen, error: Error) -> Result<()> {
        if !self.shortage.holds_flushes() {
            tracing::warn!(shard = %self.identity.shard, %error, "flushes wait for space");
        }
        *self.shortage.flush.borrow_mut() = Some(error);
        self.shortage.attempts.set(self.shortage.attempts.get() + 1);
        self.shortage.flushes_put_off.set(self.shortage.flushes_put_off.get() + 1);
        self.raise_flushed();
        self.tell_need().await;
        self.writer().wal.trim().await?;
        let wanted = to_u64(frozen.memtable.borrow().bytes());
        self.pause(wanted).await;
        Ok(())
    }

    /// Lets merges that were put off go on, if it is time.
    pub(super) async fn reconsider_merges(&self) {
        let put_off = self.shortage.merges.borrow().clone();
        let Some(PutOff { until_bytes, since, .. }) = put_off else { return };
        let is_over =
            self.env.now().saturating_sub(since) >= PAUSE_MAX || self.available_bytes().await >= until_bytes;
        if is_over {
            self.want_merges();
        }
    }

    /// Has merges that wait for space tried again.
    pub(super) fn want_merges(&self) {
        *self.shortage.merges.borrow_mut() = None;
    }

    /// Resolves when it is time to look again whether merges can go on.
    pub(super) async fn merges_reconsidered(&self) {
        if !self.shortage.holds_merges() {
            return pending().await;
        }
        self.env.sleep(LOOK_EVERY).await;
    }

    /// There are merges to be done, or none any more. Commits do not wait for merges that do not come.
    pub(super) fn note_merging(&self, is_merging: bool) {
        if self.shortage.merging.replace(is_merging) == is_merging {
            return;
        }
        self.balance();
        if !is_merging {
            self.segments_changed.raise();
        }
    }

    /// Removes dead segments: no more than a manifest record has to find space.
    pub(super) async fn discard_if_room(&self, collection: CollectionId, numbers: Vec<u64>) -> Result<()> {
        let (retention, count) = (self.state.borrow().retention(), to_u64(numbers.len()));
        match self.replace(collection, numbers, Vec::new(), Vec::new(), &retention).await {
            Ok(()) => {
                self.stats.borrow_mut().orphans_deleted += count;
                Ok(())
            }
            Err(error) if error.is_out_of_space() => {
                let until_bytes = self.available_bytes().await.saturating_add(1);
                self.put_off_merges(error, until_bytes, true);
                Ok(())
            }
            replaced => replaced,
        }
    }

    /// Takes a step of a merge, if that leaves enough for flushes. Tells whether the merge has ended, or is given up.
    pub(super) async fn step_if_room(&self, job: &mut Job) -> Result<bool> {
        let input_bytes = self.bytes_of(job);
        let wanted = step_bytes_max(input_bytes, self.config.segment_bytes_max) + self.needed_by_all();
        if self.available_bytes().await < wanted {
            let file = self.home.file_name(self.state.borrow().next_segment).to_string();
            let full = IoError::OutOfSpace { file, needed: wanted };
            self.put_off_merges(full.into(), wanted, false);
            return Ok(true);
        }
        match self.take_step(job).await {
            Err(error) if error.is_out_of_space() => {
                let until_bytes = self.available_bytes().await.saturating_add(1).max(wanted);
                self.put_off_merges(error, until_bytes, false);
                Ok(true)
            }
            stepped => stepped,
        }
    }

    /// The bytes of the inputs that a merge has left.
    pub(super) fn bytes_of(&self, job: &Job) -> u64 {
        let state = self.state.borrow();
        let files = state.runs_of(job.collection);
        let metas = files.files().map(|file| file.meta());
        metas.filter(|meta| job.inputs.contains(&meta.number)).map(SegmentMeta::total_bytes).sum()
    }

    fn put_off_merges(&self, why: Error, until_bytes: u64, holds_discards: bool) {
        tracing::warn!(shard = %self.identity.shard, until_bytes, error = %why, "merges wait for space");
        let since = self.env.now();
        *self.shortage.merges.borrow_mut() = Some(PutOff { why, until_bytes, since, holds_discards });
        self.shortage.merges_put_off.set(self.shortage.merges_put_off.get() + 1);
        // Nobody waits for merges that do not come.
        self.segments_changed.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn a_flush_may_need_twice_its_bytes_and_the_ends_of_every_file() {
        let files = |count| count * SEGMENT_OVERHEAD_BYTES;
        assert_eq!(flush_bytes_max(0, 3, 1 << 20), files(6));
        assert_eq!(flush_bytes_max(100 * KIB, 3, 1 << 20), 200 * KIB + files(6));
        assert_eq!(flush_bytes_max(100 * KIB, 3, 64 * KIB), 200 * KIB + files(6 + 3));
        assert_eq!(flush_bytes_max(8 * KIB, 1, 0), 16 * KIB + files(2 + 4));
    }

    #[test]
    fn a_step_needs_one_file_however_large_the_merge_is() {
        assert_eq!(step_bytes_max(40 * KIB, 1 << 20), 50 * KIB + SEGMENT_OVERHEAD_BYTES);
        assert_eq!(step_bytes_max(1 << 40, 1 << 20), 1280 * KIB + SEGMENT_OVERHEAD_BYTES);
        assert_eq!(step_bytes_max(0, 1 << 20), SEGMENT_OVERHEAD_BYTES);
    }
}
