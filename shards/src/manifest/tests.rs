//! The manifest on a machine whose power fails at every moment.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::sim::{Rng, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Dir, FileKind, FileName};

use super::edit::tests::{catalog, segment};
use super::*;
use crate::ids::StoreId;
use crate::log::testing::{IDENTITY, empty_disk, images, moments, run};
use crate::visibility::Rollback;

/// So small that a few changes fill a file.
const CONFIG: ManifestConfig = ManifestConfig { room_bytes: 2 * UNIT_BYTES };

/// The states that a crash may leave: those from the last acknowledged one on.
#[derive(Debug, Clone, Default)]
struct Progress {
    states: Vec<ManifestState>,
    acknowledged: usize,
}

fn first_state() -> ManifestState {
    ManifestState { catalog: catalog(), ..ManifestState::default() }
}

/// The nth change of a store that flushes and compacts.
fn change(state: &ManifestState, nth: u64) -> Edit {
    let number = state.next_segment;
    let mut edit = Edit { next_segment: number + 1, ..Edit::default() };
    if nth % 4 == 3 && state.segments.len() > 2 {
        edit.removed = state.segments.iter().take(2).map(|segment| segment.number).collect();
        edit.added = vec![segment(number, nth * 10 + 1)];
        edit.horizon = Some(Horizon { height: Height(nth), seq: Seq(nth) });
    } else {
        edit.added = vec![segment(number, nth * 10)];
        edit.flushed = Some(Seq(nth * 10 + 4));
        edit.rollbacks = Some(vec![Rollback { seq: Seq(nth * 10), first_dead: Seq(nth * 10 - 2) }]);
    }
    edit
}

fn none(env: &SimEnv) -> Rc<Reserve<SimEnv>> {
    Rc::new(Reserve::none(env, IDENTITY.shard))
}

async fn apply_next(manifest: &Manifest<SimEnv>, progress: &Rc<RefCell<Progress>>, nth: u64) {
    let edit = change(&manifest.state(), nth);
    let next = manifest.state().with(&edit).unwrap();
    let acknowledged = {
        let mut progress = progress.borrow_mut();
        progress.states.push(next.clone());
        progress.states.len() - 1
    };
    manifest.apply(|| edit).await.unwrap();
    assert_eq!(*manifest.state(), next);
    progress.borrow_mut().acknowledged = acknowledged;
}

async fn script(env: SimEnv, progress: Rc<RefCell<Progress>>) {
    let manifest = Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap();
    progress.borrow_mut().states.push(first_state());
    for nth in 1..=20 {
        apply_next(&manifest, &progress, nth).await;
    }
}

fn recovered(disk: SimDisk) -> Result<RecoveredManifest> {
    run(disk, async |env: SimEnv| recover(&env, IDENTITY).await).0
}

fn manifest_files(disk: &SimDisk) -> Vec<FileName> {
    disk.files().into_iter().filter(|name| name.kind == FileKind::Manifest).collect()
}

fn check(found: &ManifestState, progress: &Progress) {
    let possible = &progress.states[progress.acknowledged..];
    assert!(possible.contains(found), "{found:?} is none of {possible:?}");
}

#[test]
fn a_crash_at_any_moment_leaves_an_acknowledged_state() {
    for seed in 0..3 {
        let (_, disk, moments) = moments(seed, empty_disk(), Progress::default(), script);
        assert_eq!(manifest_files(&disk).len(), 1);
        assert!(manifest_files(&disk)[0].number > 2, "files were replaced");
        for (at, (disk, progress)) in
            (0..).zip(&moments).filter(|(_, (_, progress))| !progress.states.is_empty())
        {
            for image in images(disk, at) {
                let found = recovered(image.clone()).unwrap();
                check(&found.state, progress);
                assert_eq!(recovered(image).unwrap(), found, "recovery changes nothing");
            }
        }
    }
}

#[test]
fn a_crash_while_opening_keeps_the_state() {
    let (_, _, first) = moments(7, empty_disk(), Progress::default(), script);
    let usable = (0..).zip(&first).filter(|(_, (_, progress))| !progress.states.is_empty());
    for (at, (disk, _)) in usable.step_by(5) {
        let image = disk.crash(at, op_engine_io::sim::Personality::Strict);
        let before = recovered(image.clone()).unwrap().state;
        let progress = Progress { states: vec![before], acknowledged: 0 };
        let (_, after, second) = moments(at, image, progress, async |env, progress| {
            let found = recover(&env, IDENTITY).await.unwrap();
            let manifest = found.open(&env, CONFIG, none(&env), Term(2)).await.unwrap();
            apply_next(&manifest, &progress, 50).await;
        });
        assert_eq!(manifest_files(&after).len(), 1, "leftovers are gone");
        assert_eq!(recovered(after).unwrap().term, Term(2));
        for (inner, (disk, progress)) in (0..).zip(&second) {
            for image in images(disk, inner) {
                check(&recovered(image).unwrap().state, progress);
            }
        }
    }
}

