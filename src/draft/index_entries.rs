//! What the changed records of a collection mean for its indexes, laid over the indexes of the state below.
//!
//! A changed record hides the entries that it has below and adds those that it has now. Which ones these are is found out
//! when an index is looked into, for the records that have changed since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;

use super::table::{RecordKey, Slot};
use crate::engine::RegisteredIndex;
use crate::error::Result;

/// What the nodes and counts of an entry or a contribution take.
const PLACE_BYTES: usize = 96;

/// What changed records make of one key of an index.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Whether what the state below has there belongs to a changed record.
    hides: bool,
    /// The changed records that have an entry there, and its value: more than one only in a unique index, while
    /// the overlay contradicts itself.
    entries: Vec<(RecordKey, Vec<u8>)>,
}

/// What a record has put into the claims on one key.
#[derive(Debug)]
struct Contribution {
    /// The position of the index among the collection's.
    index: usize,
    key: Vec<u8>,
    hides: bool,
}

impl Contribution {
    fn bytes(&self) -> usize {
        2 * (self.key.len() + PLACE_BYTES)
    }
}

/// What a key of an index looks like from above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Laid<'a> {
    /// Whether what the state below has there is not to be seen.
    pub(super) hides: bool,
    /// How many entries the overlay has there.
    pub(super) rows: usize,
    /// The first of them.
    pub(super) row: Option<&'a [u8]>,
}

/// The changes of all indexes of a collection.
#[derive(Debug)]
pub(super) struct IndexEntries {
    /// For each index, its claims by key.
    claims: Vec<BTreeMap<Vec<u8>, Claims>>,
    contributions: AHashMap<RecordKey, Vec<Contribution>>,
    /// Records that have changed since the claims were brought up to date.
    pending: BTreeSet<RecordKey>,
    bytes: usize,
}

impl IndexEntries {
    pub(super) fn new(indexes: usize, changed: BTreeSet<RecordKey>) -> Self {
        Self {
            claims: (0..indexes).map(|_| BTreeMap::new()).collect(),
            contributions: AHashMap::new(),
            pending: changed,
            bytes: 0,
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.pending.len() * PLACE_BYTES
    }

    /// Notes that a record has changed.
    pub(super) fn note(&mut self, key: &[u8]) {
        if !self.pending.contains(key) {
            self.pending.insert(RecordKey::from(key));
        }
    }

    /// The records that must be brought up to date, in order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &RecordKey> {
        self.pending.iter()
    }

    /// Brings the claims of a record up to date, in order to look into one index. Its value below must be known if it is
    /// changed. If it cannot be entered into another index, that one will say so when it is looked into.
    pub(super) fn update(
        &mut self,
        key: &RecordKey,
        slot: Option<&Slot>,
        indexes: &[RegisteredIndex],
        wanted: usize,
    ) -> Result<()> {
        let mut found = Vec::new();
        let mut is_complete = true;
        if let Some(slot) = slot.filter(|slot| slot.is_changed()) {
            for (index, registered) in indexes.iter().enumerate() {
                for (value, hides) in [(slot.below.value(), true), (slot.own.value(), false)] {
                    let Some(value) = value else { continue };
                    match (registered.spec.entries)(key, value) {
                        Ok(entries) => found.extend(entries.into_iter().map(|entry| (index, hides, entry))),
                        Err(why) if index == wanted => return Err(why),
                        Err(_) => is_complete = false,
                    }
                }
            }
        }
        self.withdraw(key);
        let mut contributions = Vec::with_capacity(found.len());
        for (index, hides, entry) in found {
            let Some(claims) = self.claims.get_mut(index) else { continue };
            let claims = claims.entry(entry.key.clone()).or_default();
            if hides {
                claims.hides = true;
            } else {
                self.bytes += entry.value.len();
                claims.entries.push((Arc::clone(key), entry.value));
            }
            let contribution = Contribution { index, key: entry.key, hides };
            self.bytes += contribution.bytes();
            contributions.push(contribution);
        }
        if !contributions.is_empty() {
            self.contributions.insert(Arc::clone(key), contributions);
        }
        if is_complete {
            self.pending.remove(key);
        }
        Ok(())
    }

    /// Takes back what a record has claimed.
    fn withdraw(&mut self, record: &RecordKey) {
        for contribution in self.contributions.remove(record).unwrap_or_default() {
            self.bytes -= contribution.bytes();
            let Contribution { index, key, hides } = contribution;
            let Some(all) = self.claims.get_mut(index) else { continue };
            let Some(claims) = all.get_mut(&key) else { continue };
            if hides {
                claims.hides = false;
            } else if let Some(at) = claims.entries.iter().position(|(owner, _)| owner == record) {
                self.bytes -= claims.entries.remove(at).1.len();
            }
            if !claims.hides && claims.entries.is_empty() {
                all.remove(&key);
            }
        }
    }

    /// What an index looks like at a key.
    pub(super) fn at(&self, index: usize, key: &[u8]) -> Laid<'_> {
        self.claims(index).and_then(|claims| claims.get(key)).map(Claims::laid).unwrap_or_default()
    }

    /// What changed records make of an index, by key.
    pub(super) fn claims(&self, index: usize) -> Option<&BTreeMap<Vec<u8>, Claims>> {
        self.claims.get(index)
    }

    /// How many keys of an index they touch.
    pub(super) fn len(&self, index: usize) -> usize {
        self.claims(index).map_or(0, BTreeMap::len)
    }
}

impl Claims {
    pub(super) fn laid(&self) -> Laid<'_> {
        let row = self.entries.first().map(|(_, value)| value.as_slice());
        Laid { hides: self.hides, rows: self.entries.len(), row }
    }
}
