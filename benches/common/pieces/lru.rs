//! The textbook cache: what was used longest ago goes first.

use std::collections::HashMap;
use std::rc::Rc;

use op_engine_shards::segment::{Page, PageNo};

pub type Place = (u64, PageNo);

const NONE: usize = usize::MAX;

struct Node {
    place: Place,
    page: Rc<Page>,
    newer: usize,
    older: usize,
}

/// Nodes in a list by their last use, and a map from places to nodes.
pub struct Lru {
    nodes: Vec<Node>,
    at: HashMap<Place, usize, ahash::RandomState>,
    newest: usize,
    oldest: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Lru {
    pub fn new(bytes_max: usize) -> Self {
        let at = HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        Self { nodes: Vec::new(), at, newest: NONE, oldest: NONE, bytes: 0, bytes_max }
    }

    pub fn get(&mut self, place: Place) -> Option<Rc<Page>> {
        let node = *self.at.get(&place)?;
        if node != self.newest {
            self.unlink(node);
            self.link(node);
        }
        Some(Rc::clone(&self.nodes[node].page))
    }

    /// Adds a page that is not there. Once the cache is full, the node of an evicted page is used again.
    pub fn insert(&mut self, place: Place, page: Rc<Page>) {
        self.bytes += page.memory_bytes();
        let new = Node { place, page, newer: NONE, older: NONE };
        let node = if self.bytes > self.bytes_max && self.oldest != NONE {
            let node = self.oldest;
            self.unlink(node);
            let evicted = std::mem::replace(&mut self.nodes[node], new);
            self.at.remove(&evicted.place);
            self.bytes -= evicted.page.memory_bytes();
            node
        } else {
            self.nodes.push(new);
            self.nodes.len() - 1
        };
        self.at.insert(place, node);
        self.link(node);
    }

    fn link(&mut self, node: usize) {
        (self.nodes[node].newer, self.nodes[node].older) = (NONE, self.newest);
        match self.newest {
            NONE => self.oldest = node,
            newest => self.nodes[newest].newer = node,
        }
        self.newest = node;
    }

    fn unlink(&mut self, node: usize) {
        let Node { newer, older, .. } = self.nodes[node];
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older].newer = newer,
        }
    }
}
