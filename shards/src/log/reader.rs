//! Walks a log file front to back in pieces of bounded size.

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{Env, File, FileName, IoBuf};

use super::frame::{self, ALIGN_BYTES, FrameContext, FrameHeader, HEADER_BYTES};
use super::{Frame, Identity, Purpose, UNIT_BYTES, frame_bytes, unit_floor};
use crate::error::Result;
use crate::ids::Seq;

/// How much of a file is read at once.
const WINDOW_BYTES: u64 = 1 << 20;

const _: () = assert!(WINDOW_BYTES > 2 * UNIT_BYTES);

/// How the frames of a file are recognised.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// The file's header is intact and gives their context.
    Context(FrameContext),
    /// The file's header is unreadable. A frame that names its own context is recognised by its checksum.
    Claimed {
        /// What the log is for.
        purpose: Purpose,
        /// Whose log it is.
        identity: Identity,
        /// The number in the file's name.
        number: u64,
    },
}

impl Expect {
    fn decode(&self, bytes: &[u8], offset: u64) -> Option<(FrameContext, FrameHeader)> {
        let context = match *self {
            Self::Context(context) => context,
            Self::Claimed { purpose, identity, number } => {
                FrameContext::claimed(bytes, purpose, identity, number)?
            }
        };
        let header = context.decode_header(bytes, offset).ok()?;
        Some((context, header))
    }
}

/// What lies beyond the last good frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beyond {
    /// How many headers verify.
    pub frames: u64,
    /// The highest cut that one carries.
    pub cut: Seq,
    /// The highest number of one.
    pub seq: Seq,
    /// The highest generation of one.
    pub generation: u64,
    /// Bytes from the last good frame to the end of the last frame whose header verifies.
    pub bytes: u64,
}

/// Walks a log file. The bytes in memory are bounded, apart from the payload of the frame at hand.
#[derive(Debug)]
pub struct LogReader<E: Env> {
    env: E,
    file: E::File,
    bytes: u64,
    expect: Expect,
    position: u64,
    /// Where the last good frame ends.
    good_end: u64,
    window: Option<(u64, IoBuf)>,
    /// The last place that was read a second time.
    doubted: Option<u64>,
}

impl<E: Env> LogReader<E> {
    /// Starts behind the header unit of a file.
    ///
    /// # Errors
    /// If the file's length cannot be read.
    pub async fn new(env: &E, file: E::File, expect: Expect) -> Result<Self> {
        let bytes = unit_floor(file.len().await?);
        Ok(Self {
            env: env.clone(),
            file,
            bytes,
            expect,
            position: UNIT_BYTES,
            good_end: UNIT_BYTES,
            window: None,
            doubted: None,
        })
    }

    /// The file's name.
    #[must_use]
    pub fn name(&self) -> FileName {
        self.file.name()
    }

    /// Where the next frame is looked for. After [`LogReader::next`] has returned `None`, where the first bad one is.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next frame and its offset; `None` at the first bytes that are no frame.
    ///
    /// Bytes that are no frame end a log, and recovery then drops what follows: they are read twice before they are
    /// believed, because a bit may flip on the way from the device.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<(u64, Frame)>> {
        loop {
            let at = self.position;
            let Some(header_bytes) = self.header_bytes(at).await? else { return Ok(None) };
            let header = self.expect.decode(&header_bytes, at).map(|(_, header)| header);
            if let Some(header) = &header
                && let Some(frame) = self.frame(at, header).await?
            {
                self.position = at + frame_bytes(header.payload_bytes);
                self.good_end = self.position;
                return Ok(Some((at, frame)));
            }
            let is_padding = header_bytes.iter().all(|byte| *byte == 0);
            if !is_padding && self.doubted != Some(at) {
                self.doubted = Some(at);
                self.window = None;
                continue;
            }
            // Inside a unit this is padding, or a bad frame that was written with the one before. A frame that follows
            // in a later unit then does not continue the chain, so nothing is skipped unnoticed.
            if header.is_some() || at.is_multiple_of(UNIT_BYTES) {
                return Ok(None);
            }
            self.position = at.next_multiple_of(UNIT_BYTES);
        }
    }

    /// Looks at every place where a frame may begin, from the last good one to the end of the file. A torn tail and
    /// damage before good frames differ in what is found. Headers are enough: they carry their own checksum.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn scan_beyond(&mut self) -> Result<Beyond> {
        let begin = self.good_end;
        let mut found = Beyond::default();
        let mut at = begin;
        while at + to_u64(HEADER_BYTES) <= self.bytes {
            self.load(at).await?;
            let window = self.window_from(at);
            let mut inside = 0;
            while let Some(bytes) = window.get(inside..inside + HEADER_BYTES) {
                let offset = at + to_u64(inside);
                if bytes.starts_with(&frame::MAGIC)
                    && let Some((context, header)) = self.expect.decode(bytes, offset)
                {
                    found.frames += 1;
                    found.cut = found.cut.max(header.cut);
                    found.seq = found.seq.max(header.seq);
                    found.generation = found.generation.max(context.generation);
                    found.bytes = offset + frame_bytes(header.payload_bytes) - begin;
                }
                inside += to_usize(ALIGN_BYTES);
            }
            at += to_u64(inside);
        }
        Ok(found)
    }

    /// The frame behind a header; `None` if its payload is not there or not the one that was written.
    async fn frame(&mut self, at: u64, header: &FrameHeader) -> Result<Option<Frame>> {
        let begin = at + to_u64(HEADER_BYTES);
        if begin + to_u64(header.payload_bytes) > self.bytes {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(header.payload_bytes);
        while payload.len() < header.payload_bytes {
            let from = begin + to_u64(payload.len());
            if self.window_from(from).is_empty() {
                self.read_window(unit_floor(from)).await?;
            }
            let wanted = header.payload_bytes - payload.len();
            let window = self.window_from(from);
            payload.extend_from_slice(window.get(..wanted).unwrap_or(window));
        }
        Ok(header.with_payload(payload))
    }

    async fn header_bytes(&mut self, at: u64) -> Result<Option<[u8; HEADER_BYTES]>> {
        if at + to_u64(HEADER_BYTES) > self.bytes {
            return Ok(None);
        }
        self.load(at).await?;
        Ok(self.window_from(at).first_chunk().copied())
    }

    /// Makes the window hold a whole header at `at`, which the file is long enough for.
    async fn load(&mut self, at: u64) -> Result<()> {
        if self.window_from(at).len() < HEADER_BYTES {
            self.read_window(unit_floor(at)).await?;
        }
        Ok(())
    }

    fn window_from(&self, at: u64) -> &[u8] {
        let Some((begin, buffer)) = &self.window else { return &[] };
        let inside = at.checked_sub(*begin).map_or(usize::MAX, to_usize);
        buffer.as_slice().get(inside..).unwrap_or_default()
    }

    async fn read_window(&mut self, begin: u64) -> Result<()> {
        // The old window goes first: buffer memory is limited, and waiting for it while holding some could last for ever.
        self.window = None;
        let bytes = WINDOW_BYTES.min(self.bytes - begin);
        let buffer = self.env.buffer(to_usize(bytes)).await;
        let (buffer, outcome) = self.file.read_at(begin, buffer).await;
        outcome?;
        self.window = Some((begin, buffer));
        Ok(())
    }
}
