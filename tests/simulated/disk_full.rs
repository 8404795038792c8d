//! A disk that fills up: nothing acknowledged is lost, reads answer, reorgs, closing and opening succeed, and commits go
//! on as soon as there is room.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use op_engine::{Batch, Engine, Error, Height};
use op_engine_io::sim::{Fault, Faults, IoPhase, Rng, SimDisk, SimOptions};
use op_engine_io::{FileKind, FileOp};
use op_engine_shards::stats::StallReason;

use crate::support::check::{Checked, Trouble, verify};
use crate::support::model::{CommitOp, State};
use crate::support::run::{Driver, Machine, Progress, Setup, block_of, fill, on_two_threads, sleep};
use crate::support::script::{Recipe, Script, write};

/// More than any of these stores takes.
const PLENTY: u64 = 64 << 20;
/// Seeds that are tried in any case, and until all that can happen has happened.
const SEEDS_MIN: u64 = 40;
const SEEDS_MAX: u64 = 400;
/// The device's own error number.
const ENOSPC: i32 = 28;

fn recipe(seed: u64, blocks: usize, setup: &Setup, floor: u64) -> Recipe {
    Recipe {
        seed,
        blocks,
        reorgs_at: vec![blocks / 3],
        window: setup.window,
        floor,
        changes_max: 14,
        big_values: 500,
        ..Recipe::default()
    }
}

/// A store that is driven until its disk is full, and beyond.
struct Filling<'a> {
    machine: &'a Machine,
    setup: &'a Setup,
    rng: Rng,
    /// What the store holds.
    state: State,
}

