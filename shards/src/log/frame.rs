//! The codec of a frame: one record of the WAL or the manifest.
//!
//! | offset | bytes | field | why it is there |
//! |---|---|---|---|
//! | 0 | 4 | magic `OPEF` | zeros and garbage never decode |
//! | 4 | 2 | version | |
//! | 6 | 1 | kind | 0 is never valid |
//! | 7 | 1 | flags | 0; others are refused |
//! | 8 | 16 | store | a frame of another store is refused |
//! | 24 | 2 | shard | so is one of another shard |
//! | 26 | 2 | shard count | |
//! | 28 | 4 | payload bytes | at most [`PAYLOAD_BYTES_MAX`], checked before any allocation |
//! | 32 | 8 | file number | files exchanged within a shard are caught |
//! | 40 | 8 | term | |
//! | 48 | 8 | generation of the file | a frame from the file's earlier use fails |
//! | 56 | 8 | offset in the file | misdirected writes fail |
//! | 64 | 8 | seq | |
//! | 72 | 8 | previous seq | numbers have gaps after a recovery; this link shows a missing frame |
//! | 80 | 8 | cut | the highest commit known to be acknowledged when the frame was written |
//! | 88 | 8 | height | |
//! | 96 | 32 | block hash | |
//! | 128 | 32 | parent's hash | |
//! | 160 | 4 | payload checksum | |
//! | 164 | 4 | header checksum | last, over all bytes before it |
//! | 168 | n | payload | |
//!
//! Zeros follow up to a multiple of 8 bytes. The header has its own checksum, so that the length can be trusted
//! before the payload is read.
//!
//! Checksums are CRC-32 (IEEE, as `crc32fast` computes it; not CRC-32C). Both start from the CRC-32 of what the
//! reader knows without the frame: purpose, store, shard, file number, term, generation and offset. The checksum
//! guards against accidents. That block content, which strangers choose, cannot imitate a frame rests on the store's
//! random identity.

use std::sync::Arc;

use crc32fast::Hasher;

use super::{COUNTER_MAX, Identity, Purpose, frame_bytes};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::{BlockHash, Height, Seq, Term};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 168;
/// Frames start at multiples of this.
pub const ALIGN_BYTES: u64 = 8;
/// Bytes of a frame's payload at most.
pub const PAYLOAD_BYTES_MAX: usize = 512 << 20;

pub(crate) const MAGIC: [u8; 4] = *b"OPEF";
const VERSION: u16 = 1;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The shard's part of a block.
    Block,
    /// The shard's part of a commit outside the chain.
    Global,
    /// A reorg.
    Reorg,
    /// A change of the catalog.
    Schema,
    /// Only the cut, recorded when no commit follows. It repeats the last number and is no link of the chain.
    Mark,
    /// A change of the manifest.
    Edit,
    /// The whole state of the manifest, first in each of its files.
    Snapshot,
}

impl FrameKind {
    const fn tag(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Global => 2,
            Self::Reorg => 3,
            Self::Schema => 4,
            Self::Mark => 5,
            Self::Edit => 6,
            Self::Snapshot => 7,
        }
    }

    fn from_tag(tag: u8) -> Result<Self, Malformed> {
        Ok(match tag {
            1 => Self::Block,
            2 => Self::Global,
            3 => Self::Reorg,
            4 => Self::Schema,
            5 => Self::Mark,
            6 => Self::Edit,
            7 => Self::Snapshot,
            _ => return Err(Malformed("unknown frame kind")),
        })
    }
}

/// One record of a log. Clones share the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Its number.
    pub seq: Seq,
    /// The number of the commit before it.
    pub prev: Seq,
    /// The highest commit known to be acknowledged when it was written.
    pub cut: Seq,
    /// The height of its block, or of the tip that it leads to.
    pub height: Height,
    /// The hash of that block.
    pub hash: BlockHash,
    /// The hash of that block's parent.
    pub parent: BlockHash,
    /// What it carries.
    pub payload: Arc<[u8]>,
}

impl Frame {
    /// A frame that only records the cut, after the commit `last`.
    #[must_use]
    pub fn mark(last: Seq, cut: Seq) -> Self {
        Self {
            kind: FrameKind::Mark,
            seq: last,
            prev: last,
            cut,
            height: Height(0),
            hash: BlockHash::default(),
            parent: BlockHash::default(),
            payload: Arc::from([]),
        }
    }

