//! The merge beside the standard heap, and beside sorting everything anew.
//!
//! The alternatives go over arrays that lie uncompressed in memory and never change. The engine's sources are memtables
//! that may grow while they are gone through, or compressed pages in the cache.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::rc::Rc;

use op_engine_io::sim::{SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Dir, Env as _, block_on};
use op_engine_shards::cache::PageCache;
use op_engine_shards::memtable::{Memtable, MemtableCursor};
use op_engine_shards::merge::{MergeCursor, Source};
use op_engine_shards::range::{Direction, KeyRange};
use op_engine_shards::run::RunCursor;
use op_engine_shards::segment::{
    CursorOptions, FilterKey, PartitionCache, Segment, SegmentBuilder, SegmentConfig, SegmentHome,
};
use op_engine_shards::visibility::Mask;
use op_engine_shards::{CollectionId, Height, Seq, ShardId};

use super::data::{Outpoint, outpoints, value};
use super::{Piece, head, mixed};
use crate::common::mix;

const C: CollectionId = CollectionId(1);
const RUNS: u64 = 8;
/// Each run has a fourth of them.
const KEYS: usize = 40_000;
const CACHE_BYTES: u64 = 64 << 20;

/// In the order of a segment: keys ascending, then the newest version first.
type Version = (Outpoint, Reverse<Seq>, [u8; 60]);
type Run = Vec<Version>;

/// From the newest to the oldest, as merges take them.
fn runs() -> Vec<Run> {
    let mut keys = outpoints(KEYS);
    keys.sort_unstable();
    let run = |seq: u64| {
        let chosen =
            keys.iter().enumerate().filter(move |(n, _)| mix(*n as u64 ^ seq << 32).is_multiple_of(4));
        chosen.map(|(n, key)| (*key, Reverse(Seq(seq)), value(n as u64 ^ seq << 32))).collect()
    };
    (1..=RUNS).rev().map(run).collect()
}

fn entry(digest: u64, key: &[u8], seq: Seq, value: &[u8]) -> u64 {
    mixed(digest, head(key) ^ u64::from(key[35]) ^ seq.0 << 32 ^ head(value))
}

pub fn memtables() -> Piece {
    let runs = runs();
    let memtable = |run: &Run| {
        let mut memtable = Memtable::new();
        for (key, seq, value) in run {
            memtable.insert(C, key, seq.0, Some(value));
        }
        Rc::new(RefCell::new(memtable))
    };
    let tables: Vec<_> = runs.iter().map(memtable).collect();
    let source =
        |table: &Rc<_>| MemtableCursor::new(Rc::clone(table), C, KeyRange::all(), Direction::Forward).into();
    beside_others(runs, "MergeCursor over memtables", move || merged(tables.iter().map(source).collect()))
}

pub fn segments() -> Piece {
    let runs = runs();
    let world = SimWorld::new(SimOptions { step_max: u64::MAX, ..SimOptions::default() }, SimDisk::new());
    let env = world.env();
    let segments = world.run(segments_of(env.clone(), &runs)).done().expect("segments are built");
    let cache = Rc::new(PageCache::new(CACHE_BYTES, 0));
    let source = move |segment: &Rc<Segment<SimEnv>>| {
        let options = CursorOptions { cache: Some(Rc::clone(&cache)), read_ahead_bytes: 0 };
        let all = KeyRange::all();
        RunCursor::new(env.clone(), [segment], all, Direction::Forward, options).into()
    };
    let read = async || {
        let sources = segments.iter().map(&source).collect();
        digest(MergeCursor::<SimEnv>::new(sources, Direction::Forward)).await
    };
    // From here on every page is in the cache, and a merge needs no world.
    world.run(read()).done().expect("segments are read");
    beside_others(runs, "MergeCursor over segments in the cache", move || {
        merged(segments.iter().map(&source).collect())
    })
}

async fn segments_of(env: SimEnv, runs: &[Run]) -> Vec<Rc<Segment<SimEnv>>> {
    let home = SegmentHome { store: op_engine_shards::StoreId([1; 16]), shard: ShardId(0) };
    env.create_dir(Dir::Shard(0)).await.unwrap();
    let mut segments = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let config = SegmentConfig::new(FilterKey([0; 16]));
        let mut builder = SegmentBuilder::create(env.clone(), home, number as u64, C, config).await.unwrap();
        for (key, seq, value) in run {
            builder.add(key, seq.0, Some(value)).await.unwrap();
        }
        let meta = builder.finish((Height(1), Height(1))).await.unwrap();
        segments.push(
            Segment::open(&env, home, meta, Mask::default(), &PartitionCache::unbounded()).await.unwrap(),
        );
    }
    segments
}

fn merged(sources: Vec<Source<SimEnv>>) -> u64 {
    block_on(digest(MergeCursor::new(sources, Direction::Forward)))
}

async fn digest(mut cursor: MergeCursor<SimEnv>) -> u64 {
    let mut digest = 0;
    while let Some(next) = cursor.next().await.expect("a merge goes on") {
        digest = entry(digest, next.key, next.seq, next.value.expect("a value"));
    }
    digest
}

fn beside_others(runs: Vec<Run>, name: &'static str, ours: impl FnMut() -> u64 + 'static) -> Piece {
    let runs = Rc::new(runs);
    let heap_runs = Rc::clone(&runs);
    Piece::new(runs.iter().map(Vec::len).sum())
        .way(name, ours)
        .way("BinaryHeap over arrays", move || with_heap(&heap_runs))
        .way("concatenated and sorted arrays", move || with_sort(&runs))
        .agreed()
}

fn with_heap(runs: &[Run]) -> u64 {
    let mut rest: Vec<_> = runs.iter().map(|run| run.iter()).collect();
    let firsts = rest.iter_mut().enumerate().filter_map(|(number, run)| Some(Reverse((run.next()?, number))));
    let mut heap: BinaryHeap<Reverse<(&Version, usize)>> = firsts.collect();
    let mut digest = 0;
    while let Some(mut top) = heap.peek_mut() {
        let Reverse(((key, seq, value), number)) = *top;
        digest = entry(digest, key, seq.0, value);
        match rest[number].next() {
            Some(next) => *top = Reverse((next, number)),
            None => drop(PeekMut::pop(top)),
        }
    }
    digest
}

/// The stable sort finds the runs and merges them; the unstable one does not.
fn with_sort(runs: &[Run]) -> u64 {
    let mut all: Vec<&Version> = runs.iter().flatten().collect();
    all.sort();
    all.into_iter().fold(0, |digest, (key, seq, value)| entry(digest, key, seq.0, value))
}
