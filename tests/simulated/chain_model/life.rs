//! The life of a store: blocks, reorgs and what happens between, with a look at it now and then.

use std::collections::VecDeque;
use std::rc::Rc;

use op_engine::chain::collections::{BlockCoins, ReorgRecord};
use op_engine::{Block, BlockHash, Engine, Height, Snapshot};
use op_engine_io::sim::Rng;

use super::check::{check_all, check_slots};
use super::growth::Growth;
use super::state::{Entry, Model, Seen};
use super::write::{write_outside, write_state, write_targets};
use crate::support::check::{Checked, Trouble};

/// Steps between two looks.
const LOOK_EVERY: usize = 6;
const REORG_DEPTH_MAX: u64 = 6;
const HELD_MAX: usize = 2;

pub struct Life {
    rng: Rng,
    growth: Growth,
    model: Model,
    first_height: u64,
    /// Whether data moves to a cold target and back now and then.
    moves: bool,
}

impl Life {
    pub fn new(mut rng: Rng) -> Self {
        let growth = Growth::new(rng.split());
        let first_height = [0, 1, 800][rng.index(3)];
        Self { rng, growth, model: Model::default(), first_height, moves: false }
    }

    /// With a cold target.
    pub fn with_moves(self) -> Self {
        Self { moves: true, ..self }
    }

    /// Adds blocks only.
    pub async fn grow(&mut self, engine: &Engine, blocks: u64) -> Checked {
        for _ in 0..blocks {
            self.block(engine).await?;
        }
        Ok(())
    }

    /// Goes back some blocks.
    pub async fn go_back(&mut self, engine: &Engine, blocks: u64) -> Checked {
        let Some(tip) = self.model.tip() else { return Ok(()) };
        let target = tip.height - blocks;
        engine.reorg_to(Height(target)).await?;
        self.model.reorg_to(target);
        Ok(())
    }

    /// Asks everything.
    pub async fn look_now(&mut self, engine: &Engine) -> Checked {
        for _ in 0..4 {
            self.look(engine, &VecDeque::new()).await?;
        }
        Ok(())
    }

    /// Goes on with a store that was opened.
    pub async fn run(&mut self, engine: &Engine, steps: usize) -> Checked {
        let mut held: VecDeque<(Snapshot, Seen)> = VecDeque::new();
        self.look(engine, &held).await?;
        for step in 1..=steps {
            self.step(engine, &mut held).await?;
            if step.is_multiple_of(LOOK_EVERY) || step == steps {
                self.look(engine, &held).await?;
            }
        }
        Ok(())
    }

    async fn step(&mut self, engine: &Engine, held: &mut VecDeque<(Snapshot, Seen)>) -> Checked {
        if self.model.tip().is_none() {
            return self.block(engine).await;
        }
        if self.moves && self.rng.below(6) == 0 {
            return self.move_data(engine).await;
        }
        match self.rng.below(20) {
            0..=11 => self.block(engine).await,
            12..=14 => self.outside(engine).await,
            15 | 16 => self.reorg(engine).await,
            17 => Ok(engine.flush().await?),
            18 if self.rng.below(4) == 0 => Ok(engine.compact().await?),
            _ => {
                if held.len() >= HELD_MAX {
                    held.pop_front();
                }
                if let Some(seen) = self.model.now() {
                    held.push_back((engine.snapshot().await?, seen));
                }
                Ok(())
            }
        }
    }

    async fn move_data(&mut self, engine: &Engine) -> Checked {
        if self.rng.below(3) > 0 {
            engine.move_to_cold(self.rng.coin()).await?;
        } else {
            let from = self.first_height + self.rng.below(40);
            engine.warm_up(Height(from), Height(from + self.rng.below(20))).await?;
        }
        Ok(())
    }

