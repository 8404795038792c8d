//! A measured figure, with everything that is needed to doubt it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::workload::Workload;

/// What a figure counts, and so which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Operations each second.
    PerSecond,
    /// Bytes each second.
    BytesPerSecond,
    /// Milliseconds of one operation.
    Millis,
}

impl Unit {
    const ALL: [Self; 3] = [Self::PerSecond, Self::BytesPerSecond, Self::Millis];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "1/s",
            Self::BytesPerSecond => "bytes/s",
            Self::Millis => "ms",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    pub(crate) fn more_is_better(self) -> bool {
        self != Self::Millis
    }
}

/// CPU time, device operations and amplification, each for one operation of the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) user_micros: f64,
    pub(crate) system_micros: f64,
    pub(crate) device_reads: f64,
    pub(crate) device_read_bytes: f64,
    pub(crate) device_written_bytes: f64,
}

impl Cost {
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.user_micros + self.system_micros
    }
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Many latencies, with three digits kept of each. A stall is one value among many, and the maximum shows it.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    const SECONDS_MAX: u64 = 600;

    pub(crate) fn new() -> Option<Self> {
        Histogram::new_with_bounds(1, Self::SECONDS_MAX * 1_000_000_000, 3).ok().map(Self)
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// Adds all latencies of another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so everything fits.
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn summary(&self) -> Option<Latency> {
        if self.0.is_empty() {
            return None;
        }
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        Some(Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: micros(self.0.max()) })
    }
}

/// What the bare device would reach on the same work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    /// In the figure's own unit.
    pub(crate) value: f64,
    /// What was compared with.
    pub(crate) of: String,
}

/// A measured figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) workload: Workload,
    /// What exactly was measured.
    pub(crate) name: String,
    /// What varies within the workload: operations in flight, bytes of a write, or blocks; 0 if nothing does.
    pub(crate) parameter: u64,
    /// Shards of the store; 0 for the bare device.
    pub(crate) shards: u16,
    /// Records of the store; 0 for the bare device.
    pub(crate) records: u64,
    pub(crate) unit: Unit,
    /// Several measurements of the same, in the order in which they were made.
    pub(crate) samples: Vec<f64>,
    pub(crate) limit: Option<Limit>,
    pub(crate) cost: Option<Cost>,
    pub(crate) latency: Option<Latency>,
    /// Memory of the process after it.
    pub(crate) resident_bytes: u64,
    /// Bytes written to the device for each byte that a user wrote.
    pub(crate) write_amplification: Option<f64>,
    /// Bytes on disk for each live byte of a user.
    pub(crate) space_amplification: Option<f64>,
}

impl Figure {
    pub(crate) fn new(workload: Workload, name: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Self {
        Self {
            workload,
            name: name.into(),
            parameter: 0,
            shards: 0,
            records: 0,
            unit,
            samples,
            limit: None,
            cost: None,
            latency: None,
            resident_bytes: resident_bytes(),
            write_amplification: None,
            space_amplification: None,
        }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.samples)
    }

    /// The smallest and the largest sample.
    pub(crate) fn range(&self) -> (f64, f64) {
        let fold = |start, pick: fn(f64, f64) -> f64| self.samples.iter().copied().fold(start, pick);
        (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max))
    }

    /// How much of the device's limit is reached, in per cent.
    pub(crate) fn percent_of_limit(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?.value;
        let ratio = if self.unit.more_is_better() { self.median() / limit } else { limit / self.median() };
        ratio.is_finite().then_some(ratio * 100.0)
    }
}

/// The middle value; the mean of both for an even number of them, 0 for none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    if sorted.len() % 2 == 1 {
        return upper;
    }
    let lower = sorted.len().checked_sub(2).and_then(|_| sorted.get(sorted.len() / 2 - 1)).copied();
    f64::midpoint(lower.unwrap_or(upper), upper)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0_u64) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_few_samples() {
        assert_eq!([&[][..], &[3.0], &[1.0, 4.0], &[9.0, 1.0, 5.0]].map(median), [0.0, 3.0, 2.5, 5.0]);
    }

    #[test]
    fn a_stall_is_not_hidden() {
        let mut latencies = Latencies::new().unwrap();
        (0..10_000).for_each(|_| latencies.add(Duration::from_micros(10)));
        latencies.add(Duration::from_secs(2));
        let found = latencies.summary().unwrap();
        assert!((found.p50 - 10.0).abs() < 0.1 && (found.max / 2e6 - 1.0).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn the_share_of_the_limit_counts_in_the_right_direction() {
        let limit = Some(Limit { value: 200.0, of: String::new() });
        let rate =
            Figure { limit: limit.clone(), ..Figure::new(Workload::Get, "", Unit::PerSecond, vec![100.0]) };
        let time = Figure { limit, ..Figure::new(Workload::Get, "", Unit::Millis, vec![400.0]) };
        assert_eq!([rate, time].map(|figure| figure.percent_of_limit()), [Some(50.0), Some(50.0)]);
    }
}
