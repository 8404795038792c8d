//! The simulated cold target: what it promises, what a crash leaves, and injected faults.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::disk_tests::on;
use super::{
    ColdFaults, Fault, Faults, IoPhase, Outcome, Personality, SimCold, SimDisk, SimOptions, SimWorld,
};
use crate::cold::{ColdFault, ColdStore, ColdUpload};
use crate::env::{Dir, Env, FileKind, FileName};
use crate::error::{Error, FileOp, Result};

const A: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Cold, number: 1 };
const B: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Wal, number: 2 };
const ELSEWHERE: FileName = FileName { dir: Dir::Root, kind: FileKind::Segment, number: 2 };
const BOTH: [Personality; 2] = [Personality::Strict, Personality::Ext4];

fn options(seed: u64) -> SimOptions {
    SimOptions { cold: true, ..SimOptions::with_seed(seed) }
}

async fn store(cold: &SimCold, name: FileName, parts: &[&[u8]]) -> Result<()> {
    let mut upload = cold.upload(name).await?;
    for part in parts {
        upload.append(part.to_vec()).await?;
    }
    upload.finish().await
}

fn fault<T: std::fmt::Debug>(result: Result<T>) -> ColdFault {
    match result {
        Err(Error::Cold { fault, .. }) => fault,
        other => panic!("not a cold error: {other:?}"),
    }
}

/// A disk with the bytes 1 to 9 under A.
fn nine() -> SimDisk {
    let mut disk = SimDisk::new();
    disk.write_cold(A, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    disk
}

/// Runs a client against a cold target with these faults.
fn with<Fut: Future<Output = ()>>(faults: ColdFaults, client: impl FnOnce(SimWorld, SimCold) -> Fut) {
    let world = SimWorld::new(options(1), nine());
    world.set_cold_faults(faults);
    let cold = world.env().cold().unwrap();
    assert_eq!(world.run(client(world.clone(), cold)), Outcome::Done(()));
    drop(world.stop());
}

#[test]
fn an_object_is_there_once_it_is_finished_and_not_before() {
    let disk = on(SimDisk::new(), options(1), async |env| {
        let cold = env.cold().unwrap();
        let mut upload = cold.upload(A).await.unwrap();
        upload.append(vec![1, 2, 3]).await.unwrap();
        upload.append(Vec::new()).await.unwrap();
        upload.append(vec![4, 5]).await.unwrap();
        assert_eq!(fault(cold.length(A).await), ColdFault::Missing);
        assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Missing);
        assert_eq!(cold.list(A.dir).await.unwrap(), []);
        upload.finish().await.unwrap();
        assert_eq!(cold.length(A).await.unwrap(), 5);
        assert_eq!(cold.read(A, 1, 3).await.unwrap(), [2, 3, 4]);
        assert!(cold.read(A, 5, 0).await.unwrap().is_empty());
        assert_eq!(fault(cold.read(A, 3, 3).await), ColdFault::Short);
        assert_eq!(fault(cold.read(A, u64::MAX, 2).await), ColdFault::Short);
        store(&cold, B, &[&[7]]).await.unwrap();
        store(&cold, ELSEWHERE, &[&[8]]).await.unwrap();
        store(&cold, A, &[&[9, 9]]).await.unwrap();
        assert_eq!(cold.list(A.dir).await.unwrap(), [B, A]);
        assert_eq!(cold.list(Dir::Root).await.unwrap(), [ELSEWHERE]);
        cold.remove(B).await.unwrap();
        cold.remove(B).await.unwrap();
    });
    assert_eq!(disk.cold_files(), [ELSEWHERE, A]);
    assert_eq!(disk.read_cold(A).unwrap(), [9, 9]);
    assert!(disk.files().is_empty(), "nothing of it is in the store's own directory");
}

#[test]
fn there_is_no_cold_target_unless_asked_for() {
    on(nine(), SimOptions::default(), async |env| assert!(env.cold().is_none()));
}

