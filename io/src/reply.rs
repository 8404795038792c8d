//! One answer to one request, awaited on any runtime or by a blocked thread.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::patience::Patience;

/// The asked side has gone without answering: its shard or service has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine stopped before it answered")]
pub struct Disconnected;

/// The answering half of a [`reply`] pair.
#[derive(Debug)]
pub struct ReplySender<T>(oneshot::Sender<T>);

/// The asking half of a [`reply`] pair: a future that needs no particular runtime.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Receiver<T>);

/// Makes a pair over which exactly one value travels.
#[must_use]
pub fn reply<T>() -> (ReplySender<T>, Reply<T>) {
    let (sender, receiver) = oneshot::channel();
    (ReplySender(sender), Reply(receiver))
}

impl<T> ReplySender<T> {
    /// Answers. An asker that has given up is not an error: the answer is dropped.
    pub fn send(self, value: T) {
        drop(self.0.send(value));
    }

    /// Whether the asker has dropped its half.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.is_canceled()
    }
}

impl<T> Reply<T> {
    /// Blocks the calling thread until the answer is there. Never call it on a shard's thread.
    ///
    /// # Errors
    /// [`Disconnected`] if the answering half was dropped.
    pub fn wait(self) -> Result<T, Disconnected> {
        block_on(self)
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Disconnected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.map_err(|_| Disconnected))
    }
}

/// How long a thread looks for an answer before it sleeps, if its last answers came soon.
const SPIN_MAX: Duration = Duration::from_micros(40);

thread_local! {
    static PATIENCE: Cell<Patience> = const { Cell::new(Patience::NONE) };
}

/// Runs a future on the calling thread, which sleeps while the future waits; if the last waits of this thread were
/// brief, it looks for the answer a little before. Never call it on a shard's thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let began = Instant::now();
    let mut future = pin!(future);
    let mut patience = PATIENCE.get();
    let mut output = None;
    let mut context = Context::from_waker(Waker::noop());
    patience.look_for(
        || match future.as_mut().poll(&mut context) {
            Poll::Ready(ready) => {
                output = Some(ready);
                true
            }
            Poll::Pending => false,
        },
        SPIN_MAX,
    );
    let output = output.unwrap_or_else(|| pollster::block_on(future));
    patience.learn(began.elapsed());
    PATIENCE.set(patience);
    output
}
