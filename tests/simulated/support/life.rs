//! The life of one store, drawn from a seed: a few openings, each of which ends with a crash, a failure, or a close.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use op_engine::{Durability, Engine, Error, Height};
use op_engine_io::FileKind;
use op_engine_io::sim::{DurableCover, Faults, Outcome, Personality, Rng, SimDisk, SimOptions};
use op_engine_shards::Error as StorageError;

use super::check::{Checked, Schema, Trouble, verify};
use super::coverage::Coverage;
use super::model::State;
use super::run::{Driver, Machine, Progress, Setup, block_of};
use super::script::{Recipe, Script, write};

/// How a life went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    pub trace_hash: u64,
    /// Openings that ended with a loss of power or a kill.
    pub crashes: u64,
    /// Openings in which an injected fault stopped the engine.
    pub faults: u64,
    /// Openings that ended with a close.
    pub closes: u64,
    /// What openings did whose end was not a crash in the middle.
    pub coverage: Coverage,
}

/// What goes wrong in one opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordeal {
    Calm,
    /// Failing writes, syncs or any operations, and full disks.
    Failing,
    /// Segments that come back damaged from the device.
    Rot,
}

struct Life {
    rng: Rng,
    setup: Setup,
    recipe: Recipe,
    ended: Ended,
    trace: Option<Vec<String>>,
}

/// Lives the life of a seed. Gives the trace if it is wanted.
pub fn live(seed: u64, trace: bool) -> (Result<Ended, String>, Vec<String>) {
    let mut rng = Rng::new(seed);
    let setup = draw_setup(&mut rng);
    let recipe = draw_recipe(&mut rng, &setup);
    let trace = trace.then(|| vec![format!("{setup:?}"), format!("{recipe:?}")]);
    let mut life = Life { rng, setup, recipe, ended: Ended::default(), trace };
    let result = life.run();
    let trace = life.trace.unwrap_or_default();
    (result.map(|()| life.ended).map_err(|trouble| format!("{trouble:?}")), trace)
}

fn draw_setup(rng: &mut Rng) -> Setup {
    let mut setup = Setup::small(1 + rng.below(4) as u16);
    setup.settings.memtable_bytes_max = 1 << (10 + rng.below(5));
    setup.settings.memtables_frozen_max = rng.index(3);
    setup.settings.wal_file_bytes = 4096 * (2 + rng.below(12));
    setup.settings.merge_fan_in = 2 + rng.index(3);
    setup.settings.segment_bytes_max = 4096 << rng.below(5);
    setup.settings.merge_file_bytes_min = setup.settings.segment_bytes_max >> rng.below(3);
    setup.settings.young_runs_max = 1 + rng.index(6);
    if rng.below(4) == 0 {
        setup.settings.wal_queue_bytes_max = 1 << 10;
        setup.settings.wal_gather_bytes = 64 << 10;
    }
    (setup.settings.merge_runs_soft, setup.settings.merge_runs_max) = [(2, 5), (8, 12)][rng.index(2)];
    setup.settings.bottom_ratio_percent = [5, 40, 200][rng.index(3)];
    setup.settings.cache_bytes = 4096 << rng.below(5);
    setup.settings.filter_bytes_max = [0, 2 << 10, 8 << 10, 64 << 20][rng.index(4)];
    if rng.coin() {
        setup.settings.memtable_age_max = Duration::from_millis(300);
    }
    setup.window = [0, 1, 3, 8, 50][rng.index(5)];
    setup.personality = if rng.coin() { Personality::Strict } else { Personality::Ext4 };
    setup.cover = if rng.coin() { DurableCover::Write } else { DurableCover::File };
    setup.pipeline = 1 + rng.index(6);
    if rng.below(3) == 0 {
        let blocks = 1 + rng.below(8);
        setup.durability =
            Durability::Deferred { blocks, interval: Duration::from_millis(1 + rng.below(900)) };
    }
    if rng.below(4) == 0 {
        setup.schema = Schema::Early;
    }
    setup
}

fn draw_recipe(rng: &mut Rng, setup: &Setup) -> Recipe {
    let blocks = 3 + rng.index(22);
    let mut weights = [3, 4, 3, 3, 1, 2];
    for weight in &mut weights {
        *weight *= rng.below(3);
    }
    if setup.schema == Schema::Early {
        weights[3] = 0;
        weights[5] = 0;
    }
    if weights.iter().sum::<u64>() == 0 {
        weights[1] = 1;
    }
    Recipe {
        seed: rng.next_u64(),
        blocks,
        reorgs_at: (0..rng.below(4)).map(|_| 1 + rng.index(blocks)).collect(),
        window: setup.window,
        floor: 0,
        first_height: [0, 1, 800_000][rng.index(3)],
        changes_max: 1 + rng.below(12),
        weights,
        big_values: if rng.coin() { 600 } else { 0 },
        between: [rng.below(3000), 1000, 500, 500, 2000, 800].map(|parts| parts as u16),
    }
}

