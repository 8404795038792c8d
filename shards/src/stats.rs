//! What a shard tells of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{CollectionId, Height, Seq, ShardId};
use crate::message::TierReport;
use crate::segment_meta::{Level, Tier};

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
    /// The sorted run that it is a part of: the number of its first file. The bottom run of a collection has many.
    pub run: u64,
    /// Its state.
    pub state: SegmentState,
    /// Where its data pages are.
    pub tier: Tier,
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
    /// Steps of merges, each of which writes one file at most.
    pub merge_steps: u64,
    /// Those that left a part of an input to the next step.
    pub merge_steps_partial: u64,
    /// Bytes that were given back inside of files because a merge had taken over what was there.
    pub released_bytes: u64,
    /// Segments that such steps made begin at a higher key.
    pub segments_trimmed: u64,
    /// Segments that were written anew without the entries that a reorg had killed.
    pub segments_cleaned: u64,
    /// Segments that were deleted because a reorg had killed all of their entries.
    pub orphans_deleted: u64,
    /// Values too long for a common page that were written to segments, each to a page of its own.
    pub large_values: u64,
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
    /// What was done for each collection and index.
    pub traffic: BTreeMap<CollectionId, Traffic>,
    /// Delays and waits of commits.
    pub stalls: Stalls,
    /// The disk, as far as it is full.
    pub space: SpaceStats,
    /// What moves to and from the cold target has come to.
    pub tiering: TierStats,
    /// Segments that were written into the archive.
    pub archived_segments: u64,
    /// Bytes of their files and objects.
    pub archived_bytes: u64,
    /// Its segments.
    pub segments: Vec<SegmentStats>,
}

impl ShardStats {
    /// Its segments by collection and level.
    #[must_use]
    pub fn levels(&self) -> BTreeMap<(CollectionId, Level), LevelStats> {
        let mut levels: BTreeMap<_, LevelStats> = BTreeMap::new();
        let mut runs = BTreeSet::new();
        for segment in &self.segments {
            let level = levels.entry((segment.collection, segment.level)).or_default();
            let run = if segment.level == Level::BOTTOM { 0 } else { segment.run };
            level.add(segment, runs.insert((segment.collection, segment.level, run)));
        }
        levels
    }
}

/// What moves between the tiers, and reads of the cold target, have come to since the shard was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TierStats {
    /// What has moved, in either direction.
    pub moved: TierReport,
    /// Moves that were given up.
    pub moves_failed: u64,
    /// Reads that failed because of the cold target.
    pub reads_failed: u64,
    /// Objects that nothing refers to, and that are still there because somebody reads them or the target fails.
    pub objects_to_remove: u64,
    /// WAL files and segments that were copied to the cold target.
    pub files_archived: u64,
    /// Those that went without a copy, because it could not be made in time.
    pub files_not_archived: u64,
    /// What the cold target failed with last.
    pub last_failure: Option<String>,
}

/// The segments of one level of a collection or index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// Sorted runs: what a read of a key may have to look into.
    pub runs: u64,
    /// Segments, whatever their state is.
    pub segments: u64,
    /// Those that a reorg can still reach.
    pub young: u64,
    /// Those whose entries a reorg has killed.
    pub orphaned: u64,
    /// Bytes on disk.
    pub file_bytes: u64,
    /// Entries, tombstones included.
    pub entries: u64,
    /// Distinct keys of each segment, added up.
    pub keys: u64,
    /// The lowest and the highest height of a block that wrote one of its entries; `None` without segments.
    pub heights: Option<(Height, Height)>,
    /// Bytes of memory for what is there of filters and page indexes.
    pub memory_bytes: u64,
}

impl LevelStats {
    fn add(&mut self, segment: &SegmentStats, is_new_run: bool) {
        self.runs += u64::from(is_new_run);
        self.segments += 1;
        self.young += u64::from(segment.state == SegmentState::Young);
        self.orphaned += u64::from(segment.state == SegmentState::Orphaned);
        self.file_bytes += segment.file_bytes;
        self.entries += segment.entries;
        self.keys += segment.keys;
        self.memory_bytes += segment.memory_bytes;
        let (lowest, highest) = self.heights.unwrap_or(segment.heights);
        self.heights = Some((lowest.min(segment.heights.0), highest.max(segment.heights.1)));
    }
}

