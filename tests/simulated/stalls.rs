//! Commits that are held back: for which reason, and never the reads.

use std::time::Duration;

use futures_util::FutureExt;
use op_engine::{Durability, Engine, Error};
use op_engine_io::sim::{Faults, SimDisk};
use op_engine_io::{Env, FileKind};
use op_engine_shards::stats::{Stall, StallReason};

use crate::support::check::Checked;
use crate::support::model::State;
use crate::support::run::{Driver, Machine, Progress, Setup, block_of};
use crate::support::schema::Coins;
use crate::support::script::{Recipe, Script, write};

fn script(blocks: usize, big_values: u16) -> Script {
    let recipe = Recipe { blocks, changes_max: 20, big_values, between: [0; 6], ..Recipe::default() };
    write(&recipe, State::default())
}

async fn stall(engine: &Engine, reason: StallReason) -> Checked<Stall> {
    let mut sum = Stall::default();
    for shard in engine.stats().await?.shards {
        let stall = shard.stalls.of(reason);
        sum.count += stall.count;
        sum.nanos += stall.nanos;
    }
    Ok(sum)
}

/// Runs a script of blocks that follow each other at once, and gives what held them back.
fn held_back(setup: &Setup, script: &Script, reason: StallReason) -> (Stall, Duration) {
    let machine = Machine::new(setup.options(5), SimDisk::new());
    let progress = Progress::default();
    let stall = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, script, &progress, setup).run().await?;
        let stall = stall(&engine, reason).await?;
        engine.close().await?;
        Ok(stall)
    });
    (stall.unwrap(), machine.0.now())
}

fn check(setup: &Setup, reason: StallReason) {
    let (stall, time) = held_back(setup, &script(150, 800), reason);
    println!("{reason:?}: {stall:?} in {time:?}");
    assert!(stall.count > 2 && stall.nanos > 1000, "{reason:?}: {stall:?}");
    let most = time * u32::from(setup.shards);
    assert!(Duration::from_nanos(stall.nanos) < most, "{stall:?} in {time:?}");
}

#[test]
fn flushes_that_are_behind_hold_commits_back() {
    let setup = Setup { pipeline: 8, durability: Durability::deferred(), ..Setup::small(2) };
    check(&setup, StallReason::MemtablesFull);
}

/// Commits used to fill a memtable at their own speed and then to wait for what was left of the flush before it, at once.
#[test]
fn flushes_that_are_behind_hold_each_commit_back_a_little() {
    let mut setup = Setup { durability: Durability::deferred(), ..Setup::small(1) };
    setup.settings.memtable_bytes_max = 128 << 10;
    setup.settings.wal_file_bytes = 256 << 10;
    setup.settings.wal_queue_bytes_max = 1 << 20;
    setup.settings.segment_write_bytes = 4 << 10;
    setup.settings.segment_bytes_max = 1 << 20;
    let script = script(1500, 0);
    let machine = Machine::new(setup.options(5), SimDisk::new());
    let world = &machine.0;
    let (times, flushes) = machine
        .finish(async {
            let engine = setup.open(world, false).await?;
            let mut times = Vec::new();
            for op in &script.ops {
                let began = world.now();
                engine.commit(block_of(op).unwrap()).await?;
                times.push(world.now() - began);
            }
            let flushes: u64 = engine.stats().await?.shards.iter().map(|shard| shard.flushes).sum();
            engine.close().await?;
            Ok((times, flushes))
        })
        .unwrap();
    assert!(flushes > 4, "{flushes}");
    let each_flush = times.iter().sum::<Duration>() / u32::try_from(flushes).unwrap();
    let longest = times.iter().max().unwrap();
    assert!(*longest < each_flush / 2, "{longest:?}, with a flush every {each_flush:?}");
}

#[test]
fn merges_that_are_behind_hold_commits_back() {
    let mut setup = Setup { pipeline: 8, durability: Durability::deferred(), ..Setup::small(2) };
    setup.settings.merge_runs_soft = 1;
    setup.settings.merge_runs_max = 4;
    check(&setup, StallReason::MergesBehind);
}

