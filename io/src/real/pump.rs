//! The loop of one host: polls ready tasks, feeds the ring, and waits in the ring when nothing is ready.
//!
//! A turn polls, in this order, the foreground tasks that were ready when it began, the commit tasks, and background
//! tasks for at most one slice; then it submits what they queued, takes completions and fires timers. None starves: while
//! requests come in, the background has its [`share`](super::share) of the time and delays them by a slice at most. Between
//! two slices other threads may have the core.
//!
//! The loop needs nothing of the thread it runs on. Any executor that can run one closure to its end can host it.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::Rings;
use super::courtesy::Courtesy;
use super::directory::Root;
use super::doorbell::Doorbell;
use super::env::{Host, HostTuning, RealEnv};
use super::file_thread::FileCalls;
use super::ring::{Broken, Ring, RingPlan};
use super::ring_setup;
use crate::cold::RealCold;
use crate::env::{PanicHook, PanicReport, TaskClass};
use crate::error::Result;
use crate::patience::Patience;

/// The longest wait in the ring: a bound on the damage if a wake-up were ever lost.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How often tasks spawned by the destructors of others are dropped before they are given up.
const CLEAR_ROUNDS_MAX: usize = 16;

/// What a host is to be.
pub(super) struct Plan {
    pub(super) ring: RingPlan,
    pub(super) root: Arc<Root>,
    pub(super) rings: Arc<Rings>,
    pub(super) tuning: HostTuning,
    pub(super) file_calls: FileCalls,
    pub(super) cold: Option<RealCold>,
    pub(super) spin_max: Duration,
    pub(super) on_panic: PanicHook,
}

/// Sets a host up on the calling thread, reports through `started`, and runs it until `main` returns or a task
/// panics. Tells whether every operation is drained: if not, the kernel may still write to the store.
pub(super) fn run<F, Fut>(plan: Plan, main: F, started: impl FnOnce(Result<()>)) -> bool
where
    F: FnOnce(RealEnv) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let Plan { ring, root, rings, tuning, file_calls, cold, spin_max, on_panic } = plan;
    let name = ring.host.clone();
    let made = Doorbell::new().map_err(|errno| ring_setup::refusal("a doorbell (eventfd)", errno));
    let made = made.and_then(|doorbell| Ok((Ring::new(ring, Arc::clone(&doorbell))?, doorbell)));
    let (ring, doorbell) = match made {
        Ok(made) => made,
        Err(error) => {
            started(Err(error));
            return true;
        }
    };
    rings.add(Arc::clone(ring.counters()), ring.report().clone());
    let host = Host::new(Rc::clone(&ring), doorbell, root, tuning, file_calls, cold);
    let patience = Cell::new(Patience::NONE);
    let pump = Pump {
        host,
        name,
        on_panic,
        spin_max,
        patience,
        courtesy: Courtesy::default(),
        main_returned: Rc::default(),
    };
    pump.spawn_main(main);
    started(Ok(()));
    if let Err(stop) = pump.drive() {
        pump.report(stop);
    }
    let drained = pump.shut_down();
    rings.end(ring.counters());
    drained
}

/// Why a host ends before its main task has returned.
enum Stop {
    Panic { task: &'static str, message: String },
    Ring(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Ring(broken)
    }
}

struct Pump {
    host: Rc<Host>,
    name: String,
    on_panic: PanicHook,
    spin_max: Duration,
    patience: Cell<Patience>,
    courtesy: Courtesy,
    main_returned: Rc<Cell<bool>>,
}

impl Pump {
    fn spawn_main<F, Fut>(&self, main: F)
    where
        F: FnOnce(RealEnv) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let env = RealEnv::new(Rc::clone(&self.host));
        let returned = Rc::clone(&self.main_returned);
        self.host.tasks.spawn(TaskClass::Foreground, "main", async move {
            main(env).await;
            returned.set(true);
        });
    }

    fn drive(&self) -> Result<(), Stop> {
        loop {
            if self.run_ready(TaskClass::Foreground, None)? {
                self.host.share.note_request(Instant::now());
            }
            self.run_ready(TaskClass::Commit, None)?;
            self.run_background()?;
            if self.main_returned.get() {
                return Ok(());
            }
            let deadline = self.host.timers.fire().into_iter().chain(self.background_resumes()).min();
            if self.has_ready() {
                self.host.ring.submit()?;
            } else {
                self.idle(deadline)?;
            }
            self.host.ring.reap();
        }
    }

