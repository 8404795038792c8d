//! A thread beside each host for calls on files that take long and block: making and removing names, which wait for the
//! filesystem's journal, closing, which the ring would do on the thread that asks, and freeing the space of removed files.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::removed::{Removed, Turn};
use super::sys::{self, Affinity};
use crate::error::{Error, Result};
use crate::reply::reply;

/// What waits at most. Beyond it the asking thread does the work itself.
const JOBS_MAX: usize = 1024;
/// How long a descriptor is kept before it is closed: older kernels let go of a file that a ring has forgotten some time
/// later, and whoever lets go last frees the space.
const CLOSE_DELAY: Duration = Duration::from_millis(50);
/// A wait without an end, as far as a host is concerned.
const FOREVER: Duration = Duration::from_secs(3600);

enum Job {
    Call(Box<dyn FnOnce() + Send>),
    Close(OwnedFd),
    Free(Removed),
    End,
}

/// The thread. Its owner ends it.
pub(super) struct FileThread {
    calls: FileCalls,
    thread: JoinHandle<()>,
}

/// Hands work to the thread.
#[derive(Clone)]
pub(super) struct FileCalls {
    jobs: Sender<Job>,
    cores: Option<Arc<Affinity>>,
}

impl FileThread {
    /// Starts it, on any of the cores; without them, where its maker runs.
    pub(super) fn start(host: &str, cores: Option<&Affinity>) -> Result<Self> {
        let (sender, jobs) = crossbeam_channel::bounded(JOBS_MAX);
        let cores = cores.cloned().map(Arc::new);
        let calls = FileCalls { jobs: sender, cores: cores.clone() };
        let name = format!("{host}-files").replace('\0', "");
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            settle(cores.as_deref());
            work(&jobs);
        });
        let thread = thread.map_err(|error| no_thread(&error))?;
        Ok(Self { calls, thread })
    }

    pub(super) fn calls(&self) -> FileCalls {
        self.calls.clone()
    }

    /// Waits until everything that was handed over is done.
    pub(super) fn end(self) {
        drop(self.calls.jobs.send(Job::End));
        if self.thread.join().is_err() {
            tracing::error!("the thread for files panicked");
        }
    }
}

impl FileCalls {
    /// Runs a call that may block. Dropped early, the call still runs to its end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = reply();
        let job = Job::Call(Box::new(move || sender.send(call())));
        if let Err(refused) = self.jobs.try_send(job)
            && let Job::Call(call) = refused.into_inner()
        {
            call();
        }
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    /// Closes a descriptor before long.
    pub(super) fn close(&self, fd: OwnedFd) {
        // What is not taken comes back and is closed here.
        drop(self.jobs.try_send(Job::Close(fd)));
    }

    /// Frees the space of a removed file by little, once nobody reads it any more.
    pub(super) fn free(&self, removed: Removed) {
        // What is not taken comes back, and is freed at once as it is closed.
        drop(self.jobs.try_send(Job::Free(removed)));
    }

    /// Runs work that keeps a core busy on a thread of its own, which gives way to those of shards. Dropped early, the
    /// work still runs to its end.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = reply();
        let cores = self.cores.clone();
        let thread = std::thread::Builder::new().name("op-engine-aside".to_owned()).spawn(move || {
            settle(cores.as_deref());
            sender.send(work());
        });
        thread.map_err(|error| no_thread(&error))?;
        answer.await.map_err(|_| Error::Stopped)
    }
}

fn no_thread(error: &std::io::Error) -> Error {
    Error::Unsupported {
        what: "starting a thread".to_owned(),
        cause: error.to_string(),
        remedy: "raise the limit of threads (TasksMax= of the service, or `ulimit -u`)".to_owned(),
    }
}

/// Leaves the core of the thread's maker to that, and gives way to others.
fn settle(cores: Option<&Affinity>) {
    if let Some(Err(errno)) = cores.map(Affinity::apply) {
        tracing::debug!(errno, "a thread beside a host stays on the core of its maker");
    }
    if let Err(errno) = sys::give_way() {
        tracing::debug!(errno, "a thread beside a host runs as urgently as others");
    }
}

/// What the thread does when it is due.
#[derive(Default)]
struct Agenda {
    closing: VecDeque<(OwnedFd, Instant)>,
    freeing: Vec<Removed>,
}

impl Agenda {
    fn next_due(&self) -> Option<Instant> {
        let closing = self.closing.front().map(|(_, due)| *due);
        closing.into_iter().chain(self.freeing.iter().map(Removed::due)).min()
    }

    /// Closes whatever is due and frees one piece: calls come between two of them.
    fn keep(&mut self, now: Instant) {
        while self.closing.front().is_some_and(|(_, due)| *due <= now) {
            drop(self.closing.pop_front());
        }
        let next = self.freeing.iter().enumerate().min_by_key(|(_, removed)| removed.due());
        if let Some((index, _)) = next.filter(|(_, removed)| removed.due() <= now)
            && let Turn::Later(removed) = self.freeing.swap_remove(index).turn()
        {
            self.freeing.push(removed);
        }
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut agenda = Agenda::default();
    loop {
        let due = agenda.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        match jobs.recv_timeout(due.unwrap_or(FOREVER)) {
            Ok(Job::Call(call)) => call(),
            Ok(Job::Close(fd)) => agenda.closing.push_back((fd, Instant::now() + CLOSE_DELAY)),
            Ok(Job::Free(removed)) => agenda.freeing.push(removed),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
        agenda.keep(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::reply::block_on;

    #[test]
    fn calls_are_answered_and_everything_is_done_before_the_end() {
        let thread = FileThread::start("test", None).unwrap();
        let calls = thread.calls();
        assert_eq!(block_on(calls.run(|| Ok(7))), Ok(7));
        assert_eq!(block_on(calls.run(|| Err::<(), _>(Error::Stopped))), Err(Error::Stopped));
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let done = Arc::clone(&done);
            // Nobody waits for the answer.
            let mut call = Box::pin(calls.run(move || {
                std::thread::sleep(Duration::from_millis(2));
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }));
            let waker = std::task::Waker::noop();
            drop(std::future::Future::poll(call.as_mut(), &mut std::task::Context::from_waker(waker)));
        }
        thread.end();
        assert_eq!(done.load(Ordering::SeqCst), 3);
        assert_eq!(block_on(calls.aside(|| 9)), Ok(9));
        // With nobody there the asking thread does it.
        assert_eq!(block_on(calls.run(|| Ok(8))), Ok(8));
    }

    #[test]
    fn a_descriptor_that_is_handed_over_is_closed() {
        let thread = FileThread::start("test", None).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        thread.calls().close(writer.into());
        let mut byte = [0];
        // The end of the pipe is seen once the writer is closed.
        assert_eq!(std::io::Read::read(&mut { reader }, &mut byte).unwrap(), 0);
        thread.end();
    }
}
