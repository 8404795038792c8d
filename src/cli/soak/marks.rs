//! The table at the end: what was measured, and what it should be at most.

use op_engine_io::SyncMode;
use op_engine_io::hardware::HardwareReport;

use super::SoakArgs;
use super::load::Load;
use crate::cli::bench::header::{cpu, load as machine_load, machine_facts};
use crate::cli::failure::Outcome;
use crate::cli::show::{Out, bytes, count, wide_table};

/// Memory that is not the engine's budget: the process itself, its threads, and the chain that is made up.
const OTHER_MEMORY_BYTES: u64 = 64 << 20;

/// Measured figures.
#[derive(Default)]
pub(super) struct Marks(Vec<(String, String, String)>);

impl Marks {
    /// A figure that is to be at most so much.
    pub(super) fn at_most(&mut self, what: &str, value: f64, most: f64) {
        let verdict = if value <= most { "met" } else { "MISSED" };
        self.0.push((what.to_owned(), format!("{value:.3}"), format!("at most {most}: {verdict}")));
    }

    /// A figure without a mark.
    pub(super) fn note(&mut self, what: &str, value: String) {
        self.0.push((what.to_owned(), value, String::new()));
    }

    /// The peak of the process against what it was given.
    pub(super) fn memory(&mut self, peak: u64, budget: u64) {
        let most = budget / 4 * 5 + OTHER_MEMORY_BYTES;
        let verdict = if peak <= most { "met" } else { "MISSED" };
        let mark = format!("at most {}: {verdict}", bytes(most));
        self.0.push(("memory resident at the peak".to_owned(), bytes(peak), mark));
    }

    pub(super) fn show(
        &self,
        report: &HardwareReport,
        sync_mode: SyncMode,
        load: &Load,
        args: &SoakArgs,
        out: &mut Out,
    ) -> Outcome {
        let mut facts = wide_table(&["machine and size", ""]);
        let mut rows = vec![("CPU".to_owned(), cpu()), ("load now".to_owned(), machine_load())];
        rows.extend(machine_facts(report));
        rows.push(("sync mode".to_owned(), sync_mode.to_string()));
        rows.push(("memory of the engine".to_owned(), format!("{} MiB", args.memory)));
        rows.push(("coins, slots".to_owned(), format!("{}, {}", count(load.coins()), count(load.slots))));
        rows.push(("blocks".to_owned(), count(load.blocks())));
        rows.push(("operations".to_owned(), count(load.operations)));
        let committed = load.committed.mutable + load.committed.append_only;
        rows.push(("keys and values committed, live".to_owned(), {
            format!("{}, {}", bytes(committed), bytes(load.live_bytes()))
        }));
        for (name, value) in rows {
            facts.add_row([name, value]);
        }
        out.table("", &facts)?;
        let mut table = wide_table(&["figure", "measured>", "mark"]);
        for (what, value, mark) in &self.0 {
            table.add_row([what, value, mark]);
        }
        out.table("", &table)
    }
}
