//! Indexes that are added to collections with records: filled in the background while blocks, reorgs and crashes go on.

use std::cell::{Cell, RefCell};
use std::sync::Mutex;
use std::time::Duration;

use op_engine::{Collection, Config, Engine, Error, Height, Index, IndexStatus, Scan, Snapshot};
use op_engine_io::sim::{Outcome, Rng, SimDisk, SimOptions, SimWorld};

use crate::support::check::{Checked, Trouble};
use crate::support::run::{Machine, Setup, on_two_threads, sleep};
use crate::support::tables::{
    ALL, BY_GROUP, BY_PART, BY_TAG, ByGroup, ByPart, ByTag, CHAIN, CLEARED, GLOBAL, HEAVY, HISTORY, Heavy,
    Item, Model, Op, Rows, Table, Tables, expected,
};

const SEEDS: u64 = 300;
const KEYS: u64 = 60;

/// The tables; the indexes that they are not declared with are dropped.
fn config<const WITH: u8>(setup: &Setup, upkeep_rows: usize) -> Config {
    let names = [(BY_GROUP, "by_group"), (BY_PART, "by_part"), (HEAVY, "heavy"), (BY_TAG, "by_tag")];
    let without = names.into_iter().filter(|(bit, _)| WITH & bit == 0);
    let config = without.fold(Config::new("/simulated"), |config, (_, index)| {
        ["items", "slots", "notes", "pool"]
            .iter()
            .fold(config, |config, table| config.drop_index(table, index))
    });
    config
        .reorg_window(setup.window)
        .upkeep_rows(upkeep_rows)
        .collection::<Table<CHAIN, WITH>>()
        .collection::<Table<HISTORY, WITH>>()
        .collection::<Table<GLOBAL, WITH>>()
        .collection::<Table<CLEARED, WITH>>()
}

