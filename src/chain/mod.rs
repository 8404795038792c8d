//! Blocks of the chain: where they come from, how a store takes them in, and what it answers about them.

mod block;
pub mod block_files;
pub mod collections;
mod error;
pub mod ingest;
pub mod queries;
pub mod regtest;

pub use block::ChainBlock;
pub use collections::{cold_after, collections};
pub use error::ChainError;
pub use ingest::{Ingest, IngestReport, block_changes};
