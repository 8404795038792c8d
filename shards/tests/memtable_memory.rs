//! What a memtable says it has allocated is what it has allocated, by the count of the allocator.
//!
//! One test: the count is of the whole program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::alloc::System;

use cap::Cap;
use op_engine_shards::memtable::Memtable;
use op_engine_shards::{CollectionId, Height, Seq};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const CHUNK_BYTES: usize = 256 << 10;
const COMMIT_ENTRIES: u64 = 10_000;
/// What the thread that runs the tests may allocate meanwhile.
const HARNESS_BYTES: usize = 1024;

/// A key of 36 bytes in no order.
fn key(n: u64) -> [u8; 36] {
    let mut key = [0; 36];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[28..].copy_from_slice(&n.to_be_bytes());
    key
}

fn keys_of_commit(number: u64) -> Vec<[u8; 36]> {
    let mut keys: Vec<_> = (number * COMMIT_ENTRIES..(number + 1) * COMMIT_ENTRIES).map(key).collect();
    keys.sort_unstable();
    keys
}

/// Asserts that the table's count and the allocator's differ by at most a part and some bytes.
fn assert_counted(memtable: &Memtable, before: usize, divisor: usize, bytes_more: usize) {
    let (counted, allocated) = (memtable.bytes(), ALLOCATOR.allocated() - before);
    let difference = counted.abs_diff(allocated);
    assert!(
        difference <= allocated / divisor + bytes_more,
        "{counted} counted, {allocated} allocated with {} entries",
        memtable.entries()
    );
}

#[test]
fn every_byte_is_counted_and_few_are_empty() {
    let before = ALLOCATOR.allocated();
    let mut memtable = Memtable::new();
    assert_eq!(memtable.bytes(), 0);

    // Little costs little.
    for collection in 0..20 {
        for n in 0..5 {
            memtable.insert(CollectionId(collection), &key(n), Seq(1), Some(&[1; 60]));
        }
        assert_counted(&memtable, before, usize::MAX, HARNESS_BYTES);
    }
    assert!(memtable.bytes() < 36 << 10, "{} for 100 entries of 20 collections", memtable.bytes());
    drop(memtable);
    assert!(ALLOCATOR.allocated().abs_diff(before) <= HARNESS_BYTES);

    // One million, in commits; the count is right all the way.
    let mut memtable = Memtable::new();
    for number in 0..100 {
        let keys = keys_of_commit(number);
        let with_keys = before + keys.capacity() * size_of::<[u8; 36]>();
        memtable.note_block(Seq(number + 1), Height(number));
        for (n, key) in keys.iter().enumerate() {
            memtable.insert(CollectionId(1), key, Seq(number + 1), Some(&[1; 60]));
            if n % 500 == 0 {
                assert_counted(&memtable, with_keys, 50, CHUNK_BYTES);
                assert_counted(&memtable, with_keys, usize::MAX, HARNESS_BYTES);
            }
        }
    }
    assert_eq!(memtable.entries(), 1_000_000);
    assert_counted(&memtable, before, 50, 0);
    let overhead = (ALLOCATOR.allocated() - before) as f64 / 1e6 - 96.0;
    println!("{overhead:.1} bytes of overhead an entry");
    assert!(overhead <= 40.0, "{overhead:.1} bytes of overhead an entry");

    // Versions, tombstones and large values count too.
    for n in 0..10_000 {
        memtable.insert(CollectionId(1), &key(n), Seq(200), None);
        memtable.insert(CollectionId(1), &key(n), Seq(201 + n), Some(&[2; 100]));
    }
    memtable.insert(CollectionId(2), &key(0), Seq(20_000), Some(&vec![3; 10 << 20]));
    assert_counted(&memtable, before, usize::MAX, HARNESS_BYTES);
    drop(memtable);
    assert!(ALLOCATOR.allocated().abs_diff(before) <= HARNESS_BYTES);
}
