//! Which shard a partition lives on.

use std::hash::Hasher;

use op_engine_shards::CollectionId;
use siphasher::sip::SipHasher13;

/// Places partitions on shards by SipHash-1-3 (Aumasson and Bernstein, 2012) with a random key that the store keeps.
///
/// Txids can be ground and contract slots chosen; without the key nobody can choose keys that pile up on one shard.
/// The function is part of the format: it stays as it is for the life of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    key: [u8; 16],
    shards: u64,
}

impl Placement {
    pub(crate) fn new(key: [u8; 16], shard_count: usize) -> Self {
        Self { key, shards: op_engine_io::num::to_u64(shard_count.max(1)) }
    }

    /// The position of the shard that holds a partition of a collection.
    pub(crate) fn shard(&self, collection: CollectionId, partition: &[u8]) -> usize {
        if self.shards == 1 {
            return 0;
        }
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(&collection.0.to_le_bytes());
        hasher.write(partition);
        op_engine_io::num::to_usize(hasher.finish() % self.shards)
    }

    /// A number that nobody without the store's key can make for these bytes. No collection has the number that goes
    /// before them, so that it tells nothing of where partitions lie.
    pub(crate) fn seal(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(&u32::MAX.to_le_bytes());
        hasher.write(bytes);
        hasher.finish()
    }
}