    /// The bytes that the frame takes in a file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        frame_bytes(self.payload.len())
    }
}

/// A frame's header, whose own checksum has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    kind: FrameKind,
    /// Its number.
    pub seq: Seq,
    prev: Seq,
    /// The cut it carries.
    pub cut: Seq,
    height: Height,
    hash: BlockHash,
    parent: BlockHash,
    /// How long its payload is: at most [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
    payload_crc: u32,
    seed: u32,
}

impl FrameHeader {
    /// The frame, if the payload is the one that was written.
    #[must_use]
    pub fn with_payload(&self, payload: Vec<u8>) -> Option<Frame> {
        (payload.len() == self.payload_bytes && seeded(self.seed, &payload) == self.payload_crc).then(|| {
            Frame {
                kind: self.kind,
                seq: self.seq,
                prev: self.prev,
                cut: self.cut,
                height: self.height,
                hash: self.hash,
                parent: self.parent,
                payload: Arc::from(payload),
            }
        })
    }
}

/// What a reader knows of a frame's place without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameContext {
    /// What the log is for.
    pub purpose: Purpose,
    /// Whose log it is.
    pub identity: Identity,
    /// The number in the file's name.
    pub number: u64,
    /// The term in which the file is written.
    pub term: Term,
    /// Which use of the file this is.
    pub generation: u64,
}

impl FrameContext {
    /// The context that a frame claims for itself, in a file whose header says nothing. Its checksum must still agree.
    #[must_use]
    pub fn claimed(bytes: &[u8], purpose: Purpose, identity: Identity, number: u64) -> Option<Self> {
        let mut input = ByteReader::new(bytes.get(40..)?);
        let term = Term(input.u64().ok()?);
        let generation = input.u64().ok()?;
        Some(Self { purpose, identity, number, term, generation })
    }

    fn seed(&self, offset: u64) -> u32 {
        let mut out = ByteWriter::new();
        out.u8(self.purpose.tag());
        out.raw(&self.identity.store.0);
        out.u16(self.identity.shard.0);
        out.u64(self.number);
        out.u64(self.term.0);
        out.u64(self.generation);
        out.u64(offset);
        crc32fast::hash(out.as_slice())
    }

    /// The header of a frame that is to be written at `offset`. The payload is within its limit.
    #[must_use]
    pub fn encode_header(&self, frame: &Frame, offset: u64) -> Vec<u8> {
        let payload_bytes = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        assert!(frame.payload.len() <= PAYLOAD_BYTES_MAX, "a payload within its limit");
        let seed = self.seed(offset);
        let mut out = ByteWriter::new();
        out.raw(&MAGIC);
        out.u16(VERSION);
        out.u8(frame.kind.tag());
        out.u8(0);
        out.raw(&self.identity.store.0);
        out.u16(self.identity.shard.0);
        out.u16(self.identity.shard_count);
        out.u32(payload_bytes);
        out.u64(self.number);
        out.u64(self.term.0);
        out.u64(self.generation);
        out.u64(offset);
        out.u64(frame.seq.0);
        out.u64(frame.prev.0);
        out.u64(frame.cut.0);
        out.u64(frame.height.0);
        out.raw(&frame.hash.0);
        out.raw(&frame.parent.0);
        out.u32(seeded(seed, &frame.payload));
        let crc = seeded(seed, out.as_slice());
        out.u32(crc);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        out.into_vec()
    }

