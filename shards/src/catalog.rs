//! The collections of a store: what shards know of them.

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::CollectionId;
use crate::visibility::Scope;

/// Collections and indexes that a store may have at most.
pub const COLLECTIONS_MAX: usize = 1024;
/// Bytes of a collection's name at most.
pub const NAME_BYTES_MAX: usize = 255;

/// How far back versions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum History {
    /// Back to the reorg horizon, and as held snapshots need.
    Window,
    /// Every version for ever.
    All,
}

/// How a collection's segments are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Keys are overwritten and deleted.
    Mutable,
    /// Keys are written once, in the order of blocks.
    AppendOnly,
}

/// What a shard knows of a collection or of an index, which is a collection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionSpec {
    /// Its number in every file.
    pub id: CollectionId,
    /// Its name, unique in the store.
    pub name: String,
    /// Whether it follows reorgs.
    pub scope: Scope,
    /// How far back its versions are kept.
    pub history: History,
    /// How its segments are merged.
    pub layout: Layout,
    /// What the layers above need to recognise a changed definition. Opaque here.
    pub definition: Vec<u8>,
}

/// All collections of a store, by ascending number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The collections, by ascending number.
    pub collections: Vec<CollectionSpec>,
}

impl Catalog {
    /// The collection with a number.
    #[must_use]
    pub fn get(&self, id: CollectionId) -> Option<&CollectionSpec> {
        let at = self.collections.binary_search_by_key(&id, |spec| spec.id).ok()?;
        self.collections.get(at)
    }

    /// The collection with a name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&CollectionSpec> {
        self.collections.iter().find(|spec| spec.name == name)
    }

    /// Writes the catalog.
    ///
    /// | bytes | field |
    /// |---|---|
    /// | varint | count |
    /// | 4 | id, for each collection |
    /// | 1, 1, 1 | scope, history, layout; each from 1, so that zeros never decode |
    /// | varint + n | name, UTF-8 |
    /// | varint + n | definition |
    pub fn encode(&self, out: &mut ByteWriter) {
        out.varint(op_engine_io::num::to_u64(self.collections.len()));
        for spec in &self.collections {
            out.u32(spec.id.0);
            out.u8(match spec.scope {
                Scope::Chain => 1,
                Scope::Global => 2,
                Scope::Cleared => 3,
            });
            out.u8(match spec.history {
                History::Window => 1,
                History::All => 2,
            });
            out.u8(match spec.layout {
                Layout::Mutable => 1,
                Layout::AppendOnly => 2,
            });
            out.bytes(spec.name.as_bytes());
            out.bytes(&spec.definition);
        }
    }

    /// Reads back what [`Catalog::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let count = input.count(COLLECTIONS_MAX, 4 + 3 + 2)?;
        let mut collections: Vec<CollectionSpec> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = CollectionId(input.u32()?);
            if id.0 == 0 || collections.last().is_some_and(|last| last.id >= id) {
                return Err(Malformed("collection numbers do not ascend"));
            }
            let scope = match input.u8()? {
                1 => Scope::Chain,
                2 => Scope::Global,
                3 => Scope::Cleared,
                _ => return Err(Malformed("unknown scope")),
            };
            let history = match input.u8()? {
                1 => History::Window,
                2 => History::All,
                _ => return Err(Malformed("unknown history")),
            };
            let layout = match input.u8()? {
                1 => Layout::Mutable,
                2 => Layout::AppendOnly,
                _ => return Err(Malformed("unknown layout")),
            };
            let name = std::str::from_utf8(input.bytes(NAME_BYTES_MAX)?)
                .map_err(|_| Malformed("a collection name is not UTF-8"))?
                .to_owned();
            let definition = input.bytes(1 << 20)?.to_vec();
            collections.push(CollectionSpec { id, name, scope, history, layout, definition });
        }
        Ok(Self { collections })
    }
}
