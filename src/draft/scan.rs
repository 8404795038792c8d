//! Ordered scans of an overlay: the rows of the state below, merged with what was changed.

use std::cmp::Ordering;
use std::ops::Bound;

use op_engine_shards::message::Direction;
use op_engine_shards::range::is_empty_range;

use super::index_entries::{IndexEntries, Laid};
use super::indexes::duplicate_key;
use super::overlay::Overlay;
use super::table::Table;
use crate::engine::{PrefixOf, Scan};
use crate::error::Result;
use crate::key::Key;

/// The two ends of a range of encoded keys.
pub(super) type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What of an overlay is scanned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// The position of the collection's table.
    pub(super) table: usize,
    /// The position of the index among the collection's, if it is an index.
    pub(super) index: Option<usize>,
}

/// The next row of the state below.
#[derive(Default)]
enum Head {
    #[default]
    NotTaken,
    Row(Vec<u8>, Vec<u8>),
    Ended,
}

/// An ordered scan of an overlay. The overlay cannot be changed before it ends.
pub struct OverlayScan<'a, K, R, I = ()> {
    overlay: &'a mut Overlay,
    below: Scan<K, R, I>,
    source: Result<Source>,
    left: usize,
    head: Head,
    /// The last key of the overlay's own that was come to.
    passed: Option<Vec<u8>>,
    /// Rows that may be wanted of the state below, once it has begun.
    expected: Option<usize>,
}

impl<'a, K: Key, R, I> OverlayScan<'a, K, R, I> {
    pub(super) fn new(overlay: &'a mut Overlay, below: Scan<K, R, I>, source: Result<Source>) -> Self {
        Self { overlay, below, source, left: usize::MAX, head: Head::NotTaken, passed: None, expected: None }
    }

    /// As [`Scan::prefix`].
    #[must_use]
    pub fn prefix<P: PrefixOf<K>>(mut self, prefix: &P) -> Self {
        self.below = self.below.prefix(prefix);
        self
    }

    /// As [`Scan::range`].
    #[must_use]
    pub fn range<P: PrefixOf<K>>(mut self, start: Bound<&P>, end: Bound<&P>) -> Self {
        self.below = self.below.range(start, end);
        self
    }

    /// From the last key to the first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.below = self.below.descending();
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
    /// As [`Scan::next`]; [`Error::DuplicateKey`](crate::Error::DuplicateKey) at a key of a unique index that leads to
    /// two records.
    pub async fn next(&mut self) -> Result<Option<R>> {
        if self.left == 0 {
            return Ok(None);
        }
        let source = self.source.clone()?;
        let expected = self.begin(source).await?;
        loop {
            if let Head::NotTaken = self.head {
                let row = self.below.next_stored(expected).await?;
                self.head = row.map_or(Head::Ended, |(key, value)| Head::Row(key, value));
            }
            match self.step(source)? {
                Step::Row(row) => {
                    self.left -= 1;
                    return Ok(Some(row));
                }
                Step::Hidden => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// As [`OverlayScan::next`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`OverlayScan::next`].
    pub fn next_blocking(&mut self) -> Result<Option<R>> {
        op_engine_io::block_on(self.next())
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// As [`OverlayScan::next`].
    pub async fn collect(mut self) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// As [`OverlayScan::collect`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`OverlayScan::next`].
    pub fn collect_blocking(self) -> Result<Vec<R>> {
        op_engine_io::block_on(self.collect())
    }

    /// Makes the changes ready to be gone through. Gives how many rows of the state below may be wanted.
    async fn begin(&mut self, source: Source) -> Result<usize> {
        if let Some(expected) = self.expected {
            return Ok(expected);
        }
        if let Some(index) = source.index {
            self.overlay.settle(source.table, index).await?;
        }
        // Every change may hide a row of the state below, no more.
        let changes = self.overlay.table_at_mut(source.table).map_or(0, |table| match source.index {
            Some(index) => table.entries.as_ref().map_or(0, |entries| entries.len(index)),
            None => table.ordered().len(),
        });
        Ok(*self.expected.insert(self.left.saturating_add(changes)))
    }

    /// Takes the next key of the two sides.
    fn step(&mut self, source: Source) -> Result<Step<R>> {
        let Some((range, direction)) = self.below.range_and_direction() else { return Ok(Step::End) };
        let own = self.overlay.table_at(source.table).and_then(|table| {
            let (start, end) = (range.start(), range.end());
            let bounds = match (direction, self.passed.as_deref()) {
                (_, None) => (start, end),
                (Direction::Forward, Some(passed)) => (Bound::Excluded(passed), end),
                (Direction::Backward, Some(passed)) => (start, Bound::Excluded(passed)),
            };
            next_change(table, source.index, bounds, direction)
        });
        let order = match (&self.head, own) {
            (Head::Row(below, _), Some((own, _))) => match direction {
                Direction::Forward => below.as_slice().cmp(own),
                Direction::Backward => own.cmp(below),
            },
            (Head::Row(..), None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
            (_, None) => return Ok(Step::End),
        };
        let (Some((key, laid)), Ordering::Equal | Ordering::Greater) = (own, order) else {
            let Head::Row(key, value) = std::mem::take(&mut self.head) else { return Ok(Step::End) };
            return self.below.decode(&key, &value).map(Step::Row);
        };
        let key = key.to_vec();
        if laid.rows + usize::from(order == Ordering::Equal && !laid.hides) > 1 {
            return Err(duplicate_key(self.overlay.name_of(source), &key));
        }
        let row = laid.row.map(|value| self.below.decode(&key, value)).transpose()?;
        if order == Ordering::Equal {
            self.head = Head::NotTaken;
        }
        self.passed = Some(key);
        Ok(row.map_or(Step::Hidden, Step::Row))
    }
}

enum Step<R> {
    Row(R),
    /// A key without a row.
    Hidden,
    End,
}

/// The first change between two bounds, from the end at which a scan begins.
fn next_change<'a>(
    table: &'a Table,
    index: Option<usize>,
    bounds: KeyBounds<'_>,
    direction: Direction,
) -> Option<(&'a [u8], Laid<'a>)> {
    if is_empty_range(bounds.0, bounds.1) {
        return None;
    }
    if let Some(index) = index {
        return table.entries.as_ref()?.next_in(index, bounds, direction);
    }
    let mut keys = table.ordered_keys()?.range::<[u8], _>(bounds);
    let key = match direction {
        Direction::Forward => keys.next(),
        Direction::Backward => keys.next_back(),
    }?;
    let row = table.get(key)?.own.value();
    Some((key, Laid { hides: true, rows: usize::from(row.is_some()), row }))
}

impl IndexEntries {
    fn next_in(
        &self,
        index: usize,
        bounds: KeyBounds<'_>,
        direction: Direction,
    ) -> Option<(&[u8], Laid<'_>)> {
        let mut claims = self.claims(index)?.range::<[u8], _>(bounds);
        let (key, claims) = match direction {
            Direction::Forward => claims.next(),
            Direction::Backward => claims.next_back(),
        }?;
        Some((key, claims.laid()))
    }
}
