//! Collections shaped as those of an OPNet node, one for each rule of what a reorg does to it.

use op_engine::{Block, BlockHash, Collection, Config, Engine, Height, History, Index, IndexList, Scope};
use op_engine_io::sim::SimDisk;

use super::check::Checked;
use super::run::{Machine, Setup};

/// A contract and a pointer.
pub type SlotKey = ([u8; 32], [u8; 32]);

/// Slots of contracts: versioned by height, never deleted.
pub struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = SlotKey;
    type Value = [u8; 32];
    const HISTORY: History = History::All;
}

/// Coins with two heights. A spend is kept, also that of a coin that was never seen: then value and height are absent.
pub struct Spends;

/// Value and height of a coin, and the height that spent it.
pub type Spend = (Option<(u64, u64)>, Option<u64>);

impl Collection for Spends {
    const NAME: &'static str = "spends";
    type Key = ([u8; 32], u32);
    type Value = Spend;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<BySpentHeight>()
    }
}

/// Coins by the height that spent them. Those that are unspent are not in it.
pub struct BySpentHeight;

impl Index for BySpentHeight {
    const NAME: &'static str = "by_spent_height";
    type Of = Spends;
    type Key = u64;
    type Covered = ();

    fn entries(_: &([u8; 32], u32), spend: &Spend, emit: &mut dyn FnMut(u64, ())) {
        if let Some(height) = spend.1 {
            emit(height, ());
        }
    }
}

/// Unspent coins: a spend deletes.
pub struct Unspent;

impl Collection for Unspent {
    const NAME: &'static str = "unspent";
    type Key = ([u8; 32], u32);
    type Value = (u64, u32);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<UnspentByOwner>()
    }
}

/// Unspent coins by owner.
pub struct UnspentByOwner;

impl Index for UnspentByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Unspent;
    type Key = u32;
    type Covered = ();

    fn entries(_: &([u8; 32], u32), coin: &(u64, u32), emit: &mut dyn FnMut(u32, ())) {
        emit(coin.1, ());
    }
}

/// What any reorg empties.
pub struct Targets;

impl Collection for Targets {
    const NAME: &'static str = "targets";
    type Key = u64;
    type Value = u64;
    const SCOPE: Scope = Scope::Cleared;
}

/// What no reorg touches, with an index that nothing may be in twice.
pub struct Keys;

impl Collection for Keys {
    const NAME: &'static str = "keys";
    type Key = u64;
    type Value = (u64, Vec<u8>);
    const SCOPE: Scope = Scope::Global;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByAddress>()
    }
}

/// Keys by address.
pub struct ByAddress;

impl Index for ByAddress {
    const NAME: &'static str = "by_address";
    type Of = Keys;
    type Key = u64;
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &u64, key: &(u64, Vec<u8>), emit: &mut dyn FnMut(u64, ())) {
        emit(key.0, ());
    }
}

pub fn config() -> Config {
    let config = Config::new("/simulated").reorg_window(20).collection::<Slots>().collection::<Spends>();
    config.collection::<Unspent>().collection::<Targets>().collection::<Keys>()
}

/// Runs `work` on a new store, which is then closed.
pub fn on_store<F: Future<Output = Checked>>(shards: u16, seed: u64, work: impl FnOnce(Engine) -> F) {
    let setup = Setup::small(shards);
    let machine = Machine::new(setup.options(seed), SimDisk::new());
    let done = machine.finish(async {
        let settings = setup.settings.clone();
        let engine = Engine::open_on(machine.0.clone(), config(), shards, settings).await?;
        work(engine.clone()).await?;
        Ok(engine.close().await?)
    });
    done.unwrap_or_else(|why| panic!("{shards} shards, seed {seed}: {why:?}"));
}

/// Where records are when they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Memtable,
    Segment,
    /// A segment that merges have rewritten.
    Compacted,
}

pub const PLACES: [Place; 3] = [Place::Memtable, Place::Segment, Place::Compacted];

/// Brings everything to a place.
pub async fn settle(engine: &Engine, place: Place) -> Checked {
    match place {
        Place::Memtable => Ok(()),
        Place::Segment => Ok(engine.flush().await?),
        Place::Compacted => Ok(engine.compact().await?),
    }
}

pub fn hash(height: u64, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash(bytes)
}

/// The block after the tip.
pub fn next(engine: &Engine, branch: u8) -> Block {
    match engine.tip() {
        Some(tip) => Block::new(Height(tip.height.0 + 1), hash(tip.height.0 + 1, branch), tip.hash),
        None => Block::new(Height(1), hash(1, branch), BlockHash([0; 32])),
    }
}

/// Commits a block with what `fill` puts into it. Gives its height.
pub async fn commit(engine: &Engine, branch: u8, fill: impl FnOnce(&mut Block)) -> Checked<Height> {
    let mut block = next(engine, branch);
    fill(&mut block);
    let height = block.height();
    engine.commit(block).await?;
    Ok(height)
}

/// Commits blocks that change other slots, so that what came before is final.
pub async fn bury(engine: &Engine, blocks: u64) -> Checked {
    for _ in 0..blocks {
        commit(engine, 0xBB, |block| {
            let height = block.height().0;
            block.put::<Slots>(&([0xBB; 32], hash(height, 0xBB).0), &[1; 32]);
        })
        .await?;
    }
    Ok(())
}
