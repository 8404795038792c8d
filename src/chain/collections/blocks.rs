//! Blocks by height, by hash and by OPNet's checksum.

use crate::{collection, record};

collection! {
    /// Blocks by height.
    ///
    /// Follows reorgs; versions of the window are enough, since the height is the key; written once, in the order of
    /// blocks; each block on a shard by its height.
    pub collection Blocks = "blocks": u64 => BlockInfo where layout: AppendOnly;

    /// What is kept of a block besides its transactions.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BlockInfo {
        version 1 {
            /// The double SHA-256 of the header.
            pub hash: [u8; 32],
            /// The hash of the block before it; zeros for the genesis block.
            pub parent: [u8; 32],
            /// The root of the tree of txids.
            pub merkle_root: [u8; 32],
            /// The version, with the signals of soft forks.
            pub version: i32,
            /// Seconds since 1970, as the miner says.
            pub time: u32,
            /// The median of the times of the eleven blocks that end with this one (BIP 113), where it is known.
            pub median_time: Option<u32>,
            /// The target in its compact form.
            pub bits: u32,
            /// What the miner varied.
            pub nonce: u32,
            /// How many transactions it has.
            pub transactions: u32 as Compact,
            /// Its bytes with witnesses.
            pub size_bytes: u32 as Compact,
            /// Its bytes without witnesses.
            pub stripped_bytes: u32 as Compact,
            /// Its weight (BIP 141).
            pub weight: u64 as Compact,
            /// What OPNet adds; absent below its first block, and where only Bitcoin was indexed.
            pub opnet: Option<OpnetBlock>,
        }
    }

    /// Heights of blocks by hash.
    pub unique index BlocksByHash = "by_hash": [u8; 32], |_, block| block.hash;

    /// Heights of OPNet's blocks by checksum root. It covers the checksum of the parent, so no two blocks have the same.
    pub unique index BlocksByChecksum = "by_checksum": [u8; 32],
        |_, block, emit| if let Some(opnet) = &block.opnet {
            emit(opnet.checksum_root, ());
        };
}

/// A leaf of the tree under a block's checksum root, and the hashes that lead from it to the root.
pub type ChecksumProof = (u32, Vec<[u8; 32]>);

record! {
    /// What OPNet adds to a block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct OpnetBlock {
        version 1 {
            /// The checksum of the block before.
            pub parent_checksum: [u8; 32],
            /// The root over everything that the block changed, its parent's checksum included.
            pub checksum_root: [u8; 32],
            /// The root of the tree of slots.
            pub storage_root: [u8; 32],
            /// The root of the tree of receipts.
            pub receipt_root: [u8; 32],
            /// The moving average of the gas that blocks use.
            pub ema: u64 as Compact,
            /// The price of gas.
            pub base_gas: u64 as Compact,
            /// The gas that its transactions used.
            pub gas_used: u64 as Compact,
            /// The proofs of the parts of the checksum.
            pub checksum_proofs: Vec<ChecksumProof>,
        }
    }
}
