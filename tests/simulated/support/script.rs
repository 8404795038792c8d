//! Scripts: deterministic sequences of blocks, reorgs and what comes between them.

use op_engine::BlockHash;
use op_engine_io::sim::Rng;

use super::model::{Change, CommitOp, State, Tables};

/// What a script is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub seed: u64,
    pub blocks: usize,
    /// After how many blocks a reorg comes; twice the same number for two in a row.
    pub reorgs_at: Vec<usize>,
    /// The reorg window of the store.
    pub window: u64,
    /// The lowest height that a reorg may go back to.
    pub floor: u64,
    /// The height of the first block of an empty store.
    pub first_height: u64,
    /// Changes in a block at most.
    pub changes_max: u64,
    /// How often each collection is changed, in the order of [`Change`].
    pub weights: [u64; 6],
    /// Parts in 10,000 of values that span pages.
    pub big_values: u16,
    /// Parts in 10,000 of steps between blocks: a global batch, a flush, a sync, a pause, a snapshot, a read.
    pub between: [u16; 6],
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 0,
            blocks: 20,
            reorgs_at: Vec::new(),
            window: 12,
            floor: 0,
            first_height: 1,
            changes_max: 8,
            weights: [3, 4, 3, 3, 1, 1],
            big_values: 100,
            between: [1200, 300, 300, 200, 0, 500],
        }
    }
}

/// A step of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The operation with this position.
    Commit(usize),
    Flush,
    Sync,
    /// Long enough for the cut to be recorded.
    Pause,
    /// Hold a snapshot of the tip, or of a number of blocks below it.
    Hold(u64),
    /// Look at all held snapshots, then let go of the oldest.
    Look,
    /// Read the newest block's effects.
    Read,
    /// Move to the cold target what can move; and what was brought back, if so.
    ToCold(bool),
    /// Bring back from the cold target what blocks of these heights wrote.
    WarmUp(u64, u64),
}

/// A script, and the states that it leads through.
#[derive(Debug, Clone)]
pub struct Script {
    pub steps: Vec<Step>,
    pub ops: Vec<CommitOp>,
    /// The state before each operation, and after the last.
    pub states: Vec<State>,
}

struct Writer {
    rng: Rng,
    recipe: Recipe,
    script: Script,
}

/// Writes the script of a recipe, from a state on.
pub fn write(recipe: &Recipe, start: State) -> Script {
    let script = Script { steps: Vec::new(), ops: Vec::new(), states: vec![start] };
    let mut writer = Writer { rng: Rng::new(recipe.seed ^ 0x005C_4197), recipe: recipe.clone(), script };
    for count in 1..=recipe.blocks {
        writer.between();
        writer.block();
        for _ in recipe.reorgs_at.iter().filter(|at| **at == count) {
            writer.reorg();
        }
    }
    writer.between();
    writer.script
}

impl Writer {
    fn state(&self) -> &State {
        self.script.states.last().expect("there is a state")
    }

    fn commit(&mut self, op: CommitOp) {
        let next = self.state().after(&op);
        self.script.steps.push(Step::Commit(self.script.ops.len()));
        self.script.ops.push(op);
        self.script.states.push(next);
    }

    fn between(&mut self) {
        let [global, flush, sync, pause, snapshot, read] = self.recipe.between;
        if self.rng.chance(global) {
            let mut changes = Vec::new();
            for _ in 0..=self.rng.below(3) {
                changes.push(self.wallet());
            }
            self.commit(CommitOp::Global(changes));
        }
        for (parts, step) in [(flush, Step::Flush), (sync, Step::Sync), (pause, Step::Pause)] {
            if self.rng.chance(parts) {
                self.script.steps.push(step);
            }
        }
        if self.rng.chance(snapshot) {
            let below = self.rng.below(self.recipe.window / 2 + 1);
            self.script.steps.push(if self.rng.coin() { Step::Hold(below) } else { Step::Look });
        }
        if self.rng.chance(read) {
            self.script.steps.push(Step::Read);
        }
    }

    fn block(&mut self) {
        let (height, parent) = match self.state().tip() {
            Some(tip) => (tip.height + 1, tip.hash),
            None => (self.recipe.first_height, BlockHash([0; 32])),
        };
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        bytes[..8].copy_from_slice(&height.to_le_bytes());
        let changes = self.changes(height);
        self.commit(CommitOp::Block { height, hash: BlockHash(bytes), parent, changes });
    }

