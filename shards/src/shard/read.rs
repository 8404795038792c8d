//! Reads: memtables first, then segments from the newest down.
//!
//! Sources of a collection have ranges of numbers that do not overlap, so the first visible version found is the
//! newest. Pages that a batch needs are read many at a time and each of them once; a page is searched when it arrives
//! and not kept, so that a batch takes no more memory than what is in flight.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ahash::AHashMap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use op_engine_io::{Env, IoBuf, ReplySender};

use crate::error::{Error, Result};
use crate::ids::{CollectionId, Seq};
use crate::message::{GetRequest, Value};
use crate::mutants::read_delay;
use crate::run::Runs;
use crate::segment::{Lookup as Find, Page, PageNo, Segment};

use super::Shard;

/// Keys of a batch whose pages are located before the first read; the others are while reads are in flight.
const LOCATED_FIRST: usize = 64;

/// A key whose value has not been found yet, and the page to look into next.
struct Seek<E: Env> {
    /// Which key of the request.
    at: usize,
    hash: u64,
    runs: Rc<Runs<E>>,
    /// The run to look into. Those above it have been looked at, and it as well if no page is named.
    position: usize,
    /// The file of that run and the page to look into.
    page: Option<(Rc<Segment<E>>, PageNo)>,
    /// Another seek that waits for the same page.
    also: Option<usize>,
}

/// A batch of point reads in progress.
pub(super) struct Lookup<E: Env> {
    view: Seq,
    keys: Vec<(CollectionId, Box<[u8]>)>,
    values: Vec<Option<Value>>,
    seeks: Vec<Seek<E>>,
    reply: ReplySender<Result<Vec<Option<Value>>>>,
}

/// A page of a segment, by the segment's number.
type PageId = (u64, PageNo);

/// The pages that a batch waits for.
#[derive(Default)]
struct Waiting {
    /// The first of the seeks that need a page.
    seeks: AHashMap<PageId, usize>,
    /// Pages that are not being read yet, by the first seek that needs each.
    queue: VecDeque<usize>,
    /// How many seeks have begun.
    located: usize,
}

/// A page as it comes from the device.
struct Arrived<E: Env> {
    id: PageId,
    segment: Rc<Segment<E>>,
    page: Result<IoBuf>,
}

/// Whether to wait until something has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    ForOne,
}

