//! Goes through the entries of a segment in either direction, all versions of every key.

use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

use op_engine_io::Env;

use super::page::{EntryRef, Page, RUN_ENTRIES, Run};
use super::reader::{PageNo, Segment};
use crate::cache::PageCache;
use crate::error::Result;
use crate::ids::Seq;
use crate::range::{Direction, KeyRange};
use crate::visibility::Mask;

/// Where a cursor takes pages from.
#[derive(Debug, Clone, Default)]
pub struct CursorOptions {
    /// Looked into first, and given the pages that are read one by one.
    pub cache: Option<Rc<PageCache>>,
    /// How many bytes of consecutive pages are read at once, beside the cache; 0 for one page at a time.
    pub read_ahead_bytes: usize,
}

/// What a cursor comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An entry.
    Entry,
    /// The end of the range.
    End,
    /// A page that must be read first: [`SegmentCursor::load`].
    NeedsPage(PageNo),
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
        Self {
            env,
            mask: segment.mask(),
            segment,
            range,
            direction,
            options,
            state: State::Start,
            page: None,
            ahead: VecDeque::new(),
            run: Run::default(),
        }
    }

    /// The segment's mask when the cursor was made. A rollback that came later is above every view the cursor serves.
    #[must_use]
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Goes to the next entry; `false` past the last one.
    ///
    /// # Errors
    /// If a page cannot be read or is damaged.
    pub async fn advance(&mut self) -> Result<bool> {
        loop {
            match self.step()? {
                Step::Entry => return Ok(true),
                Step::End => return Ok(false),
                Step::NeedsPage(page) => self.load(page).await?,
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
                    self.ahead.clear();
                }
                Moved::On => {}
                Moved::Needs(page) => return Ok(Step::NeedsPage(page)),
            }
        }
    }

    /// Reads the page that [`SegmentCursor::step`] asked for.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub async fn load(&mut self, page: PageNo) -> Result<()> {
        if let Some(cache) = &self.options.cache {
            // With read-ahead, a cursor goes through far more than is worth caching.
            let found = if self.options.read_ahead_bytes == 0 {
                Some(self.segment.cached_page(&self.env, cache, page).await?)
            } else {
                cache.get(self.segment.meta().number, page)
            };
            if let Some(found) = found {
                self.page = Some((page, found));
                return Ok(());
            }
        }
        let first = match self.direction {
            Direction::Forward => page,
            Direction::Backward => self.segment.first_of_stretch(page, self.options.read_ahead_bytes),
        };
        let bytes_max = self.options.read_ahead_bytes;
        let pages = self.segment.stretch(&self.env, first, bytes_max).await?;
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

    /// The page, if it is in memory.
    fn current(&mut self, page: PageNo) -> Option<Rc<Page>> {
        let is_current = self.page.as_ref().is_some_and(|(number, _)| *number == page);
        if !is_current && !self.take_ahead(page) {
            return None;
        }
        self.page.as_ref().map(|(_, page)| page.clone())
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
        let page_no = self.segment.page_at(key, seq);
        let key = key.to_vec();
        let Some(page) = self.current(page_no) else { return Ok(Moved::Needs(page_no)) };
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
        let Some(page) = self.current(page_no) else { return Ok(Moved::Needs(page_no)) };
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
    /// A page must be read before the same step is taken again.
    Needs(PageNo),
}

impl<E: Env> std::fmt::Debug for SegmentCursor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentCursor")
            .field("segment", &self.segment)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
