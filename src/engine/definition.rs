//! What a store remembers of how a collection or an index was declared, to recognise that it is declared differently.

use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};
use op_engine_shards::catalog::{CollectionSpec, History, Layout};
use op_engine_shards::tier::TierPolicy;
use op_engine_shards::visibility::Scope;

use crate::collection::{CollectionDef, IndexSpec};
use crate::error::{Difference, Error, Result};

/// Bytes of a key's shape at most.
const SHAPE_BYTES_MAX: usize = 2048;
/// Leading components that can choose a shard at most.
const PARTITION_MAX: u64 = 255;

/// Whether an index holds all entries from its first day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is as old as its collection.
    WithCollection,
    /// It came to a collection that had records, and is filled in the background.
    Later,
}

/// What a store remembers of a declaration, beside what shards need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    key: String,
    partition: u64,
    /// Of the records of a collection, or of what the entries of an index cover.
    value_version: u8,
    /// What only an index has.
    index: Option<IndexDefinition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexDefinition {
    unique: bool,
    origin: Origin,
}

/// What a collection, or an index of it, is declared as.
pub(crate) fn collection_spec(def: &CollectionDef) -> Result<CollectionSpec> {
    let CollectionDef { name, scope, history, layout, tier, partition, key_shape, value_version, .. } = def;
    let definition = Definition {
        key: checked_shape(key_shape)?,
        partition: op_engine_io::num::to_u64(*partition),
        value_version: *value_version,
        index: None,
    };
    Ok(CollectionSpec {
        id: op_engine_shards::CollectionId::default(),
        name: (*name).to_owned(),
        scope: *scope,
        history: *history,
        layout: *layout,
        tier: *tier,
        dropped: false,
        definition: definition.encode(),
    })
}

/// An index follows reorgs and keeps versions as its collection does, but is always mutable.
pub(crate) fn index_spec(def: &CollectionDef, index: &IndexSpec, origin: Origin) -> Result<CollectionSpec> {
    let definition = Definition {
        key: checked_shape(&index.key_shape)?,
        partition: op_engine_io::num::to_u64(index.partition),
        value_version: index.covered_version,
        index: Some(IndexDefinition { unique: index.unique, origin }),
    };
    Ok(CollectionSpec {
        name: index.name.clone(),
        layout: Layout::Mutable,
        tier: TierPolicy::HOT,
        definition: definition.encode(),
        ..collection_spec(def)?
    })
}

fn checked_shape(shape: &str) -> Result<String> {
    if shape.len() <= SHAPE_BYTES_MAX {
        return Ok(shape.to_owned());
    }
    Err(Error::Limit {
        what: "the shape of a key in bytes",
        value: op_engine_io::num::to_u64(shape.len()),
        max: op_engine_io::num::to_u64(SHAPE_BYTES_MAX),
    })
}

impl Definition {
    /// Writes the definition.
    ///
    /// | bytes | field |
    /// |---|---|
    /// | 1 | 1 = a collection, 2 = an index; from 1, so that zeros never decode |
    /// | 1 | leading components of the key that choose the shard |
    /// | 1 | version of the records, or of what the entries cover |
    /// | varint + n | shape of the key, UTF-8: text, so that a difference can be shown to people |
    /// | 1 | 1 = not unique, 2 = unique; for an index |
    /// | 1 | 1 = as old as its collection, 2 = came later; for an index |
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.u8(if self.index.is_some() { 2 } else { 1 });
        out.u8(u8::try_from(self.partition.min(PARTITION_MAX)).unwrap_or(u8::MAX));
        out.u8(self.value_version);
        out.bytes(self.key.as_bytes());
        if let Some(IndexDefinition { unique, origin }) = self.index {
            out.u8(if unique { 2 } else { 1 });
            out.u8(match origin {
                Origin::WithCollection => 1,
                Origin::Later => 2,
            });
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        let is_index = one_of_two(input.u8()?, "it is neither of a collection nor of an index")?;
        let partition = u64::from(input.u8()?);
        let value_version = input.u8()?;
        let key = std::str::from_utf8(input.bytes(SHAPE_BYTES_MAX)?)
            .map_err(|_| Malformed("the shape of a key is not UTF-8"))?
            .to_owned();
        let index = if is_index {
            let unique = one_of_two(input.u8()?, "an index is neither unique nor not")?;
            let later = one_of_two(input.u8()?, "an index has no origin")?;
            let origin = if later { Origin::Later } else { Origin::WithCollection };
            Some(IndexDefinition { unique, origin })
        } else {
            None
        };
        input.finish()?;
        Ok(Self { key, partition, value_version, index })
    }