#[test]
fn a_dropped_upload_leaves_nothing() {
    let disk = on(nine(), options(1), async |env| {
        let cold = env.cold().unwrap();
        let mut upload = cold.upload(A).await.unwrap();
        upload.append(vec![7]).await.unwrap();
        drop(upload);
        let again = cold.upload(B).await.unwrap();
        drop(again.finish());
    });
    assert_eq!(disk.read_cold(A).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((disk.cold_files(), disk.cold_remnants()), (vec![A], vec![]));
}

/// Replaces A, writes B, and removes A, with the power failing at `crash_at`; and how far it got.
fn cut_off(seed: u64, crash_at: Option<u64>) -> (SimDisk, usize, u64) {
    let world = SimWorld::new(SimOptions { crash_at, ..options(seed) }, nine());
    let cold = world.env().cold().unwrap();
    let done = Rc::new(Cell::new(0));
    let progress = Rc::clone(&done);
    let outcome = world.run(async move {
        store(&cold, A, &[&[5; 10], &[6; 10]]).await.unwrap();
        progress.set(1);
        store(&cold, B, &[&[7; 3]]).await.unwrap();
        progress.set(2);
        cold.remove(A).await.unwrap();
        progress.set(3);
    });
    assert_eq!(outcome == Outcome::Crashed, crash_at.is_some());
    (world.stop(), done.get(), world.io_count())
}

/// How far a run got; then whether A is the new object, whether B is there, and the remnants.
type Seen = (usize, bool, bool, Vec<FileName>);

#[test]
fn after_a_crash_at_any_point_objects_are_whole_and_what_was_finished_is_there() {
    let old = vec![1, 2, 3, 4, 5, 6, 7, 8, 9];
    let new = [[5; 10], [6; 10]].concat();
    let events = cut_off(1, None).2;
    let mut seen = BTreeSet::new();
    for at in 0..events {
        for seed in 0..20 {
            let (disk, done, _) = cut_off(seed, Some(at));
            for image in
                BOTH.map(|personality| disk.crash(seed, personality)).into_iter().chain([disk.kill(seed)])
            {
                let (a, b) = (image.read_cold(A), image.read_cold(B));
                let a_is = |bytes: &Vec<u8>| a.as_ref() == Some(bytes);
                match done {
                    0 => assert!((a_is(&old) || a_is(&new)) && b.is_none()),
                    1 => assert!(a_is(&new) && b.as_ref().is_none_or(|b| *b == [7; 3])),
                    2 => assert!((a_is(&new) || a.is_none()) && b.is_some()),
                    _ => assert!(a.is_none() && b.is_some()),
                }
                seen.insert((done, a.is_some_and(|a| a == new), b.is_some(), image.cold_remnants()));
            }
        }
    }
    let found = |wanted: &dyn Fn(&Seen) -> bool| seen.iter().any(wanted);
    assert!(found(&|(done, new, ..)| *done == 0 && *new), "a finish in flight that happened");
    assert!(found(&|(done, _, b, _)| *done == 1 && *b), "another");
    assert!(found(&|(done, new, ..)| *done == 2 && !*new), "a removal in flight that happened");
    assert!(found(&|(done, .., remnants)| *done == 0 && remnants == &[A]), "a remnant");
    assert!(found(&|(done, .., remnants)| *done == 1 && remnants.is_empty()), "an upload without a trace");
}

#[test]
fn remnants_of_an_earlier_life_are_removed_by_list_and_those_of_this_one_go_on() {
    let world = SimWorld::new(options(1), nine());
    let cold = world.env().cold().unwrap();
    let kept = world.run(async { cold.upload(B).await.unwrap() }).done().unwrap();
    let disk = world.stop();
    drop(kept);
    let disk = on(disk, options(2), async |env| {
        let cold = env.cold().unwrap();
        let mut upload = cold.upload(FileName { number: 9, ..A }).await.unwrap();
        assert_eq!(cold.list(Dir::Root).await.unwrap(), []);
        assert_eq!(cold.list(A.dir).await.unwrap(), [A]);
        upload.append(vec![1]).await.unwrap();
        upload.finish().await.unwrap();
    });
    assert!(disk.cold_remnants().is_empty());
    assert_eq!(disk.cold_files().len(), 2);

    let world = SimWorld::new(options(1), nine());
    let cold = world.env().cold().unwrap();
    let kept = world.run(async { cold.upload(B).await.unwrap() }).done().unwrap();
    let disk = world.stop();
    drop(kept);
    let disk = on(disk, options(2), async |env| env.cold().unwrap().list(Dir::Root).await.map(drop).unwrap());
    assert_eq!(disk.cold_remnants(), [B], "only those of the directory that is listed");
}

#[test]
fn every_operation_has_two_events_that_name_it_as_cold() {
    let world = SimWorld::new(options(1), nine());
    let cold = world.env().cold().unwrap();
    let events = Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = Rc::clone(&events);
    world.on_io(move |_, event, _| seen.borrow_mut().push((event.phase, event.op, event.cold, event.errno)));
    let outcome = world.run(async {
        store(&cold, B, &[&[1]]).await.unwrap();
        cold.read(B, 0, 2).await.unwrap_err();
        cold.remove(B).await.unwrap();
        cold.length(B).await.unwrap_err();
        cold.list(B.dir).await.unwrap();
    });
    assert_eq!(outcome, Outcome::Done(()));
    let expected = [
        (FileOp::Open, 0),
        (FileOp::Write, 0),
        (FileOp::Finish, 0),
        (FileOp::Read, libc::ENODATA),
        (FileOp::Remove, 0),
        (FileOp::Length, libc::ENOENT),
        (FileOp::List, 0),
    ];
    let expected = expected
        .into_iter()
        .flat_map(|(op, errno)| [(IoPhase::Submitted, op, true, 0), (IoPhase::Completed, op, true, errno)]);
    assert_eq!(*events.borrow(), expected.collect::<Vec<_>>());
    assert_eq!(world.cold_count(), 7);
    drop(world.stop());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| {
        let world = SimWorld::new(options(seed), nine());
        world.set_cold_faults(ColdFaults {
            error: 3_000,
            slow: 3_000,
            short: 3_000,
            ..ColdFaults::default()
        });
        let cold = world.env().cold().unwrap();
        let outcome = world.run(async {
            for _ in 0..20 {
                drop(store(&cold, B, &[&[1]]).await);
                drop(cold.read(B, 0, 1).await);
            }
        });
        assert_eq!(outcome, Outcome::Done(()));
        drop(world.stop());
        world.trace_hash()
    };
    assert_eq!(hash(5), hash(5));
    assert_ne!(hash(5), hash(6));
}

#[test]
fn an_unreachable_target_comes_back() {
    with(ColdFaults::default(), async |world, cold| {
        let mut upload = cold.upload(B).await.unwrap();
        world.set_cold_faults(ColdFaults { unreachable: true, ..ColdFaults::default() });
        assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Unreachable);
        assert_eq!(fault(cold.list(A.dir).await), ColdFault::Unreachable);
        assert_eq!(fault(cold.length(A).await), ColdFault::Unreachable);
        assert!(matches!(cold.upload(A).await, Err(Error::Cold { fault: ColdFault::Unreachable, .. })));
        assert_eq!(fault(upload.append(vec![1]).await), ColdFault::Unreachable);
        world.set_cold_faults(ColdFaults::default());
        assert_eq!(
            fault(upload.append(vec![1]).await),
            ColdFault::Other,
            "what failed cannot be gone on with"
        );
        assert_eq!(fault(upload.finish().await), ColdFault::Other);
        assert_eq!(cold.read(A, 0, 1).await.unwrap(), [1]);
        store(&cold, B, &[&[1]]).await.unwrap();
    });
}

