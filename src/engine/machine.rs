//! What the machine is, and the settings that follow from it.

use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use op_engine_io::hardware::{CalibrationFigures, HardwareReport, Tuning};
use op_engine_io::num::to_usize;
use op_engine_io::real::{Calibration, RealSettings, calibrate};
use op_engine_shards::ShardConfig;

use crate::config::Config;
use crate::error::{Error, Result};

/// How long the device is measured at the first open.
const CALIBRATION: Duration = Duration::from_millis(1500);
/// Memtables of a shard that can be in memory at once: one that fills, one that waits, one that is being flushed.
const MEMTABLES_PER_SHARD: u64 = 3;

/// The settings of an engine on this machine.
pub(crate) struct Machine {
    tuning: Tuning,
}

impl Machine {
    /// Detects the machine, measures the device if that is wanted and this is its first store, and derives settings.
    pub(crate) fn derive(config: &Config) -> Result<Self> {
        let report = HardwareReport::detect(&config.path)?;
        let calibration = Self::calibration(config)?;
        let figures = calibration.map(|found| CalibrationFigures {
            read_depth: u32::try_from(found.read_depth).ok(),
            sync_mode: Some(found.sync_mode),
        });
        let tuning = Tuning::derive(&report, &config.overrides, figures.as_ref())?;
        Ok(Self { tuning })
    }

    fn calibration(config: &Config) -> Result<Option<Calibration>> {
        let entries = std::fs::read_dir(&config.path).map(Iterator::count);
        if let Ok(1..) = entries {
            // Whatever is there is left as it is: it may not be a store, or be in use.
            return Ok(Calibration::load(&config.path)?);
        }
        let by_hand = config.overrides.read_depth.is_some() && config.overrides.sync_mode.is_some();
        if !config.create || config.read_only || !config.calibrate || by_hand {
            return Ok(None);
        }
        let failed = |error: std::io::Error| Error::Setting { name: "path", why: error.to_string() };
        // Only its owner may look into a store.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.path).map_err(failed)?;
        let found = calibrate(&config.path, CALIBRATION)?;
        found.save(&config.path)?;
        Ok(Some(found))
    }

    /// Shards of a store that is created.
    pub(crate) fn shards(&self) -> u16 {
        self.tuning.shards
    }

    pub(crate) fn settings(&self, config: &Config) -> RealSettings {
        let mut settings = RealSettings::new(&config.path);
        settings.create = config.create && !config.read_only;
        settings.cold = config.cold.clone();
        settings.cold_limits = config.cold_limits;
        settings.cores = self.tuning.shard_cpus.iter().map(|cpu| to_usize(u64::from(cpu.0))).collect();
        settings.queue_depth = to_usize(u64::from(self.tuning.read_depth));
        settings.arena_bytes = to_usize(self.tuning.arena_bytes);
        settings.sync_mode = self.tuning.sync_mode;
        settings.lock_wait = config.lock_wait;
        settings
    }

    /// The share of one of `shards` in the memory budget. Pages of a cold target have a quarter of those that are cached.
    pub(crate) fn shard_config(&self, shards: u16, has_cold_target: bool) -> ShardConfig {
        let shards = u64::from(shards.max(1));
        let memory = &self.tuning.memory;
        let memtable_bytes = (memory.memtable_bytes / shards / MEMTABLES_PER_SHARD).max(1 << 20);
        let cache_bytes = memory.read_cache_bytes / shards;
        let cold_cache_bytes = if has_cold_target { cache_bytes / 4 } else { 0 };
        ShardConfig {
            memtable_bytes_max: to_usize(memtable_bytes),
            memtables_frozen_max: 1,
            cache_bytes: cache_bytes - cold_cache_bytes,
            cold_cache_bytes,
            filter_bytes_max: memory.filter_bytes / shards,
            // A file that holds commits of one memtable only is free when that is flushed.
            wal_file_bytes: (memtable_bytes / 2).clamp(4 << 20, 64 << 20).next_multiple_of(1 << 20),
            ..ShardConfig::default()
        }
    }
}