    fn of(spec: &CollectionSpec) -> Result<Self> {
        Self::decode(&spec.definition).map_err(|Malformed(what)| {
            let what = format!("the definition of {} does not decode: {what}", spec.name);
            op_engine_shards::Error::Corruption { file: ".".to_owned(), offset: 0, what }.into()
        })
    }
}

/// 1 for `false`, 2 for `true`.
fn one_of_two(byte: u8, otherwise: &'static str) -> Result<bool, Malformed> {
    match byte {
        1 => Ok(false),
        2 => Ok(true),
        _ => Err(Malformed(otherwise)),
    }
}

/// Where a stored index comes from.
pub(crate) fn origin(stored: &CollectionSpec) -> Result<Origin> {
    Ok(Definition::of(stored)?.index.map_or(Origin::WithCollection, |index| index.origin))
}

/// What makes it impossible to use a stored collection or index as it is declared now: nothing, mostly.
pub(crate) fn differences(stored: &CollectionSpec, declared: &CollectionSpec) -> Result<Vec<Difference>> {
    let (old, new) = (Definition::of(stored)?, Definition::of(declared)?);
    let mut found = Vec::new();
    let mut compare = |property: &str, stored: String, declared: String| {
        if stored != declared {
            found.push(Difference { property: property.to_owned(), stored, declared });
        }
    };
    compare("key", old.key, new.key);
    compare("partition", partition_text(old.partition), partition_text(new.partition));
    compare("scope", scope_text(stored.scope), scope_text(declared.scope));
    compare("history", history_text(stored.history), history_text(declared.history));
    compare("layout", layout_text(stored.layout), layout_text(declared.layout));
    match (old.index, new.index) {
        (Some(old_index), Some(new_index)) => {
            compare("uniqueness", unique_text(old_index.unique), unique_text(new_index.unique));
            let version = |version: u8| format!("version {version}");
            compare("covered fields", version(old.value_version), version(new.value_version));
        }
        // Values of older versions can be read, those of newer ones cannot.
        (None, None) if old.value_version > new.value_version => {
            let declared = format!("up to version {}", new.value_version);
            compare("values", format!("up to version {}", old.value_version), declared);
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            let kind =
                |index: Option<_>| if index.is_some() { "an index" } else { "a collection" }.to_owned();
            compare("kind", kind(old.index), kind(new.index));
        }
    }
    Ok(found)
}

fn partition_text(components: u64) -> String {
    match components {
        0 => "the whole key".to_owned(),
        1 => "the first component of the key".to_owned(),
        more => format!("the first {more} components of the key"),
    }
}

fn scope_text(scope: Scope) -> String {
    match scope {
        Scope::Chain => "Chain: it follows reorgs",
        Scope::Global => "Global: a reorg does not touch it",
        Scope::Cleared => "Cleared: a reorg empties it",
    }
    .to_owned()
}

fn history_text(history: History) -> String {
    match history {
        History::Window => "Window: versions back to the horizon",
        History::All => "All: every version",
    }
    .to_owned()
}

fn layout_text(layout: Layout) -> String {
    match layout {
        Layout::Mutable => "Mutable",
        Layout::AppendOnly => "AppendOnly",
    }
    .to_owned()
}

fn unique_text(unique: bool) -> String {
    if unique { "unique" } else { "not unique" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions() -> [Definition; 2] {
        let key = "(bytes32, desc u64)".to_owned();
        let collection = Definition { key, partition: 1, value_version: 3, index: None };
        let index = Some(IndexDefinition { unique: true, origin: Origin::Later });
        [Definition { index, ..collection.clone() }, collection]
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_another_definition() {
        for definition in definitions() {
            let bytes = definition.encode();
            assert_eq!(Definition::decode(&bytes), Ok(definition.clone()));
            for len in 0..bytes.len() {
                assert!(Definition::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
            }
            assert!(Definition::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
            for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(decoded) = Definition::decode(&damaged) {
                    assert!(decoded != definition && decoded.encode() == damaged, "bit {bit} of byte {at}");
                }
            }
        }
    }
}
