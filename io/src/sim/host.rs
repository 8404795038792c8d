//! What a host of the simulated machine holds: its tasks, its files, its view of the world.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::cold::SimCold;
use super::disk::{InFlight, InodeId, NameError};
use super::io::{FILE_BYTES_MAX, errno_of};
use super::pages::{PAGE_BYTES, WriteData, split};
use super::trace::{IoEvent, IoPhase};
use super::world::Inner;
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::env::{Dir, Env, File, FileName, OpenMode, PanicHook, Space, TaskClass, WriteSync};
use crate::error::{Error, FileOp, Result};
use crate::num::{to_u64, to_usize};
use crate::reply::ReplySender;
use crate::task::{TaskSet, Unpark};

/// The size that a disk without a limit reports.
const CAPACITY_UNLIMITED_BYTES: u64 = 1 << 40;

/// Nothing sleeps in the simulation: the run loop looks at every ready queue.
struct AlwaysAwake;

impl Unpark for AlwaysAwake {
    fn unpark(&self) {}
}

/// A set of tasks that lives and dies together.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) tasks: TaskSet,
    pub(super) on_panic: Option<PanicHook>,
    /// Whether the main future has returned.
    pub(super) main_returned: Cell<bool>,
    pub(super) ended: Cell<bool>,
    /// Operations submitted and not completed.
    pub(super) in_flight: Cell<usize>,
    pub(super) finished: RefCell<Option<ReplySender<()>>>,
}

impl Host {
    pub(super) fn new(
        name: &str,
        on_panic: Option<PanicHook>,
        finished: Option<ReplySender<()>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            tasks: TaskSet::new(Box::new(AlwaysAwake)),
            on_panic,
            main_returned: Cell::new(false),
            ended: Cell::new(false),
            in_flight: Cell::new(0),
            finished: RefCell::new(finished),
        })
    }

    /// Drops the tasks, and those that the drops spawn.
    pub(super) fn end(&self) {
        self.ended.set(true);
        while !self.tasks.is_empty() {
            self.tasks.clear();
        }
        self.report_end();
    }

    /// Tells whoever waits that the host has ended, once its operations are drained.
    pub(super) fn report_end(&self) {
        if self.ended.get() && self.in_flight.get() == 0 {
            let finished = self.finished.borrow_mut().take();
            if let Some(finished) = finished {
                finished.send(());
            }
        }
    }
}

/// A host's view of the simulated machine.
#[derive(Clone)]
pub struct SimEnv {
    pub(super) world: Rc<Inner>,
    pub(super) host: Rc<Host>,
}

/// The descriptor that the clones of a [`SimFile`] share.
struct Handle {
    world: Rc<Inner>,
    inode: InodeId,
    name: FileName,
    writable: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.world.disk.borrow_mut().drop_handle(self.inode);
    }
}

/// An open file of the simulated machine.
#[derive(Clone)]
pub struct SimFile {
    host: Rc<Host>,
    handle: Rc<Handle>,
}

fn event(op: FileOp, dir: Dir, file: Option<FileName>) -> IoEvent {
    IoEvent {
        phase: IoPhase::Submitted,
        op,
        dir,
        file,
        offset: 0,
        len: 0,
        durable: false,
        grows: false,
        cold: false,
        errno: 0,
    }
}

fn dir_error(op: FileOp, dir: Dir, errno: i32) -> Error {
    Error::Os { op, file: dir.to_string(), offset: 0, errno }
}

fn coded<T>(result: Result<T>) -> (Result<T>, i32) {
    let errno = errno_of(&result);
    (result, errno)
}

impl SimFile {
    fn event(&self, op: FileOp) -> IoEvent {
        event(op, self.handle.name.dir, Some(self.handle.name))
    }

    /// Refuses what the kernel refuses before the device sees it. Returns the first page.
    fn check(&self, op: FileOp, offset: u64, bytes: u64) -> Result<usize> {
        let errno = if op != FileOp::Read && !self.handle.writable {
            libc::EBADF
        } else if !to_usize(offset).is_multiple_of(IO_UNIT_BYTES) {
            libc::EINVAL
        } else if offset.saturating_add(bytes) > FILE_BYTES_MAX && op != FileOp::Read {
            libc::EFBIG
        } else {
            return Ok(to_usize(offset) / PAGE_BYTES);
        };
        Err(Error::from_errno(op, self.handle.name, offset, bytes, errno))
    }
}

impl File for SimFile {
    fn name(&self) -> FileName {
        self.handle.name
    }

