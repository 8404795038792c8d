//! Scans of an index together with the records that its entries lead to.

use std::collections::VecDeque;

use op_engine_io::block_on;

use crate::collection::{Collection, Index, IndexRow};
use crate::engine::reader::{self, At};
use crate::engine::scan::{Page, Scan, Token, hex};
use crate::error::{Error, Result};

/// Records that are read with one call.
const RECORDS_AT_ONCE: usize = 256;

/// An entry of an index, and the record that it leads to.
pub type JoinedRow<I> = (IndexRow<I>, <<I as Index>::Of as Collection>::Value);

type RecordTest<I> = Box<dyn Fn(&IndexRow<I>, &<<I as Index>::Of as Collection>::Value) -> bool + Send>;

/// An entry that was scanned, by its stored key.
type Scanned<I> = (Vec<u8>, IndexRow<I>);

/// A scan of an index, each entry with its record. The records of many entries are read at once, from the state that
/// the entries are of.
pub struct Joined<I: Index> {
    scan: Scan<I::Key, IndexRow<I>, I>,
    tests: Vec<RecordTest<I>>,
    /// Rows that are still wanted, of those that pass.
    left: usize,
    /// Entries whose records have not been read yet.
    scanned: Vec<Scanned<I>>,
    joined: VecDeque<(Scanned<I>, <I::Of as Collection>::Value)>,
    /// The key of the last row that was given out, or that did not pass.
    position: Option<Vec<u8>>,
    has_ended: bool,
}

impl<I: Index> Scan<I::Key, IndexRow<I>, I> {
    /// Each entry with the record that it leads to.
    ///
    /// What narrows the scan must come before; a limit holds for the joined rows.
    #[must_use]
    pub fn with_records(self) -> Joined<I> {
        let left = self.left;
        let scan = self.with(|stream| stream.holds_view = true);
        let (scanned, joined) = (Vec::new(), VecDeque::new());
        Joined { scan, tests: Vec::new(), left, scanned, joined, position: None, has_ended: false }
    }
}

impl<I: Index> Joined<I> {
    /// Only rows whose record passes. The test runs on the caller's thread. The limit counts rows that pass.
    #[must_use]
    pub fn filter(
        mut self,
        test: impl Fn(&IndexRow<I>, &<I::Of as Collection>::Value) -> bool + Send + 'static,
    ) -> Self {
        self.tests.push(Box::new(test));
        self
    }

    /// The next entry and its record; `None` after the last. May be dropped and called again: no row is lost.
    ///
    /// # Errors
    /// As [`Scan::next`], and [`Error::Contradiction`] if there is no such record.
    pub async fn next(&mut self) -> Result<Option<JoinedRow<I>>> {
        while self.left > 0 {
            while let Some(((key, entry), record)) = self.joined.pop_front() {
                self.position = Some(key);
                if self.tests.iter().all(|test| test(&entry, &record)) {
                    self.left -= 1;
                    return Ok(Some((entry, record)));
                }
            }
            if self.has_ended {
                return Ok(None);
            }
            self.read_records().await?;
        }
        Ok(None)
    }

    /// Scans some entries and reads their records.
    async fn read_records(&mut self) -> Result<()> {
        // Without a test every entry is a row.
        let wanted = RECORDS_AT_ONCE.min(if self.tests.is_empty() { self.left } else { usize::MAX });
        self.scan.left =
            if self.tests.is_empty() { self.left.saturating_sub(self.scanned.len()) } else { usize::MAX };
        while self.scanned.len() < wanted {
            match self.scan.next_entry(<[u8]>::to_vec).await? {
                Some(scanned) => self.scanned.push(scanned),
                None => {
                    self.has_ended = true;
                    break;
                }
            }
        }
        let stream = self.scan.stream()?;
        let Some(seen) = stream.seen() else { return Ok(()) };
        let (shared, at) = (stream.shared().clone(), At::View(seen.view));
        let keys = self.scanned.iter().map(|(_, (_, key, _))| key);
        let records = reader::get_many::<I::Of>(&shared, at, keys).await?;
        for (scanned, record) in self.scanned.drain(..).zip(records) {
            let Some(record) = record else {
                return Err(Error::Contradiction {
                    collection: format!("{}.{}", I::Of::NAME, I::NAME),
                    key: hex(&scanned.0),
                    what: "the record that it leads to is not there".to_owned(),
                });
            };
            self.joined.push_back((scanned, record));
        }
        Ok(())
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// As [`Joined::next`].
    pub async fn collect(mut self) -> Result<Vec<JoinedRow<I>>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// As [`Scan::token`], after the last row that was taken.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        let stream = self.scan.stream.as_ref().ok()?;
        if self.joined.is_empty() && self.scanned.is_empty() {
            return stream.token();
        }
        // Entries have been scanned beyond.
        stream.token_after(self.position.as_deref().or(stream.began_after()))
    }

    /// The next rows, at most so many, and where the scan goes on.
    ///
    /// # Errors
    /// As [`Joined::next`].
    pub async fn page(mut self, rows: usize) -> Result<Page<JoinedRow<I>>> {
        self.left = self.left.min(rows);
        let left = self.left;
        self.scan.stream()?.begin(left).await?;
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(Page { rows, token: self.token() })
    }

    /// As [`Joined::next`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Joined::next`].
    pub fn next_blocking(&mut self) -> Result<Option<JoinedRow<I>>> {
        block_on(self.next())
    }

    /// As [`Joined::collect`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Joined::next`].
    pub fn collect_blocking(self) -> Result<Vec<JoinedRow<I>>> {
        block_on(self.collect())
    }

    /// As [`Joined::page`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Joined::next`].
    pub fn page_blocking(self, rows: usize) -> Result<Page<JoinedRow<I>>> {
        block_on(self.page(rows))
    }
}
