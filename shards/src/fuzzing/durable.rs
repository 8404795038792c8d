//! The superblock, and what frames carry: catalogs, changes of the manifest, operations.

use super::{seal_sector, trimmed};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::catalog::{Catalog, ColdMark, CollectionSpec, History, Layout};
use crate::cold_mark;
use crate::error::Result;
use crate::ids::{CollectionId, Height, Seq, StoreId};
use crate::manifest::{Edit, Horizon, ManifestState};
use crate::ops::{self, Op};
use crate::segment_meta::{Level, Place, SegmentMeta, Tier};
use crate::superblock::Superblock;
use crate::tier::TierPolicy;
use crate::visibility::{Rollback, Scope};

const SUPERBLOCK_CHECKED_BYTES: usize = 508;
const COPY: u8 = 1;

/// What `decode` accepts is what `encode` makes of it again.
fn check_form<T>(
    bytes: &[u8],
    decode: impl Fn(&mut ByteReader<'_>) -> Result<T, Malformed>,
    encode: impl Fn(&T, &mut ByteWriter),
) -> Option<T> {
    let mut input = ByteReader::new(bytes);
    let value = decode(&mut input).ok()?;
    let mut out = ByteWriter::new();
    encode(&value, &mut out);
    assert!(
        bytes.strip_suffix(input.rest()) == Some(out.as_slice()),
        "what is accepted has one form, and this is not it"
    );
    Some(value)
}

fn encoded(encode: impl FnOnce(&mut ByteWriter)) -> Vec<u8> {
    let mut out = ByteWriter::new();
    encode(&mut out);
    out.into_vec()
}

/// A copy of the superblock.
pub(super) fn superblocks(bytes: &[u8]) {
    let _: Result<_> = Superblock::decode(bytes, COPY);
    let Ok(found) = Superblock::decode(&seal_sector(bytes, SUPERBLOCK_CHECKED_BYTES), COPY) else { return };
    if let Some(superblock) = found {
        let again = Superblock::decode(&superblock.encode(COPY), COPY);
        assert_eq!(again, Ok(Some(superblock)), "a superblock comes back");
    }
}

pub(super) fn superblock_seeds() -> Vec<Vec<u8>> {
    let superblock = Superblock {
        features: 0,
        store: StoreId([7; 16]),
        shard_count: 4,
        placement_key: *b"placement key 16",
        created_by: "0.1.0".to_owned(),
        sequence: 1,
        parent_crc: 0,
    };
    let mut bytes = superblock.encode(COPY);
    bytes.truncate(SUPERBLOCK_CHECKED_BYTES);
    vec![trimmed(bytes)]
}

/// A catalog.
pub(super) fn catalogs(bytes: &[u8]) {
    let Some(catalog) = check_form(bytes, Catalog::decode, Catalog::encode) else { return };
    for spec in &catalog.collections {
        assert_eq!(catalog.get(spec.id), Some(spec), "a collection is found by its number");
    }
}

fn catalog() -> Catalog {
    let spec = |id, name: &str, scope, history, layout| CollectionSpec {
        id: CollectionId(id),
        name: name.to_owned(),
        scope,
        history,
        layout,
        tier: TierPolicy::after_confirmations(100),
        dropped: id == 4,
        definition: vec![1, 2, 3],
    };
    let collections = vec![
        spec(1, "blocks", Scope::Chain, History::All, Layout::AppendOnly),
        spec(3, "wallet", Scope::Global, History::Window, Layout::Mutable),
        spec(4, "mempool", Scope::Cleared, History::Window, Layout::Mutable),
    ];
    Catalog { cold_mark: None, collections, last: CollectionId(5) }
}

pub(super) fn catalog_seeds() -> Vec<Vec<u8>> {
    vec![encoded(|out| catalog().encode(out)), encoded(|out| Catalog::default().encode(out))]
}

/// Changes of a manifest, one after the other, as far as each fits what the ones before have led to.
pub(super) fn edits(bytes: &[u8]) {
    let mut state = ManifestState::default();
    let mut rest = bytes;
    while let Some(edit) = check_form(rest, Edit::decode, Edit::encode) {
        let Ok(next) = state.with(&edit) else { return };
        assert_eq!(
            ManifestState::default().with(&next.snapshot()).as_ref(),
            Ok(&next),
            "a snapshot is whole"
        );
        state = next;
        let taken = encoded(|out| edit.encode(out)).len();
        rest = rest.get(taken..).unwrap_or_default();
    }
}

fn segment(number: u64, seq_min: u64) -> SegmentMeta {
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

pub(super) fn edit_seeds() -> Vec<Vec<u8>> {
    let first = Edit {
        added: vec![segment(1, 10), segment(2, 20)],
        flushed: Some(Seq(24)),
        catalog: Some(catalog()),
        next_segment: 3,
        ..Edit::default()
    };
    let second = Edit {
        added: vec![segment(3, 10)],
        removed: vec![1],
        rollbacks: Some(vec![
            Rollback { seq: Seq(9), first_dead: Seq(5) },
            Rollback { seq: Seq(19), first_dead: Seq(19) },
        ]),
        horizon: Some(Horizon { height: Height(3), seq: Seq(4) }),
        next_segment: 4,
        ..Edit::default()
    };
    let both = encoded(|out| {
        first.encode(out);
        second.encode(out);
    });
    vec![both, encoded(|out| Edit { next_segment: 1, ..Edit::default() }.encode(out))]
}

/// The payload of a commit.
pub(super) fn ops(bytes: &[u8]) {
    let mut input = ByteReader::new(bytes);
    let mut out = ByteWriter::new();
    while let Ok(Some(op)) = ops::decode(&mut input) {
        ops::encode(&mut out, op);
        let taken = bytes.get(..bytes.len() - input.rest().len());
        assert_eq!(taken, Some(out.as_slice()), "an operation has one form");
    }
}

pub(super) fn ops_seeds() -> Vec<Vec<u8>> {
    let op = |collection, key, value| Op { collection: CollectionId(collection), key, value };
    vec![encoded(|out| {
        ops::encode(out, op(1, b"key", Some(b"value")));
        ops::encode(out, op(300, b"", Some(b"")));
        ops::encode(out, op(2, b"gone", None));
    })]
}

/// The mark of a cold target, its checksum put right.
pub(super) fn cold_marks(bytes: &[u8]) {
    cold_mark::fuzz(&super::seal_sector(bytes.get(..36).unwrap_or(bytes), 36));
}

pub(super) fn cold_mark_seeds() -> Vec<Vec<u8>> {
    vec![cold_mark::encode(StoreId([7; 16]), ColdMark(9))]
}
