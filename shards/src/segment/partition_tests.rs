//! Filters and page indexes in memory, within a budget, and damaged.

use std::rc::Rc;

use futures_util::FutureExt as _;
use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::sim::{SimDisk, SimEnv};

use super::tests::{Entries, HOME, KEY, NUMBER, build, collect, config, get, open_within, run};
use super::*;
use crate::cache::PageCache;
use crate::error::Error;
use crate::ids::Seq;
use crate::range::{Direction, KeyRange};
use crate::segment_meta::SegmentMeta;

/// Bytes that look random.
fn scattered(n: u64, len: usize) -> Vec<u8> {
    let words = (0u64..).map(|at| KEY.hash(&[n.to_le_bytes(), at.to_le_bytes()].concat()).to_be_bytes());
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

fn sorted(mut keys: Vec<Vec<u8>>, value_bytes: usize) -> Entries {
    keys.sort_unstable();
    keys.into_iter().map(|key| (key, 5, Some(vec![3; value_bytes]))).collect()
}

/// Outpoints with unspent outputs, two to a transaction.
fn outpoints(count: u64) -> Entries {
    let key = |n: u64| [scattered(n / 2, 32), to_u32(n % 2).to_be_bytes().to_vec()].concat();
    sorted((0..count).map(key).collect(), 60)
}

fn to_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap()
}

/// Slots of contracts, `each` to a contract.
fn slots(count: u64, each: u64) -> Entries {
    let key = |n: u64| [scattered(n / each + (1 << 40), 32), scattered(n, 32)].concat();
    sorted((0..count).map(key).collect(), 32)
}

fn bits(filter_bits: FilterBits) -> SegmentConfig {
    SegmentConfig { filter_bits, write_bytes: 256 << 10, ..config() }
}

#[test]
fn a_key_takes_few_bytes_of_memory() {
    let count = 100_000;
    let kinds = [
        ("outpoints", outpoints(count), 0.4),
        ("slots, 500 to a contract", slots(count, 500), 0.6),
        ("slots, 100000 to a contract", slots(count, count), 0.6),
    ];
    for (name, entries, index_max) in kinds {
        for (filter_bits, filter_max) in [(FilterBits::Eight, 1.3), (FilterBits::Sixteen, 2.6)] {
            run(SimDisk::new(), async |env| {
                let meta = build(&env, NUMBER, &entries, bits(filter_bits)).await;
                let partitions = PartitionCache::unbounded();
                let segment = open_within(&env, &meta, &partitions).await.unwrap();
                assert_eq!(segment.load_partitions(&env).await.unwrap(), Completeness::Whole);
                let each = |bytes: u64| bytes as f64 / count as f64;
                let bytes = partitions.bytes();
                let (filter, index) = (each(bytes.filter), each(bytes.index + bytes.directory));
                println!(
                    "{name}: filter {filter:.3}, index {index:.3} bytes a key, {:.1} keys a page",
                    count as f64 / segment.pages() as f64
                );
                assert!(filter < filter_max && index < index_max, "{name}: {filter} and {index} bytes a key");
                let fixed = size_of::<Segment<SimEnv>>() + 2 * meta.key_min.len() + meta.key_max.len();
                assert_eq!(to_u64(segment.memory_bytes()), bytes.sum() + to_u64(fixed));
                drop(segment);
                assert_eq!(partitions.bytes(), PartitionBytes::default());
            });
        }
    }
}

/// Keys that are there and keys that are not, in no order.
async fn ask_all(env: &SimEnv, segment: &Rc<Segment<SimEnv>>, entries: &Entries) {
    for n in 0..entries.len() {
        let (key, seq, value) = &entries[n * 7919 % entries.len()];
        let found = get(env, segment, key, u64::MAX).await.unwrap();
        assert_eq!(found, Some((*seq, value.clone())));
        let absent = [key.as_slice(), b"\0"].concat();
        assert_eq!(get(env, segment, &absent, u64::MAX).await.unwrap(), None);
    }
}

