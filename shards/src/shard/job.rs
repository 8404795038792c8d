//! One merge: from the lowest key to the highest, one output file at a time.
//!
//! Each step reads its inputs from where the step before has ended, and writes until one file is full. Then one manifest
//! record adds that file and takes what it holds out of the inputs: those that end below are removed, those that go on are
//! trimmed to begin there. So a merge of any size needs room for one file more than its inputs have, and what it has done
//! is kept if it is never ended: every key is in its old place or in its new one, and never in both. So a merge that the
//! disk has no space for is simply given up after its last whole step.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env};

use crate::config::ShardConfig;
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Height, Seq};
use crate::manifest::Edit;
use crate::merge::{KeyVersions, MergeCursor, Source};
use crate::message::{Direction, Horizon, KeyRange};
use crate::mutants::{Mutant, active};
use crate::retention::{Retain, VersionHead, retained};
use crate::run::{RunCursor, Runs};
use crate::segment::{CursorOptions, FilterBits, PagePlace, Segment, SegmentBuilder};
use crate::segment_meta::{Level, Place, SegmentMeta, Tier};
use crate::tier::TierPolicy;
use crate::visibility::Mask;

use super::Shard;
use super::room::Unfinished;
use super::state::Retention;

/// Bytes that a merge reads from each input at once.
const READ_AHEAD_BYTES: usize = 256 << 10;
/// How many times the bytes of a full file a step reads at most, if it writes less.
const READ_RATIO_MAX: u64 = 4;
/// In how many files a run is written, if they are not too large or too small: each time that a file is full, what the merge
/// has gone past is given back.
const RUN_FILES: u64 = 8;

/// Where the output of a merge belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// In a new run above the bottom.
    NewRun(Level),
    /// In the bottom run.
    Bottom,
    /// Where its only input was. What was in the cold target comes back.
    InPlace(Place),
    /// In the archive, in the cold target, as far as the cut says.
    Archive(TierPolicy, Cut),
}

/// What of its inputs a move takes to the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Everything.
    Everything,
    /// What a newer version at or below this commit has taken the place of. The rest stays in the bottom run.
    Superseded(Seq),
    /// What blocks up to here have written. The rest becomes a run of its own, which a reorg can reach.
    Through(Horizon),
}

impl Target {
    /// From which of the versions of a key on, newest first, they go to the archive.
    fn archived_from(&self, versions: &[VersionHead], mask: &Mask) -> usize {
        match self {
            Self::Archive(_, Cut::Everything) => 0,
            Self::Archive(_, Cut::Superseded(limit)) => {
                let newest = versions.iter().position(|version| mask.shows(version.seq, *limit));
                newest.map_or(versions.len(), |newest| newest + 1)
            }
            Self::Archive(_, Cut::Through(horizon)) => {
                versions.iter().take_while(|version| version.seq > horizon.seq).count()
            }
            _ => versions.len(),
        }
    }
}

/// The segments that somebody works on: a segment is the input of one job at most.
#[derive(Debug, Default)]
pub(super) struct Claims {
    merging: RefCell<Vec<u64>>,
    moving: RefCell<Vec<u64>>,
}

impl Claims {
    /// Replaces what merges work on.
    pub(super) fn set_merging<'a>(&self, jobs: impl Iterator<Item = &'a Job>) {
        *self.merging.borrow_mut() = jobs.flat_map(|job| job.inputs.iter().copied()).collect();
    }

    /// Replaces what moves between tiers work on.
    pub(super) fn set_moving(&self, inputs: &[u64]) {
        *self.moving.borrow_mut() = inputs.to_vec();
    }

    pub(super) fn is_merging(&self, number: u64) -> bool {
        self.merging.borrow().contains(&number)
    }

    pub(super) fn is_moving(&self, number: u64) -> bool {
        self.moving.borrow().contains(&number)
    }
}

