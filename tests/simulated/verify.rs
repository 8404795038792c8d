//! The check of a whole store: a sound one passes, and what is wrong is listed, all of it.

use op_engine::{
    Block, BlockHash, Collection, Config, Engine, Error, Height, Index, IndexList, ShardConfig,
    VerifyProgress, VerifyReport, VerifyScope, verify_on,
};
use op_engine_io::sim::{SimDisk, SimOptions, SimWorld};
use op_engine_io::{Dir, FileKind, FileName};

/// Coins, with two numbers that stand for owner and value.
struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = u64;
    type Value = (u32, u64);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByOwner>()
    }
}

struct ByOwner;

impl Index for ByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Coins;
    type Key = (u32, u64);
    type Covered = ();

    fn entries(_: &u64, coin: &(u32, u64), emit: &mut dyn FnMut(Self::Key, ())) {
        emit((coin.0, coin.1), ());
    }
}

/// The same by name and definition, but with another idea of what belongs into the index.
struct OtherCoins;

impl Collection for OtherCoins {
    const NAME: &'static str = "coins";
    type Key = u64;
    type Value = (u32, u64);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<OtherByOwner>()
    }
}

struct OtherByOwner;

impl Index for OtherByOwner {
    const NAME: &'static str = "by_owner";
    type Of = OtherCoins;
    type Key = (u32, u64);
    type Covered = ();

    fn entries(key: &u64, coin: &(u32, u64), emit: &mut dyn FnMut(Self::Key, ())) {
        let strange = u64::from(*key == 1003);
        emit((coin.0, coin.1 + strange), ());
    }
}