impl Life {
    fn run(&mut self) -> Checked {
        let mut disk = SimDisk::new();
        let mut script = write(&self.recipe, State::default());
        let mut window = 0..1;
        for _ in 0..2 {
            let found = self.opening(&mut disk, &script, &mut window)?;
            if self.setup.schema == Schema::Early && self.rng.coin() {
                self.setup.schema = Schema::All;
                self.recipe.weights = [3, 4, 3, 3, 1, 2];
            }
            let (start, floor) = match found {
                Some((at, floor)) => (script.states[at].clone(), floor),
                None => (State::default(), 0),
            };
            self.recipe.seed = self.rng.next_u64();
            self.recipe.floor = floor;
            script = write(&self.recipe, start);
            window = 0..1;
        }
        Ok(())
    }

    fn options(&mut self, ordeal: Ordeal) -> SimOptions {
        let seed = self.rng.next_u64();
        let mut options = SimOptions { trace: self.trace.is_some(), ..self.setup.options(seed) };
        let mut faults = Faults { slow: if self.rng.coin() { 50 } else { 0 }, ..Faults::default() };
        match ordeal {
            Ordeal::Calm => {}
            Ordeal::Failing => {
                let parts = [5, 20, 80][self.rng.index(3)];
                match self.rng.below(6) {
                    0 => faults.write_error = parts,
                    1 => faults.sync_error = parts,
                    2 => faults.any_error = parts,
                    3 => faults.no_space = parts,
                    // A quota that the disk does not tell of.
                    4 => {
                        faults.no_space = 50 * parts;
                        faults.kinds = vec![FileKind::Segment];
                    }
                    _ => options.free_bytes = Some(4096 * (20 + self.rng.below(200))),
                }
                faults.read_only_after_error = self.rng.coin();
            }
            Ordeal::Rot => {
                faults.kinds = vec![FileKind::Segment];
                let parts = [20, 100][self.rng.index(2)];
                match self.rng.below(3) {
                    0 => faults.bit_flip = parts,
                    1 => faults.lost_write = parts,
                    _ => faults.misdirected_write = parts,
                }
            }
        }
        options.faults = faults;
        options
    }

    /// One opening under some ordeal, and one without that compares. Gives what was found, and the horizon.
    fn opening(
        &mut self,
        disk: &mut SimDisk,
        script: &Script,
        window: &mut Range<usize>,
    ) -> Checked<Option<(usize, u64)>> {
        let ordeal = match self.rng.below(8) {
            0..=4 => Ordeal::Calm,
            5 | 6 => Ordeal::Failing,
            _ => Ordeal::Rot,
        };
        let mut options = self.options(ordeal);
        if self.rng.below(3) > 0 {
            options.crash_at = Some(self.rng.below(200 + 60 * script.ops.len() as u64));
        }
        let machine = Machine::new(options, disk.clone());
        let progress = Progress::default();
        progress.durable.set(window.start);
        progress.submitted.set(window.end - 1);
        let close = self.rng.below(3) == 0;
        let covered = Cell::default();
        let outcome = machine.0.run(self.drive(&machine, script, &progress, &covered, close, ordeal));
        self.ended.coverage += covered.get();
        self.note(&machine);
        let panics = machine.0.panics();
        if let Some(panic) = panics.first() {
            return Err(Trouble::Wrong(format!(
                "{} of {} panicked: {}",
                panic.task, panic.host, panic.message
            )));
        }
        let mut closed = false;
        let mut rotten = false;
        match outcome {
            Outcome::Crashed => self.ended.crashes += 1,
            Outcome::Done(Ok(())) if close => {
                self.ended.closes += 1;
                closed = true;
            }
            Outcome::Done(Ok(())) => self.ended.crashes += 1,
            Outcome::Done(Err(Trouble::Engine(error))) if ordeal != Ordeal::Calm => {
                self.ended.faults += 1;
                rotten = ordeal == Ordeal::Rot;
                if !is_expected(&error) {
                    return Err(Trouble::Engine(error));
                }
            }
            Outcome::Done(Err(trouble)) => return Err(trouble),
            Outcome::Deadlock => return Err(Trouble::Wrong("deadlock".to_owned())),
            Outcome::StepLimit => return Err(Trouble::Wrong("the run does not end".to_owned())),
        }
        let stopped = machine.0.stop();
        let seed = self.rng.next_u64();
        *disk = match self.rng.below(4) {
            0 if closed => stopped.clone(),
            0 => stopped.kill(seed),
            _ => stopped.crash(seed, self.setup.personality),
        };
        *window = progress.window();
        if ordeal == Ordeal::Rot {
            // What was written badly stays bad: it must be found out, never shown.
            rotten = true;
        }
        self.compare(disk, script, window.clone(), rotten)
    }

