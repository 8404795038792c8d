//! The partitions of filters and page indexes that are in memory, within a budget of bytes for all segments of a shard.
//!
//! A segment has its own partitions in arrays, so that a search finds one by its number. The cache has the segments and
//! goes round over all of their partitions as the hand of a clock does: whenever room is needed, a partition that was
//! used since the hand last came by loses one of its uses, and one without is evicted. What is used most in the time of
//! a round so stays, and as long as everything fits, nothing is ever evicted.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use op_engine_io::num::to_u64;

use super::directory::{Directory, Partition};
use super::filter::FilterPartition;
use super::format::from_u32;
use super::index::{IndexPartition, PageNo};
use super::packing::Unpackers;
use super::reader::Candidate;

/// Uses of a partition that count.
const USES_MAX: u8 = 3;
/// The two counts of an [`Rc`].
const RC_BYTES: usize = 2 * size_of::<usize>();

/// A partition in memory.
#[derive(Debug, Clone)]
pub enum Loaded {
    /// Of the filter.
    Filter(Rc<FilterPartition>),
    /// Of the page index.
    Index(Rc<IndexPartition>),
}

impl Loaded {
    /// Where a page is, by its number, if this is the partition of the page index that tells.
    #[must_use]
    pub fn place(&self, page: PageNo) -> Candidate {
        match self {
            Self::Filter(_) => Candidate::Absent,
            Self::Index(index) => index.page(page).map_or(Candidate::Absent, Candidate::Page),
        }
    }

    fn bytes(&self) -> u64 {
        to_u64(
            RC_BYTES
                + match self {
                    Self::Filter(partition) => partition.memory_bytes(),
                    Self::Index(partition) => partition.memory_bytes(),
                },
        )
    }
}

/// Memory that partitions take, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionBytes {
    /// Partitions of filters.
    pub filter: u64,
    /// Partitions of page indexes.
    pub index: u64,
    /// The directories that lead to them.
    pub directory: u64,
}

impl PartitionBytes {
    /// All of it.
    #[must_use]
    pub fn sum(self) -> u64 {
        self.filter + self.index + self.directory
    }
}

/// Keeps partitions in memory, within a budget.
pub struct PartitionCache {
    bytes_max: u64,
    /// In the order in which they were opened.
    segments: RefCell<Vec<Weak<Residents>>>,
    /// The segment and the partition that the hand is at.
    hand: Cell<(usize, usize)>,
    bytes: Cell<PartitionBytes>,
    evictions: Cell<u64>,
    reads: Cell<u64>,
    /// Of cold segments, beside the budget.
    unpackers: Unpackers,
}

impl PartitionCache {
    /// Keeps at most so many bytes of partitions and directories. Directories are there even if they take more.
    #[must_use]
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes_max,
            segments: RefCell::default(),
            hand: Cell::default(),
            bytes: Cell::default(),
            evictions: Cell::default(),
            reads: Cell::default(),
            unpackers: Unpackers::default(),
        })
    }

    /// Keeps every partition that was read.
    #[must_use]
    pub fn unbounded() -> Rc<Self> {
        Self::new(u64::MAX)
    }

    /// The bytes that partitions and directories take.
    #[must_use]
    pub fn bytes(&self) -> PartitionBytes {
        self.bytes.get()
    }

    /// The bytes that they may take.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many partitions had to go to make room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.get()
    }

    /// How many partitions were read because a search needed them.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    pub(super) fn unpackers(&self) -> &Unpackers {
        &self.unpackers
    }

    pub(super) fn count_read(&self) {
        self.reads.set(self.reads.get() + 1);
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.get().sum().saturating_add(bytes) <= self.bytes_max
    }

    /// Evicts until there is room. Tells whether there is. Evicts nothing for what never fits.
    fn make_room(&self, bytes: u64) -> bool {
        if bytes > self.bytes_max.saturating_sub(self.bytes.get().directory) {
            return false;
        }
        // The first round may begin in the middle, and each takes a use.
        let mut rounds = u32::from(USES_MAX) + 2;
        while !self.has_room(bytes) {
            let held = self.bytes.get();
            if held.filter + held.index == 0 {
                return false;
            }
            let (at, partition) = self.hand.get();
            let segment = self.segments.borrow().get(at).cloned();
            let Some(segment) = segment else {
                rounds -= 1;
                if rounds == 0 {
                    return false;
                }
                self.hand.set((0, 0));
                continue;
            };
            match segment.upgrade().filter(|segment| partition < segment.len()) {
                Some(segment) => {
                    self.hand.set((at, partition + 1));
                    if segment.pass(partition) {
                        self.evictions.set(self.evictions.get() + 1);
                    }
                }
                None => self.hand.set((at + 1, 0)),
            }
        }
        true
    }

    fn change(&self, change: impl FnOnce(&mut PartitionBytes)) {
        let mut bytes = self.bytes.get();
        change(&mut bytes);
        self.bytes.set(bytes);
    }
}

impl std::fmt::Debug for PartitionCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionCache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

struct Slot<T> {
    resident: RefCell<Option<Rc<T>>>,
    uses: Cell<u8>,
}

impl<T> Slot<T> {
    fn array(len: usize) -> Box<[Self]> {
        (0..len).map(|_| Self { resident: RefCell::default(), uses: Cell::default() }).collect()
    }

