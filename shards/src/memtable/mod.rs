//! The newest versions of a shard, in memory: what commits add to and reads look into first.
//!
//! One table for all collections of a shard. What was flushed is dropped as a whole with the memtable.

mod arena;
mod cursor;
mod index;
mod node;
mod pool;
mod records;
mod slots;
mod walk;

#[cfg(test)]
mod cursor_tests;
#[cfg(test)]
mod index_tests;
#[cfg(test)]
mod tests;

use std::ops::Bound;
use std::sync::Arc;

use crate::ids::{CollectionId, Height, Seq};
use crate::log::frame::PAYLOAD_BYTES_MAX;
use crate::range::is_empty_range;
use crate::visibility::Mask;

use arena::{CHUNKS_MAX, Handle, SHARED_BYTES_MAX};
use index::{Finger, Nodes, Tree};
use records::Records;
use slots::Keys;
use walk::Walk;

pub use cursor::MemtableCursor;
pub use records::{VersionAt, VersionRef, Versions};
pub(crate) use slots::prefix as key_prefix;

// A chunk of its own has more than `SHARED_BYTES_MAX`, another one twice that, and a commit of the shortest operations
// takes up to three times its payload.
const _: () =
    assert!(Memtable::BYTES_MAX / SHARED_BYTES_MAX + 2 * PAYLOAD_BYTES_MAX / SHARED_BYTES_MAX <= CHUNKS_MAX);

/// The bytes of a value, shared.
pub type Value = Arc<[u8]>;

/// A key, in place.
#[derive(Debug, Clone, Copy)]
pub struct KeyRef<'a> {
    records: &'a Records,
    at: Handle,
}

impl<'a> KeyRef<'a> {
    /// The key.
    #[must_use]
    pub fn key(self) -> &'a [u8] {
        self.records.key(self.at)
    }

    /// Its versions, newest first.
    #[must_use]
    pub fn versions(self) -> Versions<'a> {
        self.records.versions(self.at)
    }
}

#[derive(Debug)]
struct Table {
    collection: CollectionId,
    tree: Tree,
    seqs: Option<(Seq, Seq)>,
    entries: usize,
}

/// The newest versions of a shard.
#[derive(Debug, Default)]
pub struct Memtable {
    records: Records,
    nodes: Nodes,
    /// By collection, ascending.
    tables: Vec<Table>,
    finger: Finger,
    /// The collection that the finger is in.
    finger_in: Option<CollectionId>,
    blocks: Vec<(Seq, Height)>,
    entries: usize,
    seqs: Option<(Seq, Seq)>,
}

impl Memtable {
    /// With so many bytes it is full in any case: beyond, handles are kept for the largest commit.
    pub const BYTES_MAX: usize = 1 << 30;

    /// An empty memtable.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a version. Of two with the same key and sequence number the later one stands. Sequence numbers of a key
    /// never descend.
    pub fn insert(&mut self, collection: CollectionId, key: &[u8], seq: Seq, value: Option<&[u8]>) {
        let at = self.table_at(collection);
        let Some(table) = self.tables.get_mut(at) else { unreachable!("the table was found or made") };
        if self.finger_in != Some(collection) {
            self.finger.lift();
            self.finger_in = Some(collection);
        }
        let is_new = match self.nodes.seek(&table.tree, &mut self.finger, key, &self.records) {
            Some(first) => self.records.add_version(first, seq, value),
            None => {
                let handle = self.records.add_key(key, seq, value);
                self.nodes.insert(&mut table.tree, &mut self.finger, handle, &self.records);
                true
            }
        };
        if is_new {
            table.entries += 1;
            self.entries += 1;
            widen(&mut table.seqs, seq);
            widen(&mut self.seqs, seq);
        }
    }

    fn table_at(&mut self, collection: CollectionId) -> usize {
        let found = self.tables.binary_search_by_key(&collection, |table| table.collection);
        found.unwrap_or_else(|at| {
            let tree = self.nodes.new_tree();
            self.tables.insert(at, Table { collection, tree, seqs: None, entries: 0 });
            at
        })
    }

    /// Remembers that a commit was the block at a height. Sequence numbers ascend; heights go back after a reorg.
    pub fn note_block(&mut self, seq: Seq, height: Height) {
        debug_assert!(self.blocks.last().is_none_or(|(last, _)| *last < seq), "blocks come in order");
        self.blocks.push((seq, height));
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
    ) -> Option<VersionRef<'_>> {
        let table = self.table(collection)?;
        let first = self.nodes.get(&table.tree, key, &self.records)?;
        self.records.versions(first).find(|version| mask.shows(version.seq, view))
    }

    /// The value of a version; `None` for a tombstone.
    #[must_use]
    pub fn value(&self, at: VersionAt) -> Option<&[u8]> {
        self.records.version(at).value
    }

    /// The keys of a collection in order.
    pub fn keys(&self, collection: CollectionId) -> impl DoubleEndedIterator<Item = KeyRef<'_>> {
        self.range(collection, Bound::Unbounded, Bound::Unbounded)
    }

    /// The keys of a collection after one, in order; all of them after none.
    pub fn keys_after(
        &self,
        collection: CollectionId,
        after: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = KeyRef<'_>> {
        self.range(collection, after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }

    /// The keys of a collection between two bounds, in order.
    pub fn range(
        &self,
        collection: CollectionId,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = KeyRef<'_>> {
        self.walk(collection, start, end).into_iter().flatten().map(|at| self.key_ref(at))
    }

    fn walk(&self, collection: CollectionId, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Option<Walk<'_>> {
        let table = self.table(collection)?;
        (!is_empty_range(start, end)).then(|| self.nodes.range(&table.tree, start, end, &self.records))
    }

    fn key_ref(&self, at: Handle) -> KeyRef<'_> {
        KeyRef { records: &self.records, at }
    }

    /// Every entry by collection, then key, then newest first: the order of segments.
    pub fn iter(&self) -> impl Iterator<Item = (CollectionId, &[u8], VersionRef<'_>)> {
        self.collections().flat_map(move |collection| {
            self.keys(collection)
                .flat_map(move |key| key.versions().map(move |version| (collection, key.key(), version)))
        })
    }

    /// The collections that have entries, ascending.
    pub fn collections(&self) -> impl Iterator<Item = CollectionId> {
        self.tables.iter().map(|table| table.collection)
    }

    /// How many entries a collection has.
    #[must_use]
    pub fn collection_entries(&self, collection: CollectionId) -> usize {
        self.table(collection).map_or(0, |table| table.entries)
    }

    /// The lowest and highest sequence number of a collection's entries.
    #[must_use]
    pub fn collection_seqs(&self, collection: CollectionId) -> Option<(Seq, Seq)> {
        self.table(collection)?.seqs
    }

    fn table(&self, collection: CollectionId) -> Option<&Table> {
        let at = self.tables.binary_search_by_key(&collection, |table| table.collection).ok()?;
        self.tables.get(at)
    }

    /// The memory that it has allocated, used or not.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tables = self.tables.capacity() * size_of::<Table>();
        let blocks = self.blocks.capacity() * size_of::<(Seq, Height)>();
        self.records.bytes() + self.nodes.bytes() + tables + blocks
    }

    /// Whether it is to be flushed, if `bytes_max` is what it may take.
    #[must_use]
    pub fn is_full(&self, bytes_max: usize) -> bool {
        self.bytes() >= bytes_max.min(Self::BYTES_MAX)
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

fn widen(range: &mut Option<(Seq, Seq)>, seq: Seq) {
    let (min, max) = range.unwrap_or((seq, seq));
    *range = Some((min.min(seq), max.max(seq)));
}
