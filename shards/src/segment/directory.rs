//! The directory of a segment: where its partitions of filter and page index are, with their checksums and bounds. It
//! stays in memory while the segment is open, a few bytes for a thousand keys.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | bits of a fingerprint, 8 or 16; first, since it says how to read every partition of the filter |
//! | varint | partitions of the filter, at least 1 |
//! | varint | partitions of the page index, at least 1 |
//! | varint, 4 each | partition of the filter: length without padding, 0 if it lets every key pass; checksum |
//! | 6 fields each | partition of the page index |
//!
//! A partition of the page index:
//!
//! | bytes | field |
//! |---|---|
//! | varint, 4 | length without padding; checksum |
//! | varint, varint | pages; their length in I/O units |
//! | varint | twice the length of the bound of its first page; 1 more if that page goes on with the key of the page before |
//! | varint | the sequence number at which the page before ends, if so; else absent |
//! | n | the bound; empty for the first partition |
//!
//! Partitions follow each other in this order, each padded with zeros to the I/O unit, so where they begin is not
//! written. A checksum covers the padding.

use op_engine_io::num::{to_u64, to_usize};

use super::filter::{FilterBits, filter_partition_of};
use super::format::{MetaPage, Offsets, Part, UNIT, from_u32, padded};
use super::index::{Bound, IndexPart, PageNo, Span};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::Seq;
use crate::ops::KEY_BYTES_MAX;

/// No partition is longer. Those that are written have less than half.
pub(super) const PARTITION_BYTES_MAX: usize = 128 << 10;

/// A partition of a segment, by its number from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// Of the filter.
    Filter(u32),
    /// Of the page index.
    Index(u32),
}

/// Where a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionPlace {
    /// Where it begins, in I/O units from the start of the file.
    start: u32,
    /// Without padding.
    pub(super) bytes: u32,
    /// Of the bytes and the padding.
    pub(super) crc: u32,
}

impl PartitionPlace {
    /// Where it begins in the file.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.start) * UNIT
    }

    pub(super) fn padded_bytes(&self) -> u64 {
        u64::from(self.bytes).next_multiple_of(UNIT)
    }
}

#[derive(Debug)]
struct IndexEntry {
    place: PartitionPlace,
    span: Span,
    below: Option<Seq>,
    /// Where its bound ends in the bounds of all.
    bound_end: u32,
}

/// Writes a directory.
#[derive(Debug)]
pub(super) struct DirectoryWriter {
    bits: FilterBits,
    pub(super) filters: Vec<Part>,
    pub(super) indexes: Vec<(Part, IndexPart)>,
}

impl DirectoryWriter {
    pub(super) fn new(bits: FilterBits) -> Self {
        Self { bits, filters: Vec::new(), indexes: Vec::new() }
    }

    pub(super) fn into_vec(self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.u8(self.bits.encode());
        out.varint(to_u64(self.filters.len()));
        out.varint(to_u64(self.indexes.len()));
        for part in self.filters {
            out.varint(part.bytes);
            out.u32(part.crc);
        }
        for (part, index) in self.indexes {
            out.varint(part.bytes);
            out.u32(part.crc);
            out.varint(u64::from(index.span.pages));
            out.varint(u64::from(index.span.units));
            out.varint(to_u64(index.bound.len()) * 2 + u64::from(index.below.is_some()));
            if let Some(below) = index.below {
                out.varint(below.0);
            }
            out.raw(&index.bound);
        }
        out.into_vec()
    }
}

/// The directory in memory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) bits: FilterBits,
    filters: Box<[PartitionPlace]>,
    indexes: Box<[IndexEntry]>,
    bounds: Box<[u8]>,
}

