//! The fixed units of a segment file: header, meta page and footer.
//!
//! Everything but the data pages is found from the end of the file, because it is known only when the last entry has
//! been written. Each part begins at a multiple of the I/O unit and is padded with zeros to one.
//!
//! The data pages of a cold segment are packed, and lie in an object of the cold target; its file has the other parts. The
//! object has them too, so it can be read without the file, and the file be made again from it.
//!
//! | part | length | checksum is in |
//! |---|---|---|
//! | header | 1 unit | the header's own last four bytes: it says whose the file is, so it must stand alone |
//! | data pages | 1 unit or more each; all together, if they are packed | page index |
//! | dictionary | its units; none if pages are not packed | meta page |
//! | partitions of the filter | their units | directory |
//! | partitions of the page index | their units | directory |
//! | directory | its units | meta page |
//! | meta page | 1 unit | footer |
//! | footer | 1 unit | the manifest |
//!
//! A checksum is held by the parent, so a part that is stale or from elsewhere does not verify although it is intact.
//! It covers the padding too, so every byte of the file is covered once. Its initial value is derived from store,
//! shard and segment number: equal bytes of two files have different checksums.
//!
//! Header:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `OPE-SEGM` |
//! | 4 | format version, 3; first after the magic, since it says how to read the rest |
//! | 16 | store id |
//! | 2 | shard |
//! | 8 | segment number |
//! | 4 | collection |
//! | zeros | up to the last four bytes |
//! | 4 | checksum of all bytes before |
//!
//! Meta page:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | length of all partitions of the filter, with their padding |
//! | 8 | length of all partitions of the page index, with their padding |
//! | 8, 4 | directory: length without padding; checksum |
//! | 8 | length of all data pages, with the padding after packed ones |
//! | 1 | 1 if they are as they are read, 2 if they are packed; never 0 |
//! | 8, 4 | dictionary: length without padding, 0 if there is none; checksum |
//! | 4 | checksum of everything before the dictionary, if pages are packed: a copy from elsewhere is compared with it |
//! | 8 | number of data pages |
//! | 8, 8, 8 | entries, tombstones, distinct keys |
//! | 8, 8 | lowest and highest sequence number |
//! | 8, 8 | lowest and highest height |
//! | varint + n, twice | lowest and highest key; last, because only they vary in length |
//!
//! Footer:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `OPE-SEGF` |
//! | 4 | format version |
//! | 8 | length of the file, or of the object if pages are packed |
//! | 4 | checksum of the meta page |

use op_engine_io::{Dir, FileKind, FileName, IO_UNIT_BYTES};

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::{CollectionId, Height, Seq, ShardId, StoreId};
use crate::ops::KEY_BYTES_MAX;

use super::packing::DICTIONARY_BYTES_MAX;

pub(super) const UNIT: u64 = op_engine_io::num::to_u64(IO_UNIT_BYTES);
/// The version that is written and read.
pub(super) const VERSION: u32 = 3;
/// What the lengths of packed pages are multiples of: what it wastes is little beside a page, and 32 bits count far enough.
pub(super) const PACKED_UNIT: u64 = 64;
const HEADER_MAGIC: [u8; 8] = *b"OPE-SEGM";
const FOOTER_MAGIC: [u8; 8] = *b"OPE-SEGF";

/// Whose segments a shard reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHome {
    /// The store.
    pub store: StoreId,
    /// The shard.
    pub shard: ShardId,
}

impl SegmentHome {
    /// The name of the file of a segment.
    #[must_use]
    pub fn file_name(&self, number: u64) -> FileName {
        FileName { dir: Dir::Shard(self.shard.0), kind: FileKind::Segment, number }
    }

    /// The name of the object of a cold segment.
    #[must_use]
    pub fn cold_name(&self, number: u64) -> FileName {
        FileName { kind: FileKind::Cold, ..self.file_name(number) }
    }

    /// The checksums of one segment.
    pub(super) fn checksum(&self, number: u64) -> Checksum {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.store.0);
        hasher.update(&self.shard.0.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        Checksum { initial: hasher.finalize() }
    }
}

