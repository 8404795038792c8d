//! What is merged and discarded in the background, and in which order.
//!
//! Merges go step by step, and their steps take turns, so that a large one does not hold up many small ones: next is the one
//! that has gone through the fewest bytes since it began beside the others. A step that the disk has no space for ends its
//! merge: what earlier steps have done stays, and the rest is planned anew.

use std::rc::Rc;

use futures_util::future::select;
use op_engine_io::num::to_u64;
use op_engine_io::{Env, ReplySender};

use crate::catalog::Layout;
use crate::error::Result;
use crate::ids::{CollectionId, Seq};
use crate::run::{Run, Runs};
use crate::segment::Segment;
use crate::segment_meta::{Level, SegmentMeta};
use crate::visibility::{Mask, Rollback, Scope};

use super::Shard;
use super::job::{Job, Target};
use super::policy::{Candidate, Choice, Policy};
use super::pressure::Debt;
use super::purged::{self, Tally};
use super::state::{Retention, State};

/// Segments of a dropped collection that one manifest record removes.
const DISCARDED_AT_ONCE: usize = 64;

impl<E: Env> Shard<E> {
    /// Keeps the runs few and free of what nobody can see, for as long as the shard lives.
    pub(super) async fn merge_segments(self: Rc<Self>) {
        let mut jobs = Vec::new();
        loop {
            let (work, segments) = (self.work.mark(), self.segments_changed.mark());
            if self.closing.get() || self.failure().is_some() {
                return;
            }
            self.reconsider_merges().await;
            if let Err(error) = self.release_taken_over().await {
                return self.fail(error).await;
            }
            if let Err(error) = self.work_on(&mut jobs).await {
                return self.fail(error).await;
            }
            let has_more = self.has_more(&jobs);
            self.note_merging(has_more);
            if has_more {
                continue;
            }
            // Whoever wanted everything merged is told.
            if !self.shortage.holds_merges() && self.compaction_wanted.replace(false) {
                self.segments_changed.raise();
                continue;
            }
            let changed = select(
                Box::pin(self.work.raised_since(work)),
                Box::pin(self.segments_changed.raised_since(segments)),
            );
            select(changed, Box::pin(self.merges_reconsidered())).await;
        }
    }

    /// Discards what is dead, or takes one step of a merge.
    async fn work_on(&self, jobs: &mut Vec<Job>) -> Result<()> {
        if !self.shortage.holds_discards()
            && let Some((collection, numbers)) = self.orphans()
        {
            return self.discard_if_room(collection, numbers).await;
        }
        if self.shortage.holds_merges() {
            return Ok(());
        }
        let planned = self.plan(jobs);
        let bytes_done = jobs.iter().map(|job| job.bytes_done).min().unwrap_or(0);
        jobs.extend(planned.into_iter().map(|job| job.beside(bytes_done)));
        self.claims.set_merging(jobs.iter());
        let next = jobs.iter().enumerate().min_by_key(|(_, job)| job.bytes_done).map(|(at, _)| at);
        let Some(mut job) = next.map(|at| jobs.swap_remove(at)) else { return Ok(()) };
        self.note_merging(true);
        let has_ended = self.step_if_room(&mut job).await?;
        if !has_ended {
            jobs.push(job);
        }
        self.claims.set_merging(jobs.iter());
        if has_ended {
            self.tiering.note_merged();
        }
        Ok(())
    }

    /// Whether there is something to do that does not wait for space.
    fn has_more(&self, jobs: &[Job]) -> bool {
        if !self.shortage.holds_discards() && self.orphans().is_some() {
            return true;
        }
        if self.shortage.holds_merges() {
            return false;
        }
        !jobs.is_empty() || !self.plan(jobs).is_empty()
    }

