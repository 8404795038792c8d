//! Ordered scans over one shard or merged over all.

use std::any::TypeId;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use op_engine_io::reply;
use op_engine_shards::message::{Direction, KeyRange, Request, ScanRequest, Value};
use op_engine_shards::{CollectionId, Seq};

use crate::collection::{Collection, Index, IndexRow, decode_entry};
use crate::engine::index_state::require_complete;
use crate::engine::reader::{PrefixOf, decode_value, is_expired};
use crate::engine::shared::{Pin, Shared};
use crate::error::{Error, Result};
use crate::key::{Key, prefix_range};

/// Rows asked of a shard at once.
const PAGE_ROWS: usize = 256;
/// Bytes asked of a shard at once.
const PAGE_BYTES: usize = 1 << 20;
/// Attempts to take a view of the tip before giving up.
const PINS_MAX: usize = 64;

/// A row of a collection scan.
pub type Row<C> = (<C as Collection>::Key, <C as Collection>::Value);

/// What one shard has sent and has not been taken yet.
#[derive(Default)]
struct Feed {
    rows: VecDeque<(Vec<u8>, Value)>,
    ended: bool,
    /// The last key that came, to go on after.
    last: Option<Vec<u8>>,
}

/// An ordered scan. Rows come one after another; nothing is held but a page from each shard.
///
/// A scan sees one state from its first row to its last, whatever is committed meanwhile.
pub struct Scan<K, R> {
    shared: Arc<Shared>,
    collection: Result<CollectionId>,
    name: &'static str,
    partition: usize,
    view: Option<Seq>,
    pin: Option<Arc<Pin>>,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    direction: Direction,
    left: usize,
    only_shard: Option<usize>,
    feeds: Option<Vec<(usize, Feed)>>,
    decode: fn(&[u8], &[u8]) -> Result<R>,
    key: PhantomData<fn(K)>,
}

/// A scan of a collection.
pub(crate) fn record_scan<C: Collection>(
    shared: &Arc<Shared>,
    view: Option<Seq>,
    pin: Option<Arc<Pin>>,
) -> Scan<C::Key, Row<C>> {
    let collection = shared.registry.collection(TypeId::of::<C>(), C::NAME).map(|registered| registered.id);
    Scan::new(shared, collection, C::NAME, C::PARTITION, view, pin, decode_row::<C>)
}

fn decode_row<C: Collection>(key: &[u8], value: &[u8]) -> Result<Row<C>> {
    let key = C::Key::decode_exact(key).map_err(|why| Error::Key { collection: C::NAME.to_owned(), why })?;
    Ok((key, decode_value::<C>(value)?))
}

/// A scan of an index.
pub(crate) fn index_scan<I: Index>(
    shared: &Arc<Shared>,
    view: Option<Seq>,
    pin: Option<Arc<Pin>>,
) -> Scan<I::Key, IndexRow<I>> {
    let collection = shared.registry.index(TypeId::of::<I>(), I::NAME).map(|(id, _)| id);
    Scan::new(shared, collection, I::NAME, I::PARTITION, view, pin, decode_entry::<I>)
}

/// A scan of a collection or an index, with the rows as they are stored.
pub(crate) fn raw_scan(
    shared: &Arc<Shared>,
    collection: CollectionId,
    name: &'static str,
) -> Scan<Vec<u8>, (Vec<u8>, Vec<u8>)> {
    Scan::new(shared, Ok(collection), name, 0, None, None, |key, value| Ok((key.to_vec(), value.to_vec())))
}

