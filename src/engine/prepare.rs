//! Preparing a commit: what the batch means for every index, on the state of its parent.
//!
//! The thread that made a batch has encoded it, placed it and found the entries that its records will have in the
//! indexes. What is left needs the records that are replaced or removed, so it is done when the parent is applied.

use std::any::TypeId;
use std::sync::Arc;

use ahash::AHashMap;
use op_engine_io::reply;
use op_engine_shards::bytes::ByteWriter;
use op_engine_shards::message::{GetRequest, KeyList, Request, ValueList};
use op_engine_shards::ops::{self, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX};
use op_engine_shards::visibility::Scope;
use op_engine_shards::{CollectionId, Error as StorageError, Seq};

use crate::batch::{Batch, Change};
use crate::collection::{IndexEntry, unique_owner};
use crate::engine::order::{IndexedChange, NewEntries, Resolved};
use crate::engine::registry::{Registered, RegisteredIndex};
use crate::engine::shared::Shared;
use crate::error::{Error, Result};

/// Which collections a batch may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Any: it is part of a block.
    Everything,
    /// Those outside the chain.
    GlobalOnly,
}

/// Does for a batch what needs no read: on the thread of its maker.
pub(crate) fn resolve(shared: &Shared, batch: Batch, allowed: Allowed) -> Result<Resolved> {
    let mut payloads: Vec<ByteWriter> = shared.shards.iter().map(|_| ByteWriter::new()).collect();
    let mut indexed = Vec::new();
    for change in last_changes(batch.changes) {
        let registered = shared.registry.collection(change.type_id, change.name)?;
        if allowed == Allowed::GlobalOnly && registered.scope != Scope::Global {
            return Err(Error::NotGlobal { name: change.name.to_owned() });
        }
        check_sizes(&change.key, change.value.as_deref())?;
        let shard = place(shared, registered.id, &change.key, change.partition_bytes);
        if registered.indexes.is_empty() {
            let op = Op { collection: registered.id, key: &change.key, value: change.value.as_deref() };
            if let Some(payload) = payloads.get_mut(shard) {
                ops::encode(payload, op);
            }
            continue;
        }
        let entries = match &change.value {
            Some(value) => new_entries(registered, &change.key, value)?,
            None => Vec::new(),
        };
        let Change { type_id, name, key, value, .. } = change;
        indexed.push(IndexedChange { type_id, name, collection: registered.id, shard, key, value, entries });
    }
    Ok(Resolved { payloads: payloads.into_iter().map(ByteWriter::into_vec).collect(), indexed })
}

/// The last change of every key, in the order of the last ones.
fn last_changes(changes: Vec<Change>) -> Vec<Change> {
    let mut last: AHashMap<(TypeId, &[u8]), usize> = AHashMap::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        last.insert((change.type_id, &change.key), at);
    }
    if last.len() == changes.len() {
        return changes;
    }
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    let mut kept = kept.into_iter().peekable();
    let is_kept = |(at, change)| kept.next_if_eq(&at).map(|_| change);
    changes.into_iter().enumerate().filter_map(is_kept).collect()
}

fn check_sizes(key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let over = |what, len: usize, max: usize| {
        let (value, max) = (op_engine_io::num::to_u64(len), op_engine_io::num::to_u64(max));
        Err(Error::Limit { what, value, max })
    };
    if key.len() > KEY_BYTES_MAX {
        return over("a key in bytes", key.len(), KEY_BYTES_MAX);
    }
    match value {
        Some(value) if value.len() > VALUE_BYTES_MAX => {
            over("a value in bytes", value.len(), VALUE_BYTES_MAX)
        }
        _ => Ok(()),
    }
}

fn place(shared: &Shared, collection: CollectionId, key: &[u8], partition_bytes: usize) -> usize {
    shared.placement.shard(collection, key.get(..partition_bytes).unwrap_or(key))
}

fn new_entries(registered: &Registered, key: &[u8], value: &[u8]) -> Result<Vec<NewEntries>> {
    let mut all = Vec::with_capacity(registered.indexes.len());
    for (index, RegisteredIndex { spec, .. }) in registered.indexes.iter().enumerate() {
        let entries = (spec.entries)(key, value)?;
        for entry in &entries {
            check_sizes(&entry.key, Some(&entry.value))?;
        }
        all.push(NewEntries { index, entries });
    }
    Ok(all)
}

/// One change of an index entry.
struct EntryChange {
    id: CollectionId,
    unique: Option<String>,
    shard: usize,
    entry: IndexEntry,
    put: bool,
}

/// Turns a batch into the payload of every shard, on the state that `view` shows.
///
/// # Errors
/// [`Error::DuplicateKey`], or whatever reading fails with. Nothing has been sent then.
pub(crate) async fn prepare(shared: &Arc<Shared>, changes: Resolved, view: Seq) -> Result<Vec<Vec<u8>>> {
    let Resolved { payloads, indexed } = changes;
    let mut payloads: Vec<ByteWriter> = payloads.into_iter().map(writer_after).collect();
    let wanted: Vec<_> =
        indexed.iter().map(|change| (change.shard, change.collection, &change.key)).collect();
    let old_values = get_each(shared, view, &wanted).await?;

    let mut entry_changes = Vec::new();
    for (mut change, old) in indexed.into_iter().zip(old_values.iter()) {
        let registered = shared.registry.collection(change.type_id, change.name)?;
        diff(shared, registered, &mut change, old, &mut entry_changes)?;
        if old.is_some() || change.value.is_some() {
            let op = Op { collection: change.collection, key: &change.key, value: change.value.as_deref() };
            if let Some(payload) = payloads.get_mut(change.shard) {
                ops::encode(payload, op);
            }
        }
    }
    check_unique(shared, view, &entry_changes).await?;
    // Deletes first: a key of a unique index may pass from one record to another in one batch.
    entry_changes.sort_by_key(|change| change.put);
    for change in &entry_changes {
        let value = change.put.then_some(change.entry.value.as_slice());
        if let Some(payload) = payloads.get_mut(change.shard) {
            ops::encode(payload, Op { collection: change.id, key: &change.entry.key, value });
        }
    }
    Ok(payloads.into_iter().map(ByteWriter::into_vec).collect())
}

