//! What a shard tells of itself.

use std::collections::BTreeMap;

use crate::ids::{CollectionId, Height, Seq, ShardId};
use crate::segment_meta::Level;

/// What a segment is to readers and to compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// A reorg can still reach some of its entries.
    Young,
    /// No reorg can reach it.
    Final,
    /// A reorg has killed all of its entries; it is about to be deleted.
    Orphaned,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStats {
    /// The collection or index.
    pub collection: CollectionId,
    /// Its number, as in its file's name.
    pub number: u64,
    /// How often its entries have been merged.
    pub level: Level,
    /// Its state.
    pub state: SegmentState,
    /// Bytes on disk.
    pub file_bytes: u64,
    /// Entries, tombstones included.
    pub entries: u64,
    /// The heights of the blocks that wrote its entries.
    pub heights: (Height, Height),
    /// Distinct keys.
    pub keys: u64,
    /// Bytes of memory for what is there of its filter and page index.
    pub memory_bytes: u64,
}

/// Sums over a shard's life since it was opened, and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// The shard.
    pub shard: ShardId,
    /// Readers see commits up to here.
    pub applied: Seq,
    /// Commits up to here are durable on this shard.
    pub durable: Seq,
    /// Commits up to here are in segments.
    pub flushed: Seq,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Memtables that wait to be flushed.
    pub memtables_frozen: u64,
    /// WAL files on disk.
    pub wal_files: u64,
    /// Bytes appended to the WAL, padding included.
    pub wal_bytes: u64,
    /// Bytes written to segments by flushes.
    pub flush_bytes: u64,
    /// Bytes written to segments by merges.
    pub merge_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Merges done.
    pub merges: u64,
    /// Merges into the bottom run among them.
    pub descents: u64,
    /// Steps of merges that left a part of an input to the next step.
    pub merge_steps_partial: u64,
    /// Pages found in the cache.
    pub cache_hits: u64,
    /// Pages read from the device.
    pub cache_misses: u64,
    /// Bytes of memory for the filters of segments.
    pub filter_bytes: u64,
    /// Bytes of memory for the page indexes of segments, and for the directories that are always there.
    pub index_bytes: u64,
    /// What the two may take together.
    pub filter_bytes_max: u64,
    /// Partitions of filters and page indexes that were read from the device because a read needed them.
    pub partition_reads: u64,
    /// Partitions that had to leave memory to make room for others.
    pub partition_evictions: u64,
    /// Rollbacks that some segment is still masked by.
    pub rollbacks: u64,
    /// Nanoseconds for which commits waited because flushes were behind.
    pub stall_nanos: u64,
    /// Times that commits waited because flushes were behind.
    pub stalls: u64,
    /// Bytes that were written for each collection and index.
    pub written: BTreeMap<CollectionId, WrittenBytes>,
    /// Its segments.
    pub segments: Vec<SegmentStats>,
}

/// Bytes of segments that were written for one collection or index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WrittenBytes {
    /// By flushes.
    pub flushes: u64,
    /// By merges.
    pub merges: u64,
}
