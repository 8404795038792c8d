//! What a host of the real world offers its tasks.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::directory::{Root, dir_error};
use super::doorbell::{Bell, Doorbell};
use super::file::RealFile;
use super::file_thread::FileCalls;
use super::operation::Operation;
use super::ring::Ring;
use super::share::Share;
use super::sys;
use super::target::Target;
use super::timers::Timers;
use crate::buf::IoBuf;
use crate::cold::RealCold;
use crate::env::{Dir, Env, FileName, OpenMode, Space, TaskClass};
use crate::error::{FileOp, Result};
use crate::sync_mode::SyncMode;
use crate::task::TaskSet;

/// What the tasks of one host share.
pub(super) struct Host {
    pub(super) tasks: TaskSet,
    pub(super) timers: Rc<Timers>,
    pub(super) ring: Rc<Ring>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) root: Arc<Root>,
    pub(super) tuning: HostTuning,
    pub(super) share: Rc<Share>,
    pub(super) file_calls: FileCalls,
    pub(super) cold: Option<RealCold>,
}

/// The values that differ between machines.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostTuning {
    pub(super) epoch: Instant,
    pub(super) read_depth: usize,
    pub(super) sync_mode: SyncMode,
}

impl Host {
    pub(super) fn new(
        ring: Rc<Ring>,
        doorbell: Arc<Doorbell>,
        root: Arc<Root>,
        tuning: HostTuning,
        file_calls: FileCalls,
        cold: Option<RealCold>,
    ) -> Rc<Self> {
        let tasks = TaskSet::new(Box::new(Bell(Arc::clone(&doorbell))));
        let (timers, share) = (Rc::default(), Rc::new(Share::new()));
        Rc::new(Self { tasks, timers, ring, doorbell, root, tuning, share, file_calls, cold })
    }
}

/// A handle to one host of the real world.
#[derive(Clone)]
pub struct RealEnv {
    host: Rc<Host>,
}

impl RealEnv {
    pub(super) fn new(host: Rc<Host>) -> Self {
        Self { host }
    }

    /// Wraps a descriptor that was opened elsewhere.
    pub(super) fn adopt(&self, fd: std::os::fd::OwnedFd, name: FileName) -> RealFile {
        let ring = &self.host.ring;
        let target = Rc::new(Target::registered_file(ring, self.host.file_calls.clone(), fd, name));
        let share = Rc::clone(&self.host.share);
        RealFile::new(Rc::clone(ring), target, share, name, self.host.tuning.sync_mode)
    }

    async fn sync_open_dir(&self, dir: Dir, fd: std::os::fd::OwnedFd) -> Result<()> {
        let operation = Operation::sync(Rc::new(Target::dir(fd, dir)), true);
        self.host.ring.run(operation).await.1
    }
}

impl Env for RealEnv {
    type File = RealFile;
    type Cold = RealCold;

    fn spawn(&self, class: TaskClass, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.host.tasks.spawn(class, name, future);
    }

    fn now(&self) -> Duration {
        self.host.tuning.epoch.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.host.timers.sleep(duration).await;
    }

    async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn background_slice(&self) -> Duration {
        self.host.share.slice(Instant::now())
    }

    fn note_request(&self) {
        self.host.share.note_request(Instant::now());
    }

    fn set_background_share(&self, percent: u32) {
        self.host.share.set_percent(percent);
    }

    fn random(&self) -> u64 {
        // The kernel's generator does not fail once the machine has booted; the other source is seeded by it too.
        sys::random_u64().unwrap_or_else(|_| RandomState::new().hash_one(self.now()))
    }

    async fn buffer(&self, bytes: usize) -> IoBuf {
        let mut buf = self.read_buffer(bytes).await;
        if buf.is_from_arena() {
            buf.as_mut_slice().fill(0);
        }
        buf
    }

    async fn read_buffer(&self, bytes: usize) -> IoBuf {
        let mut lend = self.host.ring.arena().lend(bytes);
        let buf = (&mut lend).await;
        if lend.has_waited() {
            self.host.ring.counters().buffer_waits.add(1);
        }
        buf
    }

    fn read_depth(&self) -> usize {
        self.host.tuning.read_depth
    }

    async fn open(&self, name: FileName, mode: OpenMode) -> Result<RealFile> {
        let root = Arc::clone(&self.host.root);
        let fd = match mode {
            OpenMode::CreateNew => self.host.file_calls.run(move || root.open_file(name, mode)).await,
            OpenMode::ReadWrite | OpenMode::Read => root.open_file(name, mode),
        };
        Ok(self.adopt(fd?, name))
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        let root = Arc::clone(&self.host.root);
        if let Some(removed) = self.host.file_calls.run(move || root.remove(name)).await? {
            self.host.file_calls.free(removed);
        }
        Ok(())
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        self.host.root.list(dir)
    }

    async fn create_dir(&self, dir: Dir) -> Result<()> {
        self.host.root.make_dir(dir)?;
        self.sync_dir(dir).await?;
        if dir == Dir::Root { Ok(()) } else { self.sync_dir(Dir::Root).await }
    }

    async fn sync_dir(&self, dir: Dir) -> Result<()> {
        let opened = self.host.root.open_dir(dir).and_then(|fd| fd.ok_or(libc::ENOENT));
        let fd = opened.map_err(|errno| dir_error(FileOp::SyncDir, dir, errno))?;
        self.sync_open_dir(dir, fd).await
    }

    async fn space(&self) -> Result<Space> {
        self.host.root.space()
    }

    async fn off_core<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.host.file_calls.aside(work).await
    }

    fn cold(&self) -> Option<RealCold> {
        self.host.cold.clone()
    }
}
