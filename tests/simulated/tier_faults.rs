//! A cold target that is away, full, damaged or another one: what needs it fails with a typed error, and nothing else does.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join;
use op_engine::{
    Block, BlockHash, Collection, Config, Engine, Error, Height, History, Layout, ShardConfig, TierPolicy,
    VerifyProgress, VerifyScope, verify_on,
};
use op_engine_io::sim::{ColdFaults, Rng, SimDisk, SimOptions, SimWorld};
use op_engine_io::{ColdFault, Dir, Env as _, Error as IoError, FileKind, FileName};
use op_engine_shards::Error as StorageError;
use op_engine_shards::cold_mark::MARK_NAME;

const BLOCKS: u64 = 40;
const WINDOW: u64 = 4;
const A_BLOCK: u64 = 30;

struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = (u64, u32);
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;
    const TIER: TierPolicy = TierPolicy::after_confirmations(0);
}

struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = u32;
    type Value = u64;
    const HISTORY: History = History::All;
    const TIER: TierPolicy = TierPolicy::after_confirmations(0);
}

fn hash(height: u64) -> BlockHash {
    let mut bytes = [3; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

fn body(height: u64, n: u64) -> Vec<u8> {
    let mut rng = Rng::new(height * 1000 + n);
    let mut bytes = format!("body {n} of {height} ").repeat(6).into_bytes();
    bytes.extend((0..20).map(|_| rng.below(256) as u8));
    bytes
}

fn block(height: u64) -> Block {
    let mut block = Block::new(Height(height), hash(height), hash(height - 1));
    for n in 0..A_BLOCK {
        block.put::<Bodies>(&(height, n as u32), &body(height, n));
        block.put::<Slots>(&((n % 10) as u32), &(height * 100 + n));
    }
    block
}

fn settings() -> ShardConfig {
    ShardConfig {
        memtable_bytes_max: 32 << 10,
        cold_page_bytes: 4096,
        cold_segment_bytes: 16 << 10,
        cold_cache_bytes: 1,
        cache_bytes: 1 << 10,
        ..ShardConfig::default()
    }
}

async fn open(world: &SimWorld) -> Result<Engine, Error> {
    let config = Config::new("/simulated").collection::<Bodies>().collection::<Slots>().reorg_window(WINDOW);
    Engine::open_on(world.clone(), config, 2, settings()).await
}

fn options(cold: bool) -> SimOptions {
    SimOptions { cold, step_max: u64::MAX, ..SimOptions::with_seed(7) }
}

/// What `verify` finds wrong, with the cold target or without.
fn faults(disk: SimDisk, scope: VerifyScope) -> usize {
    let (_, report) = run(disk, async |world| {
        let config = Config::new("/simulated").collection::<Bodies>().collection::<Slots>();
        verify_on(world.clone(), config, settings(), scope, &VerifyProgress::default()).await.unwrap()
    });
    assert!(report.cold_segments >= 4);
    assert_eq!(report.compared.is_some(), scope == VerifyScope::ColdToo && report.is_sound());
    report.faults.len()
}

fn run_with<T>(disk: SimDisk, cold: bool, body: impl AsyncFnOnce(&SimWorld) -> T) -> (SimDisk, T) {
    let world = SimWorld::new(options(cold), disk);
    let out = world.run(async { body(&world).await }).done().expect("the run ends");
    assert_eq!(world.panics(), Vec::new());
    (world.stop(), out)
}

fn run<T>(disk: SimDisk, body: impl AsyncFnOnce(&SimWorld) -> T) -> (SimDisk, T) {
    run_with(disk, true, body)
}

/// A store whose old data is in the cold target.
fn store() -> SimDisk {
    let (disk, ()) = run(SimDisk::new(), async |world| {
        let engine = open(world).await.unwrap();
        for height in 1..=BLOCKS {
            engine.commit(block(height)).await.unwrap();
        }
        engine.compact().await.unwrap();
        let moved = engine.move_to_cold(false).await.unwrap();
        assert!(moved.segments >= 4, "{moved:?}");
        engine.close().await.unwrap();
    });
    assert!(objects(&disk).len() >= 4);
    disk
}

/// The objects of the cold target without its mark.
fn objects(disk: &SimDisk) -> Vec<FileName> {
    disk.cold_files().into_iter().filter(|name| *name != MARK_NAME).collect()
}

/// Reads everything: what is wrong, or how many records could not be read, with the first error.
async fn read_all(engine: &Engine) -> (usize, Option<Error>) {
    let (mut failed, mut first) = (0, None);
    for height in 1..=BLOCKS {
        for n in 0..A_BLOCK {
            match engine.get::<Bodies>(&(height, n as u32)).await {
                Ok(found) => assert_eq!(found, Some(body(height, n)), "{height}, {n}"),
                Err(error) => {
                    failed += 1;
                    first = first.or(Some(error));
                }
            }
        }
        for slot in 0..10 {
            match engine.get_at::<Slots>(Height(height), &slot).await {
                Ok(found) => {
                    assert_eq!(found, Some(height * 100 + u64::from(slot) + 20), "slot {slot} at {height}")
                }
                Err(error) => {
                    failed += 1;
                    first = first.or(Some(error));
                }
            }
        }
    }
    (failed, first)
}

/// The newest slots and coming blocks need no cold target.
async fn check_hot(engine: &Engine) {
    for slot in 0..10 {
        let found = engine.get::<Slots>(&slot).await.unwrap();
        assert!(found.is_some());
    }
    let height = engine.tip().unwrap().height.0 + 1;
    engine.commit(block(height)).await.unwrap();
    engine.reorg_to(Height(height - 1)).await.unwrap();
    assert!(engine.stats().await.unwrap().failure.is_none());
}

fn cold_fault(error: &Error) -> Option<ColdFault> {
    match error {
        Error::Storage(StorageError::Io(IoError::Cold { fault, .. })) => Some(*fault),
        _ => None,
    }
}

#[test]
fn a_target_that_is_away_fails_what_needs_it_and_is_used_again_when_it_is_back() {
    run(store(), async |world| {
        let engine = open(world).await.unwrap();
        assert_eq!(read_all(&engine).await.0, 0);
        world.set_cold_faults(ColdFaults { unreachable: true, ..ColdFaults::default() });
        let (failed, first) = read_all(&engine).await;
        let first = first.expect("old bodies cannot be read");
        assert!(failed > 500, "{failed}");
        assert_eq!(cold_fault(&first), Some(ColdFault::Unreachable));
        assert!(first.to_string().contains("Remedy"), "{first}");
        check_hot(&engine).await;
        let stats = engine.stats().await.unwrap();
        let reads_failed: u64 = stats.shards.iter().map(|shard| shard.tiering.reads_failed).sum();
        assert_eq!(reads_failed, failed as u64);
        assert!(stats.shards.iter().any(|shard| shard.tiering.last_failure.is_some()));
        world.set_cold_faults(ColdFaults::default());
        assert_eq!(read_all(&engine).await.0, 0);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_store_opens_while_its_target_is_away() {
    run(store(), async |world| {
        world.set_cold_faults(ColdFaults { unreachable: true, ..ColdFaults::default() });
        let engine = open(world).await.unwrap();
        check_hot(&engine).await;
        let refused = engine.move_to_cold(false).await.unwrap_err();
        assert_eq!(cold_fault(&refused), Some(ColdFault::Unreachable));
        world.set_cold_faults(ColdFaults::default());
        engine.move_to_cold(false).await.unwrap();
        assert_eq!(read_all(&engine).await.0, 0);
    });
    // Without any target at all.
    run_with(store(), false, async |world| {
        let engine = open(world).await.unwrap();
        check_hot(&engine).await;
        let (failed, first) = read_all(&engine).await;
        assert!(
            failed > 500 && matches!(first, Some(Error::Storage(StorageError::NoColdTarget { .. }))),
            "{first:?}"
        );
        let refused = engine.move_to_cold(false).await.unwrap_err();
        assert!(matches!(refused, Error::Storage(StorageError::NoColdTarget { .. })), "{refused}");
    });
}

/// Every answer of a target that fails now and then is right or an error, and moves are done in the end.
#[test]
fn a_target_that_fails_now_and_then_never_makes_an_answer_wrong() {
    for seed in 0..20 {
        let world = SimWorld::new(SimOptions { seed, ..options(true) }, SimDisk::new());
        let failures = Cell::new(0);
        world
            .run(async {
                let engine = open(&world).await.unwrap();
                let faults =
                    ColdFaults { error: 300, short: 300, bit_flip: 300, slow: 200, ..ColdFaults::default() };
                world.set_cold_faults(faults);
                for height in 1..=BLOCKS {
                    engine.commit(block(height)).await.unwrap();
                    if height % 8 == 0 && engine.move_to_cold(height % 3 == 0).await.is_err() {
                        failures.set(failures.get() + 1);
                    }
                    if height % 12 == 0 && engine.warm_up(Height(0), Height(height / 2)).await.is_err() {
                        failures.set(failures.get() + 1);
                    }
                }
                let (failed, _) = read_all(&engine).await;
                failures.set(failures.get() + failed);
                world.set_cold_faults(ColdFaults::default());
                engine.move_to_cold(true).await.unwrap();
                assert_eq!(read_all(&engine).await.0, 0, "seed {seed}");
                // What was read back and was not what was written has left no file either.
                engine.compact().await.unwrap();
                world.env().sleep(Duration::from_secs(2)).await;
                for shard in engine.stats().await.unwrap().shards {
                    let names = world.env().list(Dir::Shard(shard.shard.0)).await.unwrap();
                    let files = names.iter().filter(|name| name.kind == FileKind::Segment).count();
                    assert_eq!(files, shard.segments.len(), "seed {seed}");
                }
                assert!(engine.stats().await.unwrap().failure.is_none());
                engine.close().await.unwrap();
            })
            .done()
            .expect("the run ends");
        assert_eq!(world.panics(), Vec::new(), "seed {seed}");
        assert!(failures.get() > 0, "seed {seed}: nothing failed");
    }
}

#[test]
fn damaged_objects_are_told_and_hot_data_goes_on() {
    let sound = store();
    assert_eq!(faults(sound.clone(), VerifyScope::ColdToo), 0);
    let names = objects(&sound);
    let first = names[0];
    let other = *names.iter().find(|name| **name != first && name.dir == first.dir).unwrap();
    let middle = sound.read_cold(first).unwrap().len() as u64 / 3;
    let damages: [(&str, &dyn Fn(&mut SimDisk)); 5] = [
        ("bits", &|disk| {
            for offset in (4096..middle).step_by(512) {
                assert!(disk.corrupt_cold(first, offset, |bytes| bytes[0] ^= 1));
            }
        }),
        ("cut short", &|disk| assert!(disk.truncate_cold(first, 4100))),
        ("swapped", &|disk| {
            let bytes = disk.read_cold(other).unwrap();
            disk.write_cold(first, &bytes);
        }),
        ("gone", &|disk| assert!(disk.remove_cold(first))),
        ("zeros", &|disk| {
            let len = disk.read_cold(first).unwrap().len();
            disk.write_cold(first, &vec![0; len]);
        }),
    ];
    for (what, damage) in damages {
        let mut disk = sound.clone();
        damage(&mut disk);
        assert_eq!(faults(disk.clone(), VerifyScope::Hot), 0, "{what}");
        assert!(faults(disk.clone(), VerifyScope::ColdToo) > 0, "{what}");
        run(disk, async |world| {
            let engine = open(world).await.unwrap();
            let (failed, first) = read_all(&engine).await;
            let first = first.unwrap_or_else(|| panic!("{what}: the damage is not noticed"));
            let text = first.to_string();
            assert!(failed > 0 && text.contains(".cold"), "{what}: {text}");
            let typed = matches!(
                first,
                Error::Storage(StorageError::Corruption { .. } | StorageError::Io(IoError::Cold { .. }))
            );
            assert!(typed, "{what}: {first:?}");
            check_hot(&engine).await;
            // What is damaged cannot come back, and stays where it is.
            engine.warm_up(Height(0), Height(BLOCKS)).await.unwrap_err();
            check_hot(&engine).await;
            engine.close().await.unwrap();
        });
    }
}

#[test]
fn a_lost_file_of_a_cold_segment_is_made_again() {
    let sound = store();
    for object in objects(&sound) {
        let file = FileName { kind: FileKind::Segment, ..object };
        let damages: [&dyn Fn(&mut SimDisk); 3] = [
            &|disk| assert!(disk.remove_file(file)),
            &|disk| assert!(disk.truncate_file(file, 4096)),
            &|disk| assert!(disk.corrupt(file, 0, |bytes| bytes.fill(0))),
        ];
        for damage in damages {
            let mut disk = sound.clone();
            damage(&mut disk);
            let (disk, ()) = run(disk, async |world| {
                let engine = open(world).await.unwrap();
                assert_eq!(read_all(&engine).await.0, 0);
                engine.close().await.unwrap();
            });
            assert_eq!(disk.read_file(file), sound.read_file(file), "it is the same file");
        }
    }
}

#[test]
fn the_target_of_another_store_is_refused() {
    let theirs = store();
    let mut ours = SimDisk::new();
    for name in theirs.cold_files() {
        ours.write_cold(name, &theirs.read_cold(name).unwrap());
    }
    let before: Vec<_> = ours.cold_files().iter().map(|name| ours.read_cold(*name)).collect();
    let world = SimWorld::new(SimOptions { seed: 8, ..options(true) }, ours);
    world
        .run(async {
            let refused = open(&world).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, Error::Storage(StorageError::Foreign { .. })), "{refused}");
        })
        .done()
        .expect("the run ends");
    let ours = world.stop();
    let after: Vec<_> = ours.cold_files().iter().map(|name| ours.read_cold(*name)).collect();
    assert!(before == after, "nothing was changed there");
}

#[test]
fn a_directory_that_nothing_is_mounted_on_is_not_written_to() {
    let mut disk = store();
    for name in disk.cold_files() {
        disk.remove_cold(name);
    }
    let (disk, ()) = run(disk, async |world| {
        let engine = open(world).await.unwrap();
        check_hot(&engine).await;
        let refused = engine.move_to_cold(false).await.unwrap_err();
        assert!(matches!(refused, Error::Storage(StorageError::ColdTargetUnknown { .. })), "{refused}");
        engine.close().await.unwrap();
    });
    assert_eq!(disk.cold_files(), [], "nothing was written");
}

#[test]
fn a_full_target_leaves_everything_where_it_is() {
    let (disk, ()) = run(SimDisk::new(), async |world| {
        let engine = open(world).await.unwrap();
        for height in 1..=BLOCKS {
            engine.commit(block(height)).await.unwrap();
        }
        for capacity in [100, 5000, 20_000] {
            world.set_cold_faults(ColdFaults { capacity_bytes: Some(capacity), ..ColdFaults::default() });
            let refused = engine.move_to_cold(false).await.unwrap_err();
            assert_eq!(cold_fault(&refused), Some(ColdFault::Full), "{refused}");
            assert_eq!(read_all(&engine).await.0, 0);
            check_hot(&engine).await;
        }
        world.set_cold_faults(ColdFaults::default());
        engine.move_to_cold(false).await.unwrap();
        world.env().sleep(Duration::from_secs(2)).await;
        assert_eq!(read_all(&engine).await.0, 0);
        engine.close().await.unwrap();
    });
    assert!(objects(&disk).len() >= 4);
    assert_eq!(disk.cold_remnants(), [], "what was given up is gone");
    let dirs: Vec<Dir> = objects(&disk).into_iter().map(|name| name.dir).collect();
    assert!(dirs.contains(&Dir::Shard(0)) && dirs.contains(&Dir::Shard(1)));
}

#[test]
fn policies_that_a_collection_cannot_have_are_refused() {
    struct Coins;
    impl Collection for Coins {
        const NAME: &'static str = "coins";
        type Key = u64;
        type Value = u64;
    }
    run(SimDisk::new(), async |world| {
        let config = |policy| Config::new("/simulated").collection::<Coins>().tier::<Coins>(policy);
        let policy = TierPolicy::after_confirmations(9);
        let refused =
            Engine::open_on(world.clone(), config(policy), 1, settings()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::Setting { name: "tier", .. }), "{refused}");
        let engine = Engine::open_on(world.clone(), config(TierPolicy::HOT), 1, settings()).await.unwrap();
        let refused = engine.set_tier::<Coins>(policy).await.unwrap_err();
        assert!(matches!(refused, Error::Setting { name: "tier", .. }), "{refused}");
    });
}

#[test]
fn a_policy_changes_on_a_live_store() {
    run(SimDisk::new(), async |world| {
        let engine = open(world).await.unwrap();
        engine.set_tier::<Bodies>(TierPolicy::HOT).await.unwrap();
        engine.set_tier::<Slots>(TierPolicy::HOT).await.unwrap();
        for height in 1..=BLOCKS {
            engine.commit(block(height)).await.unwrap();
        }
        engine.compact().await.unwrap();
        assert_eq!(engine.move_to_cold(false).await.unwrap().segments, 0);
        engine.set_tier::<Bodies>(TierPolicy::after_confirmations(0)).await.unwrap();
        assert!(engine.move_to_cold(false).await.unwrap().segments > 0);
        assert_eq!(read_all(&engine).await.0, 0);
        engine.close().await.unwrap();
    });
}

#[test]
fn an_order_to_move_waits_for_merges_that_have_what_is_to_move() {
    let settings = ShardConfig { memtable_bytes_max: 8 << 10, merge_fan_in: 2, ..settings() };
    for seed in 0..20 {
        let world = SimWorld::new(SimOptions { seed, ..options(true) }, SimDisk::new());
        let run = world.run(async {
            let config =
                Config::new("/simulated").collection::<Bodies>().collection::<Slots>().reorg_window(WINDOW);
            let engine = Engine::open_on(world.clone(), config, 2, settings.clone()).await.unwrap();
            for height in 1..=BLOCKS {
                engine.commit(block(height)).await.unwrap();
            }
            let (merged, moved) = join(engine.compact(), engine.move_to_cold(false)).await;
            merged.unwrap();
            assert!(moved.unwrap().segments > 0, "seed {seed}");
            let (stats, names) = (engine.stats().await.unwrap(), engine.collection_names());
            let bodies = names.iter().find(|(_, name)| name == Bodies::NAME).unwrap().0;
            let segments = stats.shards.iter().flat_map(|shard| &shard.segments);
            let hot = segments.filter(|segment| segment.collection == bodies && !segment.tier.is_cold());
            let old: Vec<_> = hot.filter(|segment| segment.heights.0 <= engine.horizon()).collect();
            assert!(old.is_empty(), "seed {seed}: {old:?}");
            assert!(stats.shards.iter().any(|shard| shard.merges > 0), "seed {seed}: nothing was merged");
            engine.close().await.unwrap();
        });
        run.done().expect("the run ends");
        assert_eq!(world.panics(), Vec::new(), "seed {seed}");
    }
}

#[test]
fn wal_files_and_orphaned_segments_are_kept_if_that_is_wanted() {
    let mut disk = SimDisk::new();
    let settings = ShardConfig { wal_file_bytes: 32 << 10, ..settings() };
    let mut acknowledged = 0;
    for opening in 0..3u64 {
        let (after, last) = run(disk, async |world| {
            let config =
                Config::new("/simulated").collection::<Bodies>().collection::<Slots>().reorg_window(WINDOW);
            let config = config.archive(true, true);
            let engine = Engine::open_on(world.clone(), config, 2, settings.clone()).await.unwrap();
            for _ in 0..20 {
                let height = engine.tip().map_or(1, |tip| tip.height.0 + 1);
                engine.commit(block(height)).await.unwrap();
                if height.is_multiple_of(5) {
                    engine.flush().await.unwrap();
                    engine.reorg_to(Height(height - 2)).await.unwrap();
                }
            }
            world.env().sleep(Duration::from_secs(5)).await;
            let stats = engine.stats().await.unwrap();
            assert!(stats.failure.is_none());
            let sum = |of: &dyn Fn(&op_engine_shards::stats::TierStats) -> u64| -> u64 {
                stats.shards.iter().map(|shard| of(&shard.tiering)).sum()
            };
            assert!(sum(&|tiers| tiers.files_archived) > 4 && sum(&|tiers| tiers.files_not_archived) == 0);
            let last = stats.durable.0;
            // A crash leaves WAL files that the next opening copies.
            if opening < 2 {
                engine.close().await.unwrap();
            }
            last
        });
        (disk, acknowledged) = (after, last);
    }
    let copies =
        |kind| disk.cold_files().into_iter().filter(move |name| name.kind == kind).collect::<Vec<_>>();
    assert!(copies(FileKind::Segment).len() > 2, "orphans are kept");
    for shard in 0..2 {
        let wal: Vec<u64> = copies(FileKind::Wal)
            .iter()
            .filter(|name| name.dir == Dir::Shard(shard))
            .map(|name| name.number)
            .collect();
        assert!(wal.len() > 3 && wal.last().is_some_and(|last| *last <= acknowledged), "{wal:?}");
    }
    for name in copies(FileKind::Wal) {
        let bytes = disk.read_cold(name).unwrap();
        assert!(bytes.len() >= 4096 && bytes.iter().any(|byte| *byte != 0), "{name} is a log");
    }
}