#[test]
fn a_change_that_was_reported_as_failed_may_have_been_made_as_a_whole() {
    let mut finished = 0;
    let mut removed = 0;
    for seed in 0..40 {
        let world = SimWorld::new(options(seed), nine());
        let cold = world.env().cold().unwrap();
        world.set_cold_faults(ColdFaults {
            at: vec![(2, ColdFault::TimedOut), (3, ColdFault::Unreachable)],
            ..ColdFaults::default()
        });
        let outcome = world.run(async {
            assert_eq!(fault(store(&cold, B, &[&[1, 2]]).await), ColdFault::TimedOut);
            assert_eq!(fault(cold.remove(A).await), ColdFault::Unreachable);
        });
        assert_eq!(outcome, Outcome::Done(()));
        let disk = world.stop();
        assert!(disk.read_cold(B).is_none_or(|bytes| bytes == [1, 2]));
        finished += u32::from(disk.read_cold(B).is_some());
        removed += u32::from(disk.read_cold(A).is_none());
    }
    assert!((5..35).contains(&finished) && (5..35).contains(&removed), "{finished} {removed}");
}

#[test]
fn exact_faults_hit_the_nth_cold_operation_and_the_exact_io_index() {
    let at = vec![(1, ColdFault::Denied)];
    with(ColdFaults { at, ..ColdFaults::default() }, async |_, cold| {
        assert_eq!(cold.length(A).await.unwrap(), 9);
        assert_eq!(fault(cold.length(A).await), ColdFault::Denied);
        assert_eq!(cold.length(A).await.unwrap(), 9);
    });
    let at = vec![(0, Fault::Cold(ColdFault::Short)), (2, Fault::Errno(libc::EIO))];
    let options = SimOptions { faults: Faults { at, any_error: 10_000, ..Faults::default() }, ..options(1) };
    on(nine(), options, async |env| {
        let cold = env.cold().unwrap();
        assert_eq!(fault(cold.read(A, 0, 9).await), ColdFault::Short);
        assert_eq!(fault(cold.read(A, 0, 9).await), ColdFault::Unreachable);
        assert_eq!(cold.read(A, 0, 9).await.unwrap().len(), 9, "other faults are of the store's directory");
        assert!(env.list(Dir::Root).await.is_err());
    });
}

