//! Bytes that are only ever added to, in chunks that never move.
//!
//! A handle is 32 bits: 14 for the chunk, 18 for the place in it. Chunks grow with what is there, so that little costs
//! little. What would fill more than half of a chunk gets one of exactly its own size; the chunk that is being filled
//! goes on behind it.

use op_engine_io::num::to_usize;

const OFFSET_BITS: u32 = 18;
/// Chunks at most.
pub(super) const CHUNKS_MAX: usize = 1 << (u32::BITS - OFFSET_BITS);
/// A chunk at most, but for what has one of its own.
pub(super) const CHUNK_BYTES_MAX: usize = 1 << OFFSET_BITS;
const CHUNK_BYTES_FIRST: usize = 512;
/// A new chunk is this part of what is there: so much is empty at most.
const GROWTH_DIVISOR: usize = 4;
/// What is longer has a chunk of its own. Each of those takes a handle's chunk number, so they are not to be small.
pub(super) const SHARED_BYTES_MAX: usize = CHUNK_BYTES_MAX / 2;

/// Where something begins in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    /// No place: the last byte of the last chunk, where nothing begins.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn from_le_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    pub(super) fn to_le_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    fn new(chunk: usize, offset: usize) -> Self {
        assert!(
            chunk < CHUNKS_MAX && offset < CHUNK_BYTES_MAX,
            "a memtable is flushed long before it is full"
        );
        match u32::try_from(chunk << OFFSET_BITS | offset) {
            Ok(raw) => Self(raw),
            Err(_) => unreachable!("chunk and offset have 32 bits together"),
        }
    }

    fn chunk(self) -> usize {
        to_usize(u64::from(self.0 >> OFFSET_BITS))
    }

    fn offset(self) -> usize {
        to_usize(u64::from(self.0)) % CHUNK_BYTES_MAX
    }
}

/// Whether something of this length shares its chunk with others.
pub(super) fn is_shared(len: usize) -> bool {
    len <= SHARED_BYTES_MAX
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    /// The chunk that is being filled.
    filling: usize,
    bytes: usize,
}

impl Arena {
    /// Adds the parts, one behind the other.
    pub(super) fn append(&mut self, parts: [&[u8]; 3]) -> Handle {
        let len = parts.iter().map(|part| part.len()).sum();
        let number = if is_shared(len) { self.chunk_with_room(len) } else { self.add_chunk(len) };
        let Some(chunk) = self.chunks.get_mut(number) else { unreachable!("the chunk was found or made") };
        let handle = Handle::new(number, chunk.len());
        for part in parts {
            chunk.extend_from_slice(part);
        }
        handle
    }

    /// The bytes from a handle on, to the end of its chunk.
    pub(super) fn tail(&self, at: Handle) -> &[u8] {
        let Some(tail) = self.chunks.get(at.chunk()).and_then(|chunk| chunk.get(at.offset()..)) else {
            unreachable!("a handle is of the arena that gave it")
        };
        tail
    }

    /// The bytes from a handle on, to be changed.
    pub(super) fn tail_mut(&mut self, at: Handle) -> &mut [u8] {
        let Some(tail) = self.chunks.get_mut(at.chunk()).and_then(|chunk| chunk.get_mut(at.offset()..))
        else {
            unreachable!("a handle is of the arena that gave it")
        };
        tail
    }

    /// What has been allocated.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.chunks.capacity() * size_of::<Vec<u8>>()
    }

    fn chunk_with_room(&mut self, len: usize) -> usize {
        let room = self.chunks.get(self.filling).map_or(0, |chunk| chunk.capacity() - chunk.len());
        if room < len {
            let grown = (self.bytes / GROWTH_DIVISOR).clamp(CHUNK_BYTES_FIRST, CHUNK_BYTES_MAX);
            self.filling = self.add_chunk(grown.max(len));
        }
        self.filling
    }

    fn add_chunk(&mut self, bytes: usize) -> usize {
        let chunk = Vec::with_capacity(bytes);
        self.bytes += chunk.capacity();
        self.chunks.push(chunk);
        self.chunks.len() - 1
    }
}
