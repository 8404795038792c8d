//! One change of a shard's manifest.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 1 | which optional fields follow | bit 0 flushed, 1 rollbacks, 2 horizon, 3 catalog; other bits are refused |
//! | 8 | next segment | the lowest number that no segment ever had; never 0, so that zeros do not decode |
//! | 8 | flushed | if bit 0 |
//! | varint | count of rollbacks | if bit 1 |
//! | 8, 8 | number, first dead | for each of them, by ascending number |
//! | 8, 8 | height and number of the horizon | if bit 2 |
//! | n | catalog | if bit 3 |
//! | varint | count of removed segments | |
//! | 8 | number | for each of them |
//! | varint | count of added segments | |
//! | n | segment | for each of them |
//!
//! The longest part comes last, behind everything of known size.

use op_engine_io::num::to_u64;

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::catalog::Catalog;
use crate::ids::{Height, Seq};
use crate::log::COUNTER_MAX;
use crate::segment_meta::SegmentMeta;
use crate::visibility::Rollback;

/// Segments that a shard may have at most.
pub const SEGMENTS_MAX: usize = 1 << 20;
/// Rollbacks that matter to one shard at most.
pub const ROLLBACKS_MAX: usize = 1 << 16;

const HAS_FLUSHED: u8 = 1;
const HAS_ROLLBACKS: u8 = 1 << 1;
const HAS_HORIZON: u8 = 1 << 2;
const HAS_CATALOG: u8 = 1 << 3;

/// The lowest block that can still be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Horizon {
    /// Its height.
    pub height: Height,
    /// Its commit.
    pub seq: Seq,
}

/// One change of a shard's manifest. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Segments that become live.
    pub added: Vec<SegmentMeta>,
    /// The numbers of segments that are live no longer.
    pub removed: Vec<u64>,
    /// Every commit up to this one is in segments.
    pub flushed: Option<Seq>,
    /// The rollbacks that still matter, oldest first.
    pub rollbacks: Option<Vec<Rollback>>,
    /// The lowest block that can still be reached.
    pub horizon: Option<Horizon>,
    /// The collections.
    pub catalog: Option<Catalog>,
    /// The lowest number that no segment ever had. From 1.
    pub next_segment: u64,
}

impl Edit {
    /// Writes the change as the table of this module says.
    pub fn encode(&self, out: &mut ByteWriter) {
        let has = |present: bool, bit: u8| if present { bit } else { 0 };
        out.u8(has(self.flushed.is_some(), HAS_FLUSHED)
            | has(self.rollbacks.is_some(), HAS_ROLLBACKS)
            | has(self.horizon.is_some(), HAS_HORIZON)
            | has(self.catalog.is_some(), HAS_CATALOG));
        out.u64(self.next_segment);
        if let Some(flushed) = self.flushed {
            out.u64(flushed.0);
        }
        if let Some(rollbacks) = &self.rollbacks {
            out.varint(to_u64(rollbacks.len()));
            for rollback in rollbacks {
                out.u64(rollback.seq.0);
                out.u64(rollback.first_dead.0);
            }
        }
        if let Some(horizon) = self.horizon {
            out.u64(horizon.height.0);
            out.u64(horizon.seq.0);
        }
        if let Some(catalog) = &self.catalog {
            catalog.encode(out);
        }
        out.varint(to_u64(self.removed.len()));
        self.removed.iter().for_each(|number| out.u64(*number));
        out.varint(to_u64(self.added.len()));
        self.added.iter().for_each(|segment| segment.encode(out));
    }

    /// Reads back what [`Edit::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let has = input.u8()?;
        if has & !(HAS_FLUSHED | HAS_ROLLBACKS | HAS_HORIZON | HAS_CATALOG) != 0 {
            return Err(Malformed("unknown fields in a manifest record"));
        }
        let next_segment = counter(input)?;
        if next_segment == 0 {
            return Err(Malformed("segments are numbered from 1"));
        }
        let flushed = if has & HAS_FLUSHED != 0 { Some(Seq(counter(input)?)) } else { None };
        let rollbacks = if has & HAS_ROLLBACKS != 0 { Some(decode_rollbacks(input)?) } else { None };
        let horizon = if has & HAS_HORIZON != 0 {
            Some(Horizon { height: Height(counter(input)?), seq: Seq(counter(input)?) })
        } else {
            None
        };
        let catalog = if has & HAS_CATALOG != 0 { Some(Catalog::decode(input)?) } else { None };
        let count = input.count(SEGMENTS_MAX, 8)?;
        let removed = (0..count).map(|_| input.u64()).collect::<Result<_, _>>()?;
        let count = input.count(SEGMENTS_MAX, SegmentMeta::BYTES_MIN)?;
        let added = (0..count).map(|_| SegmentMeta::decode(input)).collect::<Result<_, _>>()?;
        Ok(Self { added, removed, flushed, rollbacks, horizon, catalog, next_segment })
    }
}

