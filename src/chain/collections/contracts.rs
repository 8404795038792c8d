//! Contracts that were deployed.

use crate::{Collection, Index, IndexList, Layout, record};

/// Contracts by the 32 bytes that slots, events and calls name them by.
///
/// Follows reorgs; versions of the window are enough, since a record says when it was deployed; written once;
/// spread by the key.
#[derive(Debug)]
pub struct Contracts;

record! {
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

impl Collection for Contracts {
    const NAME: &'static str = "contracts";
    type Key = [u8; 32];
    type Value = Contract;
    const LAYOUT: Layout = Layout::AppendOnly;

    fn indexes() -> IndexList<Self> {
        IndexList::new()
            .with::<ContractsByAddress>()
            .with::<ContractsByHybridKey>()
            .with::<ContractsByDeployer>()
            .with::<ContractsByHeight>()
    }
}

/// Contracts by their address as text.
#[derive(Debug)]
pub struct ContractsByAddress;

impl Index for ContractsByAddress {
    const NAME: &'static str = "by_address";
    type Of = Contracts;
    type Key = String;
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &[u8; 32], contract: &Contract, emit: &mut dyn FnMut(String, ())) {
        emit(contract.address.clone(), ());
    }
}

/// Contracts by their key in hybrid form.
#[derive(Debug)]
pub struct ContractsByHybridKey;

impl Index for ContractsByHybridKey {
    const NAME: &'static str = "by_hybrid_key";
    type Of = Contracts;
    type Key = [u8; 65];
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &[u8; 32], contract: &Contract, emit: &mut dyn FnMut([u8; 65], ())) {
        emit(contract.hybrid_key, ());
    }
}

/// Contracts of a deployer, in the order of their deployment. Covers everything but the code.
#[derive(Debug)]
pub struct ContractsByDeployer;

impl Index for ContractsByDeployer {
    const NAME: &'static str = "by_deployer";
    type Of = Contracts;
    type Key = ([u8; 32], u64);
    type Covered = ContractSummary;

    fn entries(_: &[u8; 32], contract: &Contract, emit: &mut dyn FnMut(Self::Key, ContractSummary)) {
        emit((contract.deployer, contract.height), contract.summary());
    }
}

/// Contracts by the height of their deployment. Covers everything but the code.
#[derive(Debug)]
pub struct ContractsByHeight;

impl Index for ContractsByHeight {
    const NAME: &'static str = "by_height";
    type Of = Contracts;
    type Key = u64;
    type Covered = ContractSummary;

    fn entries(_: &[u8; 32], contract: &Contract, emit: &mut dyn FnMut(u64, ContractSummary)) {
        emit(contract.height, contract.summary());
    }
}
