//! redb: one B-tree for each table, a cache of its own, commits without a sync in between.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::key_value::{Change, KeyValue, Space};
use super::{Settings, Visit, VisitRow};
use crate::Result;

/// redb.
pub struct Redb(Database);

fn table(space: Space) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(space.name())
}

impl Redb {
    /// Opens or creates it. Half of the memory is for its cache; the rest is page cache.
    pub fn open(path: &Path, settings: Settings) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let database = Database::builder()
            .set_cache_size(settings.memory_bytes as usize / 2)
            .create(path.join("store.redb"))?;
        let write = database.begin_write()?;
        for space in Space::ALL {
            write.open_table(table(space))?;
        }
        write.commit()?;
        Ok(Self(database))
    }
}

impl KeyValue for Redb {
    const SORTED: bool = true;
    /// An entry of one page.
    const VALUE_BYTES_MAX: usize = 3900;

    fn get(&mut self, space: Space, key: &[u8], visit: &mut Visit) -> Result<()> {
        self.get_many(space, &[key], visit)
    }

    fn get_many(&mut self, space: Space, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        let read = self.0.begin_read()?;
        let table = read.open_table(table(space))?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, table.get(*key)?.as_ref().map(redb::AccessGuard::value));
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change], durable: bool) -> Result<()> {
        let mut write = self.0.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        for changes in changes.chunk_by(|a, b| a.space == b.space) {
            let mut table = write.open_table(table(changes[0].space))?;
            for Change { key, value, .. } in changes {
                match value {
                    Some(value) => drop(table.insert(*key, *value)?),
                    None => drop(table.remove(*key)?),
                }
            }
        }
        Ok(write.commit()?)
    }

    fn scan(&mut self, space: Space, visit: &mut VisitRow) -> Result<()> {
        let read = self.0.begin_read()?;
        for row in read.open_table(table(space))?.iter()? {
            let (key, value) = row?;
            visit(key.value(), value.value());
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.0.close()?)
    }
}
