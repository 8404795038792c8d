//! The bytes of a file as shared pages, copied when they change.

use std::sync::{Arc, LazyLock};

use crate::buf::IO_UNIT_BYTES;
use crate::num::{to_u64, to_usize};

/// The unit of writes.
pub(super) const PAGE_BYTES: usize = IO_UNIT_BYTES;
/// The unit that a crash keeps or loses.
const SECTOR_BYTES: usize = 512;
/// All sectors of a page.
pub(super) const ALL_SECTORS: u8 = u8::MAX;
/// Pages that are shared and copied together, so that a fork of a large file costs one pointer per 64 KiB.
const EXTENT_PAGES: usize = 16;

const _: () = assert!(PAGE_BYTES / SECTOR_BYTES == 8, "a page's sectors fit the bits of a byte");

/// One page of content.
pub(super) type Page = Arc<[u8; PAGE_BYTES]>;

static ZERO_PAGE: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE_BYTES]));
static ZERO_EXTENT: LazyLock<Arc<Extent>> =
    LazyLock::new(|| Arc::new(Extent { pages: std::array::from_fn(|_| Some(zero_page())) }));
static HOLE: LazyLock<Arc<Extent>> = LazyLock::new(|| Arc::new(Extent::default()));

/// The page of written zeros that all files share.
pub(super) fn zero_page() -> Page {
    Arc::clone(&ZERO_PAGE)
}

/// Cuts bytes into pages. The last one is filled up with zeros.
pub(super) fn split(bytes: &[u8]) -> Arc<[Page]> {
    bytes
        .chunks(PAGE_BYTES)
        .map(|chunk| match <[u8; PAGE_BYTES]>::try_from(chunk) {
            Ok(page) => Arc::new(page),
            Err(_) => {
                let mut page = [0; PAGE_BYTES];
                for (to, from) in page.iter_mut().zip(chunk) {
                    *to = *from;
                }
                Arc::new(page)
            }
        })
        .collect()
}

/// `base` with the sectors of `mask` taken from `over`. No base reads as zeros.
pub(super) fn merge(base: Option<&Page>, over: &Page, mask: u8) -> Page {
    if mask == ALL_SECTORS {
        return Arc::clone(over);
    }
    let base = base.unwrap_or(&ZERO_PAGE);
    if mask == 0 || Arc::ptr_eq(base, over) {
        return Arc::clone(base);
    }
    let mut page = Arc::clone(base);
    copy_sectors(Arc::make_mut(&mut page).as_mut_slice(), over.as_slice(), mask);
    page
}

