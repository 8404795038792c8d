//! Stores that are damaged while no machine runs on them.

use std::ops::Range;
use std::time::Duration;

use op_engine::Error;
use op_engine_io::sim::{Rng, SimDisk};
use op_engine_io::{Dir, FileKind, FileName};
use op_engine_shards::Error as StorageError;

use super::check::{Checked, Trouble, check_height, verify};
use super::model::State;
use super::run::{Driver, Machine, Progress, Setup, sleep};
use super::script::{Recipe, Script, write};

/// A store at rest: everything is acknowledged and the cut is recorded.
pub struct AtRest {
    pub disk: SimDisk,
    /// An image from the middle of its life.
    pub earlier: SimDisk,
    pub script: Script,
    pub setup: Setup,
}

/// Makes a store; closed, or left to itself after its last commit.
pub fn at_rest(shards: u16, blocks: usize, close: bool, seed: u64) -> AtRest {
    let setup = Setup::small(shards);
    let recipe = Recipe { seed, blocks, reorgs_at: vec![blocks / 2], ..Recipe::default() };
    let script = write(&recipe, State::default());
    let progress = Progress::default();
    let machine = Machine::new(setup.options(seed), SimDisk::new());
    let world = &machine.0;
    let half = Script { steps: script.steps[..script.steps.len() / 2].to_vec(), ..script.clone() };
    let rest = Script { steps: script.steps[script.steps.len() / 2..].to_vec(), ..script.clone() };
    let earlier = machine.finish(async {
        let engine = setup.open(world, false).await?;
        Driver::new(&engine, world, &half, &progress, &setup).run().await?;
        let earlier = world.disk();
        Driver::new(&engine, world, &rest, &progress, &setup).run().await?;
        if close {
            engine.close().await?;
        } else {
            sleep(world, Duration::from_secs(3)).await;
        }
        Ok(earlier)
    });
    let earlier = earlier.unwrap().kill(seed);
    let disk = machine.0.stop();
    let disk = if close { disk } else { disk.crash(seed, setup.personality) };
    AtRest { disk, earlier, script, setup }
}

impl AtRest {
    pub fn all(&self) -> Range<usize> {
        let end = self.script.states.len() - 1;
        end..end + 1
    }

    /// Opens a damaged image and reads everything. Right data is well, and so is a typed error; `Ok(false)` for that.
    pub fn read_damaged(&self, disk: SimDisk, seed: u64) -> Result<Option<Error>, String> {
        let machine = Machine::new(self.setup.options(seed), disk);
        let read: Checked = machine.finish(async {
            let engine = self.setup.open(&machine.0, false).await?;
            let mut rng = Rng::new(seed);
            let found = verify(&engine, &self.script, self.all(), self.setup.schema, &mut rng).await?;
            let state = &self.script.states[found];
            let (horizon, tip) = (engine.horizon().0, state.tip().map_or(0, |tip| tip.height));
            check_height(&engine, state, horizon + (tip - horizon) / 2, self.setup.schema).await
        });
        match read {
            Ok(()) => Ok(None),
            Err(Trouble::Engine(error)) if names_the_damage(&error) => Ok(Some(error)),
            Err(trouble) => Err(format!("{trouble:?}")),
        }
    }
}

/// Whether an error says that the store is damaged.
pub fn names_the_damage(error: &Error) -> bool {
    match error {
        Error::Storage(error) => storage_names_it(error),
        _ => false,
    }
}

fn storage_names_it(error: &StorageError) -> bool {
    match error {
        StorageError::Corruption { .. } | StorageError::Missing { .. } | StorageError::Foreign { .. } => true,
        StorageError::AcknowledgedDataMissing { .. } | StorageError::UnsupportedVersion { .. } => true,
        StorageError::Io(op_engine_io::Error::ShortFile { .. } | op_engine_io::Error::NotFound { .. }) => {
            true
        }
        StorageError::Io(op_engine_io::Error::Unsupported { .. }) => true,
        StorageError::Poisoned { cause } => storage_names_it(cause),
        _ => false,
    }
}

/// Damages the last frames of one shard of a store whose commits are all acknowledged: that must not pass for a torn
/// tail.
pub fn lose_the_tail(seed: u64) -> Result<(), String> {
    let store = at_rest(2, 12, false, seed);
    for shard in 0..2 {
        let wals = store
            .disk
            .files()
            .into_iter()
            .filter(|name| name.kind == FileKind::Wal && name.dir == Dir::Shard(shard));
        for name in wals.collect::<Vec<FileName>>() {
            let bytes = store.disk.read_file(name).unwrap_or_default();
            let mut units =
                bytes.chunks(4096).enumerate().filter(|(_, unit)| unit.iter().any(|byte| *byte != 0));
            let Some((last, _)) = units.next_back() else { continue };
            for keep in last.saturating_sub(3)..=last {
                let mut disk = store.disk.clone();
                disk.corrupt(name, 4096 * keep.max(1) as u64, |tail| tail.fill(0));
                store.read_damaged(disk, seed).map_err(|why| format!("{name} cut at unit {keep}: {why}"))?;
            }
        }
    }
    Ok(())
}
