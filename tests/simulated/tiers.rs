//! Data in two tiers: what moves to the cold target and back answers as before, at every moment and after a crash at any of them,
//! and there is one copy of everything.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use op_engine::Engine;
use op_engine_io::sim::{Personality, Rng, SimDisk, SimWorld};
use op_engine_io::{ColdStore as _, Dir, Env as _, FileKind};

use op_engine_shards::mutants::{Mutant, activate};

use crate::support::check::{Checked, Trouble, verify};
use crate::support::model::State;
use crate::support::run::{Driver, Machine, Progress, Setup, changes_disk, on_two_threads};
use crate::support::script::{Recipe, Script, Step, write};

fn setup(shards: u16, personality: Personality) -> Setup {
    Setup { cold: true, window: 6, personality, pipeline: 2, ..Setup::small(shards) }
}

/// A script that moves data to and fro between its steps.
fn script(seed: u64, blocks: usize, window: u64) -> Script {
    let recipe = Recipe {
        seed,
        blocks,
        reorgs_at: [3, 6, 8].map(|tenth| blocks * tenth / 10).to_vec(),
        window,
        weights: [4, 1, 1, 5, 0, 1],
        big_values: 300,
        between: [300, 1500, 300, 300, 800, 700],
        ..Recipe::default()
    };
    let script = write(&recipe, State::default());
    let mut rng = Rng::new(seed ^ 0xC01D);
    let mut steps = Vec::new();
    for step in script.steps {
        steps.push(step);
        match rng.below(12) {
            0 | 1 => steps.push(Step::ToCold(rng.coin())),
            2 => {
                let from = rng.below(recipe.blocks as u64);
                steps.push(Step::WarmUp(from, from + rng.below(10)));
            }
            _ => {}
        }
    }
    steps.push(Step::ToCold(false));
    Script { steps, ..script }
}

/// How many segments there are in the cold target and how many were brought back.
async fn tiers(engine: &Engine) -> Checked<(usize, usize)> {
    let stats = engine.stats().await?;
    let segments = || stats.shards.iter().flat_map(|shard| &shard.segments);
    let cold = segments().filter(|segment| segment.tier.is_cold()).count();
    let warm =
        segments().filter(|segment| segment.tier == op_engine_shards::segment_meta::Tier::Warm).count();
    Ok((cold, warm))
}

/// Every file and every object is one that the store refers to, and there is none that is missing, once what goes on in the
/// background has ended.
async fn check_copies(engine: &Engine, world: &SimWorld) -> Checked {
    // A move removes what nothing refers to, once it has looked at the target.
    engine.move_to_cold(false).await?;
    let mut difference = None;
    for _ in 0..100 {
        difference = find_difference(engine, world).await?;
        if difference.is_none() {
            return Ok(());
        }
        world.env().sleep(Duration::from_millis(50)).await;
    }
    Err(Trouble::Wrong(difference.unwrap_or_default()))
}

/// What there is and nothing refers to, or the other way round.
async fn find_difference(engine: &Engine, world: &SimWorld) -> Checked<Option<String>> {
    let env = world.env();
    let stats = engine.stats().await?;
    for shard in &stats.shards {
        let dir = Dir::Shard(shard.shard.0);
        let numbers = |cold: bool| -> BTreeSet<u64> {
            let wanted = shard.segments.iter().filter(|segment| !cold || segment.tier.is_cold());
            wanted.map(|segment| segment.number).collect()
        };
        let found = |names: Vec<op_engine_io::FileName>, kind| -> BTreeSet<u64> {
            names.into_iter().filter(|name| name.kind == kind).map(|name| name.number).collect()
        };
        let files = found(env.list(dir).await.map_err(|error| wrong(&error))?, FileKind::Segment);
        let target = env.cold().expect("there is a cold target");
        let objects = found(target.list(dir).await.map_err(|error| wrong(&error))?, FileKind::Cold);
        if files != numbers(false) || objects != numbers(true) {
            let (wanted, cold) = (numbers(false), numbers(true));
            return Ok(Some(format!(
                "{dir}: files {files:?} for {wanted:?}, objects {objects:?} for {cold:?}"
            )));
        }
    }
    Ok(None)
}

fn wrong(error: &op_engine_io::Error) -> Trouble {
    Trouble::Wrong(error.to_string())
}