fn hash(height: u64) -> BlockHash {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

fn config() -> Config {
    Config::new("/simulated").collection::<Coins>()
}

fn settings() -> ShardConfig {
    ShardConfig {
        wal_file_bytes: 64 << 10,
        memtable_bytes_max: 4 << 10,
        space_reserve_bytes: Some(64 << 10),
        ..ShardConfig::default()
    }
}

/// A store of 40 blocks on two shards, closed, and then opened and cut off in the middle of its work if wanted.
fn store(cut_off: bool) -> SimDisk {
    let world = SimWorld::new(SimOptions::with_seed(5), SimDisk::new());
    let machine = world.clone();
    world
        .run(async move {
            let engine = Engine::open_on(machine, config(), 2, settings()).await.unwrap();
            for height in 1..=40 {
                let mut block = Block::new(Height(height), hash(height), hash(height - 1));
                for n in 0..10 {
                    block.put::<Coins>(&(height * 100 + n), &(u32::try_from(n % 3).unwrap(), height));
                }
                engine.commit(block).await.unwrap();
            }
            if !cut_off {
                engine.close().await.unwrap();
            }
        })
        .done()
        .expect("the run ends");
    world.stop()
}

fn verify_with(disk: SimDisk, config: Config) -> (VerifyReport, SimDisk) {
    let world = SimWorld::new(SimOptions::with_seed(6), disk);
    let machine = world.clone();
    let report = world
        .run(async move {
            let progress = VerifyProgress::default();
            let report = verify_on(machine, config, settings(), VerifyScope::Hot, &progress).await.unwrap();
            if report.is_sound() {
                assert_eq!(progress.bytes(), progress.bytes_total());
                assert!(progress.bytes() > 0);
            }
            report
        })
        .done()
        .expect("the run ends");
    assert_eq!(world.panics(), Vec::new());
    (report, world.stop())
}

fn verify(disk: SimDisk) -> VerifyReport {
    verify_with(disk, config()).0
}

fn contents(disk: &SimDisk) -> Vec<(FileName, Vec<u8>)> {
    disk.files().into_iter().map(|name| (name, disk.read_file(name).unwrap())).collect()
}

/// The segments that the store refers to. A merge that was in hand when it was closed may have left another file.
fn segments(disk: &SimDisk) -> Vec<FileName> {
    let notes = verify(disk.clone()).notes;
    let is_leftover = |name: &FileName| notes.iter().any(|note| note.contains(&name.to_string()));
    let files = disk.files().into_iter().filter(|name| name.kind == FileKind::Segment);
    files.filter(|name| !is_leftover(name)).collect()
}

#[test]
fn a_sound_store_passes_and_is_left_as_it_is() {
    for cut_off in [false, true] {
        let disk = store(cut_off);
        // What was in flight is settled first: that is not the doing of the check.
        let before = SimWorld::new(SimOptions::with_seed(1), disk).stop();
        let (report, after) = verify_with(before.clone(), config());
        assert_eq!(report.faults, []);
        assert_eq!(report.shards, 2);
        assert!(report.segments > 0 && report.segment_entries > 0);
        let compared = report.compared.expect("records are compared");
        assert_eq!((compared.blocks, compared.records, compared.index_entries), (40, 400, 400));
        assert_eq!(report.tip.unwrap().height, Height(40));
        assert!(contents(&before) == contents(&after), "a check changes nothing");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_is_found() {
    let disk = store(false);
    // A file that a merge was about to remove when the store was closed is nobody's any more.
    let notes = verify(disk.clone()).notes;
    let is_leftover = |name: &FileName| notes.iter().any(|note| note.contains(&name.to_string()));
    for name in segments(&disk).into_iter().filter(|name| !is_leftover(name)) {
        let bytes = disk.read_file(name).unwrap().len();
        for offset in [0, 20, 4096, bytes / 2, bytes - 4096] {
            let mut damaged = disk.clone();
            if !damaged.flip_bit(name, u64::try_from(offset).unwrap(), 3) {
                continue;
            }
            let report = verify(damaged);
            assert!(!report.is_sound(), "{name} at offset {offset}");
            assert!(report.faults[0].to_string().contains(&name.to_string()), "{}", report.faults[0]);
        }
    }
}

#[test]
fn all_faults_are_listed_and_not_only_the_first() {
    let mut disk = store(false);
    let found = segments(&disk);
    let (first, last) = (found[0], found[found.len() - 1]);
    assert_ne!(first.dir, last.dir);
    disk.flip_bit(first, 4100, 1);
    disk.remove_file(last);
    let superblock = FileName { dir: Dir::Root, kind: FileKind::Superblock, number: 0 };
    disk.flip_bit(superblock, 4100, 1);
    let report = verify(disk);
    let text: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    for part in [superblock.to_string(), first.to_string(), format!("{last} is missing")] {
        assert!(text.iter().any(|fault| fault.contains(&part)), "{part} is not in {text:?}");
    }
    assert!(report.compared.is_none());
}

#[test]
fn lost_identity_manifest_or_acknowledged_commits_are_found() {
    let disk = store(true);
    let disk = SimWorld::new(SimOptions::with_seed(1), disk).stop();
    for kind in [FileKind::Superblock, FileKind::Manifest] {
        let mut damaged = disk.clone();
        for name in disk.files().into_iter().filter(|name| name.kind == kind) {
            damaged.remove_file(name);
        }
        assert!(!verify(damaged).is_sound(), "{kind:?}");
    }
    let mut damaged = disk.clone();
    let wal = |name: &FileName| name.kind == FileKind::Wal && name.dir == Dir::Shard(0);
    for name in disk.files().into_iter().filter(wal) {
        // The header stays, and every frame goes.
        damaged.corrupt(name, 4096, |bytes| bytes.fill(0));
    }
    assert!(!verify(damaged).is_sound());
}

#[test]
fn an_unreferenced_segment_is_noted_and_no_fault() {
    let mut disk = store(false);
    let copied = segments(&disk)[0];
    let bytes = disk.read_file(copied).unwrap();
    let stray = FileName { number: 0xffff, ..copied };
    disk.write_file(stray, &bytes);
    let report = verify(disk);
    assert_eq!(report.faults, []);
    assert!(report.notes.iter().any(|note| note.contains(&stray.to_string())), "{:?}", report.notes);
}

#[test]
fn an_index_that_contradicts_its_records_is_found_from_both_sides() {
    let (report, _) = verify_with(store(false), Config::new("/simulated").collection::<OtherCoins>());
    let found = |wanted: &str| {
        let is_it = |fault: &&Error| match fault {
            Error::Contradiction { what, .. } => what.contains(wanted),
            _ => false,
        };
        report.faults.iter().filter(is_it).count()
    };
    assert_eq!(found("its entry in index coins.by_owner is missing"), 1, "{:?}", report.faults);
    assert_eq!(found("the entry leads to a record that does not have it"), 1, "{:?}", report.faults);
    assert_eq!(report.faults.len(), 2);
}

#[test]
fn collections_that_are_not_known_here_are_noted() {
    let (report, _) = verify_with(store(false), Config::new("/simulated"));
    assert_eq!(report.faults, []);
    assert!(report.notes.iter().any(|note| note.contains("coins is not known here")), "{:?}", report.notes);
    assert_eq!(report.compared.unwrap().records, 0);
}

#[test]
fn an_empty_disk_holds_no_store() {
    let report = verify(SimDisk::new());
    assert_eq!(report.faults.len(), 1);
    assert!(report.faults[0].to_string().contains("the identity of the store"), "{}", report.faults[0]);
}
