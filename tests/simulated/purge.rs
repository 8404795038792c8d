//! Records that are removed in the background as their collections declare, while blocks, reorgs and crashes go on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use op_engine::{
    Batch, Block, BlockHash, Collection, Config, Desc, Engine, Error, Height, History, Index, IndexList,
    Layout, Purge, Scope, Snapshot,
};
use op_engine_io::sim::{Outcome, Rng, SimDisk, SimOptions, SimWorld};

use crate::support::check::{Checked, Trouble};
use crate::support::run::{Machine, Setup, on_two_threads, sleep};

const SEEDS: u64 = 300;
const KEYS: u64 = 50;

/// Value, and the height at which it was spent; 0 if it was not.
type Output = (u32, u64);
type Rows = BTreeMap<u16, Output>;

/// How many blocks below the tip what was spent is kept.
const KEPT: u64 = 4;

struct Outputs<const GLOBAL: bool>;

impl<const GLOBAL: bool> Collection for Outputs<GLOBAL> {
    const NAME: &'static str = if GLOBAL { "notes" } else { "outputs" };
    type Key = u16;
    type Value = Output;
    const SCOPE: Scope = if GLOBAL { Scope::Global } else { Scope::Chain };

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByValue<GLOBAL>>().with::<ByKey<GLOBAL>>()
    }

    fn purge() -> Option<Purge<Self>> {
        Some(
            Purge::<Self>::beyond(KEPT, |_, output, below| output.1 != 0 && Height(output.1) < below)
                .every(2),
        )
    }
}

struct ByValue<const GLOBAL: bool>;

impl<const GLOBAL: bool> Index for ByValue<GLOBAL> {
    const NAME: &'static str = "by_value";
    type Of = Outputs<GLOBAL>;
    type Key = (bool, Desc<u32>);
    type Covered = ();

    fn entries(_: &u16, output: &Output, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((output.1 != 0, Desc(output.0)), ());
    }
}

/// Unique: an entry left behind would be found by the next record with the key.
struct ByKey<const GLOBAL: bool>;

impl<const GLOBAL: bool> Index for ByKey<GLOBAL> {
    const NAME: &'static str = "by_key";
    type Of = Outputs<GLOBAL>;
    type Key = u32;
    type Covered = (u64,);
    const UNIQUE: bool = true;

    fn entries(key: &u16, output: &Output, emit: &mut dyn FnMut(u32, (u64,))) {
        emit(u32::from(*key) + 7, (output.1,));
    }
}

/// The chain with the outputs after each block, and the notes.
#[derive(Debug, Clone, Default)]
struct Model {
    chain: Vec<(BlockHash, Rows)>,
    notes: Rows,
    salt: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Block(Box<Block>, BlockHash, Rows),
    Notes(Batch, Rows),
    Reorg(u64),
}

impl Model {
    fn tip(&self) -> u64 {
        (self.chain.len() as u64).saturating_sub(1)
    }

    fn outputs(&self) -> Rows {
        self.chain.last().map(|(_, rows)| rows.clone()).unwrap_or_default()
    }

    /// Outputs come, are spent at this height, and sometimes come again.
    fn changes(&self, rng: &mut Rng, rows: &Rows, height: u64) -> Rows {
        (0..rng.below(12))
            .map(|_| {
                let key = rng.below(KEYS) as u16;
                let output = match rows.get(&key) {
                    Some((value, 0)) if rng.below(4) > 0 => (*value, height.max(1)),
                    // As it was before, spent long ago: of this age, but not at the horizon.
                    _ if rng.below(8) == 0 => (7, 1),
                    _ => (rng.below(100) as u32, 0),
                };
                (key, output)
            })
            .collect()
    }

    fn block(&mut self, rng: &mut Rng) -> Op {
        let changes = self.changes(rng, &self.outputs(), self.chain.len() as u64);
        self.block_of(rng, changes)
    }