/// How often something happened: a test that meets nothing shows nothing.
#[derive(Debug, Default)]
struct Met {
    incomplete: Cell<u64>,
    too_new: Cell<u64>,
    complete: Cell<u64>,
    crashes: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

struct Life {
    rng: Rng,
    setup: Setup,
    upkeep_rows: usize,
    /// What is acknowledged, and what may be there beside it.
    model: RefCell<Model>,
    pending: RefCell<Option<Model>>,
    met: Met,
}

/// Compares an index with what it must hold. Tells whether it could be read.
async fn compare<I: Index>(
    scan: Scan<I::Key, (I::Key, u16, I::Covered), I>,
    rows: &Rows,
    must_be_ready: bool,
    met: &Met,
) -> Checked<bool>
where
    I::Of: Collection<Key = u16, Value = Item>,
    I::Key: Ord + std::fmt::Debug,
    I::Covered: Ord + std::fmt::Debug,
{
    match scan.collect().await {
        Ok(got) => {
            let wanted = expected::<I>(rows);
            if got != wanted {
                let name = format!("{}.{}", I::Of::NAME, I::NAME);
                return Err(Trouble::Wrong(format!("{name} holds {got:?}, wanted {wanted:?}")));
            }
            count(&met.complete);
            Ok(true)
        }
        Err(Error::IndexIncomplete { records_done, records_estimated, .. }) if !must_be_ready => {
            assert!(records_done <= records_estimated, "progress is no more than there is");
            count(&met.incomplete);
            Ok(false)
        }
        Err(Error::IndexTooNew { .. }) if !must_be_ready => {
            count(&met.too_new);
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Compares all indexes of a table on a snapshot. Tells which could be read.
async fn compare_table<const SCOPE: u8, const WITH: u8>(
    snapshot: &Snapshot,
    tables: &Tables,
    must_be_ready: bool,
    met: &Met,
) -> Checked<u8> {
    type T<const S: u8, const W: u8> = Table<S, W>;
    let rows = &tables.0[usize::from(SCOPE)];
    let got: Rows = snapshot.scan::<T<SCOPE, WITH>>().collect().await?.into_iter().collect();
    if got != *rows {
        return Err(Trouble::Wrong(format!("table {SCOPE} holds {got:?}, wanted {rows:?}")));
    }
    let mut ready = 0;
    if WITH & BY_GROUP != 0 {
        let scan = snapshot.scan_index::<ByGroup<T<SCOPE, WITH>>>();
        ready |= u8::from(compare::<ByGroup<T<SCOPE, WITH>>>(scan, rows, must_be_ready, met).await?);
    }
    if WITH & HEAVY != 0 {
        let scan = snapshot.scan_index::<Heavy<T<SCOPE, WITH>>>();
        ready |= u8::from(compare::<Heavy<T<SCOPE, WITH>>>(scan, rows, must_be_ready, met).await?) << 1;
    }
    if WITH == ALL {
        let scan = snapshot.scan_index::<ByPart<T<SCOPE, WITH>>>();
        ready |= u8::from(compare::<ByPart<T<SCOPE, WITH>>>(scan, rows, must_be_ready, met).await?) << 2;
        let scan = snapshot.scan_index::<ByTag<T<SCOPE, WITH>>>();
        ready |= u8::from(compare::<ByTag<T<SCOPE, WITH>>>(scan, rows, must_be_ready, met).await?) << 3;
        if let Some((key, item)) = rows.iter().next() {
            match snapshot.get_by::<ByTag<T<SCOPE, WITH>>>(&item.2).await {
                Ok(found) => assert_eq!(found, Some((*key, *item))),
                Err(Error::IndexIncomplete { .. } | Error::IndexTooNew { .. }) if ready & 8 == 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(ready)
}

async fn compare_tip<const WITH: u8>(
    engine: &Engine,
    model: &Model,
    must_be_ready: bool,
    met: &Met,
) -> Checked {
    let snapshot = engine.snapshot().await?;
    compare_table::<CHAIN, WITH>(&snapshot, &model.now, must_be_ready, met).await?;
    compare_table::<HISTORY, WITH>(&snapshot, &model.now, must_be_ready, met).await?;
    compare_table::<GLOBAL, WITH>(&snapshot, &model.now, must_be_ready, met).await?;
    compare_table::<CLEARED, WITH>(&snapshot, &model.now, must_be_ready, met).await?;
    Ok(())
}

/// An index that can be read at a height can be read at every one above.
async fn compare_heights<const WITH: u8>(engine: &Engine, model: &Model, met: &Met) -> Checked {
    let Some(tip) = model.tip() else { return Ok(()) };
    let (mut items, mut slots) = (0, 0);
    for height in 0..=tip {
        let snapshot = engine.at(Height(height)).await?;
        let ready = compare_table::<HISTORY, WITH>(&snapshot, model.at(height), false, met).await?;
        assert_eq!(slots & ready, slots, "what is complete stays so");
        slots = ready;
        if height >= engine.horizon().0 {
            let ready = compare_table::<CHAIN, WITH>(&snapshot, model.at(height), false, met).await;
            let ready = match ready {
                Err(Trouble::Engine(Error::HistoryGone { .. })) if height < engine.horizon().0 => continue,
                ready => ready?,
            };
            assert_eq!(items & ready, items, "what is complete stays so");
            items = ready;
        }
    }
    Ok(())
}

/// How many indexes are not complete.
fn missing<const WITH: u8>(engine: &Engine) -> Result<usize, Error> {
    fn of<const SCOPE: u8, const WITH: u8>(engine: &Engine) -> Result<usize, Error> {
        let mut progress = Vec::new();
        if WITH & BY_GROUP != 0 {
            progress.push(engine.index_progress::<ByGroup<Table<SCOPE, WITH>>>()?);
        }
        if WITH == ALL {
            progress.push(engine.index_progress::<ByPart<Table<SCOPE, WITH>>>()?);
            progress.push(engine.index_progress::<ByTag<Table<SCOPE, WITH>>>()?);
        }
        if WITH & HEAVY != 0 {
            progress.push(engine.index_progress::<Heavy<Table<SCOPE, WITH>>>()?);
        }
        Ok(progress.iter().filter(|progress| progress.status != IndexStatus::Ready).count())
    }
    let chain = of::<CHAIN, WITH>(engine)? + of::<HISTORY, WITH>(engine)?;
    Ok(chain + of::<GLOBAL, WITH>(engine)? + of::<CLEARED, WITH>(engine)?)
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut setup = Setup::small(1 + rng.below(3) as u16);
        setup.settings.memtable_bytes_max = 1 << (11 + rng.below(3));
        setup.window = 2 + rng.below(6);
        let upkeep_rows = 1 + rng.index(12);
        let (model, pending, met) = (RefCell::default(), RefCell::new(None), Met::default());
        Self { rng, setup, upkeep_rows, model, pending, met }
    }

    /// Does something at random.
    async fn step<const WITH: u8>(&self, engine: &Engine, world: &SimWorld, rng: &mut Rng) -> Checked {
        let mut model = self.model.borrow().clone();
        let op = match (rng.below(12), model.tip()) {
            (0, Some(tip)) => {
                let lowest = engine.horizon().0;
                Op::Reorg(lowest + rng.below(tip - lowest + 1))
            }
            (1, _) => Op::Global(model.changes(rng, true, 12, KEYS)),
            (2, _) => return Ok(engine.flush().await?),
            (3, _) => {
                sleep(world, Duration::from_millis(rng.below(30))).await;
                return Ok(());
            }
            _ => model.block(rng, 14, KEYS),
        };
        let block = match &op {
            Op::Block(hash, changes) => Some(model.to_block::<WITH>(*hash, changes)),
            _ => None,
        };
        model.apply(&op);
        *self.pending.borrow_mut() = Some(model.clone());
        match (op, block) {
            (_, Some(block)) => {
                engine.commit(block).await?;
            }
            (Op::Reorg(height), None) => {
                engine.reorg_to(Height(height)).await?;
            }
            (Op::Global(changes), None) => {
                engine.commit_global(Model::to_batch::<WITH>(&changes)).await?;
            }
            (Op::Block(..), None) => {}
        }
        *self.model.borrow_mut() = model;
        *self.pending.borrow_mut() = None;
        Ok(())
    }

    /// After a crash, what was on its way is there or is not.
    async fn settle<const WITH: u8>(&self, engine: &Engine) -> Checked {
        let Some(pending) = self.pending.borrow_mut().take() else { return Ok(()) };
        let tip = engine.tip().map(|tip| tip.hash);
        let notes: Rows = engine.scan::<Table<GLOBAL, WITH>>().collect().await?.into_iter().collect();
        if tip == pending.chain.last().map(|(hash, _)| *hash) && notes == pending.now.0[2] {
            let pool: Rows = engine.scan::<Table<CLEARED, WITH>>().collect().await?.into_iter().collect();
            // A reorg to the tip shows only where everything is cleared.
            if pool == pending.now.0[3] {
                *self.model.borrow_mut() = pending;
            }
        }
        Ok(())
    }

    /// Every segment belongs to something that is declared.
    async fn nothing_is_left_of_dropped_indexes(&self, engine: &Engine, world: &SimWorld) -> Checked {
        let declared: Vec<_> = engine.collection_names().into_iter().map(|(id, _)| id).collect();
        for _ in 0..50 {
            engine.flush().await?;
            let stats = engine.stats().await?;
            let mut segments = stats.shards.iter().flat_map(|shard| &shard.segments);
            if segments.all(|segment| declared.contains(&segment.collection)) {
                return Ok(());
            }
            sleep(world, Duration::from_millis(100)).await;
        }
        Err(Trouble::Wrong("segments of dropped indexes are still there".to_owned()))
    }

    async fn client<const WITH: u8>(
        &self,
        world: &SimWorld,
        steps: u64,
        finish: bool,
        rng: &mut Rng,
    ) -> Checked {
        let config = config::<WITH>(&self.setup, self.upkeep_rows);
        let engine =
            Engine::open_on(world.clone(), config, self.setup.shards, self.setup.settings.clone()).await?;
        self.settle::<WITH>(&engine).await?;
        let model = || self.model.borrow().clone();
        compare_tip::<WITH>(&engine, &model(), false, &self.met).await?;
        for _ in 0..steps {
            self.step::<WITH>(&engine, world, rng).await?;
            if rng.below(4) == 0 {
                compare_tip::<WITH>(&engine, &model(), false, &self.met).await?;
            }
            if rng.below(10) == 0 {
                compare_heights::<WITH>(&engine, &model(), &self.met).await?;
            }
        }
        if finish {
            for round in 0.. {
                if missing::<WITH>(&engine)? == 0 {
                    break;
                }
                assert!(round < 1000, "the work comes to an end: {:?}", engine.stats().await?.indexes);
                sleep(world, Duration::from_millis(100)).await;
            }
            compare_tip::<WITH>(&engine, &model(), true, &self.met).await?;
            self.step::<WITH>(&engine, world, rng).await?;
            compare_heights::<WITH>(&engine, &model(), &self.met).await?;
            self.nothing_is_left_of_dropped_indexes(&engine, world).await?;
        }
        if finish || rng.coin() {
            engine.close().await?;
        }
        Ok(())
    }

    /// One opening, which may end at any I/O.
    fn opening<const WITH: u8>(&mut self, disk: SimDisk, steps: u64, finish: bool) -> Checked<SimDisk> {
        let mut rng = self.rng.split();
        let seed = self.rng.next_u64();
        let crash_at = (!finish && self.rng.coin()).then(|| self.rng.below(1200));
        let machine = Machine::new(SimOptions { crash_at, ..self.setup.options(seed) }, disk);
        let outcome = machine.0.run(self.client::<WITH>(&machine.0, steps, finish, &mut rng));
        if let Some(panic) = machine.0.panics().first() {
            return Err(Trouble::Wrong(format!("{} panicked: {}", panic.task, panic.message)));
        }
        match outcome {
            Outcome::Done(done) => done?,
            Outcome::Crashed => count(&self.met.crashes),
            Outcome::Deadlock => return Err(Trouble::Wrong("deadlock".to_owned())),
            Outcome::StepLimit => return Err(Trouble::Wrong("the run does not end".to_owned())),
        }
        Ok(machine.0.stop().crash(seed, self.setup.personality))
    }

    fn live(&mut self) -> Checked {
        let steps = 10 + self.rng.below(15);
        let mut disk = match self.rng.below(4) {
            0 => self.opening::<ALL>(SimDisk::new(), steps, false)?,
            _ => self.opening::<0>(SimDisk::new(), steps, false)?,
        };
        // Two indexes first, upon which others may be dropped, then all; each time with some openings that end somewhere.
        for _ in 0..self.rng.below(3) {
            let steps = self.rng.below(12);
            disk = self.opening::<{ BY_GROUP | HEAVY }>(disk, steps, false)?;
        }
        for _ in 0..self.rng.below(3) {
            let steps = self.rng.below(12);
            disk = self.opening::<ALL>(disk, steps, false)?;
        }
        disk = self.opening::<ALL>(disk, 3, true)?;
        self.opening::<ALL>(disk, 3, true)?;
        Ok(())
    }
}

#[test]
fn an_added_index_is_complete_in_the_end_and_never_shown_before() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let met = Mutex::new([0; 4]);
    on_two_threads(|thread| {
        for seed in seeds.clone().filter(|seed| seed % 2 == thread) {
            let mut life = Life::new(seed);
            if let Err(trouble) = life.live() {
                panic!("SEED={seed}: {trouble:?}");
            }
            let Met { incomplete, too_new, complete, crashes } = life.met;
            let counts = [incomplete, too_new, complete, crashes].map(|cell| cell.get());
            let mut met = met.lock().unwrap();
            met.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    });
    let met = met.into_inner().unwrap();
    println!("incomplete, too new, complete, crashes: {met:?}");
    assert!(only.is_some() || met.iter().all(|count| *count > SEEDS / 4), "{met:?}");
}