    /// Segments of a collection that is dropped, or whose entries are all dead.
    fn orphans(&self) -> Option<(CollectionId, Vec<u64>)> {
        let archives = self.archives_orphans();
        let state = self.state.borrow();
        let retention = state.retention();
        state.runs.iter().find_map(|(collection, runs)| {
            let is_dropped = state.is_dropped(*collection);
            let dead =
                runs.files().filter(|segment| is_dropped || !archives && is_orphaned(segment, &retention));
            let numbers = dead.map(|segment| segment.meta().number);
            let idle = numbers.filter(|number| !self.claims.is_moving(*number));
            let dead: Vec<u64> = idle.take(DISCARDED_AT_ONCE).collect();
            (!dead.is_empty()).then_some((*collection, dead))
        })
    }

    /// A segment whose entries are all dead, of a collection that is not dropped, and its length.
    pub(super) fn orphan_to_archive(&self) -> Option<(CollectionId, u64, u64)> {
        let state = self.state.borrow();
        let retention = state.retention();
        state.runs.iter().filter(|(collection, _)| !state.is_dropped(**collection)).find_map(
            |(collection, runs)| {
                let mut idle = runs.files().filter(|file| !self.claims.is_merging(file.meta().number));
                let orphan = idle.find(|file| is_orphaned(file, &retention))?.meta();
                Some((*collection, orphan.number, orphan.file_bytes))
            },
        )
    }

    /// The merges that should begin. A collection has at most one beside a descent.
    fn plan(&self, jobs: &[Job]) -> Vec<Job> {
        let archives = self.archives_orphans();
        let state = self.state.borrow();
        let retention = state.retention();
        let has_merge =
            |collection| jobs.iter().any(|job| job.collection == collection && job.target != Target::Bottom);
        let collections = state.runs.iter().filter(|(collection, _)| !has_merge(**collection));
        let planned = collections.filter_map(|(collection, runs)| {
            let spec = state.catalog.get(*collection).filter(|spec| !spec.dropped)?;
            let is_busy = |file: &Rc<Segment<E>>| {
                let number = file.meta().number;
                self.claims.is_moving(number)
                    || jobs.iter().any(|job| job.collection == *collection && job.inputs.contains(&number))
            };
            let living = runs.living();
            let mut idle = living.iter().flat_map(|run| run.files()).filter(|file| !is_busy(file));
            let is_unclean = |file: &&Rc<Segment<E>>| {
                let waits = archives && is_orphaned(file, &retention);
                !waits && dead_ranges(file, &retention).next().is_some()
            };
            if let Some(dead) = idle.find(is_unclean) {
                let SegmentMeta { place, number, .. } = dead.meta();
                return Some(Job::new(*collection, Target::InPlace(*place), vec![*number]));
            }
            let wants_all = self.compaction_wanted.get();
            let policy = Policy::new(&self.config, spec.layout, retention.horizon, wants_all);
            let candidate = |run: &Run<E>| Candidate {
                bytes: run.bytes(),
                seqs: run.seqs(),
                is_bottom: run.is_bottom(),
                is_busy: run.files().iter().any(is_busy),
            };
            let candidates: Vec<Candidate> = living.iter().map(candidate).collect();
            let tally = |(run, of): (&Run<E>, &Candidate)| Tally {
                entries: run.files().iter().map(|file| file.meta().entries).sum(),
                tombstones: run.files().iter().map(|file| file.meta().tombstones).sum(),
                seqs: of.seqs,
                is_bottom: of.is_bottom,
                is_busy: of.is_busy,
            };
            let tallies: Vec<Tally> = living.iter().zip(&candidates).map(tally).collect();
            let purged = purged::pick(&tallies, retention.horizon, self.config.purged_entries_min);
            Some(job_of(*collection, runs, purged.or_else(|| policy.pick(&candidates))?))
        });
        planned.collect()
    }

    /// How far merges are behind: by the collection with the most runs that they will make fewer.
    pub(super) fn merge_debt(&self) -> Debt {
        let state = self.state.borrow();
        let live = state.runs.iter().filter(|(collection, _)| !state.catalog.is_dropped(**collection));
        let counts = live.map(|(collection, runs)| {
            let layout = state.catalog.get(*collection).map(|spec| spec.layout);
            let stays = |run: &&Run<E>| {
                layout == Some(Layout::AppendOnly) && run.bytes() >= self.config.append_run_bytes_max
            };
            runs.living().iter().filter(|run| !stays(run)).count()
        });
        Debt {
            amount: to_u64(counts.max().unwrap_or(0)),
            soft: to_u64(self.config.merge_runs_soft),
            hard: to_u64(self.config.merge_runs_max),
        }
    }

