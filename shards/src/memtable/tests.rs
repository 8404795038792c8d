use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::range::{Direction, KeyRange};
use crate::visibility::{Rollback, Scope};

pub(super) const C: CollectionId = CollectionId(1);

/// Versions of every key of every collection.
pub(super) type Model = BTreeMap<(u32, Vec<u8>), ModelVersions>;
type ModelVersions = BTreeMap<u64, Option<Vec<u8>>>;
/// Entries in the order of segments.
pub(super) type Flat = Vec<(u32, Vec<u8>, u64, Option<Vec<u8>>)>;

#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) collection: u32,
    pub(super) key: Vec<u8>,
    /// How much later than the write before it.
    pub(super) step: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// Keys that often meet: short ones, and ones with long common beginnings.
pub(super) fn key() -> impl Strategy<Value = Vec<u8>> + Clone {
    let short = prop::collection::vec(0u8..3, 0..4);
    let long = (0usize..20, prop::collection::vec(0u8..3, 0..4)).prop_map(|(len, end)| {
        let mut key = vec![1; len];
        key.extend(end);
        key
    });
    prop_oneof![short, long].boxed()
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..6))
}

fn write(step: std::ops::Range<u64>) -> impl Strategy<Value = Write> {
    let parts = (1u32..3, key(), step, value());
    parts.prop_map(|(collection, key, step, value)| Write { collection, key, step, value })
}

/// Few writes for every commit, or many, in the order of the keys as commits have them or in none.
pub(super) fn writes(len: usize) -> impl Strategy<Value = Vec<Write>> {
    let steps = prop_oneof![Just(0..2), Just(1..2), Just(0..1)];
    let some = steps.prop_flat_map(move |step| prop::collection::vec(write(step), 0..len));
    (some, any::<bool>()).prop_map(|(mut writes, in_order)| {
        if in_order {
            writes.sort_by(|a, b| (a.collection, &a.key).cmp(&(b.collection, &b.key)));
        }
        writes
    })
}

pub(super) fn apply(writes: &[Write], seq: &mut u64, memtable: &mut Memtable, model: &mut Model) {
    for write in writes {
        *seq += write.step;
        memtable.insert(CollectionId(write.collection), &write.key, Seq(*seq), write.value.as_deref());
        model.entry((write.collection, write.key.clone())).or_default().insert(*seq, write.value.clone());
    }
}

pub(super) fn build(writes: &[Write]) -> (Memtable, Model) {
    let (mut memtable, mut model) = (Memtable::new(), Model::new());
    apply(writes, &mut 1, &mut memtable, &mut model);
    (memtable, model)
}

pub(super) fn flat(model: &Model) -> Flat {
    let versions = |((collection, key), versions): (&(u32, Vec<u8>), &ModelVersions)| {
        let entry = |(seq, value): (&u64, &Option<Vec<u8>>)| (*collection, key.clone(), *seq, value.clone());
        versions.iter().rev().map(entry).collect::<Vec<_>>()
    };
    model.iter().flat_map(versions).collect()
}

pub(super) fn entries(memtable: &Memtable) -> Flat {
    let entry = |(collection, key, version): (CollectionId, &[u8], VersionRef<'_>)| {
        (collection.0, key.to_vec(), version.seq.0, version.value.map(<[u8]>::to_vec))
    };
    memtable.iter().map(entry).collect()
}

