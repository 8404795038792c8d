//! What the figures depend on.

use std::fs::read_to_string;

use op_engine_io::hardware::{HardwareReport, Line, Tuning};

use super::BenchArgs;
use super::meter::Checks;

/// The machine and the settings of a run.
pub(crate) struct Header(Vec<(String, String)>);

/// Facts of the machine that a reader of the figures wants, by the names that detection gives them.
const MACHINE: [&str; 6] =
    ["kernel", "hypervisor", "allowed CPUs", "CPU quota", "physical memory", "filesystem"];

impl Header {
    pub(crate) fn new(report: &HardwareReport, tuning: &Tuning, args: &BenchArgs, shards: &[u16]) -> Self {
        let mut facts = vec![
            ("version".to_owned(), format!("{} ({})", env!("CARGO_PKG_VERSION"), env!("OP_ENGINE_COMMIT"))),
            ("CPU".to_owned(), cpu()),
        ];
        facts.extend(machine_facts(report));
        let cpus: Vec<_> = tuning.shard_cpus.iter().map(ToString::to_string).collect();
        let list = |numbers: Vec<String>| numbers.join(", ");
        facts.push(("CPUs of the shards".to_owned(), cpus.join(", ")));
        facts.push(("sync mode".to_owned(), tuning.sync_mode.to_string()));
        facts.push(("reads in flight a shard".to_owned(), tuning.read_depth.to_string()));
        facts.push(("memory of the engine".to_owned(), format!("{} MiB", tuning.memory_budget_bytes >> 20)));
        facts.push(("shards".to_owned(), list(shards.iter().map(ToString::to_string).collect())));
        facts.push(("coins".to_owned(), list(args.size.iter().map(ToString::to_string).collect())));
        facts.push(("seconds for each figure".to_owned(), args.duration.to_string()));
        facts.push(("load before".to_owned(), load()));
        Self(facts)
    }

    /// All facts, with what the counters said of each other.
    pub(crate) fn facts(self, checks: &Checks) -> Vec<(String, String)> {
        let mut facts = self.0;
        let share = |ours: f64, theirs: f64| {
            if theirs > 0.0 { format!("{:.2} %", ours / theirs * 100.0) } else { "not measured".to_owned() }
        };
        let reads = share(checks.ring_read_bytes as f64, checks.kernel_read_bytes as f64);
        let cpu = share(checks.usage.as_secs_f64(), checks.scheduled.as_secs_f64());
        facts.push(("bytes read, ring to kernel".to_owned(), reads));
        facts.push(("CPU time, getrusage to scheduler".to_owned(), cpu));
        facts
    }
}

/// Kernel, memory, filesystem and device.
pub(crate) fn machine_facts(report: &HardwareReport) -> Vec<(String, String)> {
    let is_of_device = |line: &Line| line.name.contains("device") || line.name.contains("cache");
    let lines = report.lines().into_iter();
    let wanted = lines.filter(|line| MACHINE.contains(&line.name) || is_of_device(line));
    wanted.map(|line| (line.name.to_owned(), line.value)).collect()
}

pub(crate) fn cpu() -> String {
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

pub(crate) fn load() -> String {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
