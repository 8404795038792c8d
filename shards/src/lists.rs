//! Many keys, many values and many rows, each in one buffer: what batches of reads and scans carry from thread to thread.
//! One allocation each would cost more than the look-up.

use std::ops::Range;

use crate::ids::CollectionId;

/// Keys, each of some collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyList {
    bytes: Vec<u8>,
    /// The collection of each key, and where the key ends.
    ends: Vec<(CollectionId, usize)>,
}

impl KeyList {
    /// Adds a key.
    pub fn push(&mut self, collection: CollectionId, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push((collection, self.bytes.len()));
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A key, by its place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<(CollectionId, &[u8])> {
        let (collection, end) = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).map(|(_, end)| *end))?;
        Some((collection, self.bytes.get(start..end)?))
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = (CollectionId, &[u8])> {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

/// Values, each of which may be absent, in any order of their arrival.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueList {
    bytes: Vec<u8>,
    places: Vec<Option<Range<usize>>>,
}

impl ValueList {
    /// So many absent values.
    #[must_use]
    pub fn absent(len: usize) -> Self {
        Self { bytes: Vec::new(), places: vec![None; len] }
    }

    /// Sets a value, by its place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn set(&mut self, at: usize, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let place = self.places.get_mut(at);
        assert!(place.is_some(), "a value has a place");
        if let Some(place) = place {
            *place = Some(start..self.bytes.len());
        }
    }

    /// How many places there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A value, by its place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        self.bytes.get(self.places.get(at)?.clone()?)
    }
}

/// Keys with their values, in the order of their arrival.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowList {
    bytes: Vec<u8>,
    /// Where the key and the value of each row end.
    ends: Vec<(usize, usize)>,
}

impl RowList {
    /// Adds a row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A row, by its place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let (key_end, end) = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).map(|(_, end)| *end))?;
        Some((self.bytes.get(start..key_end)?, self.bytes.get(key_end..end)?))
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_hold_what_they_were_given(keys in prop::collection::vec((1u32..4, prop::collection::vec(any::<u8>(), 0..9)), 0..20)) {
            let mut list = KeyList::default();
            keys.iter().for_each(|(id, key)| list.push(CollectionId(*id), key));
            let held: Vec<_> = list.iter().map(|(id, key)| (id.0, key.to_vec())).collect();
            prop_assert_eq!(held, keys.clone());
            prop_assert_eq!((list.len(), list.get(keys.len())), (keys.len(), None));

            let mut rows = RowList::default();
            keys.iter().for_each(|(id, key)| rows.push(key, &id.to_le_bytes()));
            let held: Vec<_> = rows.iter().map(|(key, id)| (key.to_vec(), id.to_vec())).collect();
            let wanted: Vec<_> = keys.iter().map(|(id, key)| (key.clone(), id.to_le_bytes().to_vec())).collect();
            prop_assert_eq!(&held, &wanted);
            prop_assert_eq!((rows.len(), rows.get(keys.len())), (keys.len(), None));
            prop_assert_eq!(rows.bytes(), wanted.iter().map(|(key, id)| key.len() + id.len()).sum::<usize>());

            let mut values = ValueList::absent(keys.len());
            for (at, (id, key)) in keys.iter().enumerate().rev().filter(|(_, (id, _))| *id > 1) {
                values.set(at, key);
                prop_assert!(*id > 1);
            }
            for (at, (id, key)) in keys.iter().enumerate() {
                prop_assert_eq!(values.get(at), (*id > 1).then_some(key.as_slice()));
            }
        }
    }
}
