//! OPNet's data model against plain maps, over a random chain: every query, at the tip, at heights, on held snapshots,
//! over reorgs, flushes, merges, losses of power and openings.
//!
//! `SEED=n cargo test --test simulated chain_model` runs one seed, `SEEDS=n` the first n.

mod check;
mod growth;
mod life;
mod pools;
mod state;
mod write;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use op_engine::{Config, Engine, chain};
use op_engine_io::block_on;
use op_engine_io::sim::{Rng, SimDisk};

use crate::chain_support::{config, folder};
use crate::support::check::Checked;
use crate::support::run::{Machine, Setup, on_two_threads};
use life::Life;

const SEEDS: u64 = 500;
/// Openings of a store, and steps in each.
const OPENINGS: usize = 2;
const STEPS: usize = 18;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn draw_setup(rng: &mut Rng) -> Setup {
    let mut setup = Setup::small(1 + rng.below(3) as u16);
    setup.settings.memtable_bytes_max = (8 << 10) << rng.below(4);
    setup.settings.wal_file_bytes = 64 << 10;
    setup.settings.cache_bytes = (16 << 10) << rng.below(4);
    setup.window = [1, 3, 6, 12][rng.index(4)];
    setup
}

/// The life of a store on the simulated machine. Gives how many merges there were.
fn live(seed: u64) -> Checked<u64> {
    let mut rng = Rng::new(seed);
    let setup = draw_setup(&mut rng);
    let mut life = Life::new(rng.split());
    let (mut disk, mut merges) = (SimDisk::new(), 0);
    for _ in 0..OPENINGS {
        let machine = Machine::new(setup.options(rng.next_u64()), disk);
        let close = rng.coin();
        merges += machine.finish(async {
            let config = Config::new("/simulated").collections(chain::collections).reorg_window(setup.window);
            let world = machine.0.clone();
            let engine = Engine::open_on(world, config, setup.shards, setup.settings.clone()).await?;
            life.run(&engine, STEPS).await?;
            let merges: u64 = engine.stats().await?.shards.iter().map(|shard| shard.merges).sum();
            if close {
                engine.close().await?;
            }
            Ok(merges)
        })?;
        let stopped = machine.0.stop();
        disk = if close { stopped } else { stopped.crash(rng.next_u64(), setup.personality) };
    }
    Ok(merges)
}

#[test]
fn every_query_agrees_with_the_model_on_the_simulated_machine() {
    if let Some(seed) = number("SEED") {
        live(seed).unwrap_or_else(|why| panic!("{why:?}"));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (wrong, merges) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    on_two_threads(|thread| {
        for seed in (thread..seeds).step_by(2) {
            match live(seed) {
                Ok(of_seed) => drop(merges.fetch_add(of_seed, Ordering::Relaxed)),
                Err(why) => wrong.lock().unwrap().push((seed, why)),
            }
        }
    });
    let wrong = wrong.into_inner().unwrap();
    for (seed, why) in &wrong {
        println!("SEED={seed} cargo test --test simulated chain_model -- --nocapture\n    {why:?}");
    }
    assert!(wrong.is_empty(), "{} seeds fail", wrong.len());
    let merges = merges.into_inner();
    assert!(merges > 5 * seeds, "segments are written and merged: {merges} merges");
}

#[test]
fn every_query_agrees_with_the_model_on_a_real_device() {
    let folder = folder("chain_model");
    let mut rng = Rng::new(7);
    let mut life = Life::new(rng.split());
    let mut setup = Setup::small(2);
    setup.settings.memtable_bytes_max = 16 << 10;
    for _ in 0..3 {
        let config =
            config(folder.path().join("store")).reorg_window(6).shard_settings(setup.settings.clone());
        let engine = Engine::open_blocking(config).unwrap();
        block_on(life.run(&engine, 60)).unwrap_or_else(|why| panic!("{why:?}"));
        block_on(engine.close()).unwrap();
    }
}