    fn get(&self) -> Option<Rc<T>> {
        let resident = self.resident.borrow().clone()?;
        if self.uses.get() < USES_MAX {
            self.uses.set(self.uses.get() + 1);
        }
        Some(resident)
    }

    fn is_filled(&self) -> bool {
        self.resident.borrow().is_some()
    }

    /// It is without uses at first: most of what comes when there is no room is not wanted again soon.
    fn fill(&self, partition: &Rc<T>) {
        *self.resident.borrow_mut() = Some(Rc::clone(partition));
        self.uses.set(0);
    }

    /// Takes a use, or else the partition.
    fn pass(&self) -> Option<Rc<T>> {
        match self.uses.get().checked_sub(1) {
            Some(uses) => {
                self.uses.set(uses);
                None
            }
            None => self.resident.borrow_mut().take(),
        }
    }
}

/// The partitions of one segment.
pub(super) struct Residents {
    cache: Rc<PartitionCache>,
    filters: Box<[Slot<FilterPartition>]>,
    indexes: Box<[Slot<IndexPartition>]>,
    bytes: Cell<PartitionBytes>,
}

/// What may go to make room for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing.
    Free,
    /// Partitions that are used less.
    Made,
}

impl Residents {
    pub(super) fn new(cache: &Rc<PartitionCache>, directory: &Directory) -> Rc<Self> {
        let (filters, indexes) = (Slot::array(directory.filters()), Slot::array(directory.indexes()));
        let fixed = size_of_val(&*filters) + size_of_val(&*indexes) + directory.memory_bytes();
        let bytes = PartitionBytes { directory: to_u64(fixed), ..PartitionBytes::default() };
        let residents = Rc::new(Self { cache: Rc::clone(cache), filters, indexes, bytes: Cell::new(bytes) });
        cache.change(|all| all.directory += bytes.directory);
        let mut segments = cache.segments.borrow_mut();
        segments.retain(|segment| segment.strong_count() > 0);
        segments.push(Rc::downgrade(&residents));
        drop(segments);
        // The directory may take the place of partitions.
        cache.make_room(0);
        residents
    }

    pub(super) fn cache(&self) -> &PartitionCache {
        &self.cache
    }

    fn len(&self) -> usize {
        self.filters.len() + self.indexes.len()
    }

    /// A partition of the filter, if it is in memory. This is a use.
    #[inline]
    pub(super) fn filter(&self, at: u32) -> Option<Rc<FilterPartition>> {
        self.filters.get(from_u32(at))?.get()
    }

    /// A partition of the page index, if it is in memory. This is a use.
    #[inline]
    pub(super) fn index(&self, at: u32) -> Option<Rc<IndexPartition>> {
        self.indexes.get(from_u32(at))?.get()
    }

    pub(super) fn get(&self, partition: Partition) -> Option<Loaded> {
        match partition {
            Partition::Filter(at) => self.filter(at).map(Loaded::Filter),
            Partition::Index(at) => self.index(at).map(Loaded::Index),
        }
    }

    pub(super) fn has(&self, partition: Partition) -> bool {
        let has = match partition {
            Partition::Filter(at) => self.filters.get(from_u32(at)).map(Slot::is_filled),
            Partition::Index(at) => self.indexes.get(from_u32(at)).map(Slot::is_filled),
        };
        has.unwrap_or(false)
    }

    /// Keeps a partition if there is room for it. Tells whether there is.
    pub(super) fn keep(&self, partition: Partition, loaded: &Loaded, room: Room) -> bool {
        let bytes = loaded.bytes();
        if self.has(partition) {
            return true;
        }
        let has_room = match room {
            Room::Free => self.cache.has_room(bytes),
            Room::Made => self.cache.make_room(bytes),
        };
        if !has_room {
            return false;
        }
        match (partition, loaded) {
            (Partition::Filter(at), Loaded::Filter(loaded)) => {
                let Some(slot) = self.filters.get(from_u32(at)) else { return false };
                slot.fill(loaded);
                self.change(|all| all.filter += bytes);
            }
            (Partition::Index(at), Loaded::Index(loaded)) => {
                let Some(slot) = self.indexes.get(from_u32(at)) else { return false };
                slot.fill(loaded);
                self.change(|all| all.index += bytes);
            }
            _ => return false,
        }
        true
    }

    /// The hand comes by. Tells whether the partition had to go.
    fn pass(&self, at: usize) -> bool {
        if let Some(slot) = self.filters.get(at) {
            let Some(evicted) = slot.pass() else { return false };
            let bytes = Loaded::Filter(evicted).bytes();
            self.change(|all| all.filter -= bytes);
            return true;
        }
        let slot = at.checked_sub(self.filters.len()).and_then(|at| self.indexes.get(at));
        let Some(evicted) = slot.and_then(Slot::pass) else { return false };
        let bytes = Loaded::Index(evicted).bytes();
        self.change(|all| all.index -= bytes);
        true
    }

    fn change(&self, change: impl Fn(&mut PartitionBytes)) {
        let mut bytes = self.bytes.get();
        change(&mut bytes);
        self.bytes.set(bytes);
        self.cache.change(change);
    }

    /// The memory of its partitions and its directory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get().sum()
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        let bytes = self.bytes.get();
        self.cache.change(|all| {
            all.filter -= bytes.filter;
            all.index -= bytes.index;
            all.directory -= bytes.directory;
        });
    }
}
