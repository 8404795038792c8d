//! Operations from submission to completion.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::disk::{InFlight, InodeId, SimDisk};
use super::faults::Fault;
use super::host::Host;
use super::options::{DurableCover, Personality};
use super::pages::{PAGE_BYTES, WriteData, copy_sectors};
use super::rng::Rng;
use super::trace::{IoEvent, IoPhase};
use super::world::Inner;
use crate::cold::ColdFault;
use crate::env::FileName;
use crate::error::{Error, FileOp, Result};
use crate::num::{to_u64, to_usize};

/// Files are shorter than this, so that an offset never becomes an allocation of the simulation's own memory.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 36;

/// Takes effect on the disk and fills the answer's slot. Returns the error number.
type Finish = Box<dyn FnOnce(&Inner, &Op) -> i32>;

/// An operation in flight.
pub(super) struct Op {
    pub(super) id: u64,
    pub(super) event: IoEvent,
    pub(super) fault: Option<Fault>,
    pub(super) host: Rc<Host>,
}

/// The operations in flight, by whether their time has come.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) waiting: BTreeMap<(Duration, u64), (Op, Finish)>,
    pub(super) due: Vec<(Op, Finish)>,
}

/// Where an answer waits for its task. The operation keeps it alive, so the task may go.
struct Slot<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

/// The state that an operation works on when it completes.
pub(super) struct Completion<'a> {
    pub(super) disk: &'a mut SimDisk,
    pub(super) fault: Option<Fault>,
    pub(super) rng: &'a mut Rng,
    pub(super) personality: Personality,
    pub(super) cold_capacity: Option<u64>,
    cover: DurableCover,
    capacity: Option<u64>,
    op: FileOp,
}

