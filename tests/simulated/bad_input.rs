//! Misuse of the engine: each is refused with a typed error that carries the numbers, the store is unchanged, and the
//! engine goes on.

use crate::support::check::{Of, Schema, read_all};
use crate::support::model::{Content, State};
use crate::support::run::{Driver, Machine, Progress, Setup};
use crate::support::schema::{ByOwner, Coins, Mempool, Names, Plain, States, Wallet};
use crate::support::script::{Recipe, Script, write};
use op_engine::key::{Key, KeyError, KeyReader, KeyWriter};
use op_engine::{
    Batch, Block, BlockHash, Collection, Config, Engine, Error, Height, History, Index, IndexList, Result,
    Scope,
};
use op_engine_io::sim::{SimDisk, SimWorld};

const WINDOW: u64 = 5;

fn setup() -> Setup {
    Setup { window: WINDOW, ..Setup::small(2) }
}

fn script() -> Script {
    let between = [0; 6];
    write(&Recipe { seed: 77, blocks: 20, window: WINDOW, between, ..Recipe::default() }, State::default())
}

/// A store of twenty blocks, closed.
fn store() -> (SimDisk, Script) {
    let (setup, script) = (setup(), script());
    let machine = Machine::new(setup.options(1), SimDisk::new());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &Progress::default(), &setup).run().await?;
        Ok(engine.close().await?)
    });
    done.unwrap();
    (machine.0.stop(), script)
}

async fn content(engine: &Engine) -> Content {
    read_all(&engine.snapshot().await.unwrap(), Schema::All, Of::Tip).await.unwrap()
}

fn next(script: &Script) -> Block {
    let tip = script.states.last().unwrap().tip().unwrap();
    Block::new(Height(tip.height + 1), BlockHash([9; 32]), tip.hash)
}

/// Opens the store, misuses it, and checks that nothing has changed and that the next block goes in.
fn misuse(misuse: impl AsyncFnOnce(&Engine, &Script)) {
    let (disk, script) = store();
    let setup = setup();
    let machine = Machine::new(setup.options(2), disk);
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let (before, tip) = (content(&engine).await, engine.tip());
        misuse(&engine, &script).await;
        assert_eq!(content(&engine).await, before);
        assert_eq!(engine.tip(), tip);
        engine.commit(next(&script)).await?;
        assert_eq!(engine.tip().unwrap().height, Height(21));
        Ok(engine.close().await?)
    });
    done.unwrap();
}

#[test]
fn a_block_that_does_not_follow_the_tip_is_refused() {
    misuse(async |engine, script| {
        let tip = script.states.last().unwrap().tip().unwrap().clone();
        for height in [0, 1, 20, 22, u64::MAX] {
            let mut block = Block::new(Height(height), BlockHash([1; 32]), tip.hash);
            block.put::<Coins>(&1, &(1, 1));
            let refused = engine.commit(block).await.unwrap_err();
            assert_eq!(refused, Error::HeightMismatch { expected: Height(21), got: Height(height) });
        }
        let stranger = BlockHash([7; 32]);
        let mut block = Block::new(Height(21), BlockHash([1; 32]), stranger);
        block.put::<Coins>(&1, &(1, 1));
        let refused = engine.commit(block).await.unwrap_err();
        assert_eq!(refused, Error::BrokenLink { height: Height(21), expected: tip.hash, got: stranger });
    });
}

#[test]
fn a_second_record_with_a_unique_key_is_refused() {
    misuse(async |engine, script| {
        let (key, name) = script.states.last().unwrap().content.names[0];
        let mut block = next(script);
        block.put::<Coins>(&1, &(1, 1)).put::<Names>(&(key + 1000), &name);
        let refused = engine.commit(block).await.unwrap_err();
        let Error::DuplicateKey { index, key: tag } = &refused else { panic!("{refused:?}") };
        assert_eq!((index.as_str(), tag.as_str()), ("names.by_tag", format!("{:016x}", name.0).as_str()));
        // Twice in one batch, though the store has neither.
        let mut block = next(script);
        block.put::<Names>(&2001, &(999, 1)).put::<Names>(&2002, &(999, 1));
        assert!(matches!(engine.commit(block).await, Err(Error::DuplicateKey { .. })));
        // Freed and taken by two.
        let mut block = next(script);
        block.delete::<Names>(&key).put::<Names>(&2001, &name).put::<Names>(&2002, &name);
        assert!(matches!(engine.commit(block).await, Err(Error::DuplicateKey { .. })));
    });
}

#[test]
fn what_is_too_large_is_refused_with_the_limit() {
    misuse(async |engine, script| {
        let mut block = next(script);
        block.put::<Plain>(&vec![1; 2000], &Vec::new());
        let refused = engine.commit(block).await.unwrap_err();
        let Error::Limit { value, max, .. } = refused else { panic!("{refused:?}") };
        assert!(value > 2000 && max == 1024);

        let mut block = next(script);
        block.put::<Plain>(&vec![1], &vec![1; 33 << 20]);
        let refused = engine.commit(block).await.unwrap_err();
        let Error::Limit { value, max, .. } = refused else { panic!("{refused:?}") };
        assert!(value > 33 << 20 && max == 32 << 20);

        let mut batch = Batch::new();
        batch.put::<Wallet>(&1, &vec![1; 33 << 20]);
        assert!(matches!(engine.commit_global(batch).await, Err(Error::Limit { .. })));
    });
}

