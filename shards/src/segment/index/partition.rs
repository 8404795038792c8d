//! Searches a partition of the page index where it lies.

use std::cmp::Ordering;

use op_engine_io::num::{to_u64, to_usize};

use super::{Bound, HEAD_BYTES, PageNo, PagePlace, RUN_PAGES, Span};
use crate::bytes::{ByteReader, Malformed};
use crate::ids::Seq;
use crate::ops::KEY_BYTES_MAX;
use crate::segment::format::{from_u32, to_u32};
use crate::segment::page::common_prefix;

/// A partition in memory, verified.
#[derive(Debug)]
pub struct IndexPartition {
    bytes: Box<[u8]>,
    span: Span,
    start_bytes: usize,
    /// Where its parts begin.
    runs_at: usize,
    bounds_at: usize,
    /// The first page after the partition goes on with its last key.
    next_goes_on: bool,
}

/// A bound where it lies.
struct BoundEntry<'a> {
    shared: usize,
    rest: &'a [u8],
    below: Option<Seq>,
}

impl IndexPartition {
    /// Takes the bytes of a partition whose checksum holds. The directory tells what pages it has, where the first of
    /// them begins, and where the first one after them does.
    ///
    /// # Errors
    /// [`Malformed`] if they are not what the writer of the index writes.
    pub fn decode(
        bytes: &[u8],
        span: Span,
        lower: Bound<'_>,
        upper: Option<Bound<'_>>,
    ) -> Result<Self, Malformed> {
        let start_bytes = match bytes.first() {
            Some(code @ (0 | 2 | 4)) => usize::from(*code),
            _ => return Err(Malformed("the places of pages have an unknown length")),
        };
        let next_goes_on = upper.is_some_and(|upper| upper.below.is_some());
        let pages = from_u32(span.pages);
        let runs_at = HEAD_BYTES + pages * (4 + start_bytes);
        let bounds_at = runs_at + pages.div_ceil(RUN_PAGES) * 2;
        if bounds_at > bytes.len() || pages == 0 {
            return Err(Malformed("the number of pages of a page index is impossible"));
        }
        let bytes = Box::from(bytes);
        let partition = Self { bytes, span, start_bytes, runs_at, bounds_at, next_goes_on };
        partition.check_starts()?;
        partition.check_bounds(lower, upper)?;
        Ok(partition)
    }

    fn check_starts(&self) -> Result<(), Malformed> {
        let Span { pages, units, .. } = self.span;
        let right = if self.start_bytes == 0 {
            units > 0 && units.is_multiple_of(pages)
        } else {
            self.start(0) == 0 && (0..from_u32(pages)).all(|page| self.start(page) < self.start(page + 1))
        };
        if right { Ok(()) } else { Err(Malformed("the places of pages are impossible")) }
    }

    /// Checks that bounds ascend, between those that the directory has, and that each shares with the one before what it
    /// says, which the search relies on.
    fn check_bounds(&self, lower: Bound<'_>, upper: Option<Bound<'_>>) -> Result<(), Malformed> {
        let all = self.bytes.get(self.bounds_at..).unwrap_or_default();
        let mut input = ByteReader::new(all);
        let (mut last, mut key) = ((lower.key.to_vec(), lower.below), Vec::new());
        for page in 0..from_u32(self.span.pages) {
            let starts_run = page.is_multiple_of(RUN_PAGES);
            if starts_run && self.run_start(page / RUN_PAGES) != all.len() - input.rest().len() {
                return Err(Malformed("a run of bounds begins elsewhere"));
            }
            let entry = next_bound(&mut input)?;
            let is_whole = starts_run && entry.shared == 0;
            if !is_whole && (starts_run || entry.shared > key.len()) {
                return Err(Malformed("a bound shares more bytes than the bound before it has"));
            }
            if !starts_run && key.get(entry.shared).is_some_and(|next| entry.rest.first() == Some(next)) {
                return Err(Malformed("a bound shares more bytes than it says"));
            }
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            if page == 0 {
                if !key.is_empty() || entry.below.is_some() {
                    return Err(Malformed("the first bound is not empty"));
                }
                continue;
            }
            let bound = Bound { key: &key, below: entry.below };
            if !(Bound { key: &last.0, below: last.1 }).is_before(bound) || key.len() > KEY_BYTES_MAX {
                return Err(Malformed("the bounds of the pages do not ascend"));
            }
            last.0.clone_from(&key);
            last.1 = entry.below;
        }
        if upper.is_some_and(|upper| !(Bound { key: &last.0, below: last.1 }).is_before(upper)) {
            return Err(Malformed("the bounds of the pages go on beyond the next partition's"));
        }
        input.finish()
    }

