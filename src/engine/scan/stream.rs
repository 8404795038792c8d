//! The rows of a scan as they are stored, merged from all shards that are asked.

use std::sync::Arc;

use op_engine_shards::message::{KeyRange, Select, Totals, Wants};
use op_engine_shards::visibility::Scope;
use op_engine_shards::{Error as StorageError, Height, Seq};

use crate::engine::index_state::require_complete;
use crate::engine::reader::is_expired;
use crate::engine::scan::feed::{Ask, Feed, is_at_or_before};
use crate::engine::scan::query::Query;
use crate::engine::scan::token::{Place, Seen, Token, TokenError};
use crate::engine::shared::{Pin, Shared};
use crate::engine::system;
use crate::error::{Error, Result};

/// Attempts to take a view of the tip before giving up.
const PINS_MAX: usize = 64;

/// Which state a scan shows.
#[derive(Clone)]
pub(super) enum Origin {
    /// The tip, as it is when the scan begins.
    Tip,
    /// That of a snapshot.
    Snapshot(Seen, Option<Arc<Pin>>),
}

/// In which state a scan may go on from a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumed {
    /// In the one that a snapshot shows; on the tip in any that follows.
    InState,
    /// In any.
    Anyhow,
}

/// A scan that has begun.
struct Begun {
    seen: Seen,
    /// The key of the token.
    after: Option<Vec<u8>>,
    /// Keeps the view readable.
    pin: Option<Arc<Pin>>,
    feeds: Vec<Feed>,
}

/// What comes next.
enum Next {
    /// A row of this feed.
    Row(usize),
    /// More must come first.
    Wait,
    End,
}

/// The rows of a scan as they are stored.
pub(super) struct Stream {
    shared: Arc<Shared>,
    name: &'static str,
    scope: Scope,
    pub(super) query: Query,
    pub(super) select: Select,
    pub(super) resume: Option<(Token, Resumed)>,
    /// Entries that may still be gone through.
    pub(super) entries_left: u64,
    /// The view must outlive the rows, since their records are read afterwards.
    pub(super) holds_view: bool,
    origin: Origin,
    begun: Option<Begun>,
    /// The last key that was given out or passed over.
    position: Option<Vec<u8>>,
    /// It has ended before the end, because it may go through no more entries.
    has_stopped: bool,
}

impl Stream {
    pub(super) fn new(
        shared: &Arc<Shared>,
        name: &'static str,
        scope: Scope,
        query: Query,
        origin: Origin,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            name,
            scope,
            query,
            select: Select::all(),
            resume: None,
            entries_left: u64::MAX,
            holds_view: false,
            origin,
            begun: None,
            position: None,
            has_stopped: false,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The state that it shows, once it has begun.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.begun.as_ref().map(|begun| begun.seen)
    }

    /// The next row; `None` after the last one. At most `left` rows will be wanted, this one included.
    pub(super) async fn next(&mut self, left: usize) -> Result<Option<(&[u8], &[u8])>> {
        self.begin(left).await?;
        let at = loop {
            match self.choose() {
                Next::Row(at) => break at,
                Next::End => return Ok(None),
                Next::Wait if self.entries_left == 0 => {
                    self.stop();
                    return Ok(None);
                }
                Next::Wait => self.fill(left).await?,
            }
        };
        let row = self.begun.as_mut().and_then(|begun| begun.feeds.get_mut(at)?.take());
        if let Some((key, _)) = row {
            let position = self.position.get_or_insert_default();
            position.clear();
            position.extend_from_slice(key);
        }
        Ok(row)
    }

    /// How many rows there are, and the sum of what the test takes from them, counted by the shards. A row that cannot
    /// be read is given to `unreadable`. It ends early when so many rows are `enough`.
    pub(super) async fn totals(
        mut self,
        enough: u64,
        unreadable: impl FnOnce(&[u8], &[u8]) -> Error,
    ) -> Result<Totals> {
        self.select.wants = Wants::Totals;
        self.entries_left = u64::MAX;
        let mut totals = Totals::default();
        self.begin(usize::MAX).await?;
        loop {
            for feed in self.begun.iter_mut().flat_map(|begun| &mut begun.feeds) {
                if let Some((key, value)) = feed.head() {
                    return Err(unreadable(key, value));
                }
                totals += feed.take_totals();
            }
            if totals.rows >= enough || matches!(self.choose(), Next::End) {
                return Ok(totals);
            }
            self.fill(usize::MAX).await?;
        }
    }

    /// The key after which it began.
    pub(super) fn began_after(&self) -> Option<&[u8]> {
        self.begun.as_ref()?.after.as_deref()
    }