/// A merge that has been decided on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) collection: CollectionId,
    pub(super) target: Target,
    /// The numbers of its inputs that are left.
    pub(super) inputs: Vec<u64>,
    /// The key at which the next step begins; `None` for the first one.
    from: Option<Vec<u8>>,
    /// Bytes that its steps have gone through, and a head start: the merge with the fewest takes the next step.
    pub(super) bytes_done: u64,
    /// The length at which its files end, from the first step on.
    file_bytes: Option<u64>,
    /// The number of the new run, once it has a file.
    run: Option<u64>,
    /// That of the run of what is not archived.
    rest_run: Option<u64>,
}

impl Job {
    pub(super) fn new(collection: CollectionId, target: Target, inputs: Vec<u64>) -> Self {
        Self {
            collection,
            target,
            inputs,
            from: None,
            bytes_done: 0,
            file_bytes: None,
            run: None,
            rest_run: None,
        }
    }

    /// The place of an output file with this number.
    fn place(&mut self, number: u64) -> Place {
        match self.target {
            Target::NewRun(level) => Place { level, run: *self.run.get_or_insert(number) },
            Target::Bottom => Place { level: Level::BOTTOM, run: number },
            Target::InPlace(place) => place,
            Target::Archive(_, Cut::Through(_)) => {
                Place { level: Level::FLUSHED, run: *self.rest_run.get_or_insert(number) }
            }
            Target::Archive(..) => Place { level: Level::BOTTOM, run: number },
        }
    }

    /// The place of an output file with this number in the archive.
    fn archive_place(&mut self, number: u64) -> Place {
        Place { level: Level::ARCHIVED, run: *self.run.get_or_insert(number) }
    }

    /// Begins beside others of which the least has gone through so many bytes.
    pub(super) fn beside(self, bytes_done: u64) -> Self {
        Self { bytes_done, ..self }
    }

    /// Archives in the place of a run that was archived before.
    pub(super) fn again(self, run: u64) -> Self {
        Self { run: Some(run), ..self }
    }
}

/// Where an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    Run,
    Archive,
}

/// What a step has written, and the key at which it ended; `None` if nothing is left.
struct Written<E: Env> {
    output: Option<SegmentBuilder<E>>,
    archive: Option<SegmentBuilder<E>>,
    until: Option<Vec<u8>>,
    bytes_read: u64,
}

/// A segment that is to begin at a higher key.
pub(super) struct Trimmed<E: Env> {
    before: Rc<Segment<E>>,
    meta: SegmentMeta,
    /// The page of that key.
    first: Option<PagePlace>,
}

/// What a step does to an input.
enum Fate<E: Env> {
    Untouched,
    /// It goes on at a higher key.
    Trimmed(Trimmed<E>),
    /// All of it is in the output.
    Consumed(u64),
}

impl<E: Env> Trimmed<E> {
    fn into_segment(self) -> Rc<Segment<E>> {
        self.before.trimmed(self.meta, self.first)
    }
}

impl<E: Env> Shard<E> {
    /// Takes a merge one file further. Tells whether that was the end of it. Out of space leaves the store as it was, and
    /// the job is of no more use.
    pub(super) async fn take_step(&self, job: &mut Job) -> Result<bool> {
        let unfinished = Unfinished::default();
        let done = self.step_into(job, &unfinished).await;
        if done
            .as_ref()
            .is_err_and(|error| error.is_out_of_space() || error.is_cold() || error.is_corruption())
        {
            self.remove_unfinished(unfinished).await?;
        }
        done
    }

