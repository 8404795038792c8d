//! The same seed gives the same run, and the number of shards changes nothing that a reader could see.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::support::check::{Of, read_all, verify};
use crate::support::model::State;
use crate::support::run::{Driver, Machine, Progress, Setup};
use crate::support::script::{Recipe, write};
use op_engine_io::sim::{Rng, SimDisk};

/// The digest of the content at the end, of the same after another opening, and the trace of both.
fn run(shards: u16, shards_later: u16, seed: u64, world_seed: u64) -> (u64, u64) {
    let setup = Setup::small(shards);
    let recipe = Recipe { seed, blocks: 60, reorgs_at: vec![20, 40, 41], ..Recipe::default() };
    let script = write(&recipe, State::default());
    let progress = Progress::default();
    let machine = Machine::new(setup.options(world_seed), SimDisk::new());
    let digest = async |engine: &op_engine::Engine| {
        let content = read_all(&engine.snapshot().await?, setup.schema, Of::Tip).await?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        engine.tip().map(|tip| (tip.height, tip.hash)).hash(&mut hasher);
        Ok(hasher.finish())
    };
    let before = machine
        .finish(async {
            let engine = setup.open(&machine.0, false).await?;
            Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
            let before = digest(&engine).await?;
            engine.close().await?;
            Ok(before)
        })
        .unwrap();
    let trace = machine.0.trace_hash();
    let disk = machine.0.stop();
    let machine = Machine::new(setup.options(world_seed + 1), disk);
    // The store keeps its number of shards, whatever is asked for.
    let other = Setup { shards: shards_later, ..setup.clone() };
    let after = machine
        .finish(async {
            let engine = other.open(&machine.0, true).await?;
            assert_eq!(engine.shard_count(), usize::from(shards));
            let end = script.states.len() - 1;
            verify(&engine, &script, end..end + 1, setup.schema, &mut Rng::new(1)).await?;
            digest(&engine).await
        })
        .unwrap();
    assert_eq!(before, after);
    (before, trace ^ machine.0.trace_hash().rotate_left(1))
}

#[test]
fn the_number_of_shards_changes_nothing_that_is_read() {
    for seed in 0..6 {
        let (one, _) = run(1, 4, seed, 10);
        for shards in [2, 4] {
            assert_eq!(run(shards, 1, seed, 20 + u64::from(shards)).0, one, "seed {seed}, {shards} shards");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let shards = 1 + seed as u16;
        let (digest, trace) = run(shards, shards, seed, seed);
        assert_eq!(run(shards, shards, seed, seed), (digest, trace));
        let (same_content, other_trace) = run(shards, shards, seed, seed + 100);
        assert_eq!(same_content, digest, "chance decides nothing that is read");
        assert_ne!(other_trace, trace);
    }
}
