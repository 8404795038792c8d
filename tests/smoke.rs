//! A store on the simulated machine, from its creation through commits, a reorg and a second opening.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use op_engine::{Block, BlockHash, Collection, Config, Desc, Engine, Height, Index, IndexList, ShardConfig};
use op_engine_io::sim::{SimDisk, SimOptions, SimWorld};

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = u64;
    type Value = (u64, u32);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByOwner>()
    }
}

struct ByOwner;

impl Index for ByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Coins;
    type Key = (u32, Desc<u64>);
    type Covered = ();

    fn entries(_: &u64, coin: &(u64, u32), emit: &mut dyn FnMut(Self::Key, ())) {
        emit((coin.1, Desc(coin.0)), ());
    }
}

fn hash(height: u64, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

fn config() -> Config {
    Config::new("/simulated").collection::<Coins>()
}

fn settings() -> ShardConfig {
    ShardConfig { wal_file_bytes: 64 << 10, memtable_bytes_max: 4 << 10, ..ShardConfig::default() }
}

async fn commit(engine: &Engine, height: u64, branch: u8, parent_branch: u8) {
    let mut block = Block::new(Height(height), hash(height, branch), hash(height - 1, parent_branch));
    for n in 0..10 {
        block.put::<Coins>(&(height * 100 + n), &(height * 7 + n, u32::try_from(n % 3).unwrap()));
    }
    if height > 5 {
        block.delete::<Coins>(&((height - 3) * 100));
    }
    engine.commit(block).await.unwrap();
}

#[test]
fn a_store_keeps_what_was_committed_and_takes_back_what_was_reorged() {
    for shards in [1, 2, 4] {
        let world = SimWorld::new(SimOptions::with_seed(shards.into()), SimDisk::new());
        let machine = world.clone();
        let before = world
            .run(async move {
                let engine = Engine::open_on(machine.clone(), config(), shards, settings()).await.unwrap();
                for height in 1..=60 {
                    commit(&engine, height, 0, 0).await;
                }
                engine.reorg_to(Height(50)).await.unwrap();
                commit(&engine, 51, 1, 0).await;
                commit(&engine, 52, 1, 1).await;
                assert_eq!(engine.get::<Coins>(&5501).await.unwrap(), None);
                assert_eq!(engine.get::<Coins>(&5101).await.unwrap(), Some((51 * 7 + 1, 1)));
                assert_eq!(engine.get::<Coins>(&4700).await.unwrap(), None);
                let rows = engine.scan::<Coins>().collect().await.unwrap();
                let owned = engine.scan_index::<ByOwner>().prefix(&(1u32,)).collect().await.unwrap();
                assert_eq!(owned.iter().filter(|row| row.0.0 != 1).count(), 0);
                assert!(owned.is_sorted_by_key(|row| row.0.1));
                assert_eq!(owned.len(), rows.iter().filter(|row| row.1.1 == 1).count());
                engine.close().await.unwrap();
                rows
            })
            .done()
            .expect("the run ends");
        assert_eq!(world.panics(), Vec::new());
        let disk = world.stop();
        let world = SimWorld::new(SimOptions::with_seed(9), disk);
        let machine = world.clone();
        let after = world
            .run(async move {
                let engine = Engine::open_on(machine.clone(), config(), 7, settings()).await.unwrap();
                assert_eq!(engine.tip().unwrap().height, Height(52));
                let old = engine.at(Height(49)).await.unwrap();
                assert_eq!(old.get::<Coins>(&4700).await.unwrap(), Some((47 * 7, 0)));
                engine.scan::<Coins>().collect().await.unwrap()
            })
            .done()
            .expect("the run ends");
        assert_eq!(before, after);
        drop(world.stop());
    }
}
