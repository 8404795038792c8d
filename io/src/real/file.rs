//! An open file of the real world.

use std::fmt;
use std::rc::Rc;

use super::operation::{Operation, Work};
use super::removed::PIECE_BYTES;
use super::ring::Ring;
use super::share::Share;
use super::target::Target;
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::env::{File, FileName, WriteSync};
use crate::error::{Error, FileOp, Result};
use crate::num::{to_u64, to_usize};
use crate::sync_mode::SyncMode;

/// The size of one write of zeros: large enough for a device's full rate, small enough not to delay others.
const ZERO_BYTES: usize = 1 << 20;

/// An open file of the real world.
#[derive(Clone)]
pub struct RealFile {
    ring: Rc<Ring>,
    target: Rc<Target>,
    share: Rc<Share>,
    name: FileName,
    sync_mode: SyncMode,
}

impl RealFile {
    pub(super) fn new(
        ring: Rc<Ring>,
        target: Rc<Target>,
        share: Rc<Share>,
        name: FileName,
        sync_mode: SyncMode,
    ) -> Self {
        Self { ring, target, share, name, sync_mode }
    }

    /// The same file with another way of writing durably.
    pub(super) fn with_sync_mode(&self, sync_mode: SyncMode) -> Self {
        Self { sync_mode, ..self.clone() }
    }

    async fn run(&self, operation: Operation, durable: bool) -> (Option<IoBuf>, Result<()>) {
        let _in_flight = self.share.begin_io(durable);
        self.ring.run(operation).await
    }

    async fn transfer(&self, work: Work, offset: u64, buf: IoBuf) -> (IoBuf, Result<()>) {
        let len = to_u64(buf.len());
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        if end.is_none() || !offset.is_multiple_of(to_u64(IO_UNIT_BYTES)) {
            let op = if work == Work::Read { FileOp::Read } else { FileOp::Write };
            return (buf, Err(Error::from_errno(op, self.name, offset, len, libc::EINVAL)));
        }
        let operation = Operation::transfer(Rc::clone(&self.target), work, offset, buf);
        match self.run(operation, matches!(work, Work::Write(Some(_)))).await {
            (Some(buf), result) => (buf, result),
            // The ring hands the buffer of a transfer back in every case; a heap buffer stands in if it did not.
            (None, result) => (IoBuf::zeroed(to_usize(len)), result.and(Err(Error::Stopped))),
        }
    }

    async fn sync(&self, metadata: bool) -> Result<()> {
        self.run(Operation::sync(Rc::clone(&self.target), metadata), true).await.1
    }
}

impl File for RealFile {
    fn name(&self) -> FileName {
        self.name
    }

    async fn read_at(&self, offset: u64, buf: IoBuf) -> (IoBuf, Result<()>) {
        self.transfer(Work::Read, offset, buf).await
    }

    async fn write_at(&self, offset: u64, buf: IoBuf, sync: WriteSync) -> (IoBuf, Result<()>) {
        let durable = (sync == WriteSync::Durable).then_some(self.sync_mode);
        self.transfer(Work::Write(durable), offset, buf).await
    }

    async fn sync_data(&self) -> Result<()> {
        self.sync(false).await
    }

    async fn zero_fill(&self, bytes: u64) -> Result<()> {
        // From the heap: a task that fills a file ahead of need must not wait for buffers of those who need it.
        let mut zeros = IoBuf::zeroed(ZERO_BYTES.min(to_usize(bytes)));
        let mut offset = 0;
        while offset < bytes {
            zeros.truncate(to_usize(bytes - offset));
            let len = to_u64(zeros.len());
            let (back, written) = self.transfer(Work::Write(None), offset, zeros).await;
            written.map_err(as_zero_fill)?;
            zeros = back;
            offset += len;
        }
        self.sync(true).await
    }

    async fn allocate(&self, bytes: u64) -> Result<()> {
        let allocated = self.run(Operation::allocate(Rc::clone(&self.target), bytes), false).await.1;
        match allocated {
            // Filesystems that cannot allocate ahead can still be made to by writing.
            Err(Error::Os { errno: libc::EOPNOTSUPP, .. }) => self.zero_fill(bytes).await,
            allocated => allocated,
        }
    }

    async fn release(&self, from: u64, to: u64) -> Result<()> {
        let mut from = from;
        while from < to {
            let bytes = PIECE_BYTES.min(to - from);
            match self.run(Operation::release(Rc::clone(&self.target), from, bytes), false).await.1 {
                Ok(()) => from += bytes,
                Err(Error::Os { errno: libc::EOPNOTSUPP, .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn len(&self) -> Result<u64> {
        self.target.len()
    }
}

fn as_zero_fill(error: Error) -> Error {
    match error {
        Error::Os { file, offset, errno, .. } => Error::Os { op: FileOp::ZeroFill, file, offset, errno },
        other => other,
    }
}

impl fmt::Debug for RealFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealFile").field("name", &self.name).finish_non_exhaustive()
    }
}
