//! Sorted runs: the segments of a collection as readers and merges see them.
//!
//! A run is one or more files whose keys do not overlap, in the order of keys. Runs stand from the oldest to the newest:
//! for every key, what an older run holds is older than what a newer one holds. The bottom run is the oldest, whatever
//! numbers its entries have: while a merge moves entries down to it, key by key, they leave the runs above at the same
//! moment. Only what is archived is older still: of every key, what was archived first is the oldest.

use std::collections::VecDeque;
use std::rc::Rc;

use op_engine_io::Env;

use crate::error::Result;
use crate::ids::Seq;
use crate::range::{Direction, KeyRange};
use crate::segment::{CursorOptions, EntryRef, Segment, SegmentCursor, Step};
use crate::segment_meta::{Level, Place};
use crate::visibility::Mask;

/// Files whose keys do not overlap.
pub struct Run<E: Env> {
    place: Place,
    /// At least one, by ascending keys.
    files: Vec<Rc<Segment<E>>>,
    seqs: (Seq, Seq),
    bytes: u64,
}

impl<E: Env> Run<E> {
    fn new(mut files: Vec<Rc<Segment<E>>>) -> Option<Self> {
        let place = files.first()?.meta().place;
        files.sort_by(|a, b| a.meta().key_min.cmp(&b.meta().key_min));
        let metas = || files.iter().map(|file| file.meta());
        let lowest = metas().map(|meta| meta.seq_min).min()?;
        let highest = metas().map(|meta| meta.seq_max).max()?;
        let bytes = metas().map(|meta| meta.file_bytes).sum();
        Some(Self { place, files, seqs: (lowest, highest), bytes })
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether it was archived: it is older than all runs that were not, and merged no more.
    #[must_use]
    pub fn is_archived(&self) -> bool {
        self.place.level == Level::ARCHIVED
    }

    /// Whether it holds the oldest versions of all keys that are not archived.
    #[must_use]
    pub fn is_bottom(&self) -> bool {
        self.place.level == Level::BOTTOM
    }

    /// Its files, by ascending keys.
    #[must_use]
    pub fn files(&self) -> &[Rc<Segment<E>>] {
        &self.files
    }

    /// The lowest and the highest number of an entry.
    #[must_use]
    pub fn seqs(&self) -> (Seq, Seq) {
        self.seqs
    }

    /// The bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the keys of its files do not overlap.
    fn is_sound(&self) -> bool {
        self.files.windows(2).all(|pair| match pair {
            [lower, higher] => lower.meta().key_max < higher.meta().key_min,
            _ => true,
        })
    }

    /// The only file that may hold a version of a key that a view sees.
    #[must_use]
    pub fn file_for(&self, key: &[u8], view: Seq) -> Option<&Rc<Segment<E>>> {
        let after = self.files.partition_point(|file| file.meta().key_min.as_slice() <= key);
        self.files.get(after.checked_sub(1)?).filter(|file| file.covers(key, view))
    }
}

impl<E: Env> std::fmt::Debug for Run<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("place", &self.place).field("files", &self.files).finish_non_exhaustive()
    }
}

/// All runs of a collection on a shard, oldest first.
#[derive(Debug)]
pub struct Runs<E: Env>(Vec<Run<E>>);

impl<E: Env> Runs<E> {
    /// Sorts segments into runs.
    #[must_use]
    pub fn new(segments: impl IntoIterator<Item = Rc<Segment<E>>>) -> Self {
        let mut segments: Vec<_> = segments.into_iter().collect();
        let run_of = |segment: &Rc<Segment<E>>| match segment.meta().place {
            // The files of the bottom come from many merges.
            Place { level: Level::BOTTOM, .. } => 0,
            Place { run, .. } => run,
        };
        segments.sort_by_key(run_of);
        let files = segments.chunk_by(|a, b| run_of(a) == run_of(b));
        let mut runs: Vec<Run<E>> = files.filter_map(|files| Run::new(files.to_vec())).collect();
        runs.sort_by_key(|run| match run.place {
            Place { level: Level::ARCHIVED, run } => (0, Seq::ZERO, run),
            Place { level: Level::BOTTOM, .. } => (1, Seq::ZERO, 0),
            Place { run: number, .. } => (2, run.seqs.0, number),
        });
        Self(runs)
    }

