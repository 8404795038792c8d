//! The ring of one host: the only path of its data to the kernel.
//!
//! Operations queue up while tasks run and go into the kernel once per turn of the pump. Each borrow of a part of the
//! ring is short and calls nothing else, so that dropping a file or a buffer inside a completion is no conflict.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

use super::arena::Arena;
use super::counters::RingCounters;
use super::doorbell::Doorbell;
use super::file_table::FileTable;
use super::operation::{Operation, Work};
use super::permits::Permits;
use super::ring_setup;
use super::slab::{Entries, Finished, Outcome, Slots};
use super::sys;
use crate::buf::IoBuf;
use crate::error::{Error, Result};

/// The doorbell's read is known by this in completions; no slot reaches so far.
const DOORBELL: u64 = u64::MAX;
/// After how many waits of 100 ms a drain says that it waits.
const DRAIN_WAITS_UNTIL_WARNING: u32 = 100;

/// How a ring was set up, for reports: what the kernel granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingReport {
    /// The host that owns the ring.
    pub host: String,
    /// The setup flags in force, by their kernel names without prefix.
    pub flags: &'static str,
    /// The most operations in flight at once.
    pub in_flight_max: usize,
    /// Buffer memory of the host in bytes.
    pub arena_bytes: usize,
    /// How much of it is registered; the rest works, at more CPU per operation.
    pub arena_registered_bytes: usize,
    /// Places for registered files; zero if the kernel refused the table.
    pub file_places: usize,
}

impl fmt::Display for RingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: flags {}, {} operations in flight, {} of {} KiB of buffers registered, {} file places",
            self.host,
            self.flags,
            self.in_flight_max,
            self.arena_registered_bytes >> 10,
            self.arena_bytes >> 10,
            self.file_places
        )
    }
}

/// What a ring is to be.
pub(super) struct RingPlan {
    pub(super) host: String,
    pub(super) in_flight_max: usize,
    pub(super) arena_bytes: usize,
    pub(super) file_places: usize,
    pub(super) lock: Option<RawFd>,
}

/// The kernel refuses the ring itself. No operation can complete any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel refuses the ring (os error {0})")]
pub(super) struct Broken(i32);

/// The ring of one host.
pub(super) struct Ring {
    /// `None` once it is closed. Declared first: the kernel lets go of files and buffers before we do.
    uring: RefCell<Option<IoUring>>,
    slots: RefCell<Slots>,
    /// Entries that found the submission queue full. Bounded by the operations in flight.
    backlog: RefCell<VecDeque<Entries>>,
    files: RefCell<FileTable>,
    in_flight: Cell<usize>,
    permits: Permits,
    doorbell: Arc<Doorbell>,
    doorbell_armed: Cell<bool>,
    /// Where the kernel puts what it reads from the doorbell. On the heap: the ring may move, this may not.
    doorbell_count: Box<Cell<u64>>,
    completions: RefCell<Vec<(u64, i32)>>,
    arena: Rc<Arena>,
    counters: Arc<RingCounters>,
    report: RingReport,
}

impl Ring {
    /// Sets the ring up. Belongs on the thread that will use it: the kernel binds the ring to it.
    pub(super) fn new(plan: RingPlan, doorbell: Arc<Doorbell>) -> Result<Rc<Self>> {
        let arena =
            Arena::new(plan.arena_bytes).map_err(|errno| ring_setup::refusal("buffer memory", errno))?;
        let (uring, flags) = ring_setup::create(plan.in_flight_max)?;
        let registered = ring_setup::register_arena(&uring, &arena);
        let (files, file_places) = ring_setup::register_files(&uring, plan.file_places, plan.lock)?;
        let report = RingReport {
            host: plan.host,
            flags,
            in_flight_max: plan.in_flight_max,
            arena_bytes: arena.bytes(),
            arena_registered_bytes: registered,
            file_places,
        };
        if registered < arena.bytes() {
            tracing::warn!(%report, "not all buffers could be registered: raise the limit of locked memory");
        }
        Ok(Rc::new(Self {
            uring: RefCell::new(Some(uring)),
            slots: RefCell::default(),
            backlog: RefCell::default(),
            files: RefCell::new(files),
            in_flight: Cell::new(0),
            permits: Permits::new(plan.in_flight_max),
            doorbell,
            doorbell_armed: Cell::new(false),
            doorbell_count: Box::new(Cell::new(0)),
            completions: RefCell::default(),
            arena: Rc::new(arena),
            counters: Arc::default(),
            report,
        }))
    }

