//! What a shard tells of itself.

use std::collections::BTreeMap;
use std::time::Duration;

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

/// Why commits were delayed, or waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StallReason {
    /// Flushes are behind.
    MemtablesFull,
    /// Merges are behind.
    MergesBehind,
    /// The device does not take the WAL as fast as commits come.
    WalQueueFull,
    /// Flushes wait for space on the disk.
    OutOfSpace,
}

impl StallReason {
    /// All reasons.
    pub const ALL: [Self; 4] =
        [Self::MemtablesFull, Self::MergesBehind, Self::WalQueueFull, Self::OutOfSpace];
}

/// The delays and waits that had one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// How many commits were held up.
    pub count: u64,
    /// For how long together, in nanoseconds.
    pub nanos: u64,
}

/// The delays and waits of commits, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stalls([Stall; StallReason::ALL.len()]);

impl Stalls {
    /// Those with a reason.
    #[must_use]
    pub fn of(&self, reason: StallReason) -> Stall {
        self.iter().find(|(other, _)| *other == reason).map(|(_, stall)| stall).unwrap_or_default()
    }

    /// Each reason with its delays and waits.
    pub fn iter(&self) -> impl Iterator<Item = (StallReason, Stall)> + '_ {
        StallReason::ALL.into_iter().zip(self.0)
    }

    /// Adds one.
    pub fn add(&mut self, reason: StallReason, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let all = StallReason::ALL.into_iter().zip(&mut self.0);
        for (_, stall) in all.filter(|(other, _)| *other == reason) {
            stall.count += 1;
            stall.nanos = stall.nanos.saturating_add(nanos);
        }
    }
}

/// What a shard has to do with a disk that is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Bytes kept for what must not fail.
    pub reserve_bytes: u64,
    /// Bytes of the reserve that were given up and have not been taken back.
    pub reserve_missing_bytes: u64,
    /// Flushes that were put off because the disk was full.
    pub flushes_put_off: u64,
    /// Merges that were given up, or not begun, because the disk was full.
    pub merges_put_off: u64,
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
    /// Bytes that were written for each collection and index.
    pub written: BTreeMap<CollectionId, WrittenBytes>,
    /// Delays and waits of commits.
    pub stalls: Stalls,
    /// The disk, as far as it is full.
    pub space: SpaceStats,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_kept_apart_by_their_reasons() {
        let mut stalls = Stalls::default();
        stalls.add(StallReason::MergesBehind, Duration::from_micros(2));
        stalls.add(StallReason::MergesBehind, Duration::from_micros(3));
        stalls.add(StallReason::OutOfSpace, Duration::MAX);
        assert_eq!(stalls.of(StallReason::MergesBehind), Stall { count: 2, nanos: 5000 });
        assert_eq!(stalls.of(StallReason::OutOfSpace), Stall { count: 1, nanos: u64::MAX });
        assert_eq!(stalls.iter().map(|(_, stall)| stall.count).collect::<Vec<_>>(), [0, 2, 0, 1]);
    }
}
