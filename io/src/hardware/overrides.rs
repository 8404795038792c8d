//! Values that a person set, and values that were measured.

use crate::error::{Error, Result};
use crate::sync_mode::SyncMode;

use super::cpu_set::CpuId;
use super::line::Bytes;
use super::topology::Topology;

/// Shards that may be asked for. The number of shards on a machine is chosen far lower.
const SHARDS_SETTABLE_MAX: u16 = 1024;
/// The kernel makes no longer submission queue.
const READ_DEPTH_SETTABLE_MAX: u32 = 32_768;
/// Room for a few buffers; with less, a shard waits for its own buffers.
pub(super) const ARENA_BYTES_MIN: u64 = 256 << 10;
/// The kernel registers no longer buffer.
const ARENA_BYTES_MAX: u64 = 1 << 30;
/// With less, memtables are flushed before they are worth a file.
const MEMORY_BUDGET_SETTABLE_BYTES_MIN: u64 = 16 << 20;

/// Values set by hand. `None` leaves a value to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The number of shards.
    pub shards: Option<u16>,
    /// The CPU of each shard, in order. Sets the number of shards too.
    pub shard_cpus: Option<Vec<CpuId>>,
    /// Reads in flight per shard.
    pub read_depth: Option<u32>,
    /// How durable writes are made.
    pub sync_mode: Option<SyncMode>,
    /// Buffer memory per shard. 0 asks for the default size, not registered with the kernel.
    pub arena_bytes: Option<u64>,
    /// Memory of the whole engine.
    pub memory_budget_bytes: Option<u64>,
    /// Memory for memtables, of the budget.
    pub memtable_bytes: Option<u64>,
    /// Memory for the read caches, of the budget.
    pub read_cache_bytes: Option<u64>,
    /// Memory for filters and page indexes, of the budget.
    pub filter_bytes: Option<u64>,
}

/// What a calibration of the device found to be best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalibrationFigures {
    /// Reads in flight per shard, beyond which throughput no longer grows.
    pub read_depth: Option<u32>,
    /// The sync mode with the lowest latency.
    pub sync_mode: Option<SyncMode>,
}

impl Overrides {
    /// Checks everything that can be checked without deriving the other values.
    pub(super) fn check(&self, topology: &Topology) -> Result<()> {
        let cpus = self.shard_cpus.as_deref();
        match self.shards {
            Some(0) => return Err(setting("shards", 0, "at least 1 is needed")),
            Some(shards) if shards > SHARDS_SETTABLE_MAX => {
                return Err(setting(
                    "shards",
                    shards,
                    format!("at most {SHARDS_SETTABLE_MAX} are supported"),
                ));
            }
            Some(shards) if cpus.is_some_and(|cpus| cpus.len() != usize::from(shards)) => {
                return Err(setting("shards", shards, "shard_cpus lists a different number of CPUs"));
            }
            _ => {}
        }
        if let Some(cpus) = cpus {
            let list = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            if cpus.is_empty() || cpus.len() > usize::from(SHARDS_SETTABLE_MAX) {
                let why = format!("it must list 1 to {SHARDS_SETTABLE_MAX} CPUs");
                return Err(setting("shard_cpus", list, why));
            }
            if let Some(cpu) = cpus.iter().find(|cpu| !topology.allowed.contains(**cpu)) {
                let why = format!("CPU {cpu} is not among the CPUs allowed here, {}", topology.allowed);
                return Err(setting("shard_cpus", list, why));
            }
        }
        if let Some(depth) = self.read_depth.filter(|depth| !(1..=READ_DEPTH_SETTABLE_MAX).contains(depth)) {
            return Err(setting("read_depth", depth, format!("it must be 1 to {READ_DEPTH_SETTABLE_MAX}")));
        }
        if let Some(bytes) = self
            .arena_bytes
            .filter(|bytes| *bytes != 0 && !(ARENA_BYTES_MIN..=ARENA_BYTES_MAX).contains(bytes))
        {
            let why = format!("it must be 0 or {} to {}", Bytes(ARENA_BYTES_MIN), Bytes(ARENA_BYTES_MAX));
            return Err(setting("arena_bytes", Bytes(bytes), why));
        }
        if let Some(bytes) =
            self.memory_budget_bytes.filter(|bytes| *bytes < MEMORY_BUDGET_SETTABLE_BYTES_MIN)
        {
            let why = format!("at least {} are needed", Bytes(MEMORY_BUDGET_SETTABLE_BYTES_MIN));
            return Err(setting("memory_budget_bytes", Bytes(bytes), why));
        }
        Ok(())
    }
}

pub(super) fn setting(name: &'static str, value: impl ToString, why: impl Into<String>) -> Error {
    Error::Setting { name, value: value.to_string(), why: why.into() }
}
