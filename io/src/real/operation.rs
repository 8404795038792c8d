//! One operation as a state machine: what to submit, and what a completion means.
//!
//! An operation owns its buffer and its file until its last completion has been seen. A short transfer is continued,
//! a transient error repeated, a sync that the kernel cancelled because its linked write was short is issued again.
//! Nothing here touches a ring, so each case can be tested with made-up results.

use std::rc::Rc;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::target::Target;
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::error::{Error, FileOp, Result};
use crate::num::to_u64;
use crate::sync_mode::SyncMode;

/// The most that one submission transfers: a multiple of the unit below the kernel's limit of 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// How often in a row an operation may make no progress before it fails. The kernel repeats most transient
/// conditions itself, so a few are normal and many mean that it never will succeed.
const STALLS_MAX: u32 = 1000;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Fills the buffer.
    Read,
    /// Writes the buffer; durably in the given way, if any.
    Write(Option<SyncMode>),
    /// Makes earlier writes durable; with all metadata or with only what reading them back needs.
    Sync {
        /// Whether every attribute must be durable too.
        metadata: bool,
    },
    /// Takes space for the beginning of a file.
    Allocate {
        /// How much.
        bytes: u64,
    },
    /// Gives space from the operation's offset on back.
    Release {
        /// How much.
        bytes: u64,
    },
}

/// Which of an operation's submissions a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The read or the write, or a sync on its own.
    Main,
    /// The sync that is linked to the write.
    LinkedSync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Transfer,
    /// A write and its linked sync are in flight; the results seen so far.
    Linked {
        write: Option<i32>,
        sync: Option<i32>,
    },
    Sync,
    /// Taking or giving back space.
    Space,
}

/// What to do after a completion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another completion of this operation is due.
    Wait,
    /// Submit the operation's entries again.
    Submit,
    /// The operation has ended.
    Done(Result<()>),
}

/// An operation.
pub(super) struct Operation {
    target: Rc<Target>,
    work: Work,
    buf: Option<IoBuf>,
    offset: u64,
    done: usize,
    phase: Phase,
    stalls: u32,
}

impl Operation {
    pub(super) fn transfer(target: Rc<Target>, work: Work, offset: u64, buf: IoBuf) -> Self {
        let linked = work == Work::Write(Some(SyncMode::Linked)) && buf.len() <= TRANSFER_BYTES_MAX;
        let phase = if linked { Phase::Linked { write: None, sync: None } } else { Phase::Transfer };
        Self { target, work, buf: Some(buf), offset, done: 0, phase, stalls: 0 }
    }

    pub(super) fn sync(target: Rc<Target>, metadata: bool) -> Self {
        let work = Work::Sync { metadata };
        Self { target, work, buf: None, offset: 0, done: 0, phase: Phase::Sync, stalls: 0 }
    }

    pub(super) fn allocate(target: Rc<Target>, bytes: u64) -> Self {
        let work = Work::Allocate { bytes };
        Self { target, work, buf: None, offset: 0, done: 0, phase: Phase::Space, stalls: 0 }
    }

    pub(super) fn release(target: Rc<Target>, offset: u64, bytes: u64) -> Self {
        let work = Work::Release { bytes };
        Self { target, work, buf: None, offset, done: 0, phase: Phase::Space, stalls: 0 }
    }

    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// The bytes transferred so far.
    pub(super) fn transferred(&self) -> u64 {
        to_u64(self.done)
    }

    /// Ends the operation and hands its buffer back.
    pub(super) fn into_buf(self) -> Option<IoBuf> {
        self.buf
    }

    fn len(&self) -> usize {
        self.buf.as_ref().map_or(0, IoBuf::len)
    }

    /// The entries of the present phase. The second, if there is one, must follow the first in the same submission.
    pub(super) fn entries(&self) -> (Entry, Option<Entry>) {
        match self.phase {
            Phase::Transfer => (self.transfer_entry(), None),
            Phase::Linked { .. } => (self.transfer_entry().flags(Flags::IO_LINK), Some(self.sync_entry())),
            Phase::Sync => (self.sync_entry(), None),
            Phase::Space => (self.space_entry(), None),
        }
    }

