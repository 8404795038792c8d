//! The run loop: which task or completion is next, and when the clock moves.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::cold::ColdFaults;
use super::disk::SimDisk;
use super::faults::Faults;
use super::host::{Host, SimEnv};
use super::io::Pending;
use super::options::SimOptions;
use super::rng::Rng;
use super::trace::{IoEvent, Trace};
use crate::env::{PanicHook, PanicReport, Place, Running, TaskClass, World};
use crate::error::Result;
use crate::reply::reply;

/// Called at every I/O index with the event and the disk after it.
type Observer = Box<dyn FnMut(u64, &IoEvent, &SimDisk)>;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The client's future returned.
    Done(T),
    /// The run reached [`SimOptions::crash_at`].
    Crashed,
    /// No task is ready, no operation in flight, no timer set, and the client still waits.
    Deadlock,
    /// The run took [`SimOptions::step_max`] steps.
    StepLimit,
}

impl<T> Outcome<T> {
    /// The client's result, if it returned.
    #[must_use]
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Crashed | Self::Deadlock | Self::StepLimit => None,
        }
    }
}

/// A simulated machine. Clones are handles to the same one.
///
/// Tasks hold the machine and the machine holds its tasks: call [`SimWorld::stop`] when done with it.
#[derive(Clone)]
pub struct SimWorld {
    inner: Rc<Inner>,
    client: Rc<Host>,
}

/// The state of a machine, in cells that are never borrowed while a task runs.
pub(super) struct Inner {
    pub(super) options: SimOptions,
    pub(super) disk: RefCell<SimDisk>,
    pub(super) pending: RefCell<Pending>,
    pub(super) timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    pub(super) faults: RefCell<Faults>,
    pub(super) cold_faults: RefCell<ColdFaults>,
    /// Counts the operations on the cold target.
    pub(super) cold_count: Cell<u64>,
    pub(super) read_only: Cell<bool>,
    /// The bytes that all files together may have.
    pub(super) capacity: Cell<Option<u64>>,
    // One generator per concern, so that switching a fault on does not change the schedule's numbers.
    pub(super) env_rng: RefCell<Rng>,
    pub(super) fault_rng: RefCell<Rng>,
    pub(super) latency_rng: RefCell<Rng>,
    schedule_rng: RefCell<Rng>,
    pub(super) cold_rng: RefCell<Rng>,
    hosts: RefCell<Vec<Rc<Host>>>,
    clock: Cell<Duration>,
    ids: Cell<u64>,
    io_index: Cell<u64>,
    steps: Cell<u64>,
    crashed: Cell<bool>,
    stopped: Cell<bool>,
    trace: RefCell<Trace>,
    observer: RefCell<Option<Observer>>,
    observer_panic: RefCell<Option<Box<dyn Any + Send>>>,
    panics: RefCell<Vec<PanicReport>>,
}

impl Inner {
    pub(super) fn now(&self) -> Duration {
        self.clock.get()
    }

    pub(super) fn io_count(&self) -> u64 {
        self.io_index.get()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// Whether operations are still taken.
    pub(super) fn is_running(&self) -> bool {
        !self.crashed.get() && !self.stopped.get()
    }

    /// Gives an I/O event its index, shows it to the observer, and cuts the power if its time has come.
    pub(super) fn observe(&self, event: &IoEvent) {
        let index = self.io_index.get();
        self.io_index.set(index + 1);
        self.trace.borrow_mut().io(self.now(), index, event);
        if self.options.crash_at == Some(index) {
            self.crashed.set(true);
        }
        if let Some(observer) = self.observer.borrow_mut().as_mut() {
            let disk = self.disk.borrow();
            // A task's panic boundary must not take an observer's failed assertion for a panic of the task.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observer(index, event, &disk))) {
                *self.observer_panic.borrow_mut() = Some(panic);
            }
        }
    }

    fn advance(&self, to: Duration) {
        self.clock.set(self.clock.get().max(to));
    }

    /// Wakes the sleepers whose time has come. Returns when the next timer fires.
    fn fire_timers(&self) -> Option<Duration> {
        loop {
            let mut timers = self.timers.borrow_mut();
            let first = timers.first_entry()?;
            if first.key().0 > self.now() {
                return Some(first.key().0);
            }
            let waker = first.remove();
            drop(timers);
            waker.wake();
        }
    }
}

/// What happens next.
enum Choice {
    Client,
    Task { host: Rc<Host>, class: TaskClass, nth: usize },
    Completion(usize),
    Time(Duration),
    Nothing,
}

struct ClientWaker(AtomicBool);

