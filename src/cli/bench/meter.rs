//! Measures a span of work in slices, and asks every counter before and after it.

use std::time::{Duration, Instant};

use op_engine::Engine;
use op_engine_io::real::Counters;
use op_engine_io::yardstick::{DeviceTraffic, ProcessUsage};

use super::figure::{Cost, Figure, Latencies, Unit};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};

/// Samples of each figure.
pub(crate) const SLICES: u32 = 5;

/// What the engine's own counts and the kernel's say of the same work, summed up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checks {
    /// Bytes read, as counted at the rings.
    pub(crate) ring_read_bytes: u64,
    /// Bytes read, as `/proc/self/io` counts them.
    pub(crate) kernel_read_bytes: u64,
    /// CPU time by `getrusage`.
    pub(crate) usage: Duration,
    /// CPU time by the scheduler's own accounts of all threads.
    pub(crate) scheduled: Duration,
}

/// What is known after a span of work.
pub(crate) struct Measured {
    /// Operations each second, by slice.
    pub(crate) rates: Vec<f64>,
    pub(crate) operations: u64,
    pub(crate) usage: ProcessUsage,
    /// Zero without an engine.
    pub(crate) ring: Counters,
    pub(crate) latencies: Latencies,
}

impl Measured {
    fn add(&mut self, before: &Moment, after: &Moment) {
        let usage = after.usage.since(&before.usage);
        self.usage.user += usage.user;
        self.usage.system += usage.system;
        self.ring.reads += after.ring.reads - before.ring.reads;
        self.ring.read_bytes += after.ring.read_bytes - before.ring.read_bytes;
        self.ring.written_bytes += after.ring.written_bytes - before.ring.written_bytes;
    }

    /// What one operation cost.
    pub(crate) fn cost(&self) -> Cost {
        let each = |total: f64| total / (self.operations.max(1) as f64);
        Cost {
            user_micros: each(self.usage.user.as_secs_f64() * 1e6),
            system_micros: each(self.usage.system.as_secs_f64() * 1e6),
            device_reads: each(self.ring.reads as f64),
            device_read_bytes: each(self.ring.read_bytes as f64),
            device_written_bytes: each(self.ring.written_bytes as f64),
        }
    }

    /// The figure of operations each second.
    pub(crate) fn figure(&self, workload: Workload, name: impl Into<String>) -> Figure {
        Figure {
            cost: Some(self.cost()),
            latency: self.latencies.summary(),
            ..Figure::new(workload, name, Unit::PerSecond, self.rates.clone())
        }
    }
}

/// Measures, and gathers what the counters say of each other.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) checks: Checks,
}

impl Meter {
    /// Has `work` go on until each slice's end. It tells how many operations it did.
    pub(crate) fn measure(
        &mut self,
        engine: Option<&Engine>,
        time: Duration,
        work: impl FnMut(Instant, &mut Latencies) -> Outcome<u64>,
    ) -> Outcome<Measured> {
        self.measure_in_turns(engine, time, || Ok(()), work)
    }

    /// The same with something else before each slice that does not count.
    pub(crate) fn measure_in_turns(
        &mut self,
        engine: Option<&Engine>,
        time: Duration,
        mut other: impl FnMut() -> Outcome,
        mut work: impl FnMut(Instant, &mut Latencies) -> Outcome<u64>,
    ) -> Outcome<Measured> {
        let latencies = Latencies::new();
        let latencies = latencies.ok_or_else(|| Failure::Other("no histogram can be made".to_owned()))?;
        let (usage, ring) = (ProcessUsage::default(), Counters::default());
        let mut measured = Measured { rates: Vec::new(), operations: 0, usage, ring, latencies };
        for _ in 0..SLICES {
            other()?;
            let before = Moment::now(engine)?;
            let started = Instant::now();
            let done = work(started + time / SLICES, &mut measured.latencies)?;
            measured.rates.push(done as f64 / started.elapsed().as_secs_f64());
            measured.operations += done;
            let after = Moment::now(engine)?;
            measured.add(&before, &after);
            if engine.is_some() {
                self.note(&before, &after);
            }
        }
        Ok(measured)
    }

    fn note(&mut self, before: &Moment, after: &Moment) {
        if let (Some(earlier), Some(later)) = (before.traffic, after.traffic) {
            self.checks.ring_read_bytes += after.ring.read_bytes - before.ring.read_bytes;
            self.checks.kernel_read_bytes += later.since(&earlier).read_bytes;
        }
        // Threads that end take their accounts with them: then there is nothing to compare.
        if let (Some(before_nanos), Some(after_nanos)) = (before.scheduled_nanos, after.scheduled_nanos)
            && after_nanos >= before_nanos
            && before.threads == after.threads
        {
            self.checks.usage += after.usage.since(&before.usage).cpu();
            self.checks.scheduled += Duration::from_nanos(after_nanos - before_nanos);
        }
    }
}

/// All counters at one moment.
struct Moment {
    ring: Counters,
    usage: ProcessUsage,
    traffic: Option<DeviceTraffic>,
    threads: usize,
    scheduled_nanos: Option<u64>,
}

impl Moment {
    fn now(engine: Option<&Engine>) -> Outcome<Self> {
        let stats = engine.map(|engine| engine.blocking().stats()).transpose()?;
        let (threads, scheduled_nanos) = scheduled();
        Ok(Self {
            ring: stats.and_then(|stats| stats.device).unwrap_or_default(),
            usage: ProcessUsage::now(),
            traffic: DeviceTraffic::now().ok(),
            threads,
            scheduled_nanos,
        })
    }
}

/// How many threads there are, and for how long they have run by the scheduler's accounts.
fn scheduled() -> (usize, Option<u64>) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return (0, None) };
    let nanos = tasks.flatten().map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    let nanos: Vec<_> = nanos.collect();
    (nanos.len(), nanos.into_iter().sum())
}
