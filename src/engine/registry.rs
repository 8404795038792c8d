//! The collections that an engine was opened with, by type, and their numbers in the store's catalog.

use std::any::TypeId;

use ahash::AHashMap;
use op_engine_shards::CollectionId;
use op_engine_shards::catalog::{COLLECTIONS_MAX, Catalog, CollectionSpec, History, NAME_BYTES_MAX};
use op_engine_shards::visibility::Scope;

use crate::collection::{CollectionDef, IndexSpec, PurgeSpec};
use crate::engine::definition::{self, Origin, collection_spec, differences, index_spec};
use crate::engine::purge;
use crate::engine::system::RESERVED_PREFIX;
use crate::engine::tiers;
use crate::error::{Difference, Error, Result};
use crate::key::KeyError;

/// Where an index is kept.
#[derive(Debug, Clone)]
pub(crate) struct RegisteredIndex {
    pub(crate) id: CollectionId,
    pub(crate) spec: IndexSpec,
    pub(crate) origin: Origin,
}

/// What is declared, and what becomes of what was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    pub(crate) collections: &'a [CollectionDef],
    /// Names of collections, and of indexes as `collection.index`, to be given up.
    pub(crate) drops: &'a [String],
    /// Indexes to be made anew.
    pub(crate) remake: &'a [CollectionId],
    /// The collections that a shard holds anything of, ascending.
    pub(crate) in_use: &'a [CollectionId],
}

/// Where a collection is kept.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) type_id: TypeId,
    pub(crate) id: CollectionId,
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) history: History,
    pub(crate) value_bytes_max: usize,
    pub(crate) indexes: Vec<RegisteredIndex>,
    /// Whether a key is what its codec makes of it.
    pub(crate) check_key: fn(&[u8]) -> Result<(), KeyError>,
    pub(crate) purge: Option<PurgeSpec>,
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

    /// The index with a number, and its collection.
    pub(crate) fn index_by_id(&self, id: CollectionId) -> Option<(&Registered, &RegisteredIndex)> {
        self.all().find_map(|registered| {
            Some((registered, registered.indexes.iter().find(|index| index.id == id)?))
        })
    }

    /// Every collection, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Registered> {
        self.by_type.values()
    }

    /// Looks up or adds each declaration in the catalog, and gives up what is to be dropped. Gives the catalog to commit
    /// if it is another one then.
    pub(crate) fn resolve(wishes: Wishes<'_>, catalog: &Catalog) -> Result<(Self, Option<Catalog>)> {
        let mut wanted = catalog.clone();
        check_drops(wishes)?;
        for id in dropped_ids(wishes, catalog) {
            wanted.drop_collection(id);
        }
        let mut registry = Self::default();
        for def in wishes.collections {
            registry.register(def, catalog, &mut wanted)?;
        }
        // Of what was dropped earlier and is gone everywhere, nothing needs to be known any more.
        let is_gone = |spec: &CollectionSpec| {
            catalog.is_dropped(spec.id) && spec.dropped && wishes.in_use.binary_search(&spec.id).is_err()
        };
        wanted.collections.retain(|spec| !is_gone(spec));
        let changed = wanted != *catalog;
        Ok((registry, changed.then_some(wanted)))
    }

    fn register(&mut self, def: &CollectionDef, catalog: &Catalog, wanted: &mut Catalog) -> Result<()> {
        check_name(def.name)?;
        tiers::check(def)?;
        let origin = if catalog.by_name(def.name).is_some() { Origin::Later } else { Origin::WithCollection };
        let id = place(wanted, collection_spec(def)?)?;
        check_indexes(def, wanted)?;
        let mut indexes = Vec::with_capacity(def.indexes.len());
        for spec in &def.indexes {
            let origin = wanted.by_name(&spec.name).map_or(Ok(origin), definition::origin)?;
            let id = place(wanted, index_spec(def, spec, origin)?)?;
            self.indexes.insert(spec.type_id, (id, def.type_id));
            indexes.push(RegisteredIndex { id, spec: spec.clone(), origin });
        }
        let registered = Registered {
            type_id: def.type_id,
            id,
            name: def.name,
            scope: def.scope,
            history: def.history,
            value_bytes_max: def.value_bytes_max,
            indexes,
            check_key: def.check_key,
            purge: def.purge.clone(),
            inspect: def.inspect,
        };
        purge::check(&registered)?;
        self.by_type.insert(def.type_id, registered);
        Ok(())
    }
}

/// What is declared cannot be given up at once.
fn check_drops(wishes: Wishes<'_>) -> Result<()> {
    for def in wishes.collections {
        let indexes = def.indexes.iter().map(|index| index.name.as_str());
        let mut declared = std::iter::once(def.name).chain(indexes);
        if let Some(name) = declared.find(|name| wishes.drops.iter().any(|drop| drop == name)) {
            let why =
                format!("{name} is declared and is to be dropped. Open the store once without declaring it");
            return Err(Error::Setting { name: "drop", why });
        }
    }
    Ok(())
}

/// The collections and indexes that are given up. An index goes with its collection.
fn dropped_ids(wishes: Wishes<'_>, catalog: &Catalog) -> Vec<CollectionId> {
    let is_dropped = |spec: &&CollectionSpec| {
        let of = spec.name.split_once('.').map_or(spec.name.as_str(), |(collection, _)| collection);
        let by_name = wishes.drops.iter().any(|drop| *drop == spec.name || drop == of);
        let is_own = spec.name.starts_with(RESERVED_PREFIX);
        !is_own && by_name || wishes.remake.contains(&spec.id)
    };
    catalog.live().filter(is_dropped).map(|spec| spec.id).collect()
}

/// An index that is not declared would miss what is written from now on.
fn check_indexes(def: &CollectionDef, catalog: &Catalog) -> Result<()> {
    let prefix = format!("{}.", def.name);
    let stored = catalog.live().filter_map(|spec| Some((spec, spec.name.strip_prefix(&prefix)?)));
    let missing = stored.filter(|(spec, _)| def.indexes.iter().all(|index| index.name != spec.name));
    let differences: Vec<Difference> = missing
        .map(|(_, name)| Difference {
            property: format!("index {name}"),
            stored: "there".to_owned(),
            declared: "not there".to_owned(),
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::SchemaChanged { name: def.name.to_owned(), differences })
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

/// The number of a collection in the catalog, where it is added if its name is new.
fn place(catalog: &mut Catalog, spec: CollectionSpec) -> Result<CollectionId> {
    if let Some(old) = catalog.by_name(&spec.name) {
        let differences = differences(old, &spec)?;
        if !differences.is_empty() {
            return Err(Error::SchemaChanged { name: spec.name, differences });
        }
        let id = old.id;
        // What differs all the same is taken over, as a higher version of the records.
        if let Some(old) = catalog.collections.iter_mut().find(|old| old.id == id) {
            old.definition = spec.definition;
            old.tier = spec.tier;
        }
        return Ok(id);
    }
    check_limit("a collection's name in bytes", spec.name.len(), NAME_BYTES_MAX)?;
    check_limit("the number of collections and indexes", catalog.collections.len() + 1, COLLECTIONS_MAX)?;
    Ok(catalog.add(spec))
}

fn check_limit(what: &'static str, value: usize, max: usize) -> Result<()> {
    if value <= max {
        return Ok(());
    }
    Err(Error::Limit { what, value: op_engine_io::num::to_u64(value), max: op_engine_io::num::to_u64(max) })
}
