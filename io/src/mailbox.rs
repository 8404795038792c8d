//! A bounded queue from any thread into one task.
//!
//! The receiver is woken through its task's waker, so a mailbox works the same on a shard's executor, in the
//! simulation and on a foreign runtime. The executor decides whether a wake needs to ring a doorbell.
//!
//! The queue is behind a lock that sleeps, although queues without locks are faster when nobody is interrupted. A
//! sender can be preempted anywhere, by the very receiver that it has just woken: a receiver that meets a message half
//! sent, or a waker half taken, can only look again and again, and keeps the sender from its core for a whole turn of the
//! scheduler. Whoever meets a held lock sleeps, and the core goes to its holder.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::reply::Disconnected;

#[derive(Debug)]
struct State<M> {
    messages: VecDeque<M>,
    /// The receiver's task, while it waits for a message.
    receiver: Option<Waker>,
    receiver_gone: bool,
    senders: usize,
    /// The tasks of senders that wait for room.
    waiting: VecDeque<Waker>,
    /// How many senders block their threads for it.
    blocked: usize,
}

#[derive(Debug)]
struct Shared<M> {
    capacity: usize,
    state: Mutex<State<M>>,
    room: Condvar,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the oldest message, and lets those know that wait for its place.
    fn take(&self, mut state: MutexGuard<'_, State<M>>) -> Option<M> {
        let message = state.messages.pop_front()?;
        let (waiting, blocked) = (std::mem::take(&mut state.waiting), state.blocked);
        drop(state);
        if blocked > 0 {
            self.room.notify_one();
        }
        waiting.into_iter().for_each(Waker::wake);
        Some(message)
    }
}

/// What has become of an attempt to send.
enum Attempt<'a, M> {
    Sent,
    Gone(M),
    Full(M, MutexGuard<'a, State<M>>),
}

/// Puts messages into a mailbox. Cheap to clone, usable from every thread.
#[derive(Debug)]
pub struct Sender<M>(Arc<Shared<M>>);

/// Takes messages out of a mailbox. There is one per mailbox.
#[derive(Debug)]
pub struct Receiver<M>(Arc<Shared<M>>);

/// Makes a mailbox that holds at most `capacity` messages, at least one.
#[must_use]
pub fn mailbox<M>(capacity: usize) -> (Sender<M>, Receiver<M>) {
    let state = State {
        messages: VecDeque::new(),
        receiver: None,
        receiver_gone: false,
        senders: 1,
        waiting: VecDeque::new(),
        blocked: 0,
    };
    let shared =
        Arc::new(Shared { capacity: capacity.max(1), state: Mutex::new(state), room: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        let Self(shared) = self;
        shared.lock().senders += 1;
        Self(Arc::clone(shared))
    }
}

impl<M> Drop for Sender<M> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        let receiver = if state.senders == 0 { state.receiver.take() } else { None };
        drop(state);
        // That no message can come any more is news to a receiver that waits for one.
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<M> Sender<M> {
    /// Sends, waiting for room if the mailbox is full.
    ///
    /// # Errors
    /// [`Disconnected`] if the receiver is gone.
    pub async fn send(&self, message: M) -> Result<(), Disconnected> {
        let mut message = Some(message);
        poll_fn(|cx| self.poll_send(&mut message, cx)).await
    }

    fn poll_send(&self, message: &mut Option<M>, cx: &mut Context<'_>) -> Poll<Result<(), Disconnected>> {
        let Some(unsent) = message.take() else { return Poll::Ready(Ok(())) };
        match self.attempt(self.0.lock(), unsent) {
            Attempt::Sent => Poll::Ready(Ok(())),
            Attempt::Gone(_) => Poll::Ready(Err(Disconnected)),
            Attempt::Full(unsent, mut state) => {
                *message = Some(unsent);
                if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.waiting.push_back(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Sends from a thread that may block, waiting for room if the mailbox is full.
    ///
    /// # Errors
    /// [`Disconnected`] if the receiver is gone.
    pub fn send_blocking(&self, message: M) -> Result<(), Disconnected> {
        let Self(shared) = self;
        let mut attempt = self.attempt(shared.lock(), message);
        loop {
            let (unsent, mut state) = match attempt {
                Attempt::Sent => return Ok(()),
                Attempt::Gone(_) => return Err(Disconnected),
                Attempt::Full(unsent, state) => (unsent, state),
            };
            state.blocked += 1;
            let mut state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
            attempt = self.attempt(state, unsent);
        }
    }

    /// Whether the receiver is gone, so that nothing sent can arrive.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.0.lock().receiver_gone
    }

    /// Sends if there is room at once; hands the message back if there is none or the receiver is gone.
    ///
    /// # Errors
    /// The unsent message.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        match self.attempt(self.0.lock(), message) {
            Attempt::Sent => Ok(()),
            Attempt::Gone(unsent) | Attempt::Full(unsent, _) => Err(unsent),
        }
    }

    fn attempt<'a>(&self, mut state: MutexGuard<'a, State<M>>, message: M) -> Attempt<'a, M> {
        if state.receiver_gone {
            return Attempt::Gone(message);
        }
        if state.messages.len() >= self.0.capacity {
            return Attempt::Full(message, state);
        }
        state.messages.push_back(message);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Attempt::Sent
    }
}

impl<M> Receiver<M> {
    /// The next message; `None` when every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<M> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message if one is there.
    pub fn try_recv(&mut self) -> Option<M> {
        self.0.take(self.0.lock())
    }

    /// Polls for the next message, for callers that wait for several things at once.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<M>> {
        let Self(shared) = self;
        let mut state = shared.lock();
        if !state.messages.is_empty() {
            return Poll::Ready(shared.take(state));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        if state.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let before = state.receiver.replace(cx.waker().clone());
        drop(state);
        // What else its owner frees is not for the lock to wait for.
        drop(before);
        Poll::Pending
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        let Self(shared) = self;
        let mut state = shared.lock();
        state.receiver_gone = true;
        let (unread, receiver) = (std::mem::take(&mut state.messages), state.receiver.take());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        shared.room.notify_all();
        waiting.into_iter().for_each(Waker::wake);
        // Messages can hold senders of this very mailbox.
        drop((unread, receiver));
    }
}
