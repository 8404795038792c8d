//! Ordered scans of one collection on one shard, a page of rows at a time.

use std::rc::Rc;

use op_engine_io::Env;

use crate::error::{Error, Result};
use crate::memtable::MemtableCursor;
use crate::merge::{MergeCursor, Pace, Source, Visible, VisibleRow};
use crate::message::{ScanPage, ScanRequest};
use crate::run::RunCursor;
use crate::segment::CursorOptions;
use crate::select::{Verdict, Wants};
use crate::visibility::Mask;

use super::Shard;

/// Bytes that a long scan reads from a segment at once.
const READ_AHEAD_BYTES: usize = 128 << 10;

impl<E: Env> Shard<E> {
    /// Answers with the next rows of a scan.
    pub(super) async fn scan(self: Rc<Self>, request: ScanRequest) {
        let page = self.scan_page(&request).await;
        if let Err(error) = &page {
            self.tiering.note_failed_read(error);
        }
        request.reply.send(page);
    }

    async fn scan_page(&self, request: &ScanRequest) -> Result<ScanPage> {
        let (mut cursor, mask) = self.cursor_for(request)?;
        let (mut page, mut row, mut pace) =
            (ScanPage::default(), VisibleRow::default(), Pace::new(&self.env));
        while let Some(visible) = cursor.visible_next(request.view, &mask, &mut row, &mut pace).await? {
            if visible == Visible::Shown {
                page.add(request, row.key(), row.value())?;
            }
            let is_full = page.rows.len() >= request.rows_max.max(1)
                || page.rows.bytes() >= request.bytes_max
                || pace.entries() >= request.select.entries_max
                || request.reply.is_abandoned();
            if is_full {
                page.more_after = Some(row.key().to_vec());
                break;
            }
        }
        page.entries = pace.entries();
        Ok(page)
    }

    fn cursor_for(&self, request: &ScanRequest) -> Result<(MergeCursor<E>, Rc<Mask>)> {
        let state = self.state.borrow();
        let spec = state.collection(request.collection)?;
        if !state.can_serve(request.view, spec.history) {
            return Err(Error::ViewExpired { view: request.view });
        }
        let mask = state.masks.get(spec.scope);
        let memtables = state.memtables().map(|memtable| {
            let range = request.range.clone();
            Source::from(MemtableCursor::new(
                Rc::clone(memtable),
                request.collection,
                range,
                request.direction,
            ))
        });
        let runs = state.runs_of(request.collection);
        let newest_first = runs.as_slice().iter().rev();
        let segments = newest_first.filter(|run| run.seqs().0 <= request.view).map(|run| {
            let options =
                CursorOptions { cache: Some(Rc::clone(&self.cache)), read_ahead_bytes: READ_AHEAD_BYTES };
            let (env, range) = (self.env.clone(), request.range.clone());
            let cursor = RunCursor::new(env, run.files(), range, request.direction, options);
            if request.goes_on { cursor.reading_ahead() } else { cursor }
        });
        let segments = segments.filter(|cursor| !cursor.is_empty()).map(Source::from);
        Ok((MergeCursor::new(memtables.chain(segments).collect(), request.direction), mask))
    }
}

impl ScanPage {
    fn add(&mut self, request: &ScanRequest, key: &[u8], value: &[u8]) -> Result<()> {
        match (request.select.judge(key, value)?, request.select.wants) {
            (Verdict::Skip, _) => {}
            (Verdict::Take(amount), Wants::Totals) => self.totals.add(amount),
            (Verdict::Take(_), Wants::Rows) | (Verdict::Unreadable, _) => self.rows.push(key, value),
        }
        Ok(())
    }
}
