//! What survives a crash, and what does not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::{IoPhase, Personality, SimDisk, SimEnv, SimOptions, SimWorld};
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::env::{Dir, Env, File, FileKind, FileName, OpenMode, WriteSync};
use crate::error::{Error, FileOp};
use crate::sim::{DurableCover, Outcome};

pub(super) const A: FileName = FileName { dir: Dir::Root, kind: FileKind::Wal, number: 1 };
pub(super) const B: FileName = FileName { dir: Dir::Root, kind: FileKind::Segment, number: 2 };
const BOTH: [Personality; 2] = [Personality::Strict, Personality::Ext4];
const SEEDS: u64 = 300;

pub(super) fn page(byte: u8) -> IoBuf {
    pages(byte, 1)
}

pub(super) fn pages(byte: u8, pages: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(pages * IO_UNIT_BYTES);
    buf.as_mut_slice().fill(byte);
    buf
}

/// Runs a client to its end and returns the disk.
pub(super) fn on<Fut: Future<Output = ()>>(
    disk: SimDisk,
    options: SimOptions,
    client: impl FnOnce(SimEnv) -> Fut,
) -> SimDisk {
    let world = SimWorld::new(options, disk);
    assert_eq!(world.run(client(world.env())), Outcome::Done(()));
    world.stop()
}

fn options(personality: Personality) -> SimOptions {
    SimOptions { personality, ..SimOptions::default() }
}

async fn write(file: &impl File, page_number: u64, byte: u8, sync: WriteSync) {
    file.write_at(page_number * 4096, page(byte), sync).await.1.unwrap();
}

/// A disk with files A and B of four pages of ones.
fn two_files() -> SimDisk {
    let mut disk = SimDisk::new();
    disk.write_file(A, &[1; 4 * 4096]);
    disk.write_file(B, &[1; 4 * 4096]);
    disk
}

/// The images of a file over many crashes; `None` where its name was lost.
fn images(disk: &SimDisk, name: FileName, personality: Personality) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS).map(|seed| disk.crash(seed, personality).read_file(name)).collect()
}

#[test]
fn synced_data_never_vanishes_and_unsynced_data_may() {
    for personality in BOTH {
        let disk = on(two_files(), options(personality), async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            write(&file, 0, 2, WriteSync::None).await;
            file.sync_data().await.unwrap();
            write(&file, 1, 3, WriteSync::Durable).await;
            write(&file, 2, 4, WriteSync::None).await;
        });
        let images = images(&disk, A, personality);
        let image = |seen: &dyn Fn(&[u8]) -> bool| images.iter().any(|image| seen(image.as_deref().unwrap()));
        for image in &images {
            let image = image.as_deref().unwrap();
            assert!(image[..4096].iter().all(|byte| *byte == 2));
            assert!(image[4096..8192].iter().all(|byte| *byte == 3));
            assert!(
                image[8192..12288]
                    .chunks(512)
                    .all(|s| s.iter().all(|b| *b == 1) || s.iter().all(|b| *b == 4))
            );
            assert!(image[12288..].iter().all(|byte| *byte == 1));
        }
        assert!(image(&|bytes| bytes[8192..12288].iter().all(|byte| *byte == 1)), "lost as a whole");
        assert!(image(&|bytes| bytes[8192..12288].iter().all(|byte| *byte == 4)), "kept as a whole");
        assert!(image(&|bytes| bytes[8192] != bytes[8192 + 512]), "torn");
    }
}

#[test]
fn sync_covers_only_writes_that_had_completed_when_it_was_submitted() {
    let (mut overtaken, mut lost) = (0, 0);
    for seed in 0..200 {
        let world = SimWorld::new(SimOptions::with_seed(seed), two_files());
        let env = world.env();
        let completed: Rc<RefCell<Vec<FileOp>>> = Rc::default();
        let seen = Rc::clone(&completed);
        world.on_io(move |_, event, _| {
            seen.borrow_mut().extend((event.phase == IoPhase::Completed).then_some(event.op));
        });
        let outcome = world.run(async {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            // Both are submitted before either completes.
            let (written, synced) =
                futures_util::future::join(file.write_at(0, page(9), WriteSync::None), file.sync_data())
                    .await;
            written.1.unwrap();
            synced.unwrap();
        });
        assert_eq!(outcome, Outcome::Done(()));
        let disk = world.stop();
        assert_eq!(disk.read_file(A).unwrap()[0], 9);
        if completed.take() == [FileOp::Open, FileOp::Write, FileOp::Sync] {
            overtaken += 1;
            lost += u32::from(disk.crash(seed, Personality::Strict).read_file(A).unwrap()[0] == 1);
        }
    }
    // Even where the write completed before the sync did, the sync did not cover it.
    assert!(overtaken > 50 && lost > 10, "{lost} of {overtaken}");
}

