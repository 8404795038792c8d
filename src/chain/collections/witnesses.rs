//! Who has attested blocks.

use bitcoin::hashes::{Hash, sha256};

use crate::{Collection, Index, IndexList, record};

/// Witnesses of blocks, by height and [id](BlockWitness::id).
///
/// Follows reorgs; the window restores proofs as they were; proofs are added later; those of a block are on one shard,
/// which pages through them.
#[derive(Debug)]
pub struct BlockWitnesses;

record! {
    /// An attestation of a block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BlockWitness {
        version 1 {
            /// When it was made, in milliseconds since 1970.
            pub timestamp_ms: u64 as Compact,
            /// The signature.
            pub signature: Vec<u8>,
            /// Who made it, if that is known.
            pub identity: Option<[u8; 32]>,
            /// The key of the signature, if it was sent along.
            pub public_key: Option<Vec<u8>>,
            /// The hashes that lead to what was signed.
            pub proofs: Vec<[u8; 32]>,
        }
    }
}

impl BlockWitness {
    /// The second part of its key: its identity, or the SHA-256 of its signature if it has none.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        self.identity.unwrap_or_else(|| sha256::Hash::hash(&self.signature).to_byte_array())
    }
}

/// The SHA-256 of a public key, by which [`WitnessesByKey`] finds it: keys may be longer than those of an index.
#[must_use]
pub fn witness_key_hash(public_key: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(public_key).to_byte_array()
}

impl Collection for BlockWitnesses {
    const NAME: &'static str = "block_witnesses";
    type Key = (u64, [u8; 32]);
    type Value = BlockWitness;
    const PARTITION: usize = 1;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<WitnessesByKey>()
    }
}

/// Witnesses by the hash of their public key and the height.
#[derive(Debug)]
pub struct WitnessesByKey;

impl Index for WitnessesByKey {
    const NAME: &'static str = "by_key";
    type Of = BlockWitnesses;
    type Key = ([u8; 32], u64);
    type Covered = ();

    fn entries(key: &(u64, [u8; 32]), witness: &BlockWitness, emit: &mut dyn FnMut(Self::Key, ())) {
        if let Some(public_key) = &witness.public_key {
            emit((witness_key_hash(public_key), key.0), ());
        }
    }
}
