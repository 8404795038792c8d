//! The engine's own collections: the chain by height, and how far work in the background has come.

use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};
use op_engine_shards::catalog::{CollectionSpec, History, Layout};
use op_engine_shards::tier::TierPolicy;
use op_engine_shards::visibility::Scope;
use op_engine_shards::{BlockHash, CollectionId, Height, Seq};

use crate::engine::chain_window::Tip;
use crate::engine::prepare::get_each;
use crate::engine::shared::Shared;
use crate::error::Result;

/// Users' collections may not begin with this.
pub(crate) const RESERVED_PREFIX: &str = "op-engine/";

const CHAIN_NAME: &str = "op-engine/chain";
const CHAIN_VERSION: u8 = 1;

/// The engine's own collections: the first of every catalog.
pub(crate) fn specs() -> [CollectionSpec; 3] {
    [chain_spec(), progress_spec(Scope::Chain), progress_spec(Scope::Global)]
}

/// The collection that holds how far work in the background has come. There are two: work on what follows the chain is
/// taken back by a reorg together with the record of it.
pub(crate) fn progress_spec(scope: Scope) -> CollectionSpec {
    let (id, name) = match scope {
        Scope::Chain => (2, "op-engine/progress"),
        // What a reorg empties needs no work afterwards.
        Scope::Global | Scope::Cleared => (3, "op-engine/progress-global"),
    };
    CollectionSpec {
        id: CollectionId(id),
        name: name.to_owned(),
        scope: if scope == Scope::Chain { Scope::Chain } else { Scope::Global },
        history: History::Window,
        layout: Layout::Mutable,
        tier: TierPolicy::HOT,
        dropped: false,
        definition: vec![1],
    }
}

/// The collection that maps heights to blocks.
pub(crate) fn chain_spec() -> CollectionSpec {
    CollectionSpec {
        id: CollectionId(1),
        name: CHAIN_NAME.to_owned(),
        scope: Scope::Chain,
        history: History::All,
        layout: Layout::AppendOnly,
        tier: TierPolicy::HOT,
        dropped: false,
        definition: vec![CHAIN_VERSION],
    }
}

/// The key of a height: big-endian, so that keys sort by height.
pub(crate) fn chain_key(height: Height) -> [u8; 8] {
    height.0.to_be_bytes()
}

/// The height of a key.
pub(crate) fn chain_height(key: &[u8]) -> Result<Height, Malformed> {
    let bytes = key.try_into().map_err(|_| Malformed("a key of the chain is not 8 bytes long"))?;
    Ok(Height(u64::from_be_bytes(bytes)))
}

/// The block at a height, as a view sees it.
pub(crate) async fn block_at(shared: &Shared, view: Seq, height: Height) -> Result<Option<Tip>> {
    let id = chain_spec().id;
    let key = chain_key(height);
    let shard = shared.placement.shard(id, &key);
    let answers = get_each(shared, view, &[(shard, id, key)]).await?;
    let value = answers.iter().next().flatten();
    Ok(value.and_then(|value| BlockRecord::decode(value).ok()).map(|record| record.at(height)))
}

/// What the chain collection holds for a height.
///
/// | bytes | field |
/// |---|---|
/// | 1 | version, 1 |
/// | 8 | number of the commit |
/// | 32 | hash of the block |
/// | 32 | hash of its parent |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRecord {
    seq: Seq,
    hash: BlockHash,
    parent: BlockHash,
}

impl BlockRecord {
    pub(crate) fn of(block: Tip) -> Self {
        Self { seq: block.seq, hash: block.hash, parent: block.parent }
    }

    pub(crate) fn at(self, height: Height) -> Tip {
        Tip { height, hash: self.hash, parent: self.parent, seq: self.seq }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.u8(CHAIN_VERSION);
        out.u64(self.seq.0);
        out.raw(&self.hash.0);
        out.raw(&self.parent.0);
        out.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        if input.u8()? != CHAIN_VERSION {
            return Err(Malformed("a record of the chain has an unknown version"));
        }
        let record = Self {
            seq: Seq(input.u64()?),
            hash: BlockHash(input.array()?),
            parent: BlockHash(input.array()?),
        };
        input.finish()?;
        Ok(record)
    }
}
