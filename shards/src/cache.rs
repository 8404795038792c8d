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

/// Whose pages are kept together. Those of one tier do not push out those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// Of segments on the store's own device.
    Hot,
    /// Of segments in the cold target: long, and far away.
    Cold,
}

/// A cache of pages, bounded by the bytes they take. A page that takes more than a quarter of them is not kept: it would
/// push out what is wanted more often. Pages of a removed segment fall out by themselves: its number is
/// never used again.
pub struct PageCache {
    hot: Store,
    cold: Store,
}

struct Store {
    pages: RefCell<Pages>,
    page_bytes_max: usize,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl Store {
    fn new(bytes_max: u64) -> Self {
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
}

impl PageCache {
    /// A cache of at most `bytes_max` for hot pages and `cold_bytes_max` for cold ones.
    #[must_use]
    pub fn new(bytes_max: u64, cold_bytes_max: u64) -> Self {
        Self { hot: Store::new(bytes_max), cold: Store::new(cold_bytes_max) }
    }

    fn store(&self, shelf: Shelf) -> &Store {
        match shelf {
            Shelf::Hot => &self.hot,
            Shelf::Cold => &self.cold,
        }
    }

    /// A page, if it is there. Counts a hit or a miss.
    #[must_use]
    pub fn get(&self, shelf: Shelf, segment: u64, page: PageNo) -> Option<Rc<Page>> {
        let store = self.store(shelf);
        let found = store.pages.borrow().get(&(segment, page)).cloned();
        let counter = if found.is_some() { &store.hits } else { &store.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// Adds a page that was read, unless it is too large.
    pub fn insert(&self, shelf: Shelf, segment: u64, page: PageNo, read: Rc<Page>) {
        let store = self.store(shelf);
        if read.memory_bytes() <= store.page_bytes_max {
            store.pages.borrow_mut().insert((segment, page), read);
        }
    }

    /// How many pages were found.
    #[must_use]
    pub fn hits(&self, shelf: Shelf) -> u64 {
        self.store(shelf).hits.get()
    }

    /// How many pages were not found.
    #[must_use]
    pub fn misses(&self, shelf: Shelf) -> u64 {
        self.store(shelf).misses.get()
    }

    /// The bytes that its pages take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.hot.pages.borrow().weight() + self.cold.pages.borrow().weight()
    }
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageCache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use op_engine_io::{Dir, FileKind, FileName};

    use super::*;
    use crate::ids::Seq;
    use crate::segment::PageWriter;

    const PAGES: u32 = 256;

    fn page(value_bytes: usize) -> Rc<Page> {
        let (mut writer, mut bytes) = (PageWriter::default(), Vec::new());
        writer.push(b"key", Seq(1), Some(&vec![1; value_bytes]));
        writer.finish(&mut bytes);
        let file = FileName { dir: Dir::Shard(0), kind: FileKind::Segment, number: 1 };
        Rc::new(Page::parse(file, 0, &bytes).unwrap())
    }

    /// Reads a page as a search does. Tells whether it was there.
    fn read(cache: &PageCache, segment: u64, number: u32, page: &Rc<Page>) -> bool {
        let is_there = cache.get(Shelf::Hot, segment, PageNo(number)).is_some();
        if !is_there {
            cache.insert(Shelf::Hot, segment, PageNo(number), Rc::clone(page));
        }
        is_there
    }

    #[test]
    fn what_is_read_often_survives_a_scan() {
        let page = page(3900);
        let bytes_max = to_u64(page.memory_bytes()) * u64::from(PAGES);
        for (hot, scanned_first) in [(PAGES / 2, false), (PAGES / 2, true), (PAGES * 9 / 10, false)] {
            let cache = PageCache::new(bytes_max, 0);
            let scan = |segment| (0..10 * PAGES).filter(|n| read(&cache, segment, *n, &page)).count();
            if scanned_first {
                assert_eq!(scan(3), 0);
            }
            for _ in 0..3 {
                (0..hot).for_each(|n| {
                    read(&cache, 1, n, &page);
                });
            }
            assert_eq!(scan(2), 0);
            assert!(cache.bytes() <= bytes_max);
            let left = (0..hot).filter(|n| read(&cache, 1, *n, &page)).count();
            assert!(left * 10 >= to_usize(u64::from(hot)) * 9, "{left} of {hot} pages are left after a scan");
        }
    }

    #[test]
    fn a_large_page_pushes_nothing_out() {
        let (small, large) = (page(3900), page(300_000));
        let cache = PageCache::new(1 << 20, 0);
        assert_eq!((0..200).filter(|n| read(&cache, 1, *n, &small)).count(), 0);
        assert!((0..200).all(|n| read(&cache, 1, n, &small)));
        for n in 0..20 {
            assert!(!read(&cache, 2, n, &large) && !read(&cache, 2, n, &large));
        }
        assert!((0..200).all(|n| read(&cache, 1, n, &small)));
        // One that takes a quarter is kept.
        assert!(!read(&cache, 2, 0, &page(250_000)) && read(&cache, 2, 0, &small));
    }
}
