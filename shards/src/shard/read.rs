//! Reads: memtables first, then segments from the newest down.
//!
//! Sources of a collection have ranges of numbers that do not overlap, so the first visible version found is the
//! newest. Pages that a batch needs are read many at a time and each of them once; a page is searched when it arrives
//! and not kept, so that a batch takes no more memory than what is in flight. Partitions of filters and page indexes
//! that are not in memory are read among the pages, in the same way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ahash::AHashMap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use op_engine_io::{Env, ReplySender};

use crate::cache::Shelf;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::message::{GetRequest, KeyList, ValueList};
use crate::mutants::read_delay;
use crate::run::Runs;
use crate::segment::{
    Candidate, Fetched, Loaded, Lookup as Find, Page, PageNo, PagePlace, Partition, Segment,
};
use crate::segment_meta::SegmentMeta;

use super::Shard;

/// Keys of a batch whose pages are located before the first read; the others are while reads are in flight.
const LOCATED_FIRST: usize = 64;

/// What a seek does next.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// Look for the newest older segment that may hold the key.
    Older,
    /// Ask a partition whether and where the segment may hold the key.
    Ask(Partition),
    /// Ask a partition of the page index for this page, in which the key's versions go on.
    GoOn(Partition, PageNo),
    /// Look into a page.
    Search(PagePlace),
}

/// A key whose value has not been found yet, and what to look into next.
struct Seek<E: Env> {
    /// Which key of the request.
    at: usize,
    hash: u64,
    runs: Rc<Runs<E>>,
    /// The run to look into. Those above it have been looked at, and it as well if an older one is the goal.
    position: usize,
    /// The file of that run that may hold the key.
    file: Option<Rc<Segment<E>>>,
    goal: Goal,
    /// Another seek that waits for the same unit.
    also: Option<usize>,
}

/// A batch of point reads in progress.
pub(super) struct Lookup<E: Env> {
    view: Seq,
    keys: KeyList,
    values: ValueList,
    seeks: Vec<Seek<E>>,
    reply: ReplySender<Result<ValueList>>,
}

/// What a seek can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Page(PageNo),
    Partition(Partition),
}

/// A unit of a segment, by the segment's number.
type UnitId = (u64, Unit);

/// The units that a batch waits for.
#[derive(Default)]
struct Waiting {
    /// The first of the seeks that need a unit.
    seeks: AHashMap<UnitId, usize>,
    /// Units that are not being read yet, by the first seek that needs each.
    queue: VecDeque<usize>,
    /// How many seeks have begun.
    located: usize,
}

/// A unit as it comes from the device.
struct Arrived<E: Env> {
    id: UnitId,
    segment: Rc<Segment<E>>,
    content: Content,
}

enum Content {
    Page(PagePlace, Result<Fetched>),
    Partition(Result<Loaded>),
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

    fn look_in_memory(&self, view: Seq, keys: &KeyList) -> Result<(ValueList, Vec<Seek<E>>)> {
        let state = self.state.borrow();
        let mut values = ValueList::absent(keys.len());
        let mut seeks = Vec::new();
        self.note_asked(keys);
        for (at, (collection, key)) in keys.iter().enumerate() {
            let spec = state.collection(collection)?;
            if !state.can_serve(view, spec.history) {
                return Err(Error::ViewExpired { view });
            }
            let mask = state.masks.get(spec.scope);
            let found = state.memtables().any(|memtable| {
                let memtable = memtable.borrow();
                let Some(version) = memtable.get(collection, key, view, &mask) else { return false };
                if let Some(value) = version.value {
                    values.set(at, value);
                }
                true
            });
            if found {
                continue;
            }
            if let Some(runs) = state.runs.get(&collection) {
                let hash = self.filter_key.hash(key);
                let (runs, position) = (Rc::clone(runs), runs.as_slice().len());
                let mut seek = Seek { at, hash, position, runs, file: None, goal: Goal::Older, also: None };
                if seeks.len() >= LOCATED_FIRST || seek.locate(key, view) {
                    seeks.push(seek);
                }
            }
        }
        Ok((values, seeks))
    }