#[test]
fn a_crash_while_creating_can_be_followed_by_another_creation() {
    let (_, _, moments) = moments(1, empty_disk(), (), async |env, _| {
        Manifest::create(&env, IDENTITY, CONFIG, Term(0), first_state()).await.unwrap();
    });
    for (at, (disk, ())) in (0..).zip(&moments) {
        for image in images(disk, at) {
            let again = Identity { store: StoreId([9; 16]), ..IDENTITY };
            let (found, disk) = run(image, async move |env: SimEnv| {
                Manifest::create(&env, again, CONFIG, Term(0), first_state()).await.unwrap();
                recover(&env, again).await.unwrap().state
            });
            assert_eq!(found, first_state());
            assert_eq!(manifest_files(&disk).len(), 1);
        }
    }
}

/// A manifest of a snapshot and three changes, and the states that it went through.
fn small_manifest() -> (SimDisk, FileName, Vec<ManifestState>) {
    let progress = Rc::new(RefCell::new(Progress::default()));
    let shared = Rc::clone(&progress);
    let (_, disk) = run(empty_disk(), async move |env: SimEnv| {
        let config = ManifestConfig::default();
        let manifest = Manifest::create(&env, IDENTITY, config, Term(1), first_state()).await.unwrap();
        shared.borrow_mut().states.push(first_state());
        for nth in 1..=3 {
            apply_next(&manifest, &shared, nth).await;
        }
    });
    let name = manifest_files(&disk)[0];
    (disk, name, progress.take().states)
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (manifest, name, states) = small_manifest();
    let len = manifest.read_file(name).unwrap().len() as u64;
    for offset in (0..len).filter(|offset| offset % 4096 < 512) {
        let mut disk = manifest.clone();
        disk.flip_bit(name, offset, (offset % 8) as u8);
        match recovered(disk) {
            // Padding was hit, or the last record, which the WAL's chain then shows to be missing.
            Ok(found) => {
                // The header, the snapshot and three changes take a unit each; zeros follow.
                let in_last = (4 * 4096..5 * 4096).contains(&offset);
                assert!(found.state == states[3] || (in_last && found.state == states[2]), "offset {offset}");
            }
            Err(error) => assert!(matches!(error, Error::Corruption { .. }), "offset {offset}: {error:?}"),
        }
    }
}

#[test]
fn a_manifest_that_is_gone_or_of_another_shard_is_named() {
    let (manifest, name, _) = small_manifest();
    assert!(matches!(recovered(empty_disk()), Err(Error::Missing { .. })));
    let bytes = manifest.read_file(name).unwrap();
    let mut disk = empty_disk();
    disk.write_file(FileName { dir: Dir::Shard(1), ..name }, &bytes);
    let other = Identity { shard: ShardId(1), ..IDENTITY };
    let (found, _) = run(disk, async move |env: SimEnv| recover(&env, other).await);
    assert!(matches!(found, Err(Error::Foreign { .. })));
    for len in [0, 100, 4096, 4196, 8191] {
        let mut disk = manifest.clone();
        disk.truncate_file(name, len);
        assert!(matches!(recovered(disk), Err(Error::Corruption { .. })), "length {len}");
    }
}

#[test]
fn any_bytes_are_read_without_harm() {
    let (manifest, name, _) = small_manifest();
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut bytes = vec![0; rng.index(20_000)];
        rng.fill(&mut bytes);
        let mut disk = manifest.clone();
        disk.write_file(name, &bytes);
        assert!(matches!(recovered(disk), Err(Error::Corruption { .. })));
    }
}

#[test]
fn changes_of_several_tasks_queue() {
    let (_, disk) = run(empty_disk(), async |env: SimEnv| {
        let manifest = Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap();
        let both = [1, 2].map(|number| {
            let edit = Edit { added: vec![segment(number, 10)], next_segment: 3, ..Edit::default() };
            manifest.apply(|| edit)
        });
        for outcome in futures_util::future::join_all(both).await {
            outcome.unwrap();
        }
    });
    assert_eq!(recovered(disk).unwrap().state.segments, vec![segment(1, 10), segment(2, 10)]);
}

#[test]
fn a_change_that_does_not_fit_has_no_effect_and_a_failed_one_is_the_last() {
    use op_engine_io::sim::Faults;
    let world = SimWorld::new(SimOptions::with_seed(3), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        let manifest = Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap();
        let unfit = Edit { removed: vec![8], next_segment: 1, ..Edit::default() };
        assert!(matches!(manifest.apply(|| unfit).await, Err(Error::Corruption { .. })));
        let edit = change(&manifest.state(), 1);
        world.set_faults(Faults { write_error: 10_000, ..Faults::default() });
        manifest.apply(|| edit.clone()).await.unwrap_err();
        world.set_faults(Faults::default());
        assert!(matches!(manifest.apply(|| edit).await, Err(Error::Poisoned { .. })));
        assert_eq!(*manifest.state(), first_state());
    });
    outcome.done().unwrap();
}

