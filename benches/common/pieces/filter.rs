//! The binary fuse filter beside a blocked Bloom filter and a ribbon filter that let equally many absent keys pass, and
//! the keyed hash in front of it beside faster ones.
//!
//! The ribbon filter is cut into partitions as the engine's is. One that is built in one go holds the core for long,
//! and needs wider bands for as few rows.

use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use op_engine_shards::segment::{
    FilterBits, FilterBuilder, FilterKey, FilterPartition, FilterStep, filter_partition_of,
};
use twox_hash::XxHash3_64;

use super::bloom::Bloom;
use super::data::{Outpoint, outpoints};
use super::ribbon::Ribbon;
use super::{Piece, mixed};
use crate::common::mix;

const KEYS: usize = 100_000;
const KEYS_MANY: usize = 4_000_000;
const LOOKUPS: usize = 1000;
const HASHED: usize = 1000;
const SECRET: FilterKey = FilterKey(*b"sixteen byte key");
const PARTITION_KEYS: usize = 16 << 10;

/// What the alternatives need to let as many absent keys pass as the fuse filter does.
#[derive(Clone, Copy)]
struct Form {
    bits: FilterBits,
    bloom: (usize, u32),
    /// Columns, and rows of 100 keys.
    ribbon: (usize, usize),
}

const EIGHT: Form = Form { bits: FilterBits::Eight, bloom: (12, 7), ribbon: (8, 104) };
const SIXTEEN: Form = Form { bits: FilterBits::Sixteen, bloom: (28, 12), ribbon: (16, 104) };

struct Fuse(Vec<FilterPartition>);

impl Fuse {
    fn new(bits: FilterBits, built: &[Vec<u8>]) -> Self {
        let decoded = built.iter().map(|bytes| FilterPartition::decode(bits, bytes).expect("a filter"));
        Self(decoded.collect())
    }

    fn may_contain(&self, hash: u64) -> bool {
        self.0[filter_partition_of(hash, self.0.len() as u32) as usize].may_contain(hash)
    }
}

struct Ribbons(Vec<Ribbon>);

impl Ribbons {
    fn new(hashes: &[u64], (columns, rows): (usize, usize)) -> Self {
        let count = hashes.len().div_ceil(PARTITION_KEYS);
        let mut partitions = vec![Vec::with_capacity(PARTITION_KEYS + PARTITION_KEYS / 16); count];
        for hash in hashes {
            partitions[filter_partition_of(*hash, count as u32) as usize].push(*hash);
        }
        Self(partitions.iter().map(|hashes| Ribbon::new(hashes, columns, rows)).collect())
    }

    fn may_contain(&self, hash: u64) -> bool {
        self.0[filter_partition_of(hash, self.0.len() as u32) as usize].may_contain(hash)
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Ribbon::bytes).sum()
    }
}

fn fuse(hashes: &[u64], bits: FilterBits) -> Vec<Vec<u8>> {
    let mut builder = FilterBuilder::new(bits);
    for hash in hashes {
        builder.add(*hash);
    }
    let mut partitions = builder.partitions();
    let mut built = Vec::new();
    loop {
        match partitions.step() {
            FilterStep::More => {}
            FilterStep::Partition(bytes) => built.push(bytes),
            FilterStep::Done => return built,
        }
    }
}

/// The hashes of keys that are in a filter, and of as many that are not. Few are hashes of real keys; making those
/// takes long.
fn hashes(count: usize) -> (Vec<u64>, Vec<u64>) {
    let mut hashes: Vec<u64> = if count <= KEYS {
        outpoints(2 * count).iter().map(|key| SECRET.hash(key)).collect()
    } else {
        (0..2 * count as u64).map(mix).collect()
    };
    let absent = hashes.split_off(count);
    (hashes, absent)
}

pub fn build() -> Piece {
    build_of(KEYS, EIGHT)
}

pub fn build_16() -> Piece {
    build_of(KEYS, SIXTEEN)
}

pub fn build_many() -> Piece {
    build_of(KEYS_MANY, EIGHT)
}

/// From hashes to the filter as it is on disk, or in memory.
fn build_of(count: usize, form: Form) -> Piece {
    let (hashes, _) = hashes(count);
    let hashes = Rc::new(hashes);
    let (of_bloom, of_ribbon) = (Rc::clone(&hashes), Rc::clone(&hashes));
    Piece::new(count)
        .way("binary fuse filter", move || {
            fuse(&hashes, form.bits).iter().map(|bytes| bytes.len() as u64).sum()
        })
        .way("blocked Bloom filter", move || Bloom::new(&of_bloom, form.bloom.0, form.bloom.1).bytes() as u64)
        .way("ribbon filter", move || Ribbons::new(&of_ribbon, form.ribbon).bytes() as u64)
}

pub fn query_present() -> Piece {
    query(KEYS, EIGHT, |present, _| present).agreed()
}

pub fn query_absent() -> Piece {
    query(KEYS, EIGHT, |_, absent| absent)
}

pub fn query_present_16() -> Piece {
    query(KEYS, SIXTEEN, |present, _| present).agreed()
}

pub fn query_absent_16() -> Piece {
    query(KEYS, SIXTEEN, |_, absent| absent)
}

pub fn query_present_many() -> Piece {
    query(KEYS_MANY, EIGHT, |present, _| present).agreed()
}

pub fn query_absent_many() -> Piece {
    query(KEYS_MANY, EIGHT, |_, absent| absent)
}

fn query(count: usize, form: Form, choose: impl FnOnce(Vec<u64>, Vec<u64>) -> Vec<u64>) -> Piece {
    let (present, absent) = hashes(count);
    let built = fuse(&present, form.bits);
    let fuse = Fuse::new(form.bits, &built);
    let bloom = Bloom::new(&present, form.bloom.0, form.bloom.1);
    let ribbon = Ribbons::new(&present, form.ribbon);
    let all = |hash: &u64| fuse.may_contain(*hash) && bloom.may_contain(*hash) && ribbon.may_contain(*hash);
    assert!(present.iter().all(all));
    let passed = |filter: &dyn Fn(u64) -> bool| {
        let passed = absent.iter().filter(|hash| filter(**hash)).count();
        passed as f64 * 100.0 / count as f64
    };
    let bits = |bytes: usize| bytes as f64 * 8.0 / count as f64;
    let note = format!(
        "bits a key and absent keys that pass: fuse {:.2}, {:.4} %; Bloom {:.2}, {:.4} %; ribbon {:.2}, {:.4} %",
        bits(built.iter().map(Vec::len).sum()),
        passed(&|hash| fuse.may_contain(hash)),
        bits(bloom.bytes()),
        passed(&|hash| bloom.may_contain(hash)),
        bits(ribbon.bytes()),
        passed(&|hash| ribbon.may_contain(hash))
    );
    let mut hashes = choose(present, absent);
    hashes.truncate(hashes.len() / LOOKUPS * LOOKUPS);
    let hashes = Rc::new(hashes);
    Piece::new(LOOKUPS)
        .way("binary fuse filter", queries(Rc::clone(&hashes), move |hash| fuse.may_contain(hash)))
        .way("blocked Bloom filter", queries(Rc::clone(&hashes), move |hash| bloom.may_contain(hash)))
        .way("ribbon filter", queries(hashes, move |hash| ribbon.may_contain(hash)))
        .note(note)
}

fn queries(hashes: Rc<Vec<u64>>, may_contain: impl Fn(u64) -> bool) -> impl FnMut() -> u64 {
    let mut batches = 0..;
    move || {
        let start = batches.next().unwrap_or(0) * LOOKUPS % hashes.len();
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