#[test]
fn what_fits_is_read_once() {
    let entries = outpoints(50_000);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await;
        let partitions = PartitionCache::unbounded();
        let segment = open_within(&env, &meta, &partitions).await.unwrap();
        ask_all(&env, &segment, &entries).await;
        let all = to_u64(segment.directory.filters() + segment.directory.indexes());
        assert!(all > 4, "{all} partitions");
        // Some have come with the end of the file when it was opened.
        assert!(partitions.reads() < all && partitions.evictions() == 0, "{} reads", partitions.reads());
        let reads = partitions.reads();
        ask_all(&env, &segment, &entries).await;
        assert_eq!(partitions.reads(), reads);
    });
}

#[test]
fn a_partition_is_read_once_however_many_wait_for_it() {
    let entries = outpoints(10_000);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await;
        let partitions = PartitionCache::new(0);
        let segment = open_within(&env, &meta, &partitions).await.unwrap();
        let wanted = Partition::Filter(0);
        let reads = (0..5).map(|_| segment.partition(&env, wanted));
        let all = futures_util::future::join_all(reads).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(partitions.reads(), 1);
        // One that lost interest takes nothing from the others.
        let mut first = Box::pin(segment.partition(&env, wanted));
        let mut second = Box::pin(segment.partition(&env, wanted));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        second.await.unwrap();
        assert_eq!(partitions.reads(), 2);
    });
}

#[test]
fn a_budget_that_is_too_small_is_kept() {
    let entries = outpoints(60_000);
    run(SimDisk::new(), async |env| {
        let mut metas = Vec::new();
        for number in 1..=3 {
            metas.push(build(&env, number, &entries, bits(FilterBits::Eight)).await);
        }
        for bytes_max in [0, 1 << 10, 30 << 10, 60 << 10, 100 << 10] {
            let partitions = PartitionCache::new(bytes_max);
            let mut segments = Vec::new();
            for meta in &metas {
                segments.push(open_within(&env, meta, &partitions).await.unwrap());
            }
            for n in 0..500 {
                let (key, seq, value) = &entries[n * 7919 % entries.len()];
                for segment in &segments {
                    assert_eq!(get(&env, segment, key, 9).await.unwrap(), Some((*seq, value.clone())));
                    let bytes = partitions.bytes();
                    assert!(bytes.sum() <= bytes_max.max(bytes.directory), "{bytes:?} of {bytes_max}");
                    let own: u64 = segments.iter().map(|segment| segment.residents.bytes()).sum();
                    assert_eq!(own, bytes.sum());
                }
            }
            let missed = partitions.reads();
            assert!(missed > 500, "{missed} reads with {bytes_max} bytes");
            assert_eq!(partitions.evictions() > 0, bytes_max >= 30 << 10);
            assert_eq!(segments[0].load_partitions(&env).await.unwrap(), Completeness::NoRoom);
            segments.clear();
            assert_eq!(partitions.bytes(), PartitionBytes::default());
        }
    });
}

#[test]
fn what_is_used_most_stays() {
    let entries = outpoints(300_000);
    run(SimDisk::new(), async |env| {
        let (few, many) = (entries[..2000].to_vec(), entries);
        let hot = build(&env, 1, &few, bits(FilterBits::Sixteen)).await;
        let cold = build(&env, 2, &many, bits(FilterBits::Eight)).await;
        let partitions = PartitionCache::new(100 << 10);
        let hot = open_within(&env, &hot, &partitions).await.unwrap();
        let cold = open_within(&env, &cold, &partitions).await.unwrap();
        let mut hot_reads = 0;
        for n in 0..2000 {
            // Every key is asked of the small segment, and each falls on one of many partitions of the large one.
            for segment in [&hot, &cold] {
                let before = partitions.reads();
                let absent = [many[n * 7919 % many.len()].0.as_slice(), b"\0"].concat();
                get(&env, segment, &absent, 9).await.unwrap();
                let read = partitions.reads() - before;
                hot_reads += if Rc::ptr_eq(segment, &hot) { read } else { 0 };
            }
        }
        assert!(partitions.reads() > 1000, "{} reads", partitions.reads());
        assert!(hot_reads < 40, "{hot_reads} of the small segment");
    });
}

