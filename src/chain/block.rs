//! A block at its place in the chain.

use bitcoin::Block;

/// A block at its place in the chain, parsed and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainBlock {
    /// Its distance from the genesis block.
    pub height: u64,
    /// The double SHA-256 of its header, in the order in which it is hashed and stored.
    pub hash: [u8; 32],
    /// The hash of the block before it; zeros for the genesis block.
    pub parent: [u8; 32],
    /// The block.
    pub block: Block,
    /// The transaction ids, one for each transaction of the block.
    pub txids: Vec<[u8; 32]>,
    /// The block as the network serialises it.
    pub raw: Vec<u8>,
}
