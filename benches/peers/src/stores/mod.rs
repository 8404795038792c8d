//! The stores, behind one trait.

mod fjall;
mod key_value;
mod lmdb;
mod op_engine;
mod peer;
mod redb;
mod rocksdb;
mod undo;

use std::path::Path;

use crate::workload::{Block, OldValues, Sum};
use crate::{Error, Result};

/// How many blocks every store must be able to take back.
pub const WINDOW_BLOCKS: u32 = 288;

/// What every store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Unspent coins by outpoint.
    Coins,
    /// Script hash and outpoint of every unspent coin.
    Scripts,
    /// Slots by contract and pointer.
    Slots,
    /// Bodies of transactions by txid.
    Transactions,
    /// The txids of each block by height.
    Ids,
    /// Headers by height.
    Headers,
}

impl Table {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Coins, Self::Scripts, Self::Slots, Self::Transactions, Self::Ids, Self::Headers];
}

/// Takes the answer to the key with a number.
pub type Visit<'a> = dyn FnMut(usize, Option<&[u8]>) + 'a;

/// Takes a row.
pub type VisitRow<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

/// A store with the state of the chain at its tip.
pub trait Store {
    /// The height of the tip.
    ///
    /// # Errors
    /// Whatever the store fails with; so everywhere here.
    fn tip(&mut self) -> Result<Option<u32>>;

    /// Reads one key.
    ///
    /// # Errors
    /// As above.
    fn get(&mut self, table: Table, key: &[u8], visit: &mut Visit) -> Result<()>;

    /// Reads keys that are in ascending order, in the best way that the store has.
    ///
    /// # Errors
    /// As above.
    fn get_many(&mut self, table: Table, keys: &[&[u8]], visit: &mut Visit) -> Result<()>;

    /// Commits a block as one atomic change that readers then see. `durable`: it, and all before it, is on the medium
    /// when the call returns.
    ///
    /// # Errors
    /// As above.
    fn commit(&mut self, block: &Block, old: &OldValues, durable: bool) -> Result<()>;

    /// Takes the state back to the end of the block at `height`, durably.
    ///
    /// # Errors
    /// As above.
    fn roll_back(&mut self, height: u32) -> Result<()>;

    /// Visits all rows of a table in the order of their keys.
    ///
    /// # Errors
    /// As above.
    fn scan(&mut self, table: Table, visit: &mut VisitRow) -> Result<()>;

    /// Waits for background work that commits have left.
    ///
    /// # Errors
    /// As above.
    fn settle(&mut self) -> Result<()>;

    /// Closes it in an orderly way.
    ///
    /// # Errors
    /// As above.
    fn close(self: Box<Self>) -> Result<()>;
}

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Memory that the store may use, with the page cache that it fills.
    pub memory_bytes: u64,
    /// Whether every commit will be durable; if not, each hundredth.
    pub every_block_durable: bool,
}

/// The stores that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This repository's.
    OpEngine,
    /// RocksDB, from the sources in the crate.
    RocksDb,
    /// fjall.
    Fjall,
    /// redb.
    Redb,
    /// LMDB through heed.
    Lmdb,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::OpEngine, Self::RocksDb, Self::Fjall, Self::Redb, Self::Lmdb];

    /// Its name in arguments and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpEngine => "op-engine",
            Self::RocksDb => "rocksdb",
            Self::Fjall => "fjall",
            Self::Redb => "redb",
            Self::Lmdb => "lmdb",
        }
    }

    /// The store with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::from(format!("no store is called {name}")))
    }

    /// Opens the store in a directory, or creates it.
    ///
    /// # Errors
    /// Whatever the store fails with.
    pub fn open(self, path: &Path, settings: Settings) -> Result<Box<dyn Store>> {
        Ok(match self {
            Self::OpEngine => Box::new(op_engine::OpEngine::open(path, settings)?),
            Self::RocksDb => Box::new(peer::Peer(rocksdb::RocksDb::open(path, settings)?)),
            Self::Fjall => Box::new(peer::Peer(fjall::Fjall::open(path, settings)?)),
            Self::Redb => Box::new(peer::Peer(redb::Redb::open(path, settings)?)),
            Self::Lmdb => Box::new(peer::Peer(lmdb::Lmdb::open(path)?)),
        })
    }
}

/// The sum of a table, by a scan that checks the order of the keys.
///
/// # Errors
/// If a key does not come after the one before it, or the scan fails.
pub fn sum(store: &mut dyn Store, table: Table) -> Result<Sum> {
    let (mut sum, mut last, mut ascends) = (Sum::default(), None::<Vec<u8>>, true);
    store.scan(table, &mut |key, value| {
        match &mut last {
            Some(last) => {
                ascends &= last.as_slice() < key;
                last.clear();
                last.extend(key);
            }
            None => last = Some(key.to_vec()),
        }
        sum.add(key, value);
    })?;
    if ascends { Ok(sum) } else { Err(format!("the keys of {table:?} do not ascend").into()) }
}
