//! Merging neighbouring segments, and discarding those that a reorg has killed.

use std::rc::Rc;

use op_engine_io::{Dir, Env};

use crate::catalog::CollectionSpec;
use crate::error::Result;
use crate::ids::{CollectionId, Seq};
use crate::manifest::Edit;
use crate::merge::{KeyVersions, MergeCursor, Source};
use crate::message::{Direction, KeyRange};
use crate::mutants::{Mutant, active};
use crate::retention::{Retain, VersionHead, retained};
use crate::segment::{CursorOptions, Segment, SegmentBuilder, SegmentCursor};
use crate::segment_meta::SegmentMeta;
use crate::visibility::{Mask, Rollback, Scope};

use super::Shard;
use super::flush::SLICE;
use super::policy::{Candidate, Policy};
use super::state::{Retention, State};

/// Bytes that a merge reads from each input at once.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// What to do next.
enum Task<E: Env> {
    /// Delete segments that nobody can see.
    Discard(CollectionId, Vec<u64>),
    /// Make one segment of neighbours.
    Merge(CollectionId, Vec<Rc<Segment<E>>>),
}

impl<E: Env> Shard<E> {
    /// Keeps the number of segments bounded, for as long as the shard lives.
    pub(super) async fn merge_segments(self: Rc<Self>) {
        loop {
            let (work, segments) = (self.work.mark(), self.segments_changed.mark());
            if self.closing.get() || self.failure().is_some() {
                return;
            }
            let done = match self.next_task() {
                Some(Task::Discard(collection, numbers)) => self.discard(collection, numbers).await,
                Some(Task::Merge(collection, inputs)) => self.merge(collection, &inputs).await,
                None => {
                    futures_util::future::select(
                        Box::pin(self.work.raised_since(work)),
                        Box::pin(self.segments_changed.raised_since(segments)),
                    )
                    .await;
                    continue;
                }
            };
            if let Err(error) = done {
                return self.fail(error).await;
            }
        }
    }

    fn next_task(&self) -> Option<Task<E>> {
        let state = self.state.borrow();
        let retention = state.retention();
        state.segments.iter().find_map(|(collection, segments)| {
            let dead: Vec<u64> = segments
                .iter()
                .filter(|segment| is_orphaned(segment, &retention))
                .map(|segment| segment.meta().number)
                .collect();
            if !dead.is_empty() {
                return Some(Task::Discard(*collection, dead));
            }
            let policy = Policy {
                fan_in: self.config.merge_fan_in.max(2),
                inputs_max: self.config.merge_inputs_max.max(2),
                horizon: retention.horizon,
            };
            let candidates: Vec<Candidate> =
                segments.iter().map(|segment| candidate(segment, &retention)).collect();
            let inputs = segments.get(policy.pick(&candidates)?)?;
            Some(Task::Merge(*collection, inputs.to_vec()))
        })
    }

    /// Deletes segments whose entries are all dead.
    async fn discard(&self, collection: CollectionId, numbers: Vec<u64>) -> Result<()> {
        let retention = self.state.borrow().retention();
        self.replace(collection, numbers, None, &retention).await
    }

    /// Makes one segment of neighbours, without what nobody can see.
    async fn merge(&self, collection: CollectionId, inputs: &[Rc<Segment<E>>]) -> Result<()> {
        let (spec, mask, retention, bottom) = {
            let state = self.state.borrow();
            let spec = state.collection(collection)?.clone();
            let mask = state.masks.get(spec.scope);
            let oldest = state.segments_of(collection).first().map(|segment| segment.meta().number);
            let bottom = oldest == inputs.first().map(|segment| segment.meta().number);
            (spec, mask, state.retention(), bottom)
        };
        let sources = inputs.iter().map(|segment| {
            let options = CursorOptions { cache: None, read_ahead_bytes: READ_AHEAD_BYTES };
            let (env, segment) = (self.env.clone(), Rc::clone(segment));
            Source::from(SegmentCursor::new(env, segment, KeyRange::all(), Direction::Forward, options))
        });
        let mut cursor = MergeCursor::new(sources.collect(), Direction::Forward);
        let retain = retention.of(spec.history, bottom);
        let output = self.write_merged(&spec, &mut cursor, &mask, &retain).await?;
        let heights = inputs.iter().map(|segment| segment.meta());
        let lowest = heights.clone().map(|meta| meta.height_min).min().unwrap_or_default();
        let highest = heights.map(|meta| meta.height_max).max().unwrap_or_default();
        let added = match output {
            Some(builder) => Some(builder.finish((lowest, highest)).await?),
            None => None,
        };
        let removed = inputs.iter().map(|segment| segment.meta().number).collect();
        self.replace(collection, removed, added, &retention).await
    }

    async fn write_merged(
        &self,
        spec: &CollectionSpec,
        cursor: &mut MergeCursor<E>,
        mask: &Mask,
        retain: &Retain<'_>,
    ) -> Result<Option<SegmentBuilder<E>>> {
        let mut output: Option<SegmentBuilder<E>> = None;
        let mut group = KeyVersions::default();
        let mut heads = Vec::new();
        let mut slice_began = self.env.now();
        while cursor.next_key(&mut group).await? {
            heads.clear();
            heads.extend(
                group
                    .versions
                    .iter()
                    .map(|version| VersionHead { seq: version.seq, tombstone: version.value.is_none() }),
            );
            let kept = retained(&heads, mask, retain);
            for (version, _) in group.versions.iter().zip(kept).filter(|(_, kept)| *kept) {
                if output.is_none() {
                    output = Some(self.begin_segment(spec.id).await?);
                }
                if let Some(output) = &mut output {
                    output.add(&group.key, version.seq, version.value.as_deref()).await?;
                }
            }
            if self.env.now().saturating_sub(slice_began) >= SLICE {
                self.env.yield_now().await;
                slice_began = self.env.now();
            }
        }
        Ok(output)
    }

    /// Puts a segment, or none, in the place of others: durably in the manifest first, then for readers, then the
    /// files go.
    async fn replace(
        &self,
        collection: CollectionId,
        removed: Vec<u64>,
        added: Option<SegmentMeta>,
        retention: &Retention,
    ) -> Result<()> {
        if added.is_some() && !active(Mutant::SkipDirectorySync) {
            self.env.sync_dir(Dir::Shard(self.identity.shard.0)).await?;
        }
        let added: Vec<SegmentMeta> = added.into_iter().collect();
        let draw_up = || {
            let state = self.state.borrow();
            Edit {
                added: added.clone(),
                removed: removed.clone(),
                flushed: None,
                rollbacks: None,
                horizon: Some(state.progress.horizon),
                catalog: None,
                next_segment: state.next_segment,
            }
        };
        self.writer().manifest.apply(draw_up).await?;
        let segments = self.open_segments(added, retention).await?;
        {
            let mut state = self.state.borrow_mut();
            let mut stats = self.stats.borrow_mut();
            stats.merges += 1;
            stats.merge_bytes += segments.iter().map(|segment| segment.meta().file_bytes).sum::<u64>();
            state.replace_segments(collection, &removed, segments);
            state.forget_rollbacks();
            state.remask();
        }
        for number in removed {
            self.env.remove(self.home.file_name(number)).await?;
        }
        self.segments_changed.raise();
        Ok(())
    }
}

/// What the policy knows of a segment.
fn candidate<E: Env>(segment: &Rc<Segment<E>>, retention: &Retention) -> Candidate {
    let meta = segment.meta();
    Candidate {
        bytes: meta.file_bytes,
        seq_max: meta.seq_max,
        has_dead: dead_ranges(segment, retention).next().is_some(),
    }
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