/// What was done for one collection or index on a shard since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of keys and values of commits, those that were replayed from the WAL included.
    pub committed_bytes: u64,
    /// Keys that were looked up, one by one or many at a time.
    pub keys_read: u64,
    /// What was written to and read from the segments of each level.
    pub levels: BTreeMap<Level, LevelTraffic>,
}

impl Traffic {
    /// Bytes of segments that were written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.levels.values().map(|level| level.written_bytes).sum()
    }

    /// Bytes of segments for each byte committed; `None` if nothing was. What the WAL adds is the same for all
    /// collections of a shard.
    #[must_use]
    pub fn write_amplification(&self) -> Option<f64> {
        ratio(self.written_bytes(), self.committed_bytes)
    }

    /// Reads of the device for each key looked up; `None` if none was.
    #[must_use]
    pub fn read_amplification(&self) -> Option<f64> {
        ratio(self.levels.values().map(|level| level.device_reads).sum(), self.keys_read)
    }

    /// Adds that of another shard.
    pub fn add(&mut self, other: &Self) {
        self.committed_bytes += other.committed_bytes;
        self.keys_read += other.keys_read;
        for (level, more) in &other.levels {
            let sum = self.levels.entry(*level).or_default();
            sum.written_bytes += more.written_bytes;
            sum.device_reads += more.device_reads;
            sum.cold_reads += more.cold_reads;
        }
    }
}

/// What was done to the segments of one level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelTraffic {
    /// Bytes of files that flushes and merges wrote.
    pub written_bytes: u64,
    /// Pages and partitions that were read because somebody looked a key up.
    pub device_reads: u64,
    /// Reads of the cold target for records.
    pub cold_reads: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a ratio that people look at")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
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

    fn segment(number: u64, level: Level, run: u64, state: SegmentState) -> SegmentStats {
        SegmentStats {
            collection: CollectionId(1),
            number,
            level,
            run,
            state,
            tier: Tier::Hot,
            file_bytes: 100,
            entries: 10,
            heights: (Height(number), Height(number + 5)),
            keys: 9,
            memory_bytes: 7,
        }
    }

    #[test]
    fn segments_are_added_up_by_level_and_run() {
        use SegmentState::{Final, Orphaned, Young};
        let flushed = Level::FLUSHED;
        let segments = vec![
            segment(1, Level::BOTTOM, 1, Final),
            segment(2, Level::BOTTOM, 2, Final),
            segment(3, flushed, 3, Final),
            segment(4, flushed, 3, Young),
            segment(9, flushed, 9, Orphaned),
        ];
        let levels = ShardStats { segments, ..ShardStats::default() }.levels();
        let bottom = levels[&(CollectionId(1), Level::BOTTOM)];
        assert_eq!((bottom.runs, bottom.segments, bottom.young), (1, 2, 0), "the bottom is one run");
        let top = levels[&(CollectionId(1), flushed)];
        assert_eq!((top.runs, top.segments, top.young, top.orphaned), (2, 3, 1, 1));
        assert_eq!(top.heights, Some((Height(3), Height(14))));
        assert_eq!((top.file_bytes, top.entries, top.keys, top.memory_bytes), (300, 30, 27, 21));
    }

    #[test]
    fn amplification_is_known_once_something_was_done() {
        let mut all = Traffic::default();
        assert_eq!((all.write_amplification(), all.read_amplification()), (None, None));
        let levels = BTreeMap::from([
            (Level::FLUSHED, LevelTraffic { written_bytes: 100, device_reads: 3, cold_reads: 0 }),
            (Level::BOTTOM, LevelTraffic { written_bytes: 50, device_reads: 5, cold_reads: 0 }),
        ]);
        let one = Traffic { committed_bytes: 100, keys_read: 8, levels };
        all.add(&one);
        all.add(&one);
        assert_eq!((all.write_amplification(), all.read_amplification()), (Some(1.5), Some(1.0)));
    }
}
