//! Single records and batches of them, from the device and from memory.

use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt};
use op_engine::{Durability, Engine, Height};
use op_engine_io::block_on;
use op_engine_io::num::{to_u64, to_usize};

use super::Session;
use super::chain::{Coins, Rng, Slots, absent_key, coin_amount, coin_key, slot_key, slot_value};
use super::figure::{Figure, Latencies, Limit, median};
use super::meter::{Measured, SLICES};
use super::store::{BenchStore, Opening};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::count;

const GET_DEPTHS: [u32; 5] = [1, 8, 32, 128, 256];
const BATCH_DEPTHS: [u32; 3] = [8, 32, 128];
const BATCH: u64 = 1000;
const SLOT_DEPTH: u32 = 32;
const ABSENT_DEPTH: u32 = 128;
/// Records that fit into the read cache.
const MEMORY_RECORDS: u64 = 10_000;

/// Answers come in any order, so each is checked with its own number.
type Checked = Outcome<Instant>;

/// Keeps that many requests in flight from one thread until `end`.
fn keep_in_flight<F: Future<Output = Checked>>(
    depth: u32,
    end: Instant,
    latencies: &mut Latencies,
    mut request: impl FnMut() -> F,
) -> Outcome<u64> {
    block_on(async {
        let mut flying = FuturesUnordered::new();
        let mut done = 0;
        (0..depth).for_each(|_| flying.push(request()));
        while let Some(started) = flying.next().await {
            latencies.add(started?.elapsed());
            done += 1;
            if Instant::now() < end {
                flying.push(request());
            }
        }
        Ok(done)
    })
}

fn wrong(what: &str) -> Failure {
    Failure::Other(format!("the engine gave a wrong answer: {what}"))
}

async fn get_coin(engine: &Engine, number: u64) -> Checked {
    let started = Instant::now();
    let found = engine.get::<Coins>(&coin_key(number)).await?;
    if found.is_none_or(|(amount, ..)| amount != coin_amount(number)) {
        return Err(wrong("a coin that was written is missing or another"));
    }
    Ok(started)
}

async fn get_nothing(engine: &Engine, number: u64) -> Checked {
    let started = Instant::now();
    if engine.get::<Coins>(&absent_key(number)).await?.is_some() {
        return Err(wrong("a coin that was never written is there"));
    }
    Ok(started)
}

/// Single records that are there, over the number in flight.
pub(crate) fn get(session: &mut Session, store: &BenchStore) -> Outcome {
    let engine = store.open(Opening::Uncached { read_depth: 256 })?;
    let mut rng = Rng(11);
    for depth in GET_DEPTHS {
        let (measured, limit) = measure_beside_device(session, &engine, depth.into(), |end, latencies| {
            keep_in_flight(depth, end, latencies, || get_coin(&engine, rng.below(store.records)))
        })?;
        let figure = measured.figure(Workload::Get, format!("get, {depth} in flight"));
        session.add(store, Figure { limit, parameter: depth.into(), ..figure })?;
    }
    Ok(engine.close_blocking()?)
}

/// Records that are not there: single ones and in batches.
pub(crate) fn get_absent(session: &mut Session, store: &BenchStore) -> Outcome {
    let engine = store.open(Opening::Uncached { read_depth: ABSENT_DEPTH })?;
    let mut rng = Rng(12);
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        keep_in_flight(ABSENT_DEPTH, end, latencies, || get_nothing(&engine, rng.next()))
    })?;
    let figure = measured.figure(Workload::GetAbsent, format!("get, absent, {ABSENT_DEPTH} in flight"));
    session.add(store, Figure { parameter: ABSENT_DEPTH.into(), ..figure })?;
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        batches(end, latencies, || {
            let keys: Vec<_> = (0..BATCH).map(|_| absent_key(rng.next())).collect();
            let found = engine.blocking().get_many::<Coins>(&keys)?;
            if found.iter().any(Option::is_some) {
                return Err(wrong("a coin that was never written is there"));
            }
            Ok(())
        })
    })?;
    let figure = measured.figure(Workload::GetAbsent, format!("get_many of {}, absent", count(BATCH)));
    session.add(store, Figure { parameter: BATCH, ..figure })?;
    Ok(engine.close_blocking()?)
}

fn batches(end: Instant, latencies: &mut Latencies, mut batch: impl FnMut() -> Outcome) -> Outcome<u64> {
    let mut done = 0;
    while Instant::now() < end {
        let started = Instant::now();
        batch()?;
        latencies.add(started.elapsed());
        done += BATCH;
    }
    Ok(done)
}