    fn transfer_entry(&self) -> Entry {
        let (fd, flags) = self.target.ring_fd();
        let Some(buf) = &self.buf else { return opcode::Nop::new().build() };
        let bytes = (buf.len() - self.done).min(TRANSFER_BYTES_MAX);
        let len = u32::try_from(bytes).unwrap_or(u32::MAX);
        let offset = self.offset + self.transferred();
        let ptr = buf.as_ptr().wrapping_add(self.done);
        let rw_flags = if self.work == Work::Write(Some(SyncMode::Dsync)) { libc::RWF_DSYNC } else { 0 };
        let entry = match (self.work, buf.registered_index()) {
            (Work::Read, Some(index)) => opcode::ReadFixed::new(fd, ptr, len, index).offset(offset).build(),
            (Work::Read, None) => opcode::Read::new(fd, ptr, len).offset(offset).build(),
            (_, Some(index)) => {
                opcode::WriteFixed::new(fd, ptr, len, index).offset(offset).rw_flags(rw_flags).build()
            }
            (_, None) => opcode::Write::new(fd, ptr, len).offset(offset).rw_flags(rw_flags).build(),
        };
        entry.flags(flags)
    }

    fn sync_entry(&self) -> Entry {
        let (fd, flags) = self.target.ring_fd();
        let metadata = matches!(self.work, Work::Sync { metadata: true });
        let kind = if metadata { types::FsyncFlags::empty() } else { types::FsyncFlags::DATASYNC };
        opcode::Fsync::new(fd).flags(kind).build().flags(flags)
    }