    /// The runs, oldest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Run<E>] {
        &self.0
    }

    /// The runs that are not archived, oldest first.
    #[must_use]
    pub fn living(&self) -> &[Run<E>] {
        let archived = self.0.partition_point(Run::is_archived);
        self.0.get(archived..).unwrap_or_default()
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Rc<Segment<E>>> {
        self.0.iter().flat_map(|run| &run.files)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the keys of the files of each run do not overlap. Else segments have been lost or invented.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        self.0.iter().all(Run::is_sound)
    }
}

impl<E: Env> Default for Runs<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Goes through a range of a run in either direction, one file after the other.
pub struct RunCursor<E: Env> {
    env: E,
    /// Those that are still to come, in the order of the direction.
    files: VecDeque<Rc<Segment<E>>>,
    current: Option<SegmentCursor<E>>,
    range: KeyRange,
    direction: Direction,
    options: CursorOptions,
    reading_ahead: bool,
}

impl<E: Env> RunCursor<E> {
    /// Before the first entry of a range of files that are in the order of their keys and do not overlap.
    #[must_use]
    pub fn new<'a>(
        env: E,
        files: impl IntoIterator<Item = &'a Rc<Segment<E>>>,
        range: KeyRange,
        direction: Direction,
        options: CursorOptions,
    ) -> Self
    where
        E: 'a,
    {
        let mut files: VecDeque<_> =
            files.into_iter().filter(|file| file.overlaps(&range)).map(Rc::clone).collect();
        if direction == Direction::Backward {
            files.make_contiguous().reverse();
        }
        Self { env, files, current: None, range, direction, options, reading_ahead: false }
    }

    /// As one that has gone over its first pages already: it reads ahead, and gives the cache nothing.
    #[must_use]
    pub fn reading_ahead(self) -> Self {
        Self { reading_ahead: true, ..self }
    }

    /// Whether no file has a part of the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.current.is_none()
    }

    /// Goes to the next entry if that takes no I/O.
    ///
    /// # Errors
    /// If a page is damaged.
    pub fn step(&mut self) -> Result<Step> {
        loop {
            if let Some(current) = &mut self.current {
                match current.step()? {
                    Step::End => self.current = None,
                    step => return Ok(step),
                }
            }
            let Some(next) = self.files.pop_front() else { return Ok(Step::End) };
            let (env, range, options) = (self.env.clone(), self.range.clone(), self.options.clone());
            let cursor = SegmentCursor::new(env, next, range, self.direction, options);
            self.current = Some(if self.reading_ahead { cursor.reading_ahead() } else { cursor });
        }
    }

    /// Reads what [`RunCursor::step`] asked for.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub async fn load(&mut self) -> Result<()> {
        match &mut self.current {
            Some(current) => current.load().await,
            None => Ok(()),
        }
    }

    /// The entry that the cursor is at.
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        self.current.as_ref()?.entry()
    }

    /// The mask of the file that the cursor is in.
    #[must_use]
    pub fn mask(&self) -> Option<&Mask> {
        Some(self.current.as_ref()?.mask())
    }
}

