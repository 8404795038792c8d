//! How long to look for work before going to sleep.
//!
//! To wake a sleeping thread on another core takes tens of microseconds where a virtual machine has to wake the core
//! first, which is longer than most answers from memory take. So whoever has waited briefly the last few times looks
//! around a little before it sleeps, and gives its core to any other thread that can run meanwhile. Whoever has waited
//! long sleeps at once: looking around would only burn the core.

use std::time::{Duration, Instant};

/// Waits that were longer than this on average are not worth looking around for.
const BRIEF: Duration = Duration::from_micros(60);
/// A single long wait counts for no more than this: one pause does not make a busy time forgotten.
const WAIT_COUNTED_MAX: Duration = Duration::from_micros(400);

/// The recent waits of one thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The average, in which each wait counts for a quarter of all that came after it.
    mean: Duration,
}

impl Patience {
    /// Of a thread that has not waited yet: it sleeps until it has seen brief waits.
    pub(crate) const NONE: Self = Self { mean: WAIT_COUNTED_MAX };

    /// How long to look around before going to sleep, if at all.
    pub(crate) fn spin(self, spin_max: Duration) -> Option<Duration> {
        (self.mean <= BRIEF).then_some(spin_max).filter(|spin| !spin.is_zero())
    }

    /// Takes in how long a wait has been.
    pub(crate) fn learn(&mut self, waited: Duration) {
        self.mean = (self.mean * 3 + waited.min(WAIT_COUNTED_MAX)) / 4;
    }
}

/// Looks for something until it is there or the time is up. Tells whether it is there.
pub(crate) fn look_for(mut is_there: impl FnMut() -> bool, time: Duration) -> bool {
    let began = Instant::now();
    loop {
        if is_there() {
            return true;
        }
        if began.elapsed() >= time {
            return false;
        }
        // Whoever is to bring it may be waiting for this very core.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(50);

    #[test]
    fn only_brief_waits_are_worth_looking_around_for() {
        let mut patience = Patience::NONE;
        assert_eq!(patience.spin(SPIN), None);
        (0..20).for_each(|_| patience.learn(Duration::from_micros(10)));
        assert_eq!(patience.spin(SPIN), Some(SPIN));
        assert_eq!(patience.spin(Duration::ZERO), None);
        patience.learn(Duration::from_secs(1));
        assert_eq!(patience.spin(SPIN), None, "a pause is noticed");
        (0..3).for_each(|_| patience.learn(Duration::from_micros(5)));
        assert_eq!(patience.spin(SPIN), Some(SPIN), "and soon forgotten");
        (0..10).for_each(|_| patience.learn(Duration::from_micros(90)));
        assert_eq!(patience.spin(SPIN), None);
    }

    #[test]
    fn looking_ends_with_the_time_or_the_find() {
        assert!(!look_for(|| false, Duration::from_micros(10)));
        let mut looks = 0;
        let found = look_for(
            || {
                looks += 1;
                looks == 3
            },
            Duration::from_secs(10),
        );
        assert!(found);
    }
}
