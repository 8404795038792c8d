//! Goes through the entries of a segment in either direction, all versions of every key.

use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

use op_engine_io::Env;

use super::directory::Partition;
use super::index::{IndexPartition, PageNo, PagePlace};
use super::page::{EntryRef, Page, RUN_ENTRIES, Run};
use super::reader::Segment;
use super::resident::Loaded;
use crate::cache::PageCache;
use crate::error::Result;
use crate::ids::Seq;
use crate::range::{Direction, KeyRange};
use crate::visibility::Mask;

/// Pages that a cursor which reads ahead first reads one by one, and gives to the cache: short scans are repeated, and
/// long ones read pages once.
const CACHED_PAGES: usize = 4;
/// What is read ahead first. It doubles as the cursor goes on, so that at most half of what it reads is in vain.
const READ_AHEAD_BYTES_MIN: usize = 8 << 10;

/// Where a cursor takes pages from.
#[derive(Debug, Clone, Default)]
pub struct CursorOptions {
    /// Looked into first, and given the pages that are read one by one. Without it, partitions of the page index are
    /// not kept either.
    pub cache: Option<Rc<PageCache>>,
    /// How many bytes of consecutive pages are read at once, beside the cache; 0 for one page at a time. With a cache
    /// only after the first few pages.
    pub read_ahead_bytes: usize,
}

/// What a cursor comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An entry.
    Entry,
    /// The end of the range.
    End,
    /// Something must be read first: [`SegmentCursor::load`].
    NeedsRead,
}

/// What must be read before a cursor goes on.
#[derive(Debug, Clone, Copy)]
enum Need {
    /// A partition of the page index.
    Index(u32),
    Page(PagePlace),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Before the first entry.
    Start,
    /// At entry `at` of the run in memory.
    At {
        page: PageNo,
        run: usize,
        at: usize,
    },
    /// The next entry is the first (or last) one of a page.
    Edge(PageNo),
    End,
}

/// Goes through a range of a segment.
pub struct SegmentCursor<E: Env> {
    env: E,
    segment: Rc<Segment<E>>,
    mask: Rc<Mask>,
    range: KeyRange,
    direction: Direction,
    options: CursorOptions,
    state: State,
    need: Option<Need>,
    /// The partition of the page index that was used last.
    index: Option<(u32, Rc<IndexPartition>)>,
    /// Pages that are still to be read one by one.
    pages_single: usize,
    /// How many bytes are read at once next.
    read_ahead_bytes: usize,
    page: Option<(PageNo, Rc<Page>)>,
    ahead: VecDeque<(PageNo, Rc<Page>)>,
    run: Run,
}

impl<E: Env> SegmentCursor<E> {
    /// Before the first entry of a range. What a merge has taken over from the segment is left out.
    #[must_use]
    pub fn new(
        env: E,
        segment: Rc<Segment<E>>,
        mut range: KeyRange,
        direction: Direction,
        options: CursorOptions,
    ) -> Self {
        if segment.is_trimmed() {
            range.raise_start(&segment.meta().key_min);
        }
        let (pages_single, read_ahead_bytes) = match (&options.cache, options.read_ahead_bytes) {
            (_, 0) => (usize::MAX, 0),
            (None, bytes) => (0, bytes),
            (Some(_), bytes) => (CACHED_PAGES, bytes.min(READ_AHEAD_BYTES_MIN)),
        };
        Self {
            env,
            mask: segment.mask(),
            segment,
            range,
            direction,
            options,
            state: State::Start,
            need: None,
            index: None,
            pages_single,
            read_ahead_bytes,
            page: None,
            ahead: VecDeque::new(),
            run: Run::default(),
        }
    }

    /// As one that has gone over its first pages already: it reads ahead, and gives the cache nothing.
    #[must_use]
    pub fn reading_ahead(mut self) -> Self {
        if self.read_ahead_bytes > 0 {
            self.pages_single = 0;
        }
        self
    }

    /// The segment's mask when the cursor was made. A rollback that came later is above every view the cursor serves.
    #[must_use]
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Goes to the next entry; `false` past the last one.
    ///
    /// # Errors
    /// If something cannot be read or is damaged.
    pub async fn advance(&mut self) -> Result<bool> {
        loop {
            match self.step()? {
                Step::Entry => return Ok(true),
                Step::End => return Ok(false),
                Step::NeedsRead => self.load().await?,
            }
        }
    }

