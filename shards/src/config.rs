//! What can be set for a shard.

use std::time::Duration;

/// Settings of a shard. Every value has a default for a machine with 1 GiB of memory a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardConfig {
    /// Length of a preallocated WAL file, in bytes.
    pub wal_file_bytes: u64,
    /// Frames that wait for the WAL, in bytes, before commits wait.
    pub wal_queue_bytes_max: usize,
    /// Frames of deferred commits that are gathered before they are written without a sync, in bytes.
    pub wal_gather_bytes: usize,
    /// A memtable is flushed when it holds this many bytes.
    pub memtable_bytes_max: usize,
    /// Memtables that wait to be flushed before commits wait.
    pub memtables_frozen_max: usize,
    /// A memtable that holds anything is flushed after this time.
    pub memtable_age_max: Duration,
    /// Memory for pages that were read, in bytes.
    pub cache_bytes: u64,
    /// Memory for pages that were read from the cold target, in bytes.
    pub cold_cache_bytes: u64,
    /// Memory for filters and page indexes of segments, in bytes. What does not fit is read when it is needed.
    pub filter_bytes_max: u64,
    /// Size of a page that holds more than one entry, in bytes; a multiple of 4096.
    pub page_bytes: usize,
    /// Bytes of a segment that are gathered before they are written.
    pub segment_write_bytes: usize,
    /// A segment that is longer ends at the next key, and the run goes on in another file.
    pub segment_bytes_max: u64,
    /// A merge cuts what it writes into about eight files, so that what it has gone past can be given back, but into none that
    /// are shorter than this, in bytes.
    pub merge_file_bytes_min: u64,
    /// Size of a page of a cold segment that holds more than one entry, in bytes; a multiple of 4096. A read of one entry takes
    /// one page, and larger ones pack closer.
    pub cold_page_bytes: usize,
    /// An object of the cold target that is longer ends at the next key.
    pub cold_segment_bytes: u64,
    /// What moves to and from the cold target may take, in bytes a second; 0 for no limit.
    pub cold_bytes_per_second: u64,
    /// Whether WAL files are copied to the cold target before they are used again.
    pub archives_wal: bool,
    /// Whether segments that a reorg has killed are copied to the cold target before they are deleted.
    pub archives_orphans: bool,
    /// Whether files of cold segments that are lost or damaged are made again when the shard is opened.
    pub restores_cold_files: bool,
    /// How many blocks a reorg can go back at most: what has more confirmations is final.
    pub reorg_window_blocks: u64,
    /// Runs of one size class, side by side, that are merged into one; a quarter more of an append-only collection, where merging
    /// frees no space.
    pub merge_fan_in: usize,
    /// Runs that one merge reads at most.
    pub merge_inputs_max: usize,
    /// Runs of an append-only collection that are longer are not merged any more.
    pub append_run_bytes_max: u64,
    /// Runs that a reorg can still reach, before such runs are merged with each other.
    pub young_runs_max: usize,
    /// The final runs above the bottom run are merged into it when they have this part of its bytes, in percent.
    pub bottom_ratio_percent: u64,
    /// Tombstones in final runs above the bottom, before those runs are merged into it for the sake of the space that they
    /// free. They must be half as many as the records that are left, too.
    pub purged_entries_min: u64,
    /// Runs of a collection, of those that merges make fewer, from which on commits are slowed down while it is merged.
    pub merge_runs_soft: usize,
    /// Runs of a collection at which commits wait for merges.
    pub merge_runs_max: usize,
    /// Space on the disk that is kept for what must not fail when it is full, in bytes: reorgs, closing and opening.
    /// Much less than a MiB may not be enough. `None`: 64 MiB, or a hundredth of the filesystem if that is less.
    pub space_reserve_bytes: Option<u64>,
    /// Requests that wait in the shard's mailbox before senders wait.
    pub mailbox_len_max: usize,
    /// Read requests that are worked on at once.
    pub reads_in_flight_max: usize,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            wal_file_bytes: 64 << 20,
            wal_queue_bytes_max: 64 << 20,
            wal_gather_bytes: 1 << 20,
            memtable_bytes_max: 64 << 20,
            memtables_frozen_max: 2,
            memtable_age_max: Duration::from_secs(300),
            cache_bytes: 128 << 20,
            cold_cache_bytes: 16 << 20,
            filter_bytes_max: 256 << 20,
            page_bytes: 4096,
            segment_write_bytes: 512 << 10,
            segment_bytes_max: 256 << 20,
            merge_file_bytes_min: 16 << 20,
            cold_page_bytes: 32 << 10,
            cold_segment_bytes: 1 << 30,
            cold_bytes_per_second: 64 << 20,
            archives_wal: false,
            archives_orphans: false,
            restores_cold_files: true,
            reorg_window_blocks: 288,
            merge_fan_in: 8,
            merge_inputs_max: 16,
            append_run_bytes_max: 1 << 30,
            young_runs_max: 12,
            bottom_ratio_percent: 40,
            purged_entries_min: 4096,
            merge_runs_soft: 64,
            merge_runs_max: 128,
            space_reserve_bytes: None,
            mailbox_len_max: 1024,
            reads_in_flight_max: 1024,
        }
    }
}
