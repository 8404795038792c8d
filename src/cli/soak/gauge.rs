//! What the store weighs while it is filled.

use std::path::{Path, PathBuf};

use op_engine::{Engine, Stats};
use op_engine_io::yardstick::ProcessUsage;

use super::load::Load;
use crate::cli::failure::Outcome;

/// What is sampled while the store is filled.
pub(super) struct Gauge {
    path: PathBuf,
    /// The largest so far, once the store is large enough that its fixed files do not count.
    pub(super) space_max: f64,
    /// Live bytes when it was.
    pub(super) space_max_at: u64,
    live_bytes_min: u64,
}

/// Bytes written for each byte committed.
pub(super) struct WriteAmplification {
    pub(super) mutable: f64,
    pub(super) append_only: f64,
}

impl Gauge {
    pub(super) fn new(path: &Path, live_bytes_min: u64) -> Self {
        Self { path: path.to_path_buf(), space_max: 0.0, space_max_at: 0, live_bytes_min }
    }

    /// Bytes of all files of the store, for each live byte.
    pub(super) fn space(&mut self, load: &Load) -> f64 {
        let space = directory_bytes(&self.path) as f64 / load.live_bytes().max(1) as f64;
        if load.live_bytes() >= self.live_bytes_min && space > self.space_max {
            (self.space_max, self.space_max_at) = (space, load.live_bytes());
        }
        space
    }
}

/// Bytes that the files below a directory take on the device. What vanishes meanwhile does not count.
fn directory_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

/// The most memory that was resident so far, in bytes.
pub(super) fn resident_bytes_max() -> u64 {
    ProcessUsage::now().resident_bytes_max
}

/// Bytes written by this engine since it was opened: segments by layout, and the WAL, in which each operation has its key,
/// its value and an equal share of the rest.
pub(super) fn write_amplification(engine: &Engine, load: &Load) -> Outcome<WriteAmplification> {
    let stats = engine.blocking().stats()?;
    let names = engine.collection_names();
    let append_only: Vec<_> = names.iter().filter(|(_, name)| name == "bodies").map(|(id, _)| *id).collect();
    let all = || stats.shards.iter().flat_map(|shard| &shard.traffic);
    let written = |wanted: bool| -> u64 {
        let of_layout = all().filter(|(collection, _)| append_only.contains(collection) == wanted);
        of_layout.map(|(_, traffic)| traffic.written_bytes()).sum()
    };
    let wal: u64 = stats.shards.iter().map(|shard| shard.wal_bytes).sum();
    let user = load.committed.mutable + load.committed.append_only;
    let wal_rest_each = wal.saturating_sub(user) as f64 / load.operations.max(1) as f64;
    let each = |written: u64, committed: u64, operations: u64| {
        (written as f64 + wal_rest_each * operations as f64) / committed.max(1) as f64 + 1.0
    };
    let mutable_operations = load.operations.saturating_sub(load.bodies);
    Ok(WriteAmplification {
        mutable: each(written(false), load.committed.mutable, mutable_operations),
        append_only: each(written(true), load.committed.append_only, load.bodies),
    })
}

/// Memory of filters and indexes for each key in segments, in bytes.
pub(super) fn memory_per_key(stats: &Stats) -> f64 {
    let segments = || stats.shards.iter().flat_map(|shard| &shard.segments);
    let memory: u64 = segments().map(|segment| segment.memory_bytes).sum();
    let keys: u64 = segments().map(|segment| segment.keys).sum();
    memory as f64 / keys.max(1) as f64
}
