//! A crash, and a second one at every I/O of the recovery from it; for some, a third one in the second recovery.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::check::{Trouble, verify};
use crate::support::model::State;
use crate::support::run::{Driver, Machine, Progress, Setup, Then, changes_disk, on_two_threads, reopen};
use crate::support::script::{Recipe, Script, write};
use op_engine_io::FileKind;
use op_engine_io::sim::{IoEvent, IoPhase, Personality, Rng, SimDisk};

/// First crashes, at least.
const FIRST: usize = 200;
/// Of them, those with a third crash.
const THIRD: usize = 24;

/// What an I/O does: first crashes are spread over all kinds.
type Kind = (op_engine_io::FileOp, Option<FileKind>, bool);

fn kind_of(event: &IoEvent) -> Kind {
    (event.op, event.file.map(|file| file.kind), event.phase == IoPhase::Submitted)
}

struct First {
    disk: SimDisk,
    window: Range<usize>,
    index: u64,
}

/// A run that is forked at `wanted` points, chosen evenly among the kinds of I/O.
fn first_crashes(setup: &Setup, script: &Script, wanted: usize, seed: u64) -> Vec<First> {
    let run = |observe: Box<dyn FnMut(u64, &IoEvent, &SimDisk, Range<usize>)>| {
        let machine = Machine::new(setup.options(seed), SimDisk::new());
        let progress = Rc::new(Progress::default());
        let (seen, mut observe) = (Rc::clone(&progress), observe);
        machine.0.on_io(move |index, event, disk| observe(index, event, disk, seen.window()));
        let driven = machine.finish(async {
            let engine = setup.open(&machine.0, false).await?;
            Driver::new(&engine, &machine.0, script, &progress, setup).run().await?;
            Ok(engine.close().await?)
        });
        driven.unwrap();
    };
    let kinds: Rc<RefCell<BTreeMap<String, Vec<u64>>>> = Rc::default();
    let collected = Rc::clone(&kinds);
    run(Box::new(move |index, event, _, _| {
        collected.borrow_mut().entry(format!("{:?}", kind_of(event))).or_default().push(index);
    }));
    let mut rng = Rng::new(seed);
    let mut kinds: Vec<Vec<u64>> = kinds.borrow().values().cloned().collect();
    assert!(kinds.len() > 20, "the run does every kind of I/O");
    let mut chosen = Vec::new();
    while chosen.len() < wanted && kinds.iter().any(|indices| !indices.is_empty()) {
        for indices in kinds.iter_mut().filter(|indices| !indices.is_empty()) {
            chosen.push(indices.swap_remove(rng.index(indices.len())));
        }
    }
    let forks: Rc<RefCell<Vec<First>>> = Rc::default();
    let (taken, personality) = (Rc::clone(&forks), setup.personality);
    run(Box::new(move |index, _, disk, window| {
        if chosen.contains(&index) {
            taken.borrow_mut().push(First { disk: disk.crash(index, personality), window, index });
        }
    }));
    forks.take()
}

/// Recovers a crashed disk, and gives `crash` a fork at every I/O until the store is open, and some after. The window
/// of a fork is what may be found after a crash there.
fn recover_with_forks(
    setup: &Setup,
    script: &Script,
    first: &First,
    seed: u64,
    mut crash: impl FnMut(First) + 'static,
) -> Result<(), Trouble> {
    let machine = Machine::new(setup.options(seed), first.disk.clone());
    let world = &machine.0;
    let window = Rc::new(RefCell::new(first.window.clone()));
    let forking = Rc::new(Cell::new(true));
    let (seen, going, personality) = (Rc::clone(&window), Rc::clone(&forking), setup.personality);
    let mut last_window = 0..0;
    world.on_io(move |index, event, disk| {
        let window = seen.borrow().clone();
        // A read changes nothing: a crash there is the one before it.
        if going.get() && (changes_disk(event) || window != last_window) {
            last_window = window.clone();
            crash(First { disk: disk.crash(seed ^ index, personality), window, index });
        }
    });
    machine.finish(async {
        let engine = setup.open(world, false).await?;
        forking.set(false);
        let mut rng = Rng::new(seed);
        let shown = verify(&engine, script, first.window.clone(), setup.schema, &mut rng).await?;
        // Users have seen this state, so no later crash may take it back.
        *window.borrow_mut() = shown..shown + 1;
        forking.set(true);
        engine.sync().await?;
        forking.set(false);
        Ok(())
    })
}

