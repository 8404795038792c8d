//! Nodes of a tree.

use super::arena::{Arena, Handle};
use super::pool::NodeId;
use super::slots::{Keys, SLOTS, Slots};

#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) slots: Slots,
    pub(super) before: NodeId,
    pub(super) after: NodeId,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// What separates every child but the first from the one before it.
    pub(super) slots: Slots,
    first_child: NodeId,
    /// The child behind each separator.
    children: [NodeId; SLOTS],
}

impl Inner {
    pub(super) fn new(skip: usize, first_child: NodeId) -> Self {
        Self { slots: Slots::empty(skip), first_child, children: [NodeId::NONE; SLOTS] }
    }

    /// The child that a key belongs to. It does not belong before child number `from`.
    pub(super) fn child_of(&self, from: usize, key: &[u8], separators: &Separators) -> usize {
        match self.slots.find(from, key, separators) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    pub(super) fn child(&self, at: usize) -> NodeId {
        match at.checked_sub(1) {
            None => self.first_child,
            Some(at) => {
                let Some(child) = self.children.get(at) else { unreachable!("a child has a number") };
                *child
            }
        }
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], handle: Handle, child: NodeId) {
        let len = self.slots.len();
        self.slots.insert(at, key, handle);
        self.children.copy_within(at..len, at + 1);
        if let Some(place) = self.children.get_mut(at) {
            *place = child;
        }
    }

    /// Takes the upper half. The key between the halves goes to the parent.
    pub(super) fn split(&mut self) -> (Handle, Self) {
        let half = self.slots.len() / 2;
        let slots = self.slots.split_off(half + 1);
        let Some(middle) = self.slots.pop() else { unreachable!("a full node has a middle") };
        let mut upper = Self { slots, ..Self::new(0, self.child(half + 1)) };
        let moved = self.children.split_at(half + 1).1;
        upper.children.split_at_mut(moved.len()).0.copy_from_slice(moved);
        (middle, upper)
    }
}

/// Keys that separate nodes. They lie together, and not where the records are, so that they stay in the processor's
/// caches: every way down a tree compares with them.
#[derive(Debug, Default)]
pub(super) struct Separators(Arena);

impl Separators {
    /// Adds the shortest key behind `low` and not behind `high`.
    pub(super) fn add_between(&mut self, low: &[u8], high: &[u8]) -> Handle {
        let separator = high.get(..=common_len(low, high)).unwrap_or(high);
        let Ok(len) = u16::try_from(separator.len()) else { unreachable!("keys have been checked") };
        self.0.append([&len.to_le_bytes(), separator, &[]])
    }

    /// How many bytes all keys between two bounds begin with.
    pub(super) fn common_len(&self, low: Option<Handle>, high: Option<Handle>) -> usize {
        match (low, high) {
            (Some(low), Some(high)) => common_len(self.key(low), self.key(high)),
            _ => 0,
        }
    }

    /// What has been allocated.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Keys for Separators {
    fn key(&self, at: Handle) -> &[u8] {
        let Some((len, rest)) = self.0.tail(at).split_first_chunk() else {
            unreachable!("a separator has a length")
        };
        rest.split_at(usize::from(u16::from_le_bytes(*len))).0
    }
}

/// How many bytes two keys have in common at their beginnings.
fn common_len(key: &[u8], other: &[u8]) -> usize {
    key.iter().zip(other).take_while(|(byte, other)| byte == other).count()
}
