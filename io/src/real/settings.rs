//! What a real world is to be.

use std::path::PathBuf;
use std::time::Duration;

use super::tuning::Calibration;
use crate::cold::{ColdLimits, ColdTarget};
use crate::sync_mode::SyncMode;

/// The settings of a [`RealWorld`](super::RealWorld). Every value has a default; only the directory must be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealSettings {
    /// The store's directory.
    pub root: PathBuf,
    /// Whether to create the directory if it is missing.
    pub create: bool,
    /// The cores of the shards: shard `i` runs on core `i` modulo the length. Empty: shards are not pinned.
    pub cores: Vec<usize>,
    /// How many reads a host should keep in flight at once.
    pub queue_depth: usize,
    /// Buffer memory per host in bytes, rounded up to MiB. What the limit of locked memory does not cover is used
    /// unregistered.
    pub arena_bytes: usize,
    /// How many open files a ring knows by number; more work, at more CPU per operation. At most half of the limit of
    /// open files is used.
    pub file_places: usize,
    /// How durable writes are made durable.
    pub sync_mode: SyncMode,
    /// How long to wait for another process to let go of the store. A killed process keeps the lock until its last
    /// writes have landed.
    pub lock_wait: Duration,
    /// How long an idle host looks for work before it sleeps, if its last pauses were brief and no operation is in
    /// flight. It gives its core to other threads meanwhile. Zero to sleep at once.
    pub spin_max: Duration,
    /// Where data that is seldom read is kept, if anywhere.
    pub cold: Option<ColdTarget>,
    /// How much is asked of it at once, and how long for.
    pub cold_limits: ColdLimits,
}

impl RealSettings {
    /// The most operations that one ring takes in flight.
    pub(super) const IN_FLIGHT_MAX: usize = 1024;

    /// The defaults for a store in `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            create: false,
            cores: Vec::new(),
            queue_depth: 32,
            arena_bytes: 8 << 20,
            file_places: 1024,
            sync_mode: SyncMode::default(),
            lock_wait: Duration::from_secs(5),
            spin_max: Duration::from_micros(50),
            cold: None,
            cold_limits: ColdLimits::default(),
        }
    }

    /// Takes over what a calibration has found to be best on this device.
    pub fn apply(&mut self, calibration: &Calibration) {
        self.queue_depth = calibration.read_depth;
        self.sync_mode = calibration.sync_mode;
    }

    /// How many operations a ring takes in flight: the reads worth having, and room for writes beside them.
    pub(super) fn in_flight_max(&self) -> usize {
        self.queue_depth.saturating_mul(2).clamp(256, Self::IN_FLIGHT_MAX)
    }
}