    fn reorg(&mut self) {
        let state = self.state();
        let (Some(tip), Some(first)) = (state.tip(), state.first()) else { return };
        let lowest = state.highest.saturating_sub(self.recipe.window).max(self.recipe.floor).max(first);
        let tip = tip.height;
        if lowest > tip {
            return;
        }
        let depth = if self.rng.chance(1500) { 0 } else { self.rng.below(tip - lowest + 1) };
        self.commit(CommitOp::Reorg(tip - depth));
    }

    /// The changes of one block: sometimes none, sometimes one.
    fn changes(&mut self, height: u64) -> Vec<Change> {
        let count = match self.rng.below(12) {
            0 => 0,
            1 => 1,
            _ => self.rng.below(self.recipe.changes_max + 1),
        };
        let mut tables = self.state().tables.as_ref().clone();
        let mut all = Vec::new();
        for nth in 0..count {
            let total: u64 = self.recipe.weights.iter().sum();
            let mut at = self.rng.below(total.max(1));
            let kind = self.recipe.weights.iter().position(|weight| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            let changes = match kind {
                Some(0) => vec![self.plain()],
                Some(1) => self.coin(&tables, height, nth),
                Some(2) => self.name(&tables),
                Some(3) => vec![self.state_slot()],
                Some(4) => vec![self.wallet()],
                _ => vec![self.mempool()],
            };
            for change in changes {
                tables.change(change.clone());
                all.push(change);
            }
        }
        all
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.rng.below(8) {
            0 => 0,
            1 => 200 + self.rng.index(300),
            _ => 1 + self.rng.index(24),
        };
        let len = if self.rng.chance(self.recipe.big_values) { 5000 + self.rng.index(9000) } else { len };
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        bytes
    }

    fn optional_value(&mut self) -> Option<Vec<u8>> {
        (self.rng.below(4) > 0).then(|| self.value())
    }

    /// Keys over few letters: many are the beginning of another.
    fn plain(&mut self) -> Change {
        let len = self.rng.index(5);
        let key = (0..len).map(|_| [0, 1, 0xFF][self.rng.index(3)]).collect();
        Change::Plain(key, self.optional_value())
    }

    fn coin(&mut self, tables: &Tables, height: u64, nth: u64) -> Vec<Change> {
        let coin = (self.rng.below(40), self.rng.below(4) as u32);
        let fresh = height * 100 + nth;
        let ids: Vec<u64> = tables.coins.keys().copied().collect();
        let old = ids.get(self.rng.index(ids.len())).copied().unwrap_or(fresh);
        match self.rng.below(10) {
            0..=4 => vec![Change::Coin(fresh, Some(coin))],
            // Created and spent in one block.
            5 => vec![Change::Coin(fresh, Some(coin)), Change::Coin(fresh, None)],
            // Changed in place, sometimes twice.
            6 => vec![Change::Coin(old, Some(coin))],
            7 => vec![Change::Coin(old, None), Change::Coin(old, Some(coin))],
            _ => vec![Change::Coin(old, None)],
        }
    }

    fn name(&mut self, tables: &Tables) -> Vec<Change> {
        let key = self.rng.below(30) as u32;
        let taken = |tag: u64| tables.names.values().any(|(other, _)| *other == tag);
        let mut tag = self.rng.below(60);
        while taken(tag) {
            tag += 1;
        }
        let note = self.rng.below(9) as u32;
        let keys: Vec<u32> = tables.names.keys().copied().collect();
        if keys.len() >= 2 && self.rng.below(3) == 0 {
            let (a, b) = (keys[self.rng.index(keys.len())], keys[self.rng.index(keys.len())]);
            let (tag_a, tag_b) = (tables.names[&a].0, tables.names[&b].0);
            return match self.rng.below(3) {
                // A tag passes to another record.
                0 if a != b => vec![Change::Name(a, None), Change::Name(b, Some((tag_a, note)))],
                // Two records change tags.
                1 if a != b => vec![Change::Name(a, Some((tag_b, note))), Change::Name(b, Some((tag_a, 1)))],
                _ => vec![Change::Name(a, None)],
            };
        }
        vec![Change::Name(key, Some((tag, note)))]
    }

    fn state_slot(&mut self) -> Change {
        let key = (self.rng.below(5) as u16, self.rng.below(12) as u32);
        Change::State(key, self.optional_value())
    }

    fn wallet(&mut self) -> Change {
        Change::Wallet(self.rng.below(8) as u32, self.optional_value())
    }

    fn mempool(&mut self) -> Change {
        Change::Mempool(self.rng.below(12), self.optional_value())
    }
}
