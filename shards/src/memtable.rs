//! The newest versions of a shard, in memory: what commits add to and reads look into first.
//!
//! One table for all collections of a shard. A key holds its versions oldest first, so that a commit appends; nearly
//! every key has one, which lies in the tree itself. What was flushed is dropped as a whole with the memtable.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::ids::{CollectionId, Height, Seq};
use crate::range::{Direction, KeyRange, is_empty_range};
use crate::visibility::Mask;

/// The bytes of a value, shared between the memtable, caches and replies.
pub type Value = Arc<[u8]>;

/// What a key costs beside its bytes: its slot in the tree at the usual fill of a node, and its allocation.
const KEY_OVERHEAD_BYTES: usize = (size_of::<Box<[u8]>>() + size_of::<Versions>()) * 4 / 3 + ALLOCATION_BYTES;
/// What each version after the first costs beside its value: its slot at the usual fill of a vector.
const VERSION_OVERHEAD_BYTES: usize = size_of::<Version>() * 3 / 2;
/// What a value costs beside its bytes: the two counts in front of it, and its allocation.
const VALUE_OVERHEAD_BYTES: usize = 2 * size_of::<usize>() + ALLOCATION_BYTES;
const COLLECTION_OVERHEAD_BYTES: usize = 256;
/// What an allocator adds to a small allocation on average, by its header and by rounding up.
const ALLOCATION_BYTES: usize = 16;

/// One version of a key. The value is absent for a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The commit that wrote it.
    pub seq: Seq,
    /// What it wrote; `None` deletes.
    pub value: Option<Value>,
}

/// All versions of a key, oldest first. One lies in place, more are on the heap.
type Versions = SmallVec<[Version; 1]>;

/// A version and its key, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedEntry {
    /// The key, shared between its versions.
    pub key: Rc<[u8]>,
    /// The commit that wrote it.
    pub seq: Seq,
    /// What it wrote; `None` deletes.
    pub value: Option<Value>,
}

#[derive(Debug, Default)]
struct Table {
    keys: BTreeMap<Box<[u8]>, Versions>,
    seqs: Option<(Seq, Seq)>,
    entries: usize,
}

/// The newest versions of a shard.
#[derive(Debug, Default)]
pub struct Memtable {
    tables: BTreeMap<CollectionId, Table>,
    blocks: Vec<(Seq, Height)>,
    bytes: usize,
    entries: usize,
    seqs: Option<(Seq, Seq)>,
}

impl Memtable {
    /// An empty memtable.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a version. Of two with the same key and sequence number the later one stands. Sequence numbers of a key
    /// never descend.
    pub fn insert(&mut self, collection: CollectionId, key: &[u8], seq: Seq, value: Option<&[u8]>) {
        let bytes = &mut self.bytes;
        let table = self.tables.entry(collection).or_insert_with(|| {
            *bytes += COLLECTION_OVERHEAD_BYTES;
            Table::default()
        });
        *bytes += value.map_or(0, value_bytes);
        let version = Version { seq, value: value.map(Arc::from) };
        let replaced = match table.keys.entry(Box::from(key)) {
            Entry::Occupied(mut versions) => match versions.get_mut().last_mut() {
                Some(last) if last.seq == seq => {
                    *bytes -= last.value.as_deref().map_or(0, value_bytes);
                    *last = version;
                    true
                }
                last => {
                    debug_assert!(last.is_none_or(|last| last.seq < seq), "versions of a key ascend");
                    *bytes += VERSION_OVERHEAD_BYTES;
                    versions.get_mut().push(version);
                    false
                }
            },
            Entry::Vacant(place) => {
                *bytes += KEY_OVERHEAD_BYTES + key.len();
                place.insert(SmallVec::from_buf([version]));
                false
            }
        };
        if !replaced {
            table.entries += 1;
            self.entries += 1;
            widen(&mut table.seqs, seq);
            widen(&mut self.seqs, seq);
        }
    }

    /// Remembers that a commit was the block at a height. Sequence numbers ascend; heights go back after a reorg.
    pub fn note_block(&mut self, seq: Seq, height: Height) {
        debug_assert!(self.blocks.last().is_none_or(|(last, _)| *last < seq), "blocks come in order");
        self.blocks.push((seq, height));
        self.bytes += size_of::<(Seq, Height)>();
    }

    /// The blocks that were noted, oldest first.
    #[must_use]
    pub fn blocks(&self) -> &[(Seq, Height)] {
        &self.blocks
    }

