//! OP-Engine: the tables are collections, the script index is an index, and reorgs are its own.

use std::path::Path;
use std::time::Duration;

use op_engine::{
    Block as EngineBlock, BlockHash, Collection, Config, Durability, Engine, Height, Index, IndexList, Layout,
};

use super::{Settings, Store, Table, Visit, VisitRow, WINDOW_BLOCKS};
use crate::workload::{Block, CoinKey, CoinValue, Header, OldValues, SlotKey, SlotValue, Txid, script_hash};
use crate::{Error, Result};

const SYNC_BLOCKS: u64 = 100;
const QUIET: Duration = Duration::from_millis(200);

struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = CoinKey;
    type Value = CoinValue;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<Scripts>()
    }
}

struct Scripts;

impl Index for Scripts {
    const NAME: &'static str = "by_script";
    type Of = Coins;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &CoinKey, coin: &CoinValue, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(script_hash(coin), ());
    }
}

struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = SlotKey;
    type Value = SlotValue;
}

struct Transactions;

impl Collection for Transactions {
    const NAME: &'static str = "transactions";
    type Key = Txid;
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
}

struct Ids;

impl Collection for Ids {
    const NAME: &'static str = "ids";
    type Key = u32;
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
}

struct Headers;

impl Collection for Headers {
    const NAME: &'static str = "headers";
    type Key = u32;
    type Value = Header;
    const LAYOUT: Layout = Layout::AppendOnly;
}

/// OP-Engine.
pub struct OpEngine {
    engine: Engine,
    deferred: bool,
}

impl OpEngine {
    /// Opens or creates it. Two thirds of the memory are its budget; the rest is for the allocator and what a block takes on
    /// its way.
    pub fn open(path: &Path, settings: Settings) -> Result<Self> {
        let deferred = Durability::Deferred { blocks: SYNC_BLOCKS, interval: Duration::from_secs(3600) };
        let config = Config::new(path)
            .collection::<Coins>()
            .collection::<Slots>()
            .collection::<Transactions>()
            .collection::<Ids>()
            .collection::<Headers>()
            .reorg_window(u64::from(WINDOW_BLOCKS))
            .memory_budget(settings.memory_bytes / 3 * 2)
            .durability(if settings.every_block_durable { Durability::Block } else { deferred });
        Ok(Self { engine: Engine::open_blocking(config)?, deferred: !settings.every_block_durable })
    }

    fn get_typed<C: Collection>(&self, keys: &[&[u8]], visit: &mut Visit) -> Result<()>
    where
        C::Key: for<'a> TryFrom<&'a [u8]>,
        C::Value: AsRef<[u8]>,
    {
        let typed = |key: &&[u8]| C::Key::try_from(key).map_err(|_| Error::from("a key of another length"));
        let keys = keys.iter().map(typed).collect::<Result<Vec<_>>>()?;
        let values = self.engine.blocking().get_many::<C>(&keys)?;
        for (at, value) in values.iter().enumerate() {
            visit(at, value.as_ref().map(AsRef::as_ref));
        }
        Ok(())
    }

    fn scan_typed<C: Collection>(
        &self,
        visit: &mut VisitRow,
        bytes: impl Fn(&C::Key) -> Vec<u8>,
    ) -> Result<()>
    where
        C::Value: AsRef<[u8]>,
    {
        let mut scan = self.engine.scan::<C>();
        while let Some((key, value)) = scan.next_blocking()? {
            visit(&bytes(&key), value.as_ref());
        }
        Ok(())
    }

    fn work(&self) -> Result<(bool, Vec<(u64, u64)>)> {
        let stats = self.engine.blocking().stats()?;
        let idle = stats.shards.iter().all(|shard| shard.memtables_frozen == 0);
        Ok((idle, stats.shards.iter().map(|shard| (shard.flush_bytes, shard.merge_bytes)).collect()))
    }
}

impl Store for OpEngine {
    fn tip(&mut self) -> Result<Option<u32>> {
        Ok(self.engine.tip().map(|tip| u32::try_from(tip.height.0)).transpose()?)
    }

    fn get(&mut self, table: Table, key: &[u8], visit: &mut Visit) -> Result<()> {
        self.get_many(table, &[key], visit)
    }

    fn get_many(&mut self, table: Table, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        match table {
            Table::Coins => self.get_typed::<Coins>(keys, visit),
            Table::Slots => self.get_typed::<Slots>(keys, visit),
            Table::Transactions => self.get_typed::<Transactions>(keys, visit),
            _ => Err("this table is not read by key".into()),
        }
    }

    fn commit(&mut self, block: &Block, _: &OldValues, durable: bool) -> Result<()> {
        let height = Height(u64::from(block.height));
        let mut changes = EngineBlock::new(height, BlockHash(block.hash), BlockHash(block.parent));
        for (key, value) in &block.created {
            changes.put::<Coins>(key, value);
        }
        for key in &block.spent {
            changes.delete::<Coins>(key);
        }
        for (key, value) in &block.slots {
            changes.put::<Slots>(key, value);
        }
        for (txid, body) in &block.transactions {
            changes.put::<Transactions>(txid, body);
        }
        changes.put::<Ids>(&block.height, &block.ids());
        changes.put::<Headers>(&block.height, &block.header);
        self.engine.blocking().commit(changes)?;
        if durable && self.deferred {
            self.engine.blocking().sync()?;
        }
        Ok(())
    }

    fn roll_back(&mut self, height: u32) -> Result<()> {
        self.engine.blocking().reorg_to(Height(u64::from(height)))?;
        Ok(())
    }

    fn scan(&mut self, table: Table, visit: &mut VisitRow) -> Result<()> {
        match table {
            Table::Coins => self.scan_typed::<Coins>(visit, |key| key.to_vec()),
            Table::Slots => self.scan_typed::<Slots>(visit, |key| key.to_vec()),
            Table::Transactions => self.scan_typed::<Transactions>(visit, |key| key.to_vec()),
            Table::Ids => self.scan_typed::<Ids>(visit, |key| key.to_be_bytes().to_vec()),
            Table::Headers => self.scan_typed::<Headers>(visit, |key| key.to_be_bytes().to_vec()),
            Table::Scripts => {
                let mut scan = self.engine.scan_index::<Scripts>();
                while let Some((script, coin, ())) = scan.next_blocking()? {
                    visit(&[&script[..], &coin[..]].concat(), &[]);
                }
                Ok(())
            }
        }
    }

    fn settle(&mut self) -> Result<()> {
        let mut before = self.work()?;
        loop {
            std::thread::sleep(QUIET);
            let after = self.work()?;
            if after == before && after.0 {
                return Ok(());
            }
            before = after;
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.close_blocking()?)
    }
}
