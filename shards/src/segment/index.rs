//! The page index: where each page begins, what its checksum is, and which page can hold a key.
//!
//! Each page has a lower bound: the shortest string above the last key of the page before and not above its own first
//! key. Where the versions of one key go on from page to page, the bound is that key with the sequence number at which
//! the page before ends, so that one page is read for any version.
//!
//! | bytes | field |
//! |---|---|
//! | varint + n | for each page: lower bound; empty for the first page |
//! | varint | the sequence number at which the page before ends, if this page goes on with the same key, which the bound then is; else 0 |
//! | varint | length in I/O units |
//! | 4 | checksum of the page |

use op_engine_io::num::{to_u64, to_usize};

use super::format::{UNIT, to_u32};
use super::page::common_prefix;
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::Seq;
use crate::ops::KEY_BYTES_MAX;

/// Writes the index while the pages are written.
#[derive(Debug, Default)]
pub struct IndexWriter {
    out: ByteWriter,
    bound: Vec<u8>,
    goes_on_below: Seq,
    pages: u64,
}

impl IndexWriter {
    /// Tells the first entry of the page to come, and the last one of the page before.
    pub fn begin_page(&mut self, last: Option<(&[u8], Seq)>, first_key: &[u8]) {
        self.bound.clear();
        self.goes_on_below = Seq::ZERO;
        let Some((last_key, last_seq)) = last else { return };
        if last_key == first_key {
            self.bound.extend_from_slice(first_key);
            self.goes_on_below = last_seq;
        } else {
            let len = common_prefix(last_key, first_key) + 1;
            self.bound.extend(first_key.iter().take(len));
        }
    }

    /// Tells the page that began last.
    pub fn end_page(&mut self, page_bytes: u64, crc: u32) {
        self.out.bytes(&self.bound);
        self.out.varint(self.goes_on_below.0);
        self.out.varint(page_bytes / UNIT);
        self.out.u32(crc);
        self.pages += 1;
    }

    /// How many pages have ended.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The index as it is on disk.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out.into_vec()
    }
}

/// The index in memory: one array a field.
#[derive(Debug, Default)]
pub struct PageIndex {
    bounds: Vec<u8>,
    /// Where each bound ends in `bounds`.
    bound_ends: Vec<u32>,
    /// Pages that go on with the key of the page before, and below which sequence number.
    goes_on: Vec<(u32, Seq)>,
    /// Where each page begins, in I/O units from the first page; one more for the end.
    starts: Vec<u32>,
    crcs: Vec<u32>,
}

impl PageIndex {
    /// Takes the bytes of an index whose checksum holds, for so many pages of this length together.
    ///
    /// # Errors
    /// [`Malformed`] if they are not what [`IndexWriter`] writes.
    pub fn decode(bytes: &[u8], pages: u64, data_bytes: u64) -> Result<Self, Malformed> {
        const PAGE_BYTES_MIN: usize = 3 + 4;
        let pages = to_usize(pages);
        if pages == 0 || pages > bytes.len() / PAGE_BYTES_MIN || u32::try_from(bytes.len()).is_err() {
            return Err(Malformed("the number of pages is impossible"));
        }
        let mut index = Self {
            bounds: Vec::new(),
            bound_ends: Vec::with_capacity(pages),
            goes_on: Vec::new(),
            starts: Vec::with_capacity(pages + 1),
            crcs: Vec::with_capacity(pages),
        };
        let mut input = ByteReader::new(bytes);
        let mut start = 0u32;
        for page in 0..pages {
            let bound = input.bytes(KEY_BYTES_MAX)?;
            let below = Seq(input.varint()?);
            let units = u32::try_from(input.varint()?).ok().filter(|units| *units > 0);
            index.push_bound(page, bound, below)?;
            index.starts.push(start);
            let next = units.and_then(|units| start.checked_add(units));
            start = next.ok_or(Malformed("the length of a page is impossible"))?;
            index.crcs.push(input.u32()?);
        }
        index.starts.push(start);
        input.finish()?;
        if u64::from(start) * UNIT != data_bytes {
            return Err(Malformed("the lengths of the pages do not add up"));
        }
        index.bounds.shrink_to_fit();
        Ok(index)
    }

    fn push_bound(&mut self, page: usize, bound: &[u8], below: Seq) -> Result<(), Malformed> {
        let ascends = match page.checked_sub(1) {
            None => bound.is_empty() && below == Seq::ZERO,
            Some(last) => {
                let last_bound = self.bound(last);
                last_bound < bound || last_bound == bound && below != Seq::ZERO && self.is_above(last, below)
            }
        };
        if !ascends {
            return Err(Malformed("the bounds of the pages do not ascend"));
        }
        if below != Seq::ZERO {
            self.goes_on.push((to_u32(page), below));
        }
        self.bounds.extend_from_slice(bound);
        self.bound_ends.push(to_u32(self.bounds.len()));
        Ok(())
    }

    /// Whether the bound of a page lies before version `below` of the same key.
    fn is_above(&self, page: usize, below: Seq) -> bool {
        self.goes_on_below(page).is_none_or(|last_below| last_below > below)
    }

    fn bound(&self, page: usize) -> &[u8] {
        let end = |page: usize| self.bound_ends.get(page).map_or(0, |end| super::format::from_u32(*end));
        let start = page.checked_sub(1).map_or(0, end);
        self.bounds.get(start..end(page)).unwrap_or_default()
    }

    fn goes_on_below(&self, page: usize) -> Option<Seq> {
        let at = self.goes_on.binary_search_by_key(&to_u32(page), |(page, _)| *page).ok()?;
        self.goes_on.get(at).map(|(_, below)| *below)
    }

