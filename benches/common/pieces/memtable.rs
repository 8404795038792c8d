//! The memtable beside the standard ordered map, which has one version of each key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use op_engine_shards::memtable::{Memtable, MemtableCursor};
use op_engine_shards::range::{Direction, KeyRange};
use op_engine_shards::visibility::Mask;
use op_engine_shards::{CollectionId, Seq};

use super::data::{Outpoint, outpoints, value};
use super::{Piece, head, mixed};
use crate::common::Rng;

const C: CollectionId = CollectionId(1);
/// What a memtable has when some blocks are in it: too large for the cache of a core.
const ENTRIES: usize = 100_000;
const INSERTS: usize = 10_000;
const LOOKUPS: usize = 1000;
const SCANNED: usize = 1000;
const BLOCK_ENTRIES: usize = 10_000;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn memtable(keys: &[Outpoint]) -> Memtable {
    let mut memtable = Memtable::new();
    for (n, key) in keys.iter().enumerate() {
        let seq = Seq((n / BLOCK_ENTRIES) as u64 + 1);
        memtable.insert(C, key, seq, Some(&value::<60>(n as u64)));
    }
    memtable
}

fn map(keys: &[Outpoint]) -> Map {
    let entry = |(n, key): (usize, &Outpoint)| (key.to_vec(), value::<60>(n as u64).to_vec());
    keys.iter().enumerate().map(entry).collect()
}

/// Fills a table from nothing, and drops it.
pub fn insert() -> Piece {
    let keys = Rc::new(outpoints(INSERTS));
    let (of_memtable, of_map) = (memtable(&keys), map(&keys));
    let entries = of_memtable.iter().map(|(_, key, version)| (key, version.value.as_deref().unwrap()));
    assert!(entries.eq(of_map.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))));
    let values: Rc<Vec<[u8; 60]>> = Rc::new((0..INSERTS as u64).map(value).collect());
    let (map_keys, map_values) = (Rc::clone(&keys), Rc::clone(&values));
    Piece::new(INSERTS)
        .way("memtable", move || {
            let mut memtable = Memtable::new();
            for (key, value) in keys.iter().zip(values.iter()) {
                memtable.insert(C, key, Seq(1), Some(value));
            }
            memtable.entries() as u64
        })
        .way("BTreeMap", move || {
            let mut map = Map::new();
            for (key, value) in map_keys.iter().zip(map_values.iter()) {
                map.insert(key.to_vec(), value.to_vec());
            }
            map.len() as u64
        })
        .agreed()
}

/// Looks up keys that are there. The memtable's answer can be kept, as a copy out of the map can.
pub fn get() -> Piece {
    let keys = Rc::new(outpoints(ENTRIES));
    let (memtable, map) = (memtable(&keys), Rc::new(map(&keys)));
    let mask = Mask::default();
    let absent = outpoints(ENTRIES + 3).pop().expect("a key more");
    assert!(memtable.get(C, &absent, Seq::MAX, &mask).is_none());
    let copied = lookups(Rc::clone(&keys), {
        let map = Rc::clone(&map);
        move |key| map.get(key.as_slice()).map(|value| head(&value.clone()))
    });
    let seen = lookups(Rc::clone(&keys), move |key| map.get(key.as_slice()).map(|value| head(value)));
    let ours = lookups(keys, move |key| {
        let (_, value) = memtable.get(C, key, Seq::MAX, &mask)?;
        value.as_deref().map(head)
    });
    Piece::new(LOOKUPS)
        .way("memtable", ours)
        .way("BTreeMap, value copied", copied)
        .way("BTreeMap, by reference", seen)
        .agreed()
}

fn lookups(keys: Rc<Vec<Outpoint>>, get: impl Fn(&Outpoint) -> Option<u64>) -> impl FnMut() -> u64 {
    let mut rng = Rng(1);
    move || {
        let answers = (0..LOOKUPS).map(|_| get(&keys[rng.below(ENTRIES as u64) as usize]));
        answers.fold(0, |digest, answer| mixed(digest, answer.expect("the key is there")))
    }
}

/// Goes along a thousand entries. The memtable may change meanwhile, so the cursor has entries of its own.
pub fn scan() -> Piece {
    let keys = outpoints(ENTRIES);
    let (memtable, map) = (Rc::new(RefCell::new(memtable(&keys))), Rc::new(map(&keys)));
    let mut sorted = keys;
    sorted.sort_unstable();
    let starts = Rc::new(sorted[..ENTRIES - SCANNED].to_vec());
    let (copied_map, copied_starts) = (Rc::clone(&map), Rc::clone(&starts));
    let (seen_map, seen_starts) = (map, Rc::clone(&starts));
    let [mut rng, mut copied_rng, mut seen_rng] = [(); 3].map(|()| Rng(2));
    Piece::new(SCANNED)
        .way("memtable", move || {
            let start = Bound::Included(random(&starts, &mut rng).to_vec());
            let range = KeyRange { start, end: Bound::Unbounded };
            let mut cursor = MemtableCursor::new(Rc::clone(&memtable), C, range, Direction::Forward);
            let mut digest = 0;
            for _ in 0..SCANNED {
                assert!(cursor.advance(), "enough entries follow");
                let entry = cursor.entry().expect("an entry");
                digest = row(digest, &entry.key, entry.value.as_deref().expect("a value"));
            }
            digest
        })
        .way("BTreeMap, entries copied", move || {
            let start = random(&copied_starts, &mut copied_rng).as_slice();
            let rows = copied_map.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).take(SCANNED);
            let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
            rows.fold(0, |digest, (key, value)| row(digest, &key, &value))
        })
        .way("BTreeMap, by reference", move || {
            let start = random(&seen_starts, &mut seen_rng).as_slice();
            let rows = seen_map.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).take(SCANNED);
            rows.fold(0, |digest, (key, value)| row(digest, key, value))
        })
        .agreed()
}

fn random<'a>(starts: &'a [Outpoint], rng: &mut Rng) -> &'a Outpoint {
    &starts[rng.below(starts.len() as u64) as usize]
}

fn row(digest: u64, key: &[u8], value: &[u8]) -> u64 {
    mixed(digest, head(key) ^ head(value))
}