    fn space_entry(&self) -> Entry {
        let (fd, flags) = self.target.ring_fd();
        let (bytes, mode) = match self.work {
            Work::Allocate { bytes } => (bytes, 0),
            Work::Release { bytes } => (bytes, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            Work::Read | Work::Write(_) | Work::Sync { .. } => return opcode::Nop::new().build(),
        };
        opcode::Fallocate::new(fd, bytes).offset(self.offset).mode(mode).build().flags(flags)
    }

    /// Takes the result of one completion.
    pub(super) fn complete(&mut self, part: Part, result: i32) -> Step {
        match &mut self.phase {
            Phase::Transfer => self.after_transfer(result),
            Phase::Sync => self.after_sync(result),
            Phase::Space => self.after_space(result),
            Phase::Linked { write, sync } => {
                *(if part == Part::Main { &mut *write } else { &mut *sync }) = Some(result);
                let (Some(write), Some(sync)) = (*write, *sync) else { return Step::Wait };
                self.phase = Phase::Transfer;
                match self.after_transfer(write) {
                    // The write is complete and would go on to a sync of its own, but that has been tried.
                    Step::Submit if self.phase == Phase::Sync && sync != -libc::ECANCELED => {
                        self.after_sync(sync)
                    }
                    step => step,
                }
            }
        }
    }

    fn after_transfer(&mut self, result: i32) -> Step {
        let Ok(bytes) = usize::try_from(result) else {
            return match -result {
                libc::EINTR | libc::EAGAIN => self.stalled(libc::EAGAIN),
                errno => Step::Done(Err(self.error(self.transfer_op(), errno))),
            };
        };
        let len = self.len();
        let end = (self.done + bytes).min(len);
        if end == len {
            self.done = len;
            return match self.work {
                Work::Write(Some(SyncMode::WriteThenSync | SyncMode::Linked)) => {
                    self.phase = Phase::Sync;
                    Step::Submit
                }
                _ => Step::Done(Ok(())),
            };
        }
        if self.work == Work::Read
            && let Err(error) = self.check_file_len()
        {
            return Step::Done(Err(error));
        }
        // Direct I/O goes on at a unit's boundary only; transferring a few bytes twice does no harm.
        let aligned = end - end % IO_UNIT_BYTES;
        if aligned > self.done {
            self.done = aligned;
            self.stalls = 0;
            Step::Submit
        } else {
            self.stalled(libc::EIO)
        }
    }

    fn after_sync(&mut self, result: i32) -> Step {
        match -result {
            errno if errno <= 0 => Step::Done(Ok(())),
            libc::EINTR | libc::EAGAIN => self.stalled(libc::EAGAIN),
            errno => Step::Done(Err(self.error(FileOp::Sync, errno))),
        }
    }

    fn after_space(&mut self, result: i32) -> Step {
        match -result {
            errno if errno <= 0 => Step::Done(Ok(())),
            libc::EINTR | libc::EAGAIN => self.stalled(libc::EAGAIN),
            errno => Step::Done(Err(self.error(self.space_op(), errno))),
        }
    }

    fn stalled(&mut self, errno: i32) -> Step {
        self.stalls += 1;
        if self.stalls < STALLS_MAX {
            return Step::Submit;
        }
        let op = match self.phase {
            Phase::Sync => FileOp::Sync,
            Phase::Space => self.space_op(),
            Phase::Transfer | Phase::Linked { .. } => self.transfer_op(),
        };
        Step::Done(Err(self.error(op, errno)))
    }

    fn check_file_len(&self) -> Result<()> {
        let wanted = self.offset.saturating_add(to_u64(self.len()));
        let len = self.target.len()?;
        if len < wanted {
            return Err(Error::ShortFile { file: self.target.to_string(), wanted, len });
        }
        Ok(())
    }

    fn space_op(&self) -> FileOp {
        if matches!(self.work, Work::Release { .. }) { FileOp::Release } else { FileOp::Allocate }
    }

    fn transfer_op(&self) -> FileOp {
        if self.work == Work::Read { FileOp::Read } else { FileOp::Write }
    }

    fn error(&self, op: FileOp, errno: i32) -> Error {
        let bytes = match self.work {
            Work::Allocate { bytes } | Work::Release { bytes } => bytes,
            Work::Read | Work::Write(_) | Work::Sync { .. } => to_u64(self.len() - self.done),
        };
        let offset = self.offset + self.transferred();
        self.target.error(op, offset, bytes, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Dir, FileKind, FileName};

    const LEN: usize = 4 * IO_UNIT_BYTES;

    fn target(bytes: usize) -> Rc<Target> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(to_u64(bytes)).unwrap();
        let name = FileName { dir: Dir::Root, kind: FileKind::Wal, number: 1 };
        Rc::new(Target::file(file.into(), name))
    }

    fn write(sync: Option<SyncMode>) -> Operation {
        Operation::transfer(target(0), Work::Write(sync), 0, IoBuf::zeroed(LEN))
    }

    fn read(file_bytes: usize) -> Operation {
        Operation::transfer(target(file_bytes), Work::Read, 0, IoBuf::zeroed(LEN))
    }

    #[test]
    fn a_short_read_is_continued_at_a_unit() {
        let mut operation = read(LEN);
        assert_eq!(operation.complete(Part::Main, 4096 + 512), Step::Submit);
        assert_eq!(operation.transferred(), 4096);
        assert_eq!(operation.complete(Part::Main, 3 * 4096), Step::Done(Ok(())));
    }

    #[test]
    fn the_end_of_the_file_is_no_endless_loop() {
        for (file_bytes, result) in [(6000, 6000), (4096, 4096), (0, 0)] {
            let step = read(file_bytes).complete(Part::Main, result);
            let Step::Done(Err(Error::ShortFile { wanted, len, .. })) = step else { panic!("{step:?}") };
            assert_eq!((wanted, len), (to_u64(LEN), to_u64(file_bytes)));
        }
    }

    #[test]
    fn transient_errors_are_repeated_but_not_for_ever() {
        for errno in [libc::EINTR, libc::EAGAIN] {
            let mut operation = read(LEN);
            let mut stalls = 0;
            while operation.complete(Part::Main, -errno) == Step::Submit {
                stalls += 1;
                assert!(stalls < STALLS_MAX);
            }
            assert_eq!(stalls, STALLS_MAX - 1);
        }
    }

    #[test]
    fn a_write_without_progress_ends_in_an_error() {
        let mut operation = write(None);
        let end =
            (0..STALLS_MAX).map(|_| operation.complete(Part::Main, 0)).find(|step| *step != Step::Submit);
        assert!(matches!(end, Some(Step::Done(Err(Error::Os { op: FileOp::Write, errno: libc::EIO, .. })))));
    }

    #[test]
    fn a_linked_sync_counts_only_with_the_whole_write() {
        let whole = i32::try_from(LEN).unwrap();
        for sync_first in [false, true] {
            let mut operation = write(Some(SyncMode::Linked));
            let mut both = [(Part::Main, whole), (Part::LinkedSync, 0)];
            if sync_first {
                both.reverse();
            }
            assert_eq!(operation.complete(both[0].0, both[0].1), Step::Wait);
            assert_eq!(operation.complete(both[1].0, both[1].1), Step::Done(Ok(())));
        }
    }

    #[test]
    fn an_allocation_that_does_not_fit_is_typed() {
        let mut operation = Operation::allocate(target(0), 1 << 20);
        assert_eq!(operation.complete(Part::Main, -libc::EINTR), Step::Submit);
        let full = operation.complete(Part::Main, -libc::ENOSPC);
        assert!(matches!(full, Step::Done(Err(Error::OutOfSpace { needed: 0x10_0000, .. }))), "{full:?}");
        assert_eq!(Operation::allocate(target(0), 4096).complete(Part::Main, 0), Step::Done(Ok(())));
    }

    #[test]
    fn a_release_that_fails_is_told_with_its_place() {
        let mut operation = Operation::release(target(0), 8192, 4096);
        assert_eq!(operation.complete(Part::Main, -libc::EAGAIN), Step::Submit);
        let failed = operation.complete(Part::Main, -libc::EROFS);
        let Step::Done(Err(Error::Os { op, offset, errno, .. })) = failed else { panic!("{failed:?}") };
        assert_eq!((op, offset, errno), (FileOp::Release, 8192, libc::EROFS));
    }

    #[test]
    fn a_sync_cancelled_by_a_short_write_is_issued_again() {
        let mut operation = write(Some(SyncMode::Linked));
        assert_eq!(operation.complete(Part::Main, 4096), Step::Wait);
        assert_eq!(operation.complete(Part::LinkedSync, -libc::ECANCELED), Step::Submit);
        assert_eq!(operation.phase, Phase::Transfer);
        assert_eq!(operation.complete(Part::Main, 3 * 4096), Step::Submit);
        assert_eq!(operation.phase, Phase::Sync);
        assert_eq!(operation.complete(Part::Main, 0), Step::Done(Ok(())));
    }

    #[test]
    fn a_sync_that_ran_before_the_rest_of_a_short_write_does_not_count() {
        let mut operation = write(Some(SyncMode::Linked));
        assert_eq!(operation.complete(Part::Main, 4096), Step::Wait);
        assert_eq!(operation.complete(Part::LinkedSync, 0), Step::Submit);
        assert_eq!(operation.complete(Part::Main, 3 * 4096), Step::Submit);
        assert_eq!(operation.phase, Phase::Sync);
    }

    #[test]
    fn failures_name_the_write_or_the_sync() {
        let mut operation = write(Some(SyncMode::Linked));
        assert_eq!(operation.complete(Part::Main, -libc::ENOSPC), Step::Wait);
        let step = operation.complete(Part::LinkedSync, -libc::ECANCELED);
        assert!(matches!(step, Step::Done(Err(Error::OutOfSpace { needed, .. })) if needed == to_u64(LEN)));

        let mut operation = write(Some(SyncMode::WriteThenSync));
        assert_eq!(operation.complete(Part::Main, i32::try_from(LEN).unwrap()), Step::Submit);
        let step = operation.complete(Part::Main, -libc::EIO);
        assert!(matches!(step, Step::Done(Err(Error::Os { op: FileOp::Sync, errno: libc::EIO, .. }))));

        let mut operation = write(Some(SyncMode::Linked));
        assert_eq!(operation.complete(Part::Main, i32::try_from(LEN).unwrap()), Step::Wait);
        let step = operation.complete(Part::LinkedSync, -libc::EIO);
        assert!(matches!(step, Step::Done(Err(Error::Os { op: FileOp::Sync, errno: libc::EIO, .. }))));
    }
}