    /// Counts the keys of a request.
    fn note_asked(&self, keys: &KeyList) {
        let mut stats = self.stats.borrow_mut();
        let mut collections = keys.iter().map(|(collection, _)| collection);
        let Some(mut current) = collections.next() else { return };
        let mut count = 1;
        for collection in collections {
            if collection == current {
                count += 1;
            } else {
                stats.traffic.entry(current).or_default().keys_read += count;
                (current, count) = (collection, 1);
            }
        }
        stats.traffic.entry(current).or_default().keys_read += count;
    }

    /// Reads what is left of a batch, and answers.
    pub(super) async fn finish_get(self: Rc<Self>, mut lookup: Lookup<E>) {
        let result = self.seek_all(&mut lookup).await;
        if let Err(error) = &result {
            self.tiering.note_failed_read(error);
        }
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
            for arrival in arrived.drain(..) {
                self.use_for_all(lookup, &mut waiting, arrival)?;
            }
            self.locate_ahead(lookup, &mut waiting, depth)?;
            if !waiting.queue.is_empty() && reads.len() < depth {
                continue;
            }
            if reads.is_empty() {
                assert!(waiting.seeks.is_empty(), "all that was waited for has come");
                return Ok(());
            }
            take_ended(&mut reads, &mut arrived, Wait::ForOne).await;
        }
    }

    /// Finds what seeks need that have not begun, until so many units wait to be read or none is left. Tells whether any
    /// waits.
    fn locate_ahead(&self, lookup: &mut Lookup<E>, waiting: &mut Waiting, units: usize) -> Result<bool> {
        while waiting.queue.len() < units && waiting.located < lookup.seeks.len() {
            waiting.located += 1;
            self.go_on(lookup, waiting, waiting.located - 1)?;
        }
        Ok(!waiting.queue.is_empty())
    }

    /// Looks into what has come, for every seek that waits for it.
    fn use_for_all(&self, lookup: &mut Lookup<E>, waiting: &mut Waiting, arrival: Arrived<E>) -> Result<()> {
        let Arrived { id, segment, content } = arrival;
        let mut next = waiting.seeks.remove(&id);
        match content {
            Content::Page(place, buf) => {
                let page = Rc::new(segment.decode_page(place, &buf?)?);
                let shelf = segment.shelf();
                while let Some(seek) = next {
                    next = lookup.seeks.get_mut(seek).and_then(|seek| seek.also.take());
                    if !lookup.look_into(seek, &page)? {
                        self.go_on(lookup, waiting, seek)?;
                    }
                }
                self.cache.insert(shelf, id.0, place.number, page);
            }
            Content::Partition(loaded) => {
                let loaded = loaded?;
                while let Some(seek) = next {
                    next = lookup.seeks.get_mut(seek).and_then(|seek| seek.also.take());
                    lookup.ask(seek, &loaded);
                    self.go_on(lookup, waiting, seek)?;
                }
            }
        }
        Ok(())
    }

    /// Follows a seek through what is in memory, until it ends or waits for a unit.
    fn go_on(&self, lookup: &mut Lookup<E>, waiting: &mut Waiting, at: usize) -> Result<()> {
        while let Some(id) = lookup.next_unit(at) {
            if let Some(first) = waiting.seeks.get(&id) {
                let others = lookup.seeks.get_mut(*first).and_then(|first| first.also.replace(at));
                if let Some(seek) = lookup.seeks.get_mut(at) {
                    seek.also = others;
                }
                return Ok(());
            }
            let page = match id.1 {
                Unit::Page(number) => self.cache.get(lookup.shelf(at), id.0, number),
                Unit::Partition(_) => None,
            };
            let Some(page) = page else {
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

    /// The read of the unit that a seek waits for.
    fn read_for<'a>(
        &'a self,
        lookup: &Lookup<E>,
        seek: usize,
    ) -> Option<impl Future<Output = Arrived<E>> + use<'a, E>> {
        let seek = lookup.seeks.get(seek)?;
        let (segment, goal, id) = (Rc::clone(seek.file.as_ref()?), seek.goal, seek.unit()?);
        let SegmentMeta { collection, place, .. } = segment.meta();
        let mut stats = self.stats.borrow_mut();
        let levels = &mut stats.traffic.entry(*collection).or_default().levels;
        let level = levels.entry(place.level).or_default();
        if segment.meta().tier.is_cold() && matches!(goal, Goal::Search(_)) {
            level.cold_reads += 1;
        } else {
            level.device_reads += 1;
        }
        drop(stats);
        Some(async move {
            let content = match goal {
                Goal::Search(place) => Content::Page(place, segment.fetch_page(&self.env, place).await),
                Goal::Ask(partition) | Goal::GoOn(partition, _) => {
                    Content::Partition(segment.partition(&self.env, partition).await)
                }
                Goal::Older => unreachable!("a seek that names no unit waits for none"),
            };
            Arrived { id, segment, content }
        })
    }
}

