//! The decoders of segments, to be fed with any bytes: see [`crate::fuzzing`].

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, FileKind, FileName, IO_UNIT_BYTES};

use super::directory::{Directory, DirectoryWriter, Partition};
use super::filter::{FilterBits, FilterBuilder, FilterKey, FilterPartition, FilterStep};
use super::format::{Footer, Header, MetaPage, Packing, Part, SegmentHome, UNIT, VERSION, from_u32};
use super::index::{Bound, IndexPart, IndexPartition, IndexWriter, PageNo, Span};
use super::packing::{Compression, Unpacker, pack_all};
use super::page::{Lookup, Page, PageWriter, Run};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::error::Result;
use crate::ids::{CollectionId, Height, Seq, ShardId, StoreId};
use crate::range::internal_order;
use crate::visibility::Mask;

const FILE: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Segment, number: 9 };
const HOME: SegmentHome = SegmentHome { store: StoreId([3; 16]), shard: ShardId(0) };
const HEADER: u8 = 1;
const META_PAGE: u8 = 2;
const FOOTER: u8 = 3;

/// Header, meta page or footer, as the first byte says; without their padding.
pub(crate) fn units(bytes: &[u8]) {
    let Some((unit, fields)) = bytes.split_first() else { return };
    let mut padded = fields.to_vec();
    padded.resize(IO_UNIT_BYTES, 0);
    match *unit {
        HEADER => {
            let checksum = HOME.checksum(FILE.number);
            if let Ok(header) = Header::decode(&padded) {
                let encoded = header.encode(checksum);
                assert!(Header::verifies(&encoded, checksum), "a header verifies");
                assert_eq!(Header::decode(&encoded), Ok(header), "a header comes back");
            }
        }
        META_PAGE => {
            if let Ok(meta) = MetaPage::decode(&padded) {
                assert_eq!(meta.encode(), padded, "a meta page has one form");
                let end = meta.data_bytes.wrapping_add(meta.index_bytes);
                for file_bytes in [end, UNIT, meta.filter_bytes, u64::MAX] {
                    let Some(offsets) = meta.offsets(file_bytes) else { continue };
                    assert!(offsets.filter <= offsets.index && offsets.index <= offsets.directory);
                    assert_eq!(offsets.meta + 2 * UNIT, file_bytes, "the parts fill the file");
                }
            }
        }
        FOOTER => {
            if let Ok(footer) = Footer::decode(&padded) {
                assert_eq!(footer.encode(), padded, "a footer has one form");
            }
        }
        _ => {}
    }
}

fn meta_page(data_units: u64, pages: u64, filter_units: u64, index_units: u64, directory: Part) -> MetaPage {
    MetaPage {
        filter_bytes: filter_units * UNIT,
        index_bytes: index_units * UNIT,
        directory,
        data_bytes: data_units * UNIT,
        packing: Packing::Plain,
        pages,
        entries: 10,
        tombstones: 1,
        keys: 9,
        seqs: (Seq(1), Seq(20)),
        heights: (Height(5), Height(6)),
        key_min: b"low".to_vec(),
        key_max: b"the highest".to_vec(),
    }
}

pub(crate) fn unit_seeds() -> Vec<Vec<u8>> {
    let seed = |unit: u8, bytes: Vec<u8>| {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        [&[unit], bytes.get(..end).unwrap_or_default()].concat()
    };
    let header = Header {
        version: VERSION,
        store: HOME.store,
        shard: HOME.shard,
        number: FILE.number,
        collection: CollectionId(4),
    };
    let mut header = header.encode(HOME.checksum(FILE.number));
    header.truncate(IO_UNIT_BYTES - 4);
    let meta = meta_page(3, 2, 1, 2, Part { bytes: 100, crc: 2 });
    let footer = Footer { version: VERSION, file_bytes: 9 * UNIT, meta_crc: 7 };
    vec![seed(HEADER, header), seed(META_PAGE, meta.encode()), seed(FOOTER, footer.encode())]
}

