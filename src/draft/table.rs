//! The records of one collection that an overlay holds: what the state below has, and what was made of it.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::RandomState;
use indexmap::IndexMap;
use op_engine_shards::CollectionId;
use op_engine_shards::visibility::Scope;
use smallvec::SmallVec;

use super::index_entries::IndexEntries;
use crate::batch::{Below, BelowValue};

/// The bytes of a record's key. That of a contract's slot fits in place.
///
/// Keys and what is known of them lie in one array, so that a look-up goes to two places in memory: a small table of
/// positions, and the record.
pub(super) type SlotKey = SmallVec<[u8; 64]>;

/// A key in an ordered set.
pub(super) type RecordKey = Arc<[u8]>;

/// What a held record takes beside what is not in place. Arrays grow ahead of what they hold.
const SLOT_BYTES: usize = (size_of::<(u64, SlotKey, Slot)>() + 2 * size_of::<usize>()) * 3 / 2;
/// What a key takes in the ordered set, beside its bytes.
const ORDERED_BYTES: usize = 64;

/// What was done to a record in the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Own {
    #[default]
    Untouched,
    Removed,
    Written(Vec<u8>),
}

impl Own {
    pub(super) fn value(&self) -> Option<&[u8]> {
        if let Self::Written(value) = self { Some(value) } else { None }
    }

    pub(super) fn bytes(&self) -> usize {
        if let Self::Written(value) = self { value.capacity() } else { 0 }
    }
}

/// A record that is held.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// How many bytes of the key choose the shard.
    pub(super) partition_bytes: usize,
    pub(super) below: Below,
    pub(super) own: Own,
    /// The last savepoint after which what `own` was before has been remembered.
    remembered: u64,
}

impl Slot {
    /// What a reader sees; `None` if the state below must be asked.
    pub(super) fn seen(&self) -> Option<Option<&[u8]>> {
        match (&self.own, &self.below) {
            (Own::Written(value), _) => Some(Some(value)),
            (Own::Removed, _) | (Own::Untouched, Below::Absent) => Some(None),
            (Own::Untouched, Below::Present(value)) => Some(Some(value)),
            (Own::Untouched, Below::Unknown) => None,
        }
    }

    /// Whether the state below need not be asked, whatever is taken back.
    pub(super) fn is_warm(&self) -> bool {
        self.below.is_known()
    }

    pub(super) fn is_changed(&self) -> bool {
        !matches!(self.own, Own::Untouched)
    }

    fn bytes(&self, key: &SlotKey) -> usize {
        SLOT_BYTES + key_heap_bytes(key) + self.below.heap_bytes() + self.own.bytes()
    }
}

fn key_heap_bytes(key: &SlotKey) -> usize {
    if key.spilled() { key.capacity() } else { 0 }
}

/// What a record was before it was changed.
#[derive(Debug)]
pub(super) struct Before {
    key: SlotKey,
    own: Own,
    remembered: u64,
}

impl Before {
    /// What it takes beside its place, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        key_heap_bytes(&self.key) + self.own.bytes()
    }
}

/// The records of one collection that are held.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) type_id: TypeId,
    pub(super) name: &'static str,
    pub(super) collection: CollectionId,
    pub(super) scope: Scope,
    slots: IndexMap<SlotKey, Slot, RandomState>,
    changed: usize,
    /// The keys of changed records. Kept from the first scan on.
    ordered: Option<BTreeSet<RecordKey>>,
    /// What changed records mean for indexes. Kept from the first look into an index on.
    pub(super) entries: Option<IndexEntries>,
    slot_bytes: usize,
}