    /// The lowest and highest height at which commits `seq_min..=seq_max` happened: a commit that is no block happened
    /// at the height of the block before it. `None` if no block at or before `seq_max` was noted.
    #[must_use]
    pub fn heights(&self, seq_min: Seq, seq_max: Seq) -> Option<(Height, Height)> {
        let end = self.blocks.partition_point(|(seq, _)| *seq <= seq_max);
        let begin = self.blocks.partition_point(|(seq, _)| *seq <= seq_min).saturating_sub(1);
        let heights = || self.blocks.get(begin..end).unwrap_or_default().iter().map(|(_, height)| *height);
        Some((heights().min()?, heights().max()?))
    }

    /// The newest version of a key that a view sees; a tombstone too, since it hides what is in older places.
    #[must_use]
    pub fn get(
        &self,
        collection: CollectionId,
        key: &[u8],
        view: Seq,
        mask: &Mask,
    ) -> Option<(Seq, Option<Value>)> {
        let versions = self.tables.get(&collection)?.keys.get(key)?;
        let version = versions.iter().rev().find(|version| mask.shows(version.seq, view))?;
        Some((version.seq, version.value.clone()))
    }

    /// The next entries of a range, in the direction's order: every version of each key, of whole keys only. Stops
    /// after the key that reaches `entries_max`; empty at the end of the range.
    #[must_use]
    pub fn chunk(
        &self,
        collection: CollectionId,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        entries_max: usize,
    ) -> Vec<OwnedEntry> {
        let mut entries = Vec::new();
        let Some(table) = self.tables.get(&collection) else { return entries };
        if is_empty_range(start, end) {
            return entries;
        }
        let mut keys = table.keys.range::<[u8], _>((start, end));
        while entries.len() < entries_max {
            let next = match direction {
                Direction::Forward => keys.next(),
                Direction::Backward => keys.next_back(),
            };
            let Some((key, versions)) = next else { break };
            let key: Rc<[u8]> = Rc::from(key.as_ref());
            let entry = |version: &Version| OwnedEntry {
                key: key.clone(),
                seq: version.seq,
                value: version.value.clone(),
            };
            match direction {
                Direction::Forward => entries.extend(versions.iter().rev().map(entry)),
                Direction::Backward => entries.extend(versions.iter().map(entry)),
            }
        }
        entries
    }

    /// The keys of a collection in order, each with its versions, oldest first.
    pub fn keys(&self, collection: CollectionId) -> impl Iterator<Item = (&[u8], &[Version])> {
        self.tables
            .get(&collection)
            .into_iter()
            .flat_map(|table| table.keys.iter().map(|(key, versions)| (key.as_ref(), versions.as_slice())))
    }