/// Polls reads, so that new ones begin, and takes those that have ended.
async fn take_ended<F: Future>(reads: &mut FuturesUnordered<F>, ended: &mut Vec<F::Output>, wait: Wait) {
    poll_fn(|cx| {
        loop {
            match reads.poll_next_unpin(cx) {
                Poll::Ready(Some(output)) => ended.push(output),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if wait == Wait::ForOne && ended.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
}

impl<E: Env> Shard<E> {
    /// Looks keys up in memory. Answers if that is enough, else gives what is left to do.
    pub(super) fn begin_get(&self, request: GetRequest) -> Option<Lookup<E>> {
        let GetRequest { view, keys, reply } = request;
        self.dawdle(keys.len());
        match self.look_in_memory(view, &keys) {
            Err(error) => {
                reply.send(Err(error));
                None
            }
            Ok((values, seeks)) if seeks.is_empty() => {
                reply.send(Ok(values));
                None
            }
            Ok((values, seeks)) => Some(Lookup { view, keys, values, seeks, reply }),
        }
    }

    /// Keeps the shard busy for as long as a test of measurements wants.
    fn dawdle(&self, keys: usize) {
        let delay = read_delay().saturating_mul(u32::try_from(keys).unwrap_or(u32::MAX));
        if delay > Duration::ZERO {
            let began = self.env.now();
            while self.env.now().saturating_sub(began) < delay {
                std::hint::spin_loop();
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "two lists that are taken apart at once")]
    fn look_in_memory(
        &self,
        view: Seq,
        keys: &[(CollectionId, Box<[u8]>)],
    ) -> Result<(Vec<Option<Value>>, Vec<Seek<E>>)> {
        let state = self.state.borrow();
        let mut values = Vec::with_capacity(keys.len());
        let mut seeks = Vec::new();
        for (at, (collection, key)) in keys.iter().enumerate() {
            let spec = state.collection(*collection)?;
            if !state.can_serve(view, spec.history) {
                return Err(Error::ViewExpired { view });
            }
            let mask = state.masks.get(spec.scope);
            let found =
                state.memtables().find_map(|memtable| memtable.borrow().get(*collection, key, view, &mask));
            if let Some((_, value)) = found {
                values.push(value);
                continue;
            }
            values.push(None);
            if let Some(runs) = state.runs.get(collection) {
                let hash = self.filter_key.hash(key);
                let (runs, position) = (Rc::clone(runs), runs.as_slice().len());
                let mut seek = Seek { at, hash, position, runs, page: None, also: None };
                if seeks.len() >= LOCATED_FIRST || seek.locate(key, view) {
                    seeks.push(seek);
                }
            }
        }
        Ok((values, seeks))
    }

    /// Reads what is left of a batch, and answers.
    pub(super) async fn finish_get(self: Rc<Self>, mut lookup: Lookup<E>) {
        let result = self.seek_all(&mut lookup).await;
        lookup.reply.send(result.map(|()| lookup.values));
    }

    async fn seek_all(&self, lookup: &mut Lookup<E>) -> Result<()> {
        let depth = self.env.read_depth().max(1);
        let mut waiting = Waiting::default();
        let mut reads = FuturesUnordered::new();
        let mut arrived = Vec::new();
        loop {
            let in_flight = reads.len();
            while reads.len() < depth && self.locate_ahead(lookup, &mut waiting, 1)? {
                let first = waiting.queue.pop_front();
                reads.extend(first.and_then(|first| self.read_for(lookup, first)));
            }
            let has_begun = reads.len() > in_flight;
            if has_begun && (!arrived.is_empty() || waiting.located < lookup.seeks.len()) {
                // The device works on the new reads while the pages that have come are searched.
                take_ended(&mut reads, &mut arrived, Wait::No).await;
                self.env.yield_now().await;
            }
            for Arrived { id, segment, page } in arrived.drain(..) {
                let page = Rc::new(segment.decode_page(id.1, &page?)?);
                self.search_for_all(lookup, &mut waiting, id, page)?;
            }
            self.locate_ahead(lookup, &mut waiting, depth)?;
            if !waiting.queue.is_empty() && reads.len() < depth {
                continue;
            }
            if reads.is_empty() {
                assert!(waiting.seeks.is_empty(), "every page that was waited for has come");
                return Ok(());
            }
            take_ended(&mut reads, &mut arrived, Wait::ForOne).await;
        }
    }

    /// Finds the next pages of seeks that have not begun, until so many pages wait to be read or none is left. Tells
    /// whether any waits.
    fn locate_ahead(&self, lookup: &mut Lookup<E>, waiting: &mut Waiting, pages: usize) -> Result<bool> {
        while waiting.queue.len() < pages && waiting.located < lookup.seeks.len() {
            waiting.located += 1;
            self.go_on(lookup, waiting, waiting.located - 1)?;
        }
        Ok(!waiting.queue.is_empty())
    }

    /// Looks into a page for every seek that needs it.
    fn search_for_all(
        &self,
        lookup: &mut Lookup<E>,
        waiting: &mut Waiting,
        id: PageId,
        page: Rc<Page>,
    ) -> Result<()> {
        let mut next = waiting.seeks.remove(&id);
        while let Some(seek) = next {
            next = lookup.seeks.get_mut(seek).and_then(|seek| seek.also.take());
            if !lookup.look_into(seek, &page)? {
                self.go_on(lookup, waiting, seek)?;
            }
        }
        self.cache.insert(id.0, id.1, page);
        Ok(())
    }

    /// Follows a seek through pages in memory, until it ends or waits for a page.
    fn go_on(&self, lookup: &mut Lookup<E>, waiting: &mut Waiting, at: usize) -> Result<()> {
        while let Some(id) = lookup.next_page(at) {
            if let Some(first) = waiting.seeks.get(&id) {
                let others = lookup.seeks.get_mut(*first).and_then(|first| first.also.replace(at));
                if let Some(seek) = lookup.seeks.get_mut(at) {
                    seek.also = others;
                }
                return Ok(());
            }
            let Some(page) = self.cache.get(id.0, id.1) else {
                waiting.seeks.insert(id, at);
                waiting.queue.push_back(at);
                return Ok(());
            };
            if lookup.look_into(at, &page)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The read of the page that a seek waits for.
    fn read_for<'a>(
        &'a self,
        lookup: &Lookup<E>,
        seek: usize,
    ) -> Option<impl Future<Output = Arrived<E>> + use<'a, E>> {
        let (segment, page) = lookup.seeks.get(seek)?.page.clone()?;
        let id = (segment.meta().number, page);
        Some(async move {
            let page = segment.fetch_page(&self.env, page).await;
            Arrived { id, segment, page }
        })
    }
}

impl<E: Env> Seek<E> {
    /// Goes to the newest run below the one that was looked at that may hold the key; tells whether there is one.
    fn locate(&mut self, key: &[u8], view: Seq) -> bool {
        let older = self.runs.as_slice().get(..self.position).unwrap_or_default();
        let mut newest_first = older.iter().enumerate().rev();
        let found = newest_first.find_map(|(position, run)| {
            let file = run.file_for(key, view)?;
            let page = file.candidate(key, self.hash, view)?;
            Some((position, Rc::clone(file), page))
        });
        let Some((position, file, page)) = found else { return false };
        (self.position, self.page) = (position, Some((file, page)));
        true
    }
}

impl<E: Env> Lookup<E> {
    /// The page that a seek needs; `None` if no segment can hold its key.
    fn next_page(&mut self, at: usize) -> Option<PageId> {
        let seek = self.seeks.get_mut(at)?;
        let (_, key) = self.keys.get(seek.at)?;
        if seek.page.is_none() && !seek.locate(key, self.view) {
            return None;
        }
        let (segment, page) = seek.page.as_ref()?;
        Some((segment.meta().number, *page))
    }

    /// Looks into the page that a seek needs. Tells whether the key has been found.
    fn look_into(&mut self, at: usize, page: &Page) -> Result<bool> {
        let Some(seek) = self.seeks.get_mut(at) else { return Ok(false) };
        let Some((_, key)) = self.keys.get(seek.at) else { return Ok(false) };
        let Some((segment, page_no)) = seek.page.take() else { return Ok(false) };
        match page.find(key, self.view, &segment.mask())? {
            Find::Found(_, value) => {
                if let Some(place) = self.values.get_mut(seek.at) {
                    *place = value;
                }
                return Ok(true);
            }
            Find::NextPage => {
                let next = page_no.next();
                seek.page = segment.goes_on_with(next, key).then_some((segment, next));
            }
            Find::Absent => {}
        }
        Ok(false)
    }
}