#[test]
fn a_wal_that_is_behind_holds_commits_back() {
    let mut setup = Setup { pipeline: 8, durability: Durability::deferred(), ..Setup::small(1) };
    setup.settings.wal_queue_bytes_max = 4 << 10;
    setup.settings.wal_gather_bytes = 64 << 10;
    check(&setup, StallReason::WalQueueFull);
}

/// A request once set a memtable aside at every turn of the flush loop until it found nothing to flush, which never came to
/// pass while blocks did: a memtable for every few blocks, and commits that waited for each of them.
#[test]
fn a_flush_that_is_asked_for_ends_although_commits_go_on() {
    let mut setup = Setup::small(2);
    setup.settings.memtable_bytes_max = 1 << 20;
    setup.settings.wal_file_bytes = 1 << 20;
    let script = script(300, 0);
    let machine = Machine::new(setup.options(5), SimDisk::new());
    let flushes = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let flushes = async |engine: &Engine| {
            let shards = engine.stats().await?.shards;
            Ok::<_, Error>(shards.iter().map(|shard| shard.flushes).collect::<Vec<_>>())
        };
        let mut flushing = None;
        for (done, op) in script.ops.iter().enumerate() {
            engine.commit(block_of(op).unwrap()).await?;
            if done == 20 {
                assert_eq!(flushes(&engine).await?, [0, 0]);
                flushing = Some(Box::pin(engine.flush()));
            }
            if let Some(flush) = &mut flushing
                && let Some(done) = flush.now_or_never()
            {
                done?;
                flushing = None;
            }
        }
        assert!(flushing.is_none(), "it has ended");
        Ok(flushes(&engine).await?)
    });
    assert_eq!(flushes.unwrap(), [1, 1]);
}

#[test]
fn flushes_that_keep_up_hold_nothing_back() {
    let mut setup = Setup::small(1);
    setup.settings.memtable_bytes_max = 192 << 10;
    setup.settings.segment_write_bytes = 512 << 10;
    setup.settings.segment_bytes_max = 1 << 20;
    let (stall, _) = held_back(&setup, &script(400, 0), StallReason::MemtablesFull);
    assert_eq!(stall, Stall::default());
}

#[test]
fn reads_are_not_held_back_with_commits() {
    let setup = Setup::small(1);
    let script = script(150, 0);
    let machine = Machine::new(setup.options(5), SimDisk::new());
    let world = &machine.0;
    let done = machine.finish(async {
        let engine = setup.open(world, false).await?;
        let no_space = Faults { no_space: 10_000, kinds: vec![FileKind::Segment], ..Faults::default() };
        world.set_faults(no_space);
        let (mut refused, mut slowest, mut slowest_commit) = (0, Duration::ZERO, Duration::ZERO);
        for op in &script.ops {
            let began = world.now();
            let commit = engine.submit(block_of(op).unwrap()).await?;
            for _ in 0..5 {
                let began = world.now();
                engine.get::<Coins>(&7).await?;
                slowest = slowest.max(world.now() - began);
                world.env().yield_now().await;
            }
            match commit.acknowledged().await {
                Ok(_) => {}
                Err(Error::OutOfSpace { .. }) if refused == 5 => break,
                Err(Error::OutOfSpace { .. } | Error::HeightMismatch { .. }) => refused += 1,
                Err(error) => return Err(error.into()),
            }
            slowest_commit = slowest_commit.max(world.now() - began);
        }
        assert!(refused > 3, "commits were refused in the end");
        let stall = stall(&engine, StallReason::OutOfSpace).await?;
        assert!(stall.count > 0, "and slowed down before: {stall:?}");
        assert!(slowest < Duration::from_millis(5), "a read took {slowest:?}");
        assert!(slowest_commit > 10 * slowest, "a commit took {slowest_commit:?}, a read {slowest:?}");
        Ok(())
    });
    done.unwrap();
}
