//! Frames, headers of log files, and whole files of a WAL.

use std::sync::Arc;

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::sim::{SimDisk, SimOptions, SimWorld};
use op_engine_io::{Dir, FileKind, FileName};

use super::{seal_sector, trimmed};
use crate::error::Result;
use crate::ids::{BlockHash, Height, Seq, ShardId, StoreId, Term};
use crate::log::frame::{ALIGN_BYTES, FrameContext, HEADER_BYTES};
use crate::log::header::FileHeader;
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES};
use crate::wal;

const IDENTITY: Identity = Identity { store: StoreId([0x5a; 16]), shard: ShardId(0), shard_count: 2 };
const NAME: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Wal, number: 1 };
const OFFSET: u64 = UNIT_BYTES;
const HEADER_CHECKED_BYTES: usize = 508;
/// Frames of a file that is made of an input.
const FILE_FRAMES_MAX: usize = 32;

fn context() -> FrameContext {
    FrameContext { purpose: Purpose::Wal, identity: IDENTITY, number: 1, term: Term(3), generation: 2 }
}

fn frame(kind: FrameKind, seq: u64, prev: u64, payload: &[u8]) -> Frame {
    Frame {
        kind,
        seq: Seq(seq),
        prev: Seq(prev),
        cut: Seq(prev),
        height: Height(800_000),
        hash: BlockHash([1; 32]),
        parent: BlockHash([2; 32]),
        payload: Arc::from(payload),
    }
}

fn header() -> FileHeader {
    FileHeader {
        purpose: Purpose::Wal,
        identity: IDENTITY,
        number: 1,
        generation: 2,
        term: Term(3),
        term_cut: Seq::ZERO,
        seq_floor: Seq::ZERO,
        prev: Seq::ZERO,
    }
}

/// A frame and what follows it. Accepted ones are encoded as they were.
pub(super) fn frames(bytes: &[u8]) {
    let context = context();
    let _: Result<_, _> = context.decode_header(bytes, OFFSET);
    let mut sealed = bytes.to_vec();
    if !context.seal(&mut sealed, OFFSET) {
        return;
    }
    let Ok(header) = context.decode_header(&sealed, OFFSET) else { return };
    let (head, payload) = sealed.split_at(HEADER_BYTES);
    let frame = header.with_payload(payload.to_vec());
    assert!(frame.is_some(), "the payload of a sealed frame is its own");
    assert!(header.with_payload([payload, &[0]].concat()).is_none(), "a longer payload is another one");
    let encoded = frame.map(|frame| context.encode_header(&frame, OFFSET));
    assert_eq!(encoded.as_deref(), Some(head), "a frame has one form");
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let seed = |frame: Frame| [&context().encode_header(&frame, OFFSET), &*frame.payload].concat();
    vec![
        seed(frame(FrameKind::Block, 12, 10, b"payload")),
        seed(frame(FrameKind::Reorg, 13, 12, &9u64.to_le_bytes())),
        seed(Frame::mark(Seq(13), Seq(12))),
    ]
}

/// The header of a log file. Accepted ones come out the same when they are encoded again.
pub(super) fn headers(bytes: &[u8]) {
    let decode = |bytes: &[u8]| FileHeader::decode(bytes, NAME, Purpose::Wal, IDENTITY);
    let _: Result<_> = decode(bytes);
    let Ok(found) = decode(&seal_sector(bytes, HEADER_CHECKED_BYTES)) else { return };
    if let Some(header) = found {
        assert_eq!(decode(&header.encode()), Ok(Some(header)), "a header comes back");
    }
}

pub(super) fn header_seeds() -> Vec<Vec<u8>> {
    let seed = |header: FileHeader| {
        let mut bytes = header.encode();
        bytes.truncate(HEADER_CHECKED_BYTES);
        trimmed(bytes)
    };
    vec![seed(header()), seed(FileHeader { term_cut: Seq(7), seq_floor: Seq(9), prev: Seq(7), ..header() })]
}

/// A WAL of one file, as recovery meets it. After the checkpoint, each eight bytes of the input are a frame: its kind,
/// seq, previous seq and cut, the length of its payload, whether it begins a unit, and a byte of it that is changed.
pub(super) fn wal_files(bytes: &[u8]) {
    let Some((flushed, frames)) = bytes.split_first() else { return };
    let flushed = Seq(u64::from(*flushed));
    let mut file = header().encode();
    file.resize(to_usize(UNIT_BYTES), 0);
    for encoded in frames.as_chunks::<8>().0.iter().take(FILE_FRAMES_MAX) {
        append_frame(&mut file, *encoded);
    }
    file.resize(file.len().next_multiple_of(to_usize(UNIT_BYTES)), 0);
    let mut disk = SimDisk::new();
    disk.write_file(NAME, &file);
    let world = SimWorld::new(SimOptions { step_max: u64::MAX, ..SimOptions::default() }, disk);
    let env = world.env();
    let recovered = world.run(async move { wal::recover(&env, IDENTITY, flushed).await }).done();
    assert!(recovered.is_some(), "recovery ends");
    let Some(Ok(recovered)) = recovered else { return };
    let mut last = flushed;
    for frame in &recovered.frames {
        assert!(frame.seq > last && frame.prev <= last, "commits follow each other from the checkpoint on");
        last = frame.seq;
    }
    assert!(recovered.last >= last && recovered.seq_seen_max >= recovered.last, "what was seen is counted");
}

fn append_frame(file: &mut Vec<u8>, encoded: [u8; 8]) {
    let [kind, seq, prev, cut, payload_bytes, begins_unit, at, change] = encoded;
    let kinds = [FrameKind::Block, FrameKind::Global, FrameKind::Reorg, FrameKind::Schema, FrameKind::Mark];
    let kind = kinds.get(usize::from(kind)).copied().unwrap_or(FrameKind::Edit);
    let aligned = if begins_unit > 0 { UNIT_BYTES } else { ALIGN_BYTES };
    file.resize(file.len().next_multiple_of(to_usize(aligned)), 0);
    let begin = file.len();
    let payload = vec![seq; usize::from(payload_bytes)];
    let frame = Frame { cut: Seq(cut.into()), ..frame(kind, seq.into(), prev.into(), &payload) };
    file.extend(context().encode_header(&frame, to_u64(begin)));
    file.extend(payload);
    if let Some(byte) = file.get_mut(begin + usize::from(at)) {
        *byte ^= change;
    }
}

pub(super) fn wal_file_seeds() -> Vec<Vec<u8>> {
    let frame = |kind, seq, prev, begins_unit| [kind, seq, prev, prev, 5, begins_unit, 0, 0];
    let whole =
        [frame(0, 1, 0, 1), frame(1, 2, 1, 0), frame(2, 3, 2, 1), frame(4, 3, 3, 1), frame(0, 5, 3, 1)];
    let torn = [frame(0, 1, 0, 1), [0, 2, 1, 0, 9, 1, 170, 1], frame(0, 3, 2, 1)];
    let seed = |flushed: u8, frames: &[[u8; 8]]| [&[flushed], frames.as_flattened()].concat();
    vec![seed(0, &whole), seed(2, &whole), seed(0, &torn)]
}
