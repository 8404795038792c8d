//! How long to look for work before going to sleep.
//!
//! To wake a sleeping thread on another core takes tens of microseconds where a virtual machine has to wake the core
//! first, which is longer than most answers from memory take. So whoever has waited briefly the last few times looks
//! around a little before it sleeps, and gives its core to any other thread that can run meanwhile. Whoever has waited
//! long sleeps at once: looking around would only burn the core. So does everybody for a while once another thread has
//! taken the core for long: the kernel lets a thread that is woken go first, but not one that gives way.

use std::time::{Duration, Instant};

/// Waits that were longer than this on average are not worth looking around for.
const BRIEF: Duration = Duration::from_micros(60);
/// A single long wait counts for no more than this: one pause does not make a busy time forgotten.
const WAIT_COUNTED_MAX: Duration = Duration::from_micros(400);
/// Another thread that takes the core for longer than this wants it for itself.
const GIVEN_AWAY_MAX: Duration = Duration::from_micros(100);
/// For how long nobody looks around then.
const CROWDED: Duration = Duration::from_millis(200);

/// The recent waits of one thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The average, in which the last wait counts for a quarter.
    mean: Duration,
    /// Until when others want the core.
    crowded_until: Option<Instant>,
}

/// What looking around has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Found,
    /// The time is up.
    Nothing,
    /// Others want the core.
    Crowded,
}

impl Patience {
    /// Of a thread that has not waited yet: it sleeps until it has seen brief waits.
    pub(crate) const NONE: Self = Self { mean: WAIT_COUNTED_MAX, crowded_until: None };

    /// Looks for something before going to sleep, if that is worth it. Tells whether it is there.
    pub(crate) fn look_for(&mut self, is_there: impl FnMut() -> bool, spin_max: Duration) -> bool {
        let now = Instant::now();
        if !self.spins(now) || spin_max.is_zero() {
            return false;
        }
        let look = look_for(is_there, now, spin_max);
        if look == Look::Crowded {
            self.crowded_until = Instant::now().checked_add(CROWDED);
        }
        look == Look::Found
    }

    fn spins(self, now: Instant) -> bool {
        self.mean <= BRIEF && self.crowded_until.is_none_or(|until| until <= now)
    }

    /// Takes in how long a wait has been.
    pub(crate) fn learn(&mut self, waited: Duration) {
        self.mean = (self.mean * 3 + waited.min(WAIT_COUNTED_MAX)) / 4;
    }
}

/// Looks for something until it is there, the time is up, or another thread has taken the core for long.
fn look_for(mut is_there: impl FnMut() -> bool, began: Instant, time: Duration) -> Look {
    let mut before = began;
    loop {
        if is_there() {
            return Look::Found;
        }
        // Whoever is to bring it may be waiting for this very core.
        std::thread::yield_now();
        let now = Instant::now();
        if now.saturating_duration_since(before) >= GIVEN_AWAY_MAX {
            return if is_there() { Look::Found } else { Look::Crowded };
        }
        if now.saturating_duration_since(began) >= time {
            return if is_there() { Look::Found } else { Look::Nothing };
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(50);

    #[test]
    fn only_brief_waits_are_worth_looking_around_for() {
        let (mut patience, now) = (Patience::NONE, Instant::now());
        assert!(!patience.spins(now));
        (0..20).for_each(|_| patience.learn(Duration::from_micros(10)));
        assert!(patience.spins(now));
        patience.learn(Duration::from_secs(1));
        assert!(!patience.spins(now), "a pause is noticed");
        (0..3).for_each(|_| patience.learn(Duration::from_micros(5)));
        assert!(patience.spins(now), "and soon forgotten");
        (0..10).for_each(|_| patience.learn(Duration::from_micros(90)));
        assert!(!patience.spins(now));
    }

    #[test]
    fn nobody_looks_around_for_a_while_where_others_want_the_core() {
        let mut patience = Patience::NONE;
        (0..20).for_each(|_| patience.learn(Duration::ZERO));
        // What takes so long to look is as good as another thread that was let go first.
        let look = || {
            std::thread::sleep(GIVEN_AWAY_MAX * 2);
            false
        };
        assert!(!patience.look_for(look, Duration::from_secs(10)));
        let mut looks = 0;
        let count = || {
            looks += 1;
            true
        };
        assert!(!patience.look_for(count, SPIN));
        assert_eq!(looks, 0);
        assert!(patience.spins(Instant::now() + CROWDED));
    }

    #[test]
    fn looking_ends_with_the_time_or_the_find() {
        let now = Instant::now();
        assert_ne!(look_for(|| false, now, Duration::from_micros(10)), Look::Found);
        let mut patience = Patience::NONE;
        assert!(!patience.look_for(|| true, SPIN), "it does not even look");
        (0..20).for_each(|_| patience.learn(Duration::ZERO));
        assert!(patience.look_for(|| true, SPIN));
        assert!(!patience.look_for(|| true, Duration::ZERO));
    }
}