impl Table {
    pub(super) fn new(type_id: TypeId, name: &'static str, collection: CollectionId, scope: Scope) -> Self {
        Self {
            type_id,
            name,
            collection,
            scope,
            slots: IndexMap::default(),
            changed: 0,
            ordered: None,
            entries: None,
            slot_bytes: 0,
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let ordered = self.ordered.as_ref().map_or(0, |ordered| ordered.len() * ORDERED_BYTES);
        self.slot_bytes + ordered + self.entries.as_ref().map_or(0, IndexEntries::bytes)
    }

    /// What a record of this size will take at most.
    pub(super) fn bytes_of(key: &[u8], value_bytes: usize) -> usize {
        SLOT_BYTES + key.len() + value_bytes
    }

    /// How many records are changed.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }

    /// Makes place for so many records.
    pub(super) fn reserve(&mut self, records: usize) {
        self.slots.reserve(records);
    }

    /// Takes in what the state below has.
    pub(super) fn learn(&mut self, key: SlotKey, partition_bytes: usize, value: Option<&[u8]>) {
        let below = value.map_or(Below::Absent, |value| Below::Present(BelowValue::from_slice(value)));
        let added = SLOT_BYTES + key_heap_bytes(&key);
        let slot = self.slots.entry(key).or_insert_with(|| {
            self.slot_bytes += added;
            Slot { partition_bytes, ..Slot::default() }
        });
        self.slot_bytes = self.slot_bytes - slot.below.heap_bytes() + below.heap_bytes();
        slot.below = below;
    }

    /// Changes a record. Gives what it was before if that is not remembered since `savepoint`, the newest one.
    pub(super) fn change(
        &mut self,
        key: &[u8],
        partition_bytes: impl FnOnce() -> usize,
        own: Own,
        savepoint: Option<u64>,
    ) -> Option<Before> {
        let at = self.slots.get_index_of(key).unwrap_or_else(|| {
            let slot = Slot { partition_bytes: partition_bytes(), ..Slot::default() };
            let key = SlotKey::from_slice(key);
            self.slot_bytes += slot.bytes(&key);
            self.slots.insert_full(key, slot).0
        });
        let (_, slot) = self.slots.get_index_mut(at)?;
        let remembered = slot.remembered;
        let remember = savepoint.filter(|savepoint| remembered < *savepoint);
        slot.remembered = remember.unwrap_or(remembered);
        let before = self.set(at, own);
        remember.map(|_| Before { key: SlotKey::from_slice(key), own: before, remembered })
    }

    /// Makes a record what it was.
    pub(super) fn undo(&mut self, before: Before) {
        let Before { key, own, remembered } = before;
        let Some(at) = self.slots.get_index_of(&key) else { return };
        self.set(at, own);
        let Some((_, slot)) = self.slots.get_index_mut(at) else { return };
        slot.remembered = remembered;
        if !slot.is_changed() && !slot.is_warm() {
            self.slot_bytes -= slot.bytes(&key);
            self.slots.swap_remove_index(at);
        }
    }

    fn set(&mut self, at: usize, own: Own) -> Own {
        let Some((key, slot)) = self.slots.get_index_mut(at) else { return Own::Untouched };
        self.slot_bytes = self.slot_bytes - slot.own.bytes() + own.bytes();
        let was_changed = slot.is_changed();
        let before = std::mem::replace(&mut slot.own, own);
        let is_changed = slot.is_changed();
        match (was_changed, is_changed) {
            (false, true) => self.changed += 1,
            (true, false) => self.changed -= 1,
            _ => {}
        }
        if was_changed != is_changed
            && let Some(ordered) = &mut self.ordered
        {
            if is_changed {
                ordered.insert(RecordKey::from(key.as_slice()));
            } else {
                ordered.remove(key.as_slice());
            }
        }
        if let Some(entries) = &mut self.entries {
            entries.note(key);
        }
        before
    }

    /// Forgets what was only read.
    pub(super) fn forget_reads(&mut self) {
        let mut freed = 0;
        self.slots.retain(|key, slot| {
            let kept = slot.is_changed();
            freed += if kept { 0 } else { slot.bytes(key) };
            kept
        });
        self.slots.shrink_to_fit();
        self.slot_bytes -= freed;
    }

    /// The keys of changed records, in order.
    pub(super) fn ordered(&mut self) -> &BTreeSet<RecordKey> {
        let slots = &self.slots;
        self.ordered.get_or_insert_with(|| {
            let changed = slots.iter().filter(|(_, slot)| slot.is_changed());
            changed.map(|(key, _)| RecordKey::from(key.as_slice())).collect()
        })
    }

    /// The same, if it has been asked for before.
    pub(super) fn ordered_keys(&self) -> Option<&BTreeSet<RecordKey>> {
        self.ordered.as_ref()
    }

    /// The changed records, ordered by key.
    pub(super) fn into_changes(self) -> Vec<(SlotKey, Slot)> {
        let mut changes: Vec<_> = self.slots.into_iter().filter(|(_, slot)| slot.is_changed()).collect();
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }
}
