//! The smallest program that embeds the engine: one collection, two blocks, a reorg.
//!
//! `cargo run --example embed`

use op_engine::{Block, BlockHash, Collection, Config, Engine, Height};

struct Balances;

impl Collection for Balances {
    const NAME: &'static str = "balances";
    type Key = [u8; 20];
    type Value = u64;
}

fn main() -> op_engine::Result<()> {
    let dir = std::env::temp_dir().join(format!("op-engine-embed-{}", std::process::id()));
    let store = Engine::open_blocking(Config::new(&dir).collection::<Balances>())?;
    let engine = store.blocking();
    let (alice, hashes) = ([0xa1; 20], [0, 1, 2].map(|n| BlockHash([n; 32])));
    let [before, genesis, first] = hashes;

    let mut block = Block::new(Height(0), genesis, before);
    block.put::<Balances>(&alice, &50);
    engine.commit(block)?; // From here on it survives a crash.

    let mut block = Block::new(Height(1), first, genesis);
    block.put::<Balances>(&alice, &20);
    engine.commit(block)?;
    assert_eq!(engine.get::<Balances>(&alice)?, Some(20));
    assert_eq!(engine.at(Height(0))?.blocking().get::<Balances>(&alice)?, Some(50));

    engine.reorg_to(Height(0))?; // All collections go back, at once.
    assert_eq!(engine.get::<Balances>(&alice)?, Some(50));
    println!("the tip is at height {:?}", store.tip().map(|tip| tip.height));

    store.close_blocking()?;
    drop(std::fs::remove_dir_all(dir)); // Only an example removes its store.
    Ok(())
}
