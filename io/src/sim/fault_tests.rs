//! Injected faults.

use super::disk_tests::{A, B, on, page, pages};
use super::{Fault, Faults, Outcome, Personality, SimDisk, SimOptions, SimWorld};
use crate::env::{Dir, Env, File, FileKind, OpenMode, WriteSync};
use crate::error::Error;

fn ones(name: crate::env::FileName, pages: usize) -> SimDisk {
    let mut disk = SimDisk::new();
    disk.write_file(name, &vec![1; pages * 4096]);
    disk
}

fn with(faults: Faults) -> SimOptions {
    SimOptions { faults, ..SimOptions::default() }
}

#[test]
fn an_error_at_an_index_hits_that_operation_only() {
    // Index 0 and 1 are the open, 2 and 3 the write, 4 and 5 the sync.
    let faults = Faults { at: vec![(4, Fault::Errno(libc::EIO))], ..Faults::default() };
    on(ones(A, 4), with(faults), async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        file.write_at(0, page(2), WriteSync::None).await.1.unwrap();
        assert!(matches!(file.sync_data().await, Err(Error::Os { errno: libc::EIO, .. })));
        file.sync_data().await.unwrap();
    });
}

#[test]
fn a_sync_that_succeeds_after_a_failed_one_does_not_bring_the_data_back() {
    let lost = (0..100).filter(|seed| {
        let faults = Faults { at: vec![(4, Fault::Errno(libc::EIO))], ..Faults::default() };
        let options = SimOptions { seed: *seed, ..with(faults) };
        let disk = on(ones(A, 1), options, async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            file.write_at(0, page(2), WriteSync::None).await.1.unwrap();
            file.sync_data().await.unwrap_err();
            file.sync_data().await.unwrap();
        });
        disk.crash(*seed, Personality::Strict).read_file(A).unwrap()[0] == 1
    });
    assert!(lost.count() > 5);
}

#[test]
fn each_kind_of_error_hits_its_operations() {
    let always = 10_000;
    let cases = [
        (Faults { read_error: always, ..Faults::default() }, [true, false, false]),
        (Faults { write_error: always, ..Faults::default() }, [false, true, false]),
        (Faults { sync_error: always, ..Faults::default() }, [false, false, true]),
        (Faults { any_error: always, ..Faults::default() }, [true, true, true]),
        (Faults { any_error: always, kinds: vec![FileKind::Segment], ..Faults::default() }, [false; 3]),
        (Faults { any_error: always, kinds: vec![FileKind::Wal], ..Faults::default() }, [true; 3]),
    ];
    for (faults, expected) in cases {
        let world = SimWorld::new(SimOptions::default(), ones(A, 4));
        let env = world.env();
        let failed = world.run(async {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            world.set_faults(faults);
            let read = file.read_at(0, page(0)).await.1.is_err();
            let write = file.write_at(0, page(1), WriteSync::None).await.1.is_err();
            let sync = file.sync_data().await.is_err();
            world.set_faults(Faults::default());
            file.write_at(0, page(1), WriteSync::Durable).await.1.unwrap();
            [read, write, sync]
        });
        assert_eq!(failed, Outcome::Done(expected));
        drop(world.stop());
    }
}

#[test]
fn the_filesystem_stays_read_only_after_an_error_if_asked_to() {
    let faults =
        Faults { at: vec![(2, Fault::Errno(libc::EIO))], read_only_after_error: true, ..Faults::default() };
    on(ones(A, 4), with(faults), async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        assert!(matches!(file.sync_data().await, Err(Error::Os { errno: libc::EIO, .. })));
        let write = file.write_at(0, page(2), WriteSync::None).await.1;
        assert!(matches!(write, Err(Error::Os { errno: libc::EROFS, .. })));
        assert!(matches!(env.remove(A).await, Err(Error::Os { errno: libc::EROFS, .. })));
        assert!(matches!(env.open(B, OpenMode::CreateNew).await, Err(Error::Os { errno: libc::EROFS, .. })));
        let (buf, read) = file.read_at(0, page(0)).await;
        read.unwrap();
        assert!(buf.as_slice().iter().all(|byte| *byte == 1));
    });
}

#[test]
fn space_runs_out_at_the_limit_and_overwriting_needs_none() {
    let options = SimOptions { free_bytes: Some(3 * 4096), ..SimOptions::default() };
    on(ones(A, 4), options, async |env| {
        let a = env.open(A, OpenMode::ReadWrite).await.unwrap();
        a.write_at(0, pages(2, 4), WriteSync::Durable).await.1.unwrap();
        let b = env.open(B, OpenMode::CreateNew).await.unwrap();
        let full = b.write_at(0, pages(3, 4), WriteSync::None).await.1;
        assert!(matches!(full, Err(Error::OutOfSpace { needed: 16384, .. })));
        assert!(matches!(b.zero_fill(1 << 20).await, Err(Error::OutOfSpace { .. })));
        b.zero_fill(3 * 4096).await.unwrap();
        assert_eq!(env.space().await.unwrap().available_bytes, 0);
        drop(b);
        env.remove(B).await.unwrap();
        assert_eq!(env.space().await.unwrap().available_bytes, 3 * 4096);
    });
}

