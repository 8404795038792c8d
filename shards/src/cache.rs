//! The pages of segments that a shard keeps in memory, by use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use op_engine_io::num::{to_u64, to_usize};
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::segment::{Page, PageNo};

/// What a page usually weighs, to size the cache's tables.
const PAGE_BYTES_USUAL: u64 = 4096;

#[derive(Debug, Clone, Copy)]
struct PageBytes;

impl Weighter<(u64, PageNo), Rc<Page>> for PageBytes {
    fn weight(&self, _: &(u64, PageNo), page: &Rc<Page>) -> u64 {
        to_u64(page.memory_bytes())
    }
}

type Pages = Cache<(u64, PageNo), Rc<Page>, PageBytes, ahash::RandomState>;

/// A cache of pages, bounded by the bytes they take. A page that takes more than a quarter of them is not kept: it would
/// push out what is wanted more often. Pages of a removed segment fall out by themselves: its number is
/// never used again.
pub struct PageCache {
    pages: RefCell<Pages>,
    page_bytes_max: usize,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl PageCache {
    /// A cache of at most `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        // Fixed seeds: what is evicted must be the same in every run of a simulation.
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let items = to_usize(bytes_max / PAGE_BYTES_USUAL).max(1);
        let pages =
            match OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(bytes_max).build() {
                Ok(options) => Cache::with_options(options, PageBytes, hasher, DefaultLifecycle::default()),
                Err(_) => Cache::with(items, bytes_max, PageBytes, hasher, DefaultLifecycle::default()),
            };
        let page_bytes_max = to_usize(bytes_max / 4);
        Self { pages: RefCell::new(pages), page_bytes_max, hits: Cell::new(0), misses: Cell::new(0) }
    }

    /// A page, if it is there. Counts a hit or a miss.
    #[must_use]
    pub fn get(&self, segment: u64, page: PageNo) -> Option<Rc<Page>> {
        let found = self.pages.borrow().get(&(segment, page)).cloned();
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// Adds a page that was read, unless it is too large.
    pub fn insert(&self, segment: u64, page: PageNo, read: Rc<Page>) {
        if read.memory_bytes() > self.page_bytes_max {
            return;
        }
        self.pages.borrow_mut().insert((segment, page), read);
    }

    /// How many pages were found.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// How many pages were not found.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }

    /// The bytes that its pages take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.borrow().weight()
    }
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageCache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
