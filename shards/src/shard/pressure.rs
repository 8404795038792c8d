//! How far flushes and merges are behind, and how much a commit is slowed down for it.
//!
//! When a memtable is full and there is no room for one more, commits would wait until a flush has ended, and it makes no
//! difference to a flush when they do. So while the last memtable that there is room for fills, it may be no fuller than the
//! flush of the first has got on: commits come as fast as flushes go, each held back a little. Flushes that keep up hold
//! nothing back.
//!
//! Merges, and flushes that wait for space, have no progress that is worth waiting for commit by commit. Behind a soft mark
//! a commit is delayed in proportion to its bytes. At the mark the delay is nothing, at the hard limit twice the time that a
//! flush takes for as many bytes: somewhere between, commits come as fast as merges go, and the limit, where they would have
//! to wait, is not reached.

use std::cell::Cell;
use std::time::Duration;

use op_engine_io::num::to_u64;

use crate::signal::Signal;

/// A level is a fraction of this.
pub(super) const LEVEL_MAX: u64 = 1024;
/// What a flush writes in a second, until one has been measured.
const RATE_FIRST: u64 = 64 << 20;
/// No flush is taken to be slower, so that a single slow one does not stop commits.
const RATE_MIN: u64 = 1 << 20;
/// So much of a memtable, as a level, fills whether its predecessor's flush gets on or not.
const FILL_UNPACED: u64 = LEVEL_MAX / 8;
/// When so much is full, the entries of the flush must be written. The rest is for what it does after them: filters,
/// indexes, and making all of it durable.
const FILL_WRITTEN: u64 = LEVEL_MAX - LEVEL_MAX / 8;
/// Delays below this are saved up: timers are not as fine.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// A commit is not delayed for longer: the hard limit is there for what this does not hold back.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// How many bytes of commits the ratio of memory to bytes is taken over.
const RATIO_WINDOW_BYTES: u64 = 64 << 20;

/// Something that commits are slowed down for: from `soft` on smoothly, from `hard` on they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Debt {
    pub(super) amount: u64,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Debt {
    /// How far it is from the soft mark to the hard limit.
    pub(super) fn level(self) -> u64 {
        let Self { amount, soft, hard } = self;
        if amount <= soft {
            return 0;
        }
        let over = amount.min(hard.max(soft)) - soft;
        (over * LEVEL_MAX).checked_div(hard.saturating_sub(soft)).unwrap_or(LEVEL_MAX)
    }

    /// Whether commits wait.
    pub(super) fn is_at_limit(self) -> bool {
        self.amount >= self.hard
    }
}

/// A flush in progress.
#[derive(Debug, Clone, Copy)]
struct Flush {
    began: Duration,
    bytes: u64,
    entries: u64,
    entries_done: u64,
}

/// What is known of flushes and commits.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    flush: Cell<Option<Flush>>,
    /// Raised when the flush has got on, or commits need not wait for it any more.
    pub(super) flush_moved: Signal,
    /// Bytes of memtables that a flush gets through in a second.
    rate: Cell<Option<u64>>,
    /// Bytes of commits, and by how much memtables grew.
    applied: Cell<(u64, u64)>,
    /// Delays that were too short to be kept one by one.
    owed: Cell<Duration>,
}

impl Pressure {
    /// A flush of a memtable begins.
    pub(super) fn begin_flush(&self, now: Duration, bytes: usize, entries: usize) {
        let (bytes, entries) = (to_u64(bytes), to_u64(entries));
        self.flush.set(Some(Flush { began: now, bytes, entries, entries_done: 0 }));
    }

    /// The flush has got through some more entries.
    pub(super) fn advance_flush(&self, entries: usize) {
        if let Some(flush) = self.flush.get() {
            let entries_done = flush.entries_done + to_u64(entries);
            self.flush.set(Some(Flush { entries_done, ..flush }));
            self.flush_moved.raise();
        }
    }

    /// Whether a memtable that holds so many bytes, the last that there is room for, fills faster than the first is flushed.
    pub(super) fn is_ahead_of_flush(&self, bytes: usize, memtable_bytes_max: usize) -> bool {
        let flushed = self.flush.get().map_or(0, |flush| {
            (flush.entries_done.min(flush.entries) * LEVEL_MAX)
                .checked_div(flush.entries)
                .unwrap_or(LEVEL_MAX)
        });
        let fill = Debt { amount: to_u64(bytes), soft: 0, hard: to_u64(memtable_bytes_max) }.level();
        Debt { amount: fill, soft: FILL_UNPACED, hard: FILL_WRITTEN }.level() > flushed
    }

