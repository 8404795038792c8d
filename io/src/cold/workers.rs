//! A few threads that make blocking calls for askers who do not wait longer than they want to.
//!
//! A call on a mount that hangs cannot be taken back: its thread is stuck until the kernel lets go of it. So there is a
//! bounded number of threads, and every request has a deadline that one more thread watches. When all threads are stuck,
//! requests fail at once, until one comes back. Nobody ever joins such a thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::fault::ColdFault;
use crate::real::sys::Affinity;
use crate::reply::{ReplySender, reply};

/// How many requests wait at most.
const QUEUE_MAX: usize = 4096;
/// The longest that anybody waits, so that every deadline is a time that there is.
const LIMIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The threads. Clones are handles to the same ones, which end when the last handle has gone and what was handed over is
/// done.
#[derive(Clone)]
pub(super) struct Workers {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    /// The cores they run on; without them, where their maker runs.
    cores: Option<Affinity>,
    threads_max: usize,
    state: Mutex<State>,
    work: Condvar,
    watch: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// By when each request must be answered that is not yet, and how it is told otherwise.
    deadlines: BTreeMap<(Instant, u64), Fail>,
    running: BTreeSet<u64>,
    /// Those of the running whose deadline has passed.
    stuck: BTreeSet<u64>,
    threads: usize,
    idle: usize,
    watched: bool,
    closed: bool,
    last_id: u64,
}

struct Job {
    key: (Instant, u64),
    call: Box<dyn FnOnce() + Send>,
}

type Fail = Box<dyn FnOnce(Failure) + Send>;

/// Who waits for an answer, until it is there or the deadline has passed.
struct Asker<T>(Mutex<Option<ReplySender<Result<T, Failure>>>>);

impl<T> Asker<T> {
    fn lock(&self) -> MutexGuard<'_, Option<ReplySender<Result<T, Failure>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, answer: Result<T, Failure>) {
        let sender = self.lock().take();
        if let Some(sender) = sender {
            sender.send(answer);
        }
    }

    fn has_gone(&self) -> bool {
        self.lock().as_ref().is_none_or(ReplySender::is_abandoned)
    }
}

impl Workers {
    /// At most `threads_max` threads, at least one. None is started before there is work.
    pub(super) fn new(threads_max: usize, cores: Option<Affinity>) -> Self {
        let shared = Arc::new(Shared {
            cores,
            threads_max: threads_max.max(1),
            state: Mutex::default(),
            work: Condvar::new(),
            watch: Condvar::new(),
        });
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Makes a call and waits for it, `limit` at most. The call is told how to ask whether anybody still waits for it. It is
    /// not begun if nobody does.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, answer) = reply();
        let asker = Arc::new(Asker(Mutex::new(Some(sender))));
        let failed = Arc::clone(&asker);
        let call = move || {
            if !asker.has_gone() {
                let result = call(&|| asker.has_gone());
                asker.answer(result);
            }
        };
        self.hand_over(limit, Box::new(call), Box::new(move |failure| failed.answer(Err(failure))))?;
        // Only a call that panicked leaves its asker without an answer.
        answer.await.unwrap_or_else(|_| Err(Failure::new(ColdFault::Other, "the request was given up")))
    }

    /// Makes a call for nobody. It is left out if that is not begun within `limit`, or if there is no thread for it.
    pub(super) fn detach(&self, limit: Duration, call: impl FnOnce() + Send + 'static) {
        if let Err(failure) = self.hand_over(limit, Box::new(call), Box::new(|_| {})) {
            tracing::debug!(reason = failure.what, "left out cleaning up in the cold target");
        }
    }

