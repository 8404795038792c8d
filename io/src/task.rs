//! Local tasks: what a host polls, in either world.
//!
//! Futures stay on the thread that owns the set. Wakers may go anywhere: a wake puts the task's handle into a queue
//! that the owner drains. Each task is queued at most once, so the queue is bounded by the number of tasks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use crate::env::TaskClass;

/// Wakes a host that may be asleep. Called after every wake of one of its tasks, from any thread.
pub trait Unpark: Send + Sync + 'static {
    /// Makes the host look at its ready tasks soon. Cheap if it is awake.
    fn unpark(&self);
}

struct ReadyQueue {
    tasks: Mutex<[VecDeque<ReadyTask>; TaskClass::ALL.len()]>,
    unpark: Box<dyn Unpark>,
}

struct Handle {
    slot: usize,
    class: TaskClass,
    name: &'static str,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let ready = Arc::clone(&self.ready);
        let mut tasks = ready.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = tasks.get_mut(self.class as usize) {
            queue.push_back(ReadyTask(self));
        }
        drop(tasks);
        ready.unpark.unpark();
    }
}

/// A task that was woken and waits to be polled.
pub struct ReadyTask(Arc<Handle>);

impl ReadyTask {
    /// The name it was spawned under.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    handle: Arc<Handle>,
    /// `None` while the task is being polled.
    future: Option<LocalFuture>,
}

/// The tasks of one host.
pub struct TaskSet {
    slots: RefCell<Slab<Slot>>,
    ready: Arc<ReadyQueue>,
}

impl TaskSet {
    /// An empty set whose wakes end in `unpark`.
    #[must_use]
    pub fn new(unpark: Box<dyn Unpark>) -> Self {
        let ready = Arc::new(ReadyQueue { tasks: Mutex::new(Default::default()), unpark });
        Self { slots: RefCell::new(Slab::new()), ready }
    }

    /// Adds a task, ready to run.
    pub fn spawn(&self, class: TaskClass, name: &'static str, future: impl Future<Output = ()> + 'static) {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let handle = Arc::new(Handle {
            slot: entry.key(),
            class,
            name,
            queued: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        });
        entry.insert(Slot { handle: Arc::clone(&handle), future: Some(Box::pin(future)) });
        drop(slots);
        handle.wake();
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Whether every task has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tasks of a class are ready.
    #[must_use]
    pub fn ready_len(&self, class: TaskClass) -> usize {
        let tasks = self.ready.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(class as usize).map_or(0, VecDeque::len)
    }

    /// Takes the `nth` ready task of a class, in the order of waking.
    #[must_use]
    pub fn take_ready(&self, class: TaskClass, nth: usize) -> Option<ReadyTask> {
        let mut tasks = self.ready.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get_mut(class as usize)?.remove(nth)
    }

    /// Polls a task once.
    ///
    /// # Errors
    /// The task's name and the message, if it panicked; the task is gone then.
    pub fn poll(&self, task: ReadyTask) -> Result<(), (&'static str, String)> {
        let handle = task.0;
        // Cleared before polling, so that a wake during the poll queues the task again.
        handle.queued.store(false, Ordering::Release);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(handle.slot).filter(|slot| Arc::ptr_eq(&slot.handle, &handle));
        // A waker that outlived its task finds an empty or reused slot.
        let Some(mut future) = slot.and_then(|slot| slot.future.take()) else { return Ok(()) };
        drop(slots);

        let waker = Waker::from(Arc::clone(&handle));
        let mut context = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => {
                if let Some(slot) = self.slots.borrow_mut().get_mut(handle.slot) {
                    slot.future = Some(future);
                }
                Ok(())
            }
            Ok(Poll::Ready(())) => {
                self.slots.borrow_mut().try_remove(handle.slot);
                Ok(())
            }
            Err(payload) => {
                self.slots.borrow_mut().try_remove(handle.slot);
                Err((handle.name, panic_message(payload.as_ref())))
            }
        }
    }

    /// Drops every task, in the order of their slots.
    pub fn clear(&self) {
        // Taken out first: dropping a future may wake or spawn others.
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        drop(slots);
        let mut tasks = self.ready.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = std::mem::take(&mut *tasks);
        drop(tasks);
        drop(queued);
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
