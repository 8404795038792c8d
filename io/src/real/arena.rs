//! The buffer memory of one host: one block, registered with the ring, lent in five sizes.
//!
//! The memory is cut into chunks of 1 MiB. A chunk in use serves one size class (4, 16, 64, 256 KiB or 1 MiB) and
//! returns to the common pool when its last buffer comes back. When a class finds neither a place in its own chunks
//! nor a free chunk, one chunk of another class stops lending and changes hands once it is empty; so a large request
//! is not starved by small ones that come and go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::buf::{ArenaHome, IO_UNIT_BYTES, IoBuf};

/// The unit in which memory is registered and given to size classes, and the largest buffer the arena lends.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, CHUNK_BYTES];
const _: () = assert!(CHUNK_BYTES / CLASS_BYTES[0] == 256, "a chunk's map has 256 bits");
const _: () = assert!(CLASS_BYTES[0].is_multiple_of(IO_UNIT_BYTES));

/// The arena of one host.
pub(super) struct Arena {
    memory: Memory,
    /// How many chunks, from the first, the ring has registered; a chunk's number is its index there.
    registered_chunks: Cell<usize>,
    state: RefCell<State>,
}

struct State {
    chunks: Vec<Chunk>,
    /// A chunk that is set aside for a class whose requests wait. It lends no more until it is empty, and then to
    /// that class only.
    draining: Option<Draining>,
    waiting: BTreeMap<u64, (usize, Waker)>,
    next_ticket: u64,
}

#[derive(Clone, Copy)]
struct Draining {
    chunk: usize,
    class: usize,
}

#[derive(Clone, Copy, Default)]
struct Chunk {
    class: Option<usize>,
    lent: usize,
    /// One bit per place, set while it is free.
    free: [u64; 4],
}

impl Chunk {
    fn become_class(&mut self, class: usize) {
        let places = CLASS_BYTES.get(class).map_or(0, |bytes| CHUNK_BYTES / bytes);
        *self = Self { class: Some(class), lent: 0, free: [0; 4] };
        for (word, bits) in self.free.iter_mut().enumerate() {
            *bits = match places.saturating_sub(word * 64).min(64) {
                0 => 0,
                count => u64::MAX >> (64 - count),
            };
        }
    }

    fn take(&mut self) -> Option<usize> {
        for (word, bits) in self.free.iter_mut().enumerate() {
            if *bits != 0 {
                let bit = bits.trailing_zeros();
                *bits &= *bits - 1;
                self.lent += 1;
                return Some(word * 64 + bit as usize);
            }
        }
        None
    }

    fn give_back(&mut self, place: usize) {
        let bit = 1_u64 << (place % 64);
        let Some(bits) = self.free.get_mut(place / 64) else { return };
        debug_assert!(*bits & bit == 0, "a buffer comes back once");
        *bits |= bit;
        self.lent -= 1;
    }
}

impl Arena {
    /// An arena of at least `bytes`, rounded up to whole chunks; nothing is registered yet.
    pub(super) fn new(bytes: usize) -> Result<Self, i32> {
        let chunks = bytes.div_ceil(CHUNK_BYTES).max(1);
        let memory = Memory::map(chunks.checked_mul(CHUNK_BYTES).ok_or(libc::ENOMEM)?)?;
        let chunks = vec![Chunk::default(); chunks];
        let state = State { chunks, draining: None, waiting: BTreeMap::new(), next_ticket: 0 };
        Ok(Self { memory, registered_chunks: Cell::new(0), state: RefCell::new(state) })
    }

