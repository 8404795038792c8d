//! Whole segments on the simulated machine, against a model.

use std::ops::Bound;
use std::rc::Rc;

use op_engine_io::num::to_u64;
use op_engine_io::sim::{Outcome, SimDisk, SimEnv, SimOptions, SimWorld};
use proptest::prelude::*;

use super::*;
use crate::cache::{PageCache, Shelf};
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Height, Seq, ShardId, StoreId};
use crate::range::{Direction, KeyRange};
use crate::segment_meta::SegmentMeta;
use crate::visibility::{Mask, Rollback, Scope};

pub(super) const HOME: SegmentHome = SegmentHome { store: StoreId([7; 16]), shard: ShardId(0) };
pub(super) const KEY: FilterKey = FilterKey(*b"sixteen byte key");
pub(super) const NUMBER: u64 = 5;

/// In the order of a segment.
pub(super) type Entries = Vec<(Vec<u8>, u64, Option<Vec<u8>>)>;

pub(super) fn config() -> SegmentConfig {
    SegmentConfig { write_bytes: 8192, ..SegmentConfig::new(KEY) }
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap()
}

pub(super) fn run<T>(disk: SimDisk, body: impl AsyncFnOnce(SimEnv) -> T) -> (T, SimDisk) {
    let world = SimWorld::new(SimOptions { step_max: u64::MAX, ..SimOptions::default() }, disk);
    let env = world.env();
    match world.run(body(env)) {
        Outcome::Done(value) => (value, world.disk()),
        other => panic!("the run ends: {:?}", other.done().is_some()),
    }
}

pub(super) async fn build(
    env: &SimEnv,
    number: u64,
    entries: &Entries,
    config: SegmentConfig,
) -> SegmentMeta {
    use op_engine_io::{Dir, Env as _};
    env.create_dir(Dir::Shard(0)).await.unwrap();
    let mut builder =
        SegmentBuilder::create(env.clone(), HOME, number, CollectionId(3), config).await.unwrap();
    for (key, seq, value) in entries {
        builder.add(key, Seq(*seq), value.as_deref()).await.unwrap();
    }
    assert_eq!(builder.entries(), to_u64(entries.len()));
    builder.finish((Height(10), Height(12))).await.unwrap()
}

fn built(entries: &Entries) -> (SegmentMeta, SimDisk) {
    run(SimDisk::new(), async |env| build(&env, NUMBER, entries, config()).await)
}

async fn open(env: &SimEnv, meta: &SegmentMeta) -> Result<Rc<Segment<SimEnv>>> {
    open_within(env, meta, &PartitionCache::unbounded()).await
}

pub(super) async fn open_within(
    env: &SimEnv,
    meta: &SegmentMeta,
    partitions: &Rc<PartitionCache>,
) -> Result<Rc<Segment<SimEnv>>> {
    Segment::open(env, HOME, meta.clone(), Mask::default(), partitions).await
}

pub(super) async fn get(
    env: &SimEnv,
    segment: &Rc<Segment<SimEnv>>,
    key: &[u8],
    view: u64,
) -> Result<Option<(u64, Option<Vec<u8>>)>> {
    let cache = PageCache::new(0, 0);
    let found = segment.get(env, &cache, key, KEY.hash(key), Seq(view)).await?;
    Ok(found.map(|(seq, value)| (seq.0, value.map(|value| value.to_vec()))))
}

fn model_get(entries: &Entries, mask: &Mask, key: &[u8], view: u64) -> Option<(u64, Option<Vec<u8>>)> {
    let entry = entries.iter().find(|(k, seq, _)| k == key && mask.shows(Seq(*seq), Seq(view)))?;
    Some((entry.1, entry.2.clone()))
}

pub(super) async fn collect(cursor: &mut SegmentCursor<SimEnv>) -> Result<Entries> {
    let mut entries = Entries::new();
    while cursor.advance().await? {
        let entry = cursor.entry().unwrap();
        entries.push((entry.key.to_vec(), entry.seq.0, entry.value.map(<[u8]>::to_vec)));
    }
    assert!(cursor.entry().is_none() && !cursor.advance().await?);
    Ok(entries)
}