    /// The entry that the cursor is at.
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        let State::At { at, .. } = self.state else { return None };
        let (_, page) = self.page.as_ref()?;
        self.run.get(at, page)
    }

    /// Goes to the next entry if that takes no I/O.
    ///
    /// # Errors
    /// If a page is damaged.
    pub fn step(&mut self) -> Result<Step> {
        loop {
            let is_first = matches!(self.state, State::Start);
            let moved = match self.state {
                State::Start => self.seek()?,
                State::At { page, run, at } => self.after(page, run, at)?,
                State::Edge(page) => self.enter(page)?,
                State::End => return Ok(Step::End),
            };
            match moved {
                Moved::Entry
                    if self.entry().is_some_and(|entry| self.range.reaches(entry.key, self.direction)) =>
                {
                    // The search can end at a version of the very key that is excluded.
                    if !is_first || self.entry().is_some_and(|entry| self.range.contains(entry.key)) {
                        return Ok(Step::Entry);
                    }
                }
                Moved::Entry | Moved::Out => {
                    self.state = State::End;
                    self.page = None;
                    self.index = None;
                    self.ahead.clear();
                }
                Moved::On => {}
                Moved::Needs(need) => {
                    self.need = Some(need);
                    return Ok(Step::NeedsRead);
                }
            }
        }
    }

    /// Reads what [`SegmentCursor::step`] asked for.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub async fn load(&mut self) -> Result<()> {
        match self.need.take() {
            None => Ok(()),
            Some(Need::Index(at)) => self.load_index(at).await,
            Some(Need::Page(place)) => self.load_page(place).await,
        }
    }

    async fn load_index(&mut self, at: u32) -> Result<()> {
        let partition = Partition::Index(at);
        let loaded = if self.options.cache.is_some() {
            self.segment.partition(&self.env, partition).await?
        } else {
            self.segment.read_partition(&self.env, partition).await?
        };
        if let Loaded::Index(index) = loaded {
            self.index = Some((at, index));
        }
        Ok(())
    }

    async fn load_page(&mut self, place: PagePlace) -> Result<()> {
        let page = place.number;
        if let Some(cache) = &self.options.cache {
            let found = if self.pages_single > 0 {
                self.pages_single -= 1;
                Some(self.segment.cached_page(&self.env, cache, place).await?)
            } else {
                cache.get(self.segment.shelf(), self.segment.meta().number, page)
            };
            if let Some(found) = found {
                self.page = Some((page, found));
                return Ok(());
            }
        }
        let Some((_, index)) = &self.index else { return Err(self.segment.no_such_page()) };
        let bytes_max = self.read_ahead_bytes;
        let first = match self.direction {
            Direction::Forward => page,
            Direction::Backward => {
                let first = index.first_of_stretch(page, self.segment.units_of(bytes_max));
                first.max(self.segment.first_page().min(page))
            }
        };
        let pages = self.segment.stretch(&self.env, index, first, bytes_max).await?;
        self.read_ahead_bytes = bytes_max.saturating_mul(2).min(self.options.read_ahead_bytes);
        let mut number = first;
        for read in pages {
            if number > page && self.direction == Direction::Backward {
                break;
            }
            self.ahead.push_back((number, read));
            number = number.next();
        }
        self.take_ahead(page);
        Ok(())
    }

    /// Makes a page that was read ahead the current one.
    fn take_ahead(&mut self, page: PageNo) -> bool {
        let next = match self.direction {
            Direction::Forward => self.ahead.pop_front(),
            Direction::Backward => self.ahead.pop_back(),
        };
        match next {
            Some((number, read)) if number == page => {
                self.page = Some((number, read));
                true
            }
            _ => {
                self.ahead.clear();
                false
            }
        }
    }

    /// The page, or what must be read first.
    fn current(&mut self, page: PageNo) -> Result<Rc<Page>, Need> {
        let is_current = self.page.as_ref().is_some_and(|(number, _)| *number == page);
        let page_there = if is_current || self.take_ahead(page) { self.page.as_ref() } else { None };
        if let Some((_, page)) = page_there {
            return Ok(Rc::clone(page));
        }
        let at = self.segment.directory.index_of_page(page).unwrap_or_default();
        let place = self.index(at)?.page(page);
        Err(place.map_or(Need::Index(at), Need::Page))
    }

    /// A partition of the page index, or that it must be read first.
    fn index(&mut self, at: u32) -> Result<Rc<IndexPartition>, Need> {
        if let Some((_, index)) = self.index.as_ref().filter(|(number, _)| *number == at) {
            return Ok(Rc::clone(index));
        }
        let index = self.segment.residents.index(at).ok_or(Need::Index(at))?;
        self.index = Some((at, Rc::clone(&index)));
        Ok(index)
    }

    /// Goes to the first entry of the range, or beyond the last one in the direction's sense.
    fn seek(&mut self) -> Result<Moved> {
        let bound = match self.direction {
            Direction::Forward => self.range.start(),
            Direction::Backward => self.range.end(),
        };
        // The place between entries where the range begins: before the newest version of the bound, or after the oldest.
        let (key, before_key) = match (self.direction, bound) {
            (Direction::Forward, Bound::Unbounded) => {
                self.state = State::Edge(PageNo(0));
                return Ok(Moved::On);
            }
            (Direction::Backward, Bound::Unbounded) => {
                self.state = State::Edge(PageNo::new(self.segment.pages().saturating_sub(1)));
                return Ok(Moved::On);
            }
            (Direction::Forward, Bound::Included(key)) | (Direction::Backward, Bound::Excluded(key)) => {
                (key, true)
            }
            (Direction::Forward, Bound::Excluded(key)) | (Direction::Backward, Bound::Included(key)) => {
                (key, false)
            }
        };
        let seq = if before_key { Seq::MAX } else { Seq::ZERO };
        let key = key.to_vec();
        let at = self.segment.directory.index_of(&key, seq);
        let page_no = match self.index(at) {
            Ok(index) => index.locate(&key, seq).number,
            Err(need) => return Ok(Moved::Needs(need)),
        };
        // Backwards from what was taken over: the range is empty.
        if page_no < self.segment.first_page() {
            return Ok(Moved::Out);
        }
        let page = match self.current(page_no) {
            Ok(page) => page,
            Err(need) => return Ok(Moved::Needs(need)),
        };
        let position = page.position(&key, seq)?;
        match self.direction {
            Direction::Forward if position >= page.entries() => self.leave(page_no),
            Direction::Forward => self.place(page_no, &page, position),
            Direction::Backward => match position.checked_sub(1) {
                Some(position) => self.place(page_no, &page, position),
                None => self.leave(page_no),
            },
        }
    }

    /// Goes to the entry after (or before) the current one.
    fn after(&mut self, page_no: PageNo, run: usize, at: usize) -> Result<Moved> {
        let next = match self.direction {
            Direction::Forward => Some(at + 1).filter(|at| *at < self.run.len()),
            Direction::Backward => at.checked_sub(1),
        };
        if let Some(at) = next {
            self.state = State::At { page: page_no, run, at };
            return Ok(Moved::Entry);
        }
        let Some((_, page)) = &self.page else { return Ok(Moved::Out) };
        let page = page.clone();
        let next_run = match self.direction {
            Direction::Forward => Some(run + 1).filter(|run| *run < page.runs()),
            Direction::Backward => run.checked_sub(1),
        };
        let Some(run) = next_run else { return self.leave(page_no) };
        let position = match self.direction {
            Direction::Forward => run * RUN_ENTRIES,
            Direction::Backward => run * RUN_ENTRIES + RUN_ENTRIES - 1,
        };
        self.place(page_no, &page, position)
    }

    /// Goes to the first (or last) entry of a page.
    fn enter(&mut self, page_no: PageNo) -> Result<Moved> {
        let page = match self.current(page_no) {
            Ok(page) => page,
            Err(need) => return Ok(Moved::Needs(need)),
        };
        let position = match self.direction {
            Direction::Forward => 0,
            Direction::Backward => page.entries().saturating_sub(1),
        };
        self.place(page_no, &page, position)
    }

    /// Goes to the next (or previous) page.
    fn leave(&mut self, page: PageNo) -> Result<Moved> {
        let next = match self.direction {
            Direction::Forward => Some(page.next()).filter(|page| page.index() < self.segment.pages()),
            // What was taken over from a trimmed segment may not even be there.
            Direction::Backward if page <= self.segment.first_page() => None,
            Direction::Backward => page.index().checked_sub(1).map(PageNo::new),
        };
        match next {
            Some(page) => {
                self.state = State::Edge(page);
                Ok(Moved::On)
            }
            None => Ok(Moved::Out),
        }
    }

    fn place(&mut self, page_no: PageNo, page: &Page, position: usize) -> Result<Moved> {
        let run = position / RUN_ENTRIES;
        page.load_run(run, &mut self.run)?;
        self.state = State::At { page: page_no, run, at: position % RUN_ENTRIES };
        Ok(Moved::Entry)
    }
}

enum Moved {
    /// The state is at an entry.
    Entry,
    /// The state has changed, and the next step goes on from there.
    On,
    /// No entry follows.
    Out,
    /// Something must be read before the same step is taken again.
    Needs(Need),
}

impl<E: Env> std::fmt::Debug for SegmentCursor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentCursor")
            .field("segment", &self.segment)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
