//! Settings that follow from the hardware.
//!
//! Every value is taken from the first of these that gives one: the value set by hand, the calibration, the hardware
//! report, a default. The line of each value says which it was.

use std::fmt;

use crate::error::Result;
use crate::sync_mode::SyncMode;

use super::cpu_set::CpuId;
use super::device::{BlockDevice, DeviceClass};
use super::line::{Bytes, Line, write_lines};
use super::memory_split::MemorySplit;
use super::overrides::{ARENA_BYTES_MIN, CalibrationFigures, Overrides, setting};
use super::report::{HardwareReport, Memlock};
use super::topology::Topology;

/// More shards than this gain nothing: a commit goes to every shard.
const SHARDS_MAX: u64 = 64;
/// From this many cores on, one is left to the application and the kernel.
const CORES_ALL_USED_MAX: u64 = 4;
/// A shard with less memory flushes memtables before they are worth a file.
const MEMORY_PER_SHARD_BYTES_MIN: u64 = 16 << 20;
const MEMORY_BUDGET_BYTES_MIN: u64 = 64 << 20;
const ARENA_BYTES: u64 = 8 << 20;
/// Arenas end on a page.
const ARENA_UNIT_BYTES: u64 = 4096;

/// The settings of an engine on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The number of shards.
    pub shards: u16,
    /// The CPU of each shard, in order; as many as there are shards.
    pub shard_cpus: Vec<CpuId>,
    /// Reads in flight per shard.
    pub read_depth: u32,
    /// How durable writes are made.
    pub sync_mode: SyncMode,
    /// Buffer memory per shard.
    pub arena_bytes: u64,
    /// Whether that memory is to be registered with the kernel, which needs locked memory.
    pub arena_registered: bool,
    /// Memory of the whole engine.
    pub memory_budget_bytes: u64,
    /// The parts of that memory.
    pub memory: MemorySplit,
    lines: Vec<Line>,
}

impl Tuning {
    /// Derives the settings for a machine.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if a value set by hand cannot be used.
    pub fn derive(
        report: &HardwareReport,
        overrides: &Overrides,
        calibration: Option<&CalibrationFigures>,
    ) -> Result<Self> {
        overrides.check(&report.topology)?;
        let mut lines = Vec::new();
        let mut note = |name, value: &dyn fmt::Display, why: String| lines.push(Line::new(name, value, why));

        let (memory_budget_bytes, why_budget) = memory_budget(report, overrides);
        let (shards, why) = shards(report, overrides, memory_budget_bytes);
        note("shards", &shards, why);
        let (shard_cpus, why) = shard_cpus(report, overrides, shards);
        note("shard CPUs", &shard_cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), why);
        let (read_depth, why) = read_depth(report, overrides, calibration, shards);
        note("read depth", &read_depth, why);
        let (sync_mode, why) = sync_mode(overrides, calibration);
        note("sync mode", &sync_mode, why.to_owned());
        let arena = Arena::plan(report.memlock, overrides, shards, memory_budget_bytes)?;
        note("arena per shard", &arena, arena.why.clone());
        note("memory budget", &Bytes(memory_budget_bytes), why_budget);
        let memory =
            MemorySplit::of(memory_budget_bytes, arena.bytes.saturating_mul(u64::from(shards)), overrides)?;
        lines.extend(memory.lines(overrides));
        Ok(Self {
            shards,
            shard_cpus,
            read_depth,
            sync_mode,
            arena_bytes: arena.bytes,
            arena_registered: arena.registered,
            memory_budget_bytes,
            memory,
            lines,
        })
    }

    /// One line for each value, with the reason for it.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.lines)
    }
}

fn by_hand() -> String {
    "set by hand".to_owned()
}

fn memory_budget(report: &HardwareReport, overrides: &Overrides) -> (u64, String) {
    let memory = report.memory_bytes();
    if let Some(bytes) = overrides.memory_budget_bytes {
        let why = match memory {
            Some((there, source)) if bytes > there => {
                format!("set by hand, although {source} is only {}", Bytes(there))
            }
            _ => by_hand(),
        };
        return (bytes, why);
    }
    match memory {
        Some((there, source)) if there / 4 >= MEMORY_BUDGET_BYTES_MIN => {
            (there / 4, format!("a quarter of {}, from {source}", Bytes(there)))
        }
        Some((there, source)) => {
            (MEMORY_BUDGET_BYTES_MIN, format!("the least, as there are only {}, from {source}", Bytes(there)))
        }
        None => (MEMORY_BUDGET_BYTES_MIN, "the least, as the memory of the machine is unknown".to_owned()),
    }
}