    async fn step_into(&self, job: &mut Job, unfinished: &Unfinished) -> Result<bool> {
        let (spec, mask, retention, inputs, bottom) = {
            let state = self.state.borrow();
            let spec = state.collection(job.collection)?.clone();
            let mask = state.masks.get(spec.scope);
            let runs = state.runs_of(job.collection);
            // What a reorg has killed meanwhile may be gone.
            job.inputs.retain(|number| runs.files().any(|file| file.meta().number == *number));
            let inputs = inputs_of(&runs, job);
            let bottom = holds_oldest(&runs, &inputs);
            (spec, mask, state.retention(), inputs, bottom)
        };
        if inputs.is_empty() {
            return Ok(true);
        }
        let mut cursor = self.cursor_over(&inputs, job.from.clone());
        let bottom = bottom || active(Mutant::DropTombstonesEarly);
        let mut retain = retention.of(spec.history, bottom);
        if active(Mutant::ForgetWindow) {
            retain.horizon = retention.cut;
        }
        // Above the bottom stand many runs with few keys, and each of them is asked for every key.
        let is_bottom = matches!(
            job.target,
            Target::Bottom
                | Target::Archive(..)
                | Target::InPlace(Place { level: Level::BOTTOM | Level::ARCHIVED, .. })
        );
        let filter_bits = if is_bottom { FilterBits::Eight } else { FilterBits::Sixteen };
        let target = job.target;
        let begin = async |outlet| match (outlet, target) {
            (Outlet::Archive, Target::Archive(policy, _)) => {
                self.begin_cold_segment(spec.id, policy.compression, unfinished).await
            }
            _ => self.begin_segment(spec.id, filter_bits, unfinished).await,
        };
        let file_bytes = *job.file_bytes.get_or_insert_with(|| file_bytes_max(target, &inputs, &self.config));
        let written = self.write_step(begin, target, file_bytes, &mut cursor, &mask, &retain).await?;
        self.end_step(job, &inputs, written, &retention).await
    }

    /// A cursor over all versions in segments, from a key on.
    fn cursor_over(&self, inputs: &[Rc<Segment<E>>], from: Option<Vec<u8>>) -> MergeCursor<E> {
        let range = KeyRange::from(from);
        let runs = Runs::new(inputs.iter().cloned());
        let newest_first = runs.as_slice().iter().rev().map(|run| {
            let options = CursorOptions { cache: None, read_ahead_bytes: READ_AHEAD_BYTES };
            RunCursor::new(self.env.clone(), run.files(), range.clone(), Direction::Forward, options)
        });
        let sources = newest_first.filter(|cursor| !cursor.is_empty()).map(Source::from).collect();
        MergeCursor::new(sources, Direction::Forward)
    }

    /// Writes what must be kept until a file is full, and ends between two keys.
    async fn write_step(
        &self,
        begin: impl AsyncFn(Outlet) -> Result<SegmentBuilder<E>>,
        target: Target,
        bytes_max: u64,
        cursor: &mut MergeCursor<E>,
        mask: &Mask,
        retain: &Retain<'_>,
    ) -> Result<Written<E>> {
        let mut written = Written { output: None, archive: None, until: None, bytes_read: 0 };
        let mut group = KeyVersions::default();
        let mut slice_ends = self.env.now() + self.env.background_slice();
        while cursor.next_key(&mut group).await? {
            let output_bytes = written.output.as_ref().map_or(0, SegmentBuilder::bytes_so_far);
            let archive_bytes = written.archive.as_ref().map_or(0, SegmentBuilder::bytes_so_far);
            let bytes_read_max = match target {
                Target::Archive(..) => u64::MAX,
                _ => bytes_max.saturating_mul(READ_RATIO_MAX),
            };
            let is_full = output_bytes >= bytes_max || archive_bytes >= self.config.cold_segment_bytes;
            if is_full || written.bytes_read >= bytes_read_max {
                written.until = Some(group.key().to_vec());
                break;
            }
            written.bytes_read += to_u64(group.bytes());
            let kept = retained(group.heads(), mask, retain);
            let archived_from = target.archived_from(group.heads(), mask);
            for (at, head) in group.heads().iter().enumerate().filter(|(at, _)| kept.get(*at) == Some(&true))
            {
                let outlet = if at < archived_from { Outlet::Run } else { Outlet::Archive };
                let output = match outlet {
                    Outlet::Run => &mut written.output,
                    Outlet::Archive => &mut written.archive,
                };
                if output.is_none() {
                    *output = Some(begin(outlet).await?);
                }
                if let Some(output) = output {
                    output.add(group.key(), head.seq, group.value(at)).await?;
                }
            }
            if self.env.now() >= slice_ends {
                self.env.yield_now().await;
                slice_ends = self.env.now() + self.env.background_slice();
            }
        }
        Ok(written)
    }