impl Directory {
    /// Takes the bytes of a directory whose checksum holds, of a segment with this meta page.
    pub(super) fn decode(bytes: &[u8], meta: &MetaPage, offsets: &Offsets) -> Result<Self, Malformed> {
        const FILTER_BYTES_MIN: usize = 1 + 4;
        const INDEX_BYTES_MIN: usize = 1 + 4 + 3;
        let mut input = ByteReader::new(bytes);
        let bits = FilterBits::decode(input.u8()?)?;
        let filters = input.count(bytes.len(), FILTER_BYTES_MIN)?;
        let indexes = input.count(bytes.len(), INDEX_BYTES_MIN)?;
        if filters == 0 || indexes == 0 {
            return Err(Malformed("a segment has no filter or no page index"));
        }
        let mut places = Places { end: offsets.filter };
        let filters = (0..filters).map(|_| places.next(&mut input)).collect::<Result<_, _>>()?;
        if places.end != offsets.index {
            return Err(Malformed("the lengths of a filter's partitions do not add up"));
        }
        let mut directory = Self { bits, filters, indexes: Box::default(), bounds: Box::default() };
        directory.decode_indexes(&mut input, indexes, &mut places)?;
        input.finish()?;
        if places.end != offsets.directory {
            return Err(Malformed("the lengths of a page index's partitions do not add up"));
        }
        let end = directory.indexes.last().map(|last| last.span).unwrap_or_default();
        if u64::from(end.first) + u64::from(end.pages) != meta.pages
            || padded((u64::from(end.start) + u64::from(end.units)) * meta.packing.unit())
                != Some(meta.data_bytes)
        {
            return Err(Malformed("the pages of a page index do not add up"));
        }
        directory.check_bounds()?;
        Ok(directory)
    }

    fn decode_indexes(
        &mut self,
        input: &mut ByteReader<'_>,
        count: usize,
        places: &mut Places,
    ) -> Result<(), Malformed> {
        let mut indexes = Vec::with_capacity(count);
        let mut bounds = Vec::new();
        let mut next = Some((0, 0));
        for _ in 0..count {
            let place = places.next(input)?;
            let number = |input: &mut ByteReader<'_>| u32::try_from(input.varint().ok()?).ok();
            let (first, start) = next.ok_or(Malformed("a segment has too many pages"))?;
            let (pages, units) = (number(input), number(input));
            let (Some(pages @ 1..), Some(units @ 1..)) = (pages, units) else {
                return Err(Malformed("a partition of a page index has no pages"));
            };
            let span = Span { first, pages, start, units };
            next = first.checked_add(pages).zip(start.checked_add(units));
            let code = input.varint()?;
            let below = if code % 2 == 1 { Some(Seq(input.varint()?)) } else { None };
            let len = to_usize(code / 2);
            if len > KEY_BYTES_MAX {
                return Err(Malformed("a bound is too long"));
            }
            bounds.extend_from_slice(input.raw(len)?);
            let bound_end = u32::try_from(bounds.len()).map_err(|_| Malformed("a directory is too long"))?;
            indexes.push(IndexEntry { place, span, below, bound_end });
        }
        if next.is_none() {
            return Err(Malformed("a segment has too many pages"));
        }
        (self.indexes, self.bounds) = (indexes.into(), bounds.into());
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), Malformed> {
        let ascend = (1..self.indexes.len()).all(|at| self.bound(at - 1).is_before(self.bound(at)));
        let first = self.bound(0);
        if ascend && first.key.is_empty() && first.below.is_none() {
            Ok(())
        } else {
            Err(Malformed("the bounds of the partitions do not ascend"))
        }
    }