impl<K: Key, R> Scan<K, R> {
    fn new(
        shared: &Arc<Shared>,
        collection: Result<CollectionId>,
        name: &'static str,
        partition: usize,
        view: Option<Seq>,
        pin: Option<Arc<Pin>>,
        decode: fn(&[u8], &[u8]) -> Result<R>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            collection,
            name,
            partition,
            view,
            pin,
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            direction: Direction::Forward,
            left: usize::MAX,
            only_shard: None,
            feeds: None,
            decode,
            key: PhantomData,
        }
    }

    /// A scan that fails with an error that is known before it begins.
    pub(crate) fn refused_by(mut self, check: Result<()>) -> Self {
        if let Err(error) = check {
            self.collection = Err(error);
        }
        self
    }

    /// Only keys that begin with these components.
    ///
    /// If they include the collection's partition, one shard is asked, not all.
    #[must_use]
    pub fn prefix<P: PrefixOf<K>>(mut self, prefix: &P) -> Self {
        let (start, end) = prefix_range(&prefix.to_bytes());
        self.start = Bound::Included(start);
        self.end = end.map_or(Bound::Unbounded, Bound::Excluded);
        if (1..=P::COMPONENTS).contains(&self.partition)
            && let Ok(collection) = self.collection
        {
            let partition = prefix.leading_bytes(self.partition);
            self.only_shard = Some(self.shared.placement.shard(collection, &partition));
        }
        self
    }

    /// Only keys whose encoding begins with these bytes. All shards are asked.
    #[must_use]
    pub fn prefix_bytes(mut self, prefix: &[u8]) -> Self {
        let (start, end) = prefix_range(prefix);
        self.start = Bound::Included(start);
        self.end = end.map_or(Bound::Unbounded, Bound::Excluded);
        self.only_shard = None;
        self
    }

    /// Only keys in this range. For an index, of the index's own keys.
    #[must_use]
    pub fn range(mut self, start: Bound<&K>, end: Bound<&K>) -> Self {
        // An entry of an index goes on after the index's key, so a bound speaks of a whole prefix.
        let above = |key: &K| prefix_range(&key.to_bytes()).1.map_or(Bound::Unbounded, Bound::Included);
        let below_next = |key: &K| prefix_range(&key.to_bytes()).1.map_or(Bound::Unbounded, Bound::Excluded);
        self.start = match start {
            Bound::Included(key) => Bound::Included(key.to_bytes()),
            Bound::Excluded(key) => above(key),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.end = match end {
            Bound::Included(key) => below_next(key),
            Bound::Excluded(key) => Bound::Excluded(key.to_bytes()),
            Bound::Unbounded => Bound::Unbounded,
        };
        self
    }

    /// From the last key to the first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most this many rows.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.left = rows;
        self
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// Whatever reading or decoding fails with.
    pub async fn next(&mut self) -> Result<Option<R>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some((key, value)) = self.next_raw().await? else { return Ok(None) };
        self.left -= 1;
        (self.decode)(&key, &value).map(Some)
    }

    /// As [`Scan::next`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn next_blocking(&mut self) -> Result<Option<R>> {
        op_engine_io::block_on(self.next())
    }

    /// As [`Scan::collect`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::collect`].
    pub fn collect_blocking(self) -> Result<Vec<R>> {
        op_engine_io::block_on(self.collect())
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// Whatever reading or decoding fails with.
    pub async fn collect(mut self) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    async fn next_raw(&mut self) -> Result<Option<(Vec<u8>, Value)>> {
        let collection = self.collection.clone()?;
        self.take_view().await?;
        if self.feeds.is_none() {
            require_complete(&self.shared, collection, self.view.unwrap_or_default()).await?;
        }
        self.fill(collection).await.map_err(|error| self.explain(error))?;
        let Some(feeds) = &mut self.feeds else { return Ok(None) };
        let heads = feeds.iter().enumerate().filter_map(|(at, (_, feed))| Some((at, &feed.rows.front()?.0)));
        let first = match self.direction {
            Direction::Forward => heads.min_by_key(|(_, key)| *key),
            Direction::Backward => heads.max_by_key(|(_, key)| *key),
        };
        let Some((at, _)) = first else { return Ok(None) };
        Ok(feeds.get_mut(at).and_then(|(_, feed)| feed.rows.pop_front()))
    }

    fn explain(&self, error: Error) -> Error {
        if !is_expired(&error) {
            return error;
        }
        let horizon = self.shared.chain(|chain| chain.reachable());
        Error::HistoryGone { collection: self.name.to_owned(), height: horizon, horizon }
    }

    /// Takes a view of the tip and holds it, unless the scan was given one.
    async fn take_view(&mut self) -> Result<()> {
        if self.view.is_some() {
            return Ok(());
        }
        let mut attempts = 0;
        let pin = loop {
            let view = self.shared.applied();
            match self.shared.pin(view).await {
                Ok(pin) => {
                    self.view = Some(view);
                    break pin;
                }
                Err(error) if is_expired(&error) && attempts < PINS_MAX => attempts += 1,
                Err(error) => return Err(error),
            }
        };
        self.pin = Some(Arc::new(pin));
        Ok(())
    }

    /// Gets a page from every shard whose rows have all been taken.
    async fn fill(&mut self, collection: CollectionId) -> Result<()> {
        let shards = match self.only_shard {
            Some(shard) => shard..shard + 1,
            None => 0..self.shared.shards.len(),
        };
        let mut feeds =
            self.feeds.take().unwrap_or_else(|| shards.map(|shard| (shard, Feed::default())).collect());
        let mut answers = Vec::new();
        for (at, (shard, feed)) in feeds.iter().enumerate() {
            if feed.ended || !feed.rows.is_empty() {
                continue;
            }
            let Some(sender) = self.shared.shards.get(*shard) else { continue };
            let (reply, answer) = reply();
            sender.send(Request::Scan(self.request(collection, feed, reply))).await?;
            answers.push((at, answer));
        }
        for (at, answer) in answers {
            let page = answer.await.map_err(|_| self.shared.gone())??;
            if let Some((_, feed)) = feeds.get_mut(at) {
                feed.last = page.rows.last().map(|(key, _)| key.clone());
                feed.ended = !page.more || feed.last.is_none();
                feed.rows = page.rows.into();
            }
        }
        self.feeds = Some(feeds);
        Ok(())
    }

    fn request(
        &self,
        collection: CollectionId,
        feed: &Feed,
        reply: op_engine_io::ReplySender<op_engine_shards::Result<op_engine_shards::message::ScanPage>>,
    ) -> ScanRequest {
        let (mut start, mut end) = (self.start.clone(), self.end.clone());
        if let Some(last) = &feed.last {
            match self.direction {
                Direction::Forward => start = Bound::Excluded(last.clone()),
                Direction::Backward => end = Bound::Excluded(last.clone()),
            }
        }
        ScanRequest {
            view: self.view.unwrap_or_default(),
            collection,
            range: KeyRange { start, end },
            direction: self.direction,
            rows_max: self.left.clamp(1, PAGE_ROWS),
            bytes_max: PAGE_BYTES,
            reply,
        }
    }
}