    fn block_of(&mut self, rng: &mut Rng, changes: Rows) -> Op {
        self.salt += 1;
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&self.salt.to_le_bytes());
        rng.fill(&mut hash[8..]);
        let (hash, height) = (BlockHash(hash), self.chain.len() as u64);
        let parent = self.chain.last().map_or(BlockHash([0; 32]), |(hash, _)| *hash);
        let mut block = Block::new(Height(height), hash, parent);
        let mut rows = self.outputs();
        for (key, output) in changes {
            block.put::<Outputs<false>>(&key, &output);
            rows.insert(key, output);
        }
        Op::Block(Box::new(block), hash, rows)
    }

    fn notes(&self, rng: &mut Rng) -> Op {
        let (mut batch, mut rows) = (Batch::new(), self.notes.clone());
        for (key, output) in self.changes(rng, &rows, self.tip()) {
            batch.put::<Outputs<true>>(&key, &output);
            rows.insert(key, output);
        }
        Op::Notes(batch, rows)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Block(_, hash, rows) => self.chain.push((*hash, rows.clone())),
            Op::Notes(_, rows) => self.notes = rows.clone(),
            Op::Reorg(height) => self.chain.truncate(*height as usize + 1),
        }
    }
}

struct Life {
    rng: Rng,
    setup: Setup,
    upkeep_rows: usize,
    model: RefCell<Model>,
    pending: RefCell<Option<Model>>,
    removed: Cell<u64>,
    kept: Cell<u64>,
}