    /// The arena's size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes
    }

    /// The chunks as the ring registers them.
    pub(super) fn iovecs(&self) -> Vec<libc::iovec> {
        (0..self.memory.bytes / CHUNK_BYTES)
            .map(|chunk| libc::iovec {
                iov_base: self.memory.at(chunk * CHUNK_BYTES).as_ptr().cast(),
                iov_len: CHUNK_BYTES,
            })
            .collect()
    }

    /// Notes that the first `chunks` chunks are registered.
    pub(super) fn set_registered(&self, chunks: usize) {
        self.registered_chunks.set(chunks);
    }

    /// Resolves to a buffer of at least `bytes` with stale content. Larger than the largest class: from the heap.
    pub(super) fn lend(self: &Rc<Self>, bytes: usize) -> Lend {
        Lend { arena: Rc::clone(self), bytes, ticket: None }
    }

    fn buffer(self: &Rc<Self>, bytes: usize, class: usize, chunk: usize, place: usize) -> IoBuf {
        let capacity = CLASS_BYTES.get(class).copied().unwrap_or(CHUNK_BYTES);
        let ptr = self.memory.at(chunk * CHUNK_BYTES + place * capacity);
        let registered = chunk < self.registered_chunks.get();
        let index = u16::try_from(chunk).ok().filter(|_| registered);
        let home: Rc<dyn ArenaHome> = Rc::<Self>::clone(self);
        // SAFETY: the place was free and is taken in the chunk's map until `give_back`; the mapping is zeroed at the
        // start, aligned to a page, and lives as long as `home`.
        let mut buf = unsafe { IoBuf::from_arena(ptr, capacity, home, index) };
        buf.truncate(bytes);
        buf
    }
}

/// The future of [`Arena::lend`].
pub(super) struct Lend {
    arena: Rc<Arena>,
    bytes: usize,
    /// Its number among those that wait, once it waits.
    ticket: Option<u64>,
}

impl Lend {
    /// Whether it has found the arena used up.
    pub(super) fn has_waited(&self) -> bool {
        self.ticket.is_some()
    }
}

impl Future for Lend {
    type Output = IoBuf;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoBuf> {
        let bytes = self.bytes;
        let Some(class) = CLASS_BYTES.iter().position(|class_bytes| *class_bytes >= bytes) else {
            return Poll::Ready(IoBuf::zeroed(bytes));
        };
        let arena = Rc::clone(&self.arena);
        let mut state = arena.state.borrow_mut();
        if let Some((chunk, place)) = state.take(class) {
            drop(state);
            return Poll::Ready(arena.buffer(bytes, class, chunk, place));
        }
        state.start_draining(class);
        let ticket = *self.ticket.get_or_insert_with(|| {
            state.next_ticket += 1;
            state.next_ticket
        });
        state.waiting.insert(ticket, (class, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Lend {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.arena.state.borrow_mut();
        let gone = state.waiting.remove(&ticket);
        let freed = state.settle();
        drop(state);
        drop(gone);
        if freed {
            self.arena.wake_waiting();
        }
    }
}

impl State {
    fn take(&mut self, class: usize) -> Option<(usize, usize)> {
        let set_aside = self.draining.filter(|draining| draining.class != class);
        let set_aside = set_aside.map(|draining| draining.chunk);
        let mut empty = None;
        let mut found = None;
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            if chunk.class == Some(class)
                && self.draining.is_none_or(|it| it.chunk != number || it.class == class)
            {
                if let Some(place) = chunk.take() {
                    found = Some((number, place));
                    break;
                }
            } else if chunk.class.is_none() && empty.is_none() && set_aside != Some(number) {
                empty = Some(number);
            }
        }
        if found.is_none()
            && let Some(number) = empty
            && let Some(chunk) = self.chunks.get_mut(number)
        {
            chunk.become_class(class);
            found = chunk.take().map(|place| (number, place));
        }
        found
    }

    /// Sets aside the chunk of another class that is likely to be empty soonest.
    fn start_draining(&mut self, class: usize) {
        if self.draining.is_none() {
            let others = self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.class != Some(class));
            let emptiest = others.min_by_key(|(_, chunk)| chunk.lent).map(|(number, _)| number);
            self.draining = emptiest.map(|chunk| Draining { chunk, class });
        }
    }

    /// Ends the draining if nobody waits for it any more; tells whether it ended.
    fn settle(&mut self) -> bool {
        let Some(draining) = self.draining else { return false };
        if self.waiting.values().any(|(class, _)| *class == draining.class) {
            return false;
        }
        self.draining = None;
        true
    }
}

impl ArenaHome for Arena {
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize) {
        let offset = ptr.as_ptr().addr() - self.memory.start.as_ptr().addr();
        let number = offset / CHUNK_BYTES;
        let mut state = self.state.borrow_mut();
        let Some(chunk) = state.chunks.get_mut(number) else { return };
        chunk.give_back(offset % CHUNK_BYTES / capacity);
        if chunk.lent == 0 {
            chunk.class = None;
        }
        drop(state);
        self.wake_waiting();
    }
}

