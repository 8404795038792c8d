//! Keys of a node, in order.
//!
//! A node holds handles, and of each key eight bytes beside it: most comparisons end there. Bytes that all keys of a
//! node begin with are skipped, so that long common beginnings cost nothing.

use super::arena::Handle;

/// Keys of a node at most.
pub(super) const SLOTS: usize = 48;

/// What handles of keys lead to.
pub(super) trait Keys {
    fn key(&self, at: Handle) -> &[u8];
}

/// Keys in order.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    prefixes: [u64; SLOTS],
    handles: [Handle; SLOTS],
    len: usize,
    /// Bytes that all keys which belong here begin with.
    skip: usize,
}

impl Slots {
    pub(super) const fn empty(skip: usize) -> Self {
        Self { prefixes: [0; SLOTS], handles: [Handle::NONE; SLOTS], len: 0, skip }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == SLOTS
    }

    pub(super) fn skip(&self) -> usize {
        self.skip
    }

    pub(super) fn handles(&self) -> &[Handle] {
        self.handles.split_at(self.len).0
    }

    pub(super) fn prefixes(&self) -> &[u64] {
        self.prefixes.split_at(self.len).0
    }

    pub(super) fn handle(&self, at: usize) -> Option<Handle> {
        self.handles().get(at).copied()
    }

    /// Where a key is, or where it would be, if it does not belong before `from`.
    pub(super) fn find(&self, from: usize, key: &[u8], keys: &impl Keys) -> Result<usize, usize> {
        let prefix = prefix(key, self.skip);
        let rest = self.prefixes().split_at(from).1;
        let low = from + rest.partition_point(|other| *other < prefix);
        let ties = self.prefixes().split_at(low).1;
        if ties.first() != Some(&prefix) {
            return Err(low);
        }
        let ties = ties.partition_point(|other| *other == prefix);
        let tied = self.handles().split_at(low).1.split_at(ties).0;
        let found = tied.binary_search_by(|handle| keys.key(*handle).cmp(key));
        found.map(|at| low + at).map_err(|at| low + at)
    }

    /// Whether the key at a place is behind another.
    pub(super) fn is_behind(&self, at: usize, key: &[u8], keys: &impl Keys) -> Option<bool> {
        let (other, handle) = (self.prefixes().get(at)?, self.handle(at)?);
        let prefix = prefix(key, self.skip);
        Some(*other > prefix || *other == prefix && keys.key(handle) > key)
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], handle: Handle) {
        assert!(at <= self.len && self.len < SLOTS, "there is room");
        self.prefixes.copy_within(at..self.len, at + 1);
        self.handles.copy_within(at..self.len, at + 1);
        if let (Some(prefix_at), Some(handle_at)) = (self.prefixes.get_mut(at), self.handles.get_mut(at)) {
            (*prefix_at, *handle_at) = (prefix(key, self.skip), handle);
        }
        self.len += 1;
    }

    /// Takes what is at and behind a place.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let mut upper = Self::empty(self.skip);
        upper.len = self.len - at;
        upper.prefixes.split_at_mut(upper.len).0.copy_from_slice(self.prefixes().split_at(at).1);
        upper.handles.split_at_mut(upper.len).0.copy_from_slice(self.handles().split_at(at).1);
        self.len = at;
        upper
    }

    /// Takes the last key.
    pub(super) fn pop(&mut self) -> Option<Handle> {
        let last = self.handles().last().copied();
        self.len = self.len.saturating_sub(1);
        last
    }

    /// Skips more bytes.
    pub(super) fn skip_to(&mut self, skip: usize, keys: &impl Keys) {
        self.skip = skip;
        let len = self.len;
        for (place, handle) in self.prefixes.iter_mut().zip(&self.handles).take(len) {
            *place = prefix(keys.key(*handle), skip);
        }
    }
}

/// Eight bytes of a key as a number in their order. What is missing counts as zeros, so that equal numbers tell nothing.
pub(crate) fn prefix(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    u64::from_be_bytes(bytes)
}
