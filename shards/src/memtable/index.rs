//! The order of the keys: B+ trees over handles.
//!
//! Trees share two pools of nodes. Keys are never removed, so that nodes are only ever split. A commit inserts in key order: the place of the last insert, with the way down to it, is
//! kept, and the next key is looked for from there on. A node that is filled in ascending order is split behind the
//! last key and stays full.

use super::arena::Handle;
use super::node::{Inner, Leaf, Separators};
use super::pool::{NodeId, Pool};
use super::records::Records;
use super::slots::{Keys, SLOTS, Slots};

/// Inner nodes above a leaf at most. Nodes are a third full on average at least: each level takes 4 bits of a handle.
const LEVELS_MAX: usize = 8;
const _: () = assert!(SLOTS / 3 >= 1 << 4 && LEVELS_MAX * 4 >= 32);
/// Bytes more to skip that make it worth to read all keys of a node.
const SKIP_MORE_MIN: usize = 4;

/// The root of a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: NodeId,
    /// Inner nodes above a leaf.
    pub(super) height: usize,
    pub(super) first: NodeId,
}

/// A place in the order of a tree's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) leaf: NodeId,
    pub(super) at: usize,
}

/// An inner node on the way to a leaf, and the number of the child that goes on.
#[derive(Debug, Clone, Copy)]
struct Step {
    node: NodeId,
    child: usize,
}

/// The place of the last insert, and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Finger {
    steps: [Step; LEVELS_MAX],
    position: Position,
    /// The key that is there; none if the place is not to be used.
    key: Handle,
    /// Whether the place is the next one to where the finger was before.
    is_next: bool,
}

impl Default for Finger {
    fn default() -> Self {
        let position = Position { leaf: NodeId::NONE, at: 0 };
        let step = Step { node: NodeId::NONE, child: 0 };
        Self { steps: [step; LEVELS_MAX], position, key: Handle::NONE, is_next: false }
    }
}

impl Finger {
    /// Forgets the place.
    pub(super) fn lift(&mut self) {
        self.key = Handle::NONE;
    }
}

/// All nodes of all trees.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) leaves: Pool<Leaf>,
    pub(super) inners: Pool<Inner>,
    pub(super) separators: Separators,
}

impl Nodes {
    /// A tree without keys.
    pub(super) fn new_tree(&mut self) -> Tree {
        let leaf = Leaf { slots: Slots::empty(0), before: NodeId::NONE, after: NodeId::NONE };
        let root = self.leaves.add(leaf);
        Tree { root, height: 0, first: root }
    }