pub(super) fn entries() -> impl Strategy<Value = Entries> {
    let key = prop_oneof![
        6 => prop::collection::vec(0u8..4, 0..6),
        2 => prop::collection::vec(any::<u8>(), 0..70),
        1 => Just(vec![1; 1024]),
        1 => prop::collection::vec(0u8..2, 1000..1024),
    ];
    let value = prop_oneof![
        2 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Some),
        1 => (0usize..9000, any::<u8>()).prop_map(|(len, byte)| Some(vec![byte; len])),
    ];
    let versions = prop_oneof![
        4 => prop::collection::btree_map(1u64..60, value.clone(), 1..4),
        1 => prop::collection::btree_map(1u64..60, value, 1..40),
    ];
    prop::collection::btree_map(key, versions, 1..40).prop_map(|keys| {
        let versions = |(key, versions): (Vec<u8>, std::collections::BTreeMap<u64, _>)| {
            versions.into_iter().rev().map(move |(seq, value)| (key.clone(), seq, value))
        };
        keys.into_iter().flat_map(versions).collect()
    })
}

fn bound(kind: u8, key: Vec<u8>) -> Bound<Vec<u8>> {
    match kind % 3 {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}

pub(super) async fn check_gets(env: &SimEnv, segment: &Rc<Segment<SimEnv>>, entries: &Entries, mask: &Mask) {
    segment.set_mask(mask.clone());
    let mut keys: Vec<_> = entries.iter().map(|entry| entry.0.clone()).collect();
    keys.dedup();
    for key in keys {
        for view in (0..62).step_by(3).chain([u64::MAX]) {
            assert_eq!(get(env, segment, &key, view).await.unwrap(), model_get(entries, mask, &key, view));
        }
        let absent = [key.as_slice(), b"\0"].concat();
        assert_eq!(get(env, segment, &absent, 99).await.unwrap(), model_get(entries, mask, &absent, 99));
    }
}

pub(super) async fn check_scans(
    env: &SimEnv,
    segment: &Rc<Segment<SimEnv>>,
    entries: &Entries,
    probes: &[(u8, Vec<u8>)],
) {
    let own = entries.iter().step_by(7).enumerate();
    let own = own.map(|(n, entry)| (if n % 2 == 0 { 0 } else { 1 }, entry.0.clone()));
    let all: Vec<_> = own.chain(probes.iter().cloned()).chain([(2, Vec::new())]).collect();
    for (n, (kind, key)) in all.iter().enumerate() {
        let other = &all[(n * 7 + 3) % all.len()];
        let range = KeyRange { start: bound(*kind, key.clone()), end: bound(other.0, other.1.clone()) };
        let expected: Entries = entries.iter().filter(|entry| range.contains(&entry.0)).cloned().collect();
        let cached = CursorOptions { cache: Some(Rc::new(PageCache::new(1 << 20, 0))), read_ahead_bytes: 0 };
        let ahead = CursorOptions { cache: None, read_ahead_bytes: 20_000 };
        let both = CursorOptions { read_ahead_bytes: 20_000, ..cached.clone() };
        for options in [CursorOptions::default(), cached, ahead, both] {
            for direction in [Direction::Forward, Direction::Backward] {
                let (env, segment, range) = (env.clone(), segment.clone(), range.clone());
                let mut cursor = SegmentCursor::new(env, segment, range, direction, options.clone());
                let mut found = collect(&mut cursor).await.unwrap();
                if direction == Direction::Backward {
                    found.reverse();
                }
                assert_eq!(found, expected, "{direction:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_segment_answers_as_a_model_does(
        entries in entries(),
        dead in (0u64..50, 1u64..30),
        probes in prop::collection::vec((0u8..3, prop::collection::vec(0u8..4, 0..5)), 4),
    ) {
        run(SimDisk::new(), async |env| {
            let meta = build(&env, NUMBER, &entries, config()).await;
            assert_eq!(meta.entries, to_u64(entries.len()));
            assert_eq!(meta.tombstones, to_u64(entries.iter().filter(|entry| entry.2.is_none()).count()));
            assert_eq!(Some(meta.seq_min.0), entries.iter().map(|entry| entry.1).min());
            assert_eq!(Some(meta.seq_max.0), entries.iter().map(|entry| entry.1).max());
            assert_eq!((&meta.key_min, &meta.key_max), (&entries[0].0, &entries[entries.len() - 1].0));
            assert_eq!(verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap(), []);
            for partitions in [PartitionCache::unbounded(), PartitionCache::new(0)] {
                let segment = open_within(&env, &meta, &partitions).await.unwrap();
                check_gets(&env, &segment, &entries, &Mask::default()).await;
                let rollback = Rollback { first_dead: Seq(dead.0), seq: Seq(dead.0 + dead.1) };
                let mask = Mask::for_range(&[rollback], Scope::Chain, meta.seq_min, meta.seq_max);
                check_gets(&env, &segment, &entries, &mask).await;
                check_scans(&env, &segment, &entries, &probes).await;
            }
        });
    }
}

fn numbered(keys: u32, versions: u64, value_bytes: usize) -> Entries {
    let key = |n: u32| [b"prefix".as_slice(), &n.to_be_bytes()].concat();
    let entry = |n: u32, seq: u64| {
        (key(n), seq, (!seq.is_multiple_of(5)).then(|| vec![n.to_le_bytes()[0]; value_bytes]))
    };
    (0..keys).flat_map(|n| (1..=versions).rev().map(move |seq| entry(n, seq))).collect()
}

#[test]
fn one_page_is_read_for_any_version() {
    // One key's versions fill several pages.
    let entries = numbered(3, 400, 20);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, config()).await;
        let segment = open(&env, &meta).await.unwrap();
        assert!(segment.pages() > 3);
        for (key, seq, value) in &entries {
            let cache = PageCache::new(1 << 20, 0);
            let found = segment.get(&env, &cache, key, KEY.hash(key), Seq(*seq)).await.unwrap();
            assert_eq!(
                found.map(|(seq, value)| (seq.0, value.map(|v| v.to_vec()))),
                Some((*seq, value.clone()))
            );
            assert_eq!(cache.misses(Shelf::Hot), 1);
            assert_eq!(get(&env, &segment, key, 0).await.unwrap(), None);
        }
        // A mask that hides all versions of a page makes the search go on into the next one.
        let rollback = Rollback { first_dead: Seq(2), seq: Seq(1000) };
        segment.set_mask(Mask::for_range(&[rollback], Scope::Chain, Seq(1), Seq(400)));
        for n in 0..3 {
            let key = &entries[n * 400].0;
            assert_eq!(get(&env, &segment, key, 1000).await.unwrap().unwrap().0, 1);
            assert_eq!(get(&env, &segment, key, 999).await.unwrap().unwrap().0, 400);
        }
    });
}

#[test]
fn values_of_any_length_come_back() {
    let lens = [0usize, 1, 100, 2100, 3000, 4000, 4050, 4096, 5000, 8192, 70_000, 3 << 20];
    let mut entries = Entries::new();
    for (n, len) in lens.iter().enumerate() {
        let value = (0..*len).map(|at| byte(at % 251)).collect();
        entries.push((vec![byte(n)], 9, Some(value)));
        entries.push((vec![byte(n), 1], 9, Some(b"small".to_vec())));
    }
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, SegmentConfig { write_bytes: 256 << 10, ..config() }).await;
        let segment = open(&env, &meta).await.unwrap();
        for (key, _, value) in &entries {
            let cache = PageCache::new(16 << 20, 0);
            let found = segment.get(&env, &cache, key, KEY.hash(key), Seq(9)).await.unwrap().unwrap();
            assert_eq!(found.1.as_deref(), value.as_deref());
            assert_eq!(cache.misses(Shelf::Hot), 1);
            if value.as_ref().unwrap().len() == 5 {
                assert!(cache.bytes() < 10_000, "a small entry is not read with a large one");
            }
        }
        assert_eq!(verify(&env, HOME, meta, &KEY, VerifyScope::Hot).await.unwrap(), []);
    });
}

