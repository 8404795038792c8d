//! Going over the keys of a range.

use std::ops::Bound;

use super::arena::Handle;
use super::index::{Nodes, Position, Tree};
use super::records::Records;

impl Nodes {
    /// The keys between two bounds, which are not the wrong way round.
    pub(super) fn range(
        &self,
        tree: &Tree,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        records: &Records,
    ) -> Walk<'_> {
        let place = |key, is_past: bool| {
            let (mut position, is_there) = self.lower_bound(tree, key, records);
            position.at += usize::from(is_past && is_there);
            position
        };
        let low = match start {
            Bound::Unbounded => Position { leaf: tree.first, at: 0 },
            Bound::Included(key) => place(key, false),
            Bound::Excluded(key) => place(key, true),
        };
        let high = match end {
            Bound::Unbounded => self.end(tree),
            Bound::Included(key) => place(key, true),
            Bound::Excluded(key) => place(key, false),
        };
        Walk { nodes: self, low, high }
    }

    fn end(&self, tree: &Tree) -> Position {
        let mut node = tree.root;
        for _ in 0..tree.height {
            let inner = self.inners.get(node);
            node = inner.child(inner.slots.len());
        }
        Position { leaf: node, at: self.leaves.get(node).slots.len() }
    }
}

/// Goes over the keys of a range from either end.
#[derive(Debug, Clone)]
pub(super) struct Walk<'a> {
    nodes: &'a Nodes,
    low: Position,
    high: Position,
}

impl Iterator for Walk<'_> {
    type Item = Handle;

    fn next(&mut self) -> Option<Handle> {
        while self.low != self.high {
            let leaf = self.nodes.leaves.get(self.low.leaf);
            if let Some(handle) = leaf.slots.handle(self.low.at) {
                self.low.at += 1;
                return Some(handle);
            }
            self.low = Position { leaf: leaf.after, at: 0 };
        }
        None
    }
}

impl DoubleEndedIterator for Walk<'_> {
    fn next_back(&mut self) -> Option<Handle> {
        while self.low != self.high {
            let leaf = self.nodes.leaves.get(self.high.leaf);
            if let Some(at) = self.high.at.checked_sub(1) {
                self.high.at = at;
                return leaf.slots.handle(at);
            }
            let before = self.nodes.leaves.get(leaf.before);
            self.high = Position { leaf: leaf.before, at: before.slots.len() };
        }
        None
    }
}
