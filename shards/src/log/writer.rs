//! Lays frames out in a log file and writes them in pieces of bounded size.

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{Env, File, IoBuf, WriteSync};

use super::frame::{ALIGN_BYTES, FrameContext};
use super::header::FileHeader;
use super::{Frame, UNIT_BYTES, unit_ceil};
use crate::error::Result;

/// A write is not larger than this; what exceeds it is written in several, and synced once at the end.
const PIECE_BYTES: u64 = 1 << 20;

/// Less than this lies between two frames.
const ZEROS: [u8; 8] = [0; 8];

const _: () = assert!(PIECE_BYTES.is_multiple_of(UNIT_BYTES) && ALIGN_BYTES == 8);

/// Writes the first unit of a file.
///
/// # Errors
/// If the file cannot be written.
pub async fn write_header<E: Env>(env: &E, file: &E::File, header: &FileHeader) -> Result<()> {
    let mut buffer = env.buffer(to_usize(UNIT_BYTES)).await;
    copy_to(&mut buffer, 0, &header.encode());
    let (_, outcome) = file.write_at(0, buffer, WriteSync::Durable).await;
    Ok(outcome?)
}

/// The bytes that frames take when they are written together, padding included.
#[must_use]
pub fn write_bytes(frames: &[Frame]) -> u64 {
    unit_ceil(frames.iter().map(Frame::file_bytes).sum())
}

/// Writes frames together from `offset`, a multiple of the unit, and returns where the next write begins.
///
/// # Errors
/// If the file cannot be written.
pub async fn write_frames<E: Env>(
    env: &E,
    file: &E::File,
    context: &FrameContext,
    offset: u64,
    frames: &[Frame],
    sync: WriteSync,
) -> Result<u64> {
    let bytes = write_bytes(frames);
    let in_one_piece = bytes <= PIECE_BYTES;
    let piece_sync = if in_one_piece { sync } else { WriteSync::None };
    let mut pieces = Pieces { env, file, at: offset, end: offset + bytes, sync: piece_sync, piece: None };
    for frame in frames {
        let begin = pieces.position();
        pieces.push(&context.encode_header(frame, begin)).await?;
        pieces.push(&frame.payload).await?;
        let padding = pieces.position().next_multiple_of(ALIGN_BYTES) - pieces.position();
        pieces.push(ZEROS.get(..to_usize(padding)).unwrap_or_default()).await?;
    }
    pieces.finish().await?;
    if !in_one_piece && sync == WriteSync::Durable {
        file.sync_data().await?;
    }
    Ok(offset + bytes)
}

/// A run of bytes that is cut into writes.
struct Pieces<'a, E: Env> {
    env: &'a E,
    file: &'a E::File,
    /// Where the piece at hand begins.
    at: u64,
    end: u64,
    sync: WriteSync,
    /// The piece at hand and how much of it is used.
    piece: Option<(IoBuf, usize)>,
}

impl<E: Env> Pieces<'_, E> {
    fn position(&self) -> u64 {
        self.at + self.piece.as_ref().map_or(0, |(_, used)| to_u64(*used))
    }

    async fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (mut buffer, used) = match self.piece.take() {
                Some(piece) => piece,
                None => (self.env.buffer(to_usize(PIECE_BYTES.min(self.end - self.at))).await, 0),
            };
            let fits = bytes.len().min(buffer.len() - used);
            let (now, later) = bytes.split_at(fits);
            copy_to(&mut buffer, used, now);
            bytes = later;
            if used + fits == buffer.len() {
                self.write(buffer).await?;
            } else {
                self.piece = Some((buffer, used + fits));
            }
        }
        Ok(())
    }

    async fn write(&mut self, buffer: IoBuf) -> Result<()> {
        let bytes = to_u64(buffer.len());
        let (_, outcome) = self.file.write_at(self.at, buffer, self.sync).await;
        outcome?;
        self.at += bytes;
        Ok(())
    }

    /// Writes what is left. Its end is padding: buffers are zeroed when they are taken.
    async fn finish(mut self) -> Result<()> {
        if let Some((buffer, _)) = self.piece.take() {
            self.write(buffer).await?;
        }
        debug_assert_eq!(self.at, self.end);
        Ok(())
    }
}

fn copy_to(buffer: &mut IoBuf, at: usize, bytes: &[u8]) {
    if let Some(target) = buffer.as_mut_slice().get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}