    /// Puts the output in the place of what it was made from: durably in the manifest first, then for readers, then
    /// the files go. Tells whether the merge has ended.
    async fn end_step(
        &self,
        job: &mut Job,
        inputs: &[Rc<Segment<E>>],
        written: Written<E>,
        retention: &Retention,
    ) -> Result<bool> {
        let Written { output, archive, until, bytes_read } = written;
        job.bytes_done += bytes_read;
        let heights = || inputs.iter().map(|input| input.meta());
        let lowest = heights().map(|meta| meta.height_min).min().unwrap_or_default();
        let highest = heights().map(|meta| meta.height_max).max().unwrap_or_default();
        let mut added = Vec::new();
        if let Some(builder) = output {
            let place = job.place(builder.number());
            self.stats.borrow_mut().large_values += builder.large_values();
            let tier = if place.level == Level::ARCHIVED { Tier::Warm } else { Tier::Hot };
            let above = match job.target {
                Target::Archive(_, Cut::Through(horizon)) => Height(horizon.height.0.saturating_add(1)),
                _ => lowest,
            };
            let heights = (lowest.max(above).min(highest), highest);
            added.push(SegmentMeta { place, tier, ..builder.finish(heights).await? });
        }
        if let Some(builder) = archive {
            let place = job.archive_place(builder.number());
            let below = match job.target {
                Target::Archive(_, Cut::Through(horizon)) => horizon.height,
                _ => highest,
            };
            let heights = (lowest, highest.min(below).max(lowest));
            added.push(SegmentMeta { place, ..builder.finish(heights).await? });
        }
        let fates = inputs.iter().map(|input| fate_of(input, until.as_deref()));
        let (mut consumed, mut trimmed) = (Vec::new(), Vec::new());
        for fate in fates {
            match fate {
                Fate::Untouched => {}
                Fate::Trimmed(mut segment) => {
                    segment.first = segment.before.first_page_from(&self.env, &segment.meta.key_min).await?;
                    trimmed.push(segment);
                }
                Fate::Consumed(number) => consumed.push(number),
            }
        }
        job.inputs.retain(|number| !consumed.contains(number));
        job.from = until;
        let has_ended = job.from.is_none() || job.inputs.is_empty();
        let trimmed_count = to_u64(trimmed.len());
        self.replace(job.collection, consumed, trimmed, added, retention).await?;
        let mut stats = self.stats.borrow_mut();
        stats.merge_steps += 1;
        stats.merge_steps_partial += u64::from(trimmed_count > 0);
        stats.segments_trimmed += trimmed_count;
        stats.merges += u64::from(has_ended);
        let is_cleaned = |place: Place| place.level != Level::ARCHIVED;
        stats.segments_cleaned +=
            u64::from(has_ended && matches!(job.target, Target::InPlace(place) if is_cleaned(place)));
        stats.descents += u64::from(has_ended && job.target == Target::Bottom);
        Ok(has_ended)
    }

