//! Links headers by their parents and finds the chain with the most work.

use op_engine_io::num::to_u64;

use super::scan::{ScanReport, Scanned};
use super::{BlockFileError, Result};

/// The number of a header in a [`HeaderTree`], in the order in which the files hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// Behind every number that is given.
const NONE: NodeId = NodeId(u32::MAX);

impl NodeId {
    fn index(self) -> usize {
        // Lossless: `usize` has 64 bits.
        op_engine_io::num::to_usize(u64::from(self.0))
    }

    fn some(self) -> Option<Self> {
        (self != NONE).then_some(self)
    }
}

/// A header and where its block is.
#[derive(Debug, Clone)]
pub struct HeaderNode {
    /// The hash of the block.
    pub hash: [u8; 32],
    /// The work of the branch from its root to this block.
    pub total_work: u128,
    /// Where the record begins in its file, in bytes.
    pub offset: u64,
    /// The bytes of the block.
    pub block_bytes: u32,
    /// Which of the files, counted from 0 in the order of their numbers.
    pub file: u32,
    /// How many blocks are before it in its branch.
    pub depth: u32,
    parent: NodeId,
    root: NodeId,
}

/// The headers of all block files: 80 bytes for each, and while they are linked 44 more.
#[derive(Debug)]
pub struct HeaderTree {
    nodes: Vec<HeaderNode>,
    /// The root of the best chain, and its tip; none if there are no headers.
    best: Option<(NodeId, NodeId)>,
    begins_at_genesis: bool,
    /// Without the nodes that repeat a block.
    len: usize,
}

const _: () = assert!(size_of::<HeaderNode>() == 80);

impl HeaderTree {
    /// Links the headers of all files. Fills the counts of `report`, except for the stale ones.
    pub(super) fn link(files: Vec<Vec<Scanned>>, report: &mut ScanReport) -> Result<Self> {
        let (mut nodes, parents) = number(files)?;
        let by_hash = sort_by_hash(&nodes);
        report.duplicates = to_u64(nodes.len() - by_hash.len());
        report.headers = to_u64(by_hash.len());

        // The blocks whose parent is not there begin the branches. Records of a block that is already known stay
        // unlinked and without work.
        let mut children = Children::new(nodes.len());
        let mut roots = Vec::new();
        for &id in &by_hash {
            let parent = parents.get(id.index()).and_then(|parent| find(&nodes, &by_hash, parent));
            match parent {
                Some(parent) => children.add(parent, id),
                None => roots.push(id),
            }
            if let Some(node) = nodes.get_mut(id.index()) {
                node.parent = parent.unwrap_or(NONE);
            }
        }
        roots.sort_unstable();
        let at_genesis = |id: &NodeId| parents.get(id.index()) == Some(&[0; 32]);
        let begins_at_genesis = roots.iter().any(at_genesis);
        children.walk(&mut nodes, &roots);

        let best = best_branch(&nodes, |root| !begins_at_genesis || at_genesis(&root));
        let linked = nodes.iter().filter(|node| Some(node.root) == best.map(|(root, _)| root)).count();
        report.orphans = report.headers - to_u64(linked);
        Ok(Self { nodes, best, begins_at_genesis, len: by_hash.len() })
    }

    /// How many different blocks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the best chain begins at a genesis block.
    #[must_use]
    pub fn begins_at_genesis(&self) -> bool {
        self.begins_at_genesis
    }

    /// A header.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&HeaderNode> {
        self.nodes.get(id.index())
    }

    /// The chain with the most work, from its first block to its tip; of several with the same work, the one whose
    /// tip the files hold first. It begins at the genesis block if the files hold it, or else at the block without a
    /// parent from which the most work goes on.
    #[must_use]
    pub fn best_chain(&self) -> Vec<NodeId> {
        let mut chain = Vec::new();
        let mut next = self.best.map(|(_, tip)| tip);
        while let Some(id) = next {
            chain.push(id);
            next = self.node(id).and_then(|node| node.parent.some());
        }
        chain.reverse();
        chain
    }
}

