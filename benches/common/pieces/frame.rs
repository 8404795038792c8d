//! A frame of the log: beside one with another checksum, and beside none at all.
//!
//! The alternatives have the header ready but for its checksums. They hash it and the payload with XXH3, or only copy.

use std::rc::Rc;
use std::sync::Arc;

use op_engine_shards::bytes::ByteWriter;
use op_engine_shards::log::frame::{FrameContext, HEADER_BYTES};
use op_engine_shards::log::{Frame, FrameKind, Identity, Purpose};
use op_engine_shards::{BlockHash, Height, Seq, ShardId, StoreId, Term};
use twox_hash::XxHash3_64;

use super::{Piece, head, mixed, operations};

const OFFSET: u64 = 4096;
/// The checksums of the alternative: 8 bytes for the payload and 8 for the header.
const HASHED_BYTES: usize = HEADER_BYTES - 16;
/// A shard's part of a busy block, and of a quiet one.
const OPERATIONS: usize = 1000;
const OPERATIONS_FEW: usize = 10;

pub fn encode() -> Piece {
    encode_of(OPERATIONS)
}

pub fn encode_small() -> Piece {
    encode_of(OPERATIONS_FEW)
}

pub fn decode() -> Piece {
    decode_of(OPERATIONS)
}

pub fn decode_small() -> Piece {
    decode_of(OPERATIONS_FEW)
}

fn context() -> FrameContext {
    let identity = Identity { store: StoreId([7; 16]), shard: ShardId(2), shard_count: 4 };
    FrameContext { purpose: Purpose::Wal, identity, number: 5, term: Term(3), generation: 9 }
}

fn frame(operations: usize) -> Frame {
    let mut payload = ByteWriter::new();
    operations::write(&mut payload, operations);
    Frame {
        kind: FrameKind::Block,
        seq: Seq(12),
        prev: Seq(11),
        cut: Seq(9),
        height: Height(850_000),
        hash: BlockHash([1; 32]),
        parent: BlockHash([2; 32]),
        payload: Arc::from(payload.into_vec()),
    }
}

/// Writes a frame into a buffer as the log does.
fn encode_of(operations: usize) -> Piece {
    let frame = Rc::new(frame(operations));
    let payload = Rc::new(frame.payload.to_vec());
    let bytes = HEADER_BYTES + payload.len();
    let header: Rc<Vec<u8>> = Rc::new(context().encode_header(&frame, OFFSET));
    let [mut ours, mut hashed, mut copied] = [(); 3].map(|()| vec![0; bytes]);
    let (hashed_header, hashed_payload) = (Rc::clone(&header), Rc::clone(&payload));
    Piece::new(1)
        .of_bytes(bytes)
        .way("frame, CRC-32", move || {
            put(&mut ours, &context().encode_header(&frame, OFFSET), &frame.payload)
        })
        .way("frame, XXH3", move || {
            let mut header = [0; HEADER_BYTES];
            header.copy_from_slice(&hashed_header);
            let hash = XxHash3_64::oneshot_with_seed(OFFSET, &hashed_payload);
            header[HASHED_BYTES..HASHED_BYTES + 8].copy_from_slice(&hash.to_le_bytes());
            let hash = XxHash3_64::oneshot_with_seed(OFFSET, &header[..HASHED_BYTES + 8]);
            header[HASHED_BYTES + 8..].copy_from_slice(&hash.to_le_bytes());
            put(&mut hashed, &header, &hashed_payload)
        })
        .way("plain copy", move || put(&mut copied, &header, &payload))
        .agreed()
}

fn put(buffer: &mut [u8], header: &[u8], payload: &[u8]) -> u64 {
    let (start, rest) = buffer.split_at_mut(header.len());
    start.copy_from_slice(header);
    rest.copy_from_slice(payload);
    mixed(head(buffer), u64::from(buffer[buffer.len() - 1]))
}

/// Takes a frame out of what was read, with a payload that others can share.
fn decode_of(operations: usize) -> Piece {
    let frame = frame(operations);
    let mut bytes = context().encode_header(&frame, OFFSET);
    bytes.extend_from_slice(&frame.payload);
    let decoded = decoded(&bytes);
    assert_eq!(decoded, frame);
    let bytes = Rc::new(bytes);
    let hash_of = |bytes: &[u8]| XxHash3_64::oneshot_with_seed(OFFSET, bytes);
    let hashes = [hash_of(&bytes[..HEADER_BYTES - 8]), hash_of(&bytes[HEADER_BYTES..])];
    let (hashed, copied) = (Rc::clone(&bytes), Rc::clone(&bytes));
    Piece::new(1)
        .of_bytes(bytes.len())
        .way("frame, CRC-32", move || taken(&self::decoded(&bytes).payload))
        .way("frame, XXH3", move || {
            let (header, payload) = hashed.split_at(HEADER_BYTES);
            assert_eq!([hash_of(&header[..HEADER_BYTES - 8]), hash_of(payload)], hashes);
            taken(&Arc::from(payload))
        })
        .way("plain copy", move || taken(&Arc::from(&copied[HEADER_BYTES..])))
        .agreed()
}

fn decoded(bytes: &[u8]) -> Frame {
    let (header, payload) = bytes.split_at(HEADER_BYTES);
    let header = context().decode_header(header, OFFSET).expect("a header");
    header.with_payload(payload.to_vec()).expect("a payload")
}

fn taken(payload: &Arc<[u8]>) -> u64 {
    mixed(head(payload), u64::from(payload[payload.len() - 1]))
}