    async fn block(&mut self, engine: &Engine) -> Checked {
        let tip = self.model.tip().map(|tip| (tip.height, tip.hash));
        let height = tip.map_or(self.first_height, |(height, _)| height + 1);
        let parent = tip.map_or(BlockHash([0; 32]), |(_, hash)| hash);
        let hash = BlockHash(self.growth.next_hash());
        let before = self.model.state();
        let mut after = before.as_ref().clone();
        let moves = self.growth.grow(&mut after, height, hash.0, parent.0);
        if let Some(replaced) = self.model.replaced.take() {
            after.reorgs.insert(replaced, ReorgRecord { timestamp_ms: self.rng.below(1 << 40) });
        }
        let mut targets = self.model.targets.as_ref().clone();
        self.growth.targets(&mut targets);

        let mut block = Block::new(Height(height), hash, parent);
        write_state(&mut block, &before, &after);
        write_targets(&mut block, &self.model.targets, &targets);
        let mut coins = BlockCoins::new(height).keep_spent().keep_totals();
        moves.spent.iter().for_each(|outpoint| coins.spend(*outpoint));
        moves.made.into_iter().for_each(|(outpoint, utxo)| coins.make(outpoint, utxo));
        coins.put(engine, &mut block).await?;
        engine.commit(block).await?;
        let outside = Rc::clone(&self.model.outside);
        self.model.targets = Rc::new(targets);
        self.model.entries.push(Entry { height, hash, state: Rc::new(after), outside });
        Ok(())
    }

    async fn outside(&mut self, engine: &Engine) -> Checked {
        let Some(tip) = self.model.tip() else { return Ok(()) };
        let mut after = self.model.outside.as_ref().clone();
        self.growth.outside(&mut after, &tip.state, tip.height);
        engine.commit_global(write_outside(&self.model.outside, &after)).await?;
        self.model.outside = Rc::new(after);
        Ok(())
    }

    async fn reorg(&mut self, engine: &Engine) -> Checked {
        let Some(tip) = self.model.tip() else { return Ok(()) };
        let depth = 1 + self.rng.below(REORG_DEPTH_MAX);
        let target = tip.height.saturating_sub(depth).max(engine.horizon().0);
        engine.reorg_to(Height(target)).await?;
        self.model.reorg_to(target);
        Ok(())
    }

    /// Every query: at the tip, at a height of the window, on a held snapshot; of slots also at any height.
    async fn look(&mut self, engine: &Engine, held: &VecDeque<(Snapshot, Seen)>) -> Checked {
        let Some(now) = self.model.now() else { return Ok(()) };
        let tip = now.tip;
        let rng = &mut self.rng;
        check_all(engine, &now, rng).await.map_err(|why| told(why, format!("the tip at {tip}")))?;

        let horizon = engine.horizon().0.max(self.first_height);
        let height = horizon + rng.below(tip + 1 - horizon);
        if let Some(seen) = self.model.at(height) {
            let snapshot = engine.at(Height(height)).await?;
            check_all(&snapshot, &seen, rng)
                .await
                .map_err(|why| told(why, format!("height {height} of {tip}")))?;
        }
        if !held.is_empty() {
            let (snapshot, seen) = &held[rng.index(held.len())];
            let what = || format!("a snapshot of {}, held at {tip}", seen.tip);
            check_all(snapshot, seen, rng).await.map_err(|why| told(why, what()))?;
        }
        for _ in 0..3 {
            let height = self.first_height + rng.below(tip + 1 - self.first_height);
            if let Some(seen) = self.model.at(height) {
                let snapshot = engine.at(Height(height)).await?;
                let what = || format!("slots at {height} of {tip}, horizon {horizon}");
                check_slots(&snapshot, &seen.state, rng).await.map_err(|why| told(why, what()))?;
            }
        }
        Ok(())
    }
}

/// What was wrong, and on which state.
fn told(why: Trouble, state: String) -> Trouble {
    match why {
        Trouble::Wrong(what) => Trouble::Wrong(format!("on {state}: {what}")),
        Trouble::Engine(error) => Trouble::Wrong(format!("on {state}: {error}")),
    }
}