impl Wake for ClientWaker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimWorld {
    /// A machine with this disk. What was in flight on the disk happens or not, as after [`SimDisk::kill`].
    #[must_use]
    pub fn new(options: SimOptions, disk: SimDisk) -> Self {
        let mut seeds = Rng::new(options.seed);
        let mut disk = if disk.in_flight_len() > 0 { disk.kill(seeds.next_u64()) } else { disk };
        disk.objects.end_life();
        let capacity = options.free_bytes.map(|free| disk.used_bytes().saturating_add(free));
        let client = Host::new("client", None, None);
        let inner = Inner {
            disk: RefCell::new(disk),
            pending: RefCell::default(),
            timers: RefCell::default(),
            faults: RefCell::new(options.faults.clone()),
            cold_faults: RefCell::default(),
            cold_count: Cell::new(0),
            read_only: Cell::new(false),
            capacity: Cell::new(capacity),
            env_rng: RefCell::new(seeds.split()),
            fault_rng: RefCell::new(seeds.split()),
            latency_rng: RefCell::new(seeds.split()),
            schedule_rng: RefCell::new(seeds.split()),
            cold_rng: RefCell::new(seeds.split()),
            hosts: RefCell::new(vec![Rc::clone(&client)]),
            clock: Cell::new(Duration::ZERO),
            ids: Cell::new(0),
            io_index: Cell::new(0),
            steps: Cell::new(0),
            crashed: Cell::new(false),
            stopped: Cell::new(false),
            trace: RefCell::new(Trace::new(options.trace)),
            observer: RefCell::new(None),
            observer_panic: RefCell::new(None),
            panics: RefCell::default(),
            options,
        };
        Self { inner: Rc::new(inner), client }
    }

    /// The world as seen by a host that lasts as long as the machine, for the client and for tests of files.
    #[must_use]
    pub fn env(&self) -> SimEnv {
        SimEnv { world: Rc::clone(&self.inner), host: Rc::clone(&self.client) }
    }

    /// Runs the machine until the client's future returns or the run ends otherwise. May be called again to go on.
    pub fn run<T>(&self, client: impl Future<Output = T>) -> Outcome<T> {
        let mut client = pin!(client);
        let ready = Arc::new(ClientWaker(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&ready));
        loop {
            if !self.inner.is_running() {
                return Outcome::Crashed;
            }
            let steps = self.inner.steps.get();
            if steps >= self.inner.options.step_max {
                return Outcome::StepLimit;
            }
            self.inner.steps.set(steps + 1);
            self.inner.advance(self.inner.now().saturating_add(self.inner.options.step_time));
            match self.choose(&ready) {
                Choice::Client => {
                    ready.0.store(false, Ordering::Release);
                    let polled = Pin::as_mut(&mut client).poll(&mut Context::from_waker(&waker));
                    if let Poll::Ready(value) = polled
                        && self.inner.is_running()
                    {
                        self.raise_observer_panic();
                        return Outcome::Done(value);
                    }
                }
                Choice::Task { host, class, nth } => self.poll_task(&host, class, nth),
                Choice::Completion(nth) => self.inner.deliver(nth),
                Choice::Time(next) => self.inner.advance(next),
                Choice::Nothing => return Outcome::Deadlock,
            }
            self.raise_observer_panic();
        }
    }

    fn choose(&self, client: &ClientWaker) -> Choice {
        let inner = &self.inner;
        let next_timer = inner.fire_timers();
        let next_completion = inner.mature();
        let due = inner.pending.borrow().due.len();
        let hosts = inner.hosts.borrow();
        let ready: usize = hosts.iter().map(|host| ready_len(host)).sum();
        // Read after the timers have fired: one of them may be the client's.
        let clients = usize::from(client.0.load(Ordering::Acquire));
        let total = clients + due + ready;
        if total == 0 {
            let next = [next_timer, next_completion].into_iter().flatten().min();
            return next.map_or(Choice::Nothing, Choice::Time);
        }
        let choice = inner.schedule_rng.borrow_mut().index(total);
        let mut trace = inner.trace.borrow_mut();
        let now = inner.now();
        if choice < clients {
            trace.step(now, [0, 0, 0], || "run client".to_owned());
            return Choice::Client;
        }
        let mut nth = choice - clients;
        if nth < due {
            trace.step(now, [1, nth, due], || format!("deliver {} of {due}", nth + 1));
            return Choice::Completion(nth);
        }
        nth -= due;
        for (at, host) in hosts.iter().enumerate() {
            for class in TaskClass::ALL {
                let len = host.tasks.ready_len(class);
                if nth < len {
                    trace.step(now, [2 + at, class as usize, nth], || {
                        format!("run {} {class:?} {} of {len}", host.name, nth + 1)
                    });
                    return Choice::Task { host: Rc::clone(host), class, nth };
                }
                nth -= len;
            }
        }
        Choice::Nothing
    }

    fn poll_task(&self, host: &Rc<Host>, class: TaskClass, nth: usize) {
        let Some(task) = host.tasks.take_ready(class, nth) else { return };
        let polled = host.tasks.poll(task);
        if let Err((task, message)) = polled {
            let report = PanicReport { host: host.name.clone(), task, message };
            self.inner.panics.borrow_mut().push(report.clone());
            if let Some(on_panic) = &host.on_panic {
                on_panic(report);
            }
            self.end_host(host);
        } else if host.main_returned.get() {
            self.end_host(host);
        }
    }

