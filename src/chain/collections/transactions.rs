//! Transactions by their place in the chain, and their places by txid and by hash.
//!
//! The way from a txid to the transaction is a collection of its own and not an index, for two reasons. Txids are not
//! unique: on the main network the coinbases of blocks 91,722 and 91,880 are the same transaction, and so are those of
//! 91,812 and 91,842 (BIP 30). A unique index would refuse such a block; here the later one replaces the earlier one,
//! as in a node, and a reorg brings the earlier one back. And a look-up by txid is a read of one key, which filters
//! answer, where an index that is not unique must be scanned.

use bitcoin::Transaction;
use bitcoin::consensus::encode;

use crate::{Block, collection, record};

collection! {
    /// Transactions by height and position in the block.
    ///
    /// Follows reorgs; versions of the window are enough, since the height is a part of the key; written once, in the
    /// order of blocks; those of a block are on one shard, which reads them in order.
    pub collection Transactions = "transactions": (u64, u32) => StoredTransaction
        where layout: AppendOnly, partition: 1, tier: (super::WHEN_FINAL);

    /// A transaction as the network serialises it, and what its execution came to.
    ///
    /// Inputs and outputs are in the bytes: [`StoredTransaction::parse`]. Kept apart as well they would double the
    /// largest collection. The fee is not kept: it takes the outputs that are spent, which an index that starts above
    /// genesis may not have.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StoredTransaction {
        version 1 {
            /// Its id: the double SHA-256 without witnesses.
            pub txid: [u8; 32],
            /// The double SHA-256 with witnesses; absent where that is the id.
            pub witness_hash: Option<[u8; 32]>,
            /// The transaction in consensus encoding, with witnesses.
            pub raw: Vec<u8>,
            /// What OPNet made of it; absent where only Bitcoin was indexed.
            pub execution: Option<Execution>,
        }
    }
}

record! {
    /// What a transaction is to OPNet.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum TransactionKind {
        /// One of Bitcoin, without a meaning to OPNet.
        1 = Generic,
        /// It deploys a contract.
        2 = Deployment,
        /// It calls a contract.
        3 = Interaction,
    }
}

record! {
    /// What the execution of a transaction came to. Its events are in [`Events`](super::Events).
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Execution {
        version 1 {
            /// What the transaction is to OPNet.
            pub kind: TransactionKind,
            /// In satoshis.
            pub burned: u64 as Compact,
            /// What the epoch's proposer gets, in satoshis.
            pub reward: u64 as Compact,
            /// The gas that it used.
            pub gas_used: u64 as Compact,
            /// The gas that was not charged to it.
            pub special_gas_used: u64 as Compact,
            /// In satoshis.
            pub priority_fee: u64 as Compact,
            /// Why it was reverted, if it was.
            pub revert: Option<Vec<u8>>,
            /// The call; absent for a generic transaction.
            pub call: Option<Call>,
        }
    }
}

record! {
    /// A call of a contract, or its deployment.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Call {
        version 1 {
            /// What the contract was given.
            pub calldata: Vec<u8>,
            /// Whether the calldata came compressed.
            pub compressed: bool,
            /// The solution of an epoch that it names.
            pub preimage: Vec<u8>,
            /// The hash of the sender's public key.
            pub sender_key_hash: [u8; 32],
            /// What the script commits to.
            pub contract_secret: Vec<u8>,
            /// The key of the interaction.
            pub interaction_key: Vec<u8>,
            /// The sender.
            pub from: [u8; 32],
            /// The sender's key before OPNet's own signatures, if it was shown.
            pub from_legacy: Option<[u8; 33]>,
            /// The contract.
            pub contract: [u8; 32],
            /// What the contract returned; absent if it was reverted.
            pub receipt: Option<Vec<u8>>,
            /// The hashes that lead from the receipt to the block's receipt root.
            pub receipt_proofs: Vec<[u8; 32]>,
        }
    }
}

impl StoredTransaction {
    /// The double SHA-256 with witnesses.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.witness_hash.unwrap_or(self.txid)
    }

    /// The transaction with its inputs and outputs.
    ///
    /// # Errors
    /// If the bytes are not a transaction; those that were ingested are.
    pub fn parse(&self) -> Result<Transaction, encode::Error> {
        encode::deserialize(&self.raw)
    }

    /// Stores it at its place, and the ways to it.
    pub fn put(&self, place: TransactionPlace, changes: &mut Block) {
        changes.put::<Transactions>(&(place.height, place.position), self);
        changes.put::<TransactionIds>(&self.txid, &place);
        if let Some(hash) = &self.witness_hash {
            changes.put::<TransactionIds>(hash, &place);
        }
    }
}

collection! {
    /// The places of transactions by txid, and by hash where that is another one: whichever a caller has, it is one read.
    ///
    /// Follows reorgs; versions of the window are enough; written once, so its large and random keys are merged seldom;
    /// spread by the whole key.
    pub collection TransactionIds = "transaction_ids": [u8; 32] => TransactionPlace
        where layout: AppendOnly;

    /// Where a transaction is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransactionPlace {
        version 1 {
            /// The height of its block.
            pub height: u64 as Compact,
            /// Its position in the block; the coinbase is at 0.
            pub position: u32 as Compact,
        }
    }
}