    pub(super) fn arena(&self) -> &Rc<Arena> {
        &self.arena
    }

    pub(super) fn counters(&self) -> &Arc<RingCounters> {
        &self.counters
    }

    pub(super) fn report(&self) -> &RingReport {
        &self.report
    }

    /// Gives an open file a place in the ring's table; `None` if there is none.
    pub(super) fn register_file(&self, fd: RawFd) -> Option<u32> {
        let place = self.files.borrow_mut().take()?;
        let uring = self.uring.borrow();
        let registered = uring.as_ref().map(|uring| uring.submitter().register_files_update(place, &[fd]));
        if let Some(Ok(1)) = registered {
            return Some(place);
        }
        self.files.borrow_mut().give_back(place);
        None
    }

    /// Frees the place of a file that is about to be closed.
    pub(super) fn release_file(&self, place: u32) {
        let uring = self.uring.borrow();
        let Some(uring) = uring.as_ref() else { return };
        match uring.submitter().register_files_update(place, &[-1]) {
            Ok(_) => self.files.borrow_mut().give_back(place),
            // The place stays taken, with a file that nobody uses: a leak until the ring ends, and no more.
            Err(error) => tracing::warn!(%error, place, "could not remove a closed file from the ring"),
        }
    }

    /// Runs an operation to its end. Dropped early, the operation still runs to its end in the background.
    pub(super) async fn run(self: &Rc<Self>, operation: Operation) -> (Option<IoBuf>, Result<()>) {
        if self.permits.are_used_up() {
            self.counters.queued.add(1);
        }
        self.permits.acquire().await;
        if self.uring.borrow().is_none() {
            self.permits.release();
            return (operation.into_buf(), Err(Error::Stopped));
        }
        let (slot, entries) = self.slots.borrow_mut().insert(operation);
        self.in_flight.set(self.in_flight.get() + 1);
        self.queue(entries);
        let done = Completion { ring: Rc::clone(self), slot, taken: false }.await;
        match done {
            Some((operation, result)) => (operation.into_buf(), result),
            None => (None, Err(Error::Stopped)),
        }
    }

    fn queue(&self, entries: Entries) {
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.is_empty() || !self.push(&entries) {
            backlog.push_back(entries);
        }
    }

    /// Puts entries into the submission queue, both or none.
    fn push(&self, (main, linked): &Entries) -> bool {
        let mut uring = self.uring.borrow_mut();
        let Some(uring) = uring.as_mut() else { return false };
        let mut submissions = uring.submission();
        let pushed = match linked {
            // SAFETY: the slot owns the buffer and the file that the entries name until their completions are seen.
            None => unsafe { submissions.push(main) },
            // SAFETY: as above.
            Some(linked) => unsafe { submissions.push_multiple(&[main.clone(), linked.clone()]) },
        };
        pushed.is_ok()
    }