    /// What has been allocated.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.bytes() + self.inners.bytes() + self.separators.bytes()
    }

    /// The key's handle, if it is there.
    pub(super) fn get(&self, tree: &Tree, key: &[u8], records: &Records) -> Option<Handle> {
        let slots = &self.leaves.get(self.leaf_of(tree, key)).slots;
        slots.find(0, key, records).ok().and_then(|at| slots.handle(at))
    }

    /// The place of the first key that is not before one, and whether it is that key.
    pub(super) fn lower_bound(&self, tree: &Tree, key: &[u8], records: &Records) -> (Position, bool) {
        let leaf = self.leaf_of(tree, key);
        match self.leaves.get(leaf).slots.find(0, key, records) {
            Ok(at) => (Position { leaf, at }, true),
            Err(at) => (Position { leaf, at }, false),
        }
    }

    fn leaf_of(&self, tree: &Tree, key: &[u8]) -> NodeId {
        let mut node = tree.root;
        for _ in 0..tree.height {
            let inner = self.inners.get(node);
            node = inner.child(inner.child_of(0, key, &self.separators));
        }
        node
    }

    /// Puts the finger where a key is or belongs. Gives its handle if it is there.
    pub(super) fn seek(
        &self,
        tree: &Tree,
        finger: &mut Finger,
        key: &[u8],
        records: &Records,
    ) -> Option<Handle> {
        let is_onward = finger.key != Handle::NONE && records.key(finger.key) <= key;
        if !is_onward {
            finger.steps[0] = Step { node: tree.root, child: 0 };
        }
        let level = if is_onward { self.level_to_change(tree, finger, key) } else { Some(0) };
        let before = finger.position;
        let leaf = match level {
            Some(level) => self.descend(tree, finger, level, key),
            None => before.leaf,
        };
        let is_same = is_onward && leaf == before.leaf;
        let slots = &self.leaves.get(leaf).slots;
        let found = slots.find(if is_same { before.at } else { 0 }, key, records);
        let at = found.unwrap_or_else(|at| at);
        finger.position = Position { leaf, at };
        finger.is_next = is_same && at == before.at + 1;
        finger.key = found.ok().and_then(|at| slots.handle(at)).unwrap_or(Handle::NONE);
        found.ok().and_then(|at| slots.handle(at))
    }

    /// The level where the way to a later key leaves the finger's, if it does. From the root down, because a node compares
    /// only keys that belong below it.
    fn level_to_change(&self, tree: &Tree, finger: &Finger, key: &[u8]) -> Option<usize> {
        finger.steps.iter().take(tree.height).position(|step| {
            let slots = &self.inners.get(step.node).slots;
            slots.is_behind(step.child, key, &self.separators) == Some(false)
        })
    }

    /// Goes down from a level, where the child to begin with is known.
    fn descend(&self, tree: &Tree, finger: &mut Finger, level: usize, key: &[u8]) -> NodeId {
        let mut next = None;
        for step in finger.steps.iter_mut().take(tree.height).skip(level) {
            if let Some(node) = next {
                *step = Step { node, child: 0 };
            }
            let inner = self.inners.get(step.node);
            step.child = inner.child_of(step.child, key, &self.separators);
            next = Some(inner.child(step.child));
        }
        next.unwrap_or(tree.root)
    }

    /// Adds a key where the finger was put for it.
    pub(super) fn insert(&mut self, tree: &mut Tree, finger: &mut Finger, handle: Handle, records: &Records) {
        let Position { leaf, at } = finger.position;
        let slots = &mut self.leaves.get_mut(leaf).slots;
        if slots.is_full() {
            self.insert_and_split(tree, finger, handle, records);
            finger.lift();
        } else {
            slots.insert(at, records.key(handle), handle);
            finger.key = handle;
        }
    }

    fn insert_and_split(&mut self, tree: &mut Tree, finger: &Finger, handle: Handle, records: &Records) {
        let Position { leaf: lower_id, at } = finger.position;
        let (low, high) = self.bounds(finger, tree.height);
        let lower = self.leaves.get_mut(lower_id);
        let split_at = if finger.is_next { at.max(SLOTS / 2) } else { SLOTS / 2 };
        let mut upper = Leaf { slots: lower.slots.split_off(split_at), before: lower_id, after: lower.after };
        match at.checked_sub(split_at) {
            Some(at_upper) if at_upper > 0 || split_at == SLOTS => {
                upper.slots.insert(at_upper, records.key(handle), handle);
            }
            _ => lower.slots.insert(at, records.key(handle), handle),
        }
        let (Some(last), Some(first)) = (lower.slots.handles().last(), upper.slots.handle(0)) else {
            unreachable!("both halves have keys")
        };
        let middle = self.separators.add_between(records.key(*last), records.key(first));
        skip_common(&mut lower.slots, self.separators.common_len(low, Some(middle)), records);
        skip_common(&mut upper.slots, self.separators.common_len(Some(middle), high), records);
        let after = upper.after;
        let upper_id = self.leaves.add(upper);
        self.leaves.get_mut(lower_id).after = upper_id;
        if after != NodeId::NONE {
            self.leaves.get_mut(after).before = upper_id;
        }
        self.insert_above(tree, finger, middle, upper_id);
    }

    /// Adds a child behind the one that the finger went through, and splits what is full.
    fn insert_above(&mut self, tree: &mut Tree, finger: &Finger, separator: Handle, child: NodeId) {
        let (mut separator, mut child) = (separator, child);
        for (level, step) in finger.steps.iter().enumerate().take(tree.height).rev() {
            let (low, high) = self.bounds(finger, level);
            let separators = &self.separators;
            let lower = self.inners.get_mut(step.node);
            if !lower.slots.is_full() {
                lower.insert(step.child, separators.key(separator), separator, child);
                return;
            }
            let (middle, mut upper) = lower.split();
            match step.child.checked_sub(lower.slots.len() + 1) {
                None => lower.insert(step.child, separators.key(separator), separator, child),
                Some(at) => upper.insert(at, separators.key(separator), separator, child),
            }
            skip_common(&mut lower.slots, separators.common_len(low, Some(middle)), separators);
            skip_common(&mut upper.slots, separators.common_len(Some(middle), high), separators);
            (separator, child) = (middle, self.inners.add(upper));
        }
        assert!(tree.height < LEVELS_MAX, "handles run out before levels do");
        let mut root = Inner::new(0, tree.root);
        root.insert(0, self.separators.key(separator), separator, child);
        tree.root = self.inners.add(root);
        tree.height += 1;
    }

    /// The separators that bound what belongs below the finger's way at a level.
    fn bounds(&self, finger: &Finger, level: usize) -> (Option<Handle>, Option<Handle>) {
        let mut bounds = (None, None);
        for step in finger.steps.iter().take(level) {
            let slots = &self.inners.get(step.node).slots;
            bounds.0 = step.child.checked_sub(1).and_then(|at| slots.handle(at)).or(bounds.0);
            bounds.1 = slots.handle(step.child).or(bounds.1);
        }
        bounds
    }
}

/// Skips what all keys that belong to a node begin with, where that makes their numbers tell more.
fn skip_common(slots: &mut Slots, common_len: usize, keys: &impl Keys) {
    if common_len >= slots.skip() + SKIP_MORE_MIN {
        slots.skip_to(common_len, keys);
    }
}
