//! What a node keeps of itself and of its observations.

use super::Outpoint;
use crate::{Collection, Scope, record};

/// Outputs that anyone can spend, and why.
///
/// Outside the chain: an output's script does not change with it; overwritten; spread by the key.
#[derive(Debug)]
pub struct AnyoneCanSpend;

record! {
    /// Why anyone can spend an output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct AnyoneCanSpendOutput {
        version 1 {
            /// The class that its script is in.
            pub classification: String,
        }
    }
}

impl Collection for AnyoneCanSpend {
    const NAME: &'static str = "anyone_can_spend";
    type Key = Outpoint;
    type Value = AnyoneCanSpendOutput;
    const SCOPE: Scope = Scope::Global;
}

/// How far a node is, by network.
///
/// Outside the chain: it is a counter that is polled, and tells also of a block that is not committed.
#[derive(Debug)]
pub struct BlockchainInformation;

record! {
    /// How far a node is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChainProgress {
        version 1 {
            /// The height of the block that it works on.
            pub block_in_progress: u64 as Compact,
        }
    }
}

impl Collection for BlockchainInformation {
    const NAME: &'static str = "blockchain_information";
    type Key = String;
    type Value = ChainProgress;
    const SCOPE: Scope = Scope::Global;
}

/// Reorgs that the node went through, by the first height that was replaced and the last.
///
/// Follows reorgs: a reorg is written with the first block of the new branch, so a deeper one takes back those on the
/// branch that it leaves; overwritten; few, so spread by the key.
#[derive(Debug)]
pub struct Reorgs;

record! {
    /// A reorg.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ReorgRecord {
        version 1 {
            /// When it happened, in milliseconds since 1970.
            pub timestamp_ms: u64 as Compact,
        }
    }
}

impl Collection for Reorgs {
    const NAME: &'static str = "reorgs";
    type Key = (u64, u64);
    type Value = ReorgRecord;
}

/// Whatever a wallet keeps, by name.
///
/// Outside the chain: labels and settings outlive reorgs.
#[derive(Debug)]
pub struct WalletMeta;

impl Collection for WalletMeta {
    const NAME: &'static str = "wallet_meta";
    type Key = String;
    type Value = Vec<u8>;
    const SCOPE: Scope = Scope::Global;
}
