//! The page index: where each page begins, what its checksum is, and which page can hold a key.
//!
//! Each page has a lower bound: the shortest string above the last key of the page before and not above its own first
//! key. Where the versions of one key go on from page to page, the bound is that key with the sequence number at which
//! the page before ends, so that one page is read for any version.
//!
//! Lengths of pages are told in units: I/O units, or shorter ones where pages are packed ([`super::format::Packing`]).
//!
//! The index is cut into partitions by key range, each of which is read, verified and evicted by itself. What its pages
//! have in common, and the bound of the first one, is in the directory. In memory a partition is what it is on disk: a
//! bound repeats only what differs from the bound before it, except for every 8th, which is whole. The search goes over
//! those, then along one run.
//!
//! A partition:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | bytes that tell where a page begins: 0 if all pages are equally long, else 2 or 4 |
//! | 4 each | checksum of each page |
//! | 0, 2 or 4 each | where each page begins, in units from the first one |
//! | 2 each | where the bounds of each run of 8 pages begin, from the start of the bounds |
//! | n | bounds, one a page; that of the first page is empty, since it is in the directory |
//!
//! A bound:
//!
//! | bytes | field |
//! |---|---|
//! | varint | bytes that it shares with the bound before; 0 at the start of a run |
//! | varint | twice the number of its other bytes; 1 more if the page goes on with the key of the page before, which the bound then is |
//! | varint | the sequence number at which the page before ends, if so; else absent |
//! | n | those other bytes |

mod partition;
#[cfg(test)]
mod tests;
mod writer;

use std::cmp::Ordering;

use super::format::{from_u32, to_u32};
use crate::ids::Seq;

pub use partition::IndexPartition;
pub use writer::{IndexPart, IndexWriter};

/// Pages from one whole bound to the next.
const RUN_PAGES: usize = 8;
const HEAD_BYTES: usize = 1;

/// The number of a page in its segment, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl PageNo {
    pub(super) fn index(self) -> usize {
        from_u32(self.0)
    }

    pub(super) fn new(index: usize) -> Self {
        Self(to_u32(index))
    }

    /// The page after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What it takes to read a page and to verify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePlace {
    /// Its number.
    pub number: PageNo,
    /// The versions of its last key go on in the next page.
    pub goes_on: bool,
    /// Where it begins, in units from the first page.
    pub(super) start: u32,
    /// Its length in units.
    pub(super) units: u32,
    pub(super) crc: u32,
}

impl PagePlace {
    /// Where it begins after the header, and its length, in bytes.
    pub(super) fn bytes_in(&self, unit: u64) -> (u64, u64) {
        (unit * u64::from(self.start), unit * u64::from(self.units))
    }
}

/// A place between entries: before all versions of a key, or before those below a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'a> {
    pub(super) key: &'a [u8],
    pub(super) below: Option<Seq>,
}

impl Bound<'_> {
    /// Whether version `seq` of a key comes after it.
    #[inline]
    pub(super) fn is_reached_by(self, key: &[u8], seq: Seq) -> bool {
        match self.key.cmp(key) {
            Ordering::Less => true,
            Ordering::Equal => self.below.is_none_or(|below| seq < below),
            Ordering::Greater => false,
        }
    }

    pub(super) fn is_before(self, other: Bound<'_>) -> bool {
        let versions = |bound: Bound<'_>| bound.below.map_or(u128::MAX, |below| u128::from(below.0));
        match self.key.cmp(other.key) {
            Ordering::Less => true,
            Ordering::Equal => versions(self) > versions(other),
            Ordering::Greater => false,
        }
    }
}

/// The pages of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The number of the first page.
    pub(super) first: u32,
    /// How many there are.
    pub(super) pages: u32,
    /// Where the first one begins, in units from the segment's first page.
    pub(super) start: u32,
    /// The length of all, in units.
    pub(super) units: u32,
}
