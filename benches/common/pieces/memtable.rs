//! The memtable beside the standard ordered map and a skip list, both with all versions of a key and shared values.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_skiplist::SkipMap;
use op_engine_shards::memtable::{Memtable, MemtableCursor};
use op_engine_shards::range::{Direction, KeyRange};
use op_engine_shards::visibility::Mask;
use op_engine_shards::{CollectionId, Seq};
use smallvec::SmallVec;

use super::data::{Outpoint, outpoints, value};
use super::{AT_SCALE, Piece, head, mixed};
use crate::common::Rng;

const C: CollectionId = CollectionId(1);
/// Overrides how many entries a table gets.
const ENTRIES_VARIABLE: &str = "MEMTABLE_ENTRIES";
const ENTRIES_AT_SCALE: usize = 1_000_000;
const ENTRIES_FEW: usize = 100_000;
const COMMIT_ENTRIES: usize = 10_000;
const LOOKUPS: usize = 1000;
const SCANNED: usize = 1000;
const SEQ_BYTES: usize = size_of::<u64>();
const PAGE_BYTES: usize = 4096;

type Shared = Option<Arc<[u8]>>;

/// A memtable, or what one would take in its place.
trait Table: Default + 'static {
    const NAME: &str;

    fn insert(&mut self, key: &Outpoint, seq: Seq, value: &[u8]);
    /// The newest value, to keep.
    fn get(&self, key: &Outpoint) -> Option<Arc<[u8]>>;
    /// Goes along entries from a key on, with keys and values to keep.
    fn scan(table: &Rc<RefCell<Self>>, start: &Outpoint, row: impl FnMut(&[u8], Arc<[u8]>));
}

impl Table for Memtable {
    const NAME: &str = "memtable";

    fn insert(&mut self, key: &Outpoint, seq: Seq, value: &[u8]) {
        self.insert(C, key, seq, Some(value));
    }

    fn get(&self, key: &Outpoint) -> Option<Arc<[u8]>> {
        self.get(C, key, Seq::MAX, &Mask::default())?.value.map(Arc::from)
    }

    fn scan(table: &Rc<RefCell<Self>>, start: &Outpoint, mut row: impl FnMut(&[u8], Arc<[u8]>)) {
        let range = KeyRange { start: Bound::Included(start.to_vec()), end: Bound::Unbounded };
        let mut cursor = MemtableCursor::new(Rc::clone(table), C, range, Direction::Forward);
        for _ in 0..SCANNED {
            assert!(cursor.advance(), "enough entries follow");
            let entry = cursor.entry().expect("an entry");
            row(entry.key, Arc::from(entry.value.expect("a value")));
        }
    }
}

/// The versions of a key, newest last. Nearly every key has one.
type SharedVersions = SmallVec<[(Seq, Shared); 1]>;

#[derive(Default)]
struct Map(BTreeMap<Box<[u8]>, SharedVersions>);

impl Table for Map {
    const NAME: &str = "BTreeMap";

    fn insert(&mut self, key: &Outpoint, seq: Seq, value: &[u8]) {
        let versions = self.0.entry(Box::from(key.as_slice())).or_default();
        versions.push((seq, Some(Arc::from(value))));
    }

    fn get(&self, key: &Outpoint) -> Option<Arc<[u8]>> {
        self.0.get(key.as_slice())?.last()?.1.clone()
    }

    fn scan(table: &Rc<RefCell<Self>>, start: &Outpoint, mut row: impl FnMut(&[u8], Arc<[u8]>)) {
        let map = &table.borrow().0;
        for (key, versions) in
            map.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded)).take(SCANNED)
        {
            let key: Rc<[u8]> = Rc::from(key.as_ref());
            let (_, value) = versions.last().expect("a version");
            row(&key, value.clone().expect("a value"));
        }
    }
}

/// Every version under its key and the complement of its number, so that the newest is the first.
#[derive(Default)]
struct Skips(SkipMap<Box<[u8]>, Shared>);

