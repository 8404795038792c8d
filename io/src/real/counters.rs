//! What the rings of a world have done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ring::RingReport;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one ring. Written by the ring's thread only, read by any.
        #[derive(Debug, Default)]
        pub(super) struct RingCounters {
            $(pub(super) $name: Counter,)*
        }

        /// Sums over the rings of a world since it was opened, those that have ended included.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            fn add(&mut self, ring: &RingCounters) {
                $(self.$name += ring.$name.get();)*
            }
        }
    };
}

counters! {
    /// Reads that completed.
    reads,
    /// Bytes that were read.
    read_bytes,
    /// Writes that completed.
    writes,
    /// Bytes that were written.
    written_bytes,
    /// Writes and syncs that completed and made data durable.
    syncs,
    /// Operations that failed.
    failures,
    /// Parts of operations submitted again after a short transfer or a transient error.
    resubmissions,
    /// Entries into the kernel.
    enters,
    /// Waits for completions: a subset of the entries.
    waits,
    /// Completions that did not fit into the completion queue. Zero unless the queue is sized wrongly.
    overflows,
    /// Operations that had to wait for others to complete first, because too many were in flight.
    queued,
    /// Buffers that had to wait for arena memory.
    buffer_waits,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the thread that owns the counter may call this: no read-modify-write instruction is spent.
    pub(super) fn add(&self, amount: u64) {
        let Self(value) = self;
        value.store(value.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(super) fn set(&self, amount: u64) {
        self.0.store(amount, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The rings of a world: those that run, and the sum over those that have ended.
#[derive(Debug, Default)]
pub(super) struct Rings {
    state: Mutex<RingsState>,
}

#[derive(Debug, Default)]
struct RingsState {
    running: Vec<(Arc<RingCounters>, RingReport)>,
    ended: Counters,
}

impl Rings {
    pub(super) fn add(&self, counters: Arc<RingCounters>, report: RingReport) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).running.push((counters, report));
    }

    pub(super) fn end(&self, counters: &Arc<RingCounters>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.running.len();
        state.running.retain(|(running, _)| !Arc::ptr_eq(running, counters));
        if state.running.len() < before {
            state.ended.add(counters);
        }
    }

    pub(super) fn sum(&self) -> Counters {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = state.ended;
        state.running.iter().for_each(|(counters, _)| sum.add(counters));
        sum
    }

    pub(super) fn reports(&self) -> Vec<RingReport> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.iter().map(|(_, report)| report.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_ends_stays_in_the_sum() {
        let rings = Rings::default();
        let (first, second) = (Arc::new(RingCounters::default()), Arc::new(RingCounters::default()));
        rings.add(Arc::clone(&first), RingReport::default());
        rings.add(Arc::clone(&second), RingReport::default());
        first.reads.add(3);
        second.reads.add(4);
        rings.end(&first);
        rings.end(&first);
        assert_eq!(rings.sum().reads, 7);
        assert_eq!(rings.reports().len(), 1);
    }
}
