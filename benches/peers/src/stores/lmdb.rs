//! LMDB: one B-tree for each table in a memory map, without read-ahead.
#![allow(unsafe_code, reason = "heed leaves the promises about the map to its user")]

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, WithTls};

use super::key_value::{Change, KeyValue, Space};
use super::{Visit, VisitRow};
use crate::Result;

/// Address space, not memory.
const MAP_BYTES: usize = 64 << 30;

type Bytewise = Database<'static, Bytes, Bytes>;

/// LMDB.
pub struct Lmdb {
    env: &'static Env<WithTls>,
    tables: Vec<Bytewise>,
    syncs: bool,
}

impl Lmdb {
    /// Opens or creates it. All of its memory is page cache.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(Space::ALL.len() as u32);
        // SAFETY: one process at a time has the directory, and nothing else writes to its files.
        let env = unsafe { options.flags(EnvFlags::NO_READ_AHEAD).open(path)? };
        // The process holds one environment, to its end.
        let env: &'static Env<WithTls> = Box::leak(Box::new(env));
        let made = env.create_databases_and_commit(env.write_txn()?, |opener, write| {
            let made = Space::ALL.map(|space| opener.create_database(write, Some(space.name())));
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(made))
        })?;
        let tables = made.unwrap_commit().into_iter().collect::<heed::Result<_>>()?;
        Ok(Self { env, tables, syncs: true })
    }

    /// Sets whether commits are synced. A synced commit makes those before it durable too.
    fn set_syncs(&mut self, syncs: bool) -> Result<()> {
        if syncs != self.syncs {
            let mode = if syncs { FlagSetMode::Disable } else { FlagSetMode::Enable };
            // SAFETY: only this thread uses the environment.
            unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode)? };
            self.syncs = syncs;
        }
        Ok(())
    }
}

impl KeyValue for Lmdb {
    const SORTED: bool = true;
    /// An overflow of one page.
    const VALUE_BYTES_MAX: usize = 3900;

    fn get(&mut self, space: Space, key: &[u8], visit: &mut Visit) -> Result<()> {
        self.get_many(space, &[key], visit)
    }

    fn get_many(&mut self, space: Space, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        let read = self.env.read_txn()?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.tables[space.number()].get(&read, key)?);
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change], durable: bool) -> Result<()> {
        self.set_syncs(durable)?;
        let mut write = self.env.write_txn()?;
        for Change { space, key, value } in changes {
            let table = &self.tables[space.number()];
            match value {
                Some(value) => table.put(&mut write, key, value)?,
                None => drop(table.delete(&mut write, key)?),
            }
        }
        Ok(write.commit()?)
    }

    fn scan(&mut self, space: Space, visit: &mut VisitRow) -> Result<()> {
        let read = self.env.read_txn()?;
        for row in self.tables[space.number()].iter(&read)? {
            let (key, value) = row?;
            visit(key, value);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }
}