/// A directory, after the I/O units of the filter, of the page index and of the data, and the number of pages.
pub(crate) fn directories(bytes: &[u8]) {
    let Some(([filter, index, data, pages], bytes)) = bytes.split_first_chunk::<4>() else { return };
    let part = Part { bytes: to_u64(bytes.len()), crc: 0 };
    let meta = meta_page((*data).into(), (*pages).into(), (*filter).into(), (*index).into(), part);
    let directory_units = part.bytes.div_ceil(UNIT);
    let file_units = 1 + u64::from(*data) + u64::from(*filter) + u64::from(*index) + directory_units + 2;
    let Some(offsets) = meta.offsets(file_units * UNIT) else { return };
    let Ok(directory) = Directory::decode(bytes, &meta, &offsets) else { return };
    assert_eq!(directory.partitions().count(), directory.filters() + directory.indexes());
    assert_eq!(to_u64(directory.pages()), meta.pages, "the pages add up");
    let mut end = offsets.filter;
    for (partition, place) in directory.partitions() {
        assert_eq!(place.offset(), end, "partitions follow each other");
        assert_eq!(directory.place(partition), Some(place));
        end += place.padded_bytes();
    }
    assert_eq!(end, offsets.directory, "partitions fill their place");
    for page in (0..u32::from(*pages)).map(PageNo) {
        let at = directory.index_of_page(page);
        let span = at.and_then(|at| directory.span(at)).map(|(span, ..)| span);
        assert!(span.is_some_and(|span| page.0 - span.first < span.pages), "a page is in its partition");
    }
    for at in 0..directory.indexes() {
        let Some((_, lower, _)) = u32::try_from(at).ok().and_then(|at| directory.span(at)) else { continue };
        if let Some(below) = lower.below.and_then(|below| below.0.checked_sub(1)) {
            assert_eq!(
                from_u32(directory.index_of(lower.key, Seq(below))),
                at,
                "a bound leads to its partition"
            );
        } else if lower.below.is_none() {
            assert_eq!(
                from_u32(directory.index_of(lower.key, Seq::MAX)),
                at,
                "a bound leads to its partition"
            );
        }
    }
    for hash in [0, u64::MAX, 0x8000_0000_0000_0000] {
        let at = directory.filter_of(hash);
        assert!(at.is_none_or(|at| directory.place(Partition::Filter(at)).is_some()));
    }
}

pub(crate) fn directory_seeds() -> Vec<Vec<u8>> {
    let mut whole = DirectoryWriter::new(FilterBits::Sixteen);
    whole.filters.extend([Part { bytes: 5000, crc: 1 }, Part { bytes: 0, crc: 2 }]);
    let index = index_parts(40);
    let pages: u32 = index.iter().map(|part| part.span.pages).sum();
    let data: u32 = index.iter().map(|part| part.span.units).sum();
    let units: u64 = index.iter().map(|part| to_u64(part.bytes.len()).div_ceil(UNIT)).sum();
    let part = |index: IndexPart| (Part { bytes: to_u64(index.bytes.len()), crc: 3 }, index);
    whole.indexes.extend(index.into_iter().map(part));
    let low = |number: u64| number.to_le_bytes().into_iter().next().unwrap_or_default();
    let head = [2, low(units), low(data.into()), low(pages.into())];
    let mut split = DirectoryWriter::new(FilterBits::Eight);
    split.filters.push(Part { bytes: 10, crc: 1 });
    for (first, bound, below) in [(0, &b""[..], None), (2, b"b", None), (4, b"b", Some(Seq(9)))] {
        let span = Span { first, pages: 2, start: first, units: 2 };
        let index = IndexPart { bytes: Vec::new(), span, bound: bound.to_vec(), below };
        split.indexes.push((Part { bytes: 100, crc: 4 }, index));
    }
    vec![[&head[..], &whole.into_vec()].concat(), [&[1, 3, 6, 6][..], &split.into_vec()].concat()]
}

/// A data page. In one that a writer could have written, every entry is found.
pub(crate) fn pages(bytes: &[u8]) {
    let Ok(page) = Page::parse(FILE, 0, bytes) else { return };
    let (mut run, mut entries, mut whole) = (Run::default(), Vec::new(), true);
    for number in 0..page.runs() {
        if page.load_run(number, &mut run).is_err() {
            whole = false;
            continue;
        }
        for at in 0..run.len() {
            let Some(entry) = run.get(at, &page) else { continue };
            entries.push((entry.key.to_vec(), entry.seq, entry.value.map(<[u8]>::to_vec)));
        }
    }
    let mask = Mask::default();
    for (key, seq, _) in &entries {
        let _: Result<Lookup<'_>> = page.find(key, *seq, &mask);
        let _: Result<usize> = page.position(key, *seq);
    }
    let ascends = entries.is_sorted_by(|(key, seq, _), (next, next_seq, _)| {
        internal_order((key, *seq), (next, *next_seq)).is_lt()
    });
    if !whole || !ascends || !bytes.starts_with(&written(&entries)) {
        return;
    }
    for (at, (key, seq, value)) in entries.iter().enumerate() {
        assert_eq!(
            page.find(key, *seq, &mask),
            Ok(Lookup::Found(*seq, value.as_deref())),
            "entries are found"
        );
        assert_eq!(page.position(key, *seq), Ok(at), "entries have their places");
    }
}