impl Arena {
    fn wake_waiting(&self) {
        // By reference and within the borrow: a wake only queues a task.
        self.state.borrow().waiting.values().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

/// Pages from the kernel, zeroed at the start.
struct Memory {
    start: NonNull<u8>,
    bytes: usize,
}

impl Memory {
    fn map(bytes: usize) -> Result<Self, i32> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh private mapping at an address that the kernel chooses touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(super::sys::errno_of(&io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or(libc::ENOMEM)?;
        Ok(Self { start, bytes })
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes, "offset {offset} inside an arena of {} bytes", self.bytes);
        // SAFETY: inside the mapping, checked above.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping with its own length; every buffer holds the arena, so none is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn poll(lend: &mut Lend) -> Option<IoBuf> {
        match Pin::new(lend).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buf) => Some(buf),
            Poll::Pending => None,
        }
    }

    fn lend(arena: &Rc<Arena>, bytes: usize) -> Option<IoBuf> {
        poll(&mut arena.lend(bytes))
    }

    #[test]
    fn lent_buffers_never_overlap_and_all_come_back() {
        let arena = Rc::new(Arena::new(4 * CHUNK_BYTES).unwrap());
        let mut seed = 7_u64;
        let mut lent: Vec<(IoBuf, u8)> = Vec::new();
        for round in 0..4000_u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = 1 + (seed >> 33) as usize % (CHUNK_BYTES >> (seed % 9));
            let mark = (round % 251) as u8;
            if let Some(mut buf) = lend(&arena, bytes) {
                assert!(buf.len() >= bytes && buf.len() < bytes + IO_UNIT_BYTES);
                buf.as_mut_slice().fill(mark);
                lent.push((buf, mark));
            }
            if lent.len() > 60 || seed.is_multiple_of(3) && !lent.is_empty() {
                let (buf, mark) = lent.swap_remove((seed >> 40) as usize % lent.len());
                assert!(buf.as_slice().iter().all(|byte| *byte == mark));
            }
        }
        lent.clear();
        let all: Vec<_> = (0..4).map(|_| lend(&arena, CHUNK_BYTES).unwrap()).collect();
        assert!(lend(&arena, 1).is_none());
        drop(all);
    }

    #[test]
    fn a_large_request_gets_its_chunk_although_small_ones_keep_coming() {
        let arena = Rc::new(Arena::new(2 * CHUNK_BYTES).unwrap());
        let mut small: VecDeque<_> = (0..512).map(|_| lend(&arena, 4096).unwrap()).collect();
        assert!(lend(&arena, 4096).is_none());
        let mut waiter = arena.lend(CHUNK_BYTES);
        assert!(poll(&mut waiter).is_none());
        let mut turns = 0;
        let large = loop {
            small.pop_front();
            small.extend(lend(&arena, 4096));
            turns += 1;
            assert!(turns < 2000, "the large request starves");
            if let Some(large) = poll(&mut waiter) {
                break large;
            }
        };
        assert_eq!(large.len(), CHUNK_BYTES);
    }

    #[test]
    fn a_waiter_is_woken_and_a_huge_request_needs_no_arena() {
        let arena = Rc::new(Arena::new(CHUNK_BYTES).unwrap());
        let whole = lend(&arena, CHUNK_BYTES).unwrap();
        let mut waiter = arena.lend(4096);
        assert!(poll(&mut waiter).is_none() && waiter.has_waited());
        assert_eq!(lend(&arena, CHUNK_BYTES + 1).unwrap().registered_index(), None);
        drop(whole);
        assert!(lend(&arena, CHUNK_BYTES).is_none(), "the chunk is set aside for the waiter");
        assert!(poll(&mut waiter).is_some());
        drop(waiter);
        assert!(arena.state.borrow().waiting.is_empty());
        assert!(lend(&arena, CHUNK_BYTES).is_some());
    }

    #[test]
    fn only_registered_chunks_have_an_index() {
        let arena = Rc::new(Arena::new(2 * CHUNK_BYTES).unwrap());
        arena.set_registered(1);
        let first = lend(&arena, CHUNK_BYTES).unwrap();
        let second = lend(&arena, CHUNK_BYTES).unwrap();
        assert_eq!((first.registered_index(), second.registered_index()), (Some(0), None));
    }
}
