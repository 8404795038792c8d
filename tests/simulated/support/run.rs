//! Runs of a store on simulated machines: drive a script, crash, open again, compare, go on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use op_engine::{Batch, Block, Config, Durability, Engine, Error, Height, Pending, ShardConfig, Snapshot};
use op_engine_io::sim::{DurableCover, IoEvent, Outcome, Personality, Rng, SimDisk, SimOptions, SimWorld};
use op_engine_io::{Env, FileOp, World};

use super::check::{Checked, Of, Schema, Trouble, read_all, verify};
use super::model::{Change, CommitOp, Content};
use super::schema::{self, Coins, Mempool, Names, Plain, States, Wallet};
use super::script::{Recipe, Script, Step, write};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Setup {
    pub shards: u16,
    pub settings: ShardConfig,
    pub durability: Durability,
    pub window: u64,
    pub schema: Schema,
    pub personality: Personality,
    pub cover: DurableCover,
    /// Blocks that are submitted before the first is acknowledged.
    pub pipeline: usize,
    /// Whether there is a cold target, to which what can move does at once.
    pub cold: bool,
}

impl Setup {
    /// Memtables, files and caches so small that flushes, merges and rotations come all the time.
    pub fn small(shards: u16) -> Self {
        let settings = ShardConfig {
            wal_file_bytes: 24 << 10,
            wal_queue_bytes_max: 16 << 10,
            wal_gather_bytes: 2 << 10,
            memtable_bytes_max: 12 << 10,
            memtables_frozen_max: 1,
            cache_bytes: 64 << 10,
            segment_write_bytes: 8 << 10,
            merge_fan_in: 3,
            merge_inputs_max: 6,
            segment_bytes_max: 5 << 10,
            append_run_bytes_max: 60 << 10,
            young_runs_max: 4,
            merge_runs_soft: 8,
            merge_runs_max: 12,
            cold_page_bytes: 4096,
            cold_segment_bytes: 6 << 10,
            cold_cache_bytes: 16 << 10,
            space_reserve_bytes: Some(256 << 10),
            mailbox_len_max: 64,
            reads_in_flight_max: 64,
            ..ShardConfig::default()
        };
        Self {
            shards,
            settings,
            durability: Durability::Block,
            window: 12,
            schema: Schema::All,
            personality: Personality::Strict,
            cover: DurableCover::File,
            pipeline: 1,
            cold: false,
        }
    }

    pub fn config(&self, rotated: bool) -> Config {
        let config = Config::new("/simulated").durability(self.durability).reorg_window(self.window);
        let config = if self.cold { schema::tiered(config) } else { config };
        match self.schema {
            Schema::Early => schema::early(config),
            Schema::All => schema::all(config, rotated),
        }
    }

    pub fn options(&self, seed: u64) -> SimOptions {
        SimOptions {
            personality: self.personality,
            durable_cover: self.cover,
            cold: self.cold,
            step_max: 3_000_000,
            ..SimOptions::with_seed(seed)
        }
    }

    pub async fn open(&self, world: &SimWorld, rotated: bool) -> Result<Engine, Error> {
        Engine::open_on(world.clone(), self.config(rotated), self.shards, self.settings.clone()).await
    }
}

/// A simulated machine that lets go of its tasks when it is dropped.
pub struct Machine(pub SimWorld);

impl Machine {
    pub fn new(options: SimOptions, disk: SimDisk) -> Self {
        Self(SimWorld::new(options, disk))
    }

    /// Runs to the end; a run that hangs, crashes or panics is wrong.
    pub fn finish<T>(&self, client: impl Future<Output = Checked<T>>) -> Checked<T> {
        let outcome = self.0.run(client);
        if let Some(panic) = self.0.panics().first() {
            return Err(Trouble::Wrong(format!(
                "{} of {} panicked: {}",
                panic.task, panic.host, panic.message
            )));
        }
        match outcome {
            Outcome::Done(result) => result,
            Outcome::Crashed => Err(Trouble::Wrong("the power failed".to_owned())),
            Outcome::Deadlock => Err(Trouble::Wrong("deadlock".to_owned())),
            Outcome::StepLimit => Err(Trouble::Wrong("the run does not end".to_owned())),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.stop());
    }
}

/// How far a run has come, in operations of its script.
#[derive(Debug, Default)]
pub struct Progress {
    /// Handed to the engine.
    pub submitted: Cell<usize>,
    /// Acknowledged as durable.
    pub durable: Cell<usize>,
    /// Acknowledged.
    pub acked: Cell<usize>,
}

impl Progress {
    /// The states that may be found after a crash at this moment.
    pub fn window(&self) -> Range<usize> {
        self.durable.get()..self.submitted.get() + 1
    }

    fn ack(&self, ops: usize, durable: bool) {
        self.acked.set(self.acked.get().max(ops));
        if durable {
            self.durable.set(self.durable.get().max(ops));
        }
    }
}

