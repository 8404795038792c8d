//! A flag that one task of a shard waits for and others raise.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Raised by any task of the host, lowered by the waiting one. Several waiting tasks are all woken.
#[derive(Debug, Default)]
pub struct Signal {
    raises: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Wakes whoever waits, now or next.
    pub fn raise(&self) {
        self.raises.set(self.raises.get().wrapping_add(1));
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }

    /// A mark to wait from: raises after it are not missed.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.raises.get()
    }

    /// Waits until the signal has been raised after `mark` was taken.
    pub async fn raised_since(&self, mark: u64) {
        poll_fn(|cx| {
            if self.raises.get() != mark {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
