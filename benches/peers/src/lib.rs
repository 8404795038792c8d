//! One node-like workload on OP-Engine, RocksDB, fjall, redb and LMDB.
//!
//! [`workload`] makes the blocks and knows what every store must answer. [`stores`] has one file for each store behind
//! the trait [`Store`](stores::Store). A [`worker`] is a process that holds one store; the [`runner`] starts workers one
//! after another, feeds them, checks their answers and prints the table.

pub mod arguments;
pub mod runner;
pub mod stores;
pub mod worker;
pub mod workload;

/// Any failure: a benchmark only reports it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;
