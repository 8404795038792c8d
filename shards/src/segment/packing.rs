//! Packed pages: pages of cold segments, each compressed by itself, so that a read unpacks one page only.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 1 as it is, 2 zstd, 3 zstd with the dictionary of the segment; never 0 |
//! | 4 | length of the page |
//! | 4 | length of what is packed |
//! | n | what is packed: one zstd frame, or the page |
//! | zeros | up to the unit of packed pages |
//!
//! The length of the page comes before everything that depends on it: it is held against a cap before memory is taken, so
//! that a few bytes cannot make a reader unpack gigabytes. A page that zstd does not make shorter is kept as it is.
//!
//! Source of the compressed format and of dictionaries: RFC 8878.

use std::cell::RefCell;
use std::rc::Rc;

use quick_cache::unsync::Cache;
use zstd::bulk::{Compressor, Decompressor};

use super::format::{from_u32, to_u32};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ops::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of a dictionary at most. Longer ones gain nothing on pages of some tens of KiB.
pub(super) const DICTIONARY_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a page at most: a page grows beyond its usual length only for one entry.
const PAGE_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + (256 << 10);
/// A dictionary is used if what it saves is more than this part of the packed bytes.
const GAIN_MIN: usize = 50;
/// Dictionaries that a shard keeps ready.
const READY_MAX: usize = 16;

const PLAIN: u8 = 1;
const ZSTD: u8 = 2;
const ZSTD_WITH_DICTIONARY: u8 = 3;

/// How pages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    /// The level of zstd, 1 to 19: a higher one takes longer and packs closer.
    pub level: i8,
    /// Whether to train a dictionary for each segment. It is used if it saves something.
    pub dictionary: bool,
}

impl Compression {
    /// Level 3 with a dictionary.
    pub const DEFAULT: Self = Self { level: 3, dictionary: true };
    /// The levels that there are.
    pub const LEVELS: std::ops::RangeInclusive<i8> = 1..=19;
}

