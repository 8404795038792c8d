//! The oracle: what the store must hold after each operation, computed without the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use op_engine::{BlockHash, Desc};

use super::schema::owners;

/// The records of all collections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub plain: BTreeMap<Vec<u8>, Vec<u8>>,
    pub coins: BTreeMap<u64, (u64, u32)>,
    pub names: BTreeMap<u32, (u64, u32)>,
    pub states: BTreeMap<(u16, u32), Vec<u8>>,
    pub wallet: BTreeMap<u32, Vec<u8>>,
    pub mempool: BTreeMap<u64, Vec<u8>>,
}

/// The rows of all collections and indexes, in the order of a scan: what is expected, or what was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Content {
    pub plain: Vec<(Vec<u8>, Vec<u8>)>,
    pub coins: Vec<(u64, (u64, u32))>,
    /// Owner, amount, coin, what the index covers.
    pub by_owner: Vec<((u32, u64), u64, u32)>,
    pub names: Vec<(u32, (u64, u32))>,
    pub by_tag: Vec<(u64, u32)>,
    pub states: Vec<((u16, u32), Vec<u8>)>,
    pub wallet: Vec<(u32, Vec<u8>)>,
    pub mempool: Vec<(u64, Vec<u8>)>,
}

fn rows<K: Clone, V: Clone>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Content {
    pub fn of(tables: &Tables) -> Self {
        let mut by_owner: Vec<_> = tables
            .coins
            .iter()
            .flat_map(|(id, coin)| owners(*coin).into_iter().map(|(key, covered)| (key, *id, covered)))
            .collect();
        by_owner.sort_by_key(|((owner, amount), id, _)| (*owner, Desc(*amount), *id));
        let mut by_tag: Vec<_> = tables.names.iter().map(|(key, (tag, _))| (*tag, *key)).collect();
        by_tag.sort_unstable();
        Self {
            plain: rows(&tables.plain),
            coins: rows(&tables.coins),
            by_owner,
            names: rows(&tables.names),
            by_tag,
            states: rows(&tables.states),
            wallet: rows(&tables.wallet),
            mempool: rows(&tables.mempool),
        }
    }

    /// What a snapshot of a height shows: all but `Cleared` collections.
    pub fn without_mempool(&self) -> Self {
        Self { mempool: Vec::new(), ..self.clone() }
    }

    /// The first difference to what was expected.
    pub fn expect(&self, wanted: &Self) -> Result<(), String> {
        same("plain", &self.plain, &wanted.plain)?;
        same("coins", &self.coins, &wanted.coins)?;
        same("coins.by_owner", &self.by_owner, &wanted.by_owner)?;
        same("names", &self.names, &wanted.names)?;
        same("names.by_tag", &self.by_tag, &wanted.by_tag)?;
        same("states", &self.states, &wanted.states)?;
        same("wallet", &self.wallet, &wanted.wallet)?;
        same("mempool", &self.mempool, &wanted.mempool)
    }
}

/// Compares rows, and tells of the first that differs.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], wanted: &[T]) -> Result<(), String> {
    if got == wanted {
        return Ok(());
    }
    let at = got.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(got.len().min(wanted.len()));
    let mut text = format!(
        "{what}: {} rows, wanted {}; row {at}: {:?}, wanted {:?}",
        got.len(),
        wanted.len(),
        got.get(at),
        wanted.get(at)
    );
    text.truncate(600);
    Err(text)
}

/// One change of a record.
#[derive(Debug, Clone)]
pub enum Change {
    Plain(Vec<u8>, Option<Vec<u8>>),
    Coin(u64, Option<(u64, u32)>),
    Name(u32, Option<(u64, u32)>),
    State((u16, u32), Option<Vec<u8>>),
    Wallet(u32, Option<Vec<u8>>),
    Mempool(u64, Option<Vec<u8>>),
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Tables {
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Plain(key, value) => set(&mut self.plain, key, value),
            Change::Coin(key, value) => set(&mut self.coins, key, value),
            Change::Name(key, value) => set(&mut self.names, key, value),
            Change::State(key, value) => set(&mut self.states, key, value),
            Change::Wallet(key, value) => set(&mut self.wallet, key, value),
            Change::Mempool(key, value) => set(&mut self.mempool, key, value),
        }
    }
}

/// An operation that gets a commit number.
#[derive(Debug, Clone)]
pub enum CommitOp {
    Block { height: u64, hash: BlockHash, parent: BlockHash, changes: Vec<Change> },
    Global(Vec<Change>),
    Reorg(u64),
}

/// A block of the chain with the state after it.
#[derive(Debug, Clone)]
pub struct ChainEntry {
    pub height: u64,
    pub hash: BlockHash,
    pub tables: Arc<Tables>,
    pub content: Arc<Content>,
}

/// The state after a number of operations.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub chain: Arc<Vec<ChainEntry>>,
    pub tables: Arc<Tables>,
    pub content: Arc<Content>,
    /// The highest tip so far: horizons follow from it.
    pub highest: u64,
}

impl State {
    pub fn tip(&self) -> Option<&ChainEntry> {
        self.chain.last()
    }

    pub fn first(&self) -> Option<u64> {
        self.chain.first().map(|entry| entry.height)
    }

    pub fn at(&self, height: u64) -> Option<&ChainEntry> {
        let offset = height.checked_sub(self.first()?)?;
        self.chain.get(usize::try_from(offset).ok()?)
    }

    /// The state after one more operation.
    pub fn after(&self, op: &CommitOp) -> Self {
        let mut next = self.clone();
        match op {
            CommitOp::Block { height, hash, changes, .. } => {
                next.change(changes);
                let entry = ChainEntry {
                    height: *height,
                    hash: *hash,
                    tables: Arc::clone(&next.tables),
                    content: Arc::clone(&next.content),
                };
                Arc::make_mut(&mut next.chain).push(entry);
                next.highest = next.highest.max(*height);
            }
            CommitOp::Global(changes) => next.change(changes),
            CommitOp::Reorg(height) => {
                Arc::make_mut(&mut next.chain).retain(|entry| entry.height <= *height);
                let back = next.tip().expect("a reorg stays within the chain").tables.as_ref().clone();
                let wallet = self.tables.wallet.clone();
                let tables = Tables { wallet, mempool: BTreeMap::new(), ..back };
                next.content = Arc::new(Content::of(&tables));
                next.tables = Arc::new(tables);
            }
        }
        next
    }

    fn change(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let tables = Arc::make_mut(&mut self.tables);
        changes.iter().cloned().for_each(|change| tables.change(change));
        self.content = Arc::new(Content::of(tables));
    }
}
