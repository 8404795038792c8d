//! Preparing a commit: what the batch means for every index, on the state of its parent.
//!
//! The thread that made a batch has encoded it, placed it and found the entries that its records will have in the
//! indexes. What is left needs the records that are replaced or removed, so it is done when the parent is applied.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use op_engine_io::reply;
use op_engine_shards::bytes::ByteWriter;
use op_engine_shards::message::{GetRequest, KeyList, Request, ValueList};
use op_engine_shards::ops::{self, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX};
use op_engine_shards::visibility::Scope;
use op_engine_shards::{CollectionId, Error as StorageError, Seq};

use crate::batch::{Batch, Change};
use crate::collection::{IndexEntry, unique_owner};
use crate::engine::index_state::Phase;
use crate::engine::order::{IndexedChange, NewEntries, Resolved};
use crate::engine::progress::{Stage, Work, work_key};
use crate::engine::registry::{Registered, RegisteredIndex};
use crate::engine::shared::Shared;
use crate::engine::system;
use crate::error::{Error, Result, hex};

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

pub(crate) fn check_sizes(key: &[u8], value: Option<&[u8]>) -> Result<()> {
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

pub(crate) fn place(shared: &Shared, collection: CollectionId, key: &[u8], partition_bytes: usize) -> usize {
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
struct EntryChange<'a> {
    index: &'a RegisteredIndex,
    phase: Phase,
    shard: usize,
    entry: IndexEntry,
    put: bool,
}

/// A batch, ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) payloads: Vec<ByteWriter>,
    /// Indexes that were being filled and cannot be completed with this batch. The payloads say so.
    pub(crate) failed: Failures,
}

/// Indexes that cannot be completed, and why.
pub(crate) type Failures = BTreeMap<CollectionId, String>;

impl Prepared {
    pub(crate) fn new(shared: &Shared) -> Self {
        let payloads = shared.shards.iter().map(|_| ByteWriter::new()).collect();
        Self { payloads, failed: Failures::new() }
    }

    /// Adds an operation to the part of its shard.
    pub(crate) fn push(&mut self, shard: usize, op: Op<'_>) {
        if let Some(payload) = self.payloads.get_mut(shard) {
            ops::encode(payload, op);
        }
    }

    /// Adds a record of work.
    pub(crate) fn push_work(&mut self, shared: &Shared, scope: Scope, id: CollectionId, work: &Work) {
        let collection = system::progress_spec(scope).id;
        let key = work_key(id);
        let shard = shared.placement.shard(collection, &key);
        self.push(shard, Op { collection, key: &key, value: Some(&work.encode()) });
    }

    pub(crate) fn into_payloads(self) -> Vec<Vec<u8>> {
        self.payloads.into_iter().map(ByteWriter::into_vec).collect()
    }
}

/// Turns a batch into the payload of every shard, on the state that `view` shows: the newest one.
///
/// # Errors
/// [`Error::DuplicateKey`], or whatever reading fails with. Nothing has been sent then.
pub(crate) async fn prepare(shared: &Arc<Shared>, changes: Resolved, view: Seq) -> Result<Prepared> {
    let Resolved { payloads, indexed } = changes;
    let payloads = payloads.into_iter().map(ByteWriter::from).collect();
    let mut prepared = Prepared { payloads, failed: Failures::new() };
    let wanted: Vec<_> =
        indexed.iter().map(|change| (change.shard, change.collection, &change.key)).collect();
    let old_values = get_each(shared, view, &wanted).await?;

    let mut entry_changes = Vec::new();
    for (mut change, old) in indexed.into_iter().zip(old_values.iter()) {
        let registered = shared.registry.collection(change.type_id, change.name)?;
        diff(shared, registered, &mut change, old, &mut entry_changes, &mut prepared.failed)?;
        if old.is_some() || change.value.is_some() {
            let op = Op { collection: change.collection, key: &change.key, value: change.value.as_deref() };
            prepared.push(change.shard, op);
        }
    }
    check_unique(shared, view, &mut entry_changes, &mut prepared.failed).await?;
    entry_changes.retain(|change| !prepared.failed.contains_key(&change.index.id));
    // Deletes first: a key of a unique index may pass from one record to another in one batch.
    entry_changes.sort_by_key(|change| change.put);
    for EntryChange { index, shard, entry, put, .. } in &entry_changes {
        let value = put.then_some(entry.value.as_slice());
        prepared.push(*shard, Op { collection: index.id, key: &entry.key, value });
    }
    for (id, why) in prepared.failed.clone() {
        let work = Work { stage: Stage::Failed(why), ..shared.indexes.work(id) };
        let scope = shared.registry.index_by_id(id).map_or(Scope::Chain, |(registered, _)| registered.scope);
        prepared.push_work(shared, scope, id, &work);
    }
    Ok(prepared)
}

