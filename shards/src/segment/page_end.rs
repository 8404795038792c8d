//! Where a page ends.
//!
//! A page that is full need not end before the entry that does not fit. A few entries earlier the keys on both sides may
//! have less in common, as between two transactions or two contracts, and then the page index needs a shorter bound. Its
//! bytes are in memory, those of a page on disk, so some of a page may stay empty for them.

use super::page::{PageMark, PageWriter, common_prefix};
use crate::ids::Seq;

/// How many bytes of a page are worth one of the page index.
const PAGE_BYTES_OF_INDEX_BYTE: usize = 64;
/// Entries in the last part of so many of a page may begin the next one.
const LATE_PARTS: usize = 8;

/// An entry in the last part of a page.
#[derive(Debug)]
struct Late {
    key: Vec<u8>,
    seq: Seq,
    value: Option<Vec<u8>>,
    /// The page without it.
    mark: PageMark,
    /// The length of the page without it, and of the bound that it would need to begin the next page.
    page_bytes: usize,
    bound_bytes: usize,
}

/// The entries in the last part of the page in the making.
#[derive(Debug, Default)]
pub(super) struct PageEnd {
    /// The entry before them.
    before: (Vec<u8>, Seq),
    late: Vec<Late>,
}

/// The length of the bound between two neighbouring entries.
fn bound_bytes(last: (&[u8], Seq), key: &[u8]) -> usize {
    // Between versions of one key it is the key with a sequence number.
    let common = common_prefix(last.0, key);
    if common == key.len() && common == last.0.len() { common + 8 } else { common + 1 }
}

impl PageEnd {
    /// Notes an entry that is about to be pushed, if it comes late in a page of `page_bytes`.
    pub(super) fn note(&mut self, page: &PageWriter, page_bytes: usize, entry: (&[u8], Seq, Option<&[u8]>)) {
        let filled = page.bytes();
        if page.is_empty() || filled < page_bytes - page_bytes / LATE_PARTS || filled > page_bytes {
            return;
        }
        let last = page.last();
        if self.late.is_empty() {
            self.before.0.clear();
            self.before.0.extend_from_slice(last.0);
            self.before.1 = last.1;
        }
        let (key, seq, value) = entry;
        self.late.push(Late {
            key: key.to_vec(),
            seq,
            value: value.map(<[u8]>::to_vec),
            mark: page.mark(),
            page_bytes: filled,
            bound_bytes: bound_bytes(last, key),
        });
    }

    /// Takes entries back from a page that is full, if the next page had better begin with them than with the entry
    /// that does not fit.
    pub(super) fn take_back(&mut self, page: &mut PageWriter, next_key: &[u8]) -> Vec<TakenBack> {
        let filled = page.bytes();
        let mut late = std::mem::take(&mut self.late);
        let cost = |entry: &Late| entry.bound_bytes + (filled - entry.page_bytes) / PAGE_BYTES_OF_INDEX_BYTE;
        let Some((at, best)) = late.iter().map(cost).enumerate().min_by_key(|(_, cost)| *cost) else {
            return Vec::new();
        };
        if best >= bound_bytes(page.last(), next_key) {
            return Vec::new();
        }
        let taken = late.split_off(at);
        if let Some(first) = taken.first() {
            let last = late.last().map_or((&self.before.0, self.before.1), |last| (&last.key, last.seq));
            page.truncate(first.mark, last.0, last.1);
        }
        taken.into_iter().map(|entry| (entry.key, entry.seq, entry.value)).collect()
    }

    /// The page has ended.
    pub(super) fn clear(&mut self) {
        self.late.clear();
    }
}

/// An entry that begins the next page.
pub(super) type TakenBack = (Vec<u8>, Seq, Option<Vec<u8>>);
