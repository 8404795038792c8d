//! Changes over a state of the store, seen by reads as if they had been committed.

use std::any::TypeId;

use op_engine_io::num::to_u64;

use super::blocking::BlockingOverlay;
use super::savepoint::{Savepoint, UndoList};
use super::scan::{OverlayScan, Source};
use super::table::{Own, SlotKey, Table};
use crate::collection::{Collection, PlacedKey, encode_key};
use crate::engine::{Row, Snapshot, check_sizes, decode_value, get_each};
use crate::error::{Error, Result};
use crate::key::{Key, KeyWriter};
use crate::value::Record;

/// Memory that an overlay may take if nothing else was said.
const BYTES_MAX: usize = 512 << 20;

/// Changes over a state of the store, seen by reads as if they had been committed.
///
/// It can be read and changed and taken back, and is dropped in the end: an overlay has no way to commit. Only a
/// [`Draft`](super::Draft), which is an overlay on the tip, can be made a block.
///
/// ```compile_fail
/// # fn simulate(overlay: op_engine::Overlay) -> op_engine::Block {
/// overlay.finish(op_engine::BlockHash([1; 32]))
/// # }
/// ```
///
/// Whatever it has read, present or absent, it keeps: a second read of the same key stays on the calling thread and
/// costs a look into a map. [`Overlay::warm`] reads many keys ahead at once.
///
/// What goes on in the store meanwhile does not change what it shows: its snapshot is held.
pub struct Overlay {
    pub(super) snapshot: Snapshot,
    pub(super) tables: Vec<Table>,
    undo: UndoList,
    /// Where keys are encoded to be looked up.
    scratch: Vec<u8>,
    bytes_max: usize,
}

/// A key that the state below must be asked for, and how many of its bytes choose the shard.
pub(super) type ColdKey = (SlotKey, usize);

/// What may be forgotten to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forget {
    Reads,
    Nothing,
}

/// What was forgotten to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgot {
    Reads,
    Nothing,
}

