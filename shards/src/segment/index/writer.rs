//! Writes the page index while the pages are written.

use op_engine_io::num::to_u64;

use super::{Bound, HEAD_BYTES, IndexPartition, RUN_PAGES, Span};
use crate::bytes::{ByteWriter, Malformed};
use crate::ids::Seq;
use crate::segment::format::{from_u32, to_u32};
use crate::segment::page::common_prefix;

/// A partition ends before it grows beyond this: some 2,000 pages.
const PARTITION_BYTES: usize = 16 << 10;

/// A partition that was written, and what the directory holds of it.
#[derive(Debug, Clone)]
pub struct IndexPart {
    /// The partition as it is on disk.
    pub bytes: Vec<u8>,
    pub(in crate::segment) span: Span,
    pub(in crate::segment) bound: Vec<u8>,
    pub(in crate::segment) below: Option<Seq>,
}

impl IndexPart {
    /// Whether version `seq` of a key is in this partition or a later one.
    #[must_use]
    pub fn is_reached_by(&self, key: &[u8], seq: Seq) -> bool {
        self.lower().is_reached_by(key, seq)
    }

    /// The partition in memory. `next` is the one after it.
    ///
    /// # Errors
    /// [`Malformed`] if it was changed since it was written.
    pub fn decode(&self, next: Option<&Self>) -> Result<IndexPartition, Malformed> {
        IndexPartition::decode(&self.bytes, self.span, self.lower(), next.map(Self::lower))
    }

    pub(in crate::segment) fn lower(&self) -> Bound<'_> {
        Bound { key: &self.bound, below: self.below }
    }
}

/// Writes the index while the pages are written.
#[derive(Debug, Default)]
pub struct IndexWriter {
    done: Vec<IndexPart>,
    /// The first bound of the partition in the making.
    first: (Vec<u8>, Option<Seq>),
    span: Span,
    crcs: Vec<u32>,
    starts: Vec<u32>,
    runs: Vec<u32>,
    bounds: ByteWriter,
    last_bound: Vec<u8>,
    /// The bound of the page in the making.
    bound: Vec<u8>,
    below: Option<Seq>,
}

impl IndexWriter {
    /// Tells the first entry of the page to come, and the last one of the page before.
    pub fn begin_page(&mut self, last: Option<(&[u8], Seq)>, first_key: &[u8]) {
        self.bound.clear();
        self.below = None;
        let Some((last_key, last_seq)) = last else { return };
        if last_key == first_key {
            self.bound.extend_from_slice(first_key);
            self.below = Some(last_seq);
        } else {
            let len = common_prefix(last_key, first_key) + 1;
            self.bound.extend(first_key.iter().take(len));
        }
    }

    /// Tells the page that began last: how long it is in the file, in units of where it is kept.
    pub fn end_page(&mut self, units: u32, crc: u32) {
        if self.bytes_max_with_bound() > PARTITION_BYTES {
            self.end_partition();
        }
        let page = self.crcs.len();
        if page == 0 {
            self.first = (std::mem::take(&mut self.bound), self.below.take());
        }
        let shared = if page.is_multiple_of(RUN_PAGES) {
            self.runs.push(to_u32(self.bounds.len()));
            0
        } else {
            common_prefix(&self.last_bound, &self.bound)
        };
        let (_, rest) = self.bound.split_at(shared);
        self.bounds.varint(to_u64(shared));
        self.bounds.varint(to_u64(rest.len()) * 2 + u64::from(self.below.is_some()));
        if let Some(below) = self.below {
            self.bounds.varint(below.0);
        }
        self.bounds.raw(rest);
        std::mem::swap(&mut self.last_bound, &mut self.bound);
        self.crcs.push(crc);
        self.starts.push(self.span.units);
        self.span.pages += 1;
        self.span.units = sum(self.span.units, units);
    }

    /// The length of the partition with one more page, at most.
    fn bytes_max_with_bound(&self) -> usize {
        let pages = self.crcs.len() + 1;
        HEAD_BYTES
            + pages * (4 + 4)
            + pages.div_ceil(RUN_PAGES) * 2
            + self.bounds.len()
            + 16
            + self.bound.len()
    }

    fn end_partition(&mut self) {
        let span = self.span;
        let mut out = ByteWriter::new();
        let equal = self.starts.iter().zip(0u32..).all(|(start, page)| {
            u64::from(*start) * u64::from(span.pages) == u64::from(page) * u64::from(span.units)
        });
        let start_bytes = match span.units {
            _ if equal => 0,
            0..=0xffff => 2,
            _ => 4,
        };
        out.u8(start_bytes);
        self.crcs.drain(..).for_each(|crc| out.u32(crc));
        for start in self.starts.drain(..) {
            let [low, high, ..] = start.to_le_bytes();
            match start_bytes {
                0 => {}
                2 => out.raw(&[low, high]),
                _ => out.u32(start),
            }
        }
        for run in self.runs.drain(..) {
            let [low, high, ..] = run.to_le_bytes();
            out.raw(&[low, high]);
        }
        out.raw(self.bounds.as_slice());
        self.bounds = ByteWriter::new();
        let (bound, below) = std::mem::take(&mut self.first);
        self.done.push(IndexPart { bytes: out.into_vec(), span, bound, below });
        let start = sum(span.start, span.units);
        self.span = Span { first: span.first + span.pages, start, pages: 0, units: 0 };
    }

    /// How many pages have ended.
    #[must_use]
    pub fn pages(&self) -> u64 {
        u64::from(self.span.first) + u64::from(self.span.pages)
    }

    /// The partitions, in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<IndexPart> {
        if !self.crcs.is_empty() {
            self.end_partition();
        }
        self.done
    }
}

fn sum(a: u32, b: u32) -> u32 {
    to_u32(from_u32(a) + from_u32(b))
}
