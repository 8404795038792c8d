//! The decoders of what the engine itself keeps, to be fed with any bytes: see [`crate::fuzzing`].

use op_engine_shards::CollectionId;
use op_engine_shards::catalog::{CollectionSpec, History, Layout};
use op_engine_shards::tier::TierPolicy;
use op_engine_shards::visibility::Scope;

use crate::engine::chain_window::Tip;
use crate::engine::definition::{self, Definition};
use crate::engine::progress::{Position, Stage, Work, decode_row, work_key};
use crate::engine::system::{BlockRecord, chain_height, chain_key};
use crate::{BlockHash, Height, Seq};

pub(crate) use crate::engine::scan::{token_seeds, tokens};

/// The record of a block, after its height.
pub(crate) fn chain_records(bytes: &[u8]) {
    let Some((key, value)) = bytes.split_at_checked(8) else { return };
    let height = chain_height(key);
    assert_eq!(height.map(chain_key).as_ref().map(<[u8; 8]>::as_slice), Ok(key), "a height has one form");
    if let Ok(record) = BlockRecord::decode(value) {
        assert_eq!(record.encode(), value, "a record has one form");
    }
}

pub(crate) fn chain_record_seeds() -> Vec<Vec<u8>> {
    let (hash, parent) = (BlockHash([1; 32]), BlockHash([2; 32]));
    let block = Tip { height: Height(3), hash, parent, seq: Seq(9) };
    vec![[&chain_key(block.height)[..], &BlockRecord::of(block).encode()].concat()]
}

/// A record of work in the background, after the number of what is worked on.
pub(crate) fn work_records(bytes: &[u8]) {
    let Some((key, value)) = bytes.split_at_checked(4) else { return };
    let Ok((id, work)) = decode_row(key, value) else { return };
    assert_eq!((&work_key(id)[..], work.encode().as_slice()), (key, value), "a record has one form");
}

pub(crate) fn work_record_seeds() -> Vec<Vec<u8>> {
    let stages = [
        Stage::Running(Position::default()),
        Stage::Running(Position { shard: 3, after: Some(vec![0, 7, 255]) }),
        Stage::Complete(Seq(77)),
        Stage::Failed("twice: \u{fc}".to_owned()),
    ];
    let seed = |stage| {
        let work = Work { stage, records: 500, removed: 3, below: 800_000 };
        [&work_key(CollectionId(7))[..], &work.encode()].concat()
    };
    stages.map(seed).to_vec()
}

/// Two definitions, the length of the first before it. They can be compared if both are whole.
pub(crate) fn definitions(bytes: &[u8]) {
    let Some((first_bytes, bytes)) = bytes.split_first() else { return };
    let Some((first, second)) = bytes.split_at_checked(usize::from(*first_bytes)) else { return };
    let spec = |definition: &[u8]| CollectionSpec {
        id: CollectionId(1),
        name: "collection".to_owned(),
        scope: Scope::Chain,
        history: History::Window,
        layout: Layout::Mutable,
        tier: TierPolicy::HOT,
        dropped: false,
        definition: definition.to_vec(),
    };
    for bytes in [first, second] {
        if let Ok(definition) = Definition::decode(bytes) {
            assert_eq!(definition.encode(), bytes, "a definition has one form");
            let differs = definition::differences(&spec(bytes), &spec(bytes));
            assert!(differs.is_ok_and(|found| found.is_empty()), "a definition is its own");
        }
    }
    let compared = definition::differences(&spec(first), &spec(second));
    let both = Definition::decode(first).is_ok() && Definition::decode(second).is_ok();
    assert_eq!(compared.is_ok(), both, "what is whole can be compared");
}

pub(crate) fn definition_seeds() -> Vec<Vec<u8>> {
    let collection = b"\x01\x00\x02\x07bytes32";
    let index = b"\x02\x01\x01\x11(text, desc u64)!\x02\x01";
    let pair = |first: &[u8], second: &[u8]| {
        let length = first.len().to_le_bytes().into_iter().next().unwrap_or_default();
        [&[length], first, second].concat()
    };
    vec![pair(collection, index), pair(index, index)]
}