    /// The bound of every page, put together without the search; that of the first one is empty.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::segment) fn bounds(&self) -> Vec<(Vec<u8>, Option<Seq>)> {
        let mut input = ByteReader::new(self.bytes.get(self.bounds_at..).unwrap_or_default());
        let mut bounds: Vec<(Vec<u8>, Option<Seq>)> = Vec::new();
        while let Ok(entry) = next_bound(&mut input) {
            let shared = bounds.last().and_then(|(last, _)| last.get(..entry.shared)).unwrap_or_default();
            bounds.push(([shared, entry.rest].concat(), entry.below));
        }
        bounds
    }

    /// The memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }

    /// The page in which the first entry at or after (`key`, `seq`) is, if any is.
    #[must_use]
    pub fn locate(&self, key: &[u8], seq: Seq) -> PagePlace {
        let run = self.run_before(key, seq);
        let mut input = self.bounds_of(run);
        let first = next_bound(&mut input).map(|first| first.rest);
        let mut matched = first.map_or(0, |first| common_prefix(first, key));
        let mut page = run * RUN_PAGES;
        let end = from_u32(self.span.pages).min(page + RUN_PAGES);
        while page + 1 < end {
            let Ok(next) = next_bound(&mut input) else { break };
            if !is_reached(&next, key, seq, &mut matched) {
                return self.place(page, next.below.is_some());
            }
            page += 1;
        }
        self.place(page, self.goes_on(page, &mut input))
    }

    /// A page by its number; `None` if it is in another partition.
    #[must_use]
    pub fn page(&self, number: PageNo) -> Option<PagePlace> {
        let page = from_u32(number.0.checked_sub(self.span.first)?);
        if page >= from_u32(self.span.pages) {
            return None;
        }
        let run = page / RUN_PAGES;
        let mut input = self.bounds_of(run);
        for _ in run * RUN_PAGES..=page {
            next_bound(&mut input).ok()?;
        }
        Some(self.place(page, self.goes_on(page, &mut input)))
    }

    /// The pages from `first` on that fit into `units_max` together, at least one: how many, and how long they are in
    /// units.
    pub(in crate::segment) fn stretch(&self, first: PageNo, units_max: u32) -> (u32, u32) {
        let Some(from) = first.0.checked_sub(self.span.first).filter(|from| *from < self.span.pages) else {
            return (0, 0);
        };
        let start = self.start(from_u32(from));
        let units_to = |page: u32| self.start(from_u32(page)).saturating_sub(start);
        let mut end = from + 1;
        while end < self.span.pages && units_to(end + 1) <= units_max {
            end += 1;
        }
        (end - from, units_to(end))
    }

    /// The first page of a stretch of at most `units_max` that ends with `last`.
    pub(in crate::segment) fn first_of_stretch(&self, last: PageNo, units_max: u32) -> PageNo {
        let mut first = last;
        while let Some(before) = first.0.checked_sub(1).filter(|before| *before >= self.span.first) {
            let (count, _) = self.stretch(PageNo(before), units_max);
            if before + count <= last.0 {
                break;
            }
            first = PageNo(before);
        }
        first
    }

    /// Whether the page after goes on with this one's last key, from the bound that follows.
    fn goes_on(&self, page: usize, input: &mut ByteReader<'_>) -> bool {
        if page + 1 == from_u32(self.span.pages) {
            self.next_goes_on
        } else {
            next_bound(input).is_ok_and(|next| next.below.is_some())
        }
    }

    fn place(&self, page: usize, goes_on: bool) -> PagePlace {
        let (start, end) = (self.start(page), self.start(page + 1));
        PagePlace {
            number: PageNo(self.span.first + to_u32(page)),
            goes_on,
            start: self.span.start + start,
            units: end.saturating_sub(start),
            crc: self.number_at(HEAD_BYTES + page * 4, 4),
        }
    }

    /// Where a page begins, in I/O units from the first of the partition; for the page after the last its end.
    fn start(&self, page: usize) -> u32 {
        let Span { pages, units, .. } = self.span;
        if page >= from_u32(pages) {
            units
        } else if self.start_bytes == 0 {
            units / pages.max(1) * to_u32(page)
        } else {
            self.number_at(HEAD_BYTES + from_u32(pages) * 4 + page * self.start_bytes, self.start_bytes)
        }
    }

    fn run_start(&self, run: usize) -> usize {
        from_u32(self.number_at(self.runs_at + run * 2, 2))
    }

    /// A number of 2 or 4 bytes. All that are asked for were there when the partition was checked.
    fn number_at(&self, at: usize, bytes: usize) -> u32 {
        let rest = self.bytes.get(at..).unwrap_or_default();
        if bytes == 2 {
            rest.first_chunk().map_or(0, |bytes| u32::from(u16::from_le_bytes(*bytes)))
        } else {
            rest.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
        }
    }

    fn bounds_of(&self, run: usize) -> ByteReader<'_> {
        ByteReader::new(self.bytes.get(self.bounds_at + self.run_start(run)..).unwrap_or_default())
    }

    /// The last run whose first bound is reached, or the first run.
    fn run_before(&self, key: &[u8], seq: Seq) -> usize {
        let (mut low, mut high) = (0, from_u32(self.span.pages).div_ceil(RUN_PAGES));
        while high - low > 1 {
            let middle = low.midpoint(high);
            let is_reached = next_bound(&mut self.bounds_of(middle)).is_ok_and(|bound| {
                let bound = Bound { key: bound.rest, below: bound.below };
                bound.is_reached_by(key, seq)
            });
            if is_reached {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[inline]
fn next_bound<'a>(input: &mut ByteReader<'a>) -> Result<BoundEntry<'a>, Malformed> {
    let (shared, code) = match input.rest().first_chunk::<2>() {
        Some([shared @ 0..0x80, code @ 0..0x80]) => {
            input.raw(2)?;
            (u64::from(*shared), u64::from(*code))
        }
        _ => (input.varint()?, input.varint()?),
    };
    let below = if code % 2 == 1 { Some(Seq(input.varint()?)) } else { None };
    let len = code / 2;
    if shared > to_u64(KEY_BYTES_MAX) || len > to_u64(KEY_BYTES_MAX) {
        return Err(Malformed("a bound is too long"));
    }
    let rest = input.raw(to_usize(len))?;
    Ok(BoundEntry { shared: to_usize(shared), rest, below })
}

/// Whether version `seq` of a key comes after a bound. The bound before was reached and has `matched` bytes in common
/// with the key: one that shares more than those differs from the key at the same byte in the same way, one that shares
/// less is above it.
#[inline]
fn is_reached(bound: &BoundEntry<'_>, key: &[u8], seq: Seq, matched: &mut usize) -> bool {
    match bound.shared.cmp(matched) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => {
            let wanted = key.get(*matched..).unwrap_or_default();
            // Mostly a byte or two: what words are compared for would not pay.
            let common = bound.rest.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            *matched += common;
            match (bound.rest.get(common), wanted.get(common)) {
                (None, None) => bound.below.is_none_or(|below| seq < below),
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some(found), Some(wanted)) => found < wanted,
            }
        }
    }
}