#[test]
fn a_cursor_without_a_cache_keeps_no_partition() {
    let entries = outpoints(300_000);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await;
        for (direction, kept) in [(Direction::Forward, false), (Direction::Backward, true)] {
            let partitions = PartitionCache::unbounded();
            let segment = open_within(&env, &meta, &partitions).await.unwrap();
            let before = partitions.bytes();
            let cache = kept.then(|| Rc::new(PageCache::new(1 << 20, 0)));
            let options = CursorOptions { cache, read_ahead_bytes: 64 << 10 };
            let (env, range) = (env.clone(), KeyRange::all());
            let mut cursor = SegmentCursor::new(env, segment.clone(), range, direction, options);
            let found = collect(&mut cursor).await.unwrap();
            assert_eq!(found.len(), entries.len());
            assert_eq!(partitions.bytes() != before, kept);
            assert_eq!(partitions.bytes().filter, before.filter);
        }
    });
}

#[test]
fn a_long_scan_keeps_its_first_pages_only() {
    let entries = outpoints(20_000);
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await;
        let segment = open_within(&env, &meta, &PartitionCache::unbounded()).await.unwrap();
        assert!(segment.pages() > 200);
        for direction in [Direction::Forward, Direction::Backward] {
            for goes_on in [false, true] {
                let cache = Rc::new(PageCache::new(64 << 20, 0));
                let options = CursorOptions { cache: Some(Rc::clone(&cache)), read_ahead_bytes: 64 << 10 };
                let (env, segment) = (env.clone(), segment.clone());
                let mut cursor = SegmentCursor::new(env, segment, KeyRange::all(), direction, options);
                if goes_on {
                    cursor = cursor.reading_ahead();
                }
                assert_eq!(collect(&mut cursor).await.unwrap().len(), entries.len());
                let kept = cache.bytes().div_ceil(4096);
                assert_eq!(kept, if goes_on { 0 } else { 4 }, "{} bytes", cache.bytes());
            }
        }
    });
}

/// Where the partitions of a segment are.
fn places(disk: SimDisk, meta: &SegmentMeta) -> Vec<(Partition, u64, u64)> {
    let (places, _) = run(disk, async |env| {
        let segment = open_within(&env, meta, &PartitionCache::new(0)).await.unwrap();
        let partitions = segment.directory.partitions();
        partitions.map(|(partition, place)| (partition, place.offset(), place.padded_bytes())).collect()
    });
    places
}

#[test]
fn a_damaged_partition_is_an_error_for_the_reads_that_need_it() {
    let entries = outpoints(150_000);
    let (meta, disk) =
        run(SimDisk::new(), async |env| build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await);
    let places = places(disk.clone(), &meta);
    assert!(places.len() > 4);
    for (partition, offset, bytes) in places {
        let mut damaged = disk.clone();
        let at = offset + KEY.hash(&offset.to_le_bytes()) % bytes;
        assert!(damaged.flip_bit(HOME.file_name(NUMBER), at, 3));
        run(damaged, async |env| {
            let faults = verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
            assert!(
                matches!(faults.as_slice(), [Error::Corruption { offset: found, .. }] if *found == offset),
                "{partition:?}: {faults:?}"
            );
            let segment = open_within(&env, &meta, &PartitionCache::unbounded()).await.unwrap();
            let (mut right, mut refused) = (0, 0);
            for (key, seq, value) in entries.iter().step_by(401) {
                match get(&env, &segment, key, 9).await {
                    Ok(found) => {
                        assert_eq!(found, Some((*seq, value.clone())));
                        right += 1;
                    }
                    Err(Error::Corruption { offset: found, .. }) if found == offset => refused += 1,
                    Err(other) => panic!("{partition:?}: {other}"),
                }
            }
            assert!(right > 0 && refused > 0, "{partition:?}: {right} right, {refused} refused");
            let loaded = segment.load_partitions(&env).await;
            assert!(matches!(loaded, Err(Error::Corruption { offset: found, .. }) if found == offset));
        });
    }
}

#[test]
fn swapped_partitions_are_errors() {
    let entries = outpoints(40_000);
    let (meta, disk) =
        run(SimDisk::new(), async |env| build(&env, NUMBER, &entries, bits(FilterBits::Eight)).await);
    let places = places(disk.clone(), &meta);
    let name = HOME.file_name(NUMBER);
    let bytes = disk.read_file(name).unwrap();
    let pairs = places.windows(2).filter(|pair| pair[0].2 == pair[1].2);
    let mut swapped = 0;
    for pair in pairs {
        let [(_, first, len), (_, second, _)] = pair else { continue };
        let (first, second, len) = (to_usize(*first), to_usize(*second), to_usize(*len));
        let mut changed = bytes.clone();
        changed[first..first + len].copy_from_slice(&bytes[second..second + len]);
        changed[second..second + len].copy_from_slice(&bytes[first..first + len]);
        let mut damaged = disk.clone();
        damaged.write_file(name, &changed);
        run(damaged, async |env| {
            let faults = verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
            assert_eq!(faults.len(), 2, "{faults:?}");
        });
        swapped += 1;
    }
    assert!(swapped > 1);
}

