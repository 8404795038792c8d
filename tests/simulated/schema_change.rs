//! What becomes of a store that is declared differently: indexes that come and go, and what cannot be.

use std::time::Duration;

use op_engine::{
    Batch, Block, BlockHash, Collection, Config, Desc, Engine, Error, Height, History, Index, IndexList,
    IndexStatus, Layout, Scope,
};
use op_engine_io::sim::{SimDisk, SimWorld};

use crate::support::check::Checked;
use crate::support::run::{Machine, Setup, sleep};

/// A collection that is named `coins`, whatever its type is called.
macro_rules! coins {
    ($name:ident, $key:ty, $value:ty $(, $item:item)*) => {
        struct $name;

        impl Collection for $name {
            const NAME: &'static str = "coins";
            type Key = $key;
            type Value = $value;
            $($item)*
        }
    };
}

macro_rules! index {
    ($name:ident of $of:ty: $text:literal, $key:ty, $unique:literal, |$row:ident| $value:expr) => {
        struct $name;

        impl Index for $name {
            const NAME: &'static str = $text;
            type Of = $of;
            type Key = $key;
            type Covered = ();
            const UNIQUE: bool = $unique;

            fn entries(key: &u64, value: &(u32, u32), emit: &mut dyn FnMut($key, ())) {
                let $row = (*key, value.0, value.1);
                emit($value, ());
            }
        }
    };
}

type Coin = (u32, u32);

coins!(Plain, u64, Coin);
coins!(
    Tagged,
    u64,
    Coin,
    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByTag>()
    }
);
coins!(
    Fragile,
    u64,
    Coin,
    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<Panicking>()
    }
);
index!(ByTag of Tagged: "by_tag", u32, true, |coin| coin.2);
index!(Panicking of Fragile: "fragile", u32, false, |coin| {
    assert!(coin.1 != 13, "thirteen is no amount");
    coin.1
});

fn setup() -> Setup {
    Setup { window: 5, ..Setup::small(2) }
}

async fn open<C: Collection>(world: &SimWorld) -> Result<Engine, Error> {
    open_with(world, Config::new("/simulated").collection::<C>()).await
}

async fn open_with(world: &SimWorld, config: Config) -> Result<Engine, Error> {
    let config = config.reorg_window(setup().window).upkeep_rows(7);
    Engine::open_on(world.clone(), config, 2, setup().settings).await
}

fn hash(height: u64) -> BlockHash {
    BlockHash([height as u8 + 1; 32])
}

/// The block at a height, with some coins put and some removed.
fn block<C: Collection<Key = u64, Value = Coin>>(height: u64, put: &[(u64, Coin)], removed: &[u64]) -> Block {
    let parent = if height == 0 { BlockHash([0; 32]) } else { hash(height - 1) };
    let mut block = Block::new(Height(height), hash(height), parent);
    for (key, coin) in put {
        block.put::<C>(key, coin);
    }
    for key in removed {
        block.delete::<C>(key);
    }
    block
}

/// A store of some blocks with coins, all with different tags.
fn store() -> SimDisk {
    on(SimDisk::new(), async |world| {
        let engine = open::<Plain>(world).await?;
        for height in 0..8 {
            let coins: Vec<_> =
                (0..10).map(|at| (height * 10 + at, (at as u32, (height * 10 + at) as u32))).collect();
            engine.commit(block::<Plain>(height, &coins, &[])).await?;
        }
        Ok(engine.close().await?)
    })
}

fn on(disk: SimDisk, work: impl AsyncFnOnce(&SimWorld) -> Checked) -> SimDisk {
    let machine = Machine::new(setup().options(1), disk);
    machine.finish(work(&machine.0)).unwrap();
    machine.0.stop()
}