impl Inner {
    /// Submits an operation and waits for its answer. `begin` marks it in flight on the disk, `finish` is its effect.
    /// `finish` must not own a file handle: `keep` is dropped for it when no state is borrowed.
    pub(super) async fn perform<T: 'static, K: 'static>(
        self: &Rc<Self>,
        host: &Rc<Host>,
        event: IoEvent,
        keep: K,
        begin: Option<InFlight>,
        finish: impl FnOnce(&mut Completion<'_>) -> (T, i32) + 'static,
    ) -> T {
        let slot = Rc::new(Slot { value: Cell::new(None), waker: RefCell::new(None) });
        if self.is_running() {
            let answer = Rc::clone(&slot);
            let finish = Box::new(move |world: &Inner, op: &Op| {
                let (value, errno) = world.complete(op, finish);
                answer.value.set(Some(value));
                let waker = answer.waker.borrow_mut().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
                drop(keep);
                errno
            });
            self.submit(host, event, begin, finish);
        }
        poll_fn(move |cx| match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                *slot.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn submit(&self, host: &Rc<Host>, event: IoEvent, begin: Option<InFlight>, finish: Finish) {
        let id = self.next_id();
        let fault = self.draw_fault(&event);
        if let Some(begin) = begin {
            self.disk.borrow_mut().in_flight.insert(id, begin);
        }
        let delay = if event.cold { self.cold_faults.borrow().delay } else { Duration::ZERO };
        let due = self.now().saturating_add(self.draw_latency(fault)).saturating_add(delay);
        host.in_flight.set(host.in_flight.get() + 1);
        let op = Op { id, event, fault, host: Rc::clone(host) };
        if self.ends_at_once(&event) {
            self.observe(&event);
            // The observer may have ended the run, and the operation is then one of those that were in flight.
            if self.is_running() {
                self.end(&op, finish);
            }
            return;
        }
        self.pending.borrow_mut().waiting.insert((due, id), (op, finish));
        self.observe(&event);
    }

    fn ends_at_once(&self, event: &IoEvent) -> bool {
        let is_system_call =
            matches!(event.op, FileOp::Open | FileOp::Remove | FileOp::List | FileOp::Length);
        is_system_call
            && !event.cold
            && self.latency_rng.borrow_mut().below(10_000) < u64::from(self.options.at_once)
    }

    fn end(&self, op: &Op, finish: Finish) {
        let errno = finish(self, op);
        op.host.in_flight.set(op.host.in_flight.get().saturating_sub(1));
        op.host.report_end();
        self.observe(&IoEvent { phase: IoPhase::Completed, errno, ..op.event });
    }

    fn draw_fault(&self, event: &IoEvent) -> Option<Fault> {
        let faults = self.faults.borrow();
        if event.cold {
            let nth = self.cold_count.get();
            self.cold_count.set(nth + 1);
            let mut rng = self.cold_rng.borrow_mut();
            return faults
                .at(self.io_count())
                .or_else(|| self.cold_faults.borrow().draw(nth, event.op, &mut rng));
        }
        let changes = event.durable || event.grows || matches!(event.op, FileOp::Remove | FileOp::Release);
        if changes && self.read_only.get() {
            return Some(Fault::Errno(libc::EROFS));
        }
        let fault = faults.draw(self.io_count(), event, &mut self.fault_rng.borrow_mut());
        if faults.read_only_after_error && changes && matches!(fault, Some(Fault::Errno(libc::EIO))) {
            self.read_only.set(true);
        }
        fault
    }

    fn draw_latency(&self, fault: Option<Fault>) -> Duration {
        let options = &self.options;
        if fault == Some(Fault::Slow) {
            return options.latency_max.saturating_mul(100);
        }
        let spread = options.latency_max.saturating_sub(options.latency_min);
        let spread_ns = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        let extra_ns = self.latency_rng.borrow_mut().below(spread_ns.saturating_add(1));
        options.latency_min.saturating_add(Duration::from_nanos(extra_ns))
    }

    fn complete<T>(&self, op: &Op, finish: impl FnOnce(&mut Completion<'_>) -> (T, i32)) -> (T, i32) {
        let mut disk = self.disk.borrow_mut();
        disk.in_flight.remove(&op.id);
        finish(&mut Completion {
            disk: &mut disk,
            fault: op.fault,
            rng: &mut self.fault_rng.borrow_mut(),
            personality: self.options.personality,
            cold_capacity: self.cold_faults.borrow().capacity_bytes,
            cover: self.options.durable_cover,
            capacity: self.capacity.get(),
            op: op.event.op,
        })
    }

    /// Delivers one of the completions that are due.
    pub(super) fn deliver(&self, nth: usize) {
        let mut pending = self.pending.borrow_mut();
        if nth >= pending.due.len() {
            return;
        }
        let (op, finish) = pending.due.swap_remove(nth);
        drop(pending);
        self.end(&op, finish);
    }

    /// Makes due what the clock has reached. Returns when the next operation is due.
    pub(super) fn mature(&self) -> Option<Duration> {
        let now = self.now();
        let mut pending = self.pending.borrow_mut();
        while let Some(first) = pending.waiting.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            let op = first.remove();
            pending.due.push(op);
        }
        None
    }
}

impl Completion<'_> {
    /// The injected error, if the operation is to fail.
    pub(super) fn errno(&self) -> Option<i32> {
        match self.fault {
            Some(Fault::Errno(errno)) => Some(errno),
            _ => None,
        }
    }

    /// The injected fault of an operation on the cold target.
    pub(super) fn cold_fault(&self) -> Option<ColdFault> {
        match self.fault {
            Some(Fault::Cold(fault)) => Some(fault),
            Some(Fault::Errno(errno)) => Some(ColdFault::from_errno(errno)),
            _ => None,
        }
    }

    /// Reads a file into a buffer.
    pub(super) fn read(&mut self, inode: InodeId, name: FileName, offset: u64, out: &mut [u8]) -> Result<()> {
        let bytes = to_u64(out.len());
        if let Some(errno) = self.errno() {
            return Err(Error::from_errno(self.op, name, offset, bytes, errno));
        }
        let Some(state) = self.disk.inode(inode) else { return Err(Error::Stopped) };
        let wanted = offset.saturating_add(bytes);
        if wanted > state.len {
            return Err(Error::ShortFile { file: name.to_string(), wanted, len: state.len });
        }
        state.current.read(offset, out);
        self.mix_in_flight(inode, offset, out);
        self.flip_bit(out);
        Ok(())
    }

    /// Inverts one bit of an answer, if that is the fault.
    pub(super) fn flip_bit(&mut self, out: &mut [u8]) {
        if self.fault == Some(Fault::BitFlip) {
            let at = self.rng.index(out.len());
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << self.rng.below(8);
            }
        }
    }

    /// A read that races a write sees any of its sectors.
    fn mix_in_flight(&mut self, inode: InodeId, offset: u64, out: &mut [u8]) {
        let read_first = to_usize(offset) / PAGE_BYTES;
        for operation in self.disk.in_flight.values() {
            let InFlight::Write { inode: target, first, data } = operation else { continue };
            if *target != inode
                || *first >= read_first + out.len() / PAGE_BYTES
                || first + data.pages() <= read_first
            {
                continue;
            }
            for (at, page) in (*first..).zip(data.iter()) {
                let Some(at) = at.checked_sub(read_first) else { continue };
                let Some(into) = out.chunks_exact_mut(PAGE_BYTES).nth(at) else { break };
                copy_sectors(into, page.as_slice(), self.rng.byte());
            }
        }
    }

    /// Writes to a file. `durable` is the mark at submission if the write is to be durable.
    pub(super) fn write(
        &mut self,
        inode: InodeId,
        name: FileName,
        first: usize,
        data: &WriteData,
        durable: Option<u64>,
    ) -> Result<()> {
        let offset = to_u64(first.saturating_mul(PAGE_BYTES));
        let bytes = data.end(first).saturating_sub(offset);
        let op = self.op;
        let failed = |errno| Err(Error::from_errno(op, name, offset, bytes, errno));
        let mut place = first;
        match self.fault {
            Some(Fault::Errno(libc::EROFS)) => return failed(libc::EROFS),
            Some(Fault::Errno(errno)) => {
                let failure = failed(errno);
                let pages = self.rng.index(data.pages().saturating_add(1));
                self.write_part(inode, first, data, pages);
                return failure;
            }
            Some(Fault::LostWrite) => return Ok(()),
            Some(Fault::MisdirectedWrite) => match self.elsewhere(inode, first, data.pages()) {
                Some(elsewhere) => place = elsewhere,
                None => return Ok(()),
            },
            Some(Fault::Slow | Fault::BitFlip | Fault::Cold(_)) | None => {}
        }
        if !self.has_room(inode, place, data.pages()) {
            let failure = failed(libc::ENOSPC);
            let fitting = self.fitting(data.pages());
            let pages = self.rng.index(fitting.saturating_add(1));
            self.write_part(inode, place, data, pages);
            return failure;
        }
        match durable {
            None => self.disk.write(inode, place, data),
            Some(mark) => {
                self.disk.write_durable(inode, place, data);
                if self.personality == Personality::Ext4 || self.cover == DurableCover::File {
                    self.disk.sync_file(inode, mark, self.personality);
                }
            }
        }
        Ok(())
    }

    /// Gives back the space of some pages. A crash may bring back what was in them.
    pub(super) fn release(
        &mut self,
        inode: InodeId,
        name: FileName,
        first: usize,
        pages: usize,
    ) -> Result<()> {
        if let Some(errno) = self.errno() {
            let offset = to_u64(first.saturating_mul(PAGE_BYTES));
            return Err(Error::from_errno(self.op, name, offset, 0, errno));
        }
        let is_durable = self.rng.coin();
        if let Some(state) = self.disk.inode_mut(inode) {
            state.release(first, pages, is_durable);
        }
        Ok(())
    }

    /// Syncs a file. The mark is that of the submission.
    pub(super) fn sync(&mut self, inode: InodeId, name: FileName, mark: u64) -> Result<()> {
        if let Some(errno) = self.errno() {
            if let Some(state) = self.disk.inode_mut(inode) {
                state.doom(mark, self.rng);
            }
            return Err(Error::from_errno(self.op, name, 0, 0, errno));
        }
        self.disk.sync_file(inode, mark, self.personality);
        Ok(())
    }

    /// The first pages of a write that failed, not durable.
    fn write_part(&mut self, inode: InodeId, first: usize, data: &WriteData, pages: usize) {
        let part = match data {
            WriteData::Pages(all) => WriteData::Pages(all.iter().take(pages).cloned().collect()),
            WriteData::Zeros(_) => WriteData::Zeros(pages),
        };
        if pages > 0 && self.has_room(inode, first, pages) {
            self.disk.write(inode, first, &part);
        }
    }

    /// Another place in the file for a misdirected write.
    fn elsewhere(&mut self, inode: InodeId, first: usize, pages: usize) -> Option<usize> {
        let file_pages = to_usize(self.disk.inode(inode)?.len) / PAGE_BYTES;
        let places = file_pages.checked_sub(pages)?.checked_add(1)?;
        let place = self.rng.index(places);
        (place != first).then_some(place)
    }

    fn has_room(&self, inode: InodeId, first: usize, pages: usize) -> bool {
        if self.capacity.is_none() {
            return true;
        }
        let missing = self.disk.inode(inode).map_or(0, |state| state.current.missing(first, pages));
        missing <= self.fitting(missing)
    }

    /// Whether a directory can take another name. It may need a page for it, though none is accounted for.
    pub(super) fn has_room_for_a_name(&self) -> bool {
        self.fitting(1) == 1
    }

    /// How many of `pages` new pages there is room for.
    fn fitting(&self, pages: usize) -> usize {
        let Some(capacity) = self.capacity else { return pages };
        pages.min(to_usize(capacity.saturating_sub(self.disk.used_bytes())) / PAGE_BYTES)
    }
}

/// The error number that stands for an error in a trace.
pub(super) fn errno_of<T>(result: &Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(Error::Os { errno, .. }) => *errno,
        Err(Error::NotFound { .. }) => libc::ENOENT,
        Err(Error::AlreadyExists { .. }) => libc::EEXIST,
        Err(Error::OutOfSpace { .. }) => libc::ENOSPC,
        Err(Error::ShortFile { .. }) => libc::ENODATA,
        Err(Error::Cold { fault, .. }) => fault.errno(),
        Err(_) => libc::EINVAL,
    }
}
