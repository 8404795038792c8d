//! A script of 200 blocks with eight reorgs, and a crash at every I/O of it: after each, the store holds exactly the
//! operations up to one point between the last acknowledged and the last submitted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::support::coverage::Coverage;
use crate::support::model::State;
use crate::support::run::{Driver, Machine, Progress, Setup, Then, changes_disk, on_two_threads, reopen};
use crate::support::script::{Recipe, Script, write};
use op_engine_io::sim::{Personality, SimDisk};

/// What takes a full disk, deferred commits, or files of many pages; `random_seeds` has those.
const NOT_HERE: [&str; 5] = [
    "stalls by the WAL",
    "stalls by a full disk",
    "flushes put off",
    "merges put off",
    "bytes given back within files",
];

fn script(shards: u16, blocks: usize) -> Script {
    let recipe = Recipe {
        seed: u64::from(shards) + 40,
        blocks,
        reorgs_at: [1, 2, 3, 4, 6, 6, 8, 9].map(|tenth| blocks * tenth / 10).to_vec(),
        changes_max: 6,
        big_values: 400,
        ..Recipe::default()
    };
    write(&recipe, State::default())
}

/// Runs the script, and at every index that is this thread's opens what a crash there leaves.
fn crash_everywhere(
    shards: u16,
    thread: u64,
    threads: u64,
    blocks: usize,
    personality: Personality,
) -> (u64, u64) {
    let mut setup = Setup { personality, pipeline: 2, ..Setup::small(shards) };
    // So few that commits are held up by merges now and then.
    (setup.settings.merge_runs_soft, setup.settings.merge_runs_max) = (1, 4);
    let script = Arc::new(script(shards, blocks));
    let progress = Rc::new(Progress::default());
    let machine = Machine::new(setup.options(u64::from(shards)), SimDisk::new());
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    let crashes = Rc::new(Cell::new(0));
    let same = Rc::new(Cell::new(0));
    {
        let (setup, script, progress) = (setup.clone(), Arc::clone(&script), Rc::clone(&progress));
        let (wrong, crashes, same) = (Rc::clone(&wrong), Rc::clone(&crashes), Rc::clone(&same));
        let (mut nth, mut last_window) = (0, 0..0);
        machine.0.on_io(move |index, event, disk| {
            let window = progress.window();
            if !changes_disk(event) && window == last_window {
                // The disk and what may be found on it are those of the index before.
                same.set(same.get() + 1);
                return;
            }
            last_window = window.clone();
            nth += 1;
            if nth % threads != thread || wrong.borrow().is_some() {
                return;
            }
            crashes.set(crashes.get() + 1);
            let then = if (nth / threads).is_multiple_of(4) { Then::GoOn } else { Then::Compare };
            let image = disk.crash(index, personality);
            if let Err(trouble) = reopen(image, &setup, &script, window, index, then) {
                *wrong.borrow_mut() = Some(format!("crash at {index} ({event}): {trouble:?}"));
            }
        });
    }
    let outcome = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        Coverage::of(&engine).await?.expect_more_than(0, &NOT_HERE);
        let stats = engine.stats().await?;
        for shard in &stats.shards {
            let (flushes, merges) = (shard.flushes, shard.merges);
            assert!(flushes > 5 && merges > 3, "each shard flushes and merges: {flushes}, {merges}");
            let (descents, partial) = (shard.descents, shard.merge_steps_partial);
            assert!(descents > 0 && partial > 0, "runs descend, some in steps: {descents}, {partial}");
            let wal_files = shard.wal_bytes / setup.settings.wal_file_bytes;
            assert!(
                wal_files > 2 * shard.wal_files,
                "WAL files are used again: {wal_files}, {}",
                shard.wal_files
            );
        }
        engine.close().await?;
        Ok(())
    });
    if let Some(wrong) = wrong.borrow().as_ref() {
        panic!("{shards} shards, {personality:?}: {wrong}");
    }
    outcome.unwrap();
    (machine.0.io_count() - same.get(), crashes.get())
}

fn everywhere(shards: u16, personality: Personality) {
    on_two_threads(|thread| {
        let began = std::time::Instant::now();
        let (events, crashes) = crash_everywhere(shards, thread, 2, 200, personality);
        assert!(crashes >= events / 2, "half of the {events} different moments are this thread's: {crashes}");
        println!("{shards} shards: {crashes} crashes at {events} different moments in {:?}", began.elapsed());
    });
}

#[test]
fn one_shard_survives_a_crash_at_every_io() {
    everywhere(1, Personality::Strict);
}

#[test]
fn two_shards_survive_a_crash_at_every_io() {
    everywhere(2, Personality::Ext4);
}

#[test]
fn four_shards_survive_a_crash_at_every_io() {
    everywhere(4, Personality::Strict);
}