/// The checksum function of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksum {
    initial: u32,
}

impl Checksum {
    pub(super) fn of(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.initial);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Pads with zeros to a multiple of the I/O unit.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(IO_UNIT_BYTES), 0);
}

/// The length of a part with its padding.
pub(super) fn padded(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(UNIT)
}

/// Everything after the last field must be zero.
fn zeros(input: &ByteReader<'_>) -> Result<(), Malformed> {
    if input.rest().iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(Malformed("the padding is not zero"))
    }
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) store: StoreId,
    pub(super) shard: ShardId,
    pub(super) number: u64,
    pub(super) collection: CollectionId,
}

impl Header {
    pub(super) fn encode(&self, checksum: Checksum) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.raw(&HEADER_MAGIC);
        out.u32(self.version);
        out.raw(&self.store.0);
        out.u16(self.shard.0);
        out.u64(self.number);
        out.u32(self.collection.0);
        let mut unit = out.into_vec();
        unit.resize(IO_UNIT_BYTES - 4, 0);
        let crc = checksum.of(&unit);
        unit.extend_from_slice(&crc.to_le_bytes());
        unit
    }

    /// The fields, whether or not the checksum holds: the caller first looks whose file it is.
    pub(super) fn decode(unit: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(unit);
        if input.array()? != HEADER_MAGIC {
            return Err(Malformed("it does not begin as a segment does"));
        }
        Ok(Self {
            version: input.u32()?,
            store: StoreId(input.array()?),
            shard: ShardId(input.u16()?),
            number: input.u64()?,
            collection: CollectionId(input.u32()?),
        })
    }

    pub(super) fn verifies(unit: &[u8], checksum: Checksum) -> bool {
        unit.split_last_chunk::<4>()
            .is_some_and(|(fields, crc)| checksum.of(fields) == u32::from_le_bytes(*crc))
    }
}

/// A part between the data pages and the meta page: the directory or a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Without padding.
    pub(super) bytes: u64,
    /// Of the bytes and the padding.
    pub(super) crc: u32,
}

/// How data pages lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are read, each from an I/O unit on.
    Plain,
    /// As [`super::packing`] makes them, close together.
    Packed {
        /// What they were packed with; without bytes if with nothing.
        dictionary: Part,
        /// Of the header and all pages, with padding.
        content_crc: u32,
    },
}

impl Packing {
    /// What the lengths of pages are counted in, in bytes.
    pub(super) fn unit(&self) -> u64 {
        match self {
            Self::Plain => UNIT,
            Self::Packed { .. } => PACKED_UNIT,
        }
    }

    fn encode(&self, out: &mut ByteWriter) {
        let (code, dictionary, content_crc) = match self {
            Self::Plain => (1, Part { bytes: 0, crc: 0 }, 0),
            Self::Packed { dictionary, content_crc } => (2, *dictionary, *content_crc),
        };
        out.u8(code);
        out.u64(dictionary.bytes);
        out.u32(dictionary.crc);
        out.u32(content_crc);
    }

    fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let code = input.u8()?;
        let dictionary = Part { bytes: input.u64()?, crc: input.u32()? };
        let content_crc = input.u32()?;
        match code {
            1 if dictionary == (Part { bytes: 0, crc: 0 }) && content_crc == 0 => Ok(Self::Plain),
            2 if dictionary.bytes <= DICTIONARY_BYTES_MAX => Ok(Self::Packed { dictionary, content_crc }),
            2 => Err(Malformed("a dictionary is too long")),
            _ => Err(Malformed("pages are packed in an unknown way")),
        }
    }
}

/// What the meta page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetaPage {
    pub(super) filter_bytes: u64,
    pub(super) index_bytes: u64,
    pub(super) directory: Part,
    pub(super) data_bytes: u64,
    pub(super) packing: Packing,
    pub(super) pages: u64,
    pub(super) entries: u64,
    pub(super) tombstones: u64,
    pub(super) keys: u64,
    pub(super) seqs: (Seq, Seq),
    pub(super) heights: (Height, Height),
    pub(super) key_min: Vec<u8>,
    pub(super) key_max: Vec<u8>,
}