/// The rows on a snapshot are those of the model, but for some that were spent below a height. The indexes are those of
/// the rows.
async fn compare<const GLOBAL: bool>(snapshot: &Snapshot, model: &Rows, below: u64) -> Checked<Rows> {
    let rows: Rows = snapshot.scan::<Outputs<GLOBAL>>().collect().await?.into_iter().collect();
    for (key, output) in model {
        let may_be_gone = output.1 != 0 && output.1 < below;
        match rows.get(key) {
            None if may_be_gone => {}
            got if got == Some(output) => {}
            got => {
                return Err(Trouble::Wrong(format!("{key} is {got:?}, wanted {output:?}; below is {below}")));
            }
        }
    }
    if let Some(key) = rows.keys().find(|key| !model.contains_key(key)) {
        return Err(Trouble::Wrong(format!("{key} is there and should not be")));
    }
    let by_value = snapshot.scan_index::<ByValue<GLOBAL>>().collect().await?;
    let mut wanted: Vec<_> =
        rows.iter().map(|(key, output)| ((output.1 != 0, Desc(output.0)), *key, ())).collect();
    wanted.sort();
    if by_value != wanted {
        return Err(Trouble::Wrong(format!("by_value holds {by_value:?}, wanted {wanted:?}")));
    }
    let by_key = snapshot.scan_index::<ByKey<GLOBAL>>().collect().await?;
    let mut wanted: Vec<_> =
        rows.iter().map(|(key, output)| (u32::from(*key) + 7, *key, (output.1,))).collect();
    wanted.sort();
    if by_key != wanted {
        return Err(Trouble::Wrong(format!("by_key holds {by_key:?}, wanted {wanted:?}")));
    }
    Ok(rows)
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut setup = Setup::small(1 + rng.below(3) as u16);
        setup.settings.memtable_bytes_max = 1 << (11 + rng.below(3));
        setup.settings.purged_entries_min = 4;
        setup.window = 2 + rng.below(5);
        let upkeep_rows = 1 + rng.index(12);
        let (model, pending) = (RefCell::default(), RefCell::new(None));
        Self { rng, setup, upkeep_rows, model, pending, removed: Cell::new(0), kept: Cell::new(0) }
    }

    async fn step(&self, engine: &Engine, world: &SimWorld, rng: &mut Rng) -> Checked {
        let mut model = self.model.borrow().clone();
        let op = match rng.below(14) {
            0 if !model.chain.is_empty() => {
                let lowest = engine.horizon().0;
                Op::Reorg(lowest + rng.below(model.tip() - lowest + 1))
            }
            1 | 2 => model.notes(rng),
            3 => return Ok(engine.flush().await?),
            4 => {
                sleep(world, Duration::from_millis(rng.below(30))).await;
                return Ok(());
            }
            _ => model.block(rng),
        };
        model.apply(&op);
        *self.pending.borrow_mut() = Some(model.clone());
        match op {
            Op::Block(block, ..) => drop(engine.submit(*block).await?.acknowledged().await?.seq.to_string()),
            Op::Notes(batch, _) => drop(engine.commit_global(batch).await?.seq.to_string()),
            Op::Reorg(height) => drop(engine.reorg_to(Height(height)).await?.seq.to_string()),
        }
        *self.model.borrow_mut() = model;
        *self.pending.borrow_mut() = None;
        Ok(())
    }

    /// After a crash, what was on its way is there or is not.
    async fn settle(&self, engine: &Engine) -> Checked {
        let Some(pending) = self.pending.borrow_mut().take() else { return Ok(()) };
        let below = engine.horizon().0;
        let tip = engine.tip().map(|tip| tip.hash);
        let snapshot = engine.snapshot().await?;
        if tip == pending.chain.last().map(|(hash, _)| *hash)
            && compare::<true>(&snapshot, &pending.notes, below).await.is_ok()
        {
            *self.model.borrow_mut() = pending;
        }
        Ok(())
    }

    async fn check(&self, engine: &Engine) -> Checked {
        let model = self.model.borrow().clone();
        let snapshot = engine.snapshot().await?;
        let below = engine.horizon().0;
        let outputs = compare::<false>(&snapshot, &model.outputs(), below).await?;
        compare::<true>(&snapshot, &model.notes, below).await?;
        self.removed.set(self.removed.get() + (model.outputs().len() - outputs.len()) as u64);
        self.kept.set(self.kept.get() + outputs.len() as u64);
        for height in engine.horizon().0..model.chain.len() as u64 {
            let snapshot = engine.at(Height(height)).await?;
            compare::<false>(&snapshot, &model.chain[height as usize].1, below).await?;
        }
        Ok(())
    }

    async fn client(&self, world: &SimWorld, steps: u64, finish: bool, rng: &mut Rng) -> Checked {
        let config = Config::new("/simulated").reorg_window(self.setup.window).upkeep_rows(self.upkeep_rows);
        let config = config.collection::<Outputs<false>>().collection::<Outputs<true>>();
        let engine =
            Engine::open_on(world.clone(), config, self.setup.shards, self.setup.settings.clone()).await?;
        self.settle(&engine).await?;
        self.check(&engine).await?;
        for _ in 0..steps {
            self.step(&engine, world, rng).await?;
            if rng.below(4) == 0 {
                self.check(&engine).await?;
            }
        }
        if finish {
            self.finish(&engine, world, rng).await?;
        }
        if finish || rng.coin() {
            engine.close().await?;
        }
        Ok(())
    }

    /// In the end everything has gone that was spent long enough ago, and nothing else.
    async fn finish(&self, engine: &Engine, world: &SimWorld, rng: &mut Rng) -> Checked {
        let before = self.model.borrow().tip() + 2;
        let far = before + KEPT + self.setup.window + 4;
        // Empty blocks: a record that is put again as it was would be as new for the engine, and the same for the model.
        while self.model.borrow().tip() < far {
            let mut model = self.model.borrow().clone();
            let op = model.block_of(rng, Rows::new());
            model.apply(&op);
            let Op::Block(block, ..) = op else { continue };
            engine.commit(*block).await?;
            *self.model.borrow_mut() = model;
        }
        for round in 0.. {
            let done = |progress: Option<op_engine::PurgeProgress>| {
                progress.is_some_and(|progress| !progress.is_running && progress.below.0 > before)
            };
            if done(engine.purge_progress::<Outputs<false>>()?)
                && done(engine.purge_progress::<Outputs<true>>()?)
            {
                break;
            }
            assert!(round < 500, "a pass comes to an end: {:?}", engine.stats().await?.purges);
            sleep(world, Duration::from_millis(50)).await;
        }
        self.check(engine).await?;
        let model = self.model.borrow().clone();
        // The horizon of that pass was above `before`: what has not changed since then was the same there.
        let since = &model.chain[before as usize..];
        for (key, output) in engine.scan::<Outputs<false>>().collect().await? {
            let is_settled = since.iter().all(|(_, rows)| rows.get(&key) == Some(&output));
            if output.1 != 0 && output.1 < before && is_settled {
                return Err(Trouble::Wrong(format!("{key} {output:?} should have gone before {before}")));
            }
        }
        Ok(())
    }

    fn opening(&mut self, disk: SimDisk, steps: u64, finish: bool) -> Checked<SimDisk> {
        let mut rng = self.rng.split();
        let seed = self.rng.next_u64();
        let crash_at = (!finish && self.rng.coin()).then(|| self.rng.below(1200));
        let machine = Machine::new(SimOptions { crash_at, ..self.setup.options(seed) }, disk);
        let outcome = machine.0.run(self.client(&machine.0, steps, finish, &mut rng));
        if let Some(panic) = machine.0.panics().first() {
            return Err(Trouble::Wrong(format!("{} panicked: {}", panic.task, panic.message)));
        }
        match outcome {
            Outcome::Done(done) => done?,
            Outcome::Crashed => {}
            Outcome::Deadlock => return Err(Trouble::Wrong("deadlock".to_owned())),
            Outcome::StepLimit => return Err(Trouble::Wrong("the run does not end".to_owned())),
        }
        Ok(machine.0.stop().crash(seed, self.setup.personality))
    }

    fn live(&mut self) -> Checked {
        let mut disk = SimDisk::new();
        for _ in 0..1 + self.rng.below(3) {
            let steps = 5 + self.rng.below(25);
            disk = self.opening(disk, steps, false)?;
        }
        disk = self.opening(disk, 3, true)?;
        self.opening(disk, 3, false)?;
        Ok(())
    }
}