impl Default for Compression {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A dictionary for pages like these; none if none saves anything. Takes long.
pub(super) fn train(pages: &[Vec<u8>], compression: Compression) -> Option<Vec<u8>> {
    let bytes_max = op_engine_io::num::to_usize(DICTIONARY_BYTES_MAX / 2);
    let trained = zstd::dict::from_samples(pages, bytes_max).ok()?;
    let with = packed_bytes(pages, compression, &trained)? + trained.len();
    let without = packed_bytes(pages, compression, &[])?;
    (with + with / GAIN_MIN < without).then_some(trained)
}

/// What pages take, packed with a dictionary or, if that is empty, without.
fn packed_bytes(pages: &[Vec<u8>], compression: Compression, dictionary: &[u8]) -> Option<usize> {
    let mut compressor = Compressor::with_dictionary(i32::from(compression.level), dictionary).ok()?;
    pages.iter().map(|page| Some(compressor.compress(page).ok()?.len())).sum()
}

/// Packs pages, in their order. Takes long.
pub(super) fn pack_all(
    pages: &[Vec<u8>],
    compression: Compression,
    dictionary: &[u8],
    unit: usize,
) -> Vec<Vec<u8>> {
    let mut compressor = Compressor::with_dictionary(i32::from(compression.level), dictionary).ok();
    let code = if dictionary.is_empty() { ZSTD } else { ZSTD_WITH_DICTIONARY };
    pages
        .iter()
        .map(|page| {
            let packed = compressor.as_mut().and_then(|compressor| compressor.compress(page).ok());
            match packed.filter(|packed| packed.len() < page.len()) {
                Some(packed) => framed(code, page.len(), &packed, unit),
                None => framed(PLAIN, page.len(), page, unit),
            }
        })
        .collect()
}

fn framed(code: u8, page_bytes: usize, packed: &[u8], unit: usize) -> Vec<u8> {
    let mut out = ByteWriter::new();
    out.u8(code);
    out.u32(to_u32(page_bytes));
    out.u32(to_u32(packed.len()));
    out.raw(packed);
    let mut bytes = out.into_vec();
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
    bytes
}

/// Unpacks the pages of one segment.
pub(super) struct Unpacker(RefCell<Decompressor<'static>>);

impl Unpacker {
    /// For pages that were packed with this dictionary, or without one if it is empty.
    pub(super) fn new(dictionary: &[u8]) -> Result<Self, Malformed> {
        let decompressor = Decompressor::with_dictionary(dictionary);
        decompressor.map(|it| Self(RefCell::new(it))).map_err(|_| Malformed("a dictionary cannot be used"))
    }

    /// The page in bytes whose checksum holds.
    pub(super) fn unpack(&self, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut input = ByteReader::new(bytes);
        let code = input.u8()?;
        let page_bytes = from_u32(input.u32()?);
        let packed_bytes = from_u32(input.u32()?);
        let packed = input.raw(packed_bytes)?;
        if page_bytes > PAGE_BYTES_MAX {
            return Err(Malformed("a packed page would be longer than any page is"));
        }
        let page = match code {
            PLAIN => packed.to_vec(),
            ZSTD | ZSTD_WITH_DICTIONARY => {
                self.0.borrow_mut().decompress(packed, page_bytes).map_err(|_| {
                    Malformed("a packed page cannot be unpacked; its dictionary may be another one")
                })?
            }
            _ => return Err(Malformed("a page is packed in an unknown way")),
        };
        if page.len() != page_bytes {
            return Err(Malformed("a packed page is not as long as it says"));
        }
        Ok(page)
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

/// The unpackers that were used last, by number of segment. Each has a dictionary and the state of zstd.
pub(super) struct Unpackers(RefCell<Cache<u64, Rc<Unpacker>>>);

impl Unpackers {
    pub(super) fn get(&self, segment: u64) -> Option<Rc<Unpacker>> {
        self.0.borrow().get(&segment).cloned()
    }

    pub(super) fn keep(&self, segment: u64, unpacker: Rc<Unpacker>) {
        self.0.borrow_mut().insert(segment, unpacker);
    }
}

impl Default for Unpackers {
    fn default() -> Self {
        Self(RefCell::new(Cache::new(READY_MAX)))
    }
}

impl std::fmt::Debug for Unpackers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpackers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: usize = 64;

    fn bytes_of(pages: &[Vec<u8>]) -> usize {
        pages.iter().map(Vec::len).sum()
    }

    /// Pages of scripts that occur again and again, but not in the same page.
    fn pages(count: usize) -> Vec<Vec<u8>> {
        let mut state = 7u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        let scripts: Vec<Vec<u8>> =
            (0..200).map(|_| (0..64).map(|_| random().to_le_bytes()[0]).collect()).collect();
        let mut page = || (0..20).flat_map(|_| scripts[random() as usize % scripts.len()].clone()).collect();
        (0..count).map(|_| page()).collect()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let pages = [pages(500), vec![vec![7; 100_000], (0..=255).collect()]].concat();
        let trained = train(&pages, Compression::DEFAULT).unwrap();
        for dictionary in [&trained[..], &[]] {
            let unpacker = Unpacker::new(dictionary).unwrap();
            let packed = pack_all(&pages, Compression::DEFAULT, dictionary, UNIT);
            for (page, packed) in pages.iter().zip(&packed) {
                assert!(packed.len().is_multiple_of(UNIT));
                assert_eq!(&unpacker.unpack(packed).unwrap(), page);
            }
            assert!(bytes_of(&packed) < bytes_of(&pages));
        }
        let (with, without) = (
            pack_all(&pages, Compression::DEFAULT, &trained, UNIT),
            pack_all(&pages, Compression::DEFAULT, &[], UNIT),
        );
        assert!(bytes_of(&with) < bytes_of(&without), "a dictionary saves more than it takes");
    }

    #[test]
    fn another_dictionary_is_noticed() {
        let pages = pages(500);
        let trained = train(&pages, Compression::DEFAULT).unwrap();
        let packed = pack_all(&pages, Compression::DEFAULT, &trained, UNIT);
        Unpacker::new(&[]).unwrap().unpack(&packed[0]).unwrap_err();
    }

    /// A frame of a few bytes that says it unpacks to a lot, and one that does.
    #[test]
    fn a_bomb_is_refused_before_memory_is_taken() {
        let unpacker = Unpacker::new(&[]).unwrap();
        let bomb = zstd::bulk::compress(&vec![0; PAGE_BYTES_MAX + 1], 19).unwrap();
        assert!(bomb.len() < 10_000);
        unpacker.unpack(&framed(ZSTD, PAGE_BYTES_MAX + 1, &bomb, UNIT)).unwrap_err();
        // One that says it is short and is not gets no more than it said.
        unpacker.unpack(&framed(ZSTD, 100, &bomb, UNIT)).unwrap_err();
        unpacker.unpack(&framed(PLAIN, usize::try_from(u32::MAX).unwrap(), &[1], UNIT)).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_unpack_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300), flip in any::<prop::sample::Index>()) {
            let unpacker = Unpacker::new(&[]).unwrap();
            let _: Result<_, Malformed> = unpacker.unpack(&bytes);
            let page = [bytes.as_slice(), &[0; 600]].concat();
            let mut packed = pack_all(std::slice::from_ref(&page), Compression::DEFAULT, &[], UNIT).remove(0);
            prop_assert_eq!(&unpacker.unpack(&packed).unwrap(), &page);
            let at = flip.index(packed.len());
            packed[at] ^= 1;
            if let Ok(other) = unpacker.unpack(&packed) {
                prop_assert!(other.len() <= PAGE_BYTES_MAX);
            }
        }
    }
}