    fn end_host(&self, host: &Rc<Host>) {
        if !Rc::ptr_eq(host, &self.client) {
            self.inner.hosts.borrow_mut().retain(|other| !Rc::ptr_eq(other, host));
        }
        host.end();
    }

    fn raise_observer_panic(&self) {
        let panic = self.inner.observer_panic.borrow_mut().take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Stops the machine where it is: drops all tasks without running them, and hands out the disk. Operations in
    /// flight stay marked as such: the disk is for [`SimDisk::crash`] or [`SimDisk::kill`].
    #[must_use]
    pub fn stop(&self) -> SimDisk {
        self.inner.stopped.set(true);
        let hosts = self.inner.hosts.take();
        for host in &hosts {
            host.end();
        }
        let pending = self.inner.pending.take();
        drop(pending);
        let timers = self.inner.timers.take();
        drop(timers);
        let observer = self.inner.observer.take();
        drop(observer);
        let mut disk = self.inner.disk.borrow().clone();
        disk.drop_handles();
        disk
    }

    /// A fork of the disk as it is.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.inner.disk.borrow().clone()
    }

    /// Calls `observer` at every I/O index, with the event and the disk after it. It may fork the disk but not use
    /// this world; if it panics, the run does.
    pub fn on_io(&self, observer: impl FnMut(u64, &IoEvent, &SimDisk) + 'static) {
        let previous = self.inner.observer.replace(Some(Box::new(observer)));
        drop(previous);
    }

    /// Replaces the faults from here on, for instance by none. A filesystem that became read-only is writable again.
    pub fn set_faults(&self, faults: Faults) {
        *self.inner.faults.borrow_mut() = faults;
        self.inner.read_only.set(false);
    }

    /// Replaces the faults of the cold target from here on. What is in flight is not affected.
    pub fn set_cold_faults(&self, faults: ColdFaults) {
        *self.inner.cold_faults.borrow_mut() = faults;
    }

    /// How many operations on the cold target have been submitted: the next one has this number.
    #[must_use]
    pub fn cold_count(&self) -> u64 {
        self.inner.cold_count.get()
    }

    /// Sets how much files may grow from here on; `None` for no limit. Less than before is as if somebody else had
    /// filled the disk.
    pub fn set_free_bytes(&self, free_bytes: Option<u64>) {
        let used = self.inner.disk.borrow().used_bytes();
        self.inner.capacity.set(free_bytes.map(|free| used.saturating_add(free)));
    }

    /// How many I/O events have happened: the next one has this index. Each operation has two events.
    #[must_use]
    pub fn io_count(&self) -> u64 {
        self.inner.io_count()
    }

    /// How many steps the run has taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.inner.steps.get()
    }

    /// The simulated time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.inner.now()
    }

    /// A hash over every choice, I/O event and time so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.inner.trace.borrow().hash()
    }

    /// The text of the run, if [`SimOptions::trace`] is set.
    #[must_use]
    pub fn trace_lines(&self) -> Vec<String> {
        self.inner.trace.borrow().lines()
    }

    /// The panics of tasks so far.
    #[must_use]
    pub fn panics(&self) -> Vec<PanicReport> {
        self.inner.panics.borrow().clone()
    }
}

fn ready_len(host: &Host) -> usize {
    TaskClass::ALL.into_iter().map(|class| host.tasks.ready_len(class)).sum()
}

impl fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<(String, usize)> =
            self.inner.hosts.borrow().iter().map(|host| (host.name.clone(), host.tasks.len())).collect();
        f.debug_struct("SimWorld")
            .field("now", &self.now())
            .field("steps", &self.steps())
            .field("io_count", &self.io_count())
            .field("tasks", &hosts)
            .finish_non_exhaustive()
    }
}

impl World for SimWorld {
    type Env = SimEnv;

    fn start<F, Fut>(&self, _place: Place, name: &str, on_panic: PanicHook, main: F) -> Result<Running>
    where
        F: FnOnce(Self::Env) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (finished_sender, finished) = reply();
        let host = Host::new(name, Some(on_panic), Some(finished_sender));
        let env = SimEnv { world: Rc::clone(&self.inner), host: Rc::clone(&host) };
        if self.inner.stopped.get() {
            return Err(crate::error::Error::Stopped);
        }
        self.inner.hosts.borrow_mut().push(Rc::clone(&host));
        let this = Rc::downgrade(&host);
        host.tasks.spawn(TaskClass::Foreground, "main", async move {
            main(env).await;
            if let Some(host) = this.upgrade() {
                host.main_returned.set(true);
            }
        });
        Ok(Running::new(finished, None))
    }
}
