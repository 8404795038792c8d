//! Blocks of a busy node, committed one after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use op_engine::{Durability, Engine, Height, Pending};

use super::Session;
use super::chain::{Coins, Plan, Rng, Slots, coin_amount, coin_key, slot_key};
use super::figure::{Figure, Latencies, Limit, Unit};
use super::store::{BenchStore, Opening, Pipeline, settle};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::plural;

const REORG_DEPTHS: [u64; 3] = [1, 6, 100];
const REORG_SAMPLES: u32 = 3;
/// Requests of the mixed load each second, over all its callers.
const MIXED_READS_PER_SECOND: u32 = 2_000;
const MIXED_CALLERS: u32 = 4;

/// Fills the store. This comes before every other workload on it.
pub(crate) fn fill(session: &mut Session, store: &mut BenchStore) -> Outcome {
    let engine = store.open(Opening::Usual(Durability::deferred()))?;
    let started = Instant::now();
    let bytes = store.fill(&engine)?;
    engine.blocking().sync()?;
    let rate = store.records as f64 / started.elapsed().as_secs_f64();
    settle(&engine)?;
    let stats = engine.blocking().stats()?;
    let on_disk: u64 = stats.shards.iter().flat_map(|shard| &shard.segments).map(|it| it.file_bytes).sum();
    let written = stats.device.unwrap_or_default().written_bytes;
    let figure =
        Figure::new(Workload::IngestDeferred, "filling the store, coins", Unit::PerSecond, vec![rate]);
    session.add(
        store,
        Figure {
            write_amplification: Some(written as f64 / bytes as f64),
            space_amplification: Some(on_disk as f64 / bytes as f64),
            ..figure
        },
    )?;
    Ok(engine.close_blocking()?)
}

/// Blocks that read what they spend and overwrite.
pub(crate) fn ingest(session: &mut Session, store: &mut BenchStore, durability: Durability) -> Outcome {
    let (workload, name) = match durability {
        Durability::Block => (Workload::Ingest, "blocks, each durable"),
        _ => (Workload::IngestDeferred, "blocks, durable by the hundred"),
    };
    let engine = store.open(Opening::Usual(durability))?;
    let before = engine.blocking().stats()?;
    let mut user_bytes = 0;
    let mut making = Duration::ZERO;
    let mut pending: Option<Pending> = None;
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        let mut blocks = 0;
        while blocks < 2 || Instant::now() < end {
            let started = Instant::now();
            let plan = store.chain.next_block();
            let made = started.elapsed();
            // The block reads what the one before it has left. Until here that one was on its way.
            if let Some(before) = pending.take() {
                before.wait()?;
            }
            read_what_changes(&engine, &plan)?;
            let building = Instant::now();
            let (block, bytes) = plan.block();
            making += made + building.elapsed();
            user_bytes += bytes;
            let committing = Instant::now();
            if durability == Durability::Block {
                engine.blocking().commit(block)?;
                latencies.add(committing.elapsed());
            } else {
                pending = Some(engine.blocking().submit(block)?);
                latencies.add(started.elapsed());
            }
            blocks += 1;
        }
        Ok(blocks)
    })?;
    if let Some(last) = pending {
        last.wait()?;
    }
    let after = engine.blocking().stats()?;
    let wal = |stats: &op_engine::Stats| stats.shards.iter().map(|shard| shard.wal_bytes).sum::<u64>();
    let blocks = measured.operations as f64;
    let wal_each = (wal(&after) - wal(&before)) as f64 / blocks;
    let figure = measured.figure(workload, name);
    let cost = measured.cost();
    let limit = session.device.as_ref().map(|device| {
        let other = (cost.device_written_bytes - wal_each).max(0.0);
        let (append, other) =
            if durability == Durability::Block { (Some(wal_each), other) } else { (None, other + wal_each) };
        Limit {
            value: 1.0 / device.seconds_for(cost.device_reads, append, other),
            of: "the same reads, appends and writes on the bare device, one after the other".to_owned(),
        }
    });
    let written = cost.device_written_bytes * blocks;
    session.add(store, Figure { limit, write_amplification: Some(written / user_bytes as f64), ..figure })?;
    let making = making.as_secs_f64() * 1e3 / blocks;
    session
        .add(store, Figure::new(workload, format!("{name}: making one up"), Unit::Millis, vec![making]))?;
    if let (Durability::Block, Some(latency), Some(device)) =
        (durability, measured.latencies.summary(), session.device.as_ref())
    {
        let limit = Some(Limit {
            value: device.append_millis(wal_each),
            of: "one durable append of its size".to_owned(),
        });
        let name = "commit of a block until it is durable, median";
        session.add(
            store,
            Figure { limit, ..Figure::new(workload, name, Unit::Millis, vec![latency.p50 / 1e3]) },
        )?;
    }
    Ok(engine.close_blocking()?)
}

