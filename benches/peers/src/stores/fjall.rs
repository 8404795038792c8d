//! fjall: one keyspace for each table, its own block cache, and the page cache below it.

use std::path::Path;
use std::time::Duration;

use fjall::config::{CompressionPolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::key_value::{Change, KeyValue, Space};
use super::{Settings, Visit, VisitRow};
use crate::Result;

const THREADS: usize = 2;
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;
const QUIET: Duration = Duration::from_millis(200);

/// fjall.
pub struct Fjall {
    database: Database,
    keyspaces: Vec<Keyspace>,
}

impl Fjall {
    /// Opens or creates it. A quarter of the memory is for blocks, as its authors recommend, and at most another one for
    /// the memtables of all keyspaces; the rest is page cache.
    pub fn open(path: &Path, settings: Settings) -> Result<Self> {
        let memory = settings.memory_bytes;
        let database = Database::builder(path)
            .cache_size(memory / 4)
            .journal_compression(CompressionType::None)
            .worker_threads(THREADS)
            .open()?;
        let options = |space: Space| {
            let options = KeyspaceCreateOptions::default()
                .max_memtable_size((memory / 32).max(MEMTABLE_BYTES_MIN))
                .data_block_compression_policy(CompressionPolicy::disabled())
                .index_block_compression_policy(CompressionPolicy::disabled());
            if space.is_read_by_key() { options } else { options.filter_policy(FilterPolicy::disabled()) }
        };
        let open = |space: &Space| database.keyspace(space.name(), || options(*space));
        let keyspaces = Space::ALL.iter().map(open).collect::<fjall::Result<Vec<_>>>()?;
        Ok(Self { database, keyspaces })
    }

    /// Background work so far, and whether some is going on or waits.
    fn work(&self) -> (usize, bool) {
        let busy = self.database.active_compactions() + self.database.outstanding_flushes();
        (self.database.compactions_completed(), busy > 0)
    }
}

impl KeyValue for Fjall {
    const SORTED: bool = false;
    const VALUE_BYTES_MAX: usize = usize::MAX;

    fn get(&mut self, space: Space, key: &[u8], visit: &mut Visit) -> Result<()> {
        visit(0, self.keyspaces[space.number()].get(key)?.as_deref());
        Ok(())
    }

    fn get_many(&mut self, space: Space, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.keyspaces[space.number()].get(key)?.as_deref());
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change], durable: bool) -> Result<()> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(durable.then_some(PersistMode::SyncData));
        for Change { space, key, value } in changes {
            let keyspace = &self.keyspaces[space.number()];
            match value {
                Some(value) => batch.insert(keyspace, *key, *value),
                None => batch.remove(keyspace, *key),
            }
        }
        Ok(batch.commit()?)
    }

    fn scan(&mut self, space: Space, visit: &mut VisitRow) -> Result<()> {
        for row in self.keyspaces[space.number()].iter() {
            let (key, value) = row.into_inner()?;
            visit(&key, &value);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let mut before = self.work();
        loop {
            std::thread::sleep(QUIET);
            let after = self.work();
            if after == before && !after.1 {
                return Ok(());
            }
            before = after;
        }
    }

    fn close(self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