#[test]
fn recovery_survives_crashes_inside_it() {
    let (firsts, seconds, thirds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let wrong: Mutex<Option<String>> = Mutex::new(None);
    on_two_threads(|thread| {
        let shards = 1 + 2 * thread as u16;
        let personality = if thread == 0 { Personality::Ext4 } else { Personality::Strict };
        let setup = Setup { personality, pipeline: 3, ..Setup::small(shards) };
        let recipe = Recipe { seed: 90 + thread, blocks: 60, reorgs_at: vec![20, 40], ..Recipe::default() };
        let script = Rc::new(write(&recipe, State::default()));
        for (nth, first) in first_crashes(&setup, &script, FIRST / 2, thread).iter().enumerate() {
            firsts.fetch_add(1, Ordering::Relaxed);
            let forks: Rc<RefCell<Vec<First>>> = Rc::default();
            let taken = Rc::clone(&forks);
            let recovered = recover_with_forks(&setup, &script, first, first.index, move |fork| {
                taken.borrow_mut().push(fork)
            });
            let mut outcome =
                recovered.map_err(|trouble| format!("first crash at {}: {trouble:?}", first.index));
            for (second_nth, second) in forks.take().into_iter().enumerate() {
                if outcome.is_err() {
                    break;
                }
                let place = format!("crashes at {} and {} of the recovery", first.index, second.index);
                let then = if second_nth % 16 == 3 { Then::GoOn } else { Then::Compare };
                let window = second.window.clone();
                outcome = reopen(second.disk.clone(), &setup, &script, window, second.index, then)
                    .map(|_| ())
                    .map_err(|trouble| format!("{place}: {trouble:?}"));
                seconds.fetch_add(1, Ordering::Relaxed);
                if nth < THIRD / 2 && second_nth % 19 == 7 && outcome.is_ok() {
                    let deeper: Rc<RefCell<Vec<First>>> = Rc::default();
                    let taken = Rc::clone(&deeper);
                    outcome = recover_with_forks(&setup, &script, &second, second.index, move |fork| {
                        taken.borrow_mut().push(fork);
                    })
                    .map_err(|trouble| format!("{place}: {trouble:?}"));
                    for third in deeper.take().into_iter().step_by(3) {
                        thirds.fetch_add(1, Ordering::Relaxed);
                        if let Err(trouble) =
                            reopen(third.disk, &setup, &script, third.window, third.index, Then::Compare)
                        {
                            outcome =
                                Err(format!("{place}, and at {} of the second: {trouble:?}", third.index));
                        }
                    }
                }
            }
            if let Err(why) = outcome {
                wrong.lock().unwrap().get_or_insert(format!("{shards} shards: {why}"));
                return;
            }
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), None);
    let [firsts, seconds, thirds] = [firsts, seconds, thirds].map(|count| count.load(Ordering::Relaxed));
    println!("crashes: {firsts}, in recovery {seconds}, in the recovery from that {thirds}");
    assert!(firsts >= FIRST as u64 && seconds > 10 * firsts && thirds > 10 * THIRD as u64);
}

/// The superblock's name was not durable when a killed process had just written it. The next one read it, went on, and
/// lost it with the power: files without an identity were left.
#[test]
fn what_was_shown_after_a_kill_survives_a_loss_of_power() {
    let setup = Setup::small(2);
    let script = Rc::new(write(
        &Recipe { seed: 6, blocks: 8, reorgs_at: vec![5], ..Recipe::default() },
        State::default(),
    ));
    let machine = Machine::new(setup.options(6), SimDisk::new());
    let progress = Rc::new(Progress::default());
    let forks: Rc<RefCell<Vec<First>>> = Rc::default();
    let (seen, taken) = (Rc::clone(&progress), Rc::clone(&forks));
    machine.0.on_io(move |index, event, disk| {
        if changes_disk(event) {
            taken.borrow_mut().push(First { disk: disk.kill(index), window: seen.window(), index });
        }
    });
    let driven = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await
    });
    driven.unwrap();
    let forks = forks.take();
    assert!(forks.len() > 100);
    for First { disk, window, index } in forks {
        let machine = Machine::new(setup.options(index), disk);
        let shown = machine.finish(async {
            let engine = setup.open(&machine.0, false).await?;
            verify(&engine, &script, window, setup.schema, &mut Rng::new(index)).await
        });
        let shown = shown.unwrap_or_else(|trouble| panic!("killed at {index}: {trouble:?}"));
        let left = machine.0.stop().crash(index, Personality::Strict);
        reopen(left, &setup, &script, shown..shown + 1, index, Then::Compare)
            .unwrap_or_else(|trouble| panic!("killed at {index}, then a loss of power: {trouble:?}"));
    }
}
