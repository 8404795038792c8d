//! The way in which other threads wake a host that waits in its ring.
//!
//! A waker pushes its task into the ready queue, passes a fence and reads `parked`; the host sets `parked`, passes a
//! fence and looks at the queue again. So either the host sees the task, or the waker sees the parked host and rings.
//! An awake host costs its wakers no system call.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use super::sys;
use crate::task::Unpark;

/// An event descriptor and whether somebody waits for it.
pub(super) struct Doorbell {
    event: OwnedFd,
    parked: AtomicBool,
}

impl Doorbell {
    pub(super) fn new() -> Result<Arc<Self>, i32> {
        Ok(Arc::new(Self { event: sys::event_fd()?, parked: AtomicBool::new(false) }))
    }

    /// The descriptor whose reads wait for a ring of the bell.
    pub(super) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Announces that the host is about to wait. It looks at its ready tasks once more after this.
    pub(super) fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Announces that the host is awake.
    pub(super) fn awake(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Rings whether or not anybody waits.
    pub(super) fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // A full counter is the only possible failure, and then a ring is pending already.
        // SAFETY: eight bytes are read from a live array; the descriptor is open.
        unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Wakes the host of a doorbell. Wakers may outlive their host: the descriptor lives as long as they do.
pub(super) struct Bell(pub(super) Arc<Doorbell>);

impl Unpark for Bell {
    fn unpark(&self) {
        fence(Ordering::SeqCst);
        let Self(doorbell) = self;
        if doorbell.parked.load(Ordering::Relaxed) && doorbell.parked.swap(false, Ordering::SeqCst) {
            doorbell.ring();
        }
    }
}