/// A thousand records a call, over the reads that a shard keeps in flight.
pub(crate) fn get_many(session: &mut Session, store: &BenchStore) -> Outcome {
    for depth in BATCH_DEPTHS {
        let engine = store.open(Opening::Uncached { read_depth: depth })?;
        let mut rng = Rng(u64::from(depth) + 13);
        let in_flight = u64::from(depth) * u64::from(store.shards);
        let (measured, limit) = measure_beside_device(session, &engine, in_flight, |end, latencies| {
            batches(end, latencies, || {
                let numbers: Vec<_> = (0..BATCH).map(|_| rng.below(store.records)).collect();
                let keys: Vec<_> = numbers.iter().map(|number| coin_key(*number)).collect();
                let found = engine.blocking().get_many::<Coins>(&keys)?;
                let right = numbers
                    .iter()
                    .zip(&found)
                    .all(|(number, coin)| coin.is_some_and(|(amount, ..)| amount == coin_amount(*number)));
                if right { Ok(()) } else { Err(wrong("a coin that was written is missing or another")) }
            })
        })?;
        let name = format!("get_many of {}, {depth} in flight a shard", count(BATCH));
        let figure = measured.figure(Workload::GetMany, name);
        session.add(store, Figure { limit, parameter: depth.into(), ..figure })?;
        engine.close_blocking()?;
    }
    Ok(())
}

/// Measures reads in turns with the bare device at the same depth. The limit is what the device gives: a record that
/// costs less than one read may beat it.
fn measure_beside_device(
    session: &mut Session,
    engine: &Engine,
    in_flight: u64,
    work: impl FnMut(Instant, &mut Latencies) -> Outcome<u64>,
) -> Outcome<(Measured, Option<Limit>)> {
    let Session { time, meter, device, .. } = session;
    let mut bare = Vec::new();
    let beside = || {
        if let Some(device) = device.as_ref() {
            bare.push(device.reads_per_second_now(in_flight, *time / (2 * SLICES))?);
        }
        Ok(())
    };
    let measured = meter.measure_in_turns(Some(engine), *time, beside, work)?;
    let reads_each = measured.cost().device_reads;
    let limit = (reads_each > 0.01 && !bare.is_empty()).then(|| Limit {
        value: median(&bare) / reads_each,
        of: format!("bare reads, {in_flight} in flight"),
    });
    Ok((measured, limit))
}

/// Slots as they were at a height in the middle of the filling.
pub(crate) fn slots(session: &mut Session, store: &BenchStore) -> Outcome {
    let engine = store.open(Opening::Uncached { read_depth: 256 })?;
    let tip = engine.tip().map_or(0, |tip| tip.height.0);
    let height = (tip / 2).max(store.slot_cycle_blocks()).min(tip);
    let snapshot = block_on(engine.at(Height(height)))?;
    let mut rng = Rng(14);
    let (measured, limit) = measure_beside_device(session, &engine, SLOT_DEPTH.into(), |end, latencies| {
        keep_in_flight(SLOT_DEPTH, end, latencies, || {
            let slot = rng.below(store.slots);
            let expected = slot_value(slot, store.slot_height(slot, height));
            let snapshot = &snapshot;
            async move {
                let started = Instant::now();
                let found = snapshot.get::<Slots>(&slot_key(slot)).await?;
                if found == Some(expected) {
                    Ok(started)
                } else {
                    Err(wrong("a slot at a height is another"))
                }
            }
        })
    })?;
    let figure = measured.figure(Workload::Slots, format!("slot at a height, {SLOT_DEPTH} in flight"));
    session.add(store, Figure { limit, parameter: SLOT_DEPTH.into(), ..figure })?;
    drop(snapshot);
    Ok(engine.close_blocking()?)
}

/// One record after the other, each key taken from the answer before it, all in memory.
pub(crate) fn get_memory(session: &mut Session, store: &BenchStore) -> Outcome {
    let engine = store.open(Opening::Usual(Durability::Block))?;
    let among = MEMORY_RECORDS.min(store.records);
    let mut number = 0;
    let warm: Vec<_> = (0..among).map(coin_key).collect();
    engine.blocking().get_many::<Coins>(&warm)?;
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        let mut done = 0;
        loop {
            let started = Instant::now();
            if started >= end {
                return Ok(done);
            }
            let found = engine.blocking().get::<Coins>(&coin_key(number))?;
            latencies.add(started.elapsed());
            let (amount, ..) = found.ok_or_else(|| wrong("a coin that was written is missing"))?;
            number = amount % among;
            done += 1;
        }
    })?;
    session.add(store, measured.figure(Workload::GetMemory, "dependent chain of single gets, in memory"))?;
    let keys: Vec<_> = (0..among).map(|number| (coin_key(number), coin_amount(number))).collect();
    let tree = in_process_tree(session, &keys)?;
    session.add(store, tree)?;
    Ok(engine.close_blocking()?)
}

/// The same chain in a `BTreeMap` of this process: what is given up by asking another core.
fn in_process_tree(session: &mut Session, coins: &[(([u8; 32], u32), u64)]) -> Outcome<Figure> {
    let tree: std::collections::BTreeMap<_, _> = coins.iter().copied().collect();
    let among = to_u64(coins.len());
    let mut number = 0;
    let measured = session.meter.measure(None, session.time / 4, |end, latencies| {
        let mut done = 0;
        loop {
            let started = Instant::now();
            if started >= end {
                return Ok(done);
            }
            let amount = coins.get(to_usize(number)).and_then(|(key, _)| tree.get(key)).copied();
            latencies.add(started.elapsed());
            number = amount.unwrap_or(0) % among;
            done += 1;
        }
    })?;
    Ok(measured.figure(Workload::GetMemory, "the same chain in a BTreeMap of the caller"))
}