fn decode_rollbacks(input: &mut ByteReader<'_>) -> Result<Vec<Rollback>, Malformed> {
    let count = input.count(ROLLBACKS_MAX, 16)?;
    let mut rollbacks: Vec<Rollback> = Vec::with_capacity(count);
    for _ in 0..count {
        let rollback = Rollback { seq: Seq(counter(input)?), first_dead: Seq(counter(input)?) };
        if rollback.first_dead > rollback.seq || rollbacks.last().is_some_and(|last| last.seq >= rollback.seq)
        {
            return Err(Malformed("rollbacks are out of order"));
        }
        rollbacks.push(rollback);
    }
    Ok(rollbacks)
}

fn counter(input: &mut ByteReader<'_>) -> Result<u64, Malformed> {
    let value = input.u64()?;
    if value > COUNTER_MAX { Err(Malformed("a number is out of range")) } else { Ok(value) }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{CollectionSpec, History, Layout};
    use crate::ids::CollectionId;
    use crate::segment_meta::{Level, Place, Tier};
    use crate::tier::TierPolicy;
    use crate::visibility::Scope;

    pub(in crate::manifest) fn segment(number: u64, seq_min: u64) -> SegmentMeta {
        SegmentMeta {
            number,
            collection: CollectionId(1),
            place: Place { level: Level::FLUSHED, run: number },
            tier: Tier::Hot,
            file_bytes: 8192,
            entries: 10,
            tombstones: 1,
            key_min: b"a".to_vec(),
            key_max: b"m".to_vec(),
            seq_min: Seq(seq_min),
            seq_max: Seq(seq_min + 4),
            height_min: Height(seq_min),
            height_max: Height(seq_min + 4),
            footer_crc: 77,
        }
    }

    pub(in crate::manifest) fn catalog() -> Catalog {
        Catalog {
            cold_mark: Some(crate::catalog::ColdMark(5)),
            collections: vec![CollectionSpec {
                id: CollectionId(1),
                name: "utxos".to_owned(),
                scope: Scope::Chain,
                history: History::Window,
                layout: Layout::Mutable,
                tier: TierPolicy::HOT,
                dropped: false,
                definition: vec![1, 2, 3],
            }],
            last: CollectionId(1),
        }
    }

    fn full() -> Edit {
        Edit {
            added: vec![segment(3, 10), segment(4, 20)],
            removed: vec![1, 2],
            flushed: Some(Seq(24)),
            rollbacks: Some(vec![
                Rollback { seq: Seq(9), first_dead: Seq(5) },
                Rollback { seq: Seq(19), first_dead: Seq(19) },
            ]),
            horizon: Some(Horizon { height: Height(3), seq: Seq(4) }),
            catalog: Some(catalog()),
            next_segment: 5,
        }
    }

    fn encoded(edit: &Edit) -> Vec<u8> {
        let mut out = ByteWriter::new();
        edit.encode(&mut out);
        out.into_vec()
    }

    #[test]
    fn round_trip() {
        for edit in [full(), Edit { next_segment: 1, ..Edit::default() }] {
            let bytes = encoded(&edit);
            let mut input = ByteReader::new(&bytes);
            assert_eq!(Edit::decode(&mut input).unwrap(), edit);
            input.finish().unwrap();
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encoded(&full());
        for end in 0..bytes.len() {
            Edit::decode(&mut ByteReader::new(&bytes[..end])).unwrap_err();
        }
        Edit::decode(&mut ByteReader::new(&[0; 64])).unwrap_err();
    }

    #[test]
    fn contradictions_are_refused() {
        let reversed = vec![Rollback { seq: Seq(5), first_dead: Seq(6) }];
        let unordered =
            vec![Rollback { seq: Seq(5), first_dead: Seq(5) }, Rollback { seq: Seq(5), first_dead: Seq(4) }];
        for edit in [
            Edit { next_segment: 0, ..full() },
            Edit { flushed: Some(Seq(u64::MAX)), ..full() },
            Edit { rollbacks: Some(reversed), ..full() },
            Edit { rollbacks: Some(unordered), ..full() },
        ] {
            Edit::decode(&mut ByteReader::new(&encoded(&edit))).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(edit) = Edit::decode(&mut ByteReader::new(&bytes)) {
                prop_assert!(bytes.starts_with(&encoded(&edit)));
            }
        }
    }
}
