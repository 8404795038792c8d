//! Transactions by their place in the chain, and their places by txid.
//!
//! The way from a txid to the transaction is a collection of its own and not an index, for two reasons. Txids are not
//! unique: on the main network the coinbases of blocks 91,722 and 91,880 are the same transaction, and so are those of
//! 91,812 and 91,842 (BIP 30). A unique index would refuse such a block; here the later one replaces the earlier one,
//! as in a node, and a reorg brings the earlier one back. And a look-up by txid is a read of one key, which filters
//! answer, where an index that is not unique must be scanned.

use bitcoin::Transaction;
use bitcoin::consensus::encode;

use crate::{Collection, Layout, record};

/// Transactions by height and position in the block. Those of a block are on one shard.
#[derive(Debug)]
pub struct Transactions;

record! {
    /// A transaction as the network serialises it.
    ///
    /// Its fee is not kept: it takes the outputs that it spends, which an index that starts above genesis may not have.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StoredTransaction {
        version 1 {
            /// Its id.
            pub txid: [u8; 32],
            /// The transaction in consensus encoding, with witnesses.
            pub raw: Vec<u8>,
        }
    }
}

impl StoredTransaction {
    /// The transaction, parsed.
    ///
    /// # Errors
    /// If the bytes are not a transaction; those that were ingested are.
    pub fn parse(&self) -> Result<Transaction, encode::Error> {
        encode::deserialize(&self.raw)
    }
}

impl Collection for Transactions {
    const NAME: &'static str = "transactions";
    type Key = (u64, u32);
    type Value = StoredTransaction;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;
}

/// The places of transactions by txid.
#[derive(Debug)]
pub struct TransactionIds;

record! {
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

impl Collection for TransactionIds {
    const NAME: &'static str = "transaction_ids";
    type Key = [u8; 32];
    type Value = TransactionPlace;
    const LAYOUT: Layout = Layout::AppendOnly;
}