impl Skips {
    fn place(key: &Outpoint, seq: Seq) -> [u8; 36 + SEQ_BYTES] {
        let mut place = [0; 36 + SEQ_BYTES];
        place[..36].copy_from_slice(key);
        place[36..].copy_from_slice(&(!seq.0).to_be_bytes());
        place
    }
}

impl Table for Skips {
    const NAME: &str = "skip list";

    fn insert(&mut self, key: &Outpoint, seq: Seq, value: &[u8]) {
        self.0.insert(Box::from(Self::place(key, seq).as_slice()), Some(Arc::from(value)));
    }

    fn get(&self, key: &Outpoint) -> Option<Arc<[u8]>> {
        let place = Self::place(key, Seq::MAX);
        let first = self.0.lower_bound::<[u8]>(Bound::Included(place.as_slice()))?;
        if first.key().starts_with(key) { first.value().clone() } else { None }
    }

    fn scan(table: &Rc<RefCell<Self>>, start: &Outpoint, mut row: impl FnMut(&[u8], Arc<[u8]>)) {
        let skips = &table.borrow().0;
        let place = Self::place(start, Seq::MAX);
        for entry in
            skips.range::<[u8], _>((Bound::Included(place.as_slice()), Bound::Unbounded)).take(SCANNED)
        {
            let key: Rc<[u8]> = Rc::from(&entry.key()[..36]);
            row(&key, entry.value().clone().expect("a value"));
        }
    }
}

fn entries() -> usize {
    let entries = std::env::var(ENTRIES_VARIABLE).ok();
    let entries = entries.map(|entries| entries.parse().expect("MEMTABLE_ENTRIES is a number"));
    let default = if AT_SCALE.load(Ordering::Relaxed) { ENTRIES_AT_SCALE } else { ENTRIES_FEW };
    entries.unwrap_or(default).next_multiple_of(COMMIT_ENTRIES)
}

/// Keys as commits bring them: each commit's in order.
fn in_commits(mut keys: Vec<Outpoint>) -> Vec<Outpoint> {
    keys.chunks_mut(COMMIT_ENTRIES).for_each(<[Outpoint]>::sort_unstable);
    keys
}

fn values() -> Vec<[u8; 60]> {
    (0..COMMIT_ENTRIES as u64).map(value).collect()
}

fn fill<T: Table>(table: &mut T, keys: &[Outpoint]) {
    let values = values();
    for (number, commit) in keys.chunks(COMMIT_ENTRIES).enumerate() {
        for (key, value) in commit.iter().zip(&values) {
            table.insert(key, Seq(number as u64 + 1), value);
        }
    }
}

fn filled<T: Table>(keys: &[Outpoint]) -> T {
    let mut table = T::default();
    fill(&mut table, keys);
    table
}

/// A commit's entries at a time, into a table that grows to its full size and is dropped then.
fn grow<T: Table>(keys: &Rc<Vec<Outpoint>>) -> impl FnMut() -> u64 + use<T> {
    let (keys, values) = (Rc::clone(keys), values());
    let (mut table, mut done) = (T::default(), 0);
    move || {
        if done == keys.len() {
            (table, done) = (T::default(), 0);
        }
        for (key, value) in keys[done..done + COMMIT_ENTRIES].iter().zip(&values) {
            table.insert(key, Seq((done / COMMIT_ENTRIES) as u64 + 1), value);
        }
        done += COMMIT_ENTRIES;
        done as u64
    }
}

fn insert(keys: Vec<Outpoint>) -> Piece {
    let keys = Rc::new(keys);
    Piece::new(COMMIT_ENTRIES)
        .way(Memtable::NAME, grow::<Memtable>(&keys))
        .way(Map::NAME, grow::<Map>(&keys))
        .way(Skips::NAME, grow::<Skips>(&keys))
        .agreed()
}

