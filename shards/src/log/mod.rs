//! The framed log under the write-ahead log and the manifest.
//!
//! A log file is a header unit followed by frames. One write holds one or more frames, each 8-byte aligned, and is
//! padded with zeros to the I/O unit. The next write starts at the next unit, so no byte that was acknowledged is
//! ever written again.
//!
//! - [`frame`] is the codec of a frame;
//! - [`header`] is the codec of a file's first unit;
//! - [`reader`] walks a file and looks beyond the last good frame;
//! - [`writer`] lays frames out and writes them in pieces of bounded size.

pub mod frame;
pub mod header;
pub mod reader;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod writer;

use op_engine_io::IO_UNIT_BYTES;
use op_engine_io::num::to_u64;

use crate::ids::{ShardId, StoreId};

pub use frame::{Frame, FrameKind};

/// The I/O unit as a number for offsets in files.
pub const UNIT_BYTES: u64 = IO_UNIT_BYTES as u64;

/// Sequence numbers, terms, generations and heights above this are refused on reading. No store reaches it, and
/// arithmetic on what passes cannot overflow.
pub const COUNTER_MAX: u64 = 1 << 62;

const _: () = assert!(UNIT_BYTES.is_power_of_two());

/// What a log is for. Part of every checksum, so that a frame of one log is none of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The write-ahead log.
    Wal,
    /// The manifest.
    Manifest,
}

impl Purpose {
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Wal => 1,
            Self::Manifest => 2,
        }
    }
}

/// The store and the shard that a log belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
    /// How many shards the store has.
    pub shard_count: u16,
}

/// The next multiple of the I/O unit. `offset` is at most a file length, far below the end of `u64`.
#[must_use]
pub const fn unit_ceil(offset: u64) -> u64 {
    offset.next_multiple_of(UNIT_BYTES)
}

/// The last multiple of the I/O unit at or below `offset`.
#[must_use]
pub const fn unit_floor(offset: u64) -> u64 {
    offset & !(UNIT_BYTES - 1)
}

/// The bytes that a frame with this payload takes in a file, alignment included.
#[must_use]
pub const fn frame_bytes(payload_bytes: usize) -> u64 {
    to_u64(frame::HEADER_BYTES + payload_bytes).next_multiple_of(frame::ALIGN_BYTES)
}