    /// Takes segments out of a collection, has others begin at a higher key, and adds one. Out of space leaves
    /// everything as it was.
    pub(super) async fn replace(
        &self,
        collection: CollectionId,
        consumed: Vec<u64>,
        trimmed: Vec<Trimmed<E>>,
        added: Vec<SegmentMeta>,
        retention: &Retention,
    ) -> Result<()> {
        if !added.is_empty() && !active(Mutant::SkipDirectorySync) {
            self.env.sync_dir(Dir::Shard(self.identity.shard.0)).await?;
        }
        let trimmed_metas = || trimmed.iter().map(|segment| segment.meta.clone());
        let removed: Vec<u64> =
            consumed.iter().copied().chain(trimmed_metas().map(|meta| meta.number)).collect();
        let gone_early = active(Mutant::DeleteBeforeSwitch) && added.iter().any(|meta| meta.tier.is_cold());
        if gone_early {
            for number in &consumed {
                self.env.remove(self.home.file_name(*number)).await?;
            }
        }
        let draw_up = || {
            let state = self.state.borrow();
            Edit {
                added: trimmed_metas().chain(added.clone()).collect(),
                removed: removed.clone(),
                flushed: None,
                rollbacks: None,
                horizon: Some(state.progress.horizon),
                catalog: None,
                next_segment: state.next_segment,
            }
        };
        self.writer().manifest.apply(draw_up).await?;
        // From here on the change counts, and what fails is no lack of space.
        let opened = self.open_segments(added, retention).await;
        let mut segments = opened.map_err(Error::poison)?;
        self.note_written(&segments);
        let bytes_added: u64 = segments.iter().map(|segment| segment.meta().file_bytes).sum();
        {
            let archived = || segments.iter().filter(|segment| segment.meta().place.level == Level::ARCHIVED);
            let mut stats = self.stats.borrow_mut();
            stats.archived_segments += to_u64(archived().count());
            stats.archived_bytes += archived().map(|segment| segment.meta().total_bytes()).sum::<u64>();
            stats.merge_bytes += bytes_added;
        }
        let gone_cold;
        segments.extend(trimmed.into_iter().map(Trimmed::into_segment));
        {
            let mut state = self.state.borrow_mut();
            gone_cold = cold_among(&state.runs_of(collection), &consumed);
            state.replace_segments(collection, &removed, segments);
            state.forget_rollbacks();
            state.remask();
        }
        self.tiering.forget(&gone_cold);
        drop(gone_cold);
        for number in consumed {
            if gone_early {
                continue;
            }
            let gone = self.env.remove(self.home.file_name(number)).await;
            gone.map_err(|error| Error::from(error).poison())?;
        }
        self.balance();
        self.segments_changed.raise();
        Ok(())
    }
}

/// The segments that a merge still reads.
fn inputs_of<E: Env>(runs: &Runs<E>, job: &Job) -> Vec<Rc<Segment<E>>> {
    runs.files().filter(|file| job.inputs.contains(&file.meta().number)).cloned().collect()
}

/// Whether no older version of a key of the inputs is outside of them.
fn holds_oldest<E: Env>(runs: &Runs<E>, inputs: &[Rc<Segment<E>>]) -> bool {
    let metas = || inputs.iter().map(|input| input.meta());
    let Some(lowest) = metas().map(|meta| meta.seq_min).min() else { return false };
    let is_input = |number| metas().any(|meta| meta.number == number);
    let has_bottom = metas().any(|meta| meta.place.level == Level::BOTTOM);
    !runs.files().map(|file| file.meta()).any(|other| {
        let is_older = other.seq_min < lowest
            || !has_bottom && other.place.level == Level::BOTTOM
            || other.place.level == Level::ARCHIVED;
        let shares_keys = metas().any(|meta| meta.key_min <= other.key_max && other.key_min <= meta.key_max);
        !is_input(other.number) && is_older && shares_keys
    })
}

/// Those of some segments that are in the cold target.
fn cold_among<E: Env>(runs: &Runs<E>, numbers: &[u64]) -> Vec<Rc<Segment<E>>> {
    let is_one = |file: &&Rc<Segment<E>>| file.meta().tier.is_cold() && numbers.contains(&file.meta().number);
    runs.files().filter(is_one).cloned().collect()
}

/// The length at which an output file ends.
fn file_bytes_max<E: Env>(target: Target, inputs: &[Rc<Segment<E>>], config: &ShardConfig) -> u64 {
    let bytes_max = config.segment_bytes_max;
    match target {
        Target::NewRun(_) | Target::Bottom => {
            let bytes: u64 = inputs.iter().map(|input| input.meta().file_bytes).sum();
            (bytes / RUN_FILES).clamp(config.merge_file_bytes_min.min(bytes_max), bytes_max)
        }
        Target::InPlace(_) | Target::Archive(..) => bytes_max,
    }
}

fn fate_of<E: Env>(input: &Rc<Segment<E>>, until: Option<&[u8]>) -> Fate<E> {
    let meta = input.meta();
    match until {
        Some(until) if until <= meta.key_min.as_slice() => Fate::Untouched,
        Some(until) if until <= meta.key_max.as_slice() => {
            let meta = SegmentMeta { key_min: until.to_vec(), ..meta.clone() };
            Fate::Trimmed(Trimmed { before: Rc::clone(input), meta, first: None })
        }
        _ => Fate::Consumed(meta.number),
    }
}
