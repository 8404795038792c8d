//! News of commits and reorgs.

use std::sync::{Mutex, PoisonError};

use op_engine_io::mailbox::{Receiver, Sender, mailbox};
use op_engine_shards::{BlockHash, Height};

/// Events that a subscriber may be behind before it is told that it has missed some.
const EVENTS_MAX: usize = 4096;

/// Something that has been acknowledged. Events come in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A block was committed.
    Committed {
        /// Its height.
        height: Height,
        /// Its hash.
        hash: BlockHash,
    },
    /// The chain went back.
    Reorged {
        /// The height of the tip before.
        from: Height,
        /// The height of the tip after.
        to: Height,
        /// The hash of the tip after.
        hash: BlockHash,
    },
    /// Events were lost because the subscriber was too slow: look at the tip.
    Missed,
}

/// Receives events from the moment of its making.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Event>,
}

impl Subscription {
    /// The next event; `None` when the engine has been closed and all has been received.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if one is there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv()
    }

    /// The next event, awaited by a blocked thread.
    pub fn next_blocking(&mut self) -> Option<Event> {
        op_engine_io::block_on(self.next())
    }
}

struct Subscriber {
    events: Sender<Event>,
    missed: bool,
}

/// Everybody who wants to know.
#[derive(Default)]
pub(crate) struct Subscribers(Mutex<Vec<Subscriber>>);

impl Subscribers {
    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, events) = mailbox(EVENTS_MAX);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Subscriber { events: sender, missed: false });
        Subscription { events }
    }

    /// Tells everybody. Who is too far behind misses the event, and is told so when there is room again.
    pub(crate) fn tell(&self, event: Event) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain_mut(|subscriber| {
            if subscriber.events.is_disconnected() {
                return false;
            }
            if subscriber.missed && subscriber.events.try_send(Event::Missed).is_ok() {
                subscriber.missed = false;
            }
            if subscriber.missed || subscriber.events.try_send(event).is_err() {
                subscriber.missed = true;
            }
            true
        });
    }

    /// Ends every subscription.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