    fn hand_over(&self, limit: Duration, call: Box<dyn FnOnce() + Send>, fail: Fail) -> Result<(), Failure> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.stuck.len() >= shared.threads_max {
            return Err(shared.all_stuck());
        }
        if state.queue.len() >= QUEUE_MAX {
            let what =
                format!("{QUEUE_MAX} requests wait already: the target is too slow for what is asked of it");
            return Err(Failure::new(ColdFault::TimedOut, what));
        }
        shared.staff(&mut state)?;
        state.last_id += 1;
        let key = (Instant::now() + limit.min(LIMIT_MAX), state.last_id);
        state.queue.push_back(Job { key, call });
        state.deadlines.insert(key, fail);
        let is_first = state.deadlines.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        shared.work.notify_one();
        if is_first {
            shared.watch.notify_one();
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.watch.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_stuck(&self) -> Failure {
        let what = format!("{} earlier requests hang: the mount does not answer", self.threads_max);
        Failure::new(ColdFault::Unreachable, what)
    }

    /// Sees to it that there is a thread for one more request, and the one that watches.
    fn staff(self: &Arc<Self>, state: &mut State) -> Result<(), Failure> {
        if !state.watched {
            self.start("cold-watch", Self::watch)?;
            state.watched = true;
        }
        if state.idle <= state.queue.len() && state.threads < self.threads_max {
            match self.start("cold", Self::work) {
                Ok(()) => state.threads += 1,
                Err(failure) if state.threads == 0 => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, name: &str, body: impl FnOnce(&Self) + Send + 'static) -> Result<(), Failure> {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(Err(errno)) = shared.cores.as_ref().map(Affinity::apply) {
                tracing::debug!(errno, "a thread for cold data stays on the core of its maker");
            }
            body(&shared);
        });
        let refused = |error: std::io::Error| {
            let what = format!("no thread could be started ({error}): raise the limit of threads");
            Failure::new(ColdFault::Other, what)
        };
        thread.map(drop).map_err(refused)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(job) = state.queue.pop_front() else {
                if state.closed {
                    return;
                }
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            let id = job.key.1;
            state.running.insert(id);
            drop(state);
            if catch_unwind(AssertUnwindSafe(job.call)).is_err() {
                tracing::error!("a request to the cold target panicked");
            }
            state = self.lock();
            state.running.remove(&id);
            state.stuck.remove(&id);
            // What tells the asker holds nothing any more that does anything when dropped.
            state.deadlines.remove(&job.key);
        }
    }

    fn watch(&self) {
        let mut state = self.lock();
        while !state.closed {
            let failed = self.expire(&mut state, Instant::now());
            if !failed.is_empty() {
                drop(state);
                // Dropping calls that are not made can hand over others: never under the lock.
                for (job, fail, failure) in failed {
                    fail(failure);
                    drop(job);
                }
                state = self.lock();
                continue;
            }
            let next = state.deadlines.first_key_value().map(|((deadline, _), _)| *deadline);
            state = match next {
                None => self.watch.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let pause = deadline.saturating_duration_since(Instant::now());
                    self.watch.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes out the requests whose deadline has passed, and all that wait if no thread is left for them.
    fn expire(&self, state: &mut State, now: Instant) -> Vec<(Option<Job>, Fail, Failure)> {
        let mut failed = Vec::new();
        while let Some(first) = state.deadlines.first_entry()
            && first.key().0 <= now
        {
            let ((_, id), fail) = first.remove_entry();
            let place = state.queue.iter().position(|job| job.key.1 == id);
            let job = place.and_then(|place| state.queue.remove(place));
            if state.running.contains(&id) {
                state.stuck.insert(id);
            }
            let what =
                if job.is_some() { "earlier requests took too long" } else { "the call did not return" };
            failed.push((job, fail, Failure::new(ColdFault::TimedOut, what)));
        }
        if state.stuck.len() >= self.threads_max {
            for job in std::mem::take(&mut state.queue) {
                if let Some(fail) = state.deadlines.remove(&job.key) {
                    failed.push((Some(job), fail, self.all_stuck()));
                }
            }
        }
        failed
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads_max", &self.handle.shared.threads_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
