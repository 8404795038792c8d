//! What point reads cost on a store that is far larger than its memory.

use op_engine::Engine;
use op_engine_io::num::to_u64;

use super::load::{Coins, Load, coin_value};
use crate::cli::bench::chain::{Rng, absent_key, coin_key};
use crate::cli::failure::{Failure, Outcome};

const BATCH: usize = 1000;

/// Device reads for each present and each absent coin, counted at the rings.
pub(super) fn device_reads(engine: &Engine, load: &Load, count: u64) -> Outcome<(f64, f64)> {
    let mut rng = Rng(31);
    let present = cost_of(engine, count, |keys, values| {
        let coins: Vec<u64> = (0..BATCH).map(|_| load.present(&mut rng)).collect();
        keys.extend(coins.iter().map(|coin| coin_key(*coin)));
        values.extend(coins.iter().map(|coin| Some(coin_value(*coin))));
    })?;
    let mut rng = Rng(32);
    let absent = cost_of(engine, count, |keys, values| {
        keys.extend((0..BATCH).map(|_| absent_key(rng.next())));
        values.resize(keys.len(), None);
    })?;
    Ok((present, absent))
}

type Key = ([u8; 32], u32);

fn cost_of(
    engine: &Engine,
    count: u64,
    mut draw: impl FnMut(&mut Vec<Key>, &mut Vec<Option<[u8; 60]>>),
) -> Outcome<f64> {
    let reads = || -> Outcome<u64> { Ok(engine.blocking().stats()?.device.unwrap_or_default().reads) };
    let (before, mut done) = (reads()?, 0);
    while done < count {
        let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        draw(&mut keys, &mut values);
        if engine.blocking().get_many::<Coins>(&keys)? != values {
            return Err(Failure::Other("the engine gave a wrong answer to a point read".to_owned()));
        }
        done += to_u64(keys.len());
    }
    Ok((reads()? - before) as f64 / done.max(1) as f64)
}

/// Coins read each second until the time is up, in batches from one thread.
pub(super) fn rate_until(
    engine: &Engine,
    load: &Load,
    seed: u64,
    mut goes_on: impl FnMut() -> bool,
) -> Outcome<f64> {
    let mut rng = Rng(seed);
    let (began, mut done) = (std::time::Instant::now(), 0_usize);
    while goes_on() {
        let coins: Vec<u64> = (0..BATCH).map(|_| load.present(&mut rng)).collect();
        let keys: Vec<Key> = coins.iter().map(|coin| coin_key(*coin)).collect();
        let found = engine.blocking().get_many::<Coins>(&keys)?;
        if !found.iter().zip(&coins).all(|(found, coin)| *found == Some(coin_value(*coin))) {
            return Err(Failure::Other("the engine gave a wrong answer to a point read".to_owned()));
        }
        done += keys.len();
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