#[test]
fn a_filter_that_forgot_a_key_is_found_by_a_check() {
    let entries = outpoints(3000);
    let other = outpoints(6000).into_iter().filter(|entry| !entries.contains(entry)).take(3000).collect();
    // The same segment number and as many keys: the partition of one filter verifies in the place of the other's.
    let make = |entries: &Entries| {
        run(SimDisk::new(), async |env| build(&env, NUMBER, entries, bits(FilterBits::Eight)).await)
    };
    let ((meta, disk), (_, strange)) = (make(&entries), make(&other));
    let name = HOME.file_name(NUMBER);
    let (mut bytes, strange) = (disk.read_file(name).unwrap(), strange.read_file(name).unwrap());
    let (_, at, len) = places(disk.clone(), &meta)[0];
    let (at, len) = (to_usize(at), to_usize(len));
    bytes[at..at + len].copy_from_slice(&strange[at..at + len]);
    let crc = |bytes: &[u8]| HOME.checksum(NUMBER).of(bytes);
    let unit = to_usize(format::UNIT);
    // From the directory up, every parent gets the checksum of what it now holds.
    let end = bytes.len();
    let filter_crc = crc(&bytes[at..at + len]);
    let directory_at = end - 3 * unit;
    let code = bytes[directory_at + 3..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    bytes[directory_at + 3 + code + 1..][..4].copy_from_slice(&filter_crc.to_le_bytes());
    let directory_crc = crc(&bytes[directory_at..directory_at + unit]);
    let meta_at = end - 2 * unit;
    bytes[meta_at + 24..][..4].copy_from_slice(&directory_crc.to_le_bytes());
    let meta_crc = crc(&bytes[meta_at..meta_at + unit]);
    let footer_at = end - unit;
    bytes[footer_at + 20..][..4].copy_from_slice(&meta_crc.to_le_bytes());
    let meta = SegmentMeta { footer_crc: crc(&bytes[footer_at..]), ..meta };
    let mut forged = disk;
    forged.write_file(name, &bytes);
    run(forged, async |env| {
        let faults = verify(&env, HOME, meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
        assert!(faults.len() > 2900, "{} faults", faults.len());
        assert!(
            faults.iter().all(|fault| fault.to_string().contains("filter does not know")),
            "{}",
            faults[0]
        );
    });
}

#[test]
fn building_and_searching_are_fast() {
    let count = 200_000u64;
    let entries = slots(count, 500);
    run(SimDisk::new(), async |env| {
        let begun = std::time::Instant::now();
        let meta = build(&env, NUMBER, &entries, SegmentConfig::new(KEY)).await;
        let built = begun.elapsed();
        let segment = open_within(&env, &meta, &PartitionCache::unbounded()).await.unwrap();
        segment.load_partitions(&env).await.unwrap();
        let begun = std::time::Instant::now();
        let options = CursorOptions { cache: None, read_ahead_bytes: 256 << 10 };
        let mut cursor =
            SegmentCursor::new(env.clone(), segment.clone(), KeyRange::all(), Direction::Forward, options);
        let mut scanned = 0;
        while cursor.advance().await.unwrap() {
            scanned += 1;
        }
        let scan = begun.elapsed();
        let hashes: Vec<u64> = entries.iter().map(|entry| KEY.hash(&entry.0)).collect();
        let begun = std::time::Instant::now();
        let located = entries.iter().zip(&hashes).filter(|(entry, hash)| {
            matches!(segment.candidate(&entry.0, **hash, Seq(9)), Candidate::Page(_))
        });
        let located = to_u64(located.count());
        let locate = begun.elapsed();
        let each = |time: std::time::Duration| time / to_u32(count);
        println!("build {:?}, scan {:?}, locate {:?} each", each(built), each(scan), each(locate));
        assert_eq!((scanned, located), (count, count));
        assert!(built.as_secs() < 20 && scan.as_secs() < 20);
    });
}
