//! Blocks of the chain: where they come from before the engine stores them.

mod block;
pub mod block_files;
pub mod regtest;

pub use block::ChainBlock;