    async fn read_at(&self, offset: u64, mut buf: IoBuf) -> (IoBuf, Result<()>) {
        let len = to_u64(buf.len());
        if let Err(error) = self.check(FileOp::Read, offset, len) {
            return (buf, Err(error));
        }
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = IoEvent { offset, len, ..self.event(FileOp::Read) };
        let keep = Rc::clone(&self.handle);
        let finish = move |done: &mut super::io::Completion<'_>| {
            let (result, errno) = coded(done.read(inode, name, offset, buf.as_mut_slice()));
            ((buf, result), errno)
        };
        self.handle.world.perform(&self.host, event, keep, None, finish).await
    }

    async fn write_at(&self, offset: u64, buf: IoBuf, sync: WriteSync) -> (IoBuf, Result<()>) {
        let len = to_u64(buf.len());
        let first = match self.check(FileOp::Write, offset, len) {
            Ok(first) => first,
            Err(error) => return (buf, Err(error)),
        };
        let (inode, name) = (self.handle.inode, self.handle.name);
        let durable = sync == WriteSync::Durable;
        let event = IoEvent { offset, len, durable, grows: true, ..self.event(FileOp::Write) };
        let data = WriteData::Pages(split(buf.as_slice()));
        let begin = InFlight::Write { inode, first, data: data.clone() };
        let mark = durable.then(|| self.handle.world.disk.borrow().mark());
        let keep = Rc::clone(&self.handle);
        let finish = move |done: &mut super::io::Completion<'_>| {
            let (result, errno) = coded(done.write(inode, name, first, &data, mark));
            ((buf, result), errno)
        };
        self.handle.world.perform(&self.host, event, keep, Some(begin), finish).await
    }

    async fn sync_data(&self) -> Result<()> {
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = IoEvent { durable: true, ..self.event(FileOp::Sync) };
        let mark = self.handle.world.disk.borrow().mark();
        let keep = Rc::clone(&self.handle);
        let finish = move |done: &mut super::io::Completion<'_>| coded(done.sync(inode, name, mark));
        self.handle.world.perform(&self.host, event, keep, None, finish).await
    }

    async fn zero_fill(&self, bytes: u64) -> Result<()> {
        self.check(FileOp::ZeroFill, 0, bytes)?;
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = IoEvent { len: bytes, durable: true, grows: true, ..self.event(FileOp::ZeroFill) };
        let data = WriteData::Zeros(to_usize(bytes).div_ceil(PAGE_BYTES));
        let begin = InFlight::Write { inode, first: 0, data: data.clone() };
        let mark = Some(self.handle.world.disk.borrow().mark());
        let keep = Rc::clone(&self.handle);
        let finish =
            move |done: &mut super::io::Completion<'_>| coded(done.write(inode, name, 0, &data, mark));
        self.handle.world.perform(&self.host, event, keep, Some(begin), finish).await
    }

    async fn allocate(&self, bytes: u64) -> Result<()> {
        self.check(FileOp::Allocate, 0, bytes)?;
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = IoEvent { len: bytes, grows: true, ..self.event(FileOp::Allocate) };
        let data = WriteData::Zeros(to_usize(bytes).div_ceil(PAGE_BYTES));
        let begin = InFlight::Write { inode, first: 0, data: data.clone() };
        let keep = Rc::clone(&self.handle);
        let finish =
            move |done: &mut super::io::Completion<'_>| coded(done.write(inode, name, 0, &data, None));
        self.handle.world.perform(&self.host, event, keep, Some(begin), finish).await
    }

    async fn release(&self, from: u64, to: u64) -> Result<()> {
        let len = to.saturating_sub(from);
        let first = self.check(FileOp::Release, from, len)?;
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = IoEvent { offset: from, len, ..self.event(FileOp::Release) };
        let pages = to_usize(len) / PAGE_BYTES;
        let keep = Rc::clone(&self.handle);
        let finish =
            move |done: &mut super::io::Completion<'_>| coded(done.release(inode, name, first, pages));
        self.handle.world.perform(&self.host, event, keep, None, finish).await
    }

    async fn len(&self) -> Result<u64> {
        let (inode, name) = (self.handle.inode, self.handle.name);
        let event = self.event(FileOp::Length);
        let keep = Rc::clone(&self.handle);
        let finish = move |done: &mut super::io::Completion<'_>| {
            coded(match done.errno() {
                Some(errno) => Err(Error::from_errno(FileOp::Length, name, 0, 0, errno)),
                None => done.disk.inode(inode).map(|state| state.len).ok_or(Error::Stopped),
            })
        };
        self.handle.world.perform(&self.host, event, keep, None, finish).await
    }
}

impl SimEnv {
    async fn open_inode(&self, name: FileName, mode: OpenMode) -> Result<Rc<Handle>> {
        let create = mode == OpenMode::CreateNew;
        let event = IoEvent { grows: create, ..event(FileOp::Open, name.dir, Some(name)) };
        let begin = create.then_some(InFlight::Create { name });
        let world = Rc::clone(&self.world);
        let finish = move |done: &mut super::io::Completion<'_>| {
            if let Some(errno) = done.errno() {
                return coded(Err(Error::from_errno(FileOp::Open, name, 0, 0, errno)));
            }
            if create && !done.has_room_for_a_name() {
                return coded(Err(Error::from_errno(FileOp::Open, name, 0, 0, libc::ENOSPC)));
            }
            let found = if create {
                done.disk.create(name)
            } else {
                done.disk.lookup(name).ok_or(NameError::Missing)
            };
            coded(match found {
                Ok(inode) => {
                    done.disk.add_handle(inode);
                    Ok(Rc::new(Handle { world, inode, name, writable: mode != OpenMode::Read }))
                }
                Err(NameError::Missing) => Err(Error::NotFound { file: name.to_string() }),
                Err(NameError::Taken) => Err(Error::AlreadyExists { file: name.to_string() }),
            })
        };
        self.world.perform(&self.host, event, (), begin, finish).await
    }
}

