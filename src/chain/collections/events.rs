//! What contracts have told.

use crate::collection;

/// A block's height, the transaction's position in it, and the event's number in the transaction.
pub type EventKey = (u64, u32, u32);

collection! {
    /// Events by their place in the chain.
    ///
    /// Follows reorgs; versions of the window are enough, since the height is a part of the key; written once, in the
    /// order of blocks; those of a block are on one shard, beside its transactions.
    pub collection Events = "events": EventKey => ContractEvent where layout: AppendOnly, partition: 1, tier: (super::WHEN_FINAL);

    /// An event.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ContractEvent {
        version 1 {
            /// The contract that told it.
            pub contract: [u8; 32],
            /// Its name, which OPNet calls its type.
            pub name: String,
            /// What it says.
            pub data: Vec<u8>,
        }
    }

    /// Places of events by contract and height. Data of up to a MiB is not repeated here.
    pub index EventsByContract = "by_contract": ([u8; 32], u64), |key, event| (event.contract, key.0);

    /// Places of events by contract, name and height.
    pub index EventsByName = "by_name": ([u8; 32], String, u64),
        |key, event| (event.contract, event.name.clone(), key.0);
}
