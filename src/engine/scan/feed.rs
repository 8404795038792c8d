//! What one shard sends for a scan, a page at a time.

use op_engine_io::{Reply, reply};
use op_engine_shards::Seq;
use op_engine_shards::message::{
    Direction, KeyRange, Request, RowList, ScanPage, ScanRequest, Select, Totals,
};

use crate::engine::scan::query::Query;
use crate::engine::shared::Shared;
use crate::error::Result;

/// Rows asked of a shard at once at the beginning of a scan that may be short. Each page may have twice as many as the
/// one before.
const PAGE_ROWS_FIRST: usize = 256;
/// Rows asked of a shard at once.
const PAGE_ROWS_MAX: usize = 4096;
/// Bytes asked of a shard at once.
const PAGE_BYTES: usize = 1 << 20;
/// The next page is asked for before this one was taken, once a scan has gone on for so many pages.
const PAGES_BEFORE_READ_AHEAD: u32 = 2;

/// What is asked of every shard alike.
pub(super) struct Ask<'a> {
    pub(super) shared: &'a Shared,
    pub(super) query: &'a Query,
    pub(super) view: Seq,
    pub(super) select: Select,
    /// Rows that are still wanted.
    pub(super) left: usize,
}

/// The rows of one shard, as far as they have come.
pub(super) struct Feed {
    shard: usize,
    /// What is still to be asked for.
    range: KeyRange,
    rows: RowList,
    /// How many of the rows were taken.
    taken: usize,
    /// The last key that the shard has gone through, unless all of the range was.
    through: Option<Vec<u8>>,
    ended: bool,
    pages: u32,
    /// The page on its way.
    coming: Option<Reply<op_engine_shards::Result<ScanPage>>>,
    totals: Totals,
}

impl Feed {
    pub(super) fn new(shard: usize, range: KeyRange) -> Self {
        Self {
            shard,
            range,
            rows: RowList::default(),
            taken: 0,
            through: None,
            ended: false,
            pages: 0,
            coming: None,
            totals: Totals::default(),
        }
    }

    /// The next row.
    pub(super) fn head(&self) -> Option<(&[u8], &[u8])> {
        self.rows.get(self.taken)
    }

    /// Takes the next row.
    pub(super) fn take(&mut self) -> Option<(&[u8], &[u8])> {
        self.taken += 1;
        self.rows.get(self.taken - 1)
    }

    /// How many rows are there to be taken.
    pub(super) fn len(&self) -> usize {
        self.rows.len().saturating_sub(self.taken)
    }

    /// Whether no row will come any more, beside those that are there.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it has no row, but may get some.
    pub(super) fn is_dry(&self) -> bool {
        self.len() == 0 && !self.ended
    }

    /// The last key that was gone through, if it is dry.
    pub(super) fn dry_after(&self) -> Option<&[u8]> {
        self.through.as_deref()
    }

    /// What was counted since this was asked last.
    pub(super) fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// Asks for the next page, unless it is on its way.
    pub(super) async fn ask(&mut self, ask: &Ask<'_>) -> Result<()> {
        if self.coming.is_some() || self.ended {
            return Ok(());
        }
        let Some(shard) = ask.shared.shards.get(self.shard) else { return Ok(()) };
        let (request, coming) = self.request(ask);
        shard.send(request).await?;
        self.coming = Some(coming);
        Ok(())
    }

    /// Waits for the page that was asked for. Tells how many entries the shard went through for it.
    pub(super) async fn arrive(&mut self, ask: &Ask<'_>) -> Result<u64> {
        let Some(coming) = &mut self.coming else { return Ok(0) };
        let page = coming.await.map_err(|_| ask.shared.gone());
        self.coming = None;
        let page = page??;
        self.pages = self.pages.saturating_add(1);
        (self.rows, self.taken) = (page.rows, 0);
        self.totals += page.totals;
        self.ended = page.more_after.is_none();
        if let Some(key) = &page.more_after {
            self.range.go_on_after(key, ask.query.direction);
        }
        self.through = page.more_after;
        if self.pages >= PAGES_BEFORE_READ_AHEAD && self.len() < ask.left {
            self.ask_ahead(ask);
        }
        Ok(page.entries)
    }

    /// Asks for the next page, if the shard's mailbox has room.
    fn ask_ahead(&mut self, ask: &Ask<'_>) {
        if self.ended || ask.select.entries_max < Select::ENTRIES_MAX {
            return;
        }
        let Some(shard) = ask.shared.shards.get(self.shard) else { return };
        let (request, coming) = self.request(ask);
        if shard.try_send(request).is_ok() {
            self.coming = Some(coming);
        }
    }

    fn request(&self, ask: &Ask<'_>) -> (Request, Reply<op_engine_shards::Result<ScanPage>>) {
        let (reply, coming) = reply();
        let request = ScanRequest {
            view: ask.view,
            collection: ask.query.collection,
            range: self.range.clone(),
            direction: ask.query.direction,
            rows_max: self.page_rows(ask),
            bytes_max: PAGE_BYTES,
            goes_on: self.pages > 0,
            select: ask.select.clone(),
            reply,
        };
        (Request::Scan(request), coming)
    }

    fn page_rows(&self, ask: &Ask<'_>) -> usize {
        if ask.query.only_shard.is_some() && ask.left <= PAGE_ROWS_MAX {
            return ask.left.max(1);
        }
        let rows = PAGE_ROWS_FIRST.checked_shl(self.pages).unwrap_or(PAGE_ROWS_MAX);
        rows.min(PAGE_ROWS_MAX).min(ask.left).max(1)
    }
}

/// Whether a key comes before another one, or is the same, in the order of a scan.
pub(super) fn is_at_or_before(key: &[u8], other: &[u8], direction: Direction) -> bool {
    match direction {
        Direction::Forward => key <= other,
        Direction::Backward => key >= other,
    }
}
