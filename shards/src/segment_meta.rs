//! What the manifest holds of a segment: enough to find it, to skip it, and to tell it from an older file.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 8 | number | the file's number; it comes first because everything else is about that file |
//! | 4 | collection | never 0, so that zeros do not decode |
//! | 1 | level | 1 as flushed, one more with each merge up to 253, 254 in the archive, 255 at the bottom; never 0 |
//! | 8 | run | the number of the first file of the sorted run that the segment is a part of |
//! | 1 | tier | 1 hot, 2 cold, 3 warm; never 0 |
//! | 8 | cold bytes | the length of the data pages in the cold target: a multiple of the I/O unit; 0 unless cold |
//! | 8 | plain bytes | what those pages were before they were packed; 0 unless cold |
//! | 8 | file bytes | the length of the file: a multiple of the I/O unit |
//! | 8 | entries | versions in the segment, tombstones included; at least 1 |
//! | 8 | tombstones | how many of them are deletes |
//! | 8, 8 | sequence range | lowest and highest |
//! | 8, 8 | height range | lowest and highest |
//! | 4 | footer checksum | held here, outside the file, so that a stale file is caught |
//! | varint + n | lowest key | at most [`KEY_BYTES_MAX`]; above the file's own if a merge has taken over what is below |
//! | varint + n | highest key | at most [`KEY_BYTES_MAX`]; the fields without a fixed size come last |

use op_engine_io::IO_UNIT_BYTES;
use op_engine_io::num::to_u64;

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::{CollectionId, Height, Seq};
use crate::ops::KEY_BYTES_MAX;

const IO_UNIT: u64 = to_u64(IO_UNIT_BYTES);

/// How often the entries of a segment have been merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// As a flush has written it.
    pub const FLUSHED: Self = Self(1);
    /// Part of what has been archived: older than the bottom, and merged no more.
    pub const ARCHIVED: Self = Self(254);
    /// Part of the run that holds the oldest versions of all keys that are not archived.
    pub const BOTTOM: Self = Self(255);

    /// The level of what is merged from segments of this level and lower ones.
    #[must_use]
    pub fn above(self) -> Self {
        Self(self.0.saturating_add(1).min(Self::ARCHIVED.0 - 1))
    }

    /// The number in tables: 1 as flushed, 254 in the archive, 255 at the bottom.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Where a segment stands among those of its collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// How often its entries have been merged.
    pub level: Level,
    /// The sorted run that it is a part of: files whose keys do not overlap.
    pub run: u64,
}

/// Where the data pages of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In its file.
    Hot,
    /// In an object of the cold target, of the same number. Its file has the filter and the page index.
    Cold {
        /// The length of the data pages in the object, packed and padded: a multiple of the I/O unit.
        data_bytes: u64,
        /// The length of the pages before they were packed.
        plain_bytes: u64,
    },
    /// In its file, to which they were brought back. They stay there until they are wanted in the cold target again.
    Warm,
}

impl Tier {
    /// Whether the data pages are in the cold target.
    #[must_use]
    pub fn is_cold(self) -> bool {
        matches!(self, Self::Cold { .. })
    }

    fn encode(self, out: &mut ByteWriter) {
        let (code, data_bytes, plain_bytes) = match self {
            Self::Hot => (1, 0, 0),
            Self::Cold { data_bytes, plain_bytes } => (2, data_bytes, plain_bytes),
            Self::Warm => (3, 0, 0),
        };
        out.u8(code);
        out.u64(data_bytes);
        out.u64(plain_bytes);
    }

    fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        match (input.u8()?, input.u64()?, input.u64()?) {
            (1, 0, 0) => Ok(Self::Hot),
            (2, data_bytes, plain_bytes) if data_bytes > 0 && data_bytes.is_multiple_of(IO_UNIT) => {
                Ok(Self::Cold { data_bytes, plain_bytes })
            }
            (3, 0, 0) => Ok(Self::Warm),
            _ => Err(Malformed("a segment is in no tier")),
        }
    }
}

/// What the manifest holds of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The number of the segment's file, unique on its shard and never reused.
    pub number: u64,
    /// The collection or index that the segment belongs to.
    pub collection: CollectionId,
    /// Where it stands among the segments of the collection.
    pub place: Place,
    /// Where its data pages are.
    pub tier: Tier,
    /// The length of the file.
    pub file_bytes: u64,
    /// How many versions it holds, tombstones included.
    pub entries: u64,
    /// How many of them are tombstones.
    pub tombstones: u64,
    /// The lowest key that still counts: entries of lower keys have been merged into another segment.
    pub key_min: Vec<u8>,
    /// The highest key.
    pub key_max: Vec<u8>,
    /// The lowest sequence number of an entry.
    pub seq_min: Seq,
    /// The highest sequence number of an entry.
    pub seq_max: Seq,
    /// The lowest height at which an entry was written.
    pub height_min: Height,
    /// The highest height at which an entry was written.
    pub height_max: Height,
    /// The checksum of the file's footer.
    pub footer_crc: u32,
}