pub(super) fn scan(
    memtable: &Rc<RefCell<Memtable>>,
    collection: u32,
    range: KeyRange,
    direction: Direction,
) -> Flat {
    let mut cursor = MemtableCursor::new(memtable.clone(), CollectionId(collection), range, direction);
    let mut scanned = Vec::new();
    assert!(cursor.entry().is_none());
    while cursor.advance() {
        let entry = cursor.entry().unwrap();
        scanned.push((collection, entry.key.to_vec(), entry.seq.0, entry.value.map(<[u8]>::to_vec)));
    }
    assert!(!cursor.advance() && cursor.entry().is_none());
    scanned
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

proptest! {
    #[test]
    fn lookups_agree_with_a_model(writes in writes(120), dead in (0u64..40, 0u64..40), absent in key()) {
        let (memtable, model) = build(&writes);
        let rollback = Rollback { first_dead: Seq(dead.0), seq: Seq(dead.0 + dead.1) };
        let mask = Mask::for_range(&[rollback], Scope::Chain, Seq::ZERO, Seq::MAX);
        for ((collection, key), versions) in &model {
            for view in 0..60 {
                let expected = versions.iter().rev().find(|(seq, _)| mask.shows(Seq(**seq), Seq(view)));
                let found = memtable.get(CollectionId(*collection), key, Seq(view), &mask);
                prop_assert_eq!(
                    found.map(|found| (found.seq.0, found.value.map(<[u8]>::to_vec))),
                    expected.map(|(seq, value)| (*seq, value.clone()))
                );
                prop_assert_eq!(found.map(|found| memtable.value(found.at)), found.map(|found| found.value));
            }
        }
        let is_there = memtable.get(C, &absent, Seq::MAX, &Mask::default()).is_some();
        prop_assert_eq!(is_there, model.contains_key(&(C.0, absent)));
    }

    #[test]
    fn all_entries_come_in_order_and_are_counted(writes in writes(600)) {
        let (memtable, model) = build(&writes);
        let flat = flat(&model);
        prop_assert_eq!(entries(&memtable), flat.clone());
        prop_assert_eq!(memtable.entries(), flat.len());
        prop_assert_eq!(memtable.is_empty(), flat.is_empty());
        prop_assert_eq!(memtable.seq_max().map(|seq| seq.0), flat.iter().map(|entry| entry.2).max());
        prop_assert_eq!(memtable.seq_min().map(|seq| seq.0), flat.iter().map(|entry| entry.2).min());
        let mut collections: Vec<u32> = flat.iter().map(|entry| entry.0).collect();
        collections.dedup();
        prop_assert_eq!(memtable.collections().map(|id| id.0).collect::<Vec<_>>(), collections);
        for collection in 0..4 {
            let seqs: Vec<u64> =
                flat.iter().filter(|entry| entry.0 == collection).map(|entry| entry.2).collect();
            let id = CollectionId(collection);
            prop_assert_eq!(memtable.collection_entries(id), seqs.len());
            let range = seqs.iter().min().zip(seqs.iter().max()).map(|(min, max)| (Seq(*min), Seq(*max)));
            prop_assert_eq!(memtable.collection_seqs(id), range);
        }
    }

    #[test]
    fn ranges_agree_with_a_model(writes in writes(300), start in bound(), end in bound()) {
        let (memtable, model) = build(&writes);
        let range = KeyRange { start, end };
        let within: Flat =
            flat(&model).into_iter().filter(|entry| entry.0 == C.0 && range.contains(&entry.1)).collect();
        let mut keys: Vec<&[u8]> = within.iter().map(|entry| entry.1.as_slice()).collect();
        keys.dedup();
        let found: Vec<&[u8]> = memtable.range(C, range.start(), range.end()).map(KeyRef::key).collect();
        prop_assert_eq!(&found, &keys);
        let mut back: Vec<&[u8]> = memtable.range(C, range.start(), range.end()).rev().map(KeyRef::key).collect();
        back.reverse();
        prop_assert_eq!(&back, &keys);
        if let Bound::Included(key) | Bound::Excluded(key) = &range.start {
            let after: Vec<&[u8]> = memtable.keys_after(C, Some(key)).map(KeyRef::key).collect();
            let model_keys = model.keys().filter(|(collection, other)| *collection == C.0 && other > key);
            prop_assert_eq!(after, model_keys.map(|(_, key)| key.as_slice()).collect::<Vec<_>>());
        }
        prop_assert!(memtable.keys_after(C, None).map(KeyRef::key).eq(memtable.keys(C).map(KeyRef::key)));

        let shared = Rc::new(RefCell::new(memtable));
        prop_assert_eq!(scan(&shared, C.0, range.clone(), Direction::Forward), within.clone());
        let mut backward = scan(&shared, C.0, range, Direction::Backward);
        backward.reverse();
        prop_assert_eq!(backward, within);
    }
}

#[test]
fn of_two_versions_with_one_number_the_later_stands() {
    let long = vec![7; 5000];
    let huge = vec![8; 300 << 10];
    let values: [Option<&[u8]>; 6] =
        [None, Some(b""), Some(b"short"), Some(b"other"), Some(&long), Some(&huge)];
    for first in values {
        for second in values {
            for third in values {
                let mut memtable = Memtable::new();
                for (seq, value) in [(1, first), (1, second), (1, third), (2, third), (2, first), (2, second)]
                {
                    memtable.insert(C, b"key", Seq(seq), value);
                }
                let seen = |seq| memtable.get(C, b"key", Seq(seq), &Mask::default()).map(|found| found.value);
                assert_eq!((seen(1), seen(2)), (Some(third), Some(second)));
                assert_eq!(memtable.entries(), 2);
                assert_eq!(memtable.keys(C).next().unwrap().versions().count(), 2);
            }
        }
    }
}

#[test]
fn replacing_with_what_is_no_longer_takes_no_memory() {
    let mut memtable = Memtable::new();
    memtable.insert(C, b"key", Seq(1), Some(&[1; 100]));
    memtable.insert(C, b"key", Seq(2), Some(&[2; 100]));
    let before = memtable.bytes();
    for n in 0..100_000u32 {
        memtable.insert(C, b"key", Seq(2), Some(&n.to_be_bytes()));
    }
    for _ in 0..100_000 {
        memtable.insert(C, b"key", Seq(2), None);
    }
    assert_eq!(memtable.bytes(), before);
}

#[test]
fn a_key_may_have_many_versions() {
    let mut memtable = Memtable::new();
    for seq in 1..=10_000 {
        memtable.insert(C, b"hot", Seq(seq), Some(&seq.to_be_bytes()));
        memtable.insert(C, &seq.to_be_bytes(), Seq(seq), None);
    }
    let found = memtable.get(C, b"hot", Seq(5000), &Mask::default()).unwrap();
    assert_eq!((found.seq, found.value), (Seq(5000), Some(5000u64.to_be_bytes().as_slice())));
    let seqs: Vec<u64> = memtable
        .range(C, Bound::Included(b"hot"), Bound::Unbounded)
        .flat_map(KeyRef::versions)
        .map(|version| version.seq.0)
        .collect();
    assert_eq!(seqs, (1..=10_000).rev().collect::<Vec<_>>());
}

#[test]
fn keys_and_values_of_every_length_come_back() {
    let mut memtable = Memtable::new();
    let chunk = super::arena::CHUNK_BYTES_MAX;
    let around = |len: usize| len.saturating_sub(40)..len + 40;
    let lens = (0..600).chain(around(chunk / 2)).chain(around(chunk)).chain([3 * chunk, 32 << 20]);
    let lens: Vec<usize> = lens.collect();
    let byte = |n: usize| u8::try_from(n % 251).unwrap();
    let key = |n: usize| {
        let mut key = vec![byte(n); [2, 8, 1024, 36][n % 4]];
        key[..2].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        key
    };
    for (n, len) in lens.iter().enumerate() {
        memtable.insert(C, &key(n), Seq(1), Some(&vec![byte(n); *len]));
    }
    for (n, len) in lens.iter().enumerate() {
        let found = memtable.get(C, &key(n), Seq(1), &Mask::default()).unwrap();
        let value = found.value.unwrap();
        assert!(value.len() == *len && value.iter().all(|other| *other == byte(n)), "{n}: {len}");
    }
    let values: usize = lens.iter().sum();
    assert!(memtable.bytes() < values + values / 4, "{} for {values}", memtable.bytes());
}

#[test]
fn a_value_of_its_own_chunk_leaves_the_chunk_that_fills() {
    let mut memtable = Memtable::new();
    memtable.insert(C, b"a", Seq(1), Some(&[1; 10]));
    let before = memtable.bytes();
    let large = vec![2; 1 << 20];
    memtable.insert(C, b"b", Seq(1), Some(&large));
    memtable.insert(C, b"c", Seq(1), Some(&[3; 10]));
    let added = memtable.bytes() - before;
    assert!((large.len()..large.len() + 200).contains(&added), "{added}");
}

#[test]
fn heights_follow_the_blocks() {
    let mut memtable = Memtable::new();
    assert_eq!(memtable.heights(Seq(1), Seq(9)), None);
    for (seq, height) in [(2, 100), (4, 101), (7, 100), (9, 101)] {
        memtable.note_block(Seq(seq), Height(height));
    }
    assert_eq!(memtable.blocks().len(), 4);
    assert_eq!(memtable.heights(Seq(1), Seq(1)), None);
    assert_eq!(memtable.heights(Seq(2), Seq(2)), Some((Height(100), Height(100))));
    assert_eq!(memtable.heights(Seq(3), Seq(8)), Some((Height(100), Height(101))));
    assert_eq!(memtable.heights(Seq(8), Seq(8)), Some((Height(100), Height(100))));
    assert_eq!(memtable.heights(Seq(20), Seq(30)), Some((Height(101), Height(101))));
}

#[test]
fn it_is_full_with_what_it_may_take_or_what_handles_allow() {
    let mut memtable = Memtable::new();
    assert!(memtable.is_full(0) && !memtable.is_full(1));
    memtable.insert(C, b"key", Seq(1), Some(b"value"));
    let bytes = memtable.bytes();
    assert!(memtable.is_full(bytes) && !memtable.is_full(bytes + 1) && !memtable.is_full(usize::MAX));
    assert!(Memtable::BYTES_MAX.is_power_of_two());
}