#[test]
fn only_ext4_makes_another_file_durable_by_a_sync() {
    for personality in BOTH {
        let disk = on(two_files(), options(personality), async |env| {
            let a = env.open(A, OpenMode::ReadWrite).await.unwrap();
            let b = env.open(B, OpenMode::ReadWrite).await.unwrap();
            write(&b, 0, 7, WriteSync::None).await;
            a.sync_data().await.unwrap();
        });
        let lost = images(&disk, B, personality).into_iter().any(|image| image.unwrap()[0] == 1);
        assert_eq!(lost, personality == Personality::Strict);
    }
}

#[test]
fn a_durable_write_covers_earlier_writes_only_if_the_sync_is_of_the_file() {
    for durable_cover in [DurableCover::Write, DurableCover::File] {
        let options = SimOptions { durable_cover, ..SimOptions::default() };
        let disk = on(two_files(), options, async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            write(&file, 0, 5, WriteSync::None).await;
            write(&file, 0, 6, WriteSync::None).await;
            write(&file, 1, 7, WriteSync::None).await;
            write(&file, 0, 8, WriteSync::Durable).await;
        });
        let images = images(&disk, A, Personality::Strict);
        assert!(images.iter().flatten().all(|image| image[..4096].iter().all(|byte| *byte == 8)));
        let lost = images.iter().flatten().any(|image| image[4096] == 1);
        assert_eq!(lost, durable_cover == DurableCover::Write);
    }
}

#[test]
fn a_created_name_may_vanish_until_its_directory_is_synced() {
    for personality in BOTH {
        for synced in [false, true] {
            let disk = on(SimDisk::new(), options(personality), async |env| {
                let file = env.open(A, OpenMode::CreateNew).await.unwrap();
                write(&file, 0, 3, WriteSync::None).await;
                if synced {
                    env.sync_dir(Dir::Root).await.unwrap();
                }
            });
            let images = images(&disk, A, personality);
            assert_eq!(images.contains(&None), !synced);
            assert!(images.iter().any(Option::is_some));
        }
    }
}

#[test]
fn synced_data_of_a_file_without_a_durable_name_vanishes_under_strict_only() {
    for personality in BOTH {
        let disk = on(SimDisk::new(), options(personality), async |env| {
            let file = env.open(A, OpenMode::CreateNew).await.unwrap();
            write(&file, 0, 3, WriteSync::Durable).await;
            file.sync_data().await.unwrap();
        });
        let vanished = images(&disk, A, personality).contains(&None);
        assert_eq!(vanished, personality == Personality::Strict);
    }
}

#[test]
fn a_removed_file_may_come_back_with_its_content_until_its_directory_is_synced() {
    for personality in BOTH {
        for synced in [false, true] {
            let disk = on(two_files(), options(personality), async |env| {
                env.remove(A).await.unwrap();
                if synced {
                    env.sync_dir(Dir::Root).await.unwrap();
                }
                assert_eq!(env.list(Dir::Root).await.unwrap(), [B]);
            });
            assert_eq!(disk.read_file(A), None);
            let images = images(&disk, A, personality);
            assert!(images.contains(&None));
            assert_eq!(images.contains(&Some(vec![1; 4 * 4096])), !synced);
        }
    }
}

#[test]
fn a_name_that_is_removed_and_created_again_leads_to_either_file_or_none() {
    let disk = on(two_files(), SimOptions::default(), async |env| {
        env.remove(A).await.unwrap();
        let file = env.open(A, OpenMode::CreateNew).await.unwrap();
        write(&file, 0, 9, WriteSync::Durable).await;
    });
    let images = images(&disk, A, Personality::Strict);
    let expected = BTreeSet::from([None, Some(vec![1; 4 * 4096]), Some(vec![9; 4096])]);
    assert_eq!(images, expected);
}