    fn bound(&self, at: usize) -> Bound<'_> {
        let end = |at: usize| self.indexes.get(at).map_or(0, |entry| from_u32(entry.bound_end));
        let start = at.checked_sub(1).map_or(0, end);
        let key = self.bounds.get(start..end(at)).unwrap_or_default();
        Bound { key, below: self.indexes.get(at).and_then(|entry| entry.below) }
    }

    /// How many pages the segment has.
    pub(super) fn pages(&self) -> usize {
        self.indexes.last().map_or(0, |last| from_u32(last.span.first) + from_u32(last.span.pages))
    }

    pub(super) fn filters(&self) -> usize {
        self.filters.len()
    }

    pub(super) fn indexes(&self) -> usize {
        self.indexes.len()
    }

    /// All partitions in the order of the file.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (Partition, PartitionPlace)> + '_ {
        let filters = self.filters.iter().zip(0..).map(|(place, at)| (Partition::Filter(at), *place));
        let indexes = self.indexes.iter().zip(0..).map(|(entry, at)| (Partition::Index(at), entry.place));
        filters.chain(indexes)
    }

    pub(super) fn place(&self, partition: Partition) -> Option<PartitionPlace> {
        match partition {
            Partition::Filter(at) => self.filters.get(from_u32(at)).copied(),
            Partition::Index(at) => self.indexes.get(from_u32(at)).map(|entry| entry.place),
        }
    }

    /// The partition of the filter that knows a hash; `None` if it lets every key pass.
    pub(super) fn filter_of(&self, hash: u64) -> Option<u32> {
        let count = u32::try_from(self.filters.len()).unwrap_or(u32::MAX);
        let at = filter_partition_of(hash, count);
        self.filters.get(from_u32(at)).filter(|place| place.bytes > 0).map(|_| at)
    }

    /// The partition with the page in which the first entry at or after (`key`, `seq`) is, if any is.
    pub(super) fn index_of(&self, key: &[u8], seq: Seq) -> u32 {
        let (mut low, mut high) = (0, self.indexes.len());
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.bound(middle).is_reached_by(key, seq) {
                low = middle;
            } else {
                high = middle;
            }
        }
        super::format::to_u32(low)
    }

    /// The partition with a page; `None` if there is no such page.
    pub(super) fn index_of_page(&self, page: PageNo) -> Option<u32> {
        let after = self.indexes.partition_point(|entry| entry.span.first <= page.0);
        let at = after.checked_sub(1)?;
        let span = self.indexes.get(at)?.span;
        (page.0 - span.first < span.pages).then(|| super::format::to_u32(at))
    }

    /// The pages of a partition, its bound and the next one's.
    pub(super) fn span(&self, index: u32) -> Option<(Span, Bound<'_>, Option<Bound<'_>>)> {
        let at = from_u32(index);
        let span = self.indexes.get(at)?.span;
        let upper = (at + 1 < self.indexes.len()).then(|| self.bound(at + 1));
        Some((span, self.bound(at), upper))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.filters) + size_of_val(&*self.indexes) + self.bounds.len()
    }
}

/// Gives partitions their places, one after the other.
struct Places {
    /// Where the last one ends in the file.
    end: u64,
}

