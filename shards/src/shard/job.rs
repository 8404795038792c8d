//! One merge: from the lowest key to the highest, one output file at a time.
//!
//! Each step reads its inputs from where the step before has ended, and writes until one file is full. Then one manifest
//! record adds that file and takes what it holds out of the inputs: those that end below are removed, those that go on are
//! trimmed to begin there. So a merge of any size needs room for one file more than its inputs have, and what it has done
//! is kept if it is never ended: every key is in its old place or in its new one, and never in both. So a merge that the
//! disk has no space for is simply given up after its last whole step.

use std::rc::Rc;

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env};

use crate::catalog::Layout;
use crate::error::{Error, Result};
use crate::ids::CollectionId;
use crate::manifest::Edit;
use crate::merge::{KeyVersions, MergeCursor, Source};
use crate::message::{Direction, KeyRange};
use crate::mutants::{Mutant, active};
use crate::retention::{Retain, retained};
use crate::run::{RunCursor, Runs};
use crate::segment::{CursorOptions, FilterBits, Segment, SegmentBuilder};
use crate::segment_meta::{Level, Place, SegmentMeta};
use crate::visibility::Mask;

use super::Shard;
use super::room::Unfinished;
use super::state::Retention;

/// Bytes that a merge reads from each input at once.
const READ_AHEAD_BYTES: usize = 256 << 10;
/// How many times the bytes of a full file a step reads at most, if it writes less.
const READ_RATIO_MAX: u64 = 4;
/// In how many files a new run above a bottom is written, if they are not too large or too small: what a merge has gone past is
/// freed file by file, so a run in one file would take its space until the end of the descent that takes it over.
const RUN_FILES: u64 = 4;

/// Where the output of a merge belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// In a new run above the bottom.
    NewRun(Level),
    /// In the bottom run.
    Bottom,
    /// Where its only input was.
    InPlace(Place),
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
    /// The number of the new run, once it has a file.
    run: Option<u64>,
}

impl Job {
    pub(super) fn new(collection: CollectionId, target: Target, inputs: Vec<u64>) -> Self {
        Self { collection, target, inputs, from: None, run: None }
    }

    /// The place of an output file with this number.
    fn place(&mut self, number: u64) -> Place {
        match self.target {
            Target::NewRun(level) => Place { level, run: *self.run.get_or_insert(number) },
            Target::Bottom => Place { level: Level::BOTTOM, run: number },
            Target::InPlace(place) => place,
        }
    }
}

/// What a step has written, and the key at which it ended; `None` if nothing is left.
struct Written<E: Env> {
    output: Option<SegmentBuilder<E>>,
    until: Option<Vec<u8>>,
}

/// What a step does to an input.
enum Fate<E: Env> {
    Untouched,
    /// It goes on at a higher key.
    Trimmed(SegmentMeta, Rc<Segment<E>>),
    /// All of it is in the output.
    Consumed(u64),
}