/// Reads the coins that a block spends and the slots that it overwrites, as a node does to validate it.
fn read_what_changes(engine: &Engine, plan: &Plan) -> Outcome {
    let keys: Vec<_> = plan.spent.iter().map(|number| coin_key(*number)).collect();
    let coins = engine.blocking().get_many::<Coins>(&keys)?;
    let mut answers = plan.spent.iter().zip(&coins);
    if !answers.all(|(number, coin)| coin.is_some_and(|(amount, ..)| amount == coin_amount(*number))) {
        return Err(Failure::Other(
            "the engine gave a wrong answer: a coin to be spent is missing".to_owned(),
        ));
    }
    let keys: Vec<_> = plan.slots.iter().map(|number| slot_key(*number)).collect();
    engine.blocking().get_many::<Slots>(&keys)?;
    Ok(())
}

/// Reads at a fixed rate while blocks come in. A read counts from when it was due, not from when it was sent.
pub(crate) fn mixed(session: &mut Session, store: &mut BenchStore) -> Outcome {
    let engine = store.open(Opening::Usual(Durability::Block))?;
    let records = store.records;
    let mut blocks = 0_u64;
    let started = Instant::now();
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..MIXED_CALLERS)
                .map(|caller| {
                    let (engine, stop) = (&engine, &stop);
                    scope.spawn(move || read_at_rate(engine, records, caller, stop))
                })
                .collect();
            let committed = commit_until(&engine, store, end);
            stop.store(true, Ordering::Relaxed);
            blocks += committed?;
            let mut reads = 0;
            for caller in callers {
                let joined = caller.join().map_err(|_| Failure::Other("a reader panicked".to_owned()))?;
                let (count, seen) = joined?;
                reads += count;
                latencies.merge(&seen);
            }
            Ok(reads)
        })
    })?;
    let rate = blocks as f64 / started.elapsed().as_secs_f64();
    let name = format!("reads at {MIXED_READS_PER_SECOND}/s while blocks come in");
    session.add(store, measured.figure(Workload::Mixed, name))?;
    session
        .add(store, Figure::new(Workload::Mixed, "blocks under these reads", Unit::PerSecond, vec![rate]))?;
    Ok(engine.close_blocking()?)
}

fn commit_until(engine: &Engine, store: &mut BenchStore, end: Instant) -> Outcome<u64> {
    let mut blocks = 0;
    while Instant::now() < end {
        let plan = store.chain.next_block();
        read_what_changes(engine, &plan)?;
        engine.blocking().commit(plan.block().0)?;
        blocks += 1;
    }
    Ok(blocks)
}

fn read_at_rate(engine: &Engine, records: u64, caller: u32, stop: &AtomicBool) -> Outcome<(u64, Latencies)> {
    let latencies = Latencies::new();
    let mut latencies = latencies.ok_or_else(|| Failure::Other("no histogram can be made".to_owned()))?;
    let pause = Duration::from_secs(1) * MIXED_CALLERS / MIXED_READS_PER_SECOND;
    let mut rng = Rng(u64::from(caller) + 77);
    let mut due = Instant::now() + pause * caller / MIXED_CALLERS;
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A coin may have been spent by now: any answer will do here.
        engine.blocking().get::<Coins>(&coin_key(rng.below(records)))?;
        latencies.add(due.elapsed());
        due += pause;
        reads += 1;
    }
    Ok((reads, latencies))
}

/// Back by some blocks, and forward again on another branch.
pub(crate) fn reorg(session: &mut Session, store: &mut BenchStore) -> Outcome {
    let engine = store.open(Opening::Usual(Durability::deferred()))?;
    for depth in REORG_DEPTHS {
        let mut samples = Vec::new();
        for _ in 0..REORG_SAMPLES {
            let before = store.chain.clone();
            let mut pipeline = Pipeline::default();
            for _ in 0..depth {
                let (block, _) = store.chain.next_block().block();
                pipeline.push(engine.blocking().submit(block)?)?;
            }
            pipeline.finish()?;
            engine.blocking().sync()?;
            let target = before.height - 1;
            let started = Instant::now();
            engine.blocking().reorg_to(Height(target))?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
            if engine.tip().map(|tip| tip.height) != Some(Height(target)) {
                return Err(Failure::Other("a reorg ended at another height".to_owned()));
            }
            store.chain = before;
            // The next branch shall be another one.
            store.chain.branch_off();
        }
        let limit = session.device.as_ref();
        let limit = limit.map(|device| Limit {
            value: device.append_millis(4096.0),
            of: "one durable append of 4 KiB".to_owned(),
        });
        let name = format!("reorg of {} of 2,000 transactions", plural(depth, "block"));
        let figure = Figure::new(Workload::Reorg, name, Unit::Millis, samples);
        session.add(store, Figure { parameter: depth, limit, ..figure })?;
    }
    Ok(engine.close_blocking()?)
}
