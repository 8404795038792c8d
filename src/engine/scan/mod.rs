//! Ordered scans over one shard or merged over all.
//!
//! [`Stream`] is a scan without types: rows as they are stored, merged from the feeds of all shards. [`Scan`] gives them
//! their types, [`Joined`] adds the records that entries of an index lead to.

mod feed;
mod filter;
mod joined;
mod query;
mod stream;
mod token;
mod totals;

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use op_engine_io::block_on;
use op_engine_shards::message::{Direction, KeyRange};
use op_engine_shards::{CollectionId, Seq};

use crate::collection::{Collection, Index, IndexRow, Scope, decode_entry};
use crate::engine::chain_window::Tip;
use crate::engine::reader::{PrefixOf, decode_value};
use crate::engine::shared::{Pin, Shared};
use crate::error::{Error, Result};
use crate::key::{Key, KeyReader};

use filter::{Decoders, Filter};
use query::Query;
use stream::{Origin, Resumed, Stream};
use token::Seen;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use token::{token_seeds, tokens};

pub use joined::{Joined, JoinedRow};
pub use op_engine_shards::message::Totals;
pub use token::{Token, TokenError};

/// A row of a collection scan.
pub type Row<C> = (<C as Collection>::Key, <C as Collection>::Value);

/// Some rows of a scan, and where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<R> {
    /// The rows, in the order of the scan.
    pub rows: Vec<R>,
    /// Where the scan goes on; `None` if it is known that no row follows.
    pub token: Option<Token>,
}

/// Which state a scan is of.
pub(crate) enum View {
    /// The tip, as it is when the scan begins.
    Tip,
    /// A snapshot's.
    Held { view: Seq, tip: Option<Tip>, pin: Option<Arc<Pin>> },
}

/// An ordered scan of the rows `R`, by the key `K`; `I` is the index, if it is of one.
///
/// Rows come one after another. Nothing is held but two pages from each shard, of which one may be on its way. A scan sees
/// one state from its first row to its last, whatever is committed meanwhile. What narrows it can be combined, and a row
/// must satisfy all of it; it must be said before the first row is taken.
///
/// # Going on later
/// [`Scan::token`] and [`Scan::page`] give a [`Token`]: bytes with which a scan of the same collection, range and
/// direction goes on after the last row, in another call, after a restart, for a user who has come back. Filter and limit
/// are not part of the query and may differ. See [`Scan::resume`] for the state in which it goes on.
///
/// ```
/// # use op_engine::{Block, BlockHash, Collection, Config, Engine, Height};
/// # struct Numbers;
/// # impl Collection for Numbers {
/// #     const NAME: &'static str = "numbers";
/// #     type Key = u32;
/// #     type Value = u64;
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open_blocking(Config::new(dir.path()).collection::<Numbers>())?;
/// # let mut block = Block::new(Height(1), BlockHash([1; 32]), BlockHash([0; 32]));
/// # for number in 0..100 {
/// #     block.put::<Numbers>(&number, &u64::from(number).pow(2));
/// # }
/// # engine.blocking().commit(block)?;
/// let odd = || engine.scan::<Numbers>().filter(|(_, square)| square % 2 == 1).descending();
/// let first = odd().page_blocking(2)?;
/// assert_eq!(first.rows, [(99, 9801), (97, 9409)]);
/// let token = first.token.ok_or("there is more")?;
/// let second = odd().resume(&token).page_blocking(2)?;
/// assert_eq!(second.rows, [(95, 9025), (93, 8649)]);
/// assert_eq!(odd().count_blocking()?, 50);
/// # engine.close_blocking()?;
/// # Ok(())
/// # }
/// ```
pub struct Scan<K, R, I = ()> {
    /// Or why it cannot begin.
    stream: Result<Stream>,
    name: &'static str,
    left: usize,
    filter: Filter,
    decode: Decoders<K, R>,
    index: PhantomData<fn() -> I>,
}

/// A scan of a collection.
pub(crate) fn record_scan<C: Collection>(shared: &Arc<Shared>, view: View) -> Scan<C::Key, Row<C>> {
    let registered = shared.registry.collection(TypeId::of::<C>(), C::NAME);
    let registered = registered.map(|registered| (registered.id, registered.scope));
    let decode = Decoders { key: decode_key::<C::Key>, row: decode_row::<C> };
    Scan::new(shared, registered, (C::NAME, C::PARTITION), view, decode)
}

fn decode_row<C: Collection>(key: &[u8], value: &[u8]) -> Result<Row<C>> {
    let key = C::Key::decode_exact(key).map_err(|why| Error::Key { collection: C::NAME.to_owned(), why })?;
    Ok((key, decode_value::<C>(value)?))
}

