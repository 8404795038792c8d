//! How much of a host's time, and of its device's, background tasks get while requests come in.
//!
//! Without requests they get all of it, in slices. With requests a slice is shorter, and after it the background
//! pauses until it has had no more than its share: a request waits for one short slice at most, and the rest of the core
//! is its own. A request that waits until a write is durable is still worked on, however long that takes: the kernel needs a
//! core to complete it, often this one. An operation of the background counts with the time it takes, so that on a slow
//! device it uses less of it, whatever its rate is. Work that has fallen behind asks for a larger share.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long background tasks run at once when nobody else wants the core.
const SLICE_ALONE: Duration = Duration::from_micros(500);
/// The same while requests come in.
const SLICE_CONTENDED: Duration = Duration::from_micros(100);
/// Requests are over when none has been worked on, and none has waited to become durable, for this long.
const LULL: Duration = Duration::from_micros(400);
const PERCENT_DEFAULT: u32 = 20;
/// The longest pause for one operation: a device that stalls once does not stop the background.
const IO_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The share of one host.
#[derive(Debug)]
pub(super) struct Share {
    percent: Cell<u32>,
    requests_until: Cell<Option<Instant>>,
    /// Writes that are becoming durable, and that a request may wait for.
    awaited: Cell<usize>,
    resume_at: Cell<Option<Instant>>,
    /// Whether the task that runs now is one of the background.
    in_background: Cell<bool>,
}

impl Share {
    pub(super) fn new() -> Self {
        Self {
            percent: Cell::new(PERCENT_DEFAULT),
            requests_until: Cell::new(None),
            awaited: Cell::new(0),
            resume_at: Cell::new(None),
            in_background: Cell::new(false),
        }
    }

    /// Sets what the background gets while requests come in, in percent of the time.
    pub(super) fn set_percent(&self, percent: u32) {
        let before = self.percent.replace(percent.clamp(1, 100));
        if percent > before {
            // What is urgent now was charged at the rate of what was not.
            self.resume_at.set(None);
        }
    }

    /// Notes that a request is being worked on.
    pub(super) fn note_request(&self, now: Instant) {
        self.requests_until.set(now.checked_add(LULL));
    }

    fn is_contended(&self, now: Instant) -> bool {
        self.awaited.get() > 0 || self.requests_until.get().is_some_and(|until| now < until)
    }

    /// How long background tasks may run before others are looked at.
    pub(super) fn slice(&self, now: Instant) -> Duration {
        if self.is_contended(now) { SLICE_CONTENDED } else { SLICE_ALONE }
    }

    /// Until when the background pauses, if it does.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        let resume_at = self.resume_at.get().filter(|resume_at| now < *resume_at)?;
        if self.awaited.get() > 0 {
            return Some(resume_at);
        }
        let requests_until = self.requests_until.get().filter(|until| now < *until)?;
        Some(resume_at.min(requests_until))
    }

    /// Notes that the background has run until now.
    pub(super) fn charge(&self, now: Instant, ran: Duration) {
        self.pause_for(now, self.pause_after(ran));
    }

    /// Notes that tasks of the background run from here on, or no longer.
    pub(super) fn set_in_background(&self, in_background: bool) {
        self.in_background.set(in_background);
    }

    /// Begins an operation on the device, which ends when the answer is dropped.
    pub(super) fn begin_io(&self, durable: bool) -> InFlight<'_> {
        let kind = match (self.in_background.get(), durable) {
            (true, _) => Kind::Background(Instant::now()),
            (false, true) => Kind::Awaited,
            (false, false) => Kind::Other,
        };
        if matches!(kind, Kind::Awaited) {
            self.awaited.set(self.awaited.get() + 1);
        }
        InFlight { share: self, kind }
    }

    /// Ends an operation of the background. Several at once count like the longest of them.
    fn end_background_io(&self, now: Instant, began: Instant) {
        let took = now.saturating_duration_since(began).min(IO_PAUSE_MAX);
        self.pause_for(now, self.pause_after(took).min(IO_PAUSE_MAX));
    }

    fn end_awaited_io(&self, now: Instant) {
        self.awaited.set(self.awaited.get() - 1);
        self.note_request(now);
    }

    fn pause_after(&self, busy: Duration) -> Duration {
        let percent = self.percent.get();
        busy * (100 - percent) / percent
    }

    fn pause_for(&self, now: Instant, pause: Duration) {
        // None of them means no pause, and is less than any.
        self.resume_at.set(self.resume_at.get().max(now.checked_add(pause)));
    }
}

