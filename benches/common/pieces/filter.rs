//! The binary fuse filter beside a Bloom filter, and the keyed hash in front of it beside faster ones.

use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use op_engine_shards::segment::{Filter, FilterBuilder, FilterKey, FilterStep};
use twox_hash::XxHash3_64;

use super::bloom::Bloom;
use super::data::{Outpoint, outpoints};
use super::{Piece, mixed};

const KEYS: usize = 100_000;
const LOOKUPS: usize = 1000;
const HASHED: usize = 1000;
const SECRET: FilterKey = FilterKey(*b"sixteen byte key");

/// The hashes of keys that are in a filter, and of as many that are not.
fn hashes() -> (Vec<u64>, Vec<u64>) {
    let mut hashes: Vec<u64> = outpoints(2 * KEYS).iter().map(|key| SECRET.hash(key)).collect();
    let absent = hashes.split_off(KEYS);
    (hashes, absent)
}

fn fuse(hashes: &[u64]) -> Vec<u8> {
    let mut builder = FilterBuilder::new();
    for hash in hashes {
        builder.add(*hash);
    }
    let mut partitions = builder.partitions();
    loop {
        match partitions.step() {
            FilterStep::More => {}
            FilterStep::Done(bytes) => return bytes,
            FilterStep::Impossible => panic!("hashes that differ have a filter"),
        }
    }
}

/// From hashes to the filter as it is on disk, or in memory.
pub fn build() -> Piece {
    let (hashes, _) = hashes();
    let (fuse_bytes, bloom) = (fuse(&hashes), Bloom::new(&hashes));
    let decoded = Filter::decode(&fuse_bytes).expect("a filter");
    assert!(hashes.iter().all(|hash| decoded.may_contain(*hash) && bloom.may_contain(*hash)));
    let bits = |bytes: usize| bytes as f64 * 8.0 / KEYS as f64;
    let hashes = Rc::new(hashes);
    let of_bloom = Rc::clone(&hashes);
    Piece::new(KEYS)
        .way("binary fuse filter", move || fuse(&hashes).len() as u64)
        .way("Bloom filter", move || Bloom::new(&of_bloom).bytes() as u64)
        .note(format!("bits a key: fuse {:.2}, Bloom {:.2}", bits(fuse_bytes.len()), bits(bloom.bytes())))
}

pub fn query_present() -> Piece {
    query(|present, _| present).agreed()
}

pub fn query_absent() -> Piece {
    query(|_, absent| absent)
}

fn query(choose: impl FnOnce(Vec<u64>, Vec<u64>) -> Vec<u64>) -> Piece {
    let (present, absent) = hashes();
    let (fuse, bloom) = (Filter::decode(&fuse(&present)).expect("a filter"), Bloom::new(&present));
    assert!(present.iter().all(|hash| fuse.may_contain(*hash) && bloom.may_contain(*hash)));
    let passed = |filter: &dyn Fn(u64) -> bool| absent.iter().filter(|hash| filter(**hash)).count();
    let percent = |passed: usize| passed as f64 * 100.0 / KEYS as f64;
    let note = format!(
        "absent keys that pass: {:.2} % of the fuse filter, {:.2} % of the Bloom filter",
        percent(passed(&|hash| fuse.may_contain(hash))),
        percent(passed(&|hash| bloom.may_contain(hash)))
    );
    let hashes = Rc::new(choose(present, absent));
    Piece::new(LOOKUPS)
        .way("binary fuse filter", queries(Rc::clone(&hashes), move |hash| fuse.may_contain(hash)))
        .way("Bloom filter", queries(hashes, move |hash| bloom.may_contain(hash)))
        .note(note)
}

fn queries(hashes: Rc<Vec<u64>>, may_contain: impl Fn(u64) -> bool) -> impl FnMut() -> u64 {
    let mut batches = 0..;
    move || {
        let start = batches.next().unwrap_or(0) * LOOKUPS % KEYS;
        hashes[start..start + LOOKUPS].iter().map(|hash| u64::from(may_contain(*hash))).sum()
    }
}

pub fn hash() -> Piece {
    let keys = Rc::new(outpoints(HASHED));
    let ahash = ahash::RandomState::with_seeds(1, 2, 3, 4);
    let hashed = |hash: fn(&ahash::RandomState, &Outpoint) -> u64| {
        let (keys, ahash) = (Rc::clone(&keys), ahash.clone());
        move || keys.iter().fold(0, |digest, key| mixed(digest, hash(&ahash, key)))
    };
    Piece::new(HASHED)
        .way("SipHash-1-3", hashed(|_, key| SECRET.hash(key)))
        .way("XXH3", hashed(|_, key| XxHash3_64::oneshot_with_seed(1, key)))
        .way(
            "aHash",
            hashed(|ahash, key| {
                let mut hasher = ahash.build_hasher();
                hasher.write(key);
                hasher.finish()
            }),
        )
}
