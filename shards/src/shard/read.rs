//! Reads: memtables first, then segments from the newest down.
//!
//! Sources of a collection have ranges of numbers that do not overlap, so the first visible version found is the
//! newest. All pages that a batch needs next are read at once, each of them once.

use std::rc::Rc;

use ahash::AHashMap;
use futures_util::stream::{StreamExt, iter};
use op_engine_io::{Env, ReplySender};

use crate::error::{Error, Result};
use crate::ids::{CollectionId, Seq};
use crate::message::{GetRequest, Value};
use crate::segment::{Lookup as Find, Page, PageNo, Segment};

use super::Shard;

/// A key whose value has not been found yet.
struct Seek<E: Env> {
    /// Which key of the request.
    at: usize,
    hash: u64,
    segments: Rc<Vec<Rc<Segment<E>>>>,
    /// Segments below this position have not been looked at.
    below: usize,
    /// A page of the segment at `below` to go on in.
    next_page: Option<PageNo>,
}

/// A batch of point reads in progress.
pub(super) struct Lookup<E: Env> {
    view: Seq,
    keys: Vec<(CollectionId, Box<[u8]>)>,
    values: Vec<Option<Value>>,
    seeks: Vec<Seek<E>>,
    reply: ReplySender<Result<Vec<Option<Value>>>>,
}

/// A page that a seek needs.
struct Want<E: Env> {
    seek: usize,
    segment: Rc<Segment<E>>,
    page: PageNo,
}

impl<E: Env> Shard<E> {
    /// Looks keys up in memory. Answers if that is enough, else gives what is left to do.
    pub(super) fn begin_get(&self, request: GetRequest) -> Option<Lookup<E>> {
        let GetRequest { view, keys, reply } = request;
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
            if let Some(segments) = state.segments.get(collection) {
                let hash = self.filter_key.hash(key);
                let segments = Rc::clone(segments);
                let seek = Seek { at, hash, below: segments.len(), segments, next_page: None };
                if self.candidate(&seek, key, view).is_some() {
                    seeks.push(seek);
                }
            }
        }
        Ok((values, seeks))
    }

    /// The newest segment below the seek's position that may hold the key, and the page to look at.
    fn candidate(&self, seek: &Seek<E>, key: &[u8], view: Seq) -> Option<(usize, PageNo)> {
        if let Some(page) = seek.next_page {
            return Some((seek.below, page));
        }
        let older = seek.segments.get(..seek.below)?;
        older.iter().enumerate().rev().find_map(|(position, segment)| {
            let page = segment.locate(key, view)?;
            segment.may_contain(seek.hash).then_some((position, page))
        })
    }

    /// Reads what is left of a batch, and answers.
    pub(super) async fn finish_get(self: Rc<Self>, mut lookup: Lookup<E>) {
        let result = self.seek_all(&mut lookup).await;
        lookup.reply.send(result.map(|()| lookup.values));
    }

    async fn seek_all(&self, lookup: &mut Lookup<E>) -> Result<()> {
        while !lookup.seeks.is_empty() {
            let wants = self.wants(lookup);
            let pages = self.pages(&wants).await?;
            Self::take_pages(lookup, &wants, &pages)?;
        }
        Ok(())
    }

    /// The next page of every seek; seeks without one end here, their keys being absent.
    fn wants(&self, lookup: &mut Lookup<E>) -> Vec<Want<E>> {
        let mut wants = Vec::with_capacity(lookup.seeks.len());
        let mut going_on = Vec::with_capacity(lookup.seeks.len());
        for mut seek in lookup.seeks.drain(..) {
            let Some((_, key)) = lookup.keys.get(seek.at) else { continue };
            let Some((position, page)) = self.candidate(&seek, key, lookup.view) else { continue };
            let Some(segment) = seek.segments.get(position) else { continue };
            wants.push(Want { seek: going_on.len(), segment: Rc::clone(segment), page });
            seek.below = position;
            seek.next_page = None;
            going_on.push(seek);
        }
        lookup.seeks = going_on;
        wants
    }

    /// The wanted pages, each read once, in the order of the wants.
    async fn pages(&self, wants: &[Want<E>]) -> Result<Vec<Rc<Page>>> {
        let mut at: AHashMap<(u64, PageNo), usize> = AHashMap::with_capacity(wants.len());
        let mut unique: Vec<(&Want<E>, Option<Rc<Page>>)> = Vec::with_capacity(wants.len());
        let mut order = Vec::with_capacity(wants.len());
        for want in wants {
            let number = want.segment.meta().number;
            let position = *at.entry((number, want.page)).or_insert_with(|| {
                unique.push((want, self.cache.get(number, want.page)));
                unique.len() - 1
            });
            order.push(position);
        }
        let missing =
            unique.iter().enumerate().filter(|(_, (_, page))| page.is_none()).map(|(position, (want, _))| {
                let segment = Rc::clone(&want.segment);
                let page = want.page;
                async move { (position, segment.page(&self.env, page).await) }
            });
        let mut reads = iter(missing.collect::<Vec<_>>()).buffer_unordered(self.env.read_depth());
        let mut arrived = Vec::new();
        while let Some((position, page)) = reads.next().await {
            arrived.push((position, page?));
        }
        drop(reads);
        for (position, page) in arrived {
            if let Some((want, place)) = unique.get_mut(position) {
                self.cache.insert(want.segment.meta().number, want.page, Rc::clone(&page));
                *place = Some(page);
            }
        }
        Ok(order.into_iter().filter_map(|position| unique.get(position)?.1.clone()).collect())
    }

    /// Looks into the pages that have come. Seeks that have found their key, or know it to be absent, end.
    fn take_pages(lookup: &mut Lookup<E>, wants: &[Want<E>], pages: &[Rc<Page>]) -> Result<()> {
        assert_eq!(wants.len(), pages.len(), "every want has its page");
        let mut ended = vec![false; lookup.seeks.len()];
        for (want, page) in wants.iter().zip(pages) {
            let Some(seek) = lookup.seeks.get_mut(want.seek) else { continue };
            let Some((_, key)) = lookup.keys.get(seek.at) else { continue };
            match page.find(key, lookup.view, &want.segment.mask())? {
                Find::Found(_, value) => {
                    if let Some(place) = lookup.values.get_mut(seek.at) {
                        *place = value;
                    }
                    if let Some(end) = ended.get_mut(want.seek) {
                        *end = true;
                    }
                }
                Find::NextPage if want.segment.goes_on_with(want.page.next(), key) => {
                    seek.next_page = Some(want.page.next());
                }
                Find::Absent | Find::NextPage => {}
            }
        }
        let mut ended = ended.into_iter();
        lookup.seeks.retain(|_| !ended.next().unwrap_or(true));
        Ok(())
    }
}
