//! One shard of OP-Engine, and the barrier between shards.
//!
//! A shard is single-threaded `async` code over [`op_engine_io::Env`]: a write-ahead log, a memtable, immutable
//! segments and a manifest that ties them together. The barrier gives every commit a sequence number, sends each
//! shard its part and decides when the whole is durable.
//!
//! What never happens here:
//! - a shard reads memory of another shard: they exchange owned messages only;
//! - an entry above the durable cut reaches a segment;
//! - a sequence number is used twice;
//! - a byte from disk is trusted before its checksum and its length are checked.
#![forbid(unsafe_code)]

pub mod barrier;
pub mod bytes;
pub mod cache;
pub mod catalog;
pub mod cold_mark;
mod config;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
pub mod lists;
pub mod log;
pub mod manifest;
pub mod memtable;
pub mod merge;
pub mod message;
pub mod mutants;
pub mod ops;
pub mod range;
pub mod recovery;
pub mod reserve;
pub mod retention;
pub mod run;
pub mod segment;
pub mod segment_meta;
pub mod select;
pub mod shard;
pub mod signal;
pub mod stats;
pub mod superblock;
pub mod tier;
pub mod verify;
pub mod visibility;
pub mod wal;

pub use config::ShardConfig;
pub use error::{Error, Result};
pub use ids::{BlockHash, CollectionId, Height, Seq, ShardId, StoreId, Term};