impl<E: Env> Seek<E> {
    /// Goes to the newest run below the one that was looked at that may hold the key; tells whether there is one.
    fn locate(&mut self, key: &[u8], view: Seq) -> bool {
        let older = self.runs.as_slice().get(..self.position).unwrap_or_default();
        for (position, run) in older.iter().enumerate().rev() {
            let Some(file) = run.file_for(key, view) else { continue };
            self.goal = match file.candidate(key, self.hash, view) {
                Candidate::Absent => continue,
                Candidate::Page(place) => Goal::Search(place),
                Candidate::Needs(partition) => Goal::Ask(partition),
            };
            (self.position, self.file) = (position, Some(Rc::clone(file)));
            return true;
        }
        false
    }

    /// The unit that it needs.
    fn unit(&self) -> Option<UnitId> {
        let unit = match self.goal {
            Goal::Older => return None,
            Goal::Ask(partition) | Goal::GoOn(partition, _) => Unit::Partition(partition),
            Goal::Search(place) => Unit::Page(place.number),
        };
        Some((self.file.as_ref()?.meta().number, unit))
    }
}

impl<E: Env> Lookup<E> {
    /// What a seek needs; `None` if no segment can hold its key.
    fn next_unit(&mut self, at: usize) -> Option<UnitId> {
        let seek = self.seeks.get_mut(at)?;
        let (_, key) = self.keys.get(seek.at)?;
        if matches!(seek.goal, Goal::Older) && !seek.locate(key, self.view) {
            return None;
        }
        seek.unit()
    }

    /// Which part of the cache has the page that a seek needs.
    fn shelf(&self, at: usize) -> Shelf {
        let file = self.seeks.get(at).and_then(|seek| seek.file.as_ref());
        file.map_or(Shelf::Hot, |file| file.shelf())
    }

    /// Asks the partition that a seek needs.
    fn ask(&mut self, at: usize, loaded: &Loaded) {
        let Some(seek) = self.seeks.get_mut(at) else { return };
        let Some((_, key)) = self.keys.get(seek.at) else { return };
        let Some(segment) = &seek.file else { return };
        let candidate = match seek.goal {
            Goal::GoOn(_, page) => loaded.place(page),
            _ => segment.candidate_in(loaded, key, seek.hash, self.view),
        };
        seek.goal = match candidate {
            Candidate::Absent => Goal::Older,
            Candidate::Page(place) => Goal::Search(place),
            Candidate::Needs(partition) => Goal::Ask(partition),
        };
    }

    /// Looks into the page that a seek needs. Tells whether the key has been found.
    fn look_into(&mut self, at: usize, page: &Page) -> Result<bool> {
        let Some(seek) = self.seeks.get_mut(at) else { return Ok(false) };
        let Some((_, key)) = self.keys.get(seek.at) else { return Ok(false) };
        let Some(segment) = &seek.file else { return Ok(false) };
        let Goal::Search(place) = std::mem::replace(&mut seek.goal, Goal::Older) else { return Ok(false) };
        match page.find(key, self.view, &segment.mask())? {
            Find::Found(_, value) => {
                if let Some(value) = value {
                    self.values.set(seek.at, value);
                }
                return Ok(true);
            }
            Find::NextPage if place.goes_on => {
                let next = place.number.next();
                seek.goal = match segment.place(next) {
                    Candidate::Absent => Goal::Older,
                    Candidate::Page(place) => Goal::Search(place),
                    Candidate::Needs(partition) => Goal::GoOn(partition, next),
                };
            }
            Find::NextPage | Find::Absent => {}
        }
        Ok(false)
    }
}