/// The headers of all files as nodes without links, and their parents' hashes.
fn number(files: Vec<Vec<Scanned>>) -> Result<(Vec<HeaderNode>, Vec<[u8; 32]>)> {
    let count = files.iter().map(Vec::len).sum();
    if u32::try_from(count).map_or(true, |count| count == u32::MAX) {
        return Err(BlockFileError::TooManyHeaders { max: u32::MAX - 1 });
    }
    let mut nodes = Vec::with_capacity(count);
    let mut parents = Vec::with_capacity(count);
    for (file, headers) in (0u32..).zip(files) {
        for Scanned { hash, parent, work, offset, block_bytes } in headers {
            parents.push(parent);
            nodes.push(HeaderNode {
                hash,
                total_work: work,
                offset,
                block_bytes,
                file,
                depth: 0,
                parent: NONE,
                root: NONE,
            });
        }
    }
    Ok((nodes, parents))
}

/// The nodes in the order of their hashes, of equal ones the first only.
fn sort_by_hash(nodes: &[HeaderNode]) -> Vec<NodeId> {
    let mut by_hash: Vec<NodeId> = (0u32..).map(NodeId).take(nodes.len()).collect();
    let hash = |id: NodeId| nodes.get(id.index()).map(|node| &node.hash);
    by_hash.sort_unstable_by(|a, b| hash(*a).cmp(&hash(*b)).then(a.cmp(b)));
    by_hash.dedup_by(|next, kept| hash(*next) == hash(*kept));
    by_hash
}

fn find(nodes: &[HeaderNode], by_hash: &[NodeId], hash: &[u8; 32]) -> Option<NodeId> {
    let found =
        by_hash.binary_search_by(|id| nodes.get(id.index()).map(|node| &node.hash).cmp(&Some(hash))).ok()?;
    by_hash.get(found).copied()
}

/// The children of every node as linked lists in two arrays.
struct Children {
    first: Vec<NodeId>,
    next: Vec<NodeId>,
}

impl Children {
    fn new(count: usize) -> Self {
        Self { first: vec![NONE; count], next: vec![NONE; count] }
    }

    fn add(&mut self, parent: NodeId, child: NodeId) {
        if let (Some(first), Some(next)) =
            (self.first.get_mut(parent.index()), self.next.get_mut(child.index()))
        {
            *next = *first;
            *first = child;
        }
    }

    /// Sums up work and depth from `roots` to the leaves. Each node has one parent, so each is visited once, and
    /// links that went in a circle would not be reached.
    fn walk(&self, nodes: &mut [HeaderNode], roots: &[NodeId]) {
        let mut pending = Vec::new();
        for &root in roots {
            if let Some(node) = nodes.get_mut(root.index()) {
                node.root = root;
            }
            pending.push(root);
            while let Some(id) = pending.pop() {
                let Some((work, depth)) = nodes.get(id.index()).map(|node| (node.total_work, node.depth))
                else {
                    continue;
                };
                let mut child = self.first.get(id.index()).and_then(|first| first.some());
                while let Some(id) = child {
                    if let Some(node) = nodes.get_mut(id.index()) {
                        node.total_work = node.total_work.saturating_add(work);
                        node.depth = depth + 1;
                        node.root = root;
                    }
                    pending.push(id);
                    child = self.next.get(id.index()).and_then(|next| next.some());
                }
            }
        }
    }
}

/// The root and the tip with the most work among the branches whose root may be used.
fn best_branch(nodes: &[HeaderNode], usable: impl Fn(NodeId) -> bool) -> Option<(NodeId, NodeId)> {
    let mut best: Option<(u128, NodeId, NodeId)> = None;
    for (id, node) in (0u32..).map(NodeId).zip(nodes) {
        let better = best.is_none_or(|(work, ..)| node.total_work > work);
        if node.root != NONE && better && usable(node.root) {
            best = Some((node.total_work, node.root, id));
        }
    }
    best.map(|(_, root, tip)| (root, tip))
}