    /// Moves the backlog into the submission queue; tells whether some of it is left.
    fn push_backlog(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entries) = backlog.front() {
            if !self.push(entries) {
                return true;
            }
            backlog.pop_front();
        }
        false
    }

    /// Hands everything queued to the kernel and lets it post completions, without waiting. No system call if there
    /// is nothing to do.
    pub(super) fn submit(&self) -> Result<(), Broken> {
        loop {
            let left = self.push_backlog();
            let mut uring = self.uring.borrow_mut();
            let Some(uring) = uring.as_mut() else { return Ok(()) };
            let submissions = uring.submission();
            if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
                return Ok(());
            }
            drop(submissions);
            self.counters.enters.add(1);
            match accepted(uring.submit())? {
                // Interrupted or short of memory: what is left goes next turn.
                Entered::Partly => return Ok(()),
                Entered::Fully if !left => return Ok(()),
                Entered::Fully => {}
            }
        }
    }

    /// Hands everything queued to the kernel and waits for a completion, the doorbell or the end of `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Result<(), Broken> {
        self.arm_doorbell();
        if self.push_backlog() {
            return self.submit();
        }
        let uring = self.uring.borrow();
        let Some(uring) = uring.as_ref() else { return Ok(()) };
        self.counters.enters.add(1);
        self.counters.waits.add(1);
        let timeout = types::Timespec::from(timeout);
        accepted(uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout)))
            .map(drop)
    }

    fn arm_doorbell(&self) {
        if self.doorbell_armed.replace(true) {
            return;
        }
        let read = opcode::Read::new(types::Fd(self.doorbell.fd()), self.doorbell_count.as_ptr().cast(), 8);
        self.queue((read.build().user_data(DOORBELL), None));
    }

    /// Takes the completions that are there; tells how many.
    pub(super) fn reap(&self) -> usize {
        let mut completions = self.completions.take();
        if let Some(uring) = self.uring.borrow_mut().as_mut() {
            let queue = uring.completion();
            self.counters.overflows.set(u64::from(queue.overflow()));
            completions.extend(queue.map(|completion| (completion.user_data(), completion.result())));
        }
        let count = completions.len();
        for (user_data, result) in completions.drain(..) {
            self.complete(user_data, result);
        }
        *self.completions.borrow_mut() = completions;
        count
    }

    fn complete(&self, user_data: u64, result: i32) {
        if user_data == DOORBELL {
            self.doorbell_armed.set(false);
            return;
        }
        let outcome = self.slots.borrow_mut().complete(user_data, result);
        match outcome {
            Some(Outcome::Wait) => {}
            Some(Outcome::Submit(entries)) => {
                self.counters.resubmissions.add(1);
                self.queue(entries);
            }
            Some(Outcome::Finished(finished)) => self.finish(finished),
            None => tracing::error!(user_data, result, "a completion belongs to no operation"),
        }
    }

    fn finish(&self, finished: Finished) {
        let Finished { work, bytes, failed, waker, orphan } = finished;
        self.in_flight.set(self.in_flight.get() - 1);
        let counters = &self.counters;
        match work {
            _ if failed => counters.failures.add(1),
            Work::Read => {
                counters.reads.add(1);
                counters.read_bytes.add(bytes);
            }
            Work::Write(sync) => {
                counters.writes.add(1);
                counters.written_bytes.add(bytes);
                counters.syncs.add(u64::from(sync.is_some()));
            }
            Work::Sync { .. } => counters.syncs.add(1),
            Work::Allocate { .. } | Work::Release { .. } => {}
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        drop(orphan);
        self.permits.release();
    }

    /// Waits until the kernel is done with every operation, and closes the ring.
    pub(super) fn close(&self) -> Result<(), Broken> {
        let mut waits = 0_u32;
        if self.doorbell_armed.get() {
            self.doorbell.ring();
        }
        while self.in_flight.get() > 0 || self.doorbell_armed.get() {
            self.wait_without_doorbell(Duration::from_millis(100))?;
            self.reap();
            waits += 1;
            if waits.is_multiple_of(DRAIN_WAITS_UNTIL_WARNING) {
                let (host, in_flight) = (&self.report.host, self.in_flight.get());
                tracing::warn!(%host, in_flight, "still waiting for the device to complete operations");
            }
        }
        if let Some(uring) = self.uring.take() {
            // The kernel tears a ring down in the background; what it shares with others goes here and now.
            if let Err(error) = uring.submitter().unregister_files() {
                tracing::debug!(%error, "no registered files to let go");
            }
            drop(uring);
        }
        Ok(())
    }

    fn wait_without_doorbell(&self, timeout: Duration) -> Result<(), Broken> {
        let armed = self.doorbell_armed.replace(true);
        let waited = self.wait(timeout);
        // Nothing was reaped in between, so the flag is still what it was.
        self.doorbell_armed.set(armed);
        waited
    }

    /// Whether no operation is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Only a broken ring goes with operations in flight. The kernel may still use their memory: it is lost.
        if self.in_flight.get() > 0 {
            std::mem::forget(self.slots.take());
        }
        if self.doorbell_armed.get() {
            std::mem::forget(std::mem::take(&mut self.doorbell_count));
        }
    }
}

enum Entered {
    Fully,
    Partly,
}

fn accepted(entered: io::Result<usize>) -> Result<Entered, Broken> {
    let Err(error) = entered else { return Ok(Entered::Fully) };
    match sys::errno_of(&error) {
        libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME => Ok(Entered::Partly),
        errno => Err(Broken(errno)),
    }
}

/// The end of an operation in flight. Dropping it orphans the operation.
struct Completion {
    ring: Rc<Ring>,
    slot: usize,
    taken: bool,
}

impl Future for Completion {
    type Output = Option<(Operation, Result<()>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.ring.slots.borrow_mut().poll(self.slot, cx);
        self.taken = polled.is_ready();
        polled
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !self.taken {
            let operation = self.ring.slots.borrow_mut().abandon(self.slot);
            drop(operation);
        }
    }
}

/// For reports: the number of the ring's descriptor.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fd = self.uring.borrow().as_ref().map(AsRawFd::as_raw_fd);
        f.debug_struct("Ring").field("fd", &fd).field("report", &self.report).finish_non_exhaustive()
    }
}