#[test]
fn what_moves_between_tiers_answers_as_before() {
    for seed in 0..40 {
        let setup = setup(1 + (seed % 3) as u16, Personality::Strict);
        let script = script(seed, 60, setup.window);
        let machine = Machine::new(setup.options(seed), SimDisk::new());
        let progress = Progress::default();
        let end = script.states.len() - 1;
        let counts = Cell::new((0, 0));
        machine
            .finish(async {
                let engine = setup.open(&machine.0, false).await?;
                Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
                verify(&engine, &script, end..end + 1, setup.schema, &mut Rng::new(seed)).await?;
                check_copies(&engine, &machine.0).await?;
                counts.set(tiers(&engine).await?);
                Ok(engine.close().await?)
            })
            .unwrap_or_else(|trouble| panic!("seed {seed}: {trouble:?}"));
        assert!(counts.get().0 > 0, "seed {seed}: nothing is in the cold target");
        let machine = Machine::new(setup.options(seed), machine.0.stop());
        machine
            .finish(async {
                let engine = setup.open(&machine.0, false).await?;
                verify(&engine, &script, end..end + 1, setup.schema, &mut Rng::new(seed)).await?;
                check_copies(&engine, &machine.0).await
            })
            .unwrap_or_else(|trouble| panic!("seed {seed}, opened again: {trouble:?}"));
    }
}

/// Opens what a crash has left, compares, moves and compares again.
fn reopen(
    disk: SimDisk,
    setup: &Setup,
    script: &Script,
    window: std::ops::Range<usize>,
    seed: u64,
) -> Checked {
    let machine = Machine::new(setup.options(seed), disk);
    let mut rng = Rng::new(seed);
    machine.finish(async {
        let engine = setup.open(&machine.0, rng.coin()).await?;
        let found = verify(&engine, script, window, setup.schema, &mut rng).await?;
        check_copies(&engine, &machine.0).await?;
        verify(&engine, script, found..found + 1, setup.schema, &mut rng).await?;
        Ok(())
    })
}

fn crash_everywhere(
    shards: u16,
    thread: u64,
    personality: Personality,
    blocks: usize,
) -> Result<u64, String> {
    let setup = setup(shards, personality);
    let script = Arc::new(script(u64::from(shards) + 7, blocks, setup.window));
    let progress = Rc::new(Progress::default());
    let machine = Machine::new(setup.options(u64::from(shards)), SimDisk::new());
    let wrong: Rc<RefCell<Option<String>>> = Rc::default();
    let crashes = Rc::new(Cell::new(0));
    {
        let (setup, script, progress) = (setup.clone(), Arc::clone(&script), Rc::clone(&progress));
        let (wrong, crashes) = (Rc::clone(&wrong), Rc::clone(&crashes));
        let (mut nth, mut last_window) = (0, 0..0);
        machine.0.on_io(move |index, event, disk| {
            let window = progress.window();
            if !changes_disk(event) && window == last_window {
                return;
            }
            last_window = window.clone();
            nth += 1;
            if nth % 2 != thread || wrong.borrow().is_some() {
                return;
            }
            crashes.set(crashes.get() + 1);
            if let Err(trouble) = reopen(disk.crash(index, personality), &setup, &script, window, index) {
                *wrong.borrow_mut() = Some(format!("crash at {index} ({event}): {trouble:?}"));
            }
        });
    }
    let counts = Cell::new((0, 0));
    let outcome = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        counts.set(tiers(&engine).await?);
        Ok(engine.close().await?)
    });
    if let Some(wrong) = wrong.borrow().as_ref() {
        return Err(wrong.clone());
    }
    outcome.map_err(|trouble| format!("{trouble:?}"))?;
    assert!(counts.get().0 > 0, "nothing is in the cold target");
    Ok(crashes.get())
}

#[test]
fn a_crash_at_every_io_of_moves_leaves_one_copy() {
    on_two_threads(|thread| {
        for (shards, personality) in [(1, Personality::Strict), (2, Personality::Ext4)] {
            let began = std::time::Instant::now();
            let crashes = crash_everywhere(shards, thread, personality, 60).unwrap();
            println!("{shards} shards: {crashes} crashes in {:?}", began.elapsed());
            assert!(crashes > 500, "{crashes}");
        }
    });
}

/// Whether the crashes find a fault out.
fn caught(mutant: Mutant) -> bool {
    activate(Some(mutant));
    let outcome = catch_unwind(AssertUnwindSafe(|| crash_everywhere(1, 0, Personality::Strict, 60)));
    activate(None);
    let found = !matches!(outcome, Ok(Ok(_)));
    println!("{mutant:?}: {:?}", outcome.map_err(|_| "a panic"));
    found
}

#[test]
fn deleting_before_the_switch_is_caught() {
    assert!(caught(Mutant::DeleteBeforeSwitch));
}

#[test]
fn a_switch_before_the_sync_is_caught() {
    assert!(caught(Mutant::SwitchBeforeSync));
}