/// Inserts as commits make them.
pub fn insert_commits() -> Piece {
    let keys = in_commits(outpoints(entries()));
    let memory = AT_SCALE.load(Ordering::Relaxed).then(|| memory(&keys));
    let piece = insert(keys);
    memory.into_iter().flatten().fold(piece, Piece::note)
}

/// Inserts in no order.
pub fn insert_random() -> Piece {
    insert(outpoints(entries()))
}

/// What each table takes for an entry. They are kept until all are full, so that none gets memory that another has left.
fn memory(keys: &[Outpoint]) -> Vec<String> {
    fn of<T: Table>(keys: &[Outpoint], table: &mut T) -> String {
        let before = resident_bytes();
        fill(table, keys);
        let each = resident_bytes().saturating_sub(before) as f64 / keys.len() as f64;
        format!("{} takes {each:.1} bytes for an entry of 96 bytes, with {} entries", T::NAME, keys.len())
    }
    let (mut memtable, mut map, mut skips) = (Memtable::default(), Map::default(), Skips::default());
    vec![of(keys, &mut memtable), of(keys, &mut map), of(keys, &mut skips)]
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages: usize = pages.split(' ').nth(1).expect("a second number").parse().expect("a number");
    pages * PAGE_BYTES
}

/// Looks up keys that are there. The answers can be kept.
pub fn get() -> Piece {
    let keys = Rc::new(in_commits(outpoints(entries())));
    lookups(&keys, &keys).agreed()
}

/// Looks up keys that are not there: what most reads of older data do first.
pub fn get_absent() -> Piece {
    let (keys, twice) = (in_commits(outpoints(entries())), outpoints(2 * entries()));
    lookups(&keys, &Rc::new(twice[keys.len()..].to_vec())).agreed()
}

fn lookups(keys: &[Outpoint], wanted: &Rc<Vec<Outpoint>>) -> Piece {
    fn of<T: Table>(keys: &[Outpoint], wanted: &Rc<Vec<Outpoint>>) -> impl FnMut() -> u64 + use<T> {
        let (table, wanted, mut rng) = (filled::<T>(keys), Rc::clone(wanted), Rng(1));
        move || {
            let key = (0..LOOKUPS).map(|_| wanted[rng.below(wanted.len() as u64) as usize]);
            // Copied first, so that a key is at hand as one in a request is.
            let keys: Vec<Outpoint> = key.collect();
            let answers = keys.iter().map(|key| table.get(key).map_or(0, |value| head(&value)));
            answers.fold(0, mixed)
        }
    }
    Piece::new(LOOKUPS)
        .way(Memtable::NAME, of::<Memtable>(keys, wanted))
        .way(Map::NAME, of::<Map>(keys, wanted))
        .way(Skips::NAME, of::<Skips>(keys, wanted))
}

/// Goes along a thousand entries. The memtable may change meanwhile, so its cursor has entries of its own.
pub fn scan() -> Piece {
    fn of<T: Table>(keys: &[Outpoint], starts: &Rc<Vec<Outpoint>>) -> impl FnMut() -> u64 + use<T> {
        let (table, starts) = (Rc::new(RefCell::new(filled::<T>(keys))), Rc::clone(starts));
        let mut rng = Rng(2);
        move || {
            let start = &starts[rng.below(starts.len() as u64) as usize];
            let mut digest = 0;
            T::scan(&table, start, |key, value| digest = mixed(digest, head(key) ^ head(&value)));
            digest
        }
    }
    let keys = in_commits(outpoints(entries()));
    let mut starts = keys.clone();
    starts.sort_unstable();
    starts.truncate(keys.len() - SCANNED);
    let starts = Rc::new(starts);
    Piece::new(SCANNED)
        .way(Memtable::NAME, of::<Memtable>(&keys, &starts))
        .way(Map::NAME, of::<Map>(&keys, &starts))
        .way(Skips::NAME, of::<Skips>(&keys, &starts))
        .agreed()
}