impl Places {
    fn next(&mut self, input: &mut ByteReader<'_>) -> Result<PartitionPlace, Malformed> {
        let (bytes, crc) = (input.varint()?, input.u32()?);
        let start = u32::try_from(self.end / UNIT).ok();
        let bytes = u32::try_from(bytes).ok().filter(|bytes| from_u32(*bytes) <= PARTITION_BYTES_MAX);
        let (Some(start), Some(bytes)) = (start, bytes) else {
            return Err(Malformed("the length of a partition is impossible"));
        };
        self.end = padded(u64::from(bytes)).and_then(|bytes| self.end.checked_add(bytes)).unwrap_or(u64::MAX);
        Ok(PartitionPlace { start, bytes, crc })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::Packing;
    use super::*;
    use crate::ids::Height;

    fn part(bytes: u64, crc: u32) -> Part {
        Part { bytes, crc }
    }

    fn index(span: Span, bound: &[u8], below: Option<u64>) -> IndexPart {
        IndexPart { bytes: Vec::new(), span, bound: bound.to_vec(), below: below.map(Seq) }
    }

    /// Two partitions of the filter, one of which lets every key pass, and three of the page index.
    fn writer() -> DirectoryWriter {
        let mut writer = DirectoryWriter::new(FilterBits::Sixteen);
        writer.filters = vec![part(5000, 1), part(0, 0)];
        let span = |first, pages, start, units| Span { first, pages, start, units };
        writer.indexes = vec![
            (part(4096, 3), index(span(0, 10, 0, 10), b"", None)),
            (part(100, 4), index(span(10, 1, 10, 5), b"car", Some(7))),
            (part(9000, 5), index(span(11, 20, 15, 25), b"cart", None)),
        ];
        writer
    }

    fn meta() -> MetaPage {
        MetaPage {
            filter_bytes: 2 * UNIT,
            index_bytes: 5 * UNIT,
            directory: part(100, 0),
            data_bytes: 40 * UNIT,
            packing: Packing::Plain,
            pages: 31,
            entries: 1,
            tombstones: 0,
            keys: 1,
            seqs: (Seq(1), Seq(1)),
            heights: (Height(1), Height(1)),
            key_min: Vec::new(),
            key_max: Vec::new(),
        }
    }

    fn decode(bytes: &[u8], meta: &MetaPage) -> Result<Directory, Malformed> {
        let file_bytes = UNIT * 4 + meta.data_bytes + meta.filter_bytes + meta.index_bytes;
        let offsets = meta.offsets(file_bytes).ok_or(Malformed("the lengths do not add up"))?;
        Directory::decode(bytes, meta, &offsets)
    }

    #[test]
    fn places_follow_from_lengths() {
        let directory = decode(&writer().into_vec(), &meta()).unwrap();
        let places: Vec<_> =
            directory.partitions().map(|(id, place)| (id, place.offset() / UNIT, place.bytes)).collect();
        let expected = [
            (Partition::Filter(0), 41, 5000),
            (Partition::Filter(1), 43, 0),
            (Partition::Index(0), 43, 4096),
            (Partition::Index(1), 44, 100),
            (Partition::Index(2), 45, 9000),
        ];
        assert_eq!(places, expected);
        for (partition, place) in directory.partitions() {
            assert_eq!(directory.place(partition), Some(place));
        }
        assert_eq!(directory.place(Partition::Index(3)), None);
        assert_eq!((directory.pages(), directory.filters(), directory.indexes()), (31, 2, 3));
    }

    #[test]
    fn the_right_partition_is_found() {
        let directory = decode(&writer().into_vec(), &meta()).unwrap();
        assert_eq!([0, u64::MAX].map(|hash| directory.filter_of(hash)), [Some(0), None]);
        let cases: [(&[u8], u64, u32); 7] = [
            (b"", u64::MAX, 0),
            (b"bz", 1, 0),
            (b"car", 7, 0),
            (b"car", 6, 1),
            (b"cars", 9, 1),
            (b"cart", u64::MAX, 2),
            (b"zz", 0, 2),
        ];
        for (key, seq, partition) in cases {
            assert_eq!(directory.index_of(key, Seq(seq)), partition, "{key:?} {seq}");
        }
        let pages = [(0, Some(0)), (9, Some(0)), (10, Some(1)), (11, Some(2)), (30, Some(2)), (31, None)];
        for (page, partition) in pages {
            assert_eq!(directory.index_of_page(PageNo(page)), partition, "page {page}");
        }
        let (span, lower, upper) = directory.span(1).unwrap();
        assert_eq!(span, Span { first: 10, pages: 1, start: 10, units: 5 });
        assert_eq!((lower.key, lower.below), (b"car".as_slice(), Some(Seq(7))));
        assert_eq!(upper.map(|upper| (upper.key, upper.below)), Some((b"cart".as_slice(), None)));
        assert!(directory.span(2).unwrap().2.is_none() && directory.span(3).is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        let bytes = writer().into_vec();
        for end in 0..bytes.len() {
            decode(&bytes[..end], &meta()).unwrap_err();
        }
        decode(&[bytes.as_slice(), &[0]].concat(), &meta()).unwrap_err();
        decode(&[0; 100], &meta()).unwrap_err();
        let metas = [
            MetaPage { pages: 30, ..meta() },
            MetaPage { data_bytes: 41 * UNIT, ..meta() },
            MetaPage { filter_bytes: 3 * UNIT, index_bytes: 4 * UNIT, ..meta() },
            MetaPage { index_bytes: 6 * UNIT, ..meta() },
        ];
        for meta in metas {
            decode(&bytes, &meta).unwrap_err();
        }
        let changes: [fn(&mut DirectoryWriter); 10] = [
            |writer| writer.filters.clear(),
            |writer| writer.indexes.clear(),
            |writer| writer.filters[0].bytes = 1 << 20,
            |writer| writer.filters[0].bytes = u64::MAX,
            |writer| writer.indexes[0].1.bound = b"a".to_vec(),
            |writer| writer.indexes[0].1.below = Some(Seq(3)),
            |writer| writer.indexes[1].1.bound = b"cart".to_vec(),
            |writer| writer.indexes[2].1.bound = vec![255; KEY_BYTES_MAX + 1],
            |writer| writer.indexes[1].1.span.pages = 0,
            |writer| writer.indexes[1].1.span.units = u32::MAX,
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut changed = writer();
            change(&mut changed);
            assert!(decode(&changed.into_vec(), &meta()).is_err(), "change {n}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            hash in any::<u64>(),
            key in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let _: Result<_, Malformed> = decode(&bytes, &meta());
            let mut bytes = writer().into_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(directory) = decode(&bytes, &meta()) {
                prop_assert!(from_u32(directory.index_of(&key, Seq(3))) < directory.indexes());
                let _: Option<u32> = directory.filter_of(hash);
            }
        }
    }
}
