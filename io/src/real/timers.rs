//! The timers of one host.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Sleeping tasks by deadline. A map and not a heap, so that a dropped sleep leaves nothing behind.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: RefCell<Sleepers>,
}

#[derive(Default)]
struct Sleepers {
    by_deadline: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
}

impl Timers {
    /// Resolves after `duration`. A duration beyond the clock's range never ends.
    pub(super) fn sleep(self: &Rc<Self>, duration: Duration) -> Sleep {
        Sleep { timers: Rc::clone(self), deadline: Instant::now().checked_add(duration), id: None }
    }

    /// Wakes whoever is due and tells the next deadline.
    pub(super) fn fire(&self) -> Option<Instant> {
        let mut sleepers = self.sleepers.borrow_mut();
        // Asked first: a host without timers pays nothing for the clock.
        let (first, _) = *sleepers.by_deadline.first_key_value()?.0;
        let now = Instant::now();
        if first > now {
            return Some(first);
        }
        let later = sleepers.by_deadline.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut sleepers.by_deadline, later);
        let next = sleepers.by_deadline.first_key_value().map(|((deadline, _), _)| *deadline);
        drop(sleepers);
        due.into_values().for_each(Waker::wake);
        next
    }
}

/// The future of [`Timers::sleep`].
pub(super) struct Sleep {
    timers: Rc<Timers>,
    deadline: Option<Instant>,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        let timers = Rc::clone(&self.timers);
        let mut sleepers = timers.sleepers.borrow_mut();
        let id = *self.id.get_or_insert_with(|| {
            sleepers.next_id += 1;
            sleepers.next_id
        });
        sleepers.by_deadline.insert((deadline, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(deadline), Some(id)) = (self.deadline, self.id) {
            let waker = self.timers.sleepers.borrow_mut().by_deadline.remove(&(deadline, id));
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn sleeps_fire_in_order_and_leave_nothing_when_dropped() {
        let timers = Rc::new(Timers::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut short = pin!(timers.sleep(Duration::from_millis(2)));
        let mut long = Box::pin(timers.sleep(Duration::from_secs(3600)));
        assert!(short.as_mut().poll(&mut cx).is_pending());
        assert!(long.as_mut().poll(&mut cx).is_pending());
        assert!(timers.fire().is_some());
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(timers.fire(), long.deadline, "only the long one is left");
        assert!(short.as_mut().poll(&mut cx).is_ready());
        drop(long);
        assert_eq!(timers.fire(), None);
    }

    #[test]
    fn a_sleep_beyond_the_clock_never_ends() {
        let timers = Rc::new(Timers::default());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(timers.sleep(Duration::MAX)).poll(&mut cx).is_pending());
        assert_eq!(timers.fire(), None);
    }
}