impl MetaPage {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.u64(self.filter_bytes);
        out.u64(self.index_bytes);
        out.u64(self.directory.bytes);
        out.u32(self.directory.crc);
        out.u64(self.data_bytes);
        self.packing.encode(&mut out);
        out.u64(self.pages);
        out.u64(self.entries);
        out.u64(self.tombstones);
        out.u64(self.keys);
        out.u64(self.seqs.0.0);
        out.u64(self.seqs.1.0);
        out.u64(self.heights.0.0);
        out.u64(self.heights.1.0);
        out.bytes(&self.key_min);
        out.bytes(&self.key_max);
        let mut unit = out.into_vec();
        pad(&mut unit);
        unit
    }

    pub(super) fn decode(unit: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(unit);
        let meta = Self {
            filter_bytes: input.u64()?,
            index_bytes: input.u64()?,
            directory: Part { bytes: input.u64()?, crc: input.u32()? },
            data_bytes: input.u64()?,
            packing: Packing::decode(&mut input)?,
            pages: input.u64()?,
            entries: input.u64()?,
            tombstones: input.u64()?,
            keys: input.u64()?,
            seqs: (Seq(input.u64()?), Seq(input.u64()?)),
            heights: (Height(input.u64()?), Height(input.u64()?)),
            key_min: input.bytes(KEY_BYTES_MAX)?.to_vec(),
            key_max: input.bytes(KEY_BYTES_MAX)?.to_vec(),
        };
        zeros(&input)?;
        Ok(meta)
    }

    /// Where the parts begin, if their lengths add up to that of the file. That of packed pages has no pages.
    pub(super) fn offsets(&self, file_bytes: u64) -> Option<Offsets> {
        let (data, dictionary_bytes) = match self.packing {
            Packing::Plain => (self.data_bytes, 0),
            Packing::Packed { dictionary, .. } => (0, padded(dictionary.bytes)?),
        };
        let dictionary = UNIT.checked_add(data)?;
        let filter = dictionary.checked_add(dictionary_bytes)?;
        let index = filter.checked_add(self.filter_bytes)?;
        let directory = index.checked_add(self.index_bytes)?;
        let meta = directory.checked_add(padded(self.directory.bytes)?)?;
        let end = meta.checked_add(2 * UNIT)?;
        let in_units = [dictionary, self.data_bytes, filter, index, directory]
            .iter()
            .all(|offset| offset.is_multiple_of(UNIT));
        (end == file_bytes && in_units).then_some(Offsets { dictionary, filter, index, directory, meta })
    }
}

/// Where the parts of a file begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) dictionary: u64,
    pub(super) filter: u64,
    pub(super) index: u64,
    pub(super) directory: u64,
    pub(super) meta: u64,
}

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) version: u32,
    pub(super) file_bytes: u64,
    pub(super) meta_crc: u32,
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.raw(&FOOTER_MAGIC);
        out.u32(self.version);
        out.u64(self.file_bytes);
        out.u32(self.meta_crc);
        let mut unit = out.into_vec();
        pad(&mut unit);
        unit
    }

    pub(super) fn decode(unit: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(unit);
        if input.array()? != FOOTER_MAGIC {
            return Err(Malformed("it does not end as a segment does"));
        }
        let footer = Self { version: input.u32()?, file_bytes: input.u64()?, meta_crc: input.u32()? };
        zeros(&input)?;
        Ok(footer)
    }
}

/// A length in memory as a number for the format. Pages, partitions and what counts I/O units are far below.
#[expect(clippy::cast_possible_truncation, reason = "asserted in the line before")]
pub(super) fn to_u32(value: usize) -> u32 {
    assert!(value <= 0xffff_ffff, "numbers of a segment have 32 bits");
    value as u32
}

