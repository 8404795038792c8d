//! What a node keeps of itself and of its observations.

use super::Outpoint;
use crate::collection;

collection! {
    /// Outputs that anyone can spend, and why.
    ///
    /// Outside the chain: an output's script does not change with it; overwritten; spread by the key.
    pub collection AnyoneCanSpend = "anyone_can_spend": Outpoint => AnyoneCanSpendOutput
        where scope: Global;

    /// Why anyone can spend an output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct AnyoneCanSpendOutput {
        version 1 {
            /// The class that its script is in.
            pub classification: String,
        }
    }
}

collection! {
    /// How far a node is, by network.
    ///
    /// Outside the chain: it is a counter that is polled, and tells also of a block that is not committed.
    pub collection BlockchainInformation = "blockchain_information": String => ChainProgress
        where scope: Global;

    /// How far a node is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChainProgress {
        version 1 {
            /// The height of the block that it works on.
            pub block_in_progress: u64 as Compact,
        }
    }
}

collection! {
    /// Reorgs that the node went through, by the first height that was replaced and the last.
    ///
    /// Follows reorgs: a reorg is written with the first block of the new branch, so a deeper one takes back those on the
    /// branch that it leaves; overwritten; few, so spread by the key.
    pub collection Reorgs = "reorgs": (u64, u64) => ReorgRecord;

    /// A reorg.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ReorgRecord {
        version 1 {
            /// When it happened, in milliseconds since 1970.
            pub timestamp_ms: u64 as Compact,
        }
    }
}

collection! {
    /// Whatever a wallet keeps, by name.
    ///
    /// Outside the chain: labels and settings outlive reorgs.
    pub collection WalletMeta = "wallet_meta": String => Vec<u8> where scope: Global;
}