    /// The flush has ended. Its speed counts if it was done, and not so small that it says little.
    pub(super) fn end_flush(&self, now: Duration, done: bool, memtable_bytes_max: usize) {
        let Some(flush) = self.flush.take() else { return };
        if !done || flush.bytes < to_u64(memtable_bytes_max) / 2 {
            return;
        }
        let nanos = now.saturating_sub(flush.began).as_nanos().max(1);
        let rate = u64::try_from(u128::from(flush.bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
        let rate = rate.clamp(RATE_MIN, 1 << 40);
        self.rate.set(Some(self.rate.get().map_or(rate, |before| (before * 3 + rate) / 4)));
    }

    /// The part of the memtable in hand that has been flushed, in bytes.
    pub(super) fn flushed_bytes(&self) -> u64 {
        let part = |flush: Flush| {
            let done = u128::from(flush.entries_done.min(flush.entries));
            let bytes = (u128::from(flush.bytes) * done).checked_div(u128::from(flush.entries));
            bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
        };
        self.flush.get().map_or(0, part)
    }

    /// A commit of `bytes` has made a memtable grow.
    pub(super) fn note_commit(&self, bytes: usize, growth: usize) {
        let (before, grown) = self.applied.get();
        let (bytes, growth) = (before + to_u64(bytes), grown + to_u64(growth));
        let window = if bytes > RATIO_WINDOW_BYTES { 2 } else { 1 };
        self.applied.set((bytes / window, growth / window));
    }

    /// How long a commit of `bytes` is to be delayed at a level, while flushes go on or wait. What is short is saved up.
    pub(super) fn delay(&self, bytes: usize, level: u64, flushes_wait: bool) -> Duration {
        if level == 0 {
            self.owed.set(Duration::ZERO);
            return Duration::ZERO;
        }
        let (applied, grown) = self.applied.get();
        let memory =
            u128::from(to_u64(bytes)) * u128::from(grown.max(applied).max(1)) / u128::from(applied.max(1));
        let rate = if flushes_wait { RATE_MIN } else { self.rate.get().unwrap_or(RATE_FIRST) };
        let nanos = memory * 2_000_000_000 * u128::from(level) / u128::from(LEVEL_MAX * rate);
        let delay = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let owed = self.owed.get().saturating_add(delay).min(DELAY_MAX);
        let due = if owed < DELAY_MIN { Duration::ZERO } else { owed };
        self.owed.set(owed.saturating_sub(due));
        due
    }
}

/// What is left of a delay that was due at level `then`, if the level is another by now. It does not grow.
pub(super) fn still_due(delay: Duration, then: u64, now: u64) -> Duration {
    let nanos = delay.as_nanos().saturating_mul(u128::from(now.min(then)));
    let nanos = nanos.checked_div(u128::from(then)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The marks for bytes in memtables, of which each has at most `memtable_bytes` and `frozen_max` wait at most.
pub(super) fn memtable_marks(memtable_bytes: usize, frozen_max: usize) -> (u64, u64) {
    let one = to_u64(memtable_bytes);
    let hard = one.saturating_mul(to_u64(frozen_max).saturating_add(1));
    (one + (hard - one) / 4, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_level_rises_evenly_from_the_soft_mark_to_the_hard_limit() {
        let level = |amount| Debt { amount, soft: 100, hard: 200 }.level();
        assert_eq!([0, 100, 150, 175, 200, 900].map(level), [0, 0, 512, 768, 1024, 1024]);
        assert!(!Debt { amount: 199, soft: 100, hard: 200 }.is_at_limit());
        assert!(Debt { amount: 200, soft: 100, hard: 200 }.is_at_limit());
        // Without room between the two there is nothing smooth.
        let level = |amount| Debt { amount, soft: 100, hard: 100 }.level();
        assert_eq!([100, 101].map(level), [0, 1024]);
        assert_eq!(Debt { amount: 5, soft: 9, hard: 3 }.level(), 0);
    }

    #[test]
    fn marks_leave_a_memtable_that_fills_and_one_that_is_flushed_alone() {
        assert_eq!(memtable_marks(64, 1), (80, 128));
        assert_eq!(memtable_marks(64, 2), (96, 192));
        assert_eq!(memtable_marks(64, 0), (64, 64));
    }

    #[test]
    fn a_delay_follows_bytes_level_and_the_speed_of_flushes() {
        let pressure = Pressure::default();
        let at_rate_first = pressure.delay(MIB, LEVEL_MAX, false);
        assert_eq!(pressure.delay(MIB >> 3, LEVEL_MAX, true), Duration::from_millis(250));
        assert_eq!(at_rate_first, Duration::from_secs(2) / 64);
        assert_eq!(pressure.delay(MIB, LEVEL_MAX / 2, false), at_rate_first / 2);
        assert_eq!(pressure.delay(MIB, 0, true), Duration::ZERO);

        // A flush of 8 MiB in a second, and commits that take twice their bytes in memory.
        pressure.begin_flush(Duration::from_secs(5), 8 * MIB, 1000);
        pressure.end_flush(Duration::from_secs(6), true, 8 * MIB);
        pressure.note_commit(MIB, 2 * MIB);
        assert_eq!(pressure.delay(MIB, LEVEL_MAX / 2, false), Duration::from_millis(250));
        assert_eq!(pressure.delay(64 * MIB, LEVEL_MAX, false), DELAY_MAX);
    }

    #[test]
    fn a_delay_shrinks_with_its_level_and_does_not_grow() {
        let delay = Duration::from_millis(8);
        let left = |now| still_due(delay, 512, now).as_millis();
        assert_eq!([1024, 512, 256, 0].map(left), [8, 8, 4, 0]);
        assert_eq!(still_due(delay, 0, 7), Duration::ZERO);
    }

    #[test]
    fn flushes_that_failed_or_were_small_say_nothing_about_speed() {
        let pressure = Pressure::default();
        let flush = |bytes, done| {
            pressure.begin_flush(Duration::ZERO, bytes, 10);
            pressure.end_flush(Duration::from_secs(8), done, 16 * MIB);
        };
        flush(16 * MIB, false);
        flush(7 * MIB, true);
        assert_eq!(pressure.rate.get(), None);
        flush(16 * MIB, true);
        assert_eq!(pressure.rate.get(), Some(to_u64(2 * MIB)));
        pressure.begin_flush(Duration::ZERO, 16 * MIB, 10);
        pressure.end_flush(Duration::from_secs(1), true, 16 * MIB);
        assert_eq!(pressure.rate.get(), Some(to_u64(2 * MIB * 3 + 16 * MIB) / 4));
    }

    #[test]
    fn short_delays_are_saved_up_and_forgotten_when_flushes_have_caught_up() {
        let pressure = Pressure::default();
        let bytes = 8 << 10;
        let mut slept = Duration::ZERO;
        for _ in 0..1000 {
            let delay = pressure.delay(bytes, LEVEL_MAX, false);
            assert!(delay.is_zero() || delay >= DELAY_MIN);
            slept += delay;
        }
        let wanted = pressure.delay(1000 * bytes, LEVEL_MAX, false);
        assert!(slept > wanted * 9 / 10 && slept <= wanted + DELAY_MIN, "{slept:?} of {wanted:?}");
        pressure.delay(bytes, LEVEL_MAX, false);
        assert!(!pressure.owed.get().is_zero());
        pressure.delay(bytes, 0, false);
        assert!(pressure.owed.get().is_zero());
    }

    #[test]
    fn progress_is_a_part_of_the_memtable_in_hand() {
        let pressure = Pressure::default();
        assert_eq!(pressure.flushed_bytes(), 0);
        pressure.begin_flush(Duration::ZERO, MIB, 4);
        pressure.advance_flush(1);
        assert_eq!(pressure.flushed_bytes(), to_u64(MIB) / 4);
        pressure.advance_flush(5);
        assert_eq!(pressure.flushed_bytes(), to_u64(MIB));
        pressure.end_flush(Duration::ZERO, true, MIB);
        assert_eq!(pressure.flushed_bytes(), 0);
        pressure.begin_flush(Duration::ZERO, 100, 0);
        assert_eq!(pressure.flushed_bytes(), 0);
    }

    #[test]
    fn a_memtable_may_be_as_full_as_the_one_before_is_flushed() {
        let pressure = Pressure::default();
        pressure.begin_flush(Duration::ZERO, 64 * MIB, 1000);
        let fullest = |pressure: &Pressure| {
            (0..=640).rev().find(|tenth| !pressure.is_ahead_of_flush(tenth * MIB / 10, 64 * MIB)).unwrap()
        };
        assert_eq!(fullest(&pressure), 80, "an eighth fills at once");
        pressure.advance_flush(500);
        assert_eq!(fullest(&pressure), 320);
        pressure.advance_flush(499);
        assert!(fullest(&pressure) < 560);
        pressure.advance_flush(1);
        assert_eq!(fullest(&pressure), 640, "the last eighth is for the end of the flush");
        pressure.end_flush(Duration::ZERO, true, 64 * MIB);
        assert_eq!(fullest(&pressure), 80);
        pressure.begin_flush(Duration::ZERO, 100, 0);
        assert_eq!(fullest(&pressure), 640, "nothing to be written is written");
    }

    /// Commits of a MiB, which take `commit_micros`, and flushes of memtables of 64, of which the end takes an eighth of
    /// `flush_micros`, with room for two memtables. Gives the mean time of a commit and the longest.
    fn settle(commit_micros: u64, flush_micros: u64) -> (u64, u64) {
        const MEMTABLE: usize = 64;
        let pressure = Pressure::default();
        let (mut now, mut active, mut flush_began) = (0, 0, None);
        let (mut measured, mut longest) = (0, 0);
        for commit in 0..4000 {
            let began = now;
            loop {
                let done =
                    flush_began.map_or(0, |began| (now - began) * 1000 / (flush_micros * 7 / 8)).min(1000);
                if let Some(flush) = pressure.flush.get() {
                    pressure.advance_flush(usize::try_from(done - flush.entries_done).unwrap());
                }
                if flush_began.is_some_and(|began| now >= began + flush_micros) {
                    pressure.end_flush(Duration::from_micros(now), true, MEMTABLE * MIB);
                    flush_began = None;
                }
                if active >= MEMTABLE && flush_began.is_none() {
                    pressure.begin_flush(Duration::from_micros(now), MEMTABLE * MIB, 1000);
                    (active, flush_began) = (0, Some(now));
                }
                let waits = flush_began.is_some()
                    && (active >= MEMTABLE || pressure.is_ahead_of_flush(active * MIB, MEMTABLE * MIB));
                if !waits {
                    break;
                }
                now += 10;
            }
            now += commit_micros;
            active += 1;
            if commit >= 2000 {
                measured += now - began;
                longest = longest.max(now - began);
            }
        }
        (measured / 2000, longest)
    }

    #[test]
    fn commits_settle_at_the_speed_of_flushes_and_are_not_slowed_when_those_keep_up() {
        for flush_micros in [100_000, 400_000, 620_000] {
            assert_eq!(settle(10_000, flush_micros), (10_000, 10_000));
        }
        for (commit_micros, flush_micros) in [(10_000, 700_000), (10_000, 1_300_000), (1_000, 1_300_000)] {
            let (mean, longest) = settle(commit_micros, flush_micros);
            let as_flushed = flush_micros / 64;
            assert!((as_flushed * 99 / 100..=as_flushed * 11 / 10).contains(&mean), "{mean} of {as_flushed}");
            // The end of a flush has no progress of its own: commits that are done before it wait for the rest of it.
            let end_left = (flush_micros / 8).saturating_sub(8 * commit_micros);
            let most = commit_micros + end_left.max(2 * as_flushed);
            assert!(longest <= most, "{longest} of {most}");
        }
    }

    /// Commits and what gets through them as two flows of so many bytes a microsecond, in commits of a MiB, with delays alone. Gives
    /// the commits' bytes in a millisecond once they have settled, and the highest backlog in MiB.
    fn settle_by_delays(ingest: u64, flush: u64) -> (u64, u64) {
        let mib = to_u64(MIB);
        let memtable = 64 * mib;
        let (soft, hard) = memtable_marks(64 * MIB, 1);
        let pressure = Pressure::default();
        let (mut now, mut active, mut frozen, mut highest) = (Duration::ZERO, 0, 0, 0);
        let mut measured = Duration::ZERO;
        for commit in 0..4000 {
            let level = Debt { amount: active + frozen, soft, hard }.level();
            let time = Duration::from_micros(mib / ingest) + pressure.delay(MIB, level, false);
            now += time;
            let before = frozen;
            frozen = frozen.saturating_sub(flush * u64::try_from(time.as_micros()).unwrap());
            if before > 0 && frozen == 0 {
                pressure.end_flush(now, true, 64 * MIB);
            }
            active += mib;
            if active >= memtable && frozen == 0 {
                (frozen, active) = (active, 0);
                pressure.begin_flush(now, 64 * MIB, 1);
            }
            highest = highest.max(active + frozen);
            if commit >= 2000 {
                measured += time;
            }
        }
        (2000 * mib / u64::try_from(measured.as_millis()).unwrap(), highest / mib)
    }

    #[test]
    fn delays_bring_commits_to_the_speed_of_what_they_wait_for() {
        for (ingest, flush) in [(100, 110), (100, 400)] {
            let (rate, highest) = settle_by_delays(ingest, flush);
            assert!(rate >= ingest * 999, "{rate} of {ingest}");
            assert!(highest < 80);
        }
        for (ingest, flush) in [(100, 50), (400, 40), (2000, 50)] {
            let (rate, highest) = settle_by_delays(ingest, flush);
            assert!((flush * 900..=flush * 1020).contains(&rate), "{rate} of {flush}");
            assert!(highest < 128, "the limit is not reached: {highest}");
        }
    }
}