    /// The keys of a collection after one, in order, each with its versions, oldest first; all of them after none.
    pub fn keys_after<'a>(
        &'a self,
        collection: CollectionId,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a [Version])> + use<'a> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.tables.get(&collection);
        table
            .map(|table| table.keys.range::<[u8], _>((start, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .map(|(key, versions)| (key.as_ref(), versions.as_slice()))
    }

    /// Every entry by collection, then key, then newest first: the order of segments.
    pub fn iter(&self) -> impl Iterator<Item = (CollectionId, &[u8], &Version)> {
        self.tables.iter().flat_map(|(collection, table)| {
            table.keys.iter().flat_map(|(key, versions)| {
                versions.iter().rev().map(|version| (*collection, key.as_ref(), version))
            })
        })
    }

    /// The collections that have entries, ascending.
    pub fn collections(&self) -> impl Iterator<Item = CollectionId> {
        self.tables.keys().copied()
    }

    /// How many entries a collection has.
    #[must_use]
    pub fn collection_entries(&self, collection: CollectionId) -> usize {
        self.tables.get(&collection).map_or(0, |table| table.entries)
    }

    /// The lowest and highest sequence number of a collection's entries.
    #[must_use]
    pub fn collection_seqs(&self, collection: CollectionId) -> Option<(Seq, Seq)> {
        self.tables.get(&collection)?.seqs
    }

    /// The memory it holds: keys, values, and what the tree and the allocator add to them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many entries it holds.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The lowest sequence number of an entry.
    #[must_use]
    pub fn seq_min(&self) -> Option<Seq> {
        self.seqs.map(|(min, _)| min)
    }

    /// The highest sequence number of an entry.
    #[must_use]
    pub fn seq_max(&self) -> Option<Seq> {
        self.seqs.map(|(_, max)| max)
    }

    /// Whether it holds no entry. Blocks may have been noted all the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

fn value_bytes(value: &[u8]) -> usize {
    value.len() + VALUE_OVERHEAD_BYTES
}

fn widen(range: &mut Option<(Seq, Seq)>, seq: Seq) {
    let (min, max) = range.unwrap_or((seq, seq));
    *range = Some((min.min(seq), max.max(seq)));
}

/// Goes through a range of a memtable that others may add to meanwhile: it holds no borrow between steps. Entries
/// added behind it are missed and entries added before it are met, which is right for any view older than them.
#[derive(Debug)]
pub struct MemtableCursor {
    memtable: Rc<RefCell<Memtable>>,
    collection: CollectionId,
    range: KeyRange,
    direction: Direction,
    chunk: VecDeque<OwnedEntry>,
    chunk_entries: usize,
    started: bool,
}

impl MemtableCursor {
    const CHUNK_ENTRIES_FIRST: usize = 8;
    const CHUNK_ENTRIES_MAX: usize = 256;

    /// Before the first entry of a range.
    #[must_use]
    pub fn new(
        memtable: Rc<RefCell<Memtable>>,
        collection: CollectionId,
        range: KeyRange,
        direction: Direction,
    ) -> Self {
        Self {
            memtable,
            collection,
            range,
            direction,
            chunk: VecDeque::new(),
            chunk_entries: Self::CHUNK_ENTRIES_FIRST,
            started: false,
        }
    }

    /// Goes to the next entry; `false` past the last one.
    pub fn advance(&mut self) -> bool {
        let last = if self.started { self.chunk.pop_front() } else { None };
        if !self.chunk.is_empty() {
            return true;
        }
        if self.started {
            let Some(last) = last else { return false };
            match self.direction {
                Direction::Forward => self.range.start = Bound::Excluded(last.key.to_vec()),
                Direction::Backward => self.range.end = Bound::Excluded(last.key.to_vec()),
            }
        }
        self.started = true;
        let chunk = self.memtable.borrow().chunk(
            self.collection,
            self.range.start(),
            self.range.end(),
            self.direction,
            self.chunk_entries,
        );
        self.chunk = chunk.into();
        self.chunk_entries = (self.chunk_entries * 2).min(Self::CHUNK_ENTRIES_MAX);
        !self.chunk.is_empty()
    }

    /// The entry that the cursor is at.
    #[must_use]
    pub fn entry(&self) -> Option<&OwnedEntry> {
        if self.started { self.chunk.front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::visibility::{Rollback, Scope};

    const C: CollectionId = CollectionId(1);

    type Model = BTreeMap<(u32, Vec<u8>), BTreeMap<u64, Option<Vec<u8>>>>;

    #[derive(Debug, Clone)]
    struct Write {
        collection: u32,
        key: Vec<u8>,
        step: u64,
        value: Option<Vec<u8>>,
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let write =
            (1u32..3, prop::collection::vec(0u8..3, 0..4), 0u64..2, any::<Option<[u8; 3]>>()).prop_map(
                |(collection, key, step, value)| Write { collection, key, step, value: value.map(Vec::from) },
            );
        prop::collection::vec(write, 0..80)
    }

    fn build(writes: &[Write]) -> (Memtable, Model) {
        let (mut memtable, mut model) = (Memtable::new(), Model::new());
        let mut seq = 1;
        for write in writes {
            seq += write.step;
            memtable.insert(CollectionId(write.collection), &write.key, Seq(seq), write.value.as_deref());
            model.entry((write.collection, write.key.clone())).or_default().insert(seq, write.value.clone());
        }
        (memtable, model)
    }

    proptest! {
        #[test]
        fn agrees_with_a_model(writes in writes(), dead in (0u64..40, 0u64..40), bound in prop::collection::vec(0u8..3, 0..4)) {
            let (memtable, model) = build(&writes);
            let rollback = Rollback { first_dead: Seq(dead.0), seq: Seq(dead.0 + dead.1) };
            let mask = Mask::for_range(&[rollback], Scope::Chain, Seq::ZERO, Seq::MAX);
            for ((collection, key), versions) in &model {
                for view in 0..60 {
                    let expected = versions.iter().rev().find(|(seq, _)| mask.shows(Seq(**seq), Seq(view)));
                    let found = memtable.get(CollectionId(*collection), key, Seq(view), &mask);
                    prop_assert_eq!(
                        found.map(|(seq, value)| (seq.0, value.map(|v| v.to_vec()))),
                        expected.map(|(seq, value)| (*seq, value.clone()))
                    );
                }
            }
            let flat: Vec<_> = model.iter().flat_map(|((c, key), versions)| {
                versions.iter().rev().map(|(seq, value)| (*c, key.clone(), *seq, value.clone()))
            }).collect();
            let iterated: Vec<_> = memtable.iter().map(|(c, key, version)| {
                (c.0, key.to_vec(), version.seq.0, version.value.as_deref().map(<[u8]>::to_vec))
            }).collect();
            prop_assert_eq!(&iterated, &flat);
            prop_assert_eq!(memtable.entries(), flat.len());
            prop_assert_eq!(memtable.seq_max().map(|seq| seq.0), flat.iter().map(|entry| entry.2).max());
            prop_assert_eq!(memtable.seq_min().map(|seq| seq.0), flat.iter().map(|entry| entry.2).min());

            let shared = Rc::new(RefCell::new(memtable));
            for direction in [Direction::Forward, Direction::Backward] {
                let range = KeyRange { start: Bound::Included(bound.clone()), end: Bound::Unbounded };
                let mut cursor = MemtableCursor::new(shared.clone(), C, range, direction);
                let mut scanned = Vec::new();
                while cursor.advance() {
                    let entry = cursor.entry().unwrap();
                    scanned.push((1, entry.key.to_vec(), entry.seq.0, entry.value.as_deref().map(<[u8]>::to_vec)));
                }
                prop_assert!(!cursor.advance() && cursor.entry().is_none());
                if direction == Direction::Backward {
                    scanned.reverse();
                }
                let expected: Vec<_> = flat.iter().filter(|entry| entry.0 == 1 && entry.1 >= bound).cloned().collect();
                prop_assert_eq!(scanned, expected);
            }
        }

        #[test]
        fn bytes_depend_on_the_content_only(writes in writes()) {
            let (memtable, _) = build(&writes);
            let mut rebuilt = Memtable::new();
            for collection in memtable.collections() {
                for (key, versions) in memtable.keys(collection) {
                    for version in versions {
                        rebuilt.insert(collection, key, version.seq, version.value.as_deref());
                    }
                }
            }
            prop_assert_eq!(rebuilt.bytes(), memtable.bytes());
        }
    }

    #[test]
    fn bytes_count_keys_and_empty_values() {
        let mut memtable = Memtable::new();
        for n in 0..1000u32 {
            let mut key = [0; 64];
            key[..4].copy_from_slice(&n.to_be_bytes());
            memtable.insert(C, &key, Seq(1), Some(b""));
        }
        assert!(memtable.bytes() > 1000 * (64 + 16 + 48), "{}", memtable.bytes());
    }

    #[test]
    fn chunks_hold_whole_keys() {
        let mut memtable = Memtable::new();
        for seq in 1..=5 {
            memtable.insert(C, b"a", Seq(seq), Some(b"x"));
        }
        memtable.insert(C, b"b", Seq(6), None);
        let chunk = memtable.chunk(C, Bound::Unbounded, Bound::Unbounded, Direction::Forward, 2);
        assert_eq!(chunk.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
        let none = memtable.chunk(C, Bound::Excluded(b"a"), Bound::Excluded(b"a"), Direction::Forward, 2);
        assert!(none.is_empty());
    }

    #[test]
    fn heights_follow_the_blocks() {
        let mut memtable = Memtable::new();
        assert_eq!(memtable.heights(Seq(1), Seq(9)), None);
        for (seq, height) in [(2, 100), (4, 101), (7, 100), (9, 101)] {
            memtable.note_block(Seq(seq), Height(height));
        }
        assert_eq!(memtable.heights(Seq(1), Seq(1)), None);
        assert_eq!(memtable.heights(Seq(2), Seq(2)), Some((Height(100), Height(100))));
        assert_eq!(memtable.heights(Seq(3), Seq(8)), Some((Height(100), Height(101))));
        assert_eq!(memtable.heights(Seq(8), Seq(8)), Some((Height(100), Height(100))));
        assert_eq!(memtable.heights(Seq(20), Seq(30)), Some((Height(101), Height(101))));
    }

    #[test]
    fn lookups_are_fast() {
        let mut memtable = Memtable::new();
        for n in 0..100_000u64 {
            memtable.insert(
                C,
                &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
                Seq(n + 1),
                Some(&[7; 32]),
            );
        }
        let begun = std::time::Instant::now();
        let mask = Mask::default();
        let found = (0..100_000u64)
            .filter(|n| {
                let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
                memtable.get(C, &key, Seq::MAX, &mask).is_some()
            })
            .count();
        let each = begun.elapsed() / 100_000;
        assert_eq!(found, 100_000);
        println!("memtable get: {each:?}");
        assert!(each < std::time::Duration::from_micros(20), "{each:?}");
    }
}