#[test]
fn allocated_space_is_gone_for_others_until_the_file_is() {
    let options = SimOptions { free_bytes: Some(4 * 4096), ..SimOptions::default() };
    let world = SimWorld::new(options, ones(A, 1));
    let env = world.env();
    let done = world.run(async {
        let file = env.open(B, OpenMode::CreateNew).await.unwrap();
        assert!(matches!(file.allocate(5 * 4096).await, Err(Error::OutOfSpace { needed: 20480, .. })));
        file.allocate(4 * 4096).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 4 * 4096);
        let (buf, read) = file.read_at(3 * 4096, page(7)).await;
        read.unwrap();
        assert!(buf.as_slice().iter().all(|byte| *byte == 0));
        file.write_at(0, pages(3, 4), WriteSync::Durable).await.1.unwrap();
        drop(file);
        let third = crate::env::FileName { number: 3, ..B };
        let full = env.open(third, OpenMode::CreateNew).await;
        assert!(matches!(full, Err(Error::OutOfSpace { .. })), "a name needs room too");
        world.set_free_bytes(Some(4096));
        env.open(third, OpenMode::CreateNew).await.unwrap();
        world.set_free_bytes(Some(0));
        env.remove(B).await.unwrap();
        let space = env.space().await.unwrap();
        assert_eq!((space.available_bytes, space.total_bytes), (4 * 4096, 5 * 4096));
    });
    assert_eq!(done, Outcome::Done(()));
    drop(world.stop());
}

#[test]
fn released_space_is_there_for_others_and_a_crash_may_bring_the_bytes_back() {
    let options = SimOptions { free_bytes: Some(0), ..SimOptions::default() };
    let mut images = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let world = SimWorld::new(SimOptions { seed, ..options.clone() }, ones(A, 4));
        let env = world.env();
        let done = world.run(async {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            file.release(4096, 3 * 4096).await.unwrap();
            assert_eq!(env.space().await.unwrap().available_bytes, 2 * 4096);
            assert_eq!(file.len().await.unwrap(), 4 * 4096);
            let (buf, read) = file.read_at(0, pages(7, 4)).await;
            read.unwrap();
            let firsts: Vec<u8> = buf.as_slice().chunks(4096).map(|page| page[0]).collect();
            assert_eq!(firsts, [1, 0, 0, 1]);
            let other = env.open(B, OpenMode::CreateNew).await.unwrap();
            other.write_at(0, page(3), WriteSync::None).await.1.unwrap();
        });
        assert_eq!(done, Outcome::Done(()));
        let left = world.stop().crash(seed, Personality::Strict).read_file(A).unwrap();
        images.insert(left.chunks(4096).map(|page| page[0]).collect::<Vec<u8>>());
    }
    assert_eq!(images.into_iter().collect::<Vec<_>>(), [vec![1, 0, 0, 1], vec![1, 1, 1, 1]]);
}

#[test]
fn a_flipped_bit_is_in_the_answer_and_not_in_the_file() {
    let faults = Faults { at: vec![(2, Fault::BitFlip)], ..Faults::default() };
    on(ones(A, 1), with(faults), async |env| {
        let file = env.open(A, OpenMode::Read).await.unwrap();
        let differing = |buf: &[u8]| buf.iter().map(|byte| (byte ^ 1).count_ones()).sum::<u32>();
        assert_eq!(differing(file.read_at(0, page(0)).await.0.as_slice()), 1);
        assert_eq!(differing(file.read_at(0, page(0)).await.0.as_slice()), 0);
    });
}

#[test]
fn a_lost_write_reports_success_and_changes_nothing() {
    let faults = Faults { lost_write: 10_000, ..Faults::default() };
    let disk = on(ones(A, 2), with(faults), async |env| {
        let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
        file.write_at(0, page(2), WriteSync::Durable).await.1.unwrap();
    });
    assert_eq!(disk.read_file(A).unwrap(), [1; 8192]);
}

#[test]
fn a_misdirected_write_lands_elsewhere_in_the_file() {
    let mut elsewhere = 0;
    for seed in 0..20 {
        let faults = Faults { misdirected_write: 10_000, ..Faults::default() };
        let disk = on(ones(A, 8), SimOptions { seed, ..with(faults) }, async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            file.write_at(0, page(2), WriteSync::Durable).await.1.unwrap();
        });
        let bytes = disk.read_file(A).unwrap();
        assert_eq!((bytes[0], bytes.len()), (1, 8 * 4096));
        elsewhere += bytes.iter().filter(|byte| **byte == 2).count();
    }
    assert!(elsewhere >= 10 * 4096);
}

#[test]
fn a_slow_operation_lets_later_ones_pass() {
    let faults = Faults { at: vec![(2, Fault::Slow)], ..Faults::default() };
    on(ones(A, 1), with(faults), async |env| {
        let file = env.open(A, OpenMode::Read).await.unwrap();
        let start = env.now();
        let slow = std::pin::pin!(file.read_at(0, page(0)));
        let quick = std::pin::pin!(env.list(Dir::Root));
        let first = futures_util::future::select(slow, quick).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)));
        assert!(env.now() - start < std::time::Duration::from_millis(1));
    });
}

#[test]
fn a_read_that_races_a_write_sees_any_of_its_sectors() {
    let mut mixed = 0;
    for seed in 0..50 {
        on(ones(A, 1), SimOptions::with_seed(seed), async |env| {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            let write = file.write_at(0, page(2), WriteSync::None);
            let ((_, written), (buf, read)) =
                futures_util::future::join(write, file.read_at(0, page(0))).await;
            written.unwrap();
            read.unwrap();
            assert!(buf.as_slice().chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
            mixed += u32::from(buf.as_slice()[..].windows(2).any(|pair| pair[0] != pair[1]));
        });
    }
    assert!(mixed > 10);
}