#[test]
fn answers_are_cut_short_or_have_a_flipped_bit_and_the_object_is_unharmed() {
    with(ColdFaults { short: 10_000, ..ColdFaults::default() }, async |world, cold| {
        assert_eq!(fault(cold.read(A, 0, 9).await), ColdFault::Short);
        assert_eq!(cold.length(A).await.unwrap(), 9, "only reads have answers to be cut");
        world.set_cold_faults(ColdFaults { bit_flip: 10_000, ..ColdFaults::default() });
        let flipped = cold.read(A, 0, 9).await.unwrap();
        let differing: u32 =
            flipped.iter().zip(1_u8..).map(|(found, byte)| (found ^ byte).count_ones()).sum();
        assert_eq!(differing, 1);
        assert!(cold.read(A, 0, 0).await.unwrap().is_empty());
        world.set_cold_faults(ColdFaults::default());
        assert_eq!(cold.read(A, 0, 9).await.unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    });
}

#[test]
fn a_full_target_takes_no_more_and_gives_back_what_is_dropped() {
    with(ColdFaults { capacity_bytes: Some(12), ..ColdFaults::default() }, async |_, cold| {
        assert_eq!(fault(store(&cold, B, &[&[0; 2], &[0; 2]]).await), ColdFault::Full);
        store(&cold, B, &[&[0; 3]]).await.unwrap();
        cold.remove(A).await.unwrap();
        store(&cold, A, &[&[0; 9]]).await.unwrap();
    });
}

#[test]
fn a_slow_target_takes_its_time() {
    let delay = Duration::from_secs(2);
    with(ColdFaults { delay, slow: 10_000, ..ColdFaults::default() }, async |world, cold| {
        let began = world.now();
        cold.length(A).await.unwrap();
        assert!(world.now() - began >= delay + Duration::from_millis(20));
    });
}

#[test]
fn a_test_can_damage_objects() {
    let mut disk = nine();
    assert!(disk.corrupt_cold(A, 8, |bytes| bytes.fill(0)));
    assert!(!disk.corrupt_cold(A, 9, |bytes| bytes.fill(0)));
    assert!(!disk.corrupt_cold(B, 0, |bytes| bytes.fill(0)));
    assert_eq!(disk.read_cold(A).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert!(disk.truncate_cold(A, 2) && !disk.truncate_cold(B, 2));
    assert_eq!(disk.read_cold(A).unwrap(), [1, 2]);
    assert!(disk.remove_cold(A) && !disk.remove_cold(A));
}
