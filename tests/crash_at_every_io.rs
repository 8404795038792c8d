//! A script of 200 blocks with three reorgs, and a crash at every I/O of it: after each, the store holds exactly the
//! operations up to one point between the last acknowledged and the last submitted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod sim;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use op_engine_io::sim::{Personality, SimDisk};
use sim::model::State;
use sim::run::{Driver, Machine, Progress, Setup, Then, on_two_threads, reopen};
use sim::script::{Recipe, Script, write};

fn script(shards: u16, blocks: usize) -> Script {
    let recipe = Recipe {
        seed: u64::from(shards) + 40,
        blocks,
        reorgs_at: vec![blocks * 3 / 10, blocks * 6 / 10, blocks * 6 / 10],
        changes_max: 6,
        ..Recipe::default()
    };
    write(&recipe, State::default())
}

/// Runs the script, and at every index that is this thread's opens what a crash there leaves.
fn crash_everywhere(shards: u16, thread: u64, threads: u64, blocks: usize, personality: Personality) -> (u64, u64) {
    let setup = Setup { personality, pipeline: 2, ..Setup::small(shards) };
    let script = Arc::new(script(shards, blocks));
    let progress = Rc::new(Progress::default());
    let machine = Machine::new(setup.options(u64::from(shards)), SimDisk::new());
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    let crashes = Rc::new(Cell::new(0));
    {
        let (setup, script, progress) = (setup.clone(), Arc::clone(&script), Rc::clone(&progress));
        let (wrong, crashes) = (Rc::clone(&wrong), Rc::clone(&crashes));
        machine.0.on_io(move |index, event, disk| {
            if index % threads != thread || wrong.borrow().is_some() {
                return;
            }
            crashes.set(crashes.get() + 1);
            let then = if index / threads % 8 == 0 { Then::GoOn } else { Then::Compare };
            let image = disk.crash(index, personality);
            if let Err(trouble) = reopen(image, &setup, &script, progress.window(), index, then) {
                *wrong.borrow_mut() = Some(format!("crash at {index} ({event}): {trouble:?}"));
            }
        });
    }
    let outcome = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        let stats = engine.stats().await?;
        for shard in &stats.shards {
            assert!(shard.flushes > 10 && shard.merges > 3, "the run flushes and merges: {shard:?}");
        }
        engine.close().await?;
        Ok(())
    });
    if let Some(wrong) = wrong.borrow().as_ref() {
        panic!("{shards} shards, {personality:?}: {wrong}");
    }
    outcome.unwrap();
    (machine.0.io_count(), crashes.get())
}

fn everywhere(shards: u16, personality: Personality) {
    on_two_threads(|thread| {
        let began = std::time::Instant::now();
        let (events, crashes) = crash_everywhere(shards, thread, 2, 200, personality);
        assert!(crashes >= events / 2, "half of the {events} events are this thread's: {crashes}");
        eprintln!("{shards} shards: {crashes} crashes of {events} events in {:?}", began.elapsed());
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