#[test]
fn what_is_old_goes_and_nothing_else_whatever_happens() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let counts = Mutex::new((0, 0));
    on_two_threads(|thread| {
        for seed in seeds.clone().filter(|seed| seed % 2 == thread) {
            let mut life = Life::new(seed);
            if let Err(trouble) = life.live() {
                panic!("SEED={seed}: {trouble:?}");
            }
            let mut counts = counts.lock().unwrap();
            counts.0 += life.removed.get();
            counts.1 += life.kept.get();
        }
    });
    let (removed, kept) = counts.into_inner().unwrap();
    println!("removed {removed}, kept {kept}");
    assert!(only.is_some() || removed > SEEDS && kept > SEEDS, "{removed} removed, {kept} kept");
}

/// Blocks by height, written once.
struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = u64;
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
}

fn on(disk: SimDisk, work: impl AsyncFnOnce(&SimWorld) -> Checked) -> SimDisk {
    let machine = Machine::new(Setup::small(2).options(1), disk);
    machine.finish(work(&machine.0)).unwrap();
    machine.0.stop()
}

async fn open(world: &SimWorld, config: Config) -> Result<Engine, Error> {
    let setup = Setup::small(2);
    let settings = op_engine::ShardConfig { purged_entries_min: 10, ..setup.settings };
    Engine::open_on(world.clone(), config.reorg_window(5).upkeep_rows(20), 2, settings).await
}

fn body(height: u64) -> Block {
    let hash = |height: u64| BlockHash([height as u8 + 1; 32]);
    let parent = if height == 0 { BlockHash([0; 32]) } else { hash(height - 1) };
    let mut block = Block::new(Height(height), hash(height), parent);
    for part in 0..4 {
        block.put::<Bodies>(&(height * 4 + part), &vec![part as u8; 900]);
    }
    block
}

async fn bytes_of_segments(engine: &Engine) -> Checked<u64> {
    engine.flush().await?;
    let stats = engine.stats().await?;
    let names = engine.collection_names();
    let id = names.iter().find(|(_, name)| name == "bodies").map(|(id, _)| *id);
    let segments = stats.shards.iter().flat_map(|shard| &shard.segments);
    Ok(segments.filter(|segment| Some(segment.collection) == id).map(|segment| segment.file_bytes).sum())
}

#[test]
fn purging_an_append_only_collection_gives_its_space_back() {
    let grow = |purge: Option<Purge<Bodies>>| {
        let bytes = Cell::new(0);
        on(SimDisk::new(), async |world| {
            let config = Config::new("/simulated").collection::<Bodies>().purge::<Bodies>(purge);
            let engine = open(world, config).await?;
            for height in 0..200 {
                engine.commit(body(height)).await?;
            }
            sleep(world, Duration::from_secs(3)).await;
            bytes.set(bytes_of_segments(&engine).await?);
            let left = engine.scan::<Bodies>().collect().await?;
            assert_eq!(left.last().unwrap().0, 799);
            Ok(engine.close().await?)
        });
        bytes.get()
    };
    let below = |key: &u64, _: &Vec<u8>, below: Height| key / 4 < below.0;
    let (kept, purged) = (grow(None), grow(Some(Purge::beyond(10, below).every(10))));
    println!("{kept} bytes kept, {purged} after purging");
    assert!(kept > 700_000 && purged < kept / 4, "{kept} kept, {purged} after purging");
}

