//! Who has attested blocks.

use bitcoin::hashes::{Hash, sha256};

use crate::collection;

collection! {
    /// Witnesses of blocks, by height and [id](BlockWitness::id).
    ///
    /// Follows reorgs; the window restores proofs as they were; written in the order of blocks, and rarely again, when proofs are added; those of a block are on one shard,
    /// which pages through them.
    pub collection BlockWitnesses = "block_witnesses": (u64, [u8; 32]) => BlockWitness
        where layout: AppendOnly, partition: 1, tier: (super::WHEN_FINAL);

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

    /// Witnesses by the hash of their public key and the height.
    pub index WitnessesByKey = "by_key": ([u8; 32], u64),
        |key, witness, emit| if let Some(public_key) = &witness.public_key {
            emit((witness_key_hash(public_key), key.0), ());
        };
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