impl<E: Env> std::fmt::Debug for RunCursor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunCursor").field("current", &self.current).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use op_engine_io::sim::{SimDisk, SimEnv, SimOptions, SimWorld};
    use op_engine_io::{Dir, Env as _};

    use super::*;
    use crate::ids::{CollectionId, Height, ShardId, StoreId};
    use crate::segment::{FilterKey, PartitionCache, SegmentBuilder, SegmentConfig, SegmentHome};
    use crate::segment_meta::SegmentMeta;

    const HOME: SegmentHome = SegmentHome { store: StoreId([1; 16]), shard: ShardId(0) };
    const BOTTOM: Place = Place { level: Level::BOTTOM, run: 1 };

    /// A file with keys `from..to`, each written by the commit `seq`.
    async fn file(
        env: &SimEnv,
        number: u64,
        (from, to): (u8, u8),
        seq: u64,
        place: Place,
    ) -> Rc<Segment<SimEnv>> {
        let config = SegmentConfig::new(FilterKey([0; 16]));
        let collection = CollectionId(1);
        let mut builder =
            SegmentBuilder::create(env.clone(), HOME, number, collection, config).await.unwrap();
        for key in from..to {
            builder.add(&[key], Seq(seq), Some(&[key; 300])).await.unwrap();
        }
        let meta = builder.finish((Height(1), Height(1))).await.unwrap();
        let meta = SegmentMeta { place, ..meta };
        Segment::open(env, HOME, meta, Mask::default(), &PartitionCache::unbounded()).await.unwrap()
    }

    fn trimmed(file: &Rc<Segment<SimEnv>>, to: u8) -> Rc<Segment<SimEnv>> {
        file.trimmed(SegmentMeta { key_min: vec![to], ..file.meta().clone() }, None)
    }

    fn on_a_machine(body: impl AsyncFnOnce(SimEnv)) {
        let world = SimWorld::new(SimOptions::default(), SimDisk::new());
        let env = world.env();
        let ran = world.run(async {
            env.create_dir(Dir::Shard(0)).await.unwrap();
            body(env).await;
        });
        ran.done().unwrap();
    }

    fn above(run: u64) -> Place {
        Place { level: Level::FLUSHED, run }
    }

    #[test]
    fn the_bottom_is_the_oldest_while_a_descent_is_under_way() {
        on_a_machine(async |env| {
            // Keys below 50 have descended already: the first file of the bottom has the newer commits.
            let descended = file(&env, 3, (0, 50), 9, Place { run: 3, ..BOTTOM }).await;
            let old = trimmed(&file(&env, 1, (0, 99), 2, BOTTOM).await, 50);
            let upper = trimmed(&file(&env, 2, (10, 80), 9, above(2)).await, 50);
            let newer = file(&env, 4, (40, 60), 12, above(4)).await;
            let runs = Runs::new([newer, upper, old, descended]);
            assert!(runs.are_sound());
            let numbers = |run: &Run<SimEnv>| run.files().iter().map(|file| file.meta().number).collect();
            let found: Vec<Vec<u64>> = runs.as_slice().iter().map(numbers).collect();
            assert_eq!(found, [vec![3, 1], vec![2], vec![4]]);
            let file_of = |run: usize, key: u8| {
                runs.as_slice()[run].file_for(&[key], Seq::MAX).map(|file| file.meta().number)
            };
            assert_eq!(
                [file_of(0, 49), file_of(0, 50), file_of(1, 49), file_of(1, 50)],
                [Some(3), Some(1), None, Some(2)]
            );
            assert_eq!(runs.as_slice()[2].file_for(&[45], Seq(11)).map(|file| file.meta().number), None);
        });
    }

    #[test]
    fn files_of_a_run_that_overlap_are_noticed() {
        on_a_machine(async |env| {
            let (one, other) =
                (file(&env, 1, (0, 50), 2, BOTTOM).await, file(&env, 2, (49, 60), 2, BOTTOM).await);
            assert!(!Runs::new([one.clone(), other.clone()]).are_sound());
            assert!(Runs::new([one, trimmed(&other, 50)]).are_sound());
        });
    }

    #[test]
    fn a_cursor_goes_through_the_files_of_a_run_as_if_they_were_one() {
        on_a_machine(async |env| {
            let files = [
                file(&env, 1, (0, 40), 2, BOTTOM).await,
                trimmed(&file(&env, 2, (30, 70), 2, BOTTOM).await, 45),
                file(&env, 3, (90, 120), 2, BOTTOM).await,
            ];
            let all: Vec<u8> = (0..40).chain(45..70).chain(90..120).collect();
            let bounds = [0, 20, 39, 40, 44, 45, 60, 69, 70, 95, 119, 130];
            for (from, to) in bounds.into_iter().flat_map(|from| bounds.map(|to| (from, to))) {
                let range = KeyRange { start: Bound::Included(vec![from]), end: Bound::Excluded(vec![to]) };
                let mut expected: Vec<u8> =
                    all.iter().copied().filter(|key| (from..to).contains(key)).collect();
                for direction in [Direction::Forward, Direction::Backward] {
                    let options = CursorOptions::default();
                    let mut cursor = RunCursor::new(env.clone(), &files, range.clone(), direction, options);
                    let mut found = Vec::new();
                    loop {
                        match cursor.step().unwrap() {
                            Step::Entry => found.push(cursor.entry().unwrap().key[0]),
                            Step::NeedsRead => cursor.load().await.unwrap(),
                            Step::End => break,
                        }
                    }
                    assert_eq!(found, expected, "{from}..{to} {direction:?}");
                    expected.reverse();
                }
            }
        });
    }
}