/// Copies the sectors of `mask` from one page to another.
pub(super) fn copy_sectors(to: &mut [u8], from: &[u8], mask: u8) {
    let sectors = to.chunks_exact_mut(SECTOR_BYTES).zip(from.chunks_exact(SECTOR_BYTES));
    for (sector, (to, from)) in sectors.enumerate() {
        if mask >> sector & 1 == 1 {
            to.copy_from_slice(from);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Extent {
    /// `None`: never written, reads as zeros.
    pages: [Option<Page>; EXTENT_PAGES],
}

/// The pages of a file. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    extents: Vec<Arc<Extent>>,
    allocated: usize,
}

impl Content {
    /// The page, unless it was never written.
    pub(super) fn page(&self, page: usize) -> Option<&Page> {
        self.extents.get(page / EXTENT_PAGES)?.pages.get(page % EXTENT_PAGES)?.as_ref()
    }

    /// How many pages were written.
    pub(super) fn allocated(&self) -> usize {
        self.allocated
    }

    /// How many pages of a range were never written.
    pub(super) fn missing(&self, first: usize, pages: usize) -> usize {
        (first..first.saturating_add(pages)).filter(|page| self.page(*page).is_none()).count()
    }

    pub(super) fn set(&mut self, page: usize, data: Page) {
        let at = page / EXTENT_PAGES;
        self.reach(at.saturating_add(1));
        let Some(extent) = self.extents.get_mut(at) else { return };
        let Some(slot) = Arc::make_mut(extent).pages.get_mut(page % EXTENT_PAGES) else { return };
        self.allocated += usize::from(slot.is_none());
        *slot = Some(data);
    }

    /// Writes zeros to the first `pages` pages.
    pub(super) fn fill_zeros(&mut self, pages: usize) {
        let whole = pages / EXTENT_PAGES;
        self.reach(whole);
        for extent in self.extents.iter_mut().take(whole) {
            self.allocated += extent.pages.iter().filter(|page| page.is_none()).count();
            *extent = Arc::clone(&ZERO_EXTENT);
        }
        for page in whole.saturating_mul(EXTENT_PAGES)..pages {
            self.set(page, zero_page());
        }
    }

    /// Forgets pages: they read as zeros and take no space.
    pub(super) fn release(&mut self, first: usize, pages: usize) {
        let end = first.saturating_add(pages).min(self.extents.len().saturating_mul(EXTENT_PAGES));
        for page in first..end {
            if self.page(page).is_none() {
                continue;
            }
            let extent = self.extents.get_mut(page / EXTENT_PAGES).map(Arc::make_mut);
            if let Some(slot) = extent.and_then(|extent| extent.pages.get_mut(page % EXTENT_PAGES)) {
                *slot = None;
                self.allocated -= 1;
            }
        }
    }

    /// Forgets everything from byte `len` on.
    pub(super) fn cut(&mut self, len: u64) {
        let tail = to_usize(len) % PAGE_BYTES;
        let pages = to_usize(len).div_ceil(PAGE_BYTES);
        self.extents.truncate(pages.div_ceil(EXTENT_PAGES));
        let past_end = pages % EXTENT_PAGES;
        if past_end > 0
            && self.extents.len() == pages.div_ceil(EXTENT_PAGES)
            && let Some(extent) = self.extents.last_mut()
            && extent.pages.iter().skip(past_end).any(Option::is_some)
        {
            Arc::make_mut(extent).pages.iter_mut().skip(past_end).for_each(|page| *page = None);
        }
        if tail > 0
            && let Some(mut page) = self.page(pages.saturating_sub(1)).cloned()
            && page.iter().skip(tail).any(|byte| *byte != 0)
        {
            Arc::make_mut(&mut page).iter_mut().skip(tail).for_each(|byte| *byte = 0);
            self.set(pages.saturating_sub(1), page);
        }
        self.allocated = self.extents.iter().map(|extent| extent.pages.iter().flatten().count()).sum();
    }

    /// Copies bytes from `offset`, a multiple of the page, to `out`.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let first = to_usize(offset) / PAGE_BYTES;
        for (page, out) in (first..).zip(out.chunks_mut(PAGE_BYTES)) {
            match self.page(page).and_then(|data| data.get(..out.len())) {
                Some(data) => out.copy_from_slice(data),
                None => out.fill(0),
            }
        }
    }

    fn reach(&mut self, extents: usize) {
        if extents > self.extents.len() {
            self.extents.resize_with(extents, || Arc::clone(&HOLE));
        }
    }
}

/// What a write puts into a file.
#[derive(Debug, Clone)]
pub(super) enum WriteData {
    /// These pages.
    Pages(Arc<[Page]>),
    /// That many pages of zeros.
    Zeros(usize),
}

impl WriteData {
    pub(super) fn pages(&self) -> usize {
        match self {
            Self::Pages(pages) => pages.len(),
            Self::Zeros(pages) => *pages,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Page> + '_ {
        (0..self.pages()).filter_map(|at| match self {
            Self::Pages(pages) => pages.get(at).cloned(),
            Self::Zeros(_) => Some(zero_page()),
        })
    }

    /// The end of the write in the file, in bytes.
    pub(super) fn end(&self, first: usize) -> u64 {
        to_u64(first.saturating_add(self.pages()).saturating_mul(PAGE_BYTES))
    }
}
