//! Blocks by height, and by hash.

use crate::{Collection, Index, IndexList, Layout, record};

/// Blocks by height.
#[derive(Debug)]
pub struct Blocks;

record! {
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
            /// The target in its compact form.
            pub bits: u32,
            /// What the miner varied.
            pub nonce: u32,
            /// How many transactions it has.
            pub transactions: u32 as Compact,
            /// Its bytes with witnesses.
            pub size_bytes: u32 as Compact,
            /// Its weight (BIP 141).
            pub weight: u64 as Compact,
        }
    }
}

impl Collection for Blocks {
    const NAME: &'static str = "blocks";
    type Key = u64;
    type Value = BlockInfo;
    const LAYOUT: Layout = Layout::AppendOnly;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<BlocksByHash>()
    }
}

/// Heights of blocks by hash.
#[derive(Debug)]
pub struct BlocksByHash;

impl Index for BlocksByHash {
    const NAME: &'static str = "by_hash";
    type Of = Blocks;
    type Key = [u8; 32];
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &u64, block: &BlockInfo, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(block.hash, ());
    }
}