/// What one change does to the indexes of its collection. Takes the new entries out of it.
fn diff<'a>(
    shared: &Shared,
    registered: &'a Registered,
    change: &mut IndexedChange,
    old: Option<&[u8]>,
    out: &mut Vec<EntryChange<'a>>,
    failed: &mut Failures,
) -> Result<()> {
    for (position, index) in registered.indexes.iter().enumerate() {
        let phase = shared.indexes.phase(index.id);
        if phase == Phase::Failed {
            continue;
        }
        let old_entries = match old.map(|old| (index.spec.entries)(&change.key, old)) {
            None => Vec::new(),
            Some(Ok(entries)) => entries,
            // A record that was there before the index may have none that it can take.
            Some(Err(why)) if phase == Phase::Building => {
                failed.entry(index.id).or_insert_with(|| why.to_string());
                continue;
            }
            Some(Err(why)) => return Err(why),
        };
        let new_entries = change.entries.iter_mut().find(|new| new.index == position);
        let new_entries = new_entries.map(|new| std::mem::take(&mut new.entries)).unwrap_or_default();
        let entry_change = |entry: IndexEntry, put| {
            let shard = place(shared, index.id, &entry.key, entry.partition_bytes);
            EntryChange { index, phase, shard, entry, put }
        };
        let is_new: Vec<bool> = new_entries.iter().map(|new| !old_entries.contains(new)).collect();
        let is_gone = |old: &IndexEntry| !new_entries.iter().any(|new| new.key == old.key);
        out.extend(old_entries.into_iter().filter(is_gone).map(|old| entry_change(old, false)));
        let new_entries = new_entries.into_iter().zip(is_new).filter(|(_, is_new)| *is_new);
        out.extend(new_entries.map(|(new, _)| entry_change(new, true)));
    }
    Ok(())
}

/// Refuses a batch after which a key of a complete unique index would belong to two records. One that is being filled
/// cannot be completed then.
///
/// In an index that is being filled, a key may belong to another record than the one that is removed, which has not been
/// entered: such removals are left out.
async fn check_unique(
    shared: &Shared,
    view: Seq,
    changes: &mut Vec<EntryChange<'_>>,
    failed: &mut Failures,
) -> Result<()> {
    let is_asked = |change: &EntryChange<'_>| {
        change.index.spec.unique && (change.put || change.phase == Phase::Building)
    };
    let (mut asked, others): (Vec<_>, Vec<_>) = std::mem::take(changes).into_iter().partition(is_asked);
    *changes = others;
    if asked.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> =
        asked.iter().map(|change| (change.shard, change.index.id, &change.entry.key)).collect();
    let answers = get_each(shared, view, &wanted).await?;
    let owners: Vec<Option<Vec<u8>>> =
        answers.iter().map(|owner| owner.and_then(unique_owner).map(<[u8]>::to_vec)).collect();
    let mut owners = owners.into_iter();
    let mut owners_kept = Vec::with_capacity(asked.len());
    asked.retain(|change| {
        let owner = owners.next().flatten();
        let is_own = owner.as_deref() == unique_owner(&change.entry.value);
        let is_kept = change.put || is_own;
        if is_kept {
            owners_kept.push(owner);
        }
        is_kept
    });
    find_duplicates(&asked, changes, &owners_kept, failed)?;
    changes.append(&mut asked);
    Ok(())
}

/// What tells two entries of unique indexes apart.
fn key_of<'a>(change: &'a EntryChange<'_>) -> (CollectionId, &'a [u8]) {
    (change.index.id, &change.entry.key)
}

/// Looks for puts of a key that belongs to another record, before the batch or within it.
fn find_duplicates(
    asked: &[EntryChange<'_>],
    others: &[EntryChange<'_>],
    owners: &[Option<Vec<u8>>],
    failed: &mut Failures,
) -> Result<()> {
    let freed: AHashSet<_> = asked.iter().chain(others).filter(|change| !change.put).map(key_of).collect();
    let mut seen = AHashSet::with_capacity(asked.len());
    for (change, owner) in asked.iter().zip(owners).filter(|(change, _)| change.put) {
        let is_other = owner.is_some() && owner.as_deref() != unique_owner(&change.entry.value);
        let is_repeated = !seen.insert(key_of(change));
        let is_free = !is_other || freed.contains(&key_of(change));
        if is_free && !is_repeated {
            continue;
        }
        let duplicate = duplicate_key(change.index, &change.entry.key);
        if change.phase == Phase::Ready {
            return Err(duplicate);
        }
        failed.entry(change.index.id).or_insert_with(|| duplicate.to_string());
    }
    Ok(())
}

pub(crate) fn duplicate_key(index: &RegisteredIndex, key: &[u8]) -> Error {
    Error::DuplicateKey { index: index.spec.name.clone(), key: hex(key) }
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