#[test]
fn a_file_removed_while_open_stays_usable_and_gives_its_space_back_when_closed() {
    let options = SimOptions { free_bytes: Some(1 << 20), ..SimOptions::default() };
    on(two_files(), options, async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        env.remove(A).await.unwrap();
        env.sync_dir(Dir::Root).await.unwrap();
        let (buf, read) = file.read_at(0, page(0)).await;
        read.unwrap();
        assert_eq!(buf.as_slice()[0], 1);
        assert_eq!(env.space().await.unwrap().available_bytes, 1 << 20);
        drop(file);
        assert_eq!(env.space().await.unwrap().available_bytes, (1 << 20) + 4 * 4096);
    });
}

#[test]
fn a_write_in_flight_may_be_lost_kept_torn_or_noise() {
    let world = SimWorld::new(SimOptions::default(), two_files());
    let fork = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&fork);
    world.on_io(move |_, event, disk| {
        if event.op == FileOp::Write && event.phase == IoPhase::Submitted {
            *seen.borrow_mut() = Some(disk.clone());
        }
    });
    let env = world.env();
    let done = world.run(async {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        write(&file, 0, 9, WriteSync::Durable).await;
    });
    assert_eq!(done, Outcome::Done(()));
    drop(world.stop());
    let fork = fork.take().unwrap();
    assert_eq!(fork.in_flight_len(), 1);
    for personality in BOTH {
        let images = images(&fork, A, personality);
        let firsts = |byte: u8| images.iter().flatten().any(|image| image[..4096].iter().all(|b| *b == byte));
        assert!(firsts(1) && firsts(9));
        let sectors = || images.iter().flatten().flat_map(|image| image[..4096].chunks(512));
        assert!(sectors().any(|sector| sector.iter().any(|byte| *byte != 1 && *byte != 9)), "noise");
        assert!(images.iter().flatten().all(|image| image[4096..].iter().all(|byte| *byte == 1)));
    }
    let kills: BTreeSet<u8> = (0..50).map(|seed| fork.kill(seed).read_file(A).unwrap()[0]).collect();
    assert_eq!(kills, BTreeSet::from([1, 9]));
}

#[test]
fn a_killed_process_leaves_completed_writes_that_power_loss_can_still_take() {
    let disk = on(two_files(), SimOptions::default(), async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        write(&file, 0, 9, WriteSync::None).await;
    });
    for seed in 0..50 {
        assert_eq!(disk.kill(seed).read_file(A).unwrap()[0], 9);
    }
    let later: BTreeSet<u8> = (0..50)
        .map(|seed| disk.kill(seed).crash(seed, Personality::Strict).read_file(A).unwrap()[0])
        .collect();
    assert_eq!(later, BTreeSet::from([1, 9]));
}

#[test]
fn unsynced_growth_keeps_length_and_content_apart_under_strict() {
    let disk = on(two_files(), SimOptions::default(), async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        write(&file, 4, 9, WriteSync::None).await;
    });
    let images = images(&disk, A, Personality::Strict);
    assert!(images.iter().flatten().any(|image| image.len() == 4 * 4096));
    let grown: Vec<_> = images.iter().flatten().filter(|image| image.len() == 5 * 4096).collect();
    assert!(grown.iter().any(|image| image[4 * 4096..].iter().all(|byte| *byte == 0)));
    assert!(grown.iter().any(|image| image[4 * 4096..].iter().all(|byte| *byte == 9)));
}

#[test]
fn ext4_never_shows_part_of_a_write_to_pages_that_were_never_written() {
    let disk = on(SimDisk::new(), options(Personality::Ext4), async |env| {
        let file = env.open(A, OpenMode::CreateNew).await.unwrap();
        for at in 0..4 {
            write(&file, at, 9, WriteSync::None).await;
        }
    });
    let images = images(&disk, A, Personality::Ext4);
    let lens: BTreeSet<_> = images.iter().map(|image| image.as_ref().map(Vec::len)).collect();
    assert_eq!(lens, BTreeSet::from([None, Some(0), Some(4096), Some(8192), Some(12288), Some(16384)]));
    assert!(images.iter().flatten().all(|image| image.iter().all(|byte| *byte == 9)));
}