    pub(super) fn pages(&self) -> usize {
        self.crcs.len()
    }

    /// The page in which the first entry at or after (`key`, `seq`) is, if any is.
    #[must_use]
    pub fn locate(&self, key: &[u8], seq: Seq) -> usize {
        let (mut low, mut high) = (0, self.pages());
        while high - low > 1 {
            let middle = low.midpoint(high);
            let reached = match self.bound(middle).cmp(key) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => self.goes_on_below(middle).is_none_or(|below| seq < below),
                std::cmp::Ordering::Greater => false,
            };
            if reached {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether a page begins with further versions of the last key of the page before, and that key is `key`.
    pub(super) fn goes_on_with(&self, page: usize, key: &[u8]) -> bool {
        self.goes_on_below(page).is_some() && self.bound(page) == key
    }

    /// Where a page begins, counted from the first page, and how long it is.
    pub(super) fn range(&self, page: usize) -> Option<(u64, u64)> {
        let start = u64::from(*self.starts.get(page)?);
        let end = u64::from(*self.starts.get(page + 1)?);
        Some((start * UNIT, (end - start) * UNIT))
    }

    pub(super) fn crc(&self, page: usize) -> Option<u32> {
        self.crcs.get(page).copied()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let fixed = self.bound_ends.capacity() + self.starts.capacity() + self.crcs.capacity();
        self.bounds.capacity() + fixed * 4 + self.goes_on.capacity() * size_of::<(u32, Seq)>()
    }

    /// The length of the pages `from..` that fit into `bytes_max`, at least one: how many, and how long they are.
    pub(super) fn stretch(&self, from: usize, bytes_max: usize) -> (usize, u64) {
        let Some((start, first_bytes)) = self.range(from) else { return (0, 0) };
        let (mut count, mut bytes) = (1, first_bytes);
        while let Some((next, next_bytes)) = self.range(from + count) {
            let longer = next + next_bytes - start;
            if longer > to_u64(bytes_max) {
                break;
            }
            (count, bytes) = (count + 1, longer);
        }
        (count, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> (Vec<u8>, Vec<(&'static [u8], u64)>) {
        // The first entry of each page; each ends with the entry before the next one's first.
        let firsts: Vec<(&[u8], u64)> = vec![(b"b", 9), (b"car", 8), (b"car", 4), (b"car", 1), (b"cat", 3)];
        let lasts: [(&[u8], u64); 4] = [(b"bz", 5), (b"car", 5), (b"car", 2), (b"cas", 7)];
        let mut writer = IndexWriter::default();
        for (page, (key, _)) in firsts.iter().enumerate() {
            let last = page.checked_sub(1).map(|before| (lasts[before].0, Seq(lasts[before].1)));
            writer.begin_page(last, key);
            writer.end_page(UNIT * (1 + to_u64(page)), to_u32(page) + 7);
        }
        assert_eq!(writer.pages(), 5);
        (writer.into_vec(), firsts)
    }

    #[test]
    fn the_right_page_is_found() {
        let (bytes, firsts) = sample();
        let index = PageIndex::decode(&bytes, 5, 15 * UNIT).unwrap();
        assert_eq!(index.pages(), 5);
        for (page, (key, seq)) in firsts.iter().enumerate() {
            assert_eq!(index.locate(key, Seq(*seq)), page);
        }
        // Between the last entry of a page and the first of the next, the next holds the first entry at or after.
        assert_eq!(index.locate(b"car", Seq(4)), 2);
        assert_eq!(index.locate(b"car", Seq(5)), 1);
        assert_eq!(index.locate(b"car", Seq::MAX), 1);
        assert_eq!(index.locate(b"car", Seq::ZERO), 3);
        assert_eq!(index.locate(b"", Seq::MAX), 0);
        assert_eq!(index.locate(b"zz", Seq::MAX), 4);
        assert!(
            index.goes_on_with(2, b"car") && !index.goes_on_with(4, b"cat") && !index.goes_on_with(1, b"car")
        );
        assert_eq!(index.range(2), Some((3 * UNIT, 3 * UNIT)));
        assert_eq!(index.crc(4), Some(11));
        assert_eq!(index.range(5), None);
        assert_eq!(index.stretch(1, 0), (1, 2 * UNIT));
        assert_eq!(index.stretch(1, to_usize(5 * UNIT)), (2, 5 * UNIT));
        assert_eq!(index.stretch(3, usize::MAX), (2, 9 * UNIT));
    }

    #[test]
    fn contradictions_are_refused() {
        let (bytes, _) = sample();
        PageIndex::decode(&bytes, 4, 15 * UNIT).unwrap_err();
        PageIndex::decode(&bytes, 6, 15 * UNIT).unwrap_err();
        PageIndex::decode(&bytes, 5, 14 * UNIT).unwrap_err();
        PageIndex::decode(&bytes, u64::MAX, 15 * UNIT).unwrap_err();
        PageIndex::decode(&[], 0, 0).unwrap_err();
        for end in 0..bytes.len() {
            PageIndex::decode(&bytes[..end], 5, 15 * UNIT).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(at in any::<usize>(), flip in 1u8.., key in prop::collection::vec(any::<u8>(), 0..4)) {
            let (mut bytes, _) = sample();
            let len = bytes.len();
            bytes[at % len] ^= flip;
            if let Ok(index) = PageIndex::decode(&bytes, 5, 15 * UNIT) {
                prop_assert!(index.locate(&key, Seq(3)) < 5);
            }
        }
    }
}