type Entries = Vec<(Vec<u8>, Seq, Option<Vec<u8>>)>;

/// A page without its padding.
fn written(entries: &Entries) -> Vec<u8> {
    let mut writer = PageWriter::default();
    for (key, seq, value) in entries {
        writer.push(key, *seq, value.as_deref());
    }
    let bytes = writer.bytes();
    let mut page = Vec::new();
    writer.finish(&mut page);
    page.truncate(bytes);
    page
}

pub(crate) fn page_seeds() -> Vec<Vec<u8>> {
    let key = |n: u8| [&b"contract"[..], &[n / 3, n]].concat();
    let entries =
        (0..20).map(|n| (key(n), Seq(u64::from(n) + 100), (n % 5 > 0).then(|| vec![n; 2]))).collect();
    let versions = (0..5).map(|n| (b"key".to_vec(), Seq(1000 - 300 * n), Some(vec![7]))).take(4).collect();
    vec![written(&entries), written(&versions)]
}

/// A partition of the page index, after what its directory says: pages, units, the lower bound and, if it is not the
/// last one, the upper bound.
pub(crate) fn index_partitions(bytes: &[u8]) {
    let Ok((told, bytes)) = Told::take(bytes) else { return };
    let lower = Bound { key: told.lower.0, below: told.lower.1 };
    let upper = told.upper.map(|(key, below)| Bound { key, below });
    let Ok(index) = IndexPartition::decode(bytes, told.span, lower, upper) else { return };
    let end = told.span.start + told.span.units;
    let mut start = told.span.start;
    for number in (told.span.first..).take(from_u32(told.span.pages)).map(PageNo) {
        let place = index.page(number);
        let follows =
            place.is_some_and(|place| place.number == number && place.start == start && place.units > 0);
        assert!(follows, "pages follow each other");
        start += place.map_or(0, |place| place.units);
        let (stretch, stretch_units) = index.stretch(number, 4);
        assert!(stretch > 0 && stretch_units > 0, "a stretch has a page");
        assert!(index.first_of_stretch(number, 4) <= number);
    }
    assert_eq!(start, end, "pages fill their partition");
    assert_eq!(index.page(PageNo(told.span.first + told.span.pages)), None);
    for ((key, below), page) in index.bounds().iter().zip(told.span.first..).skip(1) {
        // The first version behind a bound, or any if none is.
        let seq = below.map_or(Seq::MAX, |below| Seq(below.0.saturating_sub(1)));
        let leads = index.locate(key, seq).number.0 == page || *below == Some(Seq::ZERO);
        assert!(leads, "a bound leads to its page");
    }
    // Larger keys do not lead to earlier pages.
    let mut probes: Vec<&[u8]> = (0..bytes.len()).step_by(3).filter_map(|at| bytes.get(at..at + 4)).collect();
    probes.extend([told.lower.0, told.upper.map_or(&[0xff][..], |upper| upper.0)]);
    probes.sort_unstable();
    for seq in [Seq::MAX, Seq(7), Seq::ZERO] {
        let pages: Vec<PageNo> = probes.iter().map(|key| index.locate(key, seq).number).collect();
        assert!(pages.is_sorted(), "larger keys are in later pages");
    }
}