/// Fills the disk, goes on until a new file is due, and sees it put off until there is room.
async fn full_disk_script(world: &SimWorld, progress: &Rc<RefCell<Progress>>) {
    let env = world.env();
    let manifest = Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap();
    progress.borrow_mut().states.push(first_state());
    world.set_free_bytes(Some(0));
    let mut nth = 1;
    let refused = loop {
        let edit = change(&manifest.state(), nth);
        let next = manifest.state().with(&edit).unwrap();
        progress.borrow_mut().states.push(next.clone());
        match manifest.apply(|| edit).await {
            Ok(()) => assert_eq!(*manifest.state(), next),
            Err(error) => break error,
        }
        let mut progress = progress.borrow_mut();
        progress.acknowledged = progress.states.len() - 1;
        nth += 1;
    };
    assert!(refused.is_out_of_space(), "{refused:?}");
    assert!(nth > 2, "there was room for some");
    // What was refused is no possible outcome any more, and nothing has stopped.
    progress.borrow_mut().states.pop();
    let edit = change(&manifest.state(), nth);
    assert!(manifest.apply(|| edit).await.unwrap_err().is_out_of_space());
    world.set_free_bytes(Some(1 << 20));
    for nth in nth..nth + 9 {
        apply_next(&manifest, progress, nth).await;
    }
}

#[test]
fn a_change_that_the_disk_has_no_room_for_has_no_effect_and_goes_through_once_there_is_room() {
    for seed in 0..4 {
        let world = SimWorld::new(SimOptions::with_seed(seed), empty_disk());
        let progress = Rc::new(RefCell::new(Progress::default()));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (moments, at) = (Rc::clone(&seen), Rc::clone(&progress));
        world.on_io(move |_, _, disk| moments.borrow_mut().push((disk.clone(), at.borrow().clone())));
        world.run(full_disk_script(&world, &progress)).done().unwrap();
        assert_eq!(manifest_files(&world.stop()).len(), 1);
        let moments = seen.take();
        for (at, (disk, progress)) in
            (0..).zip(&moments).filter(|(_, (_, progress))| !progress.states.is_empty())
        {
            for image in images(disk, at) {
                check(&recovered(image).unwrap().state, progress);
            }
        }
    }
}

#[test]
fn on_a_full_disk_files_are_made_in_the_reserve_and_are_short() {
    let world = SimWorld::new(SimOptions::with_seed(5), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        drop(Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap());
        let reserve = Reserve::find(&env, IDENTITY.shard, Some(256 << 10), &[]).await.unwrap();
        while reserve.refill().await.unwrap() {}
        let reserve = Rc::new(reserve);
        world.set_free_bytes(Some(0));
        let found = recover(&env, IDENTITY).await.unwrap();
        let manifest = found.open(&env, CONFIG, Rc::clone(&reserve), Term(2)).await.unwrap();
        assert_eq!(reserve.missing_bytes(), 64 << 10);
        let (usual, least) = manifest.next_file_bytes();
        assert!(least < usual, "{least} {usual}");
        // The reserve answers for one after another, for as long as it lasts.
        let mut nth = 1;
        while reserve.bytes() > 0 {
            world.set_free_bytes(Some(0));
            let edit = change(&manifest.state(), nth);
            manifest.apply(|| edit).await.unwrap();
            nth += 1;
        }
        assert!(nth > 4);
    });
    outcome.done().unwrap();
    let disk = world.stop();
    assert_eq!(manifest_files(&disk).len(), 1);
    assert_eq!(recovered(disk).unwrap().term, Term(2));
}

/// Lack of space in the middle of a write says nothing of what was written: such a manifest takes no more.
#[test]
fn a_change_that_was_begun_and_not_finished_ends_the_manifest() {
    use op_engine_io::sim::{Fault, Faults};
    let world = SimWorld::new(SimOptions::with_seed(3), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        let manifest = Manifest::create(&env, IDENTITY, CONFIG, Term(1), first_state()).await.unwrap();
        let edit = change(&manifest.state(), 1);
        let at = vec![(world.io_count(), Fault::Errno(28))];
        world.set_faults(Faults { at, ..Faults::default() });
        let failed = manifest.apply(|| edit.clone()).await.unwrap_err();
        assert!(matches!(&failed, Error::Poisoned { cause } if cause.is_out_of_space()), "{failed:?}");
        assert_eq!(manifest.apply(|| edit).await.unwrap_err(), failed);
    });
    outcome.done().unwrap();
}