    /// Where it goes on after what was given out. `None` if it has ended, or has not begun.
    pub(super) fn token(&self) -> Option<Token> {
        let begun = self.begun.as_ref()?;
        let is_over = !self.has_stopped && begun.feeds.iter().all(|feed| feed.has_ended() && feed.len() == 0);
        if is_over { None } else { self.token_after(self.position.as_deref()) }
    }

    /// Where it goes on after a key. `None` if it has not begun.
    pub(super) fn token_after(&self, key: Option<&[u8]>) -> Option<Token> {
        let place = Place {
            collection: self.query.collection,
            fingerprint: self.query.fingerprint(),
            seen: self.seen()?,
            after: key.map(<[u8]>::to_vec),
        };
        Some(place.seal(&self.shared.placement))
    }

    /// Takes a view and the first page of every shard.
    pub(super) async fn begin(&mut self, left: usize) -> Result<()> {
        if self.begun.is_some() {
            return Ok(());
        }
        let place = self.place()?;
        let mut range = self.query.range.clone();
        if let Some(after) = place.as_ref().and_then(|place| place.after.as_deref()) {
            range.go_on_after(after, self.query.direction);
        }
        let mut attempts = 0;
        let (begun, entries) = loop {
            match self.try_begin(left, &range, place.as_ref()).await {
                Err(error)
                    if is_expired(&error) && matches!(self.origin, Origin::Tip) && attempts < PINS_MAX =>
                {
                    attempts += 1;
                }
                begun => break begun.map_err(|error| self.explain(error))?,
            }
        };
        self.entries_left = self.entries_left.saturating_sub(entries);
        let after = place.and_then(|place| place.after);
        self.position.clone_from(&after);
        self.begun = Some(Begun { after, ..begun });
        Ok(())
    }

    async fn try_begin(&self, left: usize, range: &KeyRange, place: Option<&Place>) -> Result<(Begun, u64)> {
        let seen = self.look(place).await?;
        require_complete(&self.shared, self.query.collection, seen.view).await?;
        let shards = match self.query.only_shard {
            _ if range.is_empty() => 0..0,
            Some(shard) => shard..shard + 1,
            None => 0..self.shared.shards.len(),
        };
        let mut feeds: Vec<Feed> = shards.map(|shard| Feed::new(shard, range.clone())).collect();
        let select = share(&self.select, self.entries_left, feeds.len());
        let ask = Ask { shared: &self.shared, query: &self.query, view: seen.view, select, left };
        let entries = fill(&mut feeds, &ask).await?;
        // The view need not be kept if nobody will look at it again.
        let is_over =
            self.entries_left <= entries || feeds.iter().all(|feed| feed.has_ended() || feed.len() >= left);
        let pin = match &self.origin {
            Origin::Snapshot(_, pin) => pin.clone(),
            Origin::Tip if is_over && !self.holds_view => None,
            Origin::Tip => Some(Arc::new(self.shared.pin(seen.view).await?)),
        };
        Ok((Begun { seen, after: None, pin, feeds }, entries))
    }

    /// Gets a page from every shard whose rows have all been taken.
    async fn fill(&mut self, left: usize) -> Result<()> {
        let Some(begun) = &mut self.begun else { return Ok(()) };
        if begun.pin.is_none() && matches!(self.origin, Origin::Tip) {
            // Fewer rows were wanted when it began.
            let pinned = self.shared.pin(begun.seen.view).await;
            begun.pin = match pinned {
                Ok(pin) => Some(Arc::new(pin)),
                Err(error) => return Err(self.explain(error)),
            };
        }
        let select = share(&self.select, self.entries_left, begun.feeds.len());
        let ask = Ask { shared: &self.shared, query: &self.query, view: begun.seen.view, select, left };
        let filled = fill(&mut begun.feeds, &ask).await;
        let entries = filled.map_err(|error| self.explain(error))?;
        self.entries_left = self.entries_left.saturating_sub(entries);
        Ok(())
    }

    /// What comes next. A row is given out when no shard can have one before it.
    fn choose(&self) -> Next {
        let Some(begun) = self.begun.as_ref().filter(|_| !self.has_stopped) else { return Next::End };
        let direction = self.query.direction;
        let mut first: Option<(usize, &[u8])> = None;
        for (at, feed) in begun.feeds.iter().enumerate() {
            if let Some((key, _)) = feed.head()
                && first.is_none_or(|(_, first)| is_at_or_before(key, first, direction))
            {
                first = Some((at, key));
            }
        }
        let mut dry = begun.feeds.iter().filter(|feed| feed.is_dry());
        match first {
            None if dry.next().is_none() => Next::End,
            None => Next::Wait,
            Some((at, key)) => {
                let is_behind = |feed: &Feed| {
                    feed.dry_after().is_some_and(|through| is_at_or_before(key, through, direction))
                };
                if dry.all(is_behind) { Next::Row(at) } else { Next::Wait }
            }
        }
    }