fn shards(report: &HardwareReport, overrides: &Overrides, memory_budget_bytes: u64) -> (u16, String) {
    if let Some(shards) = overrides.shards {
        return (shards, by_hand());
    }
    if let Some(shards) = overrides.shard_cpus.as_ref().and_then(|cpus| u16::try_from(cpus.len()).ok()) {
        return (shards, "one for each CPU set by hand".to_owned());
    }
    let mut shards = crate::num::to_u64(report.topology.cores.len()).max(1);
    let mut why = format!("{} allowed", plural(shards, "physical core"));
    if let Some(quota) = report.cpu_quota.as_ref().filter(|quota| quota.whole_cpus() < shards) {
        shards = quota.whole_cpus();
        why.push_str(&format!(", but a quota of {quota} from {}", quota.source.display()));
    }
    if shards > CORES_ALL_USED_MAX {
        shards -= 1;
        why.push_str(", one of them left to the application");
    }
    if shards > SHARDS_MAX {
        shards = SHARDS_MAX;
        why.push_str(&format!(", at most {SHARDS_MAX}"));
    }
    let fed = (memory_budget_bytes / MEMORY_PER_SHARD_BYTES_MIN).max(1);
    if shards > fed {
        shards = fed;
        why.push_str(&format!(", but memory for only {fed}"));
    }
    (u16::try_from(shards).unwrap_or(1), why)
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn shard_cpus(report: &HardwareReport, overrides: &Overrides, shards: u16) -> (Vec<CpuId>, String) {
    if let Some(cpus) = &overrides.shard_cpus {
        return (cpus.clone(), by_hand());
    }
    let topology = &report.topology;
    let node = report.device.as_ref().and_then(|device| device.node);
    let mut cores: Vec<_> = topology.cores.iter().collect();
    cores.sort_by_key(|core| node.is_some_and(|node| core.node != node));
    // The first thread of every core, then the second of every core, and so on; then all over again.
    let order: Vec<CpuId> = (0..topology.threads_per_core())
        .flat_map(|thread| cores.iter().filter_map(move |core| core.cpus.iter().nth(thread)))
        .collect();
    let cpus: Vec<CpuId> = order.iter().copied().cycle().take(usize::from(shards)).collect();
    let mut why = crowding(topology, shards).to_owned();
    if let Some(node) = node.filter(|_| topology.nodes().len() > 1) {
        why.push_str(&format!(", those on the device's NUMA node {node} first"));
    }
    (cpus, why)
}

fn crowding(topology: &Topology, shards: u16) -> &'static str {
    if usize::from(shards) <= topology.cores.len() {
        "distinct physical cores"
    } else if usize::from(shards) <= topology.allowed.len() {
        "more shards than physical cores, so some share one"
    } else {
        "more shards than CPUs, so some share one"
    }
}

fn read_depth(
    report: &HardwareReport,
    overrides: &Overrides,
    calibration: Option<&CalibrationFigures>,
    shards: u16,
) -> (u32, String) {
    if let Some(depth) = overrides.read_depth {
        return (depth, by_hand());
    }
    if let Some(depth) = calibration.and_then(|figures| figures.read_depth).filter(|depth| *depth > 0) {
        return (depth, "measured by calibration".to_owned());
    }
    let (depth, mut why) = match report.device.as_ref().map(|device| device.class) {
        Some(class @ DeviceClass::Nvme) => (128, format!("start for {class}")),
        Some(class @ DeviceClass::Rotational) => (8, format!("start for a {class}")),
        Some(class) => (32, format!("start for a {class}")),
        None => (32, "start for an unknown device".to_owned()),
    };
    if report.device.as_ref().is_some_and(claims_to_rotate) {
        why.push_str(", whose claim to rotate means nothing");
    }
    let held = report.device.as_ref().and_then(|device| device.nr_requests).filter(|held| *held > 0);
    match held.map(|held| (held, (held / u32::from(shards.max(1))).max(1))) {
        Some((held, share)) if share < depth => (
            share,
            format!("{why}, but the queue of {held} is shared by {}", plural(u64::from(shards), "shard")),
        ),
        _ => (depth, why),
    }
}

fn claims_to_rotate(device: &BlockDevice) -> bool {
    device.class == DeviceClass::Virtual && device.rotational == Some(true)
}

fn sync_mode(overrides: &Overrides, calibration: Option<&CalibrationFigures>) -> (SyncMode, &'static str) {
    if let Some(mode) = overrides.sync_mode {
        return (mode, "set by hand");
    }
    match calibration.and_then(|figures| figures.sync_mode) {
        Some(mode) => (mode, "measured by calibration"),
        None => (SyncMode::default(), "the default until a calibration has measured the device"),
    }
}

/// The buffer memory of one shard.
struct Arena {
    bytes: u64,
    registered: bool,
    why: String,
}

impl Arena {
    fn plan(memlock: Memlock, overrides: &Overrides, shards: u16, memory_budget_bytes: u64) -> Result<Self> {
        let shards = u64::from(shards).max(1);
        let lockable = match memlock {
            // An eighth is left to the shards' executors, whose rings lock memory too.
            Memlock::Limit(bytes) => Some((bytes - bytes / 8) / shards),
            Memlock::Unlimited | Memlock::Exempt => None,
            Memlock::Unknown => Some(0),
        };
        let affordable = memory_budget_bytes / 4 / shards;
        let wanted = overrides.arena_bytes.filter(|bytes| *bytes > 0);
        let mut bytes = wanted.unwrap_or(ARENA_BYTES);
        let mut why = if wanted.is_some() { by_hand() } else { "the default".to_owned() };
        if wanted.is_none() && affordable < bytes {
            bytes = affordable.max(ARENA_BYTES_MIN);
            why = "a quarter of the memory budget for the arenas of all shards".to_owned();
        }
        let mut registered = overrides.arena_bytes != Some(0);
        if !registered {
            why.push_str(", registration switched off by hand");
        } else if let Some(lockable) = lockable.filter(|lockable| *lockable < bytes) {
            if wanted.is_none() && lockable >= ARENA_BYTES_MIN {
                bytes = lockable;
                why = format!("a share of the locked-memory limit of {memlock}");
            } else {
                registered = false;
                why.push_str(&format!(", too much to register: the locked-memory limit is {memlock}"));
            }
        }
        bytes -= bytes % ARENA_UNIT_BYTES;
        if bytes.saturating_mul(shards) > memory_budget_bytes / 2 {
            let why = format!(
                "the arenas of {} need {}, more than half of it",
                plural(shards, "shard"),
                Bytes(bytes.saturating_mul(shards))
            );
            return Err(setting("memory_budget_bytes", Bytes(memory_budget_bytes), why));
        }
        Ok(Self { bytes, registered, why })
    }
}

impl fmt::Display for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}registered", Bytes(self.bytes), if self.registered { "" } else { "not " })
    }
}
