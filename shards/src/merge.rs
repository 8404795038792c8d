//! Several ordered sources as one.
//!
//! A binary heap over the sources, ordered by the entry that each is at: the common case, several entries in a row
//! from one source, costs two comparisons an entry and copies nothing. Entries lie where their source has them.

use std::cmp::Ordering;

use op_engine_io::Env;

use crate::error::Result;
use crate::ids::Seq;
use crate::memtable::MemtableCursor;
use crate::range::{Direction, internal_order};
use crate::retention::VersionHead;
use crate::run::RunCursor;
use crate::segment::{EntryRef, Step};
use crate::visibility::Mask;

/// One ordered source of a merge, positioned before its first entry.
#[derive(Debug)]
pub enum Source<E: Env> {
    /// A range of a memtable.
    Memtable(MemtableCursor),
    /// A range of a run.
    Run(Box<RunCursor<E>>),
}

impl<E: Env> Source<E> {
    /// Goes to the next entry; `false` past the last one.
    async fn advance(&mut self) -> Result<bool> {
        match self {
            Self::Memtable(cursor) => Ok(cursor.advance()),
            Self::Run(cursor) => loop {
                match cursor.step()? {
                    Step::Entry => return Ok(true),
                    Step::End => return Ok(false),
                    Step::NeedsRead => cursor.load().await?,
                }
            },
        }
    }

    /// The same, if it takes no I/O.
    fn advance_now(&mut self) -> Result<Option<bool>> {
        match self {
            Self::Memtable(cursor) => Ok(Some(cursor.advance())),
            Self::Run(cursor) => Ok(match cursor.step()? {
                Step::Entry => Some(true),
                Step::End => Some(false),
                Step::NeedsRead => None,
            }),
        }
    }

    fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Memtable(cursor) => cursor.entry(),
            Self::Run(cursor) => cursor.entry(),
        }
    }
}

impl<E: Env> From<MemtableCursor> for Source<E> {
    fn from(cursor: MemtableCursor) -> Self {
        Self::Memtable(cursor)
    }
}

impl<E: Env> From<RunCursor<E>> for Source<E> {
    fn from(cursor: RunCursor<E>) -> Self {
        Self::Run(Box::new(cursor))
    }
}

/// All versions of one key, in buffers that are used again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyVersions {
    key: Vec<u8>,
    heads: Vec<VersionHead>,
    /// All values, one behind the other.
    values: Vec<u8>,
    /// Where each value ends.
    ends: Vec<usize>,
}

impl KeyVersions {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its versions in the order of the merge: newest first when it goes forward, oldest first when backward.
    #[must_use]
    pub fn heads(&self) -> &[VersionHead] {
        &self.heads
    }

    /// The bytes of the key and of all values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.values.len()
    }

    /// The value of a version; `None` for a tombstone.
    #[must_use]
    pub fn value(&self, at: usize) -> Option<&[u8]> {
        let start = at.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        if self.heads.get(at)?.tombstone { None } else { self.values.get(start..*self.ends.get(at)?) }
    }

    fn clear(&mut self) {
        self.key.clear();
        self.heads.clear();
        self.values.clear();
        self.values.shrink_to(1 << 20);
        self.ends.clear();
    }

    fn push(&mut self, entry: EntryRef<'_>) {
        self.heads.push(VersionHead { seq: entry.seq, tombstone: entry.value.is_none() });
        self.values.extend_from_slice(entry.value.unwrap_or_default());
        self.ends.push(self.values.len());
    }
}

/// What a view sees of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// A value.
    Shown,
    /// Nothing: it was removed, or is not there yet, or no more.
    Hidden,
}

/// A key and its value, in buffers that are used again.
#[derive(Debug, Default)]
pub struct VisibleRow {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl VisibleRow {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value, if the key is shown.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// Lets others have their turn now and then while many entries are gone through without I/O.
#[derive(Debug)]
pub struct Pace<'a, E> {
    env: &'a E,
    entries: u64,
}

impl<'a, E: Env> Pace<'a, E> {
    /// About 50 us of work.
    const ENTRIES_A_TURN: u64 = 512;

    /// Before the first entry.
    #[must_use]
    pub fn new(env: &'a E) -> Self {
        Self { env, entries: 0 }
    }

    /// How many entries were gone through.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    async fn step(&mut self) {
        self.entries += 1;
        if self.entries.is_multiple_of(Self::ENTRIES_A_TURN) {
            self.env.yield_now().await;
        }
    }
}