impl Overlay {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            tables: Vec::new(),
            undo: UndoList::default(),
            scratch: Vec::new(),
            bytes_max: BYTES_MAX,
        }
    }

    /// The state below it.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The same calls for threads that may block.
    #[must_use]
    pub fn blocking(&mut self) -> BlockingOverlay<'_> {
        BlockingOverlay(self)
    }

    /// Lets it take at most so many bytes of memory. Default: 512 MiB.
    ///
    /// At the limit it forgets what it has only read, and reads it again when it is asked for. What it was told to
    /// change must fit, and so must the keys of one [`Overlay::warm`].
    pub fn limit_bytes(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The memory that it takes, in bytes: keys, values, what takes changes back, and what holds them together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.undo.bytes() + self.tables.iter().map(Table::bytes).sum::<usize>()
    }

    /// How many records it has changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().map(Table::changed).sum()
    }

    /// Whether it has changed nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record with a key.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; [`Error::Limit`] if changes alone take all the memory allowed.
    pub async fn get<C: Collection>(&mut self, key: &C::Key) -> Result<Option<C::Value>> {
        if let Some(known) = self.known::<C>(key)? {
            return Ok(known);
        }
        self.warm::<C>(std::slice::from_ref(key)).await?;
        self.known::<C>(key).map(warmed)
    }

    /// The records with many keys, in the order of the keys. Those that are not in memory are read at once.
    ///
    /// # Errors
    /// As [`Overlay::warm`].
    pub async fn get_many<C: Collection>(&mut self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        self.warm::<C>(keys).await?;
        keys.iter().map(|key| self.known::<C>(key).map(warmed)).collect()
    }

    /// Whether there is a record with a key. A record of zeros is one.
    ///
    /// # Errors
    /// As [`Overlay::get`].
    pub async fn exists<C: Collection>(&mut self, key: &C::Key) -> Result<bool> {
        if let Some(seen) = self.seen::<C>(key)? {
            return Ok(seen.is_some());
        }
        self.warm::<C>(std::slice::from_ref(key)).await?;
        Ok(warmed(self.seen::<C>(key)?).is_some())
    }

    /// Reads keys ahead: all that are not in memory, with one message to each shard. Afterwards [`Overlay::get`] and
    /// [`Overlay::exists`] of them, present or absent, do not leave the calling thread.
    ///
    /// # Errors
    /// As [`Snapshot::get`]; [`Error::Limit`] if the keys and their values do not fit into the memory allowed. Some of
    /// what was in memory may have been forgotten then.
    pub async fn warm<C: Collection>(&mut self, keys: &[C::Key]) -> Result<()> {
        let at = self.table::<C>()?;
        let cold = self.cold::<C>(at, keys);
        if self.load(at, cold, Forget::Reads).await? == Forgot::Reads {
            let forgotten = self.cold::<C>(at, keys);
            self.load(at, forgotten, Forget::Nothing).await?;
        }
        Ok(())
    }

    /// The keys that are not in memory.
    fn cold<C: Collection>(&mut self, at: usize, keys: &[C::Key]) -> Vec<ColdKey> {
        let mut cold = Vec::new();
        for key in keys {
            self.encode(key);
            let slot = self.tables.get(at).and_then(|table| table.get(&self.scratch));
            if slot.is_none_or(|slot| !slot.is_warm()) {
                cold.push((SlotKey::from_slice(&self.scratch), partition_bytes::<C>(key)));
            }
        }
        cold
    }

    /// Stores a record, in place of any that has its key.
    ///
    /// # Errors
    /// [`Error::Limit`] if the key, the value or the overlay is too large, [`Error::UnknownCollection`],
    /// [`Error::HistoryGone`] if the collection cannot be read in this state. Nothing has changed then.
    pub fn put<C: Collection>(&mut self, key: &C::Key, value: &C::Value) -> Result<()> {
        self.change::<C>(key, Own::Written(value.to_bytes()))
    }

    /// Removes a record. Not an error if there is none.
    ///
    /// # Errors
    /// As [`Overlay::put`].
    pub fn delete<C: Collection>(&mut self, key: &C::Key) -> Result<()> {
        self.change::<C>(key, Own::Removed)
    }

    fn change<C: Collection>(&mut self, key: &C::Key, own: Own) -> Result<()> {
        let at = self.table::<C>()?;
        self.encode(key);
        check_sizes(&self.scratch, own.value())?;
        let bytes = Table::bytes_of(&self.scratch, own.bytes()) + UndoList::bytes_of(&self.scratch);
        self.make_room(bytes, Forget::Reads)?;
        let Some(table) = self.tables.get_mut(at) else { return Ok(()) };
        let partition_bytes = || partition_bytes::<C>(key);
        if let Some(before) = table.change(&self.scratch, partition_bytes, own, self.undo.newest()) {
            self.undo.remember(at, before);
        }
        Ok(())
    }

    /// Takes a savepoint: a state to go back to, for instance before a call that may fail. Savepoints nest.
    pub fn savepoint(&mut self) -> Savepoint {
        self.undo.savepoint()
    }

    /// Takes back every change since a savepoint, as if it had never been made, and ends the savepoint. Costs as much
    /// as was changed since then.
    ///
    /// # Errors
    /// [`Error::SavepointGone`] if it ended with an earlier one, or belongs to another overlay. Nothing has changed then.
    pub fn rollback(&mut self, to: Savepoint) -> Result<()> {
        for (at, before) in self.undo.roll_back(&to)? {
            if let Some(table) = self.tables.get_mut(at) {
                table.undo(before);
            }
        }
        Ok(())
    }

    /// Ends a savepoint and keeps what was changed since. It is still taken back with a savepoint that is open around
    /// it.
    ///
    /// # Errors
    /// As [`Overlay::rollback`].
    pub fn release(&mut self, savepoint: Savepoint) -> Result<()> {
        self.undo.release(&savepoint)
    }

    /// An ordered scan of a collection with the changes in it.
    pub fn scan<C: Collection>(&mut self) -> OverlayScan<'_, C::Key, Row<C>> {
        let below = self.snapshot.scan::<C>();
        let source = self.table::<C>().map(|table| Source { table, index: None });
        OverlayScan::new(self, below, source)
    }

    /// What is known of a record without asking the state below.
    pub(super) fn known<C: Collection>(&mut self, key: &C::Key) -> Result<Option<Option<C::Value>>> {
        let seen = self.seen::<C>(key)?;
        seen.map(|value| value.map(decode_value::<C>).transpose()).transpose()
    }

    pub(super) fn seen<C: Collection>(&mut self, key: &C::Key) -> Result<Option<Option<&[u8]>>> {
        let at = self.table::<C>()?;
        self.encode(key);
        Ok(self.tables.get(at).and_then(|table| table.get(&self.scratch)).and_then(|slot| slot.seen()))
    }

    fn encode<K: Key>(&mut self, key: &K) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let mut out = KeyWriter::append_to(bytes);
        key.encode(&mut out);
        self.scratch = out.into_vec();
    }

    /// The position of a collection's table, which is made if there is none.
    pub(super) fn table<C: Collection>(&mut self) -> Result<usize> {
        let type_id = TypeId::of::<C>();
        if let Some(at) = self.tables.iter().position(|table| table.type_id == type_id) {
            return Ok(at);
        }
        self.snapshot.check_history::<C>()?;
        let registered = self.snapshot.shared().registry.collection(type_id, C::NAME)?;
        self.tables.push(Table::new(type_id, C::NAME, registered.id, registered.scope));
        Ok(self.tables.len() - 1)
    }

    /// Reads keys of the state below into a table.
    pub(super) async fn load(&mut self, at: usize, cold: Vec<ColdKey>, forget: Forget) -> Result<Forgot> {
        let collection = self.tables.get(at).map(|table| table.collection);
        let Some(collection) = collection.filter(|_| !cold.is_empty()) else { return Ok(Forgot::Nothing) };
        let shared = self.snapshot.shared();
        let wanted: Vec<_> = cold
            .iter()
            .map(|(key, partition_bytes)| {
                let partition = key.get(..*partition_bytes).unwrap_or(key);
                (shared.placement.shard(collection, partition), collection, key)
            })
            .collect();
        let answers = get_each(shared, self.snapshot.seq(), &wanted).await?;
        let value_bytes = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len);
        let sizes = cold.iter().zip(answers.iter());
        let bytes = sizes.map(|((key, _), value)| Table::bytes_of(key, value_bytes(value))).sum();
        let forgot = self.make_room(bytes, forget)?;
        if let Some(table) = self.tables.get_mut(at) {
            table.reserve(cold.len());
            for ((key, partition_bytes), value) in cold.into_iter().zip(answers.iter()) {
                table.learn(key, partition_bytes, value);
            }
        }
        Ok(forgot)
    }

    /// Makes sure that so many bytes more fit.
    pub(super) fn make_room(&mut self, bytes: usize, forget: Forget) -> Result<Forgot> {
        if self.bytes() + bytes <= self.bytes_max {
            return Ok(Forgot::Nothing);
        }
        if forget == Forget::Reads {
            self.tables.iter_mut().for_each(Table::forget_reads);
        }
        let (value, max) = (self.bytes() + bytes, self.bytes_max);
        if value <= max {
            return Ok(Forgot::Reads);
        }
        Err(Error::Limit { what: "what an overlay holds in bytes", value: to_u64(value), max: to_u64(max) })
    }

    pub(super) fn table_at(&self, at: usize) -> Option<&Table> {
        self.tables.get(at)
    }

    pub(super) fn table_at_mut(&mut self, at: usize) -> Option<&mut Table> {
        self.tables.get_mut(at)
    }

    /// The state below, and what is held of each collection.
    pub(super) fn into_parts(self) -> (Snapshot, Vec<Table>) {
        (self.snapshot, self.tables)
    }
}

/// What is known of a key that has just been warmed.
fn warmed<T>(known: Option<T>) -> T {
    let Some(known) = known else { unreachable!("a key that was warmed is in memory") };
    known
}

fn partition_bytes<C: Collection>(key: &C::Key) -> usize {
    let (_, partition_bytes): PlacedKey = encode_key(key, C::PARTITION);
    partition_bytes
}