async fn status_of<I: Index>(engine: &Engine, world: &SimWorld) -> IndexStatus {
    for _ in 0..100 {
        let progress = engine.index_progress::<I>().unwrap();
        if progress.status != IndexStatus::Building {
            return progress.status;
        }
        sleep(world, Duration::from_millis(50)).await;
    }
    panic!("the index is neither complete nor failed: {:?}", engine.index_progress::<I>());
}

fn failure(status: IndexStatus) -> String {
    let IndexStatus::Failed { why } = status else { panic!("{status:?}") };
    why
}

#[test]
fn a_unique_index_that_finds_duplicates_says_so_and_is_made_anew_at_the_next_opening() {
    let disk = on(store(), async |world| {
        let engine = open::<Plain>(world).await?;
        // Far apart, so that no batch of the work has both.
        engine.commit(block::<Plain>(8, &[(1000, (7, 3)), (1001, (7, 900))], &[])).await?;
        Ok(engine.close().await?)
    });
    let disk = on(disk, async |world| {
        let engine = open::<Tagged>(world).await?;
        let why = failure(status_of::<ByTag>(&engine, world).await);
        assert!(why.contains("coins.by_tag") && why.contains("00000003"), "{why}");
        let refused = engine.get_by::<ByTag>(&5).await.unwrap_err();
        assert_eq!(refused, Error::IndexFailed { index: "coins.by_tag".to_owned(), why: why.clone() });
        assert!(refused.to_string().contains("Config::drop_index"), "{refused}");
        assert!(matches!(engine.scan_index::<ByTag>().next().await, Err(Error::IndexFailed { .. })));
        assert_eq!(engine.stats().await?.indexes[0].status, IndexStatus::Failed { why });
        // The collection is as usable as before, whatever the index would say.
        engine.commit(block::<Tagged>(9, &[(1002, (1, 4)), (1001, (7, 5))], &[2])).await?;
        assert_eq!(engine.get::<Tagged>(&1002).await?, Some((1, 4)));
        // The duplicates go.
        engine.commit(block::<Tagged>(10, &[], &[1000, 1001, 1002])).await?;
        assert!(matches!(engine.get_by::<ByTag>(&5).await, Err(Error::IndexFailed { .. })));
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        let engine = open::<Tagged>(world).await?;
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        assert_eq!(engine.scan_index::<ByTag>().collect().await?.len(), 79);
        assert_eq!(engine.get_by::<ByTag>(&5).await?, Some((5, (5, 5))));
        let refused = engine.commit(block::<Tagged>(11, &[(1003, (1, 5))], &[])).await.unwrap_err();
        assert!(matches!(refused, Error::DuplicateKey { .. }), "{refused}");
        Ok(engine.close().await?)
    });
}

#[test]
fn a_block_that_contradicts_an_unfinished_index_is_taken_and_a_reorg_takes_the_contradiction_back() {
    on(store(), async |world| {
        let engine = open::<Tagged>(world).await?;
        // The first block comes before the work is done.
        assert_eq!(engine.index_progress::<ByTag>()?.status, IndexStatus::Building);
        engine.commit(block::<Tagged>(8, &[(1000, (7, 901))], &[])).await?;
        engine.commit(block::<Tagged>(9, &[(1001, (7, 901)), (1002, (7, 3))], &[4])).await?;
        failure(status_of::<ByTag>(&engine, world).await);
        engine.reorg_to(Height(8)).await?;
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        assert_eq!(engine.scan_index::<ByTag>().collect().await?.len(), 81);
        assert_eq!(engine.get_by::<ByTag>(&901).await?, Some((1000, (7, 901))));
        let refused = engine.commit(block::<Tagged>(9, &[(1001, (7, 901))], &[])).await.unwrap_err();
        assert!(matches!(refused, Error::DuplicateKey { .. }), "{refused}");
        Ok(engine.close().await?)
    });
}