    /// Drives the script to its end or the first error; after an error, checks that the engine has stopped for good.
    async fn drive(
        &self,
        machine: &Machine,
        script: &Script,
        progress: &Progress,
        covered: &Cell<Coverage>,
        close: bool,
        ordeal: Ordeal,
    ) -> Checked {
        let world = &machine.0;
        let engine = self.setup.open(world, false).await?;
        let mut setup = self.setup.clone();
        if ordeal != Ordeal::Calm {
            // A block that fails leaves room for the operation after it, which the script does not know.
            setup.pipeline = 1;
        }
        let driven = Driver::new(&engine, world, script, progress, &setup).run().await;
        covered.set(Coverage::of(&engine).await?);
        match driven {
            Ok(()) if close => Ok(engine.close().await?),
            Ok(()) => Ok(()),
            Err(Trouble::Engine(error)) if ordeal == Ordeal::Failing => {
                world.set_faults(Faults::default());
                self.check_stopped(&engine, script, progress, &error).await?;
                Err(Trouble::Engine(error))
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// After a failure no commit goes on, whatever the device does from then on; reads do.
    async fn check_stopped(
        &self,
        engine: &Engine,
        script: &Script,
        progress: &Progress,
        first: &Error,
    ) -> Checked {
        if engine.stats().await?.failure.is_none() {
            // A read has failed, which stops nothing.
            return Ok(());
        }
        let next = script.ops.iter().skip(progress.submitted.get()).find_map(block_of);
        if let Some(block) = next
            && let Ok(committed) = engine.commit(block).await
        {
            return Err(Trouble::Wrong(format!("{committed:?} after the engine had stopped with {first:?}")));
        }
        if let Ok(reorged) = engine.reorg_to(Height(0)).await {
            return Err(Trouble::Wrong(format!("{reorged:?} after the engine had stopped with {first:?}")));
        }
        if engine.sync().await.is_ok() {
            return Err(Trouble::Wrong("a sync succeeds after the engine had stopped".to_owned()));
        }
        let mut rng = self.rng.clone();
        // What was applied may be shown, though it is not durable.
        verify(engine, script, 0..progress.submitted.get() + 1, self.setup.schema, &mut rng).await?;
        Ok(())
    }

    /// Opens without faults and compares. With `rotten` segments, a typed refusal is right as well.
    fn compare(
        &mut self,
        disk: &mut SimDisk,
        script: &Script,
        window: Range<usize>,
        rotten: bool,
    ) -> Checked<Option<(usize, u64)>> {
        let seed = self.rng.next_u64();
        let options = SimOptions { trace: self.trace.is_some(), ..self.setup.options(seed) };
        let machine = Machine::new(options, disk.clone());
        let world = &machine.0;
        let setup = &self.setup;
        let mut rng = self.rng.split();
        let rotated = rng.coin();
        let compared = machine.finish(async {
            let engine = setup.open(world, rotated).await?;
            let found = verify(&engine, script, window.clone(), setup.schema, &mut rng).await?;
            let floor = engine.horizon().0;
            if rng.coin() {
                engine.close().await?;
            }
            Ok((found, floor))
        });
        self.note(&machine);
        match compared {
            Ok(found) => {
                *disk = machine.0.stop().crash(seed, self.setup.personality);
                Ok(Some(found))
            }
            Err(Trouble::Engine(error)) if rotten && is_expected(&error) => {
                // The store is lost. A new one takes its place.
                *disk = SimDisk::new();
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn note(&mut self, machine: &Machine) {
        let hash = machine.0.trace_hash();
        self.ended.trace_hash = self.ended.trace_hash.rotate_left(7) ^ hash;
        if let Some(trace) = &mut self.trace {
            trace.push("---- opening".to_owned());
            trace.extend(machine.0.trace_lines());
        }
    }
}

/// Whether an error is one that faults of the device may bring.
fn is_expected(error: &Error) -> bool {
    if matches!(error, Error::OutOfSpace { .. }) {
        return true;
    }
    let Error::Storage(error) = error else { return false };
    is_expected_storage(error)
}

fn is_expected_storage(error: &StorageError) -> bool {
    match error {
        StorageError::Io(_) | StorageError::Corruption { .. } | StorageError::Missing { .. } => true,
        StorageError::Foreign { .. } | StorageError::UnsupportedVersion { .. } => true,
        StorageError::Poisoned { cause } => is_expected_storage(cause),
        _ => false,
    }
}