/// What a directory tells of a partition.
struct Told<'a> {
    span: Span,
    lower: (&'a [u8], Option<Seq>),
    upper: Option<(&'a [u8], Option<Seq>)>,
}

impl<'a> Told<'a> {
    fn take(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let mut input = ByteReader::new(bytes);
        let (pages, units) = (input.u8()?.into(), input.u16()?.into());
        let has_upper = input.u8()? > 0;
        let mut bound = || {
            let key = input.bytes(64)?;
            let below = input.u8()?;
            Ok((key, (below > 0).then_some(Seq(below.into()))))
        };
        let lower = bound()?;
        let upper = if has_upper { Some(bound()?) } else { None };
        Ok((Self { span: Span { first: 3, pages, start: 5, units }, lower, upper }, input.rest()))
    }

    fn put(span: Span, lower: Bound<'_>, upper: Option<Bound<'_>>) -> Vec<u8> {
        let low = |number: u64| number.to_le_bytes().into_iter().next().unwrap_or_default();
        let mut out = ByteWriter::new();
        out.u8(low(span.pages.into()));
        out.u16(u16::try_from(span.units).unwrap_or(u16::MAX));
        out.u8(upper.is_some().into());
        for bound in [Some(lower), upper].into_iter().flatten() {
            out.bytes(bound.key);
            out.u8(bound.below.map_or(0, |below| low(below.0)));
        }
        out.into_vec()
    }
}

/// An index of so many pages. Two have the same key; the first is longer than the others if there are many.
fn index_parts(pages: u8) -> Vec<IndexPart> {
    let key = |n: u8| [&b"contract"[..], &[n / 8, n]].concat();
    let mut writer = IndexWriter::default();
    let mut last = None;
    for n in 0..pages {
        let first = if n == 3 { key(2) } else { key(n) };
        writer.begin_page(last.as_ref().map(|(key, seq): &(Vec<u8>, Seq)| (key.as_slice(), *seq)), &first);
        let units = if n == 0 && pages > 16 { 2 } else { 1 };
        writer.end_page(units, 7 + u32::from(n));
        last = Some((first, Seq(9)));
    }
    writer.finish()
}

pub(crate) fn index_partition_seeds() -> Vec<Vec<u8>> {
    let seed =
        |part: &IndexPart, upper| [Told::put(part.span, part.lower(), upper), part.bytes.clone()].concat();
    let mut seeds: Vec<Vec<u8>> = [5, 40]
        .map(|pages| index_parts(pages).first().map(|part| seed(part, None)))
        .into_iter()
        .flatten()
        .collect();
    let upper = Bound { key: b"d", below: Some(Seq(4)) };
    seeds.extend(index_parts(5).first().map(|part| seed(part, Some(upper))));
    seeds
}

/// A partition of a filter, after the length of its fingerprints.
pub(crate) fn filters(bytes: &[u8]) {
    let Some((bits, bytes)) = bytes.split_first() else { return };
    let Ok(bits) = FilterBits::decode(*bits) else { return };
    let Ok(filter) = FilterPartition::decode(bits, bytes) else { return };
    assert!(filter.memory_bytes() <= bytes.len() + size_of::<FilterPartition>());
    for hash in (0..64).flat_map(|bit| [1 << bit, !(1u64 << bit), 0x9e37_79b9_7f4a_7c15 << bit]) {
        let _: bool = filter.may_contain(hash);
    }
}

pub(crate) fn filter_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (bits, keys) in [(FilterBits::Eight, 20u64), (FilterBits::Sixteen, 3)] {
        let mut builder = FilterBuilder::new(bits);
        (0..keys).for_each(|n| builder.add(FilterKey([7; 16]).hash(&n.to_le_bytes())));
        let mut partitions = builder.partitions();
        loop {
            match partitions.step() {
                FilterStep::More => {}
                FilterStep::Partition(bytes) => seeds.push([&[bits.encode()][..], &bytes].concat()),
                FilterStep::Done => break,
            }
        }
    }
    seeds
}

/// Packed pages of a segment without a dictionary. One that says that it is long is left out: it takes what it says, which is
/// bounded, and behind a checksum.
pub(crate) fn packed_pages(bytes: &[u8]) {
    const LONG: u32 = 1 << 20;
    let claimed =
        bytes.get(1..5).and_then(|claimed| claimed.first_chunk()).map(|claimed| u32::from_le_bytes(*claimed));
    let Ok(unpacker) = Unpacker::new(&[]) else { return };
    if claimed.is_some_and(|claimed| claimed <= LONG)
        && let Ok(page) = unpacker.unpack(bytes)
    {
        assert_eq!(Some(page.len()), claimed.map(from_u32), "a page is as long as it says");
    }
    let pages = [bytes.to_vec()];
    for packed in pack_all(&pages, Compression::DEFAULT, &[], 64) {
        assert_eq!(unpacker.unpack(&packed).ok().as_deref(), Some(bytes), "what was packed is unpacked");
    }
}

pub(crate) fn packed_page_seeds() -> Vec<Vec<u8>> {
    let pages = [b"a page that does not pack".to_vec(), b"one that does ".repeat(30)];
    pack_all(&pages, Compression::DEFAULT, &[], 64)
}