#[test]
fn a_key_of_an_unfinished_unique_index_stays_with_the_record_that_has_it_in_the_end() {
    on(store(), async |world| {
        let config = Config::new("/simulated").collection::<Tagged>().upkeep_rows(1);
        let engine = Engine::open_on(world.clone(), config.reorg_window(5), 2, setup().settings).await?;
        // The last records of both shards are not entered yet, so nobody knows yet that they have these tags.
        let late = [(1000, (1, 79)), (1001, (1, 78)), (1002, (1, 77))];
        engine.commit(block::<Tagged>(8, &late, &[])).await?;
        engine.commit(block::<Tagged>(9, &[(77, (1, 500))], &[78, 79])).await?;
        assert!(matches!(engine.get_by::<ByTag>(&1).await, Err(Error::IndexIncomplete { .. })));
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        for (key, coin) in late {
            assert_eq!(engine.get_by::<ByTag>(&coin.1).await?, Some((key, coin)));
        }
        assert_eq!(engine.scan_index::<ByTag>().collect().await?.len(), 81);
        Ok(engine.close().await?)
    });
}

#[test]
fn a_state_older_than_an_index_says_so_and_its_records_can_be_read() {
    on(store(), async |world| {
        let engine = open::<Tagged>(world).await?;
        let held = engine.snapshot().await?;
        let early = held.get_by::<ByTag>(&5).await.unwrap_err();
        assert!(matches!(early, Error::IndexIncomplete { records_done: ..80, .. }), "{early:?}");
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        let too_new = Error::IndexTooNew { index: "coins.by_tag".to_owned() };
        assert_eq!(held.get_by::<ByTag>(&5).await.unwrap_err(), too_new);
        assert_eq!(engine.at(Height(7)).await?.scan_index::<ByTag>().next().await.unwrap_err(), too_new);
        assert_eq!(held.get::<Tagged>(&5).await?, Some((5, 5)));
        engine.commit(block::<Tagged>(8, &[], &[5])).await?;
        assert_eq!(engine.at(Height(8)).await?.get_by::<ByTag>(&6).await?, Some((6, (6, 6))));
        // A snapshot from before a reorg that takes the work back still has the index.
        let held = engine.snapshot().await?;
        engine.reorg_to(Height(7)).await?;
        assert_eq!(held.get_by::<ByTag>(&6).await?, Some((6, (6, 6))));
        assert_eq!(held.scan_index::<ByTag>().collect().await?.len(), 79);
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        assert_eq!(held.scan_index::<ByTag>().collect().await?.len(), 79);
        assert_eq!(engine.scan_index::<ByTag>().collect().await?.len(), 80);
        Ok(engine.close().await?)
    });
}

#[test]
fn an_index_is_dropped_when_that_is_said_and_its_number_is_not_used_again() {
    let number = std::cell::Cell::new(0);
    let number_of = |engine: &Engine| {
        let names = engine.collection_names();
        names.iter().find(|(_, name)| name == "coins.by_tag").map_or(0, |(id, _)| id.0)
    };
    let disk = on(store(), async |world| {
        let engine = open::<Tagged>(world).await?;
        status_of::<ByTag>(&engine, world).await;
        number.set(number_of(&engine));
        Ok(engine.close().await?)
    });
    let without = || Config::new("/simulated").collection::<Plain>();
    let disk = on(disk, async |world| {
        let refused = open_with(world, without()).await.err().unwrap();
        let Error::SchemaChanged { name, differences } = &refused else { panic!("{refused:?}") };
        assert_eq!((name.as_str(), differences.len()), ("coins", 1));
        assert!(refused.to_string().contains("index by_tag"), "{refused}");
        assert!(refused.to_string().contains("Config::drop_index"), "{refused}");
        let both = Config::new("/simulated").collection::<Tagged>().drop_index("coins", "by_tag");
        let refused = open_with(world, both).await.err().unwrap();
        assert!(matches!(refused, Error::Setting { name: "drop", .. }), "{refused}");
        Ok(())
    });
    let disk = on(disk, async |world| {
        let engine = open_with(world, without().drop_index("coins", "by_tag")).await?;
        for _ in 0..40 {
            sleep(world, Duration::from_millis(50)).await;
        }
        let stats = engine.stats().await?;
        let mut segments = stats.shards.iter().flat_map(|shard| &shard.segments);
        assert!(segments.all(|segment| segment.collection.0 != number.get()));
        engine.commit(block::<Plain>(8, &[(5, (0, 0))], &[6])).await?;
        Ok(engine.close().await?)
    });
    // Twice does no harm, and then it comes back under another number, complete.
    let disk = on(disk, async |world| {
        let engine = open_with(world, without().drop_index("coins", "by_tag")).await?;
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        // Tag 0 was given to two coins meanwhile.
        let engine = open::<Tagged>(world).await?;
        assert!(number_of(&engine) > number.get());
        failure(status_of::<ByTag>(&engine, world).await);
        Ok(engine.close().await?)
    });
}

