//! Nodes of one kind, by number.

use op_engine_io::num::to_usize;

const CHUNK_BITS: u32 = 6;
const CHUNK_NODES_MAX: usize = 1 << CHUNK_BITS;
/// A new chunk is this part of what is there: so much is empty at most.
const GROWTH_DIVISOR: usize = 4;

/// Number of a node in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// No node. Handles run out long before node numbers do.
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// Nodes of one kind, in chunks that never move.
#[derive(Debug)]
pub(super) struct Pool<T> {
    chunks: Vec<Vec<T>>,
    nodes: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), nodes: 0 }
    }
}

impl<T> Pool<T> {
    pub(super) fn add(&mut self, node: T) -> NodeId {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == chunk.capacity()) {
            let nodes = (self.nodes / GROWTH_DIVISOR).clamp(1, CHUNK_NODES_MAX);
            self.chunks.push(Vec::with_capacity(nodes));
            self.nodes += nodes;
        }
        let number = self.chunks.len() - 1;
        let Some(chunk) = self.chunks.last_mut() else { unreachable!("a chunk was just added") };
        let id = number << CHUNK_BITS | chunk.len();
        chunk.push(node);
        let Ok(id) = u32::try_from(id) else { unreachable!("there are no more nodes than handles") };
        NodeId(id)
    }

    pub(super) fn get(&self, id: NodeId) -> &T {
        let (chunk, place) = split(id);
        let Some(node) = self.chunks.get(chunk).and_then(|chunk| chunk.get(place)) else {
            unreachable!("a node's number is from its pool")
        };
        node
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> &mut T {
        let (chunk, place) = split(id);
        let Some(node) = self.chunks.get_mut(chunk).and_then(|chunk| chunk.get_mut(place)) else {
            unreachable!("a node's number is from its pool")
        };
        node
    }

    /// What has been allocated.
    pub(super) fn bytes(&self) -> usize {
        self.nodes * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

fn split(NodeId(id): NodeId) -> (usize, usize) {
    let id = to_usize(u64::from(id));
    (id >> CHUNK_BITS, id % CHUNK_NODES_MAX)
}
