//! Ordered scans of one collection on one shard, a page of rows at a time.

use std::rc::Rc;

use op_engine_io::Env;

use crate::error::{Error, Result};
use crate::memtable::MemtableCursor;
use crate::merge::{MergeCursor, Source};
use crate::message::{ScanPage, ScanRequest};
use crate::run::RunCursor;
use crate::segment::CursorOptions;

use super::Shard;

/// Bytes that a long scan reads from a segment at once.
const READ_AHEAD_BYTES: usize = 128 << 10;

impl<E: Env> Shard<E> {
    /// Answers with the next rows of a scan.
    pub(super) async fn scan(self: Rc<Self>, request: ScanRequest) {
        let page = self.scan_page(&request).await;
        request.reply.send(page);
    }

    async fn scan_page(&self, request: &ScanRequest) -> Result<ScanPage> {
        let (sources, mask) = {
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
            (memtables.chain(segments).collect::<Vec<_>>(), mask)
        };
        let mut cursor = MergeCursor::new(sources, request.direction);
        let mut page = ScanPage::default();
        let mut bytes = 0;
        while let Some((key, value)) = cursor.visible_next(request.view, &mask).await? {
            bytes += key.len() + value.len();
            page.rows.push((key, value));
            if page.rows.len() >= request.rows_max.max(1) || bytes >= request.bytes_max {
                page.more = true;
                break;
            }
        }
        Ok(page)
    }
}