/// A merge of sources that go in one direction.
#[derive(Debug)]
pub struct MergeCursor<E: Env> {
    /// From newest to oldest: of two entries with the same key and sequence number the one from the first source stands.
    sources: Vec<Source<E>>,
    /// The sources that have an entry, as a heap: the one with the next entry is the first.
    heap: Vec<usize>,
    direction: Direction,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// The first of the heap is at the entry given out last.
    At,
    /// The first of the heap is at an entry that was looked at but not given out.
    Peeked,
}

impl<E: Env> MergeCursor<E> {
    /// Merges sources that all go in this direction, ordered from the newest data to the oldest.
    #[must_use]
    pub fn new(sources: Vec<Source<E>>, direction: Direction) -> Self {
        Self { heap: Vec::with_capacity(sources.len()), sources, direction, state: State::Start }
    }

    /// The next entry; `None` past the last one.
    ///
    /// # Errors
    /// If a source fails.
    pub async fn next(&mut self) -> Result<Option<EntryRef<'_>>> {
        self.peek().await?;
        self.state = State::At;
        Ok(self.current())
    }

    /// The next entry without going there.
    ///
    /// # Errors
    /// If a source fails.
    pub async fn peek(&mut self) -> Result<Option<EntryRef<'_>>> {
        match self.state {
            State::Start => self.start().await?,
            State::At => self.leave().await?,
            State::Peeked => {}
        }
        self.state = State::Peeked;
        Ok(self.current())
    }

    /// All versions of the next key, into buffers that are used again; `false` past the last key.
    ///
    /// # Errors
    /// If a source fails.
    pub async fn next_key(&mut self, into: &mut KeyVersions) -> Result<bool> {
        into.clear();
        let Some(first) = self.next().await? else { return Ok(false) };
        into.key.extend_from_slice(first.key);
        loop {
            if let Some(entry) = self.current() {
                into.push(entry);
            }
            match self.peek().await? {
                Some(entry) if entry.key == into.key => self.state = State::At,
                _ => return Ok(true),
            }
        }
    }

    /// The next key, and what a view sees of it; `None` past the last key. Entries from segments are judged by their
    /// segment's mask, those from memtables by `mask`. `pace` is told of every entry, and may yield.
    ///
    /// # Errors
    /// If a source fails.
    pub async fn visible_next(
        &mut self,
        view: Seq,
        mask: &Mask,
        into: &mut VisibleRow,
        pace: &mut Pace<'_, E>,
    ) -> Result<Option<Visible>> {
        let Some(first) = self.next().await? else { return Ok(None) };
        into.key.clear();
        into.key.extend_from_slice(first.key);
        let mut newest = None;
        loop {
            pace.step().await;
            // Forward, the first visible version is the newest; backward, the last one is.
            let wanted = newest.is_none() || self.direction == Direction::Backward;
            if wanted
                && self.shows(view, mask)
                && let Some(entry) = self.current()
            {
                newest = Some(if let Some(value) = entry.value {
                    into.value.clear();
                    into.value.extend_from_slice(value);
                    Visible::Shown
                } else {
                    Visible::Hidden
                });
            }
            match self.peek().await? {
                Some(entry) if entry.key == into.key => self.state = State::At,
                _ => return Ok(Some(newest.unwrap_or(Visible::Hidden))),
            }
        }
    }

    fn first(&self) -> Option<&Source<E>> {
        self.sources.get(*self.heap.first()?)
    }

    fn current(&self) -> Option<EntryRef<'_>> {
        self.first()?.entry()
    }

    fn shows(&self, view: Seq, mask: &Mask) -> bool {
        self.first().is_some_and(|source| {
            let mask = match source {
                Source::Memtable(_) => mask,
                Source::Run(cursor) => cursor.mask().unwrap_or(mask),
            };
            source.entry().is_some_and(|entry| mask.shows(entry.seq, view))
        })
    }

    async fn start(&mut self) -> Result<()> {
        for (number, source) in self.sources.iter_mut().enumerate() {
            if source.advance().await? {
                self.heap.push(number);
            }
        }
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
        Ok(())
    }

    /// Goes past the current entry, and past any entry of an older source with the same key and sequence number.
    async fn leave(&mut self) -> Result<()> {
        while let Some(child) = self.equal_child() {
            self.advance_at(child).await?;
        }
        self.advance_at(0).await
    }

    /// A child of the heap's root with an entry of the same key and sequence number.
    fn equal_child(&self) -> Option<usize> {
        let root = *self.heap.first()?;
        (1..3).find(|at| {
            self.heap.get(*at).is_some_and(|child| self.compare_entries(*child, root) == Ordering::Equal)
        })
    }

    async fn advance_at(&mut self, at: usize) -> Result<()> {
        let Some(source) = self.heap.get(at).and_then(|number| self.sources.get_mut(*number)) else {
            return Ok(());
        };
        let goes_on = match source.advance_now()? {
            Some(goes_on) => goes_on,
            None => source.advance().await?,
        };
        if !goes_on {
            self.heap.swap_remove(at);
        }
        self.sift_down(at);
        Ok(())
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.is_before(right, left) { right } else { left };
            if !self.is_before(child, at) {
                return;
            }
            self.heap.swap(child, at);
            at = child;
        }
    }

    /// Whether the entry at one place of the heap comes before that at another; `false` if there is none.
    fn is_before(&self, at: usize, other: usize) -> bool {
        let (Some(a), Some(b)) = (self.heap.get(at), self.heap.get(other)) else { return false };
        self.compare_entries(*a, *b).then(a.cmp(b)).is_lt()
    }

    fn compare_entries(&self, a: usize, b: usize) -> Ordering {
        let entry = |number: usize| {
            self.sources.get(number).and_then(Source::entry).map(|entry| (entry.key, entry.seq))
        };
        let (Some(a), Some(b)) = (entry(a), entry(b)) else { return Ordering::Greater };
        match self.direction {
            Direction::Forward => internal_order(a, b),
            Direction::Backward => internal_order(b, a),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use op_engine_io::sim::{SimDisk, SimEnv, SimOptions, SimWorld};
    use op_engine_io::{Dir, Env as _};
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{CollectionId, Height, ShardId, StoreId};
    use crate::memtable::Memtable;
    use crate::range::KeyRange;
    use crate::segment::{
        CursorOptions, FilterKey, PartitionCache, Segment, SegmentBuilder, SegmentConfig, SegmentHome,
    };
    use crate::visibility::{Rollback, Scope};

    const C: CollectionId = CollectionId(1);
    const HOME: SegmentHome = SegmentHome { store: StoreId([1; 16]), shard: ShardId(0) };

    type Model = BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>;
    type Flat = Vec<(Vec<u8>, u64, Option<Vec<u8>>)>;

    fn flat(model: &Model) -> Flat {
        let versions = |(key, versions): (&Vec<u8>, &BTreeMap<u64, Option<Vec<u8>>>)| {
            versions.iter().rev().map(|(seq, value)| (key.clone(), *seq, value.clone())).collect::<Vec<_>>()
        };
        model.iter().flat_map(versions).collect()
    }

    /// A model, and for each of its entries the place that holds it: 0 is the memtable.
    fn cases() -> impl Strategy<Value = (Model, Vec<usize>)> {
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
        let versions = prop::collection::btree_map(1u64..40, value, 1..8);
        let key = prop::collection::vec(0u8..3, 0..5);
        (prop::collection::btree_map(key, versions, 0..25), prop::collection::vec(0usize..6, 200))
    }

    async fn place(env: &SimEnv, model: &Model, places: &[usize], mask: &Mask) -> Vec<Place> {
        env.create_dir(Dir::Shard(0)).await.unwrap();
        let entries = flat(model);
        let placed = |place: usize| {
            entries
                .iter()
                .enumerate()
                .filter(move |(n, _)| places[n % places.len()] == place)
                .map(|(_, entry)| entry)
        };
        let mut memtable = Memtable::new();
        for (key, seq, value) in placed(0).rev() {
            memtable.insert(C, key, Seq(*seq), value.as_deref());
        }
        let mut out = vec![Place::Memtable(Rc::new(RefCell::new(memtable)))];
        for number in 1..6 {
            let config = SegmentConfig::new(FilterKey([0; 16]));
            let number_u64 = op_engine_io::num::to_u64(number);
            let mut builder = SegmentBuilder::create(env.clone(), HOME, number_u64, C, config).await.unwrap();
            for (key, seq, value) in placed(number) {
                builder.add(key, Seq(*seq), value.as_deref()).await.unwrap();
            }
            if builder.is_empty() {
                builder.abandon().await.unwrap();
                continue;
            }
            let meta = builder.finish((Height(1), Height(1))).await.unwrap();
            out.push(Place::Segment(
                Segment::open(env, HOME, meta, mask.clone(), &PartitionCache::unbounded()).await.unwrap(),
            ));
        }
        out
    }

    enum Place {
        Memtable(Rc<RefCell<Memtable>>),
        Segment(Rc<Segment<SimEnv>>),
    }

    fn merge(env: &SimEnv, places: &[Place], range: &KeyRange, direction: Direction) -> MergeCursor<SimEnv> {
        let source = |place: &Place| match place {
            Place::Memtable(memtable) => {
                MemtableCursor::new(memtable.clone(), C, range.clone(), direction).into()
            }
            Place::Segment(segment) => {
                let options = CursorOptions::default();
                RunCursor::new(env.clone(), [segment], range.clone(), direction, options).into()
            }
        };
        MergeCursor::new(places.iter().map(source).collect(), direction)
    }

    fn run<T>(body: impl AsyncFnOnce(SimEnv) -> T) -> T {
        let world = SimWorld::new(SimOptions::default(), SimDisk::new());
        let env = world.env();
        world.run(body(env)).done().unwrap()
    }

    fn owned(entry: EntryRef<'_>) -> (Vec<u8>, u64, Option<Vec<u8>>) {
        (entry.key.to_vec(), entry.seq.0, entry.value.map(<[u8]>::to_vec))
    }

    fn in_order(mut entries: Flat, direction: Direction) -> Flat {
        if direction == Direction::Backward {
            entries.reverse();
        }
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn a_merge_is_the_whole_in_order((model, places) in cases(), dead in (1u64..30, 1u64..20), view in 0u64..50) {
            let rollback = Rollback { first_dead: Seq(dead.0), seq: Seq(dead.0 + dead.1) };
            let mask = Mask::for_range(&[rollback], Scope::Chain, Seq::ZERO, Seq::MAX);
            run(async |env| {
                let places = place(&env, &model, &places, &mask).await;
                for direction in [Direction::Forward, Direction::Backward] {
                    let mut cursor = merge(&env, &places, &KeyRange::all(), direction);
                    let mut found = Flat::new();
                    loop {
                        let peeked = cursor.peek().await.unwrap().map(owned);
                        let next = cursor.next().await.unwrap().map(owned);
                        assert_eq!(peeked, next);
                        let Some(next) = next else { break };
                        found.push(next);
                    }
                    assert_eq!(found, in_order(flat(&model), direction));
                    assert!(cursor.next().await.unwrap().is_none());

                    let mut cursor = merge(&env, &places, &KeyRange::all(), direction);
                    let (mut grouped, mut key) = (Flat::new(), KeyVersions::default());
                    while cursor.next_key(&mut key).await.unwrap() {
                        grouped.extend(key.heads().iter().enumerate().map(|(at, head)| {
                            (key.key().to_vec(), head.seq.0, key.value(at).map(<[u8]>::to_vec))
                        }));
                    }
                    assert_eq!(grouped, found);

                    let mut cursor = merge(&env, &places, &KeyRange::all(), direction);
                    let (mut visible, mut row, mut pace) = (Vec::new(), VisibleRow::default(), Pace::new(&env));
                    while let Some(shown) =
                        cursor.visible_next(Seq(view), &mask, &mut row, &mut pace).await.unwrap()
                    {
                        if shown == Visible::Shown {
                            visible.push((row.key().to_vec(), row.value().to_vec()));
                        }
                    }
                    assert_eq!(pace.entries(), op_engine_io::num::to_u64(found.len()));
                    if direction == Direction::Backward {
                        visible.reverse();
                    }
                    let shown = |versions: &BTreeMap<u64, Option<Vec<u8>>>| {
                        let newest = versions.iter().rev().find(|(seq, _)| mask.shows(Seq(**seq), Seq(view)))?;
                        newest.1.clone()
                    };
                    let expected: Vec<_> =
                        model.iter().filter_map(|(key, versions)| Some((key.clone(), shown(versions)?))).collect();
                    assert_eq!(visible, expected);
                }
            });
        }
    }

    #[test]
    fn of_equal_entries_the_newer_source_stands() {
        run(async |_| {
            let memtable = |value: &[u8], extra: &[u8]| {
                let mut memtable = Memtable::new();
                memtable.insert(C, b"k", Seq(5), Some(value));
                memtable.insert(C, extra, Seq(6), Some(value));
                Rc::new(RefCell::new(memtable))
            };
            let tables = [memtable(b"new", b"a"), memtable(b"old", b"z"), memtable(b"oldest", b"b")];
            for direction in [Direction::Forward, Direction::Backward] {
                let source = |table: &Rc<_>| {
                    MemtableCursor::new(Rc::clone(table), C, KeyRange::all(), direction).into()
                };
                let mut cursor = MergeCursor::<SimEnv>::new(tables.iter().map(source).collect(), direction);
                let mut found = Vec::new();
                while let Some(entry) = cursor.next().await.unwrap() {
                    found.push((entry.key.to_vec(), entry.value.unwrap().to_vec()));
                }
                if direction == Direction::Backward {
                    found.reverse();
                }
                let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
                let expected =
                    [pair(b"a", b"new"), pair(b"b", b"oldest"), pair(b"k", b"new"), pair(b"z", b"old")];
                assert_eq!(found, expected);
            }
        });
    }
}
