//! The collections that an engine was opened with, by type, and their numbers in the store's catalog.

use std::any::TypeId;

use ahash::AHashMap;
use op_engine_shards::CollectionId;
use op_engine_shards::catalog::{COLLECTIONS_MAX, Catalog, CollectionSpec, History, Layout, NAME_BYTES_MAX};
use op_engine_shards::visibility::Scope;

use crate::collection::{CollectionDef, IndexSpec};
use crate::engine::system::RESERVED_PREFIX;
use crate::error::{Error, Result};

/// Where an index is kept.
#[derive(Debug, Clone)]
pub(crate) struct RegisteredIndex {
    pub(crate) id: CollectionId,
    pub(crate) spec: IndexSpec,
}

/// Where a collection is kept.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) id: CollectionId,
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) history: History,
    pub(crate) indexes: Vec<RegisteredIndex>,
    /// Decodes a record, and says how many bytes of its key choose the shard.
    pub(crate) inspect: fn(&[u8], &[u8]) -> Result<usize>,
}

/// The collections that an engine was opened with.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_type: AHashMap<TypeId, Registered>,
    indexes: AHashMap<TypeId, (CollectionId, TypeId)>,
}

impl Registry {
    /// The collection that a type stands for.
    pub(crate) fn collection(&self, type_id: TypeId, name: &str) -> Result<&Registered> {
        self.by_type.get(&type_id).ok_or_else(|| Error::UnknownCollection { name: name.to_owned() })
    }

    /// The index that a type stands for, and its collection.
    pub(crate) fn index(&self, type_id: TypeId, name: &str) -> Result<(CollectionId, &Registered)> {
        let unknown = || Error::UnknownCollection { name: name.to_owned() };
        let (id, of) = self.indexes.get(&type_id).ok_or_else(unknown)?;
        Ok((*id, self.by_type.get(of).ok_or_else(unknown)?))
    }

    /// Every collection, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Registered> {
        self.by_type.values()
    }

    /// Looks up or adds each definition in the catalog. Gives the catalog to commit if something was added.
    pub(crate) fn resolve(defs: &[CollectionDef], catalog: &Catalog) -> Result<(Self, Option<Catalog>)> {
        let mut wanted = catalog.clone();
        let mut registry = Self::default();
        for def in defs {
            check_name(def.name)?;
            let existed = catalog.by_name(def.name).is_some();
            let id = place(&mut wanted, &collection_spec(def))?;
            let mut indexes = Vec::with_capacity(def.indexes.len());
            for spec in &def.indexes {
                if existed && catalog.by_name(&spec.name).is_none() {
                    let what = format!("index {} was not there when the collection was created", spec.name);
                    return Err(Error::SchemaChanged { name: def.name.to_owned(), what });
                }
                let id = place(&mut wanted, &index_spec(def, spec))?;
                registry.indexes.insert(spec.type_id, (id, def.type_id));
                indexes.push(RegisteredIndex { id, spec: spec.clone() });
            }
            let registered = Registered {
                id,
                name: def.name,
                scope: def.scope,
                history: def.history,
                indexes,
                inspect: def.inspect,
            };
            registry.by_type.insert(def.type_id, registered);
        }
        let changed = wanted != *catalog;
        Ok((registry, changed.then_some(wanted)))
    }
}

/// Names of indexes are made of two names with a dot between them, and some names are the engine's own.
fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "a collection's name is empty".to_owned()
    } else if name.contains('.') || name.starts_with(RESERVED_PREFIX) {
        format!("the name {name} contains a dot or begins with {RESERVED_PREFIX}")
    } else {
        return Ok(());
    };
    Err(Error::Setting { name: "collection", why })
}

fn collection_spec(def: &CollectionDef) -> CollectionSpec {
    CollectionSpec {
        id: CollectionId::default(),
        name: def.name.to_owned(),
        scope: def.scope,
        history: def.history,
        layout: def.layout,
        definition: def.definition(),
    }
}

/// An index follows reorgs and keeps versions as its collection does, but is always mutable.
fn index_spec(def: &CollectionDef, index: &IndexSpec) -> CollectionSpec {
    CollectionSpec {
        id: CollectionId::default(),
        name: index.name.clone(),
        scope: def.scope,
        history: def.history,
        layout: Layout::Mutable,
        definition: index.definition(),
    }
}

/// The number of a collection in the catalog, where it is added if its name is new.
fn place(catalog: &mut Catalog, spec: &CollectionSpec) -> Result<CollectionId> {
    if let Some(old) = catalog.by_name(&spec.name) {
        return match difference(old, spec) {
            None => Ok(old.id),
            Some(what) => Err(Error::SchemaChanged { name: spec.name.clone(), what }),
        };
    }
    check_limit("a collection's name in bytes", spec.name.len(), NAME_BYTES_MAX)?;
    check_limit("the number of collections and indexes", catalog.collections.len() + 1, COLLECTIONS_MAX)?;
    let last = catalog.collections.last().map_or(0, |last| last.id.0);
    let id = CollectionId(last + 1);
    catalog.collections.push(CollectionSpec { id, ..spec.clone() });
    Ok(id)
}

fn difference(old: &CollectionSpec, new: &CollectionSpec) -> Option<String> {
    if old.scope != new.scope {
        Some(format!("its scope was {:?} and is {:?}", old.scope, new.scope))
    } else if old.history != new.history {
        Some(format!("its history was {:?} and is {:?}", old.history, new.history))
    } else if old.layout != new.layout {
        Some(format!("its layout was {:?} and is {:?}", old.layout, new.layout))
    } else if old.definition != new.definition {
        Some("its key, its partition, its uniqueness or its indexes have changed".to_owned())
    } else {
        None
    }
}

fn check_limit(what: &'static str, value: usize, max: usize) -> Result<()> {
    if value <= max {
        return Ok(());
    }
    Err(Error::Limit { what, value: op_engine_io::num::to_u64(value), max: op_engine_io::num::to_u64(max) })
}
