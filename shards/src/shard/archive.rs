//! What is to move between the tiers next.

use std::rc::Rc;

use op_engine_io::Env;

use crate::catalog::CollectionSpec;
use crate::ids::{CollectionId, Height};
use crate::message::Horizon;
use crate::run::{Run, Runs};
use crate::segment::Segment;
use crate::segment_meta::{Level, SegmentMeta, Tier};
use crate::tier::{ColdAfter, Movable};

use super::Shard;
use super::job::{Cut, Job, Target};

/// Old versions of the bottom run are moved once they are this part of all of its entries, in percent: less would be
/// rewriting the rest for little.
const OLD_VERSIONS_PERCENT: u64 = 33;

impl<E: Env> Shard<E> {
    /// The next move to the cold target. `wants_all`: however little it is.
    pub(super) fn choose_move(&self, wants_all: bool) -> Option<Job> {
        let state = self.state.borrow();
        let horizon = state.progress.horizon;
        state.runs.iter().find_map(|(collection, runs)| {
            let spec = state.catalog.get(*collection).filter(|spec| !spec.dropped)?;
            if spec.tier.after == ColdAfter::Never {
                return None;
            }
            match Movable::of(spec.scope, spec.history, spec.layout) {
                Movable::Runs => self.choose_runs(spec, runs, horizon, wants_all),
                Movable::OldVersions => self.choose_old_versions(spec, runs, horizon, wants_all),
                Movable::Nothing => None,
            }
        })
    }

    /// The oldest runs, as many as are old enough.
    fn choose_runs(
        &self,
        spec: &CollectionSpec,
        runs: &Runs<E>,
        horizon: Horizon,
        wants_all: bool,
    ) -> Option<Job> {
        let living = runs.living();
        let ripe = living.iter().enumerate().take_while(|(at, run)| {
            let newer = living.iter().skip(at + 1).filter(|run| run.seqs().1 <= horizon.seq).count();
            self.is_ripe(spec, run, newer, horizon)
        });
        let ripe: Vec<&Run<E>> = ripe.map(|(_, run)| run).take(self.config.merge_inputs_max.max(1)).collect();
        let bytes: u64 = ripe.iter().map(|run| run.bytes()).sum();
        let is_enough = wants_all || bytes >= self.config.cold_segment_bytes;
        if wants_all && ripe.is_empty() {
            return self.choose_cut(spec, living.first()?, horizon);
        }
        (is_enough && !ripe.is_empty()).then(|| {
            let files = ripe.iter().flat_map(|run| run.files());
            Job::new(spec.id, Target::Archive(spec.tier, Cut::Everything), numbers(files))
        })
    }

    /// The oldest run, if only a part of it is old enough: a reorg can reach the rest, which becomes a run of its own.
    fn choose_cut(&self, spec: &CollectionSpec, oldest: &Run<E>, horizon: Horizon) -> Option<Job> {
        let is_due = match spec.tier.after {
            ColdAfter::Confirmations(confirmations) => {
                u64::from(confirmations) <= self.config.reorg_window_blocks
            }
            ColdAfter::Never | ColdAfter::Runs(_) => false,
        };
        let (lowest, highest) = oldest.seqs();
        let is_cut = lowest <= horizon.seq && horizon.seq < highest;
        (is_due && is_cut && self.is_idle(oldest)).then(|| {
            Job::new(
                spec.id,
                Target::Archive(spec.tier, Cut::Through(horizon)),
                numbers(oldest.files().iter()),
            )
        })
    }

    /// Whether nothing else is done with a run. What a reorg has killed is cleaned away before.
    fn is_idle(&self, run: &Run<E>) -> bool {
        let is_idle = |file: &Rc<Segment<E>>| {
            !self.claims.is_merging(file.meta().number) && file.true_mask().rollbacks().is_empty()
        };
        run.files().iter().all(is_idle)
    }