impl Env for SimEnv {
    type File = SimFile;
    type Cold = SimCold;

    fn spawn(&self, class: TaskClass, name: &'static str, future: impl Future<Output = ()> + 'static) {
        if !self.host.ended.get() {
            self.host.tasks.spawn(class, name, future);
        }
    }

    fn now(&self) -> Duration {
        self.world.now()
    }

    async fn sleep(&self, duration: Duration) {
        let timer =
            Timer { world: &self.world, key: (self.now().saturating_add(duration), self.world.next_id()) };
        poll_fn(|cx| {
            let mut timers = timer.world.timers.borrow_mut();
            if timer.key.0 <= timer.world.now() {
                return Poll::Ready(());
            }
            timers.insert(timer.key, cx.waker().clone());
            Poll::Pending
        })
        .await;
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

    fn random(&self) -> u64 {
        self.world.env_rng.borrow_mut().next_u64()
    }

    async fn buffer(&self, bytes: usize) -> IoBuf {
        IoBuf::zeroed(bytes)
    }

    fn read_depth(&self) -> usize {
        self.world.options.read_depth
    }

    async fn off_core<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.yield_now().await;
        Ok(work())
    }

    fn cold(&self) -> Option<SimCold> {
        self.world.options.cold.then(|| SimCold::new(&self.world, &self.host))
    }

    async fn open(&self, name: FileName, mode: OpenMode) -> Result<SimFile> {
        let handle = self.open_inode(name, mode).await?;
        Ok(SimFile { host: Rc::clone(&self.host), handle })
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        let event = event(FileOp::Remove, name.dir, Some(name));
        let finish = move |done: &mut super::io::Completion<'_>| {
            coded(match done.errno() {
                Some(errno) => Err(Error::from_errno(FileOp::Remove, name, 0, 0, errno)),
                None => done.disk.remove(name).map_err(|_| Error::NotFound { file: name.to_string() }),
            })
        };
        self.world.perform(&self.host, event, (), Some(InFlight::Remove { name }), finish).await
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        let finish = move |done: &mut super::io::Completion<'_>| {
            coded(match done.errno() {
                Some(errno) => Err(dir_error(FileOp::List, dir, errno)),
                None => Ok(done.disk.list(dir)),
            })
        };
        self.world.perform(&self.host, event(FileOp::List, dir, None), (), None, finish).await
    }

    async fn create_dir(&self, dir: Dir) -> Result<()> {
        let event = IoEvent { durable: true, grows: true, ..event(FileOp::CreateDir, dir, None) };
        let mark = self.world.disk.borrow().mark();
        let finish = move |done: &mut super::io::Completion<'_>| {
            if let Some(errno) = done.errno() {
                return coded(Err(dir_error(FileOp::CreateDir, dir, errno)));
            }
            if !done.has_room_for_a_name() {
                return coded(Err(Error::OutOfSpace { file: dir.to_string(), needed: 0 }));
            }
            done.disk.create_dir(dir);
            if done.personality == super::options::Personality::Ext4 {
                done.disk.sync_all(mark);
            }
            coded(Ok(()))
        };
        self.world.perform(&self.host, event, (), Some(InFlight::CreateDir { dir }), finish).await
    }

    async fn sync_dir(&self, dir: Dir) -> Result<()> {
        let event = IoEvent { durable: true, ..event(FileOp::SyncDir, dir, None) };
        let mark = self.world.disk.borrow().mark();
        let finish = move |done: &mut super::io::Completion<'_>| {
            coded(match done.errno() {
                Some(errno) => Err(dir_error(FileOp::SyncDir, dir, errno)),
                None => done
                    .disk
                    .sync_dir(dir, mark, done.personality)
                    .map_err(|_| Error::NotFound { file: dir.to_string() }),
            })
        };
        self.world.perform(&self.host, event, (), None, finish).await
    }

    async fn space(&self) -> Result<Space> {
        let total_bytes = self.world.capacity.get().unwrap_or(CAPACITY_UNLIMITED_BYTES);
        let used = self.world.disk.borrow().used_bytes();
        Ok(Space { available_bytes: total_bytes.saturating_sub(used), total_bytes })
    }
}

/// A timer that is forgotten with the future that waits for it.
struct Timer<'a> {
    world: &'a Inner,
    key: (Duration, u64),
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.world.timers.borrow_mut().remove(&self.key);
    }
}
