use std::collections::BTreeSet;

use proptest::prelude::*;

use super::arena::Handle;
use super::pool::NodeId;
use super::slots::{Keys, SLOTS, Slots, prefix};
use super::tests::{C, build, writes};
use super::*;

type Order = Box<dyn Fn(u64) -> Vec<u8>>;
type KeyBounds<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Goes over a whole tree and asserts everything that it relies on. Gives its leaves with the lengths of each.
fn check(memtable: &Memtable, collection: CollectionId) -> Vec<(NodeId, usize)> {
    let tree = memtable.table(collection).unwrap().tree;
    let mut leaves = Vec::new();
    check_below(memtable, tree.root, tree.height, (None, None), &mut leaves);
    let mut before = NodeId::NONE;
    for (at, (id, _)) in leaves.iter().enumerate() {
        let leaf = memtable.nodes.leaves.get(*id);
        assert_eq!(leaf.before, before);
        assert_eq!(leaf.after, leaves.get(at + 1).map_or(NodeId::NONE, |(next, _)| *next));
        before = *id;
    }
    assert_eq!(tree.first, leaves[0].0);
    leaves
}

fn check_below<'a>(
    memtable: &'a Memtable,
    node: NodeId,
    height: usize,
    bounds: KeyBounds<'a>,
    leaves: &mut Vec<(NodeId, usize)>,
) {
    if height == 0 {
        let slots = &memtable.nodes.leaves.get(node).slots;
        check_slots(slots, &memtable.records, bounds);
        leaves.push((node, slots.len()));
        return;
    }
    let inner = memtable.nodes.inners.get(node);
    let separators = &memtable.nodes.separators;
    check_slots(&inner.slots, separators, bounds);
    let key = |at: usize| inner.slots.handle(at).map(|handle| separators.key(handle));
    for child in 0..=inner.slots.len() {
        let low = child.checked_sub(1).and_then(key).or(bounds.0);
        check_below(memtable, inner.child(child), height - 1, (low, key(child).or(bounds.1)), leaves);
    }
}

fn check_slots(slots: &Slots, keys: &impl Keys, (low, high): KeyBounds<'_>) {
    let all: Vec<&[u8]> = slots.handles().iter().map(|handle| keys.key(*handle)).collect();
    assert!(all.is_sorted_by(|a, b| a < b));
    assert!(all.first().is_none_or(|first| low.is_none_or(|low| low <= *first)));
    assert!(all.last().is_none_or(|last| high.is_none_or(|high| *last < high)));
    for (key, number) in all.iter().zip(slots.prefixes()) {
        assert_eq!(prefix(key, slots.skip()), *number);
    }
    let begin = low.map_or(&[][..], |low| &low[..slots.skip()]);
    assert_eq!(begin.len(), slots.skip(), "only a node with bounds skips");
    assert!(high.is_none_or(|high| high.starts_with(begin)));
    assert!(all.iter().all(|key| key.starts_with(begin)));
}

/// Numbers in no order, the same in every run.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn insert_all(memtable: &mut Memtable, keys: impl IntoIterator<Item = Vec<u8>>) {
    for key in keys {
        memtable.insert(C, &key, Seq(1), Some(b"value"));
    }
}

proptest! {
    #[test]
    fn a_tree_is_in_order(writes in writes(2000)) {
        let (memtable, _) = build(&writes);
        for collection in memtable.collections() {
            check(&memtable, collection);
        }
    }

    /// Commits of keys with beginnings in common of every length, which shift what a node skips.
    #[test]
    fn commits_build_a_tree_in_order(
        commits in prop::collection::vec((0u64..4, 0usize..40, 1u64..2000), 1..12),
    ) {
        let mut memtable = Memtable::new();
        let mut model = BTreeSet::new();
        for (number, (group, common, count)) in commits.into_iter().enumerate() {
            let key = |n: u64| {
                let mut key = vec![u8::try_from(group).unwrap(); common];
                key.extend(scattered(n * 31 + group).to_be_bytes());
                key
            };
            let keys: BTreeSet<Vec<u8>> = (0..count).map(key).collect();
            let seq = Seq(u64::try_from(number).unwrap());
            keys.iter().for_each(|key| memtable.insert(C, key, seq, None));
            model.extend(keys);
        }
        check(&memtable, C);
        prop_assert!(memtable.keys(C).map(KeyRef::key).eq(model.iter().map(Vec::as_slice)));
        let mask = Mask::default();
        prop_assert!(model.iter().all(|key| memtable.get(C, key, Seq::MAX, &mask).is_some()));
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut memtable = Memtable::new();
    insert_all(&mut memtable, (0..100_000u64).map(|n| n.to_be_bytes().to_vec()));
    let leaves = check(&memtable, C);
    assert!(leaves.len() <= 100_000 / SLOTS + 2, "{}", leaves.len());
}

#[test]
fn leaves_are_a_third_full_whatever_is_inserted() {
    let runs = |length: u64, n: u64| {
        // Runs that ascend, each below the one before.
        let (run, at) = (n / length, n % length);
        (u64::MAX / 2 - run * length + at).to_be_bytes().to_vec()
    };
    let orders: [(&str, Order); 5] = [
        ("descending", Box::new(move |n| runs(1, n))),
        ("pairs", Box::new(move |n| runs(2, n))),
        ("triples", Box::new(move |n| runs(3, n))),
        ("runs", Box::new(move |n| runs(40, n))),
        ("scattered", Box::new(|n| scattered(n).to_be_bytes().to_vec())),
    ];
    for (name, key) in orders {
        let mut memtable = Memtable::new();
        insert_all(&mut memtable, (0..50_000).map(key));
        let leaves = check(&memtable, C);
        assert!(leaves.len() <= 50_000 / (SLOTS / 3) + 1, "{name}: {} leaves", leaves.len());
    }
}

#[test]
fn slots_of_contracts_skip_the_contract() {
    let mut memtable = Memtable::new();
    let key = |n: u64| {
        let mut key = scattered(n % 20).to_be_bytes().repeat(4);
        key.extend(scattered(n).to_be_bytes().repeat(4));
        key
    };
    insert_all(&mut memtable, (0..20_000).map(key));
    let leaves = check(&memtable, C);
    let skips = leaves.iter().filter(|(id, _)| memtable.nodes.leaves.get(*id).slots.skip() >= 32).count();
    assert!(skips > leaves.len() * 3 / 4, "{skips} of {}", leaves.len());
}

#[test]
fn no_place_is_no_record() {
    let mut memtable = Memtable::new();
    insert_all(&mut memtable, (0..10_000u64).map(|n| n.to_be_bytes().to_vec()));
    let tree = memtable.table(C).unwrap().tree;
    let mut walk = memtable.nodes.range(&tree, Bound::Unbounded, Bound::Unbounded, &memtable.records);
    assert!(walk.all(|handle| handle != Handle::NONE));
}