    /// Flushes everything that has been applied, and merges all that is final as far as it goes.
    pub(super) async fn compact_on_request(self: Rc<Self>, reply: ReplySender<Result<()>>) {
        reply.send(self.compact_everything().await);
    }

    /// Out of space if the disk is full: the rest is merged when there is space again.
    async fn compact_everything(&self) -> Result<()> {
        self.flush_everything().await?;
        let attempts = self.shortage.merges_put_off();
        self.want_merges();
        self.compaction_wanted.set(true);
        self.work.raise();
        loop {
            let mark = self.segments_changed.mark();
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if let Some(full) = self.shortage.merges_failed_after(attempts) {
                return Err(full);
            }
            if !self.compaction_wanted.get() {
                return Ok(());
            }
            self.segments_changed.raised_since(mark).await;
        }
    }
}

fn job_of<E: Env>(collection: CollectionId, runs: &Runs<E>, choice: Choice) -> Job {
    let (range, is_descent) = match choice {
        Choice::Merge(range) => (range, false),
        Choice::Descend(end) => (0..end, true),
    };
    let inputs = runs.living().get(range).unwrap_or_default();
    let level = inputs.iter().map(|run| run.place().level).max().unwrap_or(Level::FLUSHED);
    let target = if is_descent { Target::Bottom } else { Target::NewRun(level.above()) };
    let files = inputs.iter().flat_map(|run| run.files());
    Job::new(collection, target, files.map(|file| file.meta().number).collect())
}

/// Whether everything in a segment has been killed and nobody can see it.
pub(super) fn is_orphaned<E: Env>(segment: &Rc<Segment<E>>, retention: &Retention) -> bool {
    let meta = segment.meta();
    dead_ranges(segment, retention).any(|range| range.first_dead <= meta.seq_min && meta.seq_max < range.seq)
}

/// The rollbacks that are durable, touch a segment, and whose dead entries no snapshot needs.
fn dead_ranges<'a, E: Env>(
    segment: &'a Rc<Segment<E>>,
    retention: &'a Retention,
) -> impl Iterator<Item = Rollback> + use<'a, E> {
    let rollbacks: Vec<Rollback> = segment.true_mask().rollbacks().to_vec();
    let lowest = segment.meta().seq_min;
    rollbacks.into_iter().filter(move |range| {
        let from = range.first_dead.max(lowest);
        range.seq <= retention.cut && !has_pin_within(&retention.pins, from, range.seq)
    })
}

fn has_pin_within(pins: &[Seq], from: Seq, below: Seq) -> bool {
    let at = pins.partition_point(|pin| *pin < from);
    pins.get(at).is_some_and(|pin| *pin < below)
}

impl<E: Env> State<E> {
    /// The rollbacks whose dead entries are not in a segment that was written under `retention`: retention drops what
    /// a durable rollback has killed unless a pin lies between.
    pub(super) fn left_out(&self, meta: &SegmentMeta, retention: &Retention) -> Vec<Seq> {
        let scope = self.catalog.get(meta.collection).map_or(Scope::Chain, |spec| spec.scope);
        let mask = Mask::for_range(&self.rollbacks, scope, meta.seq_min, meta.seq_max);
        let left_out = mask.rollbacks().iter().filter(|range| {
            range.seq <= retention.cut
                && !has_pin_within(&retention.pins, range.first_dead.max(meta.seq_min), range.seq)
        });
        left_out.map(|range| range.seq).collect()
    }

    /// Whether a segment's entries are all dead.
    pub(super) fn orphaned(&self, segment: &Rc<Segment<E>>) -> bool {
        is_orphaned(segment, &self.retention())
    }
}