#[test]
fn a_test_that_panics_stops_purging_and_nothing_else() {
    let disk = on(SimDisk::new(), async |world| {
        let purge = Purge::beyond(1, |key: &u64, _: &Vec<u8>, _| {
            assert!(*key != 3, "three is not to be asked for");
            false
        });
        let config = Config::new("/simulated").collection::<Bodies>().purge::<Bodies>(Some(purge));
        let engine = open(world, config).await?;
        for height in 0..20 {
            engine.commit(body(height)).await?;
        }
        sleep(world, Duration::from_secs(1)).await;
        let progress = engine.purge_progress::<Bodies>()?.unwrap();
        let Some(Error::DeclarationPanicked { collection, function, key, message }) = &progress.failure
        else {
            panic!("{progress:?}")
        };
        assert_eq!((collection.as_str(), function.as_str()), ("bodies", "purge test"));
        assert_eq!((key.as_str(), message.as_str()), ("0000000000000003", "three is not to be asked for"));
        assert_eq!(engine.stats().await?.purges, [progress]);
        engine.commit(body(20)).await?;
        assert_eq!(engine.scan::<Bodies>().collect().await?.len(), 84);
        Ok(engine.close().await?)
    });
    // Another opening, another declaration: all that is settled goes, once the tip is at 21.
    on(disk, async |world| {
        let all = Purge::beyond(20, |_: &u64, _: &Vec<u8>, _| true);
        let config = Config::new("/simulated").collection::<Bodies>().purge::<Bodies>(Some(all));
        let engine = open(world, config).await?;
        sleep(world, Duration::from_secs(1)).await;
        let held = engine.snapshot().await?;
        engine.commit(body(21)).await?;
        only_settled_ones_are_gone(&engine, world).await?;
        assert_eq!(held.scan::<Bodies>().collect().await?.len(), 84, "a snapshot keeps what it shows");
        // The removals came after block 21, so they go with it, and the note of the pass, too.
        engine.reorg_to(Height(20)).await?;
        sleep(world, Duration::from_secs(1)).await;
        assert_eq!(engine.scan::<Bodies>().collect().await?.len(), 84);
        assert!(!engine.purge_progress::<Bodies>()?.unwrap().is_running);
        engine.commit(body(21)).await?;
        only_settled_ones_are_gone(&engine, world).await?;
        Ok(engine.close().await?)
    });
}

/// With the tip at 21 the horizon is at 16, or was at 15 when the pass began.
async fn only_settled_ones_are_gone(engine: &Engine, world: &SimWorld) -> Checked {
    sleep(world, Duration::from_secs(1)).await;
    let left = engine.scan::<Bodies>().collect().await?;
    let heights: Vec<u64> = left.iter().map(|(key, _)| key / 4).collect();
    assert!(heights[0] >= 16 && heights.ends_with(&[21; 4]), "{heights:?}");
    assert_eq!(heights.iter().filter(|height| **height >= 17).count(), 20, "{heights:?}");
    Ok(())
}

struct Forever;

impl Collection for Forever {
    const NAME: &'static str = "forever";
    type Key = u64;
    type Value = Vec<u8>;
    const HISTORY: History = History::All;

    fn purge() -> Option<Purge<Self>> {
        Some(Purge::beyond(10, |_, _, _| true))
    }
}

#[test]
fn a_collection_that_keeps_every_version_is_not_purged() {
    on(SimDisk::new(), async |world| {
        let refused = open(world, Config::new("/simulated").collection::<Forever>()).await.err().unwrap();
        assert!(matches!(refused, Error::Setting { name: "purge", .. }), "{refused}");
        assert!(refused.to_string().contains("History::Window"), "{refused}");
        Ok(())
    });
}
