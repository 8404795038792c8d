//! A block, and the sizes of everything in it.

/// A transaction's id and the number of one of its outputs.
pub type CoinKey = [u8; 36];
/// Amount (8), height (4), flags (1), script hash (32), the beginning of the script (15).
pub type CoinValue = [u8; 60];
/// A script hash and a coin.
pub type ScriptKey = [u8; 68];
/// A contract (32) and a pointer (32).
pub type SlotKey = [u8; 64];
/// What a contract stored.
pub type SlotValue = [u8; 32];
/// A transaction's id.
pub type Txid = [u8; 32];
/// A block header.
pub type Header = [u8; 80];

/// What a block changes. Coins and slots are in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: [u8; 32],
    /// The hash of the block before it.
    pub parent: [u8; 32],
    /// Its header.
    pub header: Header,
    /// New coins. Those of a transaction follow each other, numbered from 0.
    pub created: Vec<(CoinKey, CoinValue)>,
    /// Coins of earlier blocks that are spent.
    pub spent: Vec<CoinKey>,
    /// Slots that are written, each once.
    pub slots: Vec<(SlotKey, SlotValue)>,
    /// Transactions in the order of the block.
    pub transactions: Vec<(Txid, Vec<u8>)>,
}

impl Block {
    /// The ids of its transactions, one after the other.
    #[must_use]
    pub fn ids(&self) -> Vec<u8> {
        self.transactions.iter().flat_map(|(txid, _)| *txid).collect()
    }
}

/// What a block replaces, read before it is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OldValues {
    /// The spent coins, in the order of [`Block::spent`].
    pub coins: Vec<Option<CoinValue>>,
    /// The slots before the block, in the order of [`Block::slots`].
    pub slots: Vec<Option<SlotValue>>,
}

/// The script hash in a coin's value.
#[must_use]
pub fn script_hash(value: &CoinValue) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(&value[13..45]);
    hash
}

/// The entry of a coin in the script index.
#[must_use]
pub fn script_key(script: &[u8; 32], coin: &CoinKey) -> ScriptKey {
    let mut key = [0; 68];
    key[..32].copy_from_slice(script);
    key[32..].copy_from_slice(coin);
    key
}