/// A key whose codec contradicts itself: the lowest bit is written and not read.
#[derive(Debug)]
struct Even(u8);

impl Key for Even {
    const COMPONENTS: usize = 1;

    fn encode_leading(&self, components: usize, out: &mut KeyWriter) {
        self.0.encode_leading(components, out);
    }

    fn decode(input: &mut KeyReader<'_>) -> Result<Self, KeyError> {
        match u8::decode(input)? {
            0xff => Err(KeyError::NotCanonical("it is the highest")),
            byte => Ok(Self(byte & !1)),
        }
    }
}

struct Strict;

impl Collection for Strict {
    const NAME: &'static str = "strict";
    type Key = Even;
    type Value = Vec<u8>;
    const VALUE_BYTES_MAX: usize = 100;
}

#[test]
fn a_collection_refuses_keys_that_do_not_come_back_and_values_above_its_own_limit() {
    let setup = setup();
    let machine = Machine::new(setup.options(1), SimDisk::new());
    let done = machine.finish(async {
        let config = Config::new("/simulated").collection::<Strict>();
        let engine = Engine::open_on(machine.0.clone(), config, 2, setup.settings.clone()).await?;
        let block = |key, value_bytes| {
            let mut block = Block::new(Height(0), BlockHash([1; 32]), BlockHash([0; 32]));
            block.put::<Strict>(&Even(2), &vec![7]).put::<Strict>(&Even(key), &vec![1; value_bytes]);
            block
        };
        for key in [3, 0xff] {
            let refused = engine.commit(block(key, 1)).await.unwrap_err();
            let Error::Key { collection, why } = &refused else { panic!("{refused:?}") };
            assert!(collection == "strict" && matches!(why, KeyError::NotCanonical(_)), "{refused}");
        }
        let refused = engine.commit(block(4, 100)).await.unwrap_err();
        let Error::Limit { value, max, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((value, max), (101, 100), "a value has its version before it");

        assert_eq!(engine.get::<Strict>(&Even(2)).await?, None, "nothing of a refused block is stored");
        engine.commit(block(4, 99)).await?;
        assert_eq!(engine.get::<Strict>(&Even(4)).await?, Some(vec![1; 99]));
        Ok(engine.close().await?)
    });
    done.unwrap();
}

struct Stranger;

impl Collection for Stranger {
    const NAME: &'static str = "stranger";
    type Key = u64;
    type Value = Vec<u8>;
}

#[test]
fn a_collection_that_was_not_registered_is_refused() {
    misuse(async |engine, script| {
        let unknown =
            |error: Error| assert_eq!(error, Error::UnknownCollection { name: "stranger".to_owned() });
        let mut block = next(script);
        block.put::<Coins>(&1, &(1, 1)).put::<Stranger>(&1, &vec![1]);
        unknown(engine.commit(block).await.unwrap_err());
        unknown(engine.get::<Stranger>(&1).await.unwrap_err());
        unknown(engine.scan::<Stranger>().collect().await.unwrap_err());
        unknown(engine.snapshot().await.unwrap().get::<Stranger>(&1).await.unwrap_err());
        let mut batch = Batch::new();
        batch.put::<Stranger>(&1, &vec![1]);
        unknown(engine.commit_global(batch).await.unwrap_err());
    });
}

#[test]
fn a_batch_outside_the_chain_may_not_touch_what_follows_it() {
    misuse(async |engine, _| {
        let mut batch = Batch::new();
        batch.put::<Wallet>(&1, &vec![1]).put::<Coins>(&1, &(1, 1));
        let refused = engine.commit_global(batch).await.unwrap_err();
        assert_eq!(refused, Error::NotGlobal { name: "coins".to_owned() });
        let mut batch = Batch::new();
        batch.put::<Mempool>(&1, &vec![1]).delete::<States>(&(1, 1));
        let refused = engine.commit_global(batch).await.unwrap_err();
        assert_eq!(refused, Error::NotGlobal { name: "states".to_owned() });
    });
}

#[test]
fn a_reorg_that_cannot_be_is_refused() {
    misuse(async |engine, _| {
        for target in [21, u64::MAX] {
            let refused = engine.reorg_to(Height(target)).await.unwrap_err();
            assert_eq!(refused, Error::ReorgAboveTip { target: Height(target), tip: Height(20) });
        }
        for target in [0, 1, 14] {
            let refused = engine.reorg_to(Height(target)).await.unwrap_err();
            let horizon = Height(20 - WINDOW);
            assert_eq!(refused, Error::ReorgBelowHorizon { target: Height(target), horizon });
        }
        for height in [0, 21, u64::MAX] {
            let refused = engine.at(Height(height)).await.err().unwrap();
            let wanted = Error::NoSuchHeight { height: Height(height), first: Height(1), tip: Height(20) };
            assert_eq!(refused, wanted);
        }
    });
}

#[test]
fn an_empty_chain_has_nothing_to_go_back_to() {
    let setup = setup();
    let machine = Machine::new(setup.options(1), SimDisk::new());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        assert_eq!(engine.reorg_to(Height(0)).await.unwrap_err(), Error::EmptyChain);
        assert_eq!(engine.at(Height(0)).await.err().unwrap(), Error::EmptyChain);
        assert_eq!(content(&engine).await, Content::default());
        Ok(engine.close().await?)
    });
    done.unwrap();
}

