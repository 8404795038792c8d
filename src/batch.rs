//! What a commit is made of.

use std::any::TypeId;

use op_engine_shards::{BlockHash, Height};
use smallvec::SmallVec;

use crate::collection::{Collection, encode_key};
use crate::engine::Basis;
use crate::value::Record;

/// A value that was read. That of a contract's slot fits in place, and is found without another look into memory.
pub(crate) type BelowValue = SmallVec<[u8; 36]>;

/// What the state that a change is made on has for its key. Absent is not the same as never read, and no value is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Below {
    #[default]
    Unknown,
    Absent,
    Present(BelowValue),
}

impl Below {
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        if let Self::Present(value) = self { Some(value) } else { None }
    }

    /// What it takes beside its place, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Present(value) if value.spilled() => value.capacity(),
            _ => 0,
        }
    }
}

/// One change, encoded, before it is known where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) type_id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) key: Vec<u8>,
    /// How many bytes of the key choose the shard.
    pub(crate) partition_bytes: usize,
    pub(crate) value: Option<Vec<u8>>,
    /// What a draft has read there.
    pub(crate) below: Below,
}

/// Changes that are committed together. Of several changes of one key the last one counts.
///
/// Nothing is checked before the commit: limits and unknown collections are reported then, and the store is
/// unchanged.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a record, in place of any that has its key.
    pub fn put<C: Collection>(&mut self, key: &C::Key, value: &C::Value) -> &mut Self {
        self.change::<C>(key, Some(value.to_bytes()))
    }

    /// Removes a record. Not an error if there is none.
    pub fn delete<C: Collection>(&mut self, key: &C::Key) -> &mut Self {
        self.change::<C>(key, None)
    }

    fn change<C: Collection>(&mut self, key: &C::Key, value: Option<Vec<u8>>) -> &mut Self {
        let (key, partition_bytes) = encode_key(key, C::PARTITION);
        let (type_id, name, below) = (TypeId::of::<C>(), C::NAME, Below::Unknown);
        self.changes.push(Change { type_id, name, key, partition_bytes, value, below });
        self
    }

    /// How many changes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it holds no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A block of the chain with everything that it changes, in all collections.
#[derive(Debug, Clone)]
pub struct Block {
    pub(crate) height: Height,
    pub(crate) hash: BlockHash,
    pub(crate) parent: BlockHash,
    pub(crate) batch: Batch,
    /// What it was made on, if it comes of a draft.
    pub(crate) basis: Option<Basis>,
}

impl Block {
    /// A block without changes. It is accepted only if `parent` is the tip, at `height - 1`; into an empty store
    /// any block is.
    #[must_use]
    pub fn new(height: Height, hash: BlockHash, parent: BlockHash) -> Self {
        Self { height, hash, parent, batch: Batch::new(), basis: None }
    }

    /// Its height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Stores a record, in place of any that has its key.
    pub fn put<C: Collection>(&mut self, key: &C::Key, value: &C::Value) -> &mut Self {
        self.batch.put::<C>(key, value);
        self
    }

    /// Removes a record. Not an error if there is none.
    pub fn delete<C: Collection>(&mut self, key: &C::Key) -> &mut Self {
        self.batch.delete::<C>(key);
        self
    }

    /// How many changes it makes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}
