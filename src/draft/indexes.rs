//! An overlay's indexes: those of the state below, as the changed records make them.

use std::any::TypeId;
use std::sync::Arc;

use super::index_entries::IndexEntries;
use super::overlay::{Forget, Overlay};
use super::scan::{OverlayScan, Source};
use super::table::{RecordKey, SlotKey};
use crate::collection::{Collection, Index, IndexRow, decode_entry, encode_key};
use crate::engine::{IndexHit, get_each, require_complete};
use crate::error::{Error, Result};

impl Overlay {
    /// An ordered scan of an index as the changed records make it.
    ///
    /// While two records have the same key in a unique index, a scan that comes to it gives
    /// [`Error::DuplicateKey`].
    pub fn scan_index<I: Index>(&mut self) -> OverlayScan<'_, I::Key, IndexRow<I>, I> {
        let below = self.snapshot.scan_index::<I>();
        let source = self.index::<I>().map(|(table, index)| Source { table, index: Some(index) });
        OverlayScan::new(self, below, source)
    }

    /// The record that a key of a unique index leads to.
    ///
    /// # Errors
    /// As [`Overlay::get`]; [`Error::DuplicateKey`] while it would lead to two.
    pub async fn get_by<I: Index>(&mut self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        const { assert!(I::UNIQUE, "only a unique index leads to one record: scan the others") };
        let (at, index) = self.index::<I>()?;
        self.settle(at, index).await?;
        let (bytes, partition_bytes) = encode_key(key, I::PARTITION);
        let laid = self.tables.get(at).and_then(|table| table.entries.as_ref());
        let laid = laid.map(|entries| entries.at(index, &bytes)).unwrap_or_default();
        let (rows, own) = (laid.rows, laid.row.map(<[u8]>::to_vec));
        let hides = laid.hides;
        let below = self.entry_below::<I>(&bytes, partition_bytes).await?.filter(|_| !hides);
        if rows + usize::from(below.is_some()) > 1 {
            return Err(duplicate_key(format!("{}.{}", I::Of::NAME, I::NAME), &bytes));
        }
        let Some(entry) = own.or(below) else { return Ok(None) };
        let (_, record, _) = decode_entry::<I>(&bytes, &entry)?;
        let value = self.get::<I::Of>(&record).await?;
        Ok(value.map(|value| (record, value)))
    }

    async fn entry_below<I: Index>(&self, key: &[u8], partition_bytes: usize) -> Result<Option<Vec<u8>>> {
        let shared = self.snapshot.shared();
        let (id, _) = shared.registry.index(TypeId::of::<I>(), I::NAME)?;
        require_complete(shared, id, self.snapshot.seq()).await?;
        let shard = shared.placement.shard(id, key.get(..partition_bytes).unwrap_or(key));
        let answers = get_each(shared, self.snapshot.seq(), &[(shard, id, key)]).await?;
        Ok(answers.iter().next().flatten().map(<[u8]>::to_vec))
    }

    /// The position of the table of an index's collection, and of the index among the collection's.
    fn index<I: Index>(&mut self) -> Result<(usize, usize)> {
        let at = self.table::<I::Of>()?;
        let (id, registered) = self.snapshot.shared().registry.index(TypeId::of::<I>(), I::NAME)?;
        let index = registered.indexes.iter().position(|index| index.id == id);
        let unknown = || Error::UnknownCollection { name: I::NAME.to_owned() };
        Ok((at, index.ok_or_else(unknown)?))
    }

    /// Brings what is known of a collection's indexes up to date, in order to look into one of them.
    pub(super) async fn settle(&mut self, at: usize, index: usize) -> Result<()> {
        let snapshot = self.snapshot.clone();
        let Some(table) = self.tables.get_mut(at) else { return Ok(()) };
        let registered = snapshot.shared().registry.collection(table.type_id, table.name)?;
        if table.entries.is_none() {
            let changed = table.ordered().clone();
            table.entries = Some(IndexEntries::new(registered.indexes.len(), changed));
        }
        let pending: Vec<RecordKey> =
            table.entries.iter().flat_map(IndexEntries::pending).map(Arc::clone).collect();
        let unknown = pending.iter().filter_map(|key| {
            let slot = table.get(key).filter(|slot| slot.is_changed() && !slot.is_warm())?;
            Some((SlotKey::from_slice(key), slot.partition_bytes))
        });
        let unknown = unknown.collect();
        self.load(at, unknown, Forget::Reads).await?;
        let Some(table) = self.tables.get_mut(at) else { return Ok(()) };
        let Some(mut entries) = table.entries.take() else { return Ok(()) };
        let mut update = |key| entries.update(key, table.get(key), &registered.indexes, index);
        let updated = pending.iter().try_for_each(&mut update);
        table.entries = Some(entries);
        updated?;
        self.make_room(0, Forget::Reads).map(drop)
    }

    /// The name of what is scanned.
    pub(super) fn name_of(&self, source: Source) -> String {
        let Some(table) = self.tables.get(source.table) else { return String::new() };
        let registered = self.snapshot.shared().registry.collection(table.type_id, table.name);
        let index = registered.ok().zip(source.index).and_then(|(of, index)| of.indexes.get(index));
        index.map_or_else(|| table.name.to_owned(), |index| index.spec.name.clone())
    }
}

/// Two records have the same key in a unique index.
pub(super) fn duplicate_key(index: String, key: &[u8]) -> Error {
    Error::DuplicateKey { index, key: key.iter().map(|byte| format!("{byte:02x}")).collect() }
}
