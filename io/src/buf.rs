//! Buffers that the kernel can read and write directly.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

/// The unit of all I/O: buffers, offsets and lengths are multiples of it. 4 KiB satisfies O_DIRECT on every device
/// with 512-byte or 4-KiB sectors.
pub const IO_UNIT_BYTES: usize = 4096;

/// Takes arena memory back. Implemented by the arena that lent it.
pub(crate) trait ArenaHome {
    /// Called once per lent range, when its buffer is dropped.
    fn give_back(&self, ptr: NonNull<u8>, capacity: usize);
}

enum Home {
    Heap,
    Arena {
        arena: Rc<dyn ArenaHome>,
        /// The registered buffer that holds the memory, if the kernel let us register it.
        index: Option<u16>,
    },
}

/// An aligned buffer whose length is a multiple of [`IO_UNIT_BYTES`].
///
/// While an operation is in flight the operation owns the buffer, so neither a dropped future nor a dropped file can
/// free memory that the kernel still writes to.
pub struct IoBuf {
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
    home: Home,
}

impl IoBuf {
    /// A zeroed buffer on the heap of at least `bytes`, rounded up to the unit; at least one unit.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(IO_UNIT_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is at least one unit, hence not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, len: capacity, capacity, home: Home::Heap }
    }

    /// A buffer over arena memory, with whatever the memory held before.
    ///
    /// # Safety
    /// `ptr` points to `capacity` initialised bytes, aligned to and a multiple of the unit, that stay allocated while
    /// `arena` lives and belong to nobody else until `give_back`.
    pub(crate) unsafe fn from_arena(
        ptr: NonNull<u8>,
        capacity: usize,
        arena: Rc<dyn ArenaHome>,
        index: Option<u16>,
    ) -> Self {
        debug_assert!(capacity > 0 && capacity.is_multiple_of(IO_UNIT_BYTES));
        Self { ptr, len: capacity, capacity, home: Home::Arena { arena, index } }
    }

    #[expect(clippy::expect_used, reason = "only a length within a page of isize::MAX has no layout")]
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, IO_UNIT_BYTES).expect("buffer length fits the address space")
    }

    /// The length in bytes, a multiple of the unit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a buffer holds at least one unit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Shortens the buffer to `bytes`, rounded up to the unit. Does nothing if it is shorter already.
    pub fn truncate(&mut self, bytes: usize) {
        self.len = self.len.min(bytes.max(1).next_multiple_of(IO_UNIT_BYTES));
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len <= capacity` bytes at `ptr` are initialised (by `zeroed` or by the arena) and borrowed with self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    /// Where the memory is, for the ring.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Whether the memory is an arena's, and so may hold what it held before.
    pub(crate) fn is_from_arena(&self) -> bool {
        matches!(self.home, Home::Arena { .. })
    }

    /// The registered buffer that holds the memory, if it comes from a registered arena.
    pub(crate) fn registered_index(&self) -> Option<u16> {
        match &self.home {
            Home::Heap => None,
            Home::Arena { index, .. } => *index,
        }
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        match &self.home {
            // SAFETY: allocated in `zeroed` with this very layout.
            Home::Heap => unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) },
            Home::Arena { arena, .. } => arena.give_back(self.ptr, self.capacity),
        }
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuf").field("len", &self.len).finish_non_exhaustive()
    }
}
