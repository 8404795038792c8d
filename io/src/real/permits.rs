//! A bound on how many operations of one ring are in flight.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A counting semaphore of one thread, first come, first served.
pub(super) struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
}

struct Ticket {
    granted: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Cell::new(count), waiting: RefCell::new(VecDeque::new()) }
    }

    /// Whether the next one to acquire will wait.
    pub(super) fn are_used_up(&self) -> bool {
        self.free.get() == 0
    }

    /// Resolves when a permit is the caller's, who gives it back with [`Permits::release`].
    pub(super) fn acquire(&self) -> Acquire<'_> {
        Acquire { permits: self, ticket: None, done: false }
    }

    /// Hands a permit to the longest waiter, or keeps it.
    pub(super) fn release(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some(ticket) => {
                ticket.granted.set(true);
                ticket.waker.borrow().wake_by_ref();
            }
            None => self.free.set(self.free.get() + 1),
        }
    }
}

/// The future of [`Permits::acquire`]. Dropped early, it passes on what it was granted.
pub(super) struct Acquire<'a> {
    permits: &'a Permits,
    ticket: Option<Rc<Ticket>>,
    done: bool,
}

impl Future for Acquire<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(ticket) = &self.ticket {
            if ticket.granted.get() {
                self.done = true;
                return Poll::Ready(());
            }
            ticket.waker.borrow_mut().clone_from(cx.waker());
            return Poll::Pending;
        }
        let free = self.permits.free.get();
        if free > 0 {
            self.permits.free.set(free - 1);
            self.done = true;
            return Poll::Ready(());
        }
        let ticket = Rc::new(Ticket { granted: Cell::new(false), waker: RefCell::new(cx.waker().clone()) });
        self.permits.waiting.borrow_mut().push_back(Rc::clone(&ticket));
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take().filter(|_| !self.done) else { return };
        if ticket.granted.get() {
            self.permits.release();
        } else {
            self.permits.waiting.borrow_mut().retain(|waiting| !Rc::ptr_eq(waiting, &ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn a_dropped_waiter_passes_its_permit_on() {
        let permits = Permits::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(permits.acquire()).poll(&mut cx).is_ready());
        let mut first = Box::pin(permits.acquire());
        let mut second = Box::pin(permits.acquire());
        let mut third = Box::pin(permits.acquire());
        for waiter in [&mut first, &mut second, &mut third] {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        drop(second);
        permits.release();
        drop(first);
        assert!(
            third.as_mut().poll(&mut cx).is_ready(),
            "the permit of the dropped waiter reaches the third"
        );
        drop(third);
        permits.release();
        assert_eq!(permits.free.get(), 1);
    }
}
