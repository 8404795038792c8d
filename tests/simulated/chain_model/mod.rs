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

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use op_engine::{ColdTarget, Config, Engine, Height, chain};
use op_engine_io::block_on;
use op_engine_io::sim::{Rng, SimDisk};

use crate::chain_support::{config, folder};
use crate::support::check::Checked;
use crate::support::run::{Machine, Setup, on_two_threads};
pub use life::Life;

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
fn live(seed: u64, cold: bool) -> Checked<u64> {
    let mut rng = Rng::new(seed);
    let setup = Setup { cold, ..draw_setup(&mut rng) };
    let life = Life::new(rng.split());
    let mut life = if cold { life.with_moves() } else { life };
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
        live(seed, false).unwrap_or_else(|why| panic!("{why:?}"));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (wrong, merges) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    on_two_threads(|thread| {
        for seed in (thread..seeds).step_by(2) {
            match live(seed, false) {
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

#[test]
fn every_query_agrees_with_the_model_while_data_moves_between_tiers() {
    on_two_threads(|thread| {
        for seed in (thread..100).step_by(2) {
            live(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        }
    });
}

/// How many of the newest blocks [`check_with_cold_target`] does not move.
pub const WINDOW: u64 = 100;

/// Moves everything below the tip less [`WINDOW`] blocks to the cold target that `with_target` gives, and asks everything: then,
/// after a reorg, after another opening, and when it was brought back. `meanwhile` runs while old data is there.
pub async fn check_with_cold_target(
    path: &Path,
    with_target: impl Fn(Config) -> Config,
    meanwhile: impl AsyncFnOnce(&Engine, &mut Life),
) {
    let mut life = Life::new(Rng::new(11));
    let mut setup = Setup::small(2);
    setup.settings.memtable_bytes_max = 256 << 10;
    setup.settings.cold_cache_bytes = 1;
    let open = || {
        let config = config(path.to_path_buf()).reorg_window(WINDOW).shard_settings(setup.settings.clone());
        Engine::open_blocking(with_target(config).cold_rate(0)).unwrap()
    };
    let engine = open();
    life.grow(&engine, WINDOW + 60).await.unwrap();
    let moved = engine.move_to_cold(false).await.unwrap();
    assert!(moved.segments > 0, "{moved:?}");
    let (tip, names) = (engine.tip().unwrap().height.0, engine.collection_names());
    let stats = engine.stats().await.unwrap();
    for name in ["transactions", "events", "block_witnesses"] {
        let id = names.iter().find(|(_, other)| other == name).unwrap().0;
        let segments = || {
            stats.shards.iter().flat_map(|shard| &shard.segments).filter(|segment| segment.collection == id)
        };
        assert!(segments().any(|segment| segment.tier.is_cold()), "{name} has moved");
        let left = segments()
            .filter(|segment| !segment.tier.is_cold() && segment.heights.0.0 <= tip - WINDOW)
            .count();
        assert_eq!(left, 0, "all of {name} below {tip} less {WINDOW} blocks has moved");
    }
    life.look_now(&engine).await.unwrap_or_else(|why| panic!("{why:?}"));
    meanwhile(&engine, &mut life).await;
    life.go_back(&engine, WINDOW / 2).await.unwrap();
    life.look_now(&engine).await.unwrap_or_else(|why| panic!("after a reorg: {why:?}"));
    life.grow(&engine, 20).await.unwrap();
    engine.move_to_cold(false).await.unwrap();
    engine.close().await.unwrap();
    let engine = open();
    life.look_now(&engine).await.unwrap_or_else(|why| panic!("opened again: {why:?}"));
    let back = engine.warm_up(Height(0), Height(u64::MAX)).await.unwrap();
    assert!(back.segments > 0, "{back:?}");
    life.look_now(&engine).await.unwrap_or_else(|why| panic!("brought back: {why:?}"));
    engine.close().await.unwrap();
}

#[test]
fn every_query_agrees_with_the_model_when_old_data_is_in_a_cold_directory() {
    let folder = folder("chain_model_cold");
    let cold = folder.path().join("cold");
    std::fs::create_dir(&cold).unwrap();
    let target = ColdTarget::Directory(cold);
    let with_target = |config: Config| config.cold(target.clone());
    block_on(check_with_cold_target(&folder.path().join("store"), with_target, async |_, _| ()));
}
