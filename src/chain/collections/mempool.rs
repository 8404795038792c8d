//! Transactions that are in no block.

use super::{Call, Outpoint, TransactionKind};
use crate::{Desc, collection, record};

collection! {
    /// Transactions of the mempool, by id.
    ///
    /// Outside the chain: it is changed between blocks, and a reorg does not change what waits; rows come and go; spread by
    /// the key.
    pub collection Mempool = "mempool": [u8; 32] => MempoolTransaction where scope: Global;

    /// A transaction of the mempool.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MempoolTransaction {
        version 1 {
            /// In which form it came.
            pub form: MempoolForm,
            /// Its bytes.
            pub raw: Vec<u8>,
            /// The partially signed transaction that it replaces.
            pub previous_psbt: Option<[u8; 32]>,
            /// The height of the tip when it came.
            pub height: u64 as Compact,
            /// When it came, in milliseconds since 1970.
            pub first_seen_ms: u64 as Compact,
            /// What it is to OPNet.
            pub kind: TransactionKind,
            /// The call; absent for a generic transaction.
            pub call: Option<Call>,
            /// The outputs that it spends.
            pub inputs: Vec<Outpoint>,
            /// Its outputs.
            pub outputs: Vec<MempoolOutput>,
        }
    }

    /// Transactions that pay an address, the newest first.
    pub index MempoolByAddress = "by_address": (String, Desc<u64>),
        |_, transaction, emit| for address in transaction.outputs.iter().flat_map(|output| &output.addresses) {
            emit((address.clone(), Desc(transaction.first_seen_ms)), ());
        };

    /// Transactions that spend an output. Those that spend outputs of one transaction are on one shard.
    pub index MempoolByInput = "by_input": Outpoint,
        |_, transaction, emit| for input in &transaction.inputs {
            emit(*input, ());
        };

    /// All transactions, the newest first. Covers what is counted.
    pub index MempoolByFirstSeen = "by_first_seen": Desc<u64> => MempoolWeight,
        |_, transaction, emit| {
            // A value has less than 4 GiB.
            let bytes = u32::try_from(transaction.raw.len()).unwrap_or(u32::MAX);
            emit(Desc(transaction.first_seen_ms), MempoolWeight { kind: transaction.kind, bytes });
        };
}

record! {
    /// In which form a transaction came.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum MempoolForm {
        /// Complete, in consensus encoding.
        1 = Signed,
        /// As a partially signed transaction (BIP 174).
        2 = Psbt,
    }
}

record! {
    /// An output of a transaction of the mempool.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MempoolOutput {
        version 1 {
            /// In satoshis.
            pub value: u64 as Compact,
            /// The output script.
            pub script: Vec<u8>,
            /// The addresses that it pays.
            pub addresses: Vec<String>,
        }
    }
}

record! {
    /// What is counted of a transaction of the mempool.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct MempoolWeight {
        version 1 {
            /// What it is to OPNet.
            pub kind: TransactionKind,
            /// Its bytes.
            pub bytes: u32 as Compact,
        }
    }
}
