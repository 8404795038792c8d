//! A bounded queue from any thread into one task.
//!
//! The receiver is woken through its task's waker, so a mailbox works the same on a shard's executor, in the
//! simulation and on a foreign runtime. The executor decides whether a wake needs to ring a doorbell.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crossbeam_channel::{TryRecvError, TrySendError};
use futures_util::task::AtomicWaker;

use crate::reply::Disconnected;

#[derive(Debug)]
struct Signals {
    receiver: AtomicWaker,
    receiver_gone: AtomicBool,
    senders_waiting: AtomicBool,
    senders: Mutex<VecDeque<Waker>>,
}

impl Signals {
    fn wake_senders(&self) {
        if self.senders_waiting.swap(false, Ordering::SeqCst) {
            let mut waiting = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
            for waker in waiting.drain(..) {
                waker.wake();
            }
        }
    }
}

/// Puts messages into a mailbox. Cheap to clone, usable from every thread.
#[derive(Debug)]
pub struct Sender<M> {
    /// `None` only while dropping: the receiver is woken after the queue has lost this sender.
    queue: Option<crossbeam_channel::Sender<M>>,
    signals: Arc<Signals>,
}

/// Takes messages out of a mailbox. There is one per mailbox.
#[derive(Debug)]
pub struct Receiver<M> {
    queue: crossbeam_channel::Receiver<M>,
    signals: Arc<Signals>,
}

/// Makes a mailbox that holds at most `capacity` messages.
#[must_use]
pub fn mailbox<M>(capacity: usize) -> (Sender<M>, Receiver<M>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let signals = Arc::new(Signals {
        receiver: AtomicWaker::new(),
        receiver_gone: AtomicBool::new(false),
        senders_waiting: AtomicBool::new(false),
        senders: Mutex::new(VecDeque::new()),
    });
    (Sender { queue: Some(sender), signals: Arc::clone(&signals) }, Receiver { queue: receiver, signals })
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), signals: Arc::clone(&self.signals) }
    }
}

impl<M> Drop for Sender<M> {
    fn drop(&mut self) {
        drop(self.queue.take());
        // The last sender's going is news to a waiting receiver; which one is last cannot be known here.
        self.signals.receiver.wake();
    }
}

impl<M> Sender<M> {
    #[expect(
        clippy::expect_used,
        reason = "the queue is taken only by drop, after which nobody can call this"
    )]
    fn queue(&self) -> &crossbeam_channel::Sender<M> {
        self.queue.as_ref().expect("a living sender has its queue")
    }

    /// Sends, waiting for room if the mailbox is full.
    ///
    /// # Errors
    /// [`Disconnected`] if the receiver is gone.
    pub async fn send(&self, message: M) -> Result<(), Disconnected> {
        let mut message = Some(message);
        poll_fn(|cx| self.poll_send(&mut message, cx)).await
    }

    fn poll_send(&self, message: &mut Option<M>, cx: &mut Context<'_>) -> Poll<Result<(), Disconnected>> {
        for registered in [false, true] {
            let Some(unsent) = message.take() else { return Poll::Ready(Ok(())) };
            match self.queue().try_send(unsent) {
                Ok(()) => {
                    self.signals.receiver.wake();
                    return Poll::Ready(Ok(()));
                }
                Err(TrySendError::Disconnected(_)) => return Poll::Ready(Err(Disconnected)),
                Err(TrySendError::Full(unsent)) => *message = Some(unsent),
            }
            if !registered {
                let mut waiting = self.signals.senders.lock().unwrap_or_else(PoisonError::into_inner);
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push_back(cx.waker().clone());
                }
                drop(waiting);
                self.signals.senders_waiting.store(true, Ordering::SeqCst);
                // Pairs with the fence in `poll_recv`: either the second attempt sees the freed place, or the
                // receiver sees this sender waiting.
                fence(Ordering::SeqCst);
            }
        }
        if self.signals.receiver_gone.load(Ordering::SeqCst) {
            return Poll::Ready(Err(Disconnected));
        }
        Poll::Pending
    }

    /// Sends from a thread that may block, waiting for room if the mailbox is full.
    ///
    /// # Errors
    /// [`Disconnected`] if the receiver is gone.
    pub fn send_blocking(&self, message: M) -> Result<(), Disconnected> {
        self.queue().send(message).map_err(|_| Disconnected)?;
        self.signals.receiver.wake();
        Ok(())
    }

    /// Whether the receiver is gone, so that nothing sent can arrive.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.signals.receiver_gone.load(Ordering::SeqCst)
    }

    /// Sends if there is room at once; hands the message back if there is none or the receiver is gone.
    ///
    /// # Errors
    /// The unsent message.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        self.queue().try_send(message).map_err(TrySendError::into_inner)?;
        self.signals.receiver.wake();
        Ok(())
    }
}

impl<M> Receiver<M> {
    /// The next message; `None` when every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<M> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message if one is there.
    pub fn try_recv(&mut self) -> Option<M> {
        let message = self.queue.try_recv().ok()?;
        self.after_taking();
        Some(message)
    }

    /// Polls for the next message, for callers that wait for several things at once.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<M>> {
        for registered in [false, true] {
            match self.queue.try_recv() {
                Ok(message) => {
                    self.after_taking();
                    return Poll::Ready(Some(message));
                }
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            if !registered {
                self.signals.receiver.register(cx.waker());
            }
        }
        Poll::Pending
    }

    fn after_taking(&self) {
        fence(Ordering::SeqCst);
        self.signals.wake_senders();
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        self.signals.receiver_gone.store(true, Ordering::SeqCst);
        self.signals.senders_waiting.store(true, Ordering::SeqCst);
        self.signals.wake_senders();
    }
}
