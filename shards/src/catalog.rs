//! The collections of a store: what shards know of them.

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::CollectionId;
use crate::tier::TierPolicy;
use crate::visibility::Scope;

/// Collections and indexes that a store may have at most.
pub const COLLECTIONS_MAX: usize = 1024;
/// Bytes of a collection's name at most.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a collection's definition at most.
pub const DEFINITION_BYTES_MAX: usize = 4096;

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
    /// When its data moves to the cold target.
    pub tier: TierPolicy,
    /// Whether it is given up: nothing reads or writes it any more, and its segments are deleted.
    pub dropped: bool,
    /// What the layers above need to recognise a changed definition. Opaque here.
    pub definition: Vec<u8>,
}

/// All collections of a store, by ascending number.
///
/// A dropped collection stays until no shard holds anything of it: the WAL and the manifest may name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The collections, by ascending number.
    pub collections: Vec<CollectionSpec>,
    /// The highest number that a collection ever had. Numbers are not used again.
    pub last: CollectionId,
    /// The mark of the cold target that the store uses; `None` before the first one. A target without it is another one, or
    /// is not mounted.
    pub cold_mark: Option<ColdMark>,
}

/// A random number that a cold target carries, so that it is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColdMark(pub u64);

impl Catalog {
    /// The collection with a number.
    #[must_use]
    pub fn get(&self, id: CollectionId) -> Option<&CollectionSpec> {
        let at = self.collections.binary_search_by_key(&id, |spec| spec.id).ok()?;
        self.collections.get(at)
    }

    /// The collection with a name, unless it is dropped.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&CollectionSpec> {
        self.live().find(|spec| spec.name == name)
    }

    /// The collections that are not dropped.
    pub fn live(&self) -> impl Iterator<Item = &CollectionSpec> {
        self.collections.iter().filter(|spec| !spec.dropped)
    }

    /// Whether a collection is dropped, or was and has been forgotten.
    #[must_use]
    pub fn is_dropped(&self, id: CollectionId) -> bool {
        self.get(id).is_none_or(|spec| spec.dropped)
    }

    /// Adds a collection under the next number, which it returns. The number in `spec` does not count.
    pub fn add(&mut self, spec: CollectionSpec) -> CollectionId {
        let id = CollectionId(self.last.0 + 1);
        self.last = id;
        self.collections.push(CollectionSpec { id, ..spec });
        id
    }

    /// Gives up a collection. Tells whether there was one.
    pub fn drop_collection(&mut self, id: CollectionId) -> bool {
        match self.collections.iter_mut().find(|spec| spec.id == id && !spec.dropped) {
            Some(spec) => {
                spec.dropped = true;
                true
            }
            None => false,
        }
    }

    /// Writes the catalog.
    ///
    /// | bytes | field |
    /// |---|---|
    /// | 4 | the highest id that a collection ever had |
    /// | 1 | 1 without a cold target, 2 with one |
    /// | 8 | its mark, or 0 |
    /// | varint | count |
    /// | 4 | id, for each collection |
    /// | 1, 1, 1, 1 | scope, history, layout, 1 = live or 2 = dropped; each from 1, so that zeros never decode |
    /// | 7 | tier policy |
    /// | varint + n | name, UTF-8 |
    /// | varint + n | definition |
    pub fn encode(&self, out: &mut ByteWriter) {
        out.u32(self.last.0);
        out.u8(if self.cold_mark.is_some() { 2 } else { 1 });
        out.u64(self.cold_mark.map_or(0, |mark| mark.0));
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
            out.u8(if spec.dropped { 2 } else { 1 });
            spec.tier.encode(out);
            out.bytes(spec.name.as_bytes());
            out.bytes(&spec.definition);
        }
    }

    /// Reads back what [`Catalog::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let last = CollectionId(input.u32()?);
        let cold_mark = match (input.u8()?, input.u64()?) {
            (1, 0) => None,
            (2, mark) => Some(ColdMark(mark)),
            _ => return Err(Malformed("a store has or has no cold target")),
        };
        let count = input.count(COLLECTIONS_MAX, 4 + 4 + 7 + 2)?;
        let mut collections: Vec<CollectionSpec> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = CollectionId(input.u32()?);
            if id.0 == 0 || id > last || collections.last().is_some_and(|before| before.id >= id) {
                return Err(Malformed("collection numbers do not ascend to the highest"));
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
            let dropped = match input.u8()? {
                1 => false,
                2 => true,
                _ => return Err(Malformed("a collection is neither live nor dropped")),
            };
            let tier = TierPolicy::decode(input)?;
            let name = std::str::from_utf8(input.bytes(NAME_BYTES_MAX)?)
                .map_err(|_| Malformed("a collection name is not UTF-8"))?
                .to_owned();
            let definition = input.bytes(DEFINITION_BYTES_MAX)?.to_vec();
            collections.push(CollectionSpec { id, name, scope, history, layout, tier, dropped, definition });
        }
        Ok(Self { collections, last, cold_mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, scope: Scope, layout: Layout) -> CollectionSpec {
        CollectionSpec {
            id: CollectionId::default(),
            name: name.to_owned(),
            scope,
            history: History::All,
            layout,
            tier: TierPolicy::after_confirmations(9),
            dropped: false,
            definition: vec![1, 2, 3],
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (name, scope) in [("a", Scope::Chain), ("b", Scope::Global), ("b.c", Scope::Cleared)] {
            catalog.add(spec(name, scope, Layout::AppendOnly));
        }
        assert!(catalog.drop_collection(CollectionId(2)));
        catalog.cold_mark = Some(ColdMark(7));
        catalog
    }

    fn encoded(catalog: &Catalog) -> Vec<u8> {
        let mut out = ByteWriter::new();
        catalog.encode(&mut out);
        out.into_vec()
    }

    #[test]
    fn a_number_is_never_used_again_and_a_name_is_free_once_dropped() {
        let mut catalog = catalog();
        assert!(!catalog.drop_collection(CollectionId(2)) && catalog.is_dropped(CollectionId(2)));
        assert_eq!(catalog.by_name("b"), None);
        assert_eq!(catalog.add(spec("b", Scope::Chain, Layout::Mutable)), CollectionId(4));
        catalog.drop_collection(CollectionId(4));
        catalog.collections.retain(|spec| !spec.dropped);
        assert_eq!(catalog.add(spec("b", Scope::Chain, Layout::Mutable)), CollectionId(5));
        assert_eq!(catalog.live().map(|spec| spec.id.0).collect::<Vec<_>>(), [1, 3, 5]);
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_another_catalog() {
        let (catalog, bytes) = (catalog(), encoded(&catalog()));
        let decode = |bytes: &[u8]| {
            let mut input = ByteReader::new(bytes);
            let decoded = Catalog::decode(&mut input)?;
            input.finish().map(|()| decoded)
        };
        assert_eq!(decode(&bytes), Ok(catalog.clone()));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
        assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(decoded) = decode(&damaged) {
                assert!(decoded != catalog && encoded(&decoded) == damaged, "bit {bit} of byte {at}");
            }
        }
    }
}
