//! Offering the core to other threads between two slices of the background.
//!
//! A kernel that preempts lazily, or not at all, leaves a busy thread on its core until the next tick of up to 4 ms,
//! although others have been woken meanwhile: the kernel's worker that syncs for us, the committer, the thread of a user who
//! waits for his commit. So the core is offered after every slice. Whoever takes an offer and keeps the core for long is likely
//! another program: the next offer comes when this host has run for as long, so that such a neighbour gets no more than half.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What others may have of the core without being taken for another program. A worker of the kernel that waits for the device's
/// doorbell on a virtual machine was seen to need half of it.
const BRIEF: Duration = Duration::from_millis(1);

/// When a host offers its core.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    next_at: Cell<Option<Instant>>,
}

impl Courtesy {
    /// Lets others run, if it is time.
    pub(super) fn offer(&self, now: Instant) {
        if !self.is_due(now) {
            return;
        }
        std::thread::yield_now();
        let back = Instant::now();
        self.note(back, back.saturating_duration_since(now));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next_at.get().is_none_or(|next_at| next_at <= now)
    }

    /// Notes that others have had the core for so long.
    fn note(&self, back: Instant, taken: Duration) {
        let pause = if taken < BRIEF { Duration::ZERO } else { taken };
        self.next_at.set(back.checked_add(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_that_keeps_the_core_gets_half_of_it() {
        let (courtesy, mut now) = (Courtesy::default(), Instant::now());
        let (slice, turn) = (Duration::from_micros(500), Duration::from_millis(4));
        let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..10_000 {
            now += slice;
            ours += slice;
            if courtesy.is_due(now) {
                now += turn;
                theirs += turn;
                courtesy.note(now, turn);
            }
        }
        assert!(theirs <= ours && theirs >= ours * 4 / 5, "{ours:?} and {theirs:?}");
    }

    /// Each of these was charged once, so that a worker which completed one durable write waited longer for the next offer
    /// than for the device.
    #[test]
    fn brief_turns_of_others_are_not_charged() {
        let (courtesy, now) = (Courtesy::default(), Instant::now());
        assert!(courtesy.is_due(now));
        courtesy.note(now, BRIEF - Duration::from_nanos(1));
        assert!(courtesy.is_due(now));
        courtesy.note(now, BRIEF);
        assert!(!courtesy.is_due(now));
        assert!(courtesy.is_due(now + BRIEF));
    }
}