impl<E: Env> Shard<E> {
    /// Takes a merge one file further. Tells whether that was the end of it. Out of space leaves the store as it was, and
    /// the job is of no more use.
    pub(super) async fn take_step(&self, job: &mut Job) -> Result<bool> {
        let unfinished = Unfinished::default();
        let done = self.step_into(job, &unfinished).await;
        if done.as_ref().is_err_and(Error::is_out_of_space) {
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
        let is_bottom =
            matches!(job.target, Target::Bottom | Target::InPlace(Place { level: Level::BOTTOM, .. }));
        let filter_bits = if is_bottom { FilterBits::Eight } else { FilterBits::Sixteen };
        let begin = async || self.begin_segment(spec.id, filter_bits, unfinished).await;
        let file_bytes = file_bytes_max(job.target, spec.layout, &inputs, self.config.segment_bytes_max);
        let written = self.write_step(begin, file_bytes, &mut cursor, &mask, &retain).await?;
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
        begin: impl AsyncFn() -> Result<SegmentBuilder<E>>,
        bytes_max: u64,
        cursor: &mut MergeCursor<E>,
        mask: &Mask,
        retain: &Retain<'_>,
    ) -> Result<Written<E>> {
        let mut written = Written { output: None, until: None };
        let (mut group, mut bytes_read) = (KeyVersions::default(), 0);
        let mut slice_ends = self.env.now() + self.env.background_slice();
        while cursor.next_key(&mut group).await? {
            let output_bytes = written.output.as_ref().map_or(0, SegmentBuilder::bytes_so_far);
            if output_bytes >= bytes_max || bytes_read >= bytes_max.saturating_mul(READ_RATIO_MAX) {
                written.until = Some(group.key().to_vec());
                break;
            }
            bytes_read += to_u64(group.bytes());
            let kept = retained(group.heads(), mask, retain);
            for (at, head) in group.heads().iter().enumerate().filter(|(at, _)| kept.get(*at) == Some(&true))
            {
                if written.output.is_none() {
                    written.output = Some(begin().await?);
                }
                if let Some(output) = &mut written.output {
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
        let Written { output, until } = written;
        let heights = || inputs.iter().map(|input| input.meta());
        let lowest = heights().map(|meta| meta.height_min).min().unwrap_or_default();
        let highest = heights().map(|meta| meta.height_max).max().unwrap_or_default();
        let added = match output {
            Some(builder) => {
                let place = job.place(builder.number());
                self.stats.borrow_mut().large_values += builder.large_values();
                Some(SegmentMeta { place, ..builder.finish((lowest, highest)).await? })
            }
            None => None,
        };
        let fates = inputs.iter().map(|input| fate_of(input, until.as_deref()));
        let (mut consumed, mut trimmed) = (Vec::new(), Vec::new());
        for fate in fates {
            match fate {
                Fate::Untouched => {}
                Fate::Trimmed(meta, before) => trimmed.push((meta, before)),
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
        stats.segments_cleaned += u64::from(has_ended && matches!(job.target, Target::InPlace(_)));
        stats.descents += u64::from(has_ended && job.target == Target::Bottom);
        Ok(has_ended)
    }

    /// Takes segments out of a collection, has others begin at a higher key, and adds one. Out of space leaves
    /// everything as it was.
    pub(super) async fn replace(
        &self,
        collection: CollectionId,
        consumed: Vec<u64>,
        trimmed: Vec<(SegmentMeta, Rc<Segment<E>>)>,
        added: Option<SegmentMeta>,
        retention: &Retention,
    ) -> Result<()> {
        if added.is_some() && !active(Mutant::SkipDirectorySync) {
            self.env.sync_dir(Dir::Shard(self.identity.shard.0)).await?;
        }
        let trimmed_metas = || trimmed.iter().map(|(meta, _)| meta.clone());
        let removed: Vec<u64> =
            consumed.iter().copied().chain(trimmed_metas().map(|meta| meta.number)).collect();
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
        let opened = self.open_segments(added.into_iter().collect(), retention).await;
        let mut segments = opened.map_err(Error::poison)?;
        self.note_written(&segments);
        let bytes_added: u64 = segments.iter().map(|segment| segment.meta().file_bytes).sum();
        for (meta, before) in &trimmed {
            segments.push(before.trimmed(meta.clone()));
        }
        {
            let mut state = self.state.borrow_mut();
            self.stats.borrow_mut().merge_bytes += bytes_added;
            state.replace_segments(collection, &removed, segments);
            state.forget_rollbacks();
            state.remask();
        }
        for number in consumed {
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
        let is_older = other.seq_min < lowest || !has_bottom && other.place.level == Level::BOTTOM;
        let shares_keys = metas().any(|meta| meta.key_min <= other.key_max && other.key_min <= meta.key_max);
        !is_input(other.number) && is_older && shares_keys
    })
}

/// The length at which an output file ends.
fn file_bytes_max<E: Env>(
    target: Target,
    layout: Layout,
    inputs: &[Rc<Segment<E>>],
    segment_bytes_max: u64,
) -> u64 {
    match target {
        Target::NewRun(_) if layout == Layout::Mutable => {
            let bytes: u64 = inputs.iter().map(|input| input.meta().file_bytes).sum();
            (bytes / RUN_FILES).clamp(segment_bytes_max / RUN_FILES, segment_bytes_max)
        }
        Target::NewRun(_) | Target::Bottom | Target::InPlace(_) => segment_bytes_max,
    }
}

fn fate_of<E: Env>(input: &Rc<Segment<E>>, until: Option<&[u8]>) -> Fate<E> {
    let meta = input.meta();
    match until {
        Some(until) if until <= meta.key_min.as_slice() => Fate::Untouched,
        Some(until) if until <= meta.key_max.as_slice() => {
            Fate::Trimmed(SegmentMeta { key_min: until.to_vec(), ..meta.clone() }, Rc::clone(input))
        }
        _ => Fate::Consumed(meta.number),
    }
}