impl Filling<'_> {
    /// Compares everything that the store shows with what it should hold.
    async fn check(&mut self, engine: &Engine) -> Checked {
        if let Some(failure) = engine.stats().await?.failure {
            return Err(Trouble::Wrong(format!("a full disk has stopped the store: {failure}")));
        }
        let script = Script { steps: Vec::new(), ops: Vec::new(), states: vec![self.state.clone()] };
        verify(engine, &script, 0..1, self.setup.schema, &mut self.rng).await.map(drop)
    }

    /// Does one operation. `false` if it was refused for lack of space, with nothing changed.
    async fn step(&mut self, engine: &Engine, op: &CommitOp) -> Checked<bool> {
        let done = match op {
            CommitOp::Block { .. } => engine.commit(block_of(op).unwrap()).await.map(drop),
            CommitOp::Global(changes) => {
                let mut batch = Batch::new();
                fill(&mut batch, changes);
                engine.commit_global(batch).await.map(drop)
            }
            CommitOp::Reorg(height) => engine.reorg_to(Height(*height)).await.map(drop),
        };
        match done {
            Ok(()) => {
                self.state = self.state.after(op);
                Ok(true)
            }
            Err(Error::OutOfSpace { what, .. }) if !matches!(op, CommitOp::Reorg(_)) => {
                let named = if matches!(op, CommitOp::Global(_)) { "the batch" } else { "block" };
                assert!(what.contains(named), "{what} is named");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Commits until three attempts in a row, with time between them, have been refused. Gives how many went through.
    async fn fill_up(&mut self, engine: &Engine, blocks: usize) -> Checked<usize> {
        let recipe = recipe(self.rng.next_u64(), blocks, self.setup, engine.horizon().0);
        let script = write(&recipe, self.state.clone());
        for (done, op) in script.ops.iter().enumerate() {
            let mut attempts = 0;
            while !self.step(engine, op).await? {
                attempts += 1;
                if attempts == 3 {
                    return Ok(done);
                }
                sleep(&self.machine.0, Duration::from_secs(2)).await;
            }
        }
        Err(Trouble::Wrong(format!("the disk is not full after {} operations", script.ops.len())))
    }

    /// Commits `blocks`, all of which have room.
    async fn go_on(&mut self, engine: &Engine, blocks: usize) -> Checked {
        let recipe = recipe(self.rng.next_u64(), blocks, self.setup, engine.horizon().0);
        let script = write(&recipe, self.state.clone());
        for op in &script.ops {
            if !self.step(engine, op).await? {
                return Err(Trouble::Wrong("a commit is refused though there is room".to_owned()));
            }
        }
        self.check(engine).await
    }

    /// Goes back within the window, and sometimes nowhere.
    async fn reorg(&mut self, engine: &Engine) -> Checked {
        let (Some(tip), Some(first)) = (self.state.tip(), self.state.first()) else { return Ok(()) };
        let lowest = engine.horizon().0.max(first);
        let target = tip.height - self.rng.below(tip.height - lowest + 1).min(4);
        self.step(engine, &CommitOp::Reorg(target)).await?;
        self.check(engine).await
    }
}

/// Every segment file is one that the store knows, there is one manifest a shard, the reserve is whole, and no more WAL
/// files are kept than are needed.
async fn check_files(engine: &Engine, machine: &Machine, setup: &Setup) -> Checked {
    sleep(&machine.0, Duration::from_secs(12)).await;
    engine.flush().await?;
    sleep(&machine.0, Duration::from_secs(2)).await;
    let stats = engine.stats().await?;
    let disk = machine.0.disk();
    let count = |kind| disk.files().into_iter().filter(|name| name.kind == kind).count();
    let segments: usize = stats.shards.iter().map(|shard| shard.segments.len()).sum();
    assert_eq!(count(FileKind::Segment), segments, "no file is left over");
    let shards = usize::from(setup.shards);
    assert_eq!(count(FileKind::Manifest), shards);
    // The current one, the free ones, and one that holds the mark of the last cut.
    assert!(count(FileKind::Wal) <= 4 * shards, "{} WAL files", count(FileKind::Wal));
    for shard in &stats.shards {
        let space = shard.space;
        assert_eq!(
            (space.reserve_bytes, space.reserve_missing_bytes),
            (256 << 10, 0),
            "the reserve is whole"
        );
    }
    assert_eq!(count(FileKind::Reserve), 4 * shards);
    Ok(())
}

/// Fills a disk of `capacity`, does there what must succeed, reopens it while it is full, and makes room.
fn fill_a_disk(shards: u16, capacity: u64, seed: u64) -> Checked<usize> {
    let setup = Setup::small(shards);
    let mut rng = Rng::new(seed ^ u64::from(shards) << 32 ^ capacity);
    let options = SimOptions { free_bytes: Some(capacity), ..setup.options(seed) };
    let machine = Machine::new(options, SimDisk::new());
    let mut filling = Filling { machine: &machine, setup: &setup, rng: rng.split(), state: State::default() };
    // Some disks are filled to the last byte by others.
    let others = rng.coin();
    let (reorgs, room_first) = (rng.below(4), rng.coin());
    let (done, closed) = machine.finish(async {
        let world = &machine.0;
        let engine = setup.open(world, false).await?;
        let done = filling.fill_up(&engine, 260).await?;
        if others {
            world.set_free_bytes(Some(0));
        }
        filling.check(&engine).await?;
        assert!(engine.stats().await?.refused_for_space >= 3);
        for _ in 0..reorgs {
            filling.reorg(&engine).await?;
        }
        if room_first {
            world.set_free_bytes(Some(PLENTY));
            filling.go_on(&engine, 30).await?;
            check_files(&engine, &machine, &setup).await?;
            world.set_free_bytes(Some(if others { 0 } else { 200 << 10 }));
            filling.check(&engine).await?;
        }
        let close = filling.rng.coin();
        if close {
            engine.close().await?;
        }
        Ok((done, close))
    })?;
    let state = filling.state.clone();
    let disk = machine.0.stop();
    let mut disk = if closed { disk } else { disk.crash(seed, setup.personality) };

    // Opened again and again while there is not a byte left but what openings themselves give back.
    let mut state = state;
    for nth in 0..3 {
        let options = SimOptions { free_bytes: Some(0), ..setup.options(seed ^ nth) };
        let machine = Machine::new(options, disk);
        let mut filling = Filling { machine: &machine, setup: &setup, rng: rng.split(), state };
        machine.finish(async {
            let engine = setup.open(&machine.0, nth == 1).await?;
            filling.check(&engine).await?;
            filling.reorg(&engine).await?;
            if nth == 2 {
                machine.0.set_free_bytes(Some(PLENTY));
                filling.go_on(&engine, 20).await?;
                check_files(&engine, &machine, &setup).await?;
            }
            engine.close().await?;
            Ok(())
        })?;
        state = filling.state.clone();
        disk = machine.0.stop();
    }
    Ok(done)
}

fn fill_disks(shards: u16) {
    on_two_threads(|thread| {
        for seed in (thread..24).step_by(2) {
            let capacity = u64::from(shards) * ((1600 << 10) + (seed % 4) * (400 << 10));
            let done = fill_a_disk(shards, capacity, seed).unwrap_or_else(|trouble| {
                panic!("{shards} shards, {capacity} bytes, seed {seed}: {trouble:?}")
            });
            println!("{shards} shards, {} KiB, seed {seed}: {done} operations", capacity >> 10);
        }
    });
}

#[test]
fn a_store_of_one_shard_fills_its_disk_and_goes_on() {
    fill_disks(1);
}

#[test]
fn a_store_of_two_shards_fills_its_disk_and_goes_on() {
    fill_disks(2);
}

#[test]
fn a_store_of_four_shards_fills_its_disk_and_goes_on() {
    fill_disks(4);
}

/// What a run in which the disk was filled by others has met.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    refused: u64,
    flushes_put_off: u64,
    merges_put_off: u64,
    slowed: u64,
}

impl Met {
    /// Whether all of it was met often enough to say that it works.
    fn is_covered(&self) -> bool {
        let Self { refused, flushes_put_off, merges_put_off, slowed } = *self;
        [refused, flushes_put_off, merges_put_off, slowed].into_iter().all(|count| count > 10)
    }
}

impl std::ops::AddAssign for Met {
    fn add_assign(&mut self, other: Self) {
        self.refused += other.refused;
        self.flushes_put_off += other.flushes_put_off;
        self.merges_put_off += other.merges_put_off;
        self.slowed += other.slowed;
    }
}

async fn met(engine: &Engine) -> Checked<Met> {
    let stats = engine.stats().await?;
    let mut met = Met { refused: stats.refused_for_space, ..Met::default() };
    for shard in &stats.shards {
        met.flushes_put_off += shard.space.flushes_put_off;
        met.merges_put_off += shard.space.merges_put_off;
        met.slowed += shard.stalls.of(StallReason::OutOfSpace).count;
    }
    Ok(met)
}

/// Somebody else fills the disk in the middle of everything, or a quota that the disk does not tell of is reached, and
/// later there is room again.
fn without_warning(shards: u16, seed: u64) -> Checked<Met> {
    let setup = Setup::small(shards);
    let mut rng = Rng::new(seed);
    let options = SimOptions { free_bytes: Some(PLENTY), ..setup.options(seed) };
    let machine = Machine::new(options, SimDisk::new());
    let mut filling = Filling { machine: &machine, setup: &setup, rng: rng.split(), state: State::default() };
    let found = machine.finish(async {
        let world = &machine.0;
        let engine = setup.open(world, false).await?;
        for _ in 0..3 {
            let blocks = 5 + filling.rng.index(30);
            filling.go_on(&engine, blocks).await?;
            let quota = filling.rng.coin();
            if quota {
                let kinds = vec![FileKind::Segment, FileKind::Reserve];
                world.set_faults(Faults { no_space: 10_000, kinds, ..Faults::default() });
            } else {
                world.set_free_bytes(Some(0));
            }
            filling.fill_up(&engine, 260).await?;
            filling.check(&engine).await?;
            filling.reorg(&engine).await?;
            world.set_faults(Faults::default());
            world.set_free_bytes(Some(PLENTY));
            sleep(world, Duration::from_secs(1)).await;
        }
        filling.go_on(&engine, 20).await?;
        check_files(&engine, &machine, &setup).await?;
        let met = met(&engine).await?;
        engine.close().await?;
        Ok(met)
    })?;
    Ok(found)
}

#[test]
fn a_disk_that_others_fill_holds_commits_back_and_stops_nothing() {
    let all = Mutex::new(Met::default());
    on_two_threads(|thread| {
        for seed in (thread..SEEDS_MAX).step_by(2) {
            if seed >= SEEDS_MIN && all.lock().unwrap().is_covered() {
                return;
            }
            let shards = [1, 2, 4][(seed / 2 % 3) as usize];
            let met = without_warning(shards, seed)
                .unwrap_or_else(|trouble| panic!("{shards} shards, seed {seed}: {trouble:?}"));
            *all.lock().unwrap() += met;
        }
    });
    let all = all.into_inner().unwrap();
    println!("{all:?}");
    assert!(all.is_covered(), "the seeds cover it all: {all:?}");
}

/// Compacts on a disk that is full, or does not give what it says it has, and again when there is space.
fn compact_without_space(quota: bool) -> Checked {
    let mut setup = Setup::small(2);
    // What is to be merged is left to the request.
    setup.settings.merge_fan_in = 100;
    let options = SimOptions { free_bytes: Some(PLENTY), ..setup.options(11) };
    let machine = Machine::new(options, SimDisk::new());
    let mut filling =
        Filling { machine: &machine, setup: &setup, rng: Rng::new(11), state: State::default() };
    machine.finish(async {
        let world = &machine.0;
        let engine = setup.open(world, false).await?;
        filling.go_on(&engine, 60).await?;
        engine.flush().await?;
        if quota {
            let kinds = vec![FileKind::Segment];
            world.set_faults(Faults { no_space: 10_000, kinds, ..Faults::default() });
        } else {
            world.set_free_bytes(Some(0));
        }
        for _ in 0..2 {
            let refused = engine.compact().await;
            let is_full = matches!(&refused, Err(Error::Storage(error)) if error.is_out_of_space());
            assert!(is_full, "{refused:?}");
        }
        filling.check(&engine).await?;
        world.set_faults(Faults::default());
        world.set_free_bytes(Some(PLENTY));
        engine.compact().await?;
        let shards = engine.stats().await?.shards;
        assert!(shards.iter().all(|shard| shard.descents > 0), "all shards have merged");
        assert!(shards.iter().any(|shard| shard.space.merges_put_off >= 2));
        filling.check(&engine).await?;
        check_files(&engine, &machine, &setup).await?;
        Ok(engine.close().await?)
    })
}

#[test]
fn a_compaction_without_space_says_so_and_is_done_when_there_is_some() {
    for quota in [false, true] {
        compact_without_space(quota).unwrap_or_else(|trouble| panic!("quota {quota}: {trouble:?}"));
    }
}

/// What an operation that is refused space may bring about.
fn may_stop(op: FileOp, kind: Option<FileKind>) -> bool {
    // Creating the store is given up. In a log that was filled with zeros, nobody can run out of space.
    matches!(kind, None | Some(FileKind::Superblock))
        || op == FileOp::Write && matches!(kind, Some(FileKind::Wal | FileKind::Manifest))
}

/// An operation that may take space: when it was handed to the machine, what it was, and on what.
type Asked = (u64, FileOp, Option<FileKind>);

/// How a run went in which one operation was refused space.
struct Refused {
    /// Whether the engine went on to the end of the script, and was closed.
    went_on: Checked<bool>,
    progress: Progress,
    disk: SimDisk,
    /// Every operation that may take space.
    asked: Vec<Asked>,
}

fn refuse_at(setup: &Setup, script: &Script, at: Option<u64>) -> Refused {
    let at = at.map(|at| (at, Fault::Errno(ENOSPC)));
    let faults = Faults { at: at.into_iter().collect(), ..Faults::default() };
    let machine = Machine::new(SimOptions { faults, ..setup.options(7) }, SimDisk::new());
    let asked: Rc<RefCell<Vec<Asked>>> = Rc::default();
    let seen = Rc::clone(&asked);
    machine.0.on_io(move |index, event, _| {
        if event.grows && event.phase == IoPhase::Submitted {
            seen.borrow_mut().push((index, event.op, event.file.map(|file| file.kind)));
        }
    });
    let progress = Progress::default();
    let went_on = machine.finish(async {
        let engine = match setup.open(&machine.0, false).await {
            Err(Error::Storage(_)) => return Ok(false),
            opened => opened?,
        };
        let driven = Driver::new(&engine, &machine.0, script, &progress, setup).run().await;
        if let Err(Trouble::Engine(Error::Storage(error))) = driven {
            let cause = format!("{error:?}");
            assert!(cause.contains("OutOfSpace") || cause.contains("Closed"), "the cause is named: {cause}");
            let mut rng = Rng::new(1);
            verify(&engine, script, 0..progress.submitted.get() + 1, setup.schema, &mut rng).await?;
            return Ok(false);
        }
        driven?;
        match engine.close().await {
            Err(Error::Storage(_)) => Ok(false),
            closed => Ok(closed.map(|()| true)?),
        }
    });
    let disk = machine.0.stop();
    Refused { went_on, progress, disk, asked: asked.take() }
}

/// Refuses one operation, and compares what the next open finds. Gives whether the engine went on.
fn refuse_and_open_again(setup: &Setup, script: &Script, (at, op, kind): Asked) -> Checked<bool> {
    let Refused { went_on, progress, disk, .. } = refuse_at(setup, script, Some(at));
    let went_on = went_on?;
    if !went_on && !may_stop(op, kind) {
        return Err(Trouble::Wrong("the engine has stopped".to_owned()));
    }
    let window = if went_on { script.states.len() - 1..script.states.len() } else { progress.window() };
    let disk = if went_on { disk } else { disk.crash(at, setup.personality) };
    let again = Machine::new(setup.options(at), disk);
    let mut rng = Rng::new(at);
    again.finish(async {
        let engine = setup.open(&again.0, false).await?;
        verify(&engine, script, window, setup.schema, &mut rng).await?;
        check_files(&engine, &again, setup).await
    })?;
    Ok(went_on)
}

#[test]
fn any_operation_may_be_refused_space() {
    for shards in [1, 2] {
        let setup = Setup::small(shards);
        let recipe = Recipe { between: [1500, 0, 500, 700, 0, 500], ..recipe(3, 45, &setup, 0) };
        let script = write(&recipe, State::default());
        let Refused { went_on, asked, .. } = refuse_at(&setup, &script, None);
        assert!(went_on.unwrap());
        for kind in [FileKind::Wal, FileKind::Manifest, FileKind::Segment, FileKind::Reserve] {
            let of_kind = asked.iter().filter(|(.., asked)| *asked == Some(kind));
            assert!(of_kind.count() > 5, "{kind:?}");
        }
        let stopped = AtomicU64::new(0);
        on_two_threads(|thread| {
            for asked in asked.iter().skip(thread as usize).step_by(2) {
                let went_on = refuse_and_open_again(&setup, &script, *asked)
                    .unwrap_or_else(|trouble| panic!("{shards} shards, {asked:?}: {trouble:?}"));
                stopped.fetch_add(u64::from(!went_on), Ordering::Relaxed);
            }
        });
        println!("{shards} shards: {} operations, {stopped:?} of which stop the engine", asked.len());
    }
}
