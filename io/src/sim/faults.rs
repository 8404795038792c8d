//! What goes wrong, and how often.

use super::rng::Rng;
use super::trace::IoEvent;
use crate::cold::ColdFault;
use crate::env::FileKind;
use crate::error::FileOp;

/// A fault of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this error number. A write may have written part of its pages by then. Writes that a
    /// failed sync should have covered may never become durable, whatever later syncs report.
    Errno(i32),
    /// The operation takes a hundred times as long as the slowest ordinary one.
    Slow,
    /// A read returns one inverted bit. The file itself is unharmed.
    BitFlip,
    /// A write reports success and changes nothing.
    LostWrite,
    /// A write reports success and lands elsewhere in the file.
    MisdirectedWrite,
    /// An operation on the cold target fails in this way.
    Cold(ColdFault),
}

/// Which operations fail. Probabilities are in parts per 10,000; all are zero by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Faults at exact I/O indices: those of the operations' submissions. An index at which nothing is submitted has no
    /// effect, nor has a fault that does not fit the operation. Of the rest nothing hits the cold target, which has
    /// faults of its own ([`super::ColdFaults`]).
    pub at: Vec<(u64, Fault)>,
    /// EIO on a read.
    pub read_error: u16,
    /// EIO on a write or a fill with zeros.
    pub write_error: u16,
    /// EIO on a sync of a file or directory.
    pub sync_error: u16,
    /// EIO on any operation.
    pub any_error: u16,
    /// ENOSPC on an operation that may need space: write, fill with zeros, allocation, creation of a file or directory.
    pub no_space: u16,
    /// [`Fault::Slow`].
    pub slow: u16,
    /// [`Fault::BitFlip`].
    pub bit_flip: u16,
    /// [`Fault::LostWrite`].
    pub lost_write: u16,
    /// [`Fault::MisdirectedWrite`].
    pub misdirected_write: u16,
    /// The kinds of files that the probabilities apply to; empty for all, and for directories. Limits damage to what
    /// the engine promises to survive.
    pub kinds: Vec<FileKind>,
    /// Whether the first error of a write or sync makes the filesystem read-only, as ext4 does: every change after it
    /// fails with EROFS.
    pub read_only_after_error: bool,
}

impl Faults {
    /// The fault that was asked for at an index.
    pub(super) fn at(&self, index: u64) -> Option<Fault> {
        self.at.iter().find(|(at, _)| *at == index).map(|(_, fault)| *fault)
    }

    /// The fault of an operation on the store's own directory, submitted at `index`.
    pub(super) fn draw(&self, index: u64, event: &IoEvent, rng: &mut Rng) -> Option<Fault> {
        if let Some(fault) = self.at(index) {
            return Some(fault);
        }
        if !self.kinds.is_empty() && !event.file.is_some_and(|file| self.kinds.contains(&file.kind)) {
            return None;
        }
        let is = |ops: &[FileOp]| ops.contains(&event.op);
        let odds = [
            (self.any_error, Fault::Errno(libc::EIO), true),
            (self.read_error, Fault::Errno(libc::EIO), is(&[FileOp::Read])),
            (
                self.write_error,
                Fault::Errno(libc::EIO),
                is(&[FileOp::Write, FileOp::ZeroFill, FileOp::Allocate]),
            ),
            (
                self.sync_error,
                Fault::Errno(libc::EIO),
                is(&[FileOp::Sync, FileOp::SyncDir]) || (event.durable && is(&[FileOp::Write])),
            ),
            (self.no_space, Fault::Errno(libc::ENOSPC), event.grows),
            (self.slow, Fault::Slow, true),
            (self.bit_flip, Fault::BitFlip, is(&[FileOp::Read])),
            (self.lost_write, Fault::LostWrite, is(&[FileOp::Write])),
            (self.misdirected_write, Fault::MisdirectedWrite, is(&[FileOp::Write])),
        ];
        odds.into_iter().find(|(parts, _, fits)| *fits && rng.chance(*parts)).map(|(_, fault, _)| fault)
    }
}