fn writer_after(payload: Vec<u8>) -> ByteWriter {
    let mut writer = ByteWriter::new();
    writer.raw(&payload);
    writer
}

/// What one change does to the indexes of its collection. Takes the new entries out of it.
fn diff(
    shared: &Shared,
    registered: &Registered,
    change: &mut IndexedChange,
    old: Option<&[u8]>,
    out: &mut Vec<EntryChange>,
) -> Result<()> {
    for (position, RegisteredIndex { id, spec }) in registered.indexes.iter().enumerate() {
        let old_entries = match old {
            Some(old) => (spec.entries)(&change.key, old)?,
            None => Vec::new(),
        };
        let new_entries = change.entries.iter_mut().find(|new| new.index == position);
        let new_entries = new_entries.map(|new| std::mem::take(&mut new.entries)).unwrap_or_default();
        let entry_change = |entry: IndexEntry, put| EntryChange {
            id: *id,
            unique: spec.unique.then(|| spec.name.clone()),
            shard: place(shared, *id, &entry.key, entry.partition_bytes),
            entry,
            put,
        };
        let is_new: Vec<bool> = new_entries.iter().map(|new| !old_entries.contains(new)).collect();
        let is_gone = |old: &IndexEntry| !new_entries.iter().any(|new| new.key == old.key);
        out.extend(old_entries.into_iter().filter(is_gone).map(|old| entry_change(old, false)));
        let new_entries = new_entries.into_iter().zip(is_new).filter(|(_, is_new)| *is_new);
        out.extend(new_entries.map(|(new, _)| entry_change(new, true)));
    }
    Ok(())
}

/// Refuses a batch after which a key of a unique index would belong to two records.
async fn check_unique(shared: &Arc<Shared>, view: Seq, changes: &[EntryChange]) -> Result<()> {
    let puts: Vec<_> = changes.iter().filter(|change| change.put && change.unique.is_some()).collect();
    if puts.is_empty() {
        return Ok(());
    }
    let duplicate = |change: &EntryChange| Error::DuplicateKey {
        index: change.unique.clone().unwrap_or_default(),
        key: change.entry.key.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut seen: AHashMap<(CollectionId, &[u8]), ()> = AHashMap::with_capacity(puts.len());
    for put in &puts {
        if seen.insert((put.id, put.entry.key.as_slice()), ()).is_some() {
            return Err(duplicate(put));
        }
    }
    let freed: AHashMap<(CollectionId, &[u8]), ()> = changes
        .iter()
        .filter(|change| !change.put)
        .map(|change| ((change.id, change.entry.key.as_slice()), ()))
        .collect();
    let wanted: Vec<_> = puts.iter().map(|put| (put.shard, put.id, &put.entry.key)).collect();
    let owners = get_each(shared, view, &wanted).await?;
    for (put, owner) in puts.iter().zip(owners.iter()) {
        let Some(owner) = owner else { continue };
        let same_record = unique_owner(owner) == unique_owner(&put.entry.value);
        if !same_record && !freed.contains_key(&(put.id, put.entry.key.as_slice())) {
            return Err(duplicate(put));
        }
    }
    Ok(())
}

/// What shards have answered to many keys.
pub(crate) struct Answers {
    lists: Vec<ValueList>,
    /// For each key, the shard that was asked and the place of its answer.
    places: Vec<(usize, usize)>,
}

impl Answers {
    /// The values in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.places.iter().map(|(shard, at)| self.lists.get(*shard)?.get(*at))
    }
}

/// Reads many keys, each from its shard, with one message a shard.
pub(crate) async fn get_each(
    shared: &Shared,
    view: Seq,
    wanted: &[(usize, CollectionId, impl AsRef<[u8]>)],
) -> Result<Answers> {
    let mut keys: Vec<KeyList> = shared.shards.iter().map(|_| KeyList::default()).collect();
    let mut places = Vec::with_capacity(wanted.len());
    for (shard, collection, key) in wanted {
        if let Some(keys) = keys.get_mut(*shard) {
            places.push((*shard, keys.len()));
            keys.push(*collection, key.as_ref());
        }
    }
    let mut answers = Vec::with_capacity(shared.shards.len());
    for (number, (shard, keys)) in shared.shards.iter().zip(keys).enumerate() {
        if keys.is_empty() {
            continue;
        }
        let (sender, answer) = reply();
        let asked = keys.len();
        shard.send(Request::Get(GetRequest { view, keys, reply: sender })).await?;
        answers.push((number, asked, answer));
    }
    let mut lists = vec![ValueList::default(); shared.shards.len()];
    for (number, asked, answer) in answers {
        let got = answer.await.map_err(|_| shared.gone())??;
        if got.len() != asked {
            let what = "a shard answered another number of keys than it was asked".to_owned();
            return Err(StorageError::Refused { what }.into());
        }
        if let Some(list) = lists.get_mut(number) {
            *list = got;
        }
    }
    Ok(Answers { lists, places })
}