/// Adds changes to a batch.
pub fn fill(batch: &mut Batch, changes: &[Change]) {
    fn put<C: op_engine::Collection>(batch: &mut Batch, key: &C::Key, value: Option<&C::Value>) {
        match value {
            Some(value) => batch.put::<C>(key, value),
            None => batch.delete::<C>(key),
        };
    }
    for change in changes {
        match change {
            Change::Plain(key, value) => put::<Plain>(batch, key, value.as_ref()),
            Change::Coin(key, value) => put::<Coins>(batch, key, value.as_ref()),
            Change::Name(key, value) => put::<Names>(batch, key, value.as_ref()),
            Change::State(key, value) => put::<States>(batch, key, value.as_ref()),
            Change::Wallet(key, value) => put::<Wallet>(batch, key, value.as_ref()),
            Change::Mempool(key, value) => put::<Mempool>(batch, key, value.as_ref()),
        }
    }
}

fn fill_block(block: &mut Block, changes: &[Change]) {
    fn put<C: op_engine::Collection>(block: &mut Block, key: &C::Key, value: Option<&C::Value>) {
        match value {
            Some(value) => block.put::<C>(key, value),
            None => block.delete::<C>(key),
        };
    }
    for change in changes {
        match change {
            Change::Plain(key, value) => put::<Plain>(block, key, value.as_ref()),
            Change::Coin(key, value) => put::<Coins>(block, key, value.as_ref()),
            Change::Name(key, value) => put::<Names>(block, key, value.as_ref()),
            Change::State(key, value) => put::<States>(block, key, value.as_ref()),
            Change::Wallet(key, value) => put::<Wallet>(block, key, value.as_ref()),
            Change::Mempool(key, value) => put::<Mempool>(block, key, value.as_ref()),
        }
    }
}

/// The block of an operation.
pub fn block_of(op: &CommitOp) -> Option<Block> {
    let CommitOp::Block { height, hash, parent, changes } = op else { return None };
    let mut block = Block::new(Height(*height), *hash, *parent);
    fill_block(&mut block, changes);
    Some(block)
}

/// A run of a script on an engine.
pub struct Driver<'a> {
    engine: &'a Engine,
    world: &'a SimWorld,
    script: &'a Script,
    progress: &'a Progress,
    schema: Schema,
    pipeline: usize,
    on_the_way: VecDeque<(usize, Pending)>,
    held: VecDeque<(Snapshot, Of, Content)>,
}

impl<'a> Driver<'a> {
    pub fn new(
        engine: &'a Engine,
        world: &'a SimWorld,
        script: &'a Script,
        progress: &'a Progress,
        setup: &Setup,
    ) -> Self {
        let (on_the_way, held) = (VecDeque::new(), VecDeque::new());
        Self {
            engine,
            world,
            script,
            progress,
            schema: setup.schema,
            pipeline: setup.pipeline,
            on_the_way,
            held,
        }
    }

    /// Takes every step. Ends at the first error.
    pub async fn run(mut self) -> Checked {
        for step in &self.script.steps {
            self.step(*step).await?;
        }
        self.drain(0).await?;
        self.look(self.held.len()).await
    }

