//! What can be measured.

use std::fmt;

use clap::ValueEnum;

/// One kind of load on the device or the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// The device alone: random reads, sequential writes, durable appends
    Device,
    /// Blocks, each durable before the next
    Ingest,
    /// Blocks, made durable a hundred at a time
    IngestDeferred,
    /// Single records from the device, many at once
    Get,
    /// Single records that do not exist
    GetAbsent,
    /// A thousand records a call
    GetMany,
    /// Single records from memory, one after the other
    GetMemory,
    /// Contract slots as they were at a height
    Slots,
    /// Rows in order
    Scan,
    /// Reads at a fixed rate while blocks come in
    Mixed,
    /// Back by 1, 6 and 100 blocks
    Reorg,
    /// Opening after a kill
    Reopen,
}

impl Workload {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The workload with that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|workload| workload.name() == name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