    /// Neighbours of the bottom run that have versions which newer ones have taken the place of.
    fn choose_old_versions(
        &self,
        spec: &CollectionSpec,
        runs: &Runs<E>,
        horizon: Horizon,
        wants_all: bool,
    ) -> Option<Job> {
        let living = runs.living();
        let bottom = living.first().filter(|run| run.is_bottom())?;
        let newer = living.iter().skip(1).filter(|run| run.seqs().1 <= horizon.seq).count();
        if !self.is_ripe(spec, bottom, newer, horizon) {
            return None;
        }
        let old_versions = |file: &Rc<Segment<E>>| file.meta().entries.saturating_sub(file.keys());
        let entries: u64 = bottom.files().iter().map(|file| file.meta().entries).sum();
        let old: u64 = bottom.files().iter().map(old_versions).sum();
        let old_bytes = bottom.bytes().saturating_mul(old) / entries.max(1);
        let is_enough = old.saturating_mul(100) >= entries.saturating_mul(OLD_VERSIONS_PERCENT)
            && old_bytes >= self.config.cold_segment_bytes;
        (old > 0 && (wants_all || is_enough)).then(|| {
            // Neighbours only: what is left of them is one file, which must not reach over another.
            let files = bottom.files().iter().skip_while(|file| old_versions(file) == 0);
            let files = files.take_while(|file| old_versions(file) > 0);
            Job::new(spec.id, Target::Archive(spec.tier, Cut::Superseded(bottom.seqs().1)), numbers(files))
        })
    }

    /// Whether no reorg can reach a run, it is old enough, and nothing else is done with it.
    fn is_ripe(&self, spec: &CollectionSpec, run: &Run<E>, newer: usize, horizon: Horizon) -> bool {
        let highest = run.files().iter().map(|file| file.meta().height_max).max().unwrap_or_default();
        let is_old = match spec.tier.after {
            ColdAfter::Never => false,
            ColdAfter::Confirmations(confirmations) => {
                let beyond = u64::from(confirmations).saturating_sub(self.config.reorg_window_blocks);
                highest.0.saturating_add(beyond) <= horizon.height.0
            }
            ColdAfter::Runs(stay) => u32::try_from(newer).unwrap_or(u32::MAX) >= stay,
        };
        is_old && run.seqs().1 <= horizon.seq && self.is_idle(run)
    }

    /// Whether a merge has what an order would move next. It ends soon, unless the disk is full.
    pub(super) fn waits_for_merge(&self) -> bool {
        let state = self.state.borrow();
        let horizon = state.progress.horizon;
        let is_held = |(collection, runs): (&CollectionId, &Rc<Runs<E>>)| {
            let spec = state.catalog.get(*collection).filter(|spec| !spec.dropped)?;
            let moves = spec.tier.after != ColdAfter::Never
                && Movable::of(spec.scope, spec.history, spec.layout) != Movable::Nothing;
            let oldest = runs.living().first().filter(|run| moves && run.seqs().0 <= horizon.seq)?;
            Some(oldest.files().iter().any(|file| self.claims.is_merging(file.meta().number)))
        };
        !self.shortage.holds_merges() && state.runs.iter().any(|of| is_held(of).unwrap_or(false))
    }

    /// A segment that was brought back and is to go to the cold target again.
    pub(super) fn choose_warmed(&self) -> Option<Job> {
        let state = self.state.borrow();
        let (collection, warm) = state.archived_where(|meta| meta.tier == Tier::Warm)?;
        let spec = state.catalog.get(collection).filter(|spec| spec.tier.after != ColdAfter::Never)?;
        let job = Job::new(collection, Target::Archive(spec.tier, Cut::Everything), vec![warm.number]);
        Some(job.again(warm.place.run))
    }

    /// A segment of the cold target that has entries of blocks of these heights.
    pub(super) fn choose_warm_up(&self, from: Height, to: Height) -> Option<Job> {
        let state = self.state.borrow();
        let (collection, cold) = state
            .archived_where(|meta| meta.tier.is_cold() && meta.height_min <= to && from <= meta.height_max)?;
        Some(Job::new(collection, Target::InPlace(cold.place), vec![cold.number]))
    }
}

impl<E: Env> super::state::State<E> {
    fn archived_where(
        &self,
        is_wanted: impl Fn(&SegmentMeta) -> bool,
    ) -> Option<(CollectionId, SegmentMeta)> {
        self.runs.iter().filter(|(collection, _)| !self.catalog.is_dropped(**collection)).find_map(
            |(collection, runs)| {
                let archived = runs.files().filter(|file| file.meta().place.level == Level::ARCHIVED);
                let wanted = archived.map(|file| file.meta()).find(|meta| is_wanted(meta))?;
                Some((*collection, wanted.clone()))
            },
        )
    }
}

fn numbers<'a, E: Env>(files: impl Iterator<Item = &'a Rc<Segment<E>>>) -> Vec<u64> {
    files.map(|file| file.meta().number).collect()
}