    /// Makes the payload what follows the header, and puts both checksums right. False if there is no whole header.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn seal(&self, bytes: &mut [u8], offset: u64) -> bool {
        let Some((header, payload)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return false };
        let seed = self.seed(offset);
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut put = |at: usize, number: u32| {
            if let Some(field) = header.get_mut(at..at + 4) {
                field.copy_from_slice(&number.to_le_bytes());
            }
            seeded(seed, header.get(..CHECKED_BYTES).unwrap_or_default())
        };
        put(28, payload_bytes);
        let header_crc = put(160, seeded(seed, payload));
        put(CHECKED_BYTES, header_crc);
        true
    }

    /// The header at `offset`, if one was written for just this place.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode_header(&self, bytes: &[u8], offset: u64) -> Result<FrameHeader, Malformed> {
        let mut input = ByteReader::new(bytes);
        if input.array()? != MAGIC {
            return Err(Malformed("no frame begins here"));
        }
        let seed = self.seed(offset);
        let mut whole = ByteReader::new(bytes);
        let checked = whole.raw(CHECKED_BYTES)?;
        if whole.u32()? != seeded(seed, checked) {
            return Err(Malformed("the checksum of a frame's header does not match"));
        }
        if input.u16()? != VERSION {
            return Err(Malformed("unknown frame version"));
        }
        let kind = FrameKind::from_tag(input.u8()?)?;
        if input.u8()? != 0 {
            return Err(Malformed("unknown frame flags"));
        }
        let ours = input.array()? == self.identity.store.0
            && input.u16()? == self.identity.shard.0
            && input.u16()? == self.identity.shard_count;
        let payload_bytes = usize::try_from(input.u32()?).unwrap_or(usize::MAX);
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(Malformed("a payload exceeds its limit"));
        }
        let place = [self.number, self.term.0, self.generation, offset];
        for expected in place {
            if input.u64()? != expected || !ours {
                return Err(Malformed("a frame belongs elsewhere"));
            }
        }
        let [seq, prev, cut, height] = [input.u64()?, input.u64()?, input.u64()?, input.u64()?];
        if [seq, prev, cut, height].into_iter().any(|counter| counter > COUNTER_MAX) {
            return Err(Malformed("a number in a frame is out of range"));
        }
        Ok(FrameHeader {
            kind,
            seq: Seq(seq),
            prev: Seq(prev),
            cut: Seq(cut),
            height: Height(height),
            hash: BlockHash(input.array()?),
            parent: BlockHash(input.array()?),
            payload_bytes,
            payload_crc: input.u32()?,
            seed,
        })
    }
}

/// CRC-32 (IEEE) of `bytes`, continued from `seed`.
fn seeded(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ShardId, StoreId};

    fn context() -> FrameContext {
        FrameContext {
            purpose: Purpose::Wal,
            identity: Identity { store: StoreId([7; 16]), shard: ShardId(2), shard_count: 4 },
            number: 5,
            term: Term(3),
            generation: 9,
        }
    }

    fn frame(payload: &[u8]) -> Frame {
        Frame {
            kind: FrameKind::Block,
            seq: Seq(12),
            prev: Seq(10),
            cut: Seq(9),
            height: Height(800_000),
            hash: BlockHash([1; 32]),
            parent: BlockHash([2; 32]),
            payload: Arc::from(payload),
        }
    }

    #[test]
    fn round_trip() {
        for payload in [&b""[..], b"abc"] {
            let bytes = context().encode_header(&frame(payload), 4096);
            let header = context().decode_header(&bytes, 4096).unwrap();
            assert_eq!(header.with_payload(payload.to_vec()).unwrap(), frame(payload));
            assert!(header.with_payload(b"abd".to_vec()).is_none());
        }
    }

    #[test]
    fn every_other_place_is_refused() {
        let bytes = context().encode_header(&frame(b"abc"), 4096);
        let identity = context().identity;
        let others = [
            FrameContext { purpose: Purpose::Manifest, ..context() },
            FrameContext { number: 6, ..context() },
            FrameContext { term: Term(4), ..context() },
            FrameContext { generation: 10, ..context() },
            FrameContext { identity: Identity { store: StoreId([8; 16]), ..identity }, ..context() },
            FrameContext { identity: Identity { shard: ShardId(1), ..identity }, ..context() },
            FrameContext { identity: Identity { shard_count: 5, ..identity }, ..context() },
        ];
        for other in others {
            other.decode_header(&bytes, 4096).unwrap_err();
        }
        context().decode_header(&bytes, 4104).unwrap_err();
        context().decode_header(&bytes, 4096).unwrap();
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let mut bytes = context().encode_header(&frame(b"abc"), 4096);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            context().decode_header(&bytes, 4096).unwrap_err();
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..bytes.len() {
            context().decode_header(&bytes[..end], 4096).unwrap_err();
        }
        context().decode_header(&[0; HEADER_BYTES], 0).unwrap_err();
    }

    #[test]
    fn a_frame_names_its_own_context() {
        let bytes = context().encode_header(&frame(b"abc"), 4096);
        let claimed = FrameContext::claimed(&bytes, Purpose::Wal, context().identity, 5).unwrap();
        assert_eq!(claimed, context());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let huge = Frame { seq: Seq(COUNTER_MAX + 1), ..frame(b"") };
        let bytes = context().encode_header(&huge, 0);
        context().decode_header(&bytes, 0).unwrap_err();
    }
}