    /// Ends before the end: at the first key that some shard has not gone through.
    fn stop(&mut self) {
        self.has_stopped = true;
        let Some(begun) = &self.begun else { return };
        let direction = self.query.direction;
        let mut dry = begun.feeds.iter().filter(|feed| feed.is_dry()).map(Feed::dry_after);
        let first = dry.try_fold(None, |first: Option<&[u8]>, through| {
            let through = through?;
            let is_first = first.is_none_or(|first| is_at_or_before(through, first, direction));
            Some(if is_first { Some(through) } else { first })
        });
        let Some(Some(through)) = first else { return };
        let is_further =
            self.position.as_ref().is_none_or(|position| is_at_or_before(position, through, direction));
        if is_further {
            self.position = Some(through.to_vec());
        }
    }

    /// What the token says, if it is one of this query.
    fn place(&self) -> Result<Option<Place>> {
        let Some((token, _)) = &self.resume else { return Ok(None) };
        let place = token.open(&self.shared.placement)?;
        if place.collection != self.query.collection {
            return Err(TokenError::OtherCollection.into());
        }
        if place.fingerprint != self.query.fingerprint() {
            return Err(TokenError::OtherQuery.into());
        }
        if place.after.as_ref().is_some_and(|key| !self.query.range.contains(key)) {
            return Err(TokenError::Damaged.into());
        }
        Ok(Some(place))
    }

    /// The state to show, if the scan may go on in it.
    async fn look(&self, place: Option<&Place>) -> Result<Seen> {
        let anyhow = matches!(self.resume, Some((_, Resumed::Anyhow)));
        let place = place.filter(|_| !anyhow);
        let block = match &self.origin {
            Origin::Snapshot(seen, _) => {
                return match place {
                    Some(place) if place.seen.view != seen.view => {
                        Err(TokenError::OtherState { scanned: place.seen.view, shown: seen.view }.into())
                    }
                    _ => Ok(*seen),
                };
            }
            Origin::Tip => place.and_then(|place| place.seen.block).filter(|_| self.scope != Scope::Global),
        };
        let (seen, tip, at_height) = self.shared.chain(|chain| {
            let tip = chain.tip().map(|tip| (tip.height, tip.seq));
            let seen = Seen { view: self.shared.applied(), block: tip };
            (seen, tip, block.and_then(|(height, _)| chain.at(height)))
        });
        let Some((height, seq)) = block else { return Ok(seen) };
        let is_there = match at_height {
            Some(block) => block.seq == seq,
            None if tip.is_none_or(|(tip, _)| tip < height) => false,
            None => self.is_below_window(seen, height, seq).await?,
        };
        if is_there { Ok(seen) } else { Err(TokenError::Reorganised { height }.into()) }
    }

    /// Whether a block is in the part of the chain that no reorg can reach.
    async fn is_below_window(&self, seen: Seen, height: Height, seq: Seq) -> Result<bool> {
        let block = system::block_at(&self.shared, seen.view, height).await?;
        Ok(block.is_some_and(|block| block.seq == seq))
    }

    fn explain(&self, error: Error) -> Error {
        if let Error::Storage(StorageError::RowTestPanicked { message }) = error {
            return Error::FilterPanicked { message };
        }
        if !is_expired(&error) {
            return error;
        }
        let horizon = self.shared.chain(|chain| chain.reachable());
        Error::HistoryGone { collection: self.name.to_owned(), height: horizon, horizon }
    }
}

/// What is asked of each shard, so that they do not go through more entries together than they may.
fn share(select: &Select, entries_left: u64, feeds: usize) -> Select {
    let part = entries_left / op_engine_io::num::to_u64(feeds.max(1));
    Select { entries_max: part.clamp(1, select.entries_max), ..select.clone() }
}

/// Gets a page for every dry feed. All shards work at the same time. Tells how many entries they went through.
async fn fill(feeds: &mut [Feed], ask: &Ask<'_>) -> Result<u64> {
    for feed in feeds.iter_mut().filter(|feed| feed.is_dry()) {
        feed.ask(ask).await?;
    }
    let mut entries = 0u64;
    for feed in feeds.iter_mut().filter(|feed| feed.is_dry()) {
        entries = entries.saturating_add(feed.arrive(ask).await?);
    }
    Ok(entries)
}