#[test]
fn zero_fill_is_durable_with_its_length_and_replaces_what_was_there() {
    for personality in BOTH {
        let disk = on(two_files(), options(personality), async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            write(&file, 1, 5, WriteSync::None).await;
            file.zero_fill(1 << 20).await.unwrap();
            assert_eq!(file.len().await.unwrap(), 1 << 20);
        });
        assert_eq!(images(&disk, A, personality), BTreeSet::from([Some(vec![0; 1 << 20])]));
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let shard = FileName { dir: Dir::Shard(3), ..A };
    on(two_files(), SimOptions::default(), async |env| {
        let file = env.open(A, OpenMode::Read).await.unwrap();
        let short = file.read_at(3 * 4096, pages(0, 2)).await.1;
        assert!(matches!(short, Err(Error::ShortFile { wanted: 20480, len: 16384, .. })));
        assert!(matches!(file.read_at(1, page(0)).await.1, Err(Error::Os { errno: libc::EINVAL, .. })));
        let denied = file.write_at(0, page(0), WriteSync::None).await.1;
        assert!(matches!(denied, Err(Error::Os { errno: libc::EBADF, .. })));
        let far = env.open(B, OpenMode::ReadWrite).await.unwrap();
        let far = far.write_at(u64::MAX - 4095, page(0), WriteSync::None).await.1;
        assert!(matches!(far, Err(Error::Os { errno: libc::EFBIG, .. })));
        assert!(matches!(env.open(A, OpenMode::CreateNew).await, Err(Error::AlreadyExists { .. })));
        assert!(matches!(env.open(shard, OpenMode::CreateNew).await, Err(Error::NotFound { .. })));
        assert!(matches!(env.open(shard, OpenMode::ReadWrite).await, Err(Error::NotFound { .. })));
        assert!(matches!(env.remove(shard).await, Err(Error::NotFound { .. })));
        assert!(matches!(env.sync_dir(Dir::Shard(3)).await, Err(Error::NotFound { .. })));
        assert_eq!(env.list(Dir::Shard(3)).await.unwrap(), []);
        env.create_dir(Dir::Shard(3)).await.unwrap();
        env.sync_dir(Dir::Shard(3)).await.unwrap();
        env.open(shard, OpenMode::CreateNew).await.unwrap();
        assert_eq!(env.list(Dir::Shard(3)).await.unwrap(), [shard]);
    });
}

#[test]
fn a_fork_does_not_see_later_changes() {
    let disk = two_files();
    let mut fork = disk.clone();
    assert!(fork.flip_bit(A, 5000, 3));
    assert!(fork.truncate_file(B, 10));
    assert_eq!(disk.read_file(A).unwrap()[5000], 1);
    assert_eq!(fork.read_file(A).unwrap()[5000], 9);
    assert_eq!(disk.read_file(B).unwrap().len(), 4 * 4096);
    assert_eq!(fork.read_file(B).unwrap(), [1; 10]);
    assert!(fork.remove_file(A) && !fork.remove_file(A));
    assert_eq!((disk.files(), fork.files()), (vec![A, B], vec![B]));
    assert!(!fork.corrupt(B, 10, |_| unreachable!("no byte at the end")));
    assert!(fork.truncate_file(B, 5000));
    assert_eq!(fork.read_file(B).unwrap()[10..], [0; 4990]);
}

#[test]
fn names_in_flight_at_a_crash_or_kill_are_there_or_not() {
    let shard = Dir::Shard(1);
    for op in [FileOp::Open, FileOp::Remove, FileOp::CreateDir] {
        let mut disk = SimDisk::new();
        disk.write_file(B, &[1; 4096]);
        let world = SimWorld::new(SimOptions { crash_at: Some(0), ..SimOptions::default() }, disk);
        let env = world.env();
        let outcome = world.run(async {
            match op {
                FileOp::Open => drop(env.open(A, OpenMode::CreateNew).await),
                FileOp::Remove => drop(env.remove(B).await),
                _ => drop(env.create_dir(shard).await),
            }
        });
        assert_eq!(outcome, Outcome::Crashed);
        let disk = world.stop();
        let happened = |image: SimDisk| match op {
            FileOp::Open => image.read_file(A) == Some(Vec::new()),
            FileOp::Remove => image.read_file(B).is_none(),
            _ => image.dirs.contains_key(&shard),
        };
        let both = BTreeSet::from([false, true]);
        for personality in BOTH {
            let seen: BTreeSet<bool> = (0..50).map(|seed| happened(disk.crash(seed, personality))).collect();
            assert_eq!(seen, both, "{op} {personality:?}");
        }
        let seen: BTreeSet<bool> = (0..50).map(|seed| happened(disk.kill(seed))).collect();
        assert_eq!(seen, both, "{op} kill");
    }
}