#[test]
fn a_dropped_collection_is_gone_with_its_indexes() {
    let disk = on(store(), async |world| {
        let engine = open::<Tagged>(world).await?;
        status_of::<ByTag>(&engine, world).await;
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        let engine = open_with(world, Config::new("/simulated").drop_collection("coins")).await?;
        sleep(world, Duration::from_secs(1)).await;
        let stats = engine.stats().await?;
        let mut segments = stats.shards.iter().flat_map(|shard| &shard.segments);
        assert!(segments.all(|segment| segment.collection.0 <= 3), "only the engine's own are left");
        engine.close().await?;
        let engine = open::<Tagged>(world).await?;
        assert_eq!(engine.scan::<Tagged>().collect().await?, []);
        assert_eq!(status_of::<ByTag>(&engine, world).await, IndexStatus::Ready);
        assert_eq!(engine.scan_index::<ByTag>().collect().await?.len(), 0);
        Ok(engine.close().await?)
    });
}

#[test]
fn a_panicking_declaration_refuses_the_batch_and_names_the_record() {
    let disk = on(SimDisk::new(), async |world| {
        let engine = open::<Fragile>(world).await?;
        engine.commit(block::<Fragile>(0, &[(1, (1, 1))], &[])).await?;
        let refused =
            engine.commit(block::<Fragile>(1, &[(2, (2, 2)), (3, (13, 3))], &[])).await.unwrap_err();
        let Error::DeclarationPanicked { collection, function, key, message } = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!((collection.as_str(), function.as_str()), ("coins", "entries of index fragile"));
        assert_eq!((key.as_str(), message.as_str()), ("0000000000000003", "thirteen is no amount"));
        assert_eq!(engine.scan::<Fragile>().collect().await?, [(1, (1, 1))]);
        assert_eq!(engine.tip().unwrap().height, Height(0));
        engine.commit(block::<Fragile>(1, &[(2, (2, 2))], &[])).await?;
        Ok(engine.close().await?)
    });
    drop(disk);
    // A record that was there before the index fails the index, and stays as usable as it was.
    let disk = on(SimDisk::new(), async |world| {
        let engine = open::<Plain>(world).await?;
        engine.commit(block::<Plain>(0, &[(1, (1, 1)), (3, (13, 3))], &[])).await?;
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        let engine = open::<Fragile>(world).await?;
        let why = failure(status_of::<Panicking>(&engine, world).await);
        assert!(why.contains("thirteen is no amount") && why.contains("0000000000000003"), "{why}");
        engine.commit(block::<Fragile>(1, &[(4, (4, 4))], &[3])).await?;
        assert_eq!(engine.scan::<Fragile>().collect().await?.len(), 2);
        Ok(engine.close().await?)
    });
}

