//! One file: what reads see, what survives for certain, and the writes in between.

use std::sync::Arc;

use super::pages::{Content, Page, WriteData};
use super::rng::Rng;
use crate::env::FileName;

/// A page of a write that no sync has covered.
#[derive(Debug, Clone)]
pub(super) struct DirtyPage {
    pub(super) data: Page,
    /// Whether no later durable write has replaced it.
    pub(super) live: bool,
}

/// A completed write that no sync has covered. The versions of a sector since the last sync are its pages in these
/// records, in their order.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// When it completed, in the disk's order of completions.
    pub(super) order: u64,
    pub(super) first: usize,
    pub(super) pages: Vec<DirtyPage>,
    /// Its end in the file, in bytes.
    pub(super) end: u64,
    /// A sync that should have covered it failed: the kernel has dropped it, and no later sync brings it back.
    doomed: bool,
}

/// The state of one file.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) name: FileName,
    /// Whether a name leads to it.
    pub(super) linked: bool,
    pub(super) handles: u32,
    pub(super) current: Content,
    pub(super) len: u64,
    pub(super) durable: Content,
    pub(super) durable_len: u64,
    pub(super) unsynced: Vec<Arc<Record>>,
}

impl Inode {
    pub(super) fn new(name: FileName) -> Self {
        Self {
            name,
            linked: true,
            handles: 0,
            current: Content::default(),
            len: 0,
            durable: Content::default(),
            durable_len: 0,
            unsynced: Vec::new(),
        }
    }

    /// A file whose whole content is durable.
    pub(super) fn settled(name: FileName, content: Content, len: u64) -> Self {
        Self { current: content.clone(), len, durable: content, durable_len: len, ..Self::new(name) }
    }

    /// A completed write: visible, not durable.
    pub(super) fn write(&mut self, order: u64, first: usize, data: &WriteData) {
        let mut pages = Vec::with_capacity(data.pages());
        for (at, page) in (first..).zip(data.iter()) {
            self.current.set(at, Arc::clone(&page));
            pages.push(DirtyPage { data: page, live: true });
        }
        let end = data.end(first);
        self.len = self.len.max(end);
        self.unsynced.push(Arc::new(Record { order, first, pages, end, doomed: false }));
    }

    /// A completed durable write.
    pub(super) fn write_durable(&mut self, first: usize, data: &WriteData) {
        match data {
            WriteData::Zeros(pages) if first == 0 => {
                self.current.fill_zeros(*pages);
                self.durable.fill_zeros(*pages);
            }
            _ => {
                for (at, page) in (first..).zip(data.iter()) {
                    self.current.set(at, Arc::clone(&page));
                    self.durable.set(at, page);
                }
            }
        }
        let end = data.end(first);
        self.len = self.len.max(end);
        self.durable_len = self.durable_len.max(end);
        self.supersede(first, data.pages());
    }

    /// Makes holes of pages: for what is read, and for what a crash leaves if they are durable.
    pub(super) fn release(&mut self, first: usize, pages: usize, is_durable: bool) {
        self.current.release(first, pages);
        if is_durable {
            self.durable.release(first, pages);
            self.supersede(first, pages);
        }
    }

    /// A sync that covers the writes completed up to `mark`.
    pub(super) fn make_durable(&mut self, mark: u64) {
        if !self.unsynced.iter().any(|record| record.order <= mark && !record.doomed) {
            return;
        }
        let mut kept = Vec::new();
        for record in std::mem::take(&mut self.unsynced) {
            if record.order > mark || record.doomed {
                kept.push(record);
                continue;
            }
            for (at, dirty) in (record.first..).zip(&record.pages) {
                if dirty.live {
                    self.durable.set(at, Arc::clone(&dirty.data));
                }
            }
            self.durable_len = self.durable_len.max(record.end);
            // A write that was dropped earlier is older than what is durable there from here on.
            for older in &mut kept {
                cover(older, record.order, record.first, record.pages.len());
            }
        }
        self.unsynced = kept;
    }

    /// A sync that failed: each write that it should have covered may be dropped.
    pub(super) fn doom(&mut self, mark: u64, rng: &mut Rng) {
        for record in &mut self.unsynced {
            if record.order <= mark && rng.coin() {
                Arc::make_mut(record).doomed = true;
            }
        }
    }

    fn supersede(&mut self, first: usize, pages: usize) {
        for record in &mut self.unsynced {
            cover(record, u64::MAX, first, pages);
        }
    }
}

/// Marks the pages of a record as replaced by a durable write of `pages` pages from `first` on, if it is older.
fn cover(record: &mut Arc<Record>, order: u64, first: usize, pages: usize) {
    let last = first.saturating_add(pages);
    if record.order > order
        || record.first >= last
        || first >= record.first.saturating_add(record.pages.len())
    {
        return;
    }
    let record = Arc::make_mut(record);
    for (_, dirty) in (record.first..).zip(&mut record.pages).filter(|(at, _)| (first..last).contains(at)) {
        dirty.live = false;
    }
}
