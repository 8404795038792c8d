//! Contracts that were deployed.

use crate::{collection, record};

collection! {
    /// Contracts by the 32 bytes that slots, events and calls name them by.
    ///
    /// Follows reorgs; versions of the window are enough, since a record says when it was deployed; written once;
    /// spread by the key.
    pub collection Contracts = "contracts": [u8; 32] => Contract where layout: AppendOnly;

    /// A contract.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Contract {
        version 1 {
            /// Its address as text.
            pub address: String,
            /// Its key in hybrid form, 65 bytes.
            pub hybrid_key: [u8; 65],
            /// Its code, decompressed.
            pub bytecode: Vec<u8>,
            /// Whether the code came compressed.
            pub compressed: bool,
            /// The id of the transaction that deployed it.
            pub txid: [u8; 32],
            /// The hash of that transaction with witnesses.
            pub tx_hash: [u8; 32],
            /// The key of who deployed it.
            pub deployer_key: Vec<u8>,
            /// The address of who deployed it.
            pub deployer: [u8; 32],
            /// What the address was derived from.
            pub seed: [u8; 32],
            /// The hash of what made the address differ from others of the same deployer.
            pub salt_hash: [u8; 32],
            /// The height of the block that deployed it.
            pub height: u64 as Compact,
        }
    }

    /// Contracts by their address as text.
    pub unique index ContractsByAddress = "by_address": String, |_, contract| contract.address.clone();

    /// Contracts by their key in hybrid form.
    pub unique index ContractsByHybridKey = "by_hybrid_key": [u8; 65],
        |_, contract| contract.hybrid_key;

    /// Contracts of a deployer, in the order of their deployment. Covers everything but the code.
    pub index ContractsByDeployer = "by_deployer": ([u8; 32], u64) => ContractSummary,
        |_, contract, emit| emit((contract.deployer, contract.height), contract.summary());

    /// Contracts by the height of their deployment. Covers everything but the code.
    pub index ContractsByHeight = "by_height": u64 => ContractSummary,
        |_, contract, emit| emit(contract.height, contract.summary());
}

record! {
    /// A contract without its code.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ContractSummary {
        version 1 {
            /// Its address as text.
            pub address: String,
            /// The height of the block that deployed it.
            pub height: u64 as Compact,
        }
    }
}

impl Contract {
    fn summary(&self) -> ContractSummary {
        ContractSummary { address: self.address.clone(), height: self.height }
    }
}
