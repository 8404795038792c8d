//! RocksDB: column families, bloom filters, direct I/O, one block cache, sorted batches of reads.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, IteratorMode, Options,
    ReadOptions, WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::key_value::{Change, KeyValue, Space};
use super::{Settings, Visit, VisitRow};
use crate::{Error, Result};

const BLOOM_BITS: f64 = 10.0;
const THREADS: i32 = 2;

/// RocksDB.
pub struct RocksDb {
    db: DB,
    reads: ReadOptions,
}

impl RocksDb {
    /// Opens or creates it. Three eighths of the memory are for blocks, indexes, filters and memtables, of which memtables
    /// may take a third; with half of it, the process is killed for its memory. The rest is for compactions, the
    /// allocator, and the page cache of the WAL.
    pub fn open(path: &Path, settings: Settings) -> Result<Self> {
        let memory = settings.memory_bytes as usize;
        let cache = Cache::new_lru_cache(memory / 8 * 3);
        let families = Space::ALL
            .map(|space| ColumnFamilyDescriptor::new(space.name(), family_options(space, memory, &cache)));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.increase_parallelism(THREADS);
        options.set_use_direct_reads(true);
        options.set_use_direct_io_for_flush_and_compaction(true);
        // Without stalls by the manager: a writer that stalls in it can wait for ever for memory that no flush frees.
        options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
            memory / 8,
            false,
            cache.clone(),
        ));
        options.set_max_total_wal_size(memory as u64);
        options.set_recycle_log_file_num(4);
        options.set_compaction_readahead_size(512 << 10);
        options.set_bytes_per_sync(1 << 20);
        options.set_wal_bytes_per_sync(if settings.every_block_durable { 0 } else { 1 << 20 });
        options.set_keep_log_file_num(2);
        let mut reads = ReadOptions::default();
        reads.set_async_io(cfg!(feature = "rocksdb-io-uring"));
        Ok(Self { db: DB::open_cf_descriptors(&options, path, families)?, reads })
    }

    fn family(&self, space: Space) -> Result<&rocksdb::ColumnFamily> {
        self.db.cf_handle(space.name()).ok_or_else(|| Error::from("a column family is missing"))
    }
}

fn family_options(space: Space, memory: usize, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if space.is_read_by_key() {
        table.set_bloom_filter(BLOOM_BITS, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(memory / 32);
    options.set_target_file_size_base((memory / 8) as u64);
    options.set_max_bytes_for_level_base((memory / 2) as u64);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

impl KeyValue for RocksDb {
    const SORTED: bool = false;
    const VALUE_BYTES_MAX: usize = usize::MAX;

    fn get(&mut self, space: Space, key: &[u8], visit: &mut Visit) -> Result<()> {
        let value = self.db.get_pinned_cf_opt(self.family(space)?, key, &self.reads)?;
        visit(0, value.as_deref());
        Ok(())
    }

    fn get_many(&mut self, space: Space, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        let keys = keys.iter().copied();
        let values = self.db.batched_multi_get_cf_opt(self.family(space)?, keys, true, &self.reads);
        for (at, value) in values.into_iter().enumerate() {
            visit(at, value?.as_deref());
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change], durable: bool) -> Result<()> {
        let families = Space::ALL.iter().map(|space| self.family(*space)).collect::<Result<Vec<_>>>()?;
        let bytes: usize = changes.iter().map(|it| it.key.len() + it.value.map_or(0, <[u8]>::len) + 16).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes);
        for Change { space, key, value } in changes {
            let family = families[space.number()];
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        let mut writes = WriteOptions::default();
        writes.set_sync(durable);
        Ok(self.db.write_opt(batch, &writes)?)
    }

    fn scan(&mut self, space: Space, visit: &mut VisitRow) -> Result<()> {
        let mut reads = ReadOptions::default();
        reads.fill_cache(false);
        reads.set_readahead_size(1 << 20);
        for row in self.db.iterator_cf_opt(self.family(space)?, reads, IteratorMode::Start) {
            let (key, value) = row?;
            visit(&key, &value);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.db.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn close(self) -> Result<()> {
        self.db.flush_wal(true)?;
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}