/// The key at the front of a stored key: in an index, that of the record follows.
fn decode_key<K: Key>(key: &[u8]) -> Option<K> {
    K::decode(&mut KeyReader::new(key)).ok()
}

/// A scan of an index.
pub(crate) fn index_scan<I: Index>(shared: &Arc<Shared>, view: View) -> Scan<I::Key, IndexRow<I>, I> {
    let registered = shared.registry.index(TypeId::of::<I>(), I::NAME);
    let registered = registered.map(|(id, of)| (id, of.scope));
    let decode = Decoders { key: decode_key::<I::Key>, row: decode_entry::<I> };
    Scan::new(shared, registered, (I::NAME, I::PARTITION), view, decode)
}

/// A scan of a collection or an index, with the rows as they are stored.
pub(crate) fn raw_scan(
    shared: &Arc<Shared>,
    registered: (CollectionId, Scope),
    name: &'static str,
) -> Scan<Vec<u8>, (Vec<u8>, Vec<u8>)> {
    let decode = Decoders {
        key: |key: &[u8]| Some(key.to_vec()),
        row: |key: &[u8], value: &[u8]| Ok((key.to_vec(), value.to_vec())),
    };
    Scan::new(shared, Ok(registered), (name, 0), View::Tip, decode)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<K: Key, R, I> Scan<K, R, I> {
    fn new(
        shared: &Arc<Shared>,
        registered: Result<(CollectionId, Scope)>,
        (name, partition): (&'static str, usize),
        view: View,
        decode: Decoders<K, R>,
    ) -> Self {
        let origin = match view {
            View::Tip => Origin::Tip,
            View::Held { view, tip, pin } => {
                Origin::Snapshot(Seen { view, block: tip.map(|tip| (tip.height, tip.seq)) }, pin)
            }
        };
        let stream = registered.map(|(collection, scope)| {
            let query = Query::all(collection, partition, shared.placement);
            Stream::new(shared, name, scope, query, origin)
        });
        Self { stream, name, left: usize::MAX, filter: Filter::default(), decode, index: PhantomData }
    }

    /// A scan that fails with an error that is known before it begins.
    pub(crate) fn refused_by(mut self, check: Result<()>) -> Self {
        if let Err(error) = check {
            self.stream = Err(error);
        }
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Stream)) -> Self {
        if let Ok(stream) = &mut self.stream {
            change(stream);
        }
        self
    }

    /// Only keys that begin with these components.
    ///
    /// If they include the collection's partition, one shard is asked, not all.
    #[must_use]
    pub fn prefix<P: PrefixOf<K>>(self, prefix: &P) -> Self {
        self.with(|stream| stream.query.narrow_to_prefix::<K, P>(prefix))
    }

    /// Only keys whose encoding begins with these bytes.
    #[must_use]
    pub fn prefix_bytes(self, prefix: &[u8]) -> Self {
        self.with(|stream| stream.query.narrow_to_bytes(prefix))
    }

    /// Only keys in this range. For an index, of the index's own keys. The bounds may be leading components only, and
    /// then speak of every key that begins with them.
    ///
    /// If both have the same partition, one shard is asked, not all.
    #[must_use]
    pub fn range<P: PrefixOf<K>>(self, start: Bound<&P>, end: Bound<&P>) -> Self {
        self.with(|stream| stream.query.narrow_to_range::<K, P>(start, end))
    }

    /// From the last key to the first.
    #[must_use]
    pub fn descending(self) -> Self {
        self.with(|stream| stream.query.direction = Direction::Backward)
    }

    /// At most this many rows, of those that pass every filter.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.left = rows;
        self
    }

    /// Only rows whose key passes. Values need not be decoded for that. For an index, it is the index's own key.
    ///
    /// The test runs where the rows are, on threads of the engine: it should be quick, and must not call the engine or
    /// wait for anything. If it panics, the scan fails with [`Error::FilterPanicked`] and nothing else does. It is asked about rows that the scan may not come to, and its order of calls means nothing.
    #[must_use]
    pub fn filter_key(mut self, test: impl Fn(&K) -> bool + Send + Sync + 'static) -> Self
    where
        K: 'static,
        R: 'static,
    {
        self.filter.test_key(self.decode, test);
        self
    }

    /// Only rows that pass. They have passed [`Scan::filter_key`] before, and the same holds for this test.
    #[must_use]
    pub fn filter(mut self, test: impl Fn(&R) -> bool + Send + Sync + 'static) -> Self
    where
        K: 'static,
        R: 'static,
    {
        self.filter.test_row(self.decode, test);
        self
    }

    /// Goes through about so many stored entries at most, those that no filter lets pass, that were removed or are
    /// versions of another time too. Then the scan ends, however few rows there were, and [`Scan::token`] tells where it
    /// goes on: for those who must not wait until a filter finds something. At least one entry of each shard is gone
    /// through, so that every such scan comes further than the one before. [`Scan::count`] and [`Scan::sum`] are not ended by it.
    #[must_use]
    pub fn effort(self, entries: u64) -> Self {
        self.with(|stream| stream.entries_left = entries)
    }

    /// Goes on after the last row of the scan that gave the token. Collection, range and direction must be the same.
    ///
    /// - On a snapshot the scan goes on in the state in which it began: a snapshot of another state is refused, so that
    ///   all rows together are those of one state. [`Engine::at`](crate::Engine::at) with the same height gives the same
    ///   state again, unless the block has been reorganised away.
    /// - On the tip it goes on in whatever state the tip has now. Rows before the token that came or went meanwhile are
    ///   missed. If the newest block that the scan has seen is not in the chain any more, it is refused, since rows that
    ///   were given out may have been undone. That is not checked for a `Global` collection, which no reorg changes, and
    ///   a reorg to the very tip, which only empties `Cleared` collections, is not noticed.
    ///
    /// The first call for a row fails with [`Error::Token`] if it is refused.
    #[must_use]
    pub fn resume(self, token: &Token) -> Self {
        self.with(|stream| stream.resume = Some((token.clone(), Resumed::InState)))
    }

    /// As [`Scan::resume`], in whatever state the engine or the snapshot shows, also after a reorg.
    #[must_use]
    pub fn resume_anyhow(self, token: &Token) -> Self {
        self.with(|stream| stream.resume = Some((token.clone(), Resumed::Anyhow)))
    }

    /// The next row; `None` after the last. May be dropped and called again: no row is lost.
    ///
    /// # Errors
    /// Whatever reading or decoding fails with, and [`Error::Token`].
    pub async fn next(&mut self) -> Result<Option<R>> {
        Ok(self.next_entry(|_| ()).await?.map(|((), row)| row))
    }

    /// The next row as it is stored, of at most `left` that will be wanted. An overlay merges them with its own.
    pub(crate) async fn next_stored(&mut self, left: usize) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let row = self.stream()?.next(left).await?;
        Ok(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    /// A row of what is stored.
    pub(crate) fn decode(&self, key: &[u8], value: &[u8]) -> Result<R> {
        (self.decode.row)(key, value)
    }

    /// The keys that are scanned, and the order; `None` if the scan cannot begin.
    pub(crate) fn range_and_direction(&self) -> Option<(&KeyRange, Direction)> {
        let query = &self.stream.as_ref().ok()?.query;
        Some((&query.range, query.direction))
    }

    /// The next row, and what is made of its stored key.
    async fn next_entry<T>(&mut self, of_key: impl FnOnce(&[u8]) -> T) -> Result<Option<(T, R)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let (left, decode) = (self.left, self.decode.row);
        let Some((key, value)) = self.stream()?.next(left).await? else { return Ok(None) };
        let (of_key, row) = (of_key(key), decode(key, value));
        self.left -= 1;
        Ok(Some((of_key, row?)))
    }

    /// The stream with its filter.
    fn stream(&mut self) -> Result<&mut Stream> {
        let stream = self.stream.as_mut().map_err(|error| error.clone())?;
        if let Some(test) = std::mem::take(&mut self.filter).into_test() {
            stream.select.test = Some(test);
        }
        Ok(stream)
    }

    /// As [`Scan::next`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn next_blocking(&mut self) -> Result<Option<R>> {
        block_on(self.next())
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn collect(mut self) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// As [`Scan::collect`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn collect_blocking(self) -> Result<Vec<R>> {
        block_on(self.collect())
    }

    /// Where a scan goes on after the last row that was taken, or after what it has gone through without finding one.
    /// `None` if it is known that no row follows, and before the first call for a row.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.stream.as_ref().ok()?.token()
    }

    /// The next rows, at most so many, and where the scan goes on. What follows the last row may turn out to be nothing.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn page(self, rows: usize) -> Result<Page<R>> {
        let left = self.left.min(rows);
        let mut scan = self.limit(left);
        scan.stream()?.begin(left).await?;
        let mut rows = Vec::new();
        while let Some(row) = scan.next().await? {
            rows.push(row);
        }
        Ok(Page { rows, token: scan.token() })
    }

    /// As [`Scan::page`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn page_blocking(self, rows: usize) -> Result<Page<R>> {
        block_on(self.page(rows))
    }
}