/// Opens the store otherwise than it was made. It must be refused, and be as it was.
fn changed(config: impl FnOnce() -> Config) -> Error {
    let (disk, script) = store();
    let setup = setup();
    let machine = Machine::new(setup.options(2), disk);
    let refused = machine.finish(async {
        let opened = Engine::open_on(machine.0.clone(), config(), 2, setup.settings.clone()).await;
        Ok(opened.err().expect("the store is refused"))
    });
    let machine = Machine::new(setup.options(3), machine.0.stop());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, true).await?;
        content(&engine).await.expect(&script.states.last().unwrap().content)?;
        Ok(engine.commit(next(&script)).await.map(|_| ())?)
    });
    done.unwrap();
    refused.unwrap()
}

macro_rules! other_coins {
    ($name:ident, $key:ty, $value:ty, { $($constant:item)* }) => {
        struct $name;

        impl Collection for $name {
            const NAME: &'static str = "coins";
            type Key = $key;
            type Value = $value;
            $($constant)*
        }
    };
}

other_coins!(NoIndex, u64, (u64, u32), {});
other_coins!(OtherScope, u64, (u64, u32), {
    const SCOPE: Scope = Scope::Global;
});
other_coins!(OtherHistory, u64, (u64, u32), {
    const HISTORY: History = History::All;
});
other_coins!(OtherKey, (u64, u32), (u64, u32), {});
other_coins!(MoreIndexes, u64, (u64, u32), {
    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByAmount>()
    }
});

struct ByAmount;

impl Index for ByAmount {
    const NAME: &'static str = "by_amount";
    type Of = MoreIndexes;
    type Key = u64;
    type Covered = ();

    fn entries(_: &u64, coin: &(u64, u32), emit: &mut dyn FnMut(u64, ())) {
        emit(coin.0, ());
    }
}

#[test]
fn a_changed_schema_is_refused_by_name() {
    fn other<C: Collection>() -> Error {
        changed(|| Config::new("/simulated").collection::<C>())
    }
    let refusals = [
        other::<NoIndex>(),
        other::<OtherScope>(),
        other::<OtherHistory>(),
        other::<OtherKey>(),
        other::<MoreIndexes>(),
    ];
    for refused in refusals {
        let Error::SchemaChanged { name, differences } = &refused else { panic!("{refused:?}") };
        assert!(name == "coins" && !differences.is_empty(), "{refused}");
    }
}

#[test]
fn no_store_is_made_where_none_is_wanted() {
    let setup = setup();
    let machine = Machine::new(setup.options(1), SimDisk::new());
    let refused: Result<Engine> = machine
        .finish(async {
            let config = setup.config(false).create(false);
            Ok(Engine::open_on(machine.0.clone(), config, 2, setup.settings.clone()).await)
        })
        .unwrap();
    assert_eq!(refused.err().unwrap(), Error::NoStore { path: "/simulated".into() });
    assert_eq!(machine.0.stop().files(), Vec::new());
}

#[test]
fn a_closed_engine_says_so() {
    let (disk, script) = store();
    let setup = setup();
    let machine = Machine::new(setup.options(2), disk);
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let (other, snapshot) = (engine.clone(), engine.snapshot().await?);
        engine.close().await?;
        assert_eq!(other.commit(next(&script)).await.unwrap_err(), Error::Closed);
        assert_eq!(other.reorg_to(Height(18)).await.unwrap_err(), Error::Closed);
        assert_eq!(other.sync().await.unwrap_err(), Error::Closed);
        let closed = |error: Error| {
            let closed = matches!(error, Error::Closed | Error::Storage(op_engine_shards::Error::Closed));
            assert!(closed, "{error:?}");
        };
        closed(other.get::<Coins>(&1).await.unwrap_err());
        closed(snapshot.get::<Coins>(&1).await.unwrap_err());
        closed(snapshot.scan_index::<ByOwner>().collect().await.unwrap_err());
        closed(other.flush().await.unwrap_err());
        closed(other.close().await.unwrap_err());
        Ok(())
    });
    done.unwrap();
    reopens(machine.0.stop(), &script);
}

fn reopens(disk: SimDisk, script: &Script) {
    let setup = setup();
    let machine = Machine::new(setup.options(4), disk);
    let world: &SimWorld = &machine.0;
    let done = machine.finish(async {
        let engine = setup.open(world, false).await?;
        content(&engine).await.expect(&script.states.last().unwrap().content)?;
        Ok(())
    });
    done.unwrap();
}