#[test]
fn a_single_entry_is_a_segment() {
    for entry in
        [(vec![], 1, None), (vec![], 7, Some(vec![])), (vec![255; 1024], u64::MAX, Some(vec![1; 5000]))]
    {
        run(SimDisk::new(), async |env| {
            let entries = vec![entry.clone()];
            let meta = build(&env, NUMBER, &entries, config()).await;
            let segment = open(&env, &meta).await.unwrap();
            check_gets(&env, &segment, &entries, &Mask::default()).await;
            check_scans(&env, &segment, &entries, &[]).await;
        });
    }
}

/// Everything that can be asked: each answer is right or an error.
async fn interrogate(env: &SimEnv, meta: &SegmentMeta, entries: &Entries) -> Vec<Error> {
    let segment = match open(env, meta).await {
        Ok(segment) => segment,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for (key, seq, _) in entries {
        match get(env, &segment, key, *seq).await {
            Ok(found) => assert_eq!(found, model_get(entries, &Mask::default(), key, *seq)),
            Err(error) => errors.push(error),
        }
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let mut cursor = SegmentCursor::new(
            env.clone(),
            segment.clone(),
            KeyRange::all(),
            direction,
            CursorOptions::default(),
        );
        match collect(&mut cursor).await {
            Ok(mut found) => {
                if direction == Direction::Backward {
                    found.reverse();
                }
                assert_eq!(&found, entries);
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

#[test]
fn a_flipped_bit_is_an_error_that_says_where() {
    let entries = numbered(30, 3, 40);
    let (meta, disk) = built(&entries);
    let name = HOME.file_name(NUMBER);
    let bytes = disk.read_file(name).unwrap();
    assert_eq!(to_u64(bytes.len()), meta.file_bytes);
    let mut offsets = std::collections::BTreeSet::new();
    for at in 0..bytes.len() {
        let mut damaged = disk.clone();
        damaged.flip_bit(name, to_u64(at), byte(at % 8));
        run(damaged, async |env| {
            // Padding of a page is long and all alike.
            if at % 4096 < 700 || at % 64 == 0 {
                let errors = interrogate(&env, &meta, &entries).await;
                assert!(!errors.is_empty(), "the bit at {at} goes unnoticed");
            }
            let faults = verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
            assert!(!faults.is_empty(), "the bit at {at} is not found by a check");
            for fault in faults {
                match fault {
                    Error::Corruption { offset, .. } => {
                        assert!(offset <= to_u64(at), "{offset} is said, {at} is damaged");
                        offsets.insert(offset);
                    }
                    other => panic!("{other}"),
                }
            }
        });
    }
    assert!(offsets.len() >= 5, "{offsets:?}");
}

#[test]
fn a_cut_file_is_an_error() {
    let entries = numbered(30, 3, 40);
    let (meta, disk) = built(&entries);
    let name = HOME.file_name(NUMBER);
    for len in (0..meta.file_bytes).step_by(512) {
        let mut damaged = disk.clone();
        damaged.truncate_file(name, len);
        run(damaged, async |env| {
            let error = open(&env, &meta).await.unwrap_err();
            assert!(matches!(&error, Error::Corruption { offset, .. } if *offset == len), "{error}");
            assert_eq!(verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap(), [error]);
        });
    }
    let mut damaged = disk.clone();
    damaged.truncate_file(name, meta.file_bytes + 4096);
    run(damaged, async |env| open(&env, &meta).await.unwrap_err());
    let mut damaged = disk;
    damaged.remove_file(name);
    run(damaged, async |env| {
        assert!(matches!(open(&env, &meta).await.unwrap_err(), Error::Missing { .. }));
    });
}

#[test]
fn swapped_pages_and_files_are_errors() {
    let entries = numbered(300, 1, 40);
    let (meta, disk) = built(&entries);
    let name = HOME.file_name(NUMBER);
    let bytes = disk.read_file(name).unwrap();
    // Two pages of one file.
    let mut swapped = bytes.clone();
    swapped[4096..8192].copy_from_slice(&bytes[8192..12288]);
    swapped[8192..12288].copy_from_slice(&bytes[4096..8192]);
    let mut damaged = disk.clone();
    damaged.write_file(name, &swapped);
    run(damaged, async |env| {
        let faults = verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
        assert_eq!(faults.len(), 2, "all faults are listed: {faults:?}");
        let segment = open(&env, &meta).await.unwrap();
        let place = |page| match segment.place(PageNo(page)) {
            Candidate::Page(place) => place,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            segment.page(&env, place(1)).await.unwrap_err(),
            Error::Corruption { offset: 8192, .. }
        ));
        segment.page(&env, place(2)).await.unwrap();
    });
    // The same entries under another number: the file is sound, but not ours.
    let (other, disk) = run(disk, async |env| build(&env, NUMBER + 1, &entries, config()).await);
    let mut damaged = disk.clone();
    damaged.write_file(name, &disk.read_file(HOME.file_name(NUMBER + 1)).unwrap());
    run(damaged, async |env| {
        assert!(matches!(open(&env, &meta).await.unwrap_err(), Error::Foreign { .. }));
        // Nor does its metadata make it ours.
        let lying = SegmentMeta { number: NUMBER, ..other.clone() };
        open(&env, &lying).await.unwrap_err();
    });
    // One page of the other file, at the same place.
    let mut mixed = bytes;
    let other_bytes = disk.read_file(HOME.file_name(NUMBER + 1)).unwrap();
    assert_eq!(mixed[4096..8192], other_bytes[4096..8192]);
    mixed[..4096].copy_from_slice(&other_bytes[..4096]);
    let mut damaged = disk;
    damaged.write_file(name, &mixed);
    run(damaged, async |env| open(&env, &meta).await.unwrap_err());
}

#[test]
fn metadata_that_contradicts_the_file_is_an_error() {
    let entries = numbered(30, 3, 40);
    let (meta, disk) = built(&entries);
    let lies = [
        SegmentMeta { footer_crc: !meta.footer_crc, ..meta.clone() },
        SegmentMeta { entries: meta.entries + 1, ..meta.clone() },
        SegmentMeta { tombstones: meta.tombstones + 1, ..meta.clone() },
        SegmentMeta { seq_max: Seq(99), ..meta.clone() },
        SegmentMeta { height_min: Height(0), ..meta.clone() },
        SegmentMeta { key_min: Vec::new(), ..meta.clone() },
        SegmentMeta { file_bytes: meta.file_bytes - 4096, ..meta.clone() },
        SegmentMeta { file_bytes: meta.file_bytes + 4096, ..meta.clone() },
        SegmentMeta { file_bytes: 0, ..meta.clone() },
        SegmentMeta { collection: CollectionId(4), ..meta.clone() },
    ];
    run(disk, async |env| {
        for lie in lies {
            open(&env, &lie).await.unwrap_err();
        }
        let stranger = SegmentHome { store: StoreId([8; 16]), ..HOME };
        let error =
            Segment::open(&env, stranger, meta.clone(), Mask::default(), &PartitionCache::unbounded())
                .await
                .unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        open(&env, &meta).await.unwrap();
    });
}

#[test]
fn an_abandoned_segment_leaves_nothing() {
    let (_, disk) = run(SimDisk::new(), async |env| {
        use op_engine_io::{Dir, Env as _};
        env.create_dir(Dir::Shard(0)).await.unwrap();
        let mut builder =
            SegmentBuilder::create(env.clone(), HOME, 1, CollectionId(3), config()).await.unwrap();
        for (key, seq, value) in numbered(1000, 1, 40) {
            builder.add(&key, Seq(seq), value.as_deref()).await.unwrap();
        }
        assert!(builder.bytes_so_far() > 30_000);
        builder.abandon().await.unwrap();
    });
    assert_eq!(disk.files(), []);
}

#[test]
fn too_long_keys_and_values_are_refused() {
    run(SimDisk::new(), async |env| {
        use op_engine_io::{Dir, Env as _};
        env.create_dir(Dir::Shard(0)).await.unwrap();
        let mut builder =
            SegmentBuilder::create(env.clone(), HOME, 1, CollectionId(3), config()).await.unwrap();
        let error = builder.add(&[0; 1025], Seq(1), None).await.unwrap_err();
        assert!(matches!(error, Error::Limit { .. }));
        let error = builder.add(b"k", Seq(1), Some(&vec![0; (32 << 20) + 1])).await.unwrap_err();
        assert!(matches!(error, Error::Limit { .. }));
        assert!(builder.is_empty());
    });
}

#[test]
fn a_finished_segment_survives_a_crash() {
    let entries = numbered(300, 2, 40);
    let (meta, disk) = run(SimDisk::new(), async |env| {
        use op_engine_io::{Dir, Env as _};
        let meta = build(&env, NUMBER, &entries, config()).await;
        env.sync_dir(Dir::Shard(0)).await.unwrap();
        meta
    });
    for seed in 0..20 {
        let crashed = disk.crash(seed, op_engine_io::sim::Personality::Strict);
        run(crashed, async |env| {
            assert_eq!(verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap(), [])
        });
    }
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let entries = numbered(3000, 1, 60);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, config()).await;
        let segment = open(&env, &meta).await.unwrap();
        assert!(segment.pages() > 40);
        let bytes_max = 64 << 10;
        let cache = PageCache::new(bytes_max, 0);
        for round in 0..2 {
            for (key, _, value) in &entries {
                let found = segment.get(&env, &cache, key, KEY.hash(key), Seq::MAX).await.unwrap().unwrap();
                assert_eq!(found.1.as_deref(), value.as_deref(), "round {round}");
                assert!(cache.bytes() <= bytes_max);
            }
        }
        assert!(cache.bytes() > bytes_max / 2);
        assert_eq!(cache.hits(Shelf::Hot) + cache.misses(Shelf::Hot), 6000);
        assert!(
            cache.misses(Shelf::Hot) >= to_u64(segment.pages()) && cache.misses(Shelf::Hot) < 300,
            "{}",
            cache.misses(Shelf::Hot)
        );
    });
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutant_shows_what_a_reorg_killed() {
    use crate::mutants::{Mutant, activate};
    let entries = numbered(3, 3, 10);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, config()).await;
        let segment = open(&env, &meta).await.unwrap();
        let rollback = Rollback { first_dead: Seq(2), seq: Seq(4) };
        segment.set_mask(Mask::for_range(&[rollback], Scope::Chain, Seq(1), Seq(3)));
        assert_eq!(get(&env, &segment, &entries[0].0, 9).await.unwrap().unwrap().0, 1);
        activate(Some(Mutant::SkipMask));
        assert_eq!(get(&env, &segment, &entries[0].0, 9).await.unwrap().unwrap().0, 3);
        activate(None);
    });
}
