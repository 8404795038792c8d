//! Held snapshots, and what a store does in the background: both unseen by readers.

use std::time::Duration;

use crate::support::check::{Of, read_all, verify};
use crate::support::model::{Content, State};
use crate::support::run::{Driver, Machine, Progress, Setup, on_two_threads, sleep};
use crate::support::script::{Recipe, write};
use op_engine::{Engine, Height, Snapshot};
use op_engine_io::sim::{Rng, SimDisk, SimOptions};

async fn merges(engine: &Engine) -> u64 {
    engine.stats().await.unwrap().shards.iter().map(|shard| shard.merges).sum()
}

/// One snapshot for each height of the window and one of the tip, before every kind of work that goes on behind them.
#[test]
fn a_snapshot_shows_one_state_through_commits_flushes_merges_and_reorgs() {
    for shards in [1, 3] {
        let setup = Setup { window: 10, ..Setup::small(shards) };
        let recipe = Recipe { seed: 5, blocks: 30, window: 10, reorgs_at: vec![12], ..Recipe::default() };
        let before = write(&recipe, State::default());
        let start = before.states.last().unwrap().clone();
        let machine = Machine::new(setup.options(3), SimDisk::new());
        let done = machine.finish(async {
            let engine = setup.open(&machine.0, false).await?;
            let progress = Progress::default();
            Driver::new(&engine, &machine.0, &before, &progress, &setup).run().await?;

            let mut held: Vec<(u64, Snapshot, Of, Content)> = Vec::new();
            let (horizon, tip) = (engine.horizon().0, start.tip().unwrap().height);
            for height in horizon..=tip {
                let content = start.at(height).unwrap().content.without_mempool();
                held.push((height, engine.at(Height(height)).await?, Of::Height, content));
            }
            held.push((tip, engine.snapshot().await?, Of::Tip, start.content.as_ref().clone()));

            // Far more blocks than the window, with reorgs that go below most of what is held.
            let floor = engine.horizon().0;
            let mut state = start.clone();
            for round in 0..6 {
                let reorgs_at = if round == 0 { vec![1] } else { vec![5, 9] };
                let recipe = Recipe {
                    seed: 60 + round,
                    blocks: 10,
                    window: 10,
                    floor,
                    reorgs_at,
                    ..Recipe::default()
                };
                let script = write(&recipe, state);
                let progress = Progress::default();
                Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
                engine.flush().await?;
                for (height, snapshot, of, wanted) in &held {
                    assert_eq!(snapshot.tip().unwrap().height, Height(*height));
                    let got = read_all(snapshot, setup.schema, *of).await?;
                    got.expect(wanted).map_err(|why| format!("round {round}, height {height}: {why}"))?;
                }
                state = script.states.last().unwrap().clone();
                let end = script.states.len() - 1;
                verify(&engine, &script, end..end + 1, setup.schema, &mut Rng::new(round)).await?;
            }
            assert!(merges(&engine).await > 20, "merges ran behind the snapshots");

            // Without the snapshots, what only they needed goes.
            let entries = |stats: op_engine::Stats| -> u64 {
                stats.shards.iter().flat_map(|shard| &shard.segments).map(|segment| segment.entries).sum()
            };
            let with = entries(engine.stats().await?);
            drop(held);
            let recipe = Recipe { seed: 99, blocks: 30, window: 10, floor, ..Recipe::default() };
            let script = write(&recipe, state);
            let progress = Progress::default();
            Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
            engine.flush().await?;
            sleep(&machine.0, Duration::from_secs(5)).await;
            let without = entries(engine.stats().await?);
            assert!(without < with * 2, "{with} entries with snapshots, {without} later without");
            Ok(())
        });
        done.unwrap();
    }
}

/// A segment may straddle a range of dead commits without an entry in it. It was rewritten again and again.
#[test]
fn merges_come_to_an_end_after_a_reorg() {
    let setup = Setup::small(2);
    let recipe = Recipe { seed: 8, blocks: 60, reorgs_at: vec![20, 30, 31, 45], ..Recipe::default() };
    let script = write(&recipe, State::default());
    let machine = Machine::new(setup.options(8), SimDisk::new());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let progress = Progress::default();
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        engine.flush().await?;
        sleep(&machine.0, Duration::from_secs(10)).await;
        let settled = merges(&engine).await;
        sleep(&machine.0, Duration::from_secs(100)).await;
        assert_eq!(merges(&engine).await, settled, "nothing is left to merge");
        Ok(engine.close().await?)
    });
    done.unwrap();
    let disk = machine.0.stop();
    let machine = Machine::new(setup.options(9), disk);
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        sleep(&machine.0, Duration::from_secs(10)).await;
        let settled = merges(&engine).await;
        sleep(&machine.0, Duration::from_secs(100)).await;
        assert_eq!(merges(&engine).await, settled, "nothing is left to merge after another opening");
        let end = script.states.len() - 1;
        verify(&engine, &script, end..end + 1, setup.schema, &mut Rng::new(1)).await
    });
    done.unwrap();
}

/// Going back to the tip itself kills nothing of the chain, but it was refused by the shards as impossible.
#[test]
fn a_reorg_to_the_tip_changes_nothing_of_the_chain() {
    let setup = Setup::small(2);
    let recipe = Recipe { seed: 1, blocks: 10, ..Recipe::default() };
    let script = write(&recipe, State::default());
    let machine = Machine::new(setup.options(2), SimDisk::new());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let progress = Progress::default();
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        let end = script.states.last().unwrap();
        let tip = end.tip().unwrap().height;
        for _ in 0..2 {
            let reorged = engine.reorg_to(Height(tip)).await?;
            assert_eq!((reorged.from, reorged.to), (Height(tip), Height(tip)));
        }
        let content = read_all(&engine.snapshot().await?, setup.schema, Of::Tip).await?;
        content.expect(&end.content.without_mempool())?;
        engine.flush().await?;
        Ok(engine.close().await?)
    });
    done.unwrap();
}

/// A flush drew up its manifest record, waited for a merge's record to be written, and then went in behind a second
/// record of the merge that knew more of the chain: the manifest refused the older one, and the engine stopped.
#[test]
fn flushes_and_merges_that_meet_at_the_manifest_get_along() {
    on_two_threads(|thread| {
        for seed in (thread..600).step_by(2) {
            let mut setup = Setup { pipeline: 4, window: 4, ..Setup::small(1) };
            setup.settings.memtable_bytes_max = 3 << 10;
            setup.settings.memtables_frozen_max = 3;
            let reorgs_at = (3..60).step_by(3).collect();
            let between = [0, 3_000, 0, 0, 0, 0];
            let recipe = Recipe { seed, blocks: 60, window: 4, reorgs_at, between, ..Recipe::default() };
            let script = write(&recipe, State::default());
            let options = SimOptions { at_once: 10_000, ..setup.options(seed) };
            let machine = Machine::new(options, SimDisk::new());
            let done = machine.finish(async {
                let engine = setup.open(&machine.0, false).await?;
                let progress = Progress::default();
                Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
                Ok(engine.close().await?)
            });
            done.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        }
    });
}