coins!(OtherKey, (u64, Desc<u32>), Coin);
coins!(
    OtherPolicies,
    u64,
    Coin,
    const SCOPE: Scope = Scope::Global;,
    const HISTORY: History = History::All;,
    const LAYOUT: Layout = Layout::AppendOnly;
);
coins!(
    NotUnique,
    u64,
    Coin,
    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<OtherByTag>()
    }
);
index!(OtherByTag of NotUnique: "by_tag", (u32, u64), false, |coin| (coin.2, coin.0));

#[test]
fn a_refused_schema_spells_out_every_difference_and_what_to_do() {
    async fn refusal<C: Collection>(world: &SimWorld) -> String {
        open::<C>(world).await.err().unwrap().to_string()
    }
    let disk = on(store(), async |world| {
        let text = refusal::<OtherKey>(world).await;
        assert!(text.starts_with("coins is not declared as the store has it:"), "{text}");
        assert!(text.contains("key\n    in the store: u64\n    declared:     (u64, desc u32)"), "{text}");
        assert!(text.contains("under a new name"), "{text}");
        Ok(())
    });
    let disk = on(disk, async |world| {
        let text = refusal::<OtherPolicies>(world).await;
        for (property, old, new) in [
            ("scope", "Chain: it follows reorgs", "Global: a reorg does not touch it"),
            ("history", "Window: versions back to the horizon", "All: every version"),
            ("layout", "Mutable", "AppendOnly"),
        ] {
            let wanted = format!("  {property}\n    in the store: {old}\n    declared:     {new}");
            assert!(text.contains(&wanted), "{text}");
        }
        assert!(!text.contains("  key"), "{text}");
        Ok(())
    });
    let disk = on(disk, async |world| {
        let engine = open::<Tagged>(world).await?;
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        let text = refusal::<NotUnique>(world).await;
        assert!(text.starts_with("coins.by_tag is not declared as the store has it:"), "{text}");
        assert!(text.contains("in the store: u32\n    declared:     (u32, u64)"), "{text}");
        assert!(
            text.contains("uniqueness\n    in the store: unique\n    declared:     not unique"),
            "{text}"
        );
        assert!(text.contains("Config::drop_index"), "{text}");
        Ok(())
    });
}

/// Versions of one record: 1, then 2 with a field more.
struct Versioned<const VERSION: u8>;

struct Grown<const VERSION: u8>(u64);

impl<const VERSION: u8> op_engine::value::Record for Grown<VERSION> {
    const VERSION: u8 = VERSION;

    fn encode(&self, out: &mut op_engine::value::ValueWriter) {
        out.field(&self.0);
    }

    fn decode(
        version: u8,
        input: &mut op_engine::value::ValueReader<'_>,
    ) -> Result<Self, op_engine::value::ValueError> {
        if version > VERSION {
            return Err(op_engine::value::ValueError::UnknownVersion { found: version, newest: VERSION });
        }
        Ok(Self(input.field()?))
    }
}

impl<const VERSION: u8> Collection for Versioned<VERSION> {
    const NAME: &'static str = "versioned";
    type Key = u64;
    type Value = Grown<VERSION>;
    const SCOPE: Scope = Scope::Global;
}

#[test]
fn a_newer_version_of_records_is_taken_over_and_an_older_one_is_refused() {
    let disk = on(SimDisk::new(), async |world| {
        let engine = open::<Versioned<1>>(world).await?;
        let mut batch = Batch::new();
        batch.put::<Versioned<1>>(&1, &Grown(7));
        engine.commit_global(batch).await?;
        Ok(engine.close().await?)
    });
    let disk = on(disk, async |world| {
        let engine = open::<Versioned<2>>(world).await?;
        assert_eq!(engine.get::<Versioned<2>>(&1).await?.map(|grown| grown.0), Some(7));
        Ok(engine.close().await?)
    });
    on(disk, async |world| {
        let text = open::<Versioned<1>>(world).await.err().unwrap().to_string();
        assert!(
            text.contains("values\n    in the store: up to version 2\n    declared:     up to version 1"),
            "{text}"
        );
        Ok(())
    });
}