/// An operation on the device that goes on.
pub(super) struct InFlight<'a> {
    share: &'a Share,
    kind: Kind,
}

enum Kind {
    /// One of the background, with the time when it began.
    Background(Instant),
    Awaited,
    Other,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        match self.kind {
            Kind::Background(began) => self.share.end_background_io(Instant::now(), began),
            Kind::Awaited => self.share.end_awaited_io(Instant::now()),
            Kind::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_requests_the_background_never_pauses() {
        let (share, now) = (Share::new(), Instant::now());
        share.charge(now, SLICE_ALONE);
        assert_eq!(share.pause(now), None);
        assert_eq!(share.slice(now), SLICE_ALONE);
    }

    #[test]
    fn with_requests_it_gets_its_share() {
        let (share, now) = (Share::new(), Instant::now());
        share.set_percent(25);
        share.note_request(now);
        assert_eq!(share.slice(now), SLICE_CONTENDED);
        share.charge(now, SLICE_CONTENDED);
        assert_eq!(share.pause(now), Some(now + SLICE_CONTENDED * 3));
        assert_eq!(share.pause(now + SLICE_CONTENDED * 3), None);
        share.set_percent(100);
        share.charge(now, SLICE_CONTENDED);
        assert_eq!(share.pause(now), None);
    }

    #[test]
    fn what_the_device_does_for_the_background_counts() {
        let (share, now) = (Share::new(), Instant::now());
        drop(share.begin_io(true));
        assert_eq!(share.resume_at.get(), None, "nobody of the background has asked");
        share.set_in_background(true);
        drop(share.begin_io(true));
        assert!(share.resume_at.get().is_some());
        let ms = Duration::from_millis;
        share.end_background_io(now + ms(8), now);
        assert_eq!(share.resume_at.get(), Some(now + ms(8 + 32)));
        share.note_request(now + ms(8));
        assert_eq!(share.pause(now + ms(8)), Some(now + ms(8) + LULL));
        share.end_background_io(now + ms(9000), now);
        assert_eq!(share.resume_at.get(), Some(now + ms(9000) + IO_PAUSE_MAX));
    }

    #[test]
    fn a_request_that_waits_to_become_durable_is_not_over() {
        let share = Share::new();
        let (commit, another) = (share.begin_io(true), share.begin_io(true));
        let later = Instant::now() + LULL * 10;
        assert_eq!(share.slice(later), SLICE_CONTENDED);
        share.charge(later, SLICE_CONTENDED);
        assert_eq!(share.pause(later), Some(later + SLICE_CONTENDED * 4));
        drop(commit);
        assert_eq!(share.slice(later), SLICE_CONTENDED, "one of two still waits");
        drop(another);
        assert_eq!(share.slice(later), SLICE_ALONE);
        assert_eq!(share.pause(later), None);
        assert_eq!(share.slice(Instant::now()), SLICE_CONTENDED, "the next request may follow from the last");
        let _read = share.begin_io(false);
        assert_eq!(share.slice(later), SLICE_ALONE);
    }

    #[test]
    fn a_lull_ends_the_pause() {
        let (share, now) = (Share::new(), Instant::now());
        share.set_percent(1);
        share.note_request(now);
        share.charge(now, SLICE_CONTENDED);
        assert_eq!(share.pause(now), Some(now + LULL));
        assert_eq!(share.pause(now + LULL), None);
    }
}