    /// Whether a task is ready that may run now.
    fn has_ready(&self) -> bool {
        let is_ready = |class| self.host.tasks.ready_len(class) > 0;
        is_ready(TaskClass::Foreground)
            || is_ready(TaskClass::Commit)
            || is_ready(TaskClass::Background) && self.host.share.pause(Instant::now()).is_none()
    }

    /// When a background task that is ready may run.
    fn background_resumes(&self) -> Option<Instant> {
        let is_ready = self.host.tasks.ready_len(TaskClass::Background) > 0;
        if is_ready { self.host.share.pause(Instant::now()) } else { None }
    }

    fn run_background(&self) -> Result<(), Stop> {
        let share = &self.host.share;
        let began = Instant::now();
        if self.host.tasks.ready_len(TaskClass::Background) == 0 || share.pause(began).is_some() {
            return Ok(());
        }
        share.set_in_background(true);
        let ran = self.run_ready(TaskClass::Background, Some((began, share.slice(began))));
        share.set_in_background(false);
        ran?;
        let ended = Instant::now();
        share.charge(ended, ended.saturating_duration_since(began));
        self.courtesy.offer(ended);
        Ok(())
    }

    /// Polls the tasks of a class that are ready now, until the time is up; those that become ready meanwhile wait for
    /// the next turn. Tells whether there was any.
    fn run_ready(&self, class: TaskClass, limit: Option<(Instant, Duration)>) -> Result<bool, Stop> {
        let ready = self.host.tasks.ready_len(class);
        for _ in 0..ready {
            let Some(task) = self.host.tasks.take_ready(class, 0) else { break };
            let name = task.name();
            // The set catches what a future's poll panics with; this catches its destructor as well.
            let polled = catch_unwind(AssertUnwindSafe(|| self.host.tasks.poll(task)));
            match polled {
                Ok(Ok(())) => {}
                Ok(Err((task, message))) => return Err(Stop::Panic { task, message }),
                Err(_) => {
                    let message = "the destructor of a finished task panicked".to_owned();
                    return Err(Stop::Panic { task: name, message });
                }
            }
            if limit.is_some_and(|(began, slice)| began.elapsed() >= slice) {
                break;
            }
        }
        Ok(ready > 0)
    }

    /// Waits for a completion, a wake-up from another thread or the next timer. Pauses between requests are brief or
    /// long together; how long the device takes says nothing of them.
    fn idle(&self, deadline: Option<Instant>) -> Result<(), Broken> {
        if !self.host.ring.is_idle() {
            return self.sleep(deadline);
        }
        let began = Instant::now();
        let mut patience = self.patience.get();
        let due = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let found = patience.look_for(|| self.has_ready() || due(), self.spin_max);
        let waited = if found { self.host.ring.submit() } else { self.sleep(deadline) };
        patience.learn(began.elapsed());
        self.patience.set(patience);
        waited
    }

    fn sleep(&self, deadline: Option<Instant>) -> Result<(), Broken> {
        let Host { ring, doorbell, .. } = &*self.host;
        doorbell.park();
        if self.has_ready() {
            doorbell.awake();
            return ring.submit();
        }
        let until_timer = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let waited = ring.wait(until_timer.map_or(WAIT_MAX, |duration| duration.min(WAIT_MAX)));
        doorbell.awake();
        waited
    }

    fn report(&self, stop: Stop) {
        let (task, message) = match stop {
            Stop::Panic { task, message } => (task, message),
            Stop::Ring(broken) => ("ring", broken.to_string()),
        };
        tracing::error!(host = %self.name, task, message, "a host ends early");
        let report = PanicReport { host: self.name.clone(), task, message };
        if catch_unwind(AssertUnwindSafe(|| (self.on_panic)(report))).is_err() {
            tracing::error!(host = %self.name, "the panic hook panicked");
        }
    }

    /// Drops every task, waits for the kernel to finish with every buffer, and closes the ring. Tells whether it is
    /// closed.
    fn shut_down(&self) -> bool {
        let tasks = &self.host.tasks;
        for _ in 0..CLEAR_ROUNDS_MAX {
            if tasks.is_empty() {
                break;
            }
            if catch_unwind(AssertUnwindSafe(|| tasks.clear())).is_err() {
                tracing::error!(host = %self.name, "the destructor of a task panicked while its host ended");
            }
        }
        if !tasks.is_empty() {
            tracing::error!(host = %self.name, "tasks keep spawning others while their host ends: some are lost");
        }
        let closed = self.host.ring.close();
        if let Err(broken) = closed {
            tracing::error!(host = %self.name, %broken, "the ring could not be drained: its buffers are lost");
        }
        closed.is_ok()
    }
}