    async fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Commit(at) => self.commit(at).await,
            Step::Flush => Ok(self.engine.flush().await?),
            Step::Sync => {
                let ops = self.progress.submitted.get();
                self.engine.sync().await?;
                self.progress.ack(ops, true);
                Ok(())
            }
            Step::Pause => {
                self.world.env().sleep(Duration::from_millis(700)).await;
                Ok(())
            }
            Step::Hold(below) => {
                self.drain(0).await?;
                let state = &self.script.states[self.progress.acked.get()];
                let Some(tip) = state.tip() else { return Ok(()) };
                let height = tip.height.saturating_sub(below).max(self.engine.horizon().0);
                let held = if below == 0 {
                    (self.engine.snapshot().await?, Of::Tip, state.content.as_ref().clone())
                } else {
                    let entry = state.at(height).expect("the chain has no gap");
                    (self.engine.at(Height(height)).await?, Of::Height, entry.content.without_mempool())
                };
                self.held.push_back(held);
                Ok(())
            }
            Step::Look => self.look(1).await,
            Step::Read => self.read().await,
            Step::ToCold(warmed) => {
                self.engine.move_to_cold(warmed).await?;
                Ok(())
            }
            Step::WarmUp(from, to) => {
                self.engine.warm_up(Height(from), Height(to)).await?;
                Ok(())
            }
        }
    }

    async fn commit(&mut self, at: usize) -> Checked {
        let op = &self.script.ops[at];
        match op {
            CommitOp::Block { .. } => {
                let block = block_of(op).expect("it is a block");
                self.progress.submitted.set(at + 1);
                let pending = self.engine.submit(block).await?;
                self.on_the_way.push_back((at + 1, pending));
                self.drain(self.pipeline.saturating_sub(1)).await
            }
            CommitOp::Global(changes) => {
                let mut batch = Batch::new();
                fill(&mut batch, changes);
                self.progress.submitted.set(at + 1);
                self.engine.commit_global(batch).await?;
                self.progress.ack(at + 1, true);
                Ok(())
            }
            CommitOp::Reorg(height) => {
                self.progress.submitted.set(at + 1);
                let reorged = self.engine.reorg_to(Height(*height)).await?;
                self.progress.ack(at + 1, true);
                if reorged.to.0 != *height {
                    return Err(Trouble::Wrong(format!("a reorg to {height} gave {reorged:?}")));
                }
                Ok(())
            }
        }
    }

    /// Waits for acknowledgements until no more than `left` are missing.
    async fn drain(&mut self, left: usize) -> Checked {
        while self.on_the_way.len() > left {
            let Some((ops, pending)) = self.on_the_way.pop_front() else { break };
            let committed = pending.acknowledged().await?;
            self.progress.ack(ops, committed.durable);
        }
        Ok(())
    }

    /// Every held snapshot still shows what it showed; then lets go of the oldest.
    async fn look(&mut self, drop: usize) -> Checked {
        for (snapshot, of, content) in &self.held {
            let got = read_all(snapshot, self.schema, *of).await?;
            got.expect(content).map_err(|why| Trouble::Wrong(format!("a held snapshot changed: {why}")))?;
        }
        self.held.drain(..drop.min(self.held.len()));
        Ok(())
    }

    /// Reads at the tip what the newest operations have left.
    async fn read(&mut self) -> Checked {
        self.drain(0).await?;
        let content = &self.script.states[self.progress.acked.get()].content;
        let rows = self.engine.scan::<Coins>().collect().await?;
        super::model::same("coins", &rows, &content.coins)?;
        for (key, value) in content.plain.iter().take(5) {
            let got = self.engine.get::<Plain>(key).await?;
            super::model::same("plain", &[got], &[Some(value.clone())])?;
        }
        Ok(())
    }
}

/// What to do with a store after it has been opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Compare only.
    Compare,
    /// Commit other blocks at the same heights, reorg, compare, and open and compare once more.
    GoOn,
}

/// Opens the store on a disk without faults, finds one of the states in `window`, and goes on from there.
pub fn reopen(
    disk: SimDisk,
    setup: &Setup,
    script: &Script,
    window: Range<usize>,
    seed: u64,
    then: Then,
) -> Checked<usize> {
    let machine = Machine::new(setup.options(seed), disk);
    let mut rng = Rng::new(seed);
    let world = &machine.0;
    let (found, next, engine_closed) = machine.finish(async {
        let engine = setup.open(world, rng.coin()).await?;
        let found = verify(&engine, script, window, setup.schema, &mut rng).await?;
        if then == Then::Compare {
            return Ok((found, None, false));
        }
        let recipe = Recipe {
            seed: rng.next_u64(),
            blocks: 4,
            reorgs_at: vec![2],
            window: setup.window,
            floor: engine.horizon().0,
            between: [2000, 1000, 500, 500, 0, 1000],
            ..Recipe::default()
        };
        let next = write(&recipe, script.states[found].clone());
        let progress = Progress::default();
        Driver::new(&engine, world, &next, &progress, setup).run().await?;
        let end = next.states.len() - 1;
        verify(&engine, &next, end..end + 1, setup.schema, &mut rng).await?;
        let close = rng.coin();
        if close {
            engine.close().await?;
        } else {
            engine.sync().await?;
        }
        Ok((found, Some(next), close))
    })?;
    let Some(next) = next else { return Ok(found) };
    let disk = machine.0.stop();
    let disk = if engine_closed { disk } else { disk.crash(seed ^ 1, setup.personality) };
    let machine = Machine::new(setup.options(seed ^ 2), disk);
    let world = &machine.0;
    machine.finish(async {
        let engine = setup.open(world, rng.coin()).await?;
        let end = next.states.len() - 1;
        verify(&engine, &next, end..end + 1, setup.schema, &mut rng).await
    })?;
    Ok(found)
}

/// Whether an I/O changes the disk. At any other, a crash leaves what it would have left at the one before.
pub fn changes_disk(event: &IoEvent) -> bool {
    event.durable || event.grows || matches!(event.op, FileOp::Write | FileOp::Remove | FileOp::Release)
}

/// The trait is needed to name the environment's methods.
pub fn sleep(world: &SimWorld, time: Duration) -> impl Future<Output = ()> {
    let env: <SimWorld as World>::Env = world.env();
    async move { env.sleep(time).await }
}

/// Runs `work` for each of `0..2` on a thread of its own.
pub fn on_two_threads(work: impl Fn(u64) + Send + Sync) {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        work(0);
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