impl SegmentMeta {
    /// The length of its file and of its object, if it has one.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        match self.tier {
            Tier::Hot | Tier::Warm => self.file_bytes,
            Tier::Cold { data_bytes, .. } => self.file_bytes.saturating_add(data_bytes),
        }
    }

    /// The fewest bytes that an encoded value has.
    pub const BYTES_MIN: usize = 8 + 4 + 1 + 8 + 17 + 3 * 8 + 4 * 8 + 4 + 2;

    /// Writes the value as the table of this module says.
    pub fn encode(&self, out: &mut ByteWriter) {
        out.u64(self.number);
        out.u32(self.collection.0);
        out.u8(self.place.level.0);
        out.u64(self.place.run);
        self.tier.encode(out);
        out.u64(self.file_bytes);
        out.u64(self.entries);
        out.u64(self.tombstones);
        out.u64(self.seq_min.0);
        out.u64(self.seq_max.0);
        out.u64(self.height_min.0);
        out.u64(self.height_max.0);
        out.u32(self.footer_crc);
        out.bytes(&self.key_min);
        out.bytes(&self.key_max);
    }

    /// Reads back what [`SegmentMeta::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let meta = Self {
            number: input.u64()?,
            collection: CollectionId(input.u32()?),
            place: Place { level: Level(input.u8()?), run: input.u64()? },
            tier: Tier::decode(input)?,
            file_bytes: input.u64()?,
            entries: input.u64()?,
            tombstones: input.u64()?,
            seq_min: Seq(input.u64()?),
            seq_max: Seq(input.u64()?),
            height_min: Height(input.u64()?),
            height_max: Height(input.u64()?),
            footer_crc: input.u32()?,
            key_min: input.bytes(KEY_BYTES_MAX)?.to_vec(),
            key_max: input.bytes(KEY_BYTES_MAX)?.to_vec(),
        };
        if meta.collection.0 == 0 {
            return Err(Malformed("a segment belongs to collection 0"));
        }
        if meta.place.level.0 == 0 {
            return Err(Malformed("a segment has level 0"));
        }
        if meta.tier != Tier::Hot && meta.place.level != Level::ARCHIVED {
            return Err(Malformed("a segment is cold and not archived"));
        }
        if meta.entries == 0 || meta.tombstones > meta.entries {
            return Err(Malformed("the counts of a segment contradict each other"));
        }
        if meta.seq_min > meta.seq_max || meta.height_min > meta.height_max || meta.key_min > meta.key_max {
            return Err(Malformed("a range of a segment is reversed"));
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARCHIVE: Place = Place { level: Level::ARCHIVED, run: 5 };

    fn sample() -> SegmentMeta {
        SegmentMeta {
            number: 7,
            collection: CollectionId(3),
            place: Place { level: Level::FLUSHED.above(), run: 5 },
            tier: Tier::Hot,
            file_bytes: 8192,
            entries: 10,
            tombstones: 4,
            key_min: b"a".to_vec(),
            key_max: b"zz".to_vec(),
            seq_min: Seq(5),
            seq_max: Seq(9),
            height_min: Height(100),
            height_max: Height(104),
            footer_crc: 0xdead_beef,
        }
    }

    fn encoded(meta: &SegmentMeta) -> Vec<u8> {
        let mut out = ByteWriter::new();
        meta.encode(&mut out);
        out.into_vec()
    }

    #[test]
    fn round_trip() {
        let cold = SegmentMeta {
            tier: Tier::Cold { data_bytes: 8192, plain_bytes: 9000 },
            place: ARCHIVE,
            ..sample()
        };
        for meta in [sample(), cold] {
            let bytes = encoded(&meta);
            let mut input = ByteReader::new(&bytes);
            assert_eq!(SegmentMeta::decode(&mut input).unwrap(), meta);
            input.finish().unwrap();
        }
    }

    #[test]
    fn the_least_size_is_right() {
        let meta = SegmentMeta { key_min: Vec::new(), key_max: Vec::new(), ..sample() };
        assert_eq!(encoded(&meta).len(), SegmentMeta::BYTES_MIN);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encoded(&sample());
        for end in 0..bytes.len() {
            SegmentMeta::decode(&mut ByteReader::new(&bytes[..end])).unwrap_err();
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            SegmentMeta { collection: CollectionId(0), ..sample() },
            SegmentMeta { tier: Tier::Warm, ..sample() },
            SegmentMeta { tier: Tier::Cold { data_bytes: 100, plain_bytes: 9 }, place: ARCHIVE, ..sample() },
            SegmentMeta { entries: 0, tombstones: 0, ..sample() },
            SegmentMeta { place: Place { level: Level(0), run: 5 }, ..sample() },
            SegmentMeta { tombstones: 11, ..sample() },
            SegmentMeta { seq_min: Seq(10), ..sample() },
            SegmentMeta { height_min: Height(105), ..sample() },
            SegmentMeta { key_min: b"zzz".to_vec(), ..sample() },
        ];
        for meta in cases {
            SegmentMeta::decode(&mut ByteReader::new(&encoded(&meta))).unwrap_err();
        }
        SegmentMeta::decode(&mut ByteReader::new(&[0; 200])).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(meta) = SegmentMeta::decode(&mut ByteReader::new(&bytes)) {
                prop_assert!(bytes.starts_with(&encoded(&meta)));
            }
        }
    }
}
