//! What is measured, and the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::arguments::Durability;
use crate::stores::Kind;

/// A figure of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Blocks a second.
    Ingest(Durability),
    /// CPU of a block.
    IngestCpu(Durability),
    /// Bytes written to the device for a block.
    IngestWritten(Durability),
    /// Bytes read from the device for a block.
    IngestRead(Durability),
    /// Peak of resident memory.
    IngestPeak(Durability),
    /// Opening after SIGKILL.
    Reopen,
    /// Present coins a second, in batches.
    Batched,
    /// CPU of each.
    BatchedCpu,
    /// Present coins a second, one after the other.
    Single,
    /// CPU of each.
    SingleCpu,
    /// Absent coins a second, in batches.
    Absent,
    /// CPU of each.
    AbsentCpu,
    /// Device bytes of a batched read of a present coin.
    ReadBytes,
    /// Taking back 1 block.
    Shallow,
    /// Taking back 100 blocks.
    Deep,
    /// Bytes on disk.
    Disk,
}

impl Figure {
    /// What it is called, whether more is better, and its digits after the point.
    fn describe(self) -> (String, bool, usize) {
        match self {
            Self::Ingest(it) => (format!("Ingest, durable {}: blocks/s", it.name()), true, 1),
            Self::IngestCpu(it) => (format!("Ingest, durable {}: CPU ms a block", it.name()), false, 1),
            Self::IngestWritten(it) => {
                (format!("Ingest, durable {}: MiB written a block", it.name()), false, 1)
            }
            Self::IngestRead(it) => (format!("Ingest, durable {}: MiB read a block", it.name()), false, 1),
            Self::IngestPeak(it) => (format!("Ingest, durable {}: peak RSS, MiB", it.name()), false, 0),
            Self::Reopen => ("Opening after SIGKILL, ms".to_owned(), false, 0),
            Self::Batched => ("Random coins in batches of 1,000: reads/s".to_owned(), true, 0),
            Self::BatchedCpu => ("Random coins in batches of 1,000: CPU us a read".to_owned(), false, 1),
            Self::Single => ("Random coins one by one: reads/s".to_owned(), true, 0),
            Self::SingleCpu => ("Random coins one by one: CPU us a read".to_owned(), false, 1),
            Self::Absent => ("Absent coins in batches of 1,000: reads/s".to_owned(), true, 0),
            Self::AbsentCpu => ("Absent coins in batches of 1,000: CPU us a read".to_owned(), false, 1),
            Self::ReadBytes => ("Random coins in batches of 1,000: device bytes a read".to_owned(), false, 0),
            Self::Shallow => ("Reorg of 1 block, ms".to_owned(), false, 1),
            Self::Deep => ("Reorg of 100 blocks, ms".to_owned(), false, 1),
            Self::Disk => ("On disk, MiB".to_owned(), false, 0),
        }
    }
}

/// The samples of all stores.
#[derive(Debug, Default)]
pub struct Results {
    samples: BTreeMap<(Figure, Kind), Vec<f64>>,
    /// Figures that come from less than was planned.
    cut: BTreeSet<(Figure, Kind)>,
    failures: BTreeMap<Kind, String>,
}

impl Results {
    /// Adds a sample. `whole`: all that was planned for it was done.
    pub fn add(&mut self, kind: Kind, figure: Figure, value: f64, whole: bool) {
        if !whole {
            self.cut.insert((figure, kind));
        }
        self.samples.entry((figure, kind)).or_default().push(value);
    }

    /// Notes that a store has failed. It takes no further part.
    pub fn fail(&mut self, kind: Kind, why: String) {
        self.failures.insert(kind, why);
    }

    /// Whether a store has failed.
    #[must_use]
    pub fn has_failed(&self, kind: Kind) -> bool {
        self.failures.contains_key(&kind)
    }

    /// How many stores have failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    /// A row for each figure, a column for each store: its median, and how that stands to the first store's.
    #[must_use]
    pub fn table(&self, stores: &[Kind]) -> String {
        let mut out = String::from("| |");
        stores.iter().for_each(|kind| write!(out, " {} |", kind.name()).unwrap_or(()));
        out.push_str("\n|---|");
        out.push_str(&"---:|".repeat(stores.len()));
        let mut figures: Vec<Figure> = self.samples.keys().map(|(figure, _)| *figure).collect();
        figures.dedup();
        for figure in figures {
            let (name, more_is_better, digits) = figure.describe();
            let arrow = if more_is_better { "↑" } else { "↓" };
            write!(out, "\n| {name} {arrow} |").unwrap_or(());
            let first = stores.first().and_then(|kind| self.median(figure, *kind));
            for (at, kind) in stores.iter().enumerate() {
                let cell = self.median(figure, *kind).map_or("failed".to_owned(), |value| {
                    let ratio = first.filter(|first| at > 0 && *first > 0.0).map(|first| value / first);
                    let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"));
                    let about = if self.cut.contains(&(figure, *kind)) { "≈ " } else { "" };
                    format!("{about}{}{ratio}", thousands(value, digits))
                });
                write!(out, " {cell} |").unwrap_or(());
            }
        }
        for (kind, why) in &self.failures {
            write!(out, "\n\n{} failed: {why}", kind.name()).unwrap_or(());
        }
        out.push('\n');
        out
    }

    fn median(&self, figure: Figure, kind: Kind) -> Option<f64> {
        let mut values = self.samples.get(&(figure, kind))?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let lower = if values.len() % 2 == 0 { values[middle - 1] } else { values[middle] };
        Some((lower + values[middle]) / 2.0)
    }
}

fn thousands(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut out = String::new();
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at < whole && (whole - at) % 3 == 0 {
            out.push(',');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_medians_and_ratios_to_the_first_store() {
        let mut results = Results::default();
        for (kind, values) in [(Kind::OpEngine, [3.0, 1.0, 2.0]), (Kind::Redb, [9.0, 1000.0, 10.0])] {
            values.iter().for_each(|value| results.add(kind, Figure::Deep, *value, kind == Kind::OpEngine));
        }
        let table = results.table(&[Kind::OpEngine, Kind::Redb]);
        assert!(table.contains("| Reorg of 100 blocks, ms ↓ | 2.0 | ≈ 10.0 (5.00×) |"), "{table}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(1_234_567.0, 0), "1,234,567");
        assert_eq!(thousands(123.46, 1), "123.5");
    }
}