/// A number of the format as a length in memory.
pub(super) fn from_u32(value: u32) -> usize {
    op_engine_io::num::to_usize(u64::from(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            store: StoreId([3; 16]),
            shard: ShardId(2),
            number: 9,
            collection: CollectionId(4),
        }
    }

    fn meta() -> MetaPage {
        MetaPage {
            filter_bytes: UNIT,
            index_bytes: 2 * UNIT,
            directory: Part { bytes: 100, crc: 2 },
            data_bytes: 3 * UNIT,
            packing: Packing::Plain,
            pages: 2,
            entries: 10,
            tombstones: 1,
            keys: 9,
            seqs: (Seq(1), Seq(20)),
            heights: (Height(5), Height(6)),
            key_min: vec![0; KEY_BYTES_MAX],
            key_max: vec![255; KEY_BYTES_MAX],
        }
    }

    #[test]
    fn fixed_units_round_trip() {
        let checksum = SegmentHome { store: StoreId([3; 16]), shard: ShardId(2) }.checksum(9);
        let unit = header().encode(checksum);
        assert_eq!(unit.len(), IO_UNIT_BYTES);
        assert_eq!(Header::decode(&unit).unwrap(), header());
        assert!(Header::verifies(&unit, checksum));
        let unit = meta().encode();
        assert_eq!(unit.len(), IO_UNIT_BYTES, "the longest keys fit into one unit");
        assert_eq!(MetaPage::decode(&unit).unwrap(), meta());
        let footer = Footer { version: VERSION, file_bytes: 9 * UNIT, meta_crc: 7 };
        assert_eq!(Footer::decode(&footer.encode()).unwrap(), footer);
    }

    #[test]
    fn checksums_differ_between_files() {
        let home = SegmentHome { store: StoreId([3; 16]), shard: ShardId(2) };
        let unit = vec![0; IO_UNIT_BYTES];
        let crc = home.checksum(1).of(&unit);
        assert_ne!(crc, home.checksum(2).of(&unit));
        assert_ne!(crc, SegmentHome { shard: ShardId(3), ..home }.checksum(1).of(&unit));
        assert_ne!(crc, SegmentHome { store: StoreId([4; 16]), ..home }.checksum(1).of(&unit));
        assert!(!Header::verifies(&header().encode(home.checksum(9)), home.checksum(8)));
    }

    #[test]
    fn parts_must_fill_the_file() {
        let offsets = meta().offsets(UNIT * (1 + 3 + 1 + 2 + 1 + 2)).unwrap();
        let expected = Offsets {
            dictionary: 4 * UNIT,
            filter: 4 * UNIT,
            index: 5 * UNIT,
            directory: 7 * UNIT,
            meta: 8 * UNIT,
        };
        assert_eq!(offsets, expected);
        assert_eq!(meta().offsets(UNIT * 9), None);
        let packing = Packing::Packed { dictionary: Part { bytes: UNIT + 1, crc: 3 }, content_crc: 4 };
        let packed = MetaPage { packing, ..meta() };
        assert_eq!(MetaPage::decode(&packed.encode()).unwrap(), packed);
        let offsets = packed.offsets(UNIT * (1 + 2 + 1 + 2 + 1 + 2)).unwrap();
        let expected = Offsets {
            dictionary: UNIT,
            filter: 3 * UNIT,
            index: 4 * UNIT,
            directory: 6 * UNIT,
            meta: 7 * UNIT,
        };
        assert_eq!(offsets, expected);
        let lies = [
            MetaPage { data_bytes: u64::MAX, ..meta() },
            MetaPage { filter_bytes: UNIT - 1, index_bytes: 2 * UNIT + 1, ..meta() },
            MetaPage { index_bytes: u64::MAX, ..meta() },
            MetaPage { directory: Part { bytes: u64::MAX, crc: 0 }, ..meta() },
        ];
        assert!(lies.iter().all(|lie| lie.offsets(UNIT * 10).is_none()));
    }

    #[test]
    fn zeros_do_not_decode() {
        let unit = [0; IO_UNIT_BYTES];
        Header::decode(&unit).unwrap_err();
        Footer::decode(&unit).unwrap_err();
        MetaPage::decode(&unit).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(meta) = MetaPage::decode(&bytes) {
                let _: Option<Offsets> = meta.offsets(UNIT * 10);
            }
            let _: (Result<_, _>, Result<_, _>) = (Header::decode(&bytes), Footer::decode(&bytes));
        }
    }
}
