//! OP-Engine: an embedded storage engine that follows a chain of blocks, reorgs included.
//!
//! A program holds one [`Engine`]. It declares its [collections](Collection) and their [indexes](Index), and commits them
//! [block](Block) by block: each block changes all collections, or none. [`Engine::reorg_to`] takes all of them back to
//! a height as one commit. [Snapshots](Snapshot) and [`Engine::at`] show the state after a block while the chain goes on.
//!
//! ```
//! use op_engine::{Block, BlockHash, Collection, Config, Engine, Height};
//!
//! struct Balances;
//!
//! impl Collection for Balances {
//!     const NAME: &'static str = "balances";
//!     type Key = [u8; 20];
//!     type Value = u64;
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let store = Engine::open_blocking(Config::new(dir.path()).collection::<Balances>())?;
//! let engine = store.blocking();
//! let (genesis, first) = (BlockHash([1; 32]), BlockHash([2; 32]));
//!
//! let mut block = Block::new(Height(0), genesis, BlockHash([0; 32]));
//! block.put::<Balances>(&[0xa1; 20], &50);
//! engine.commit(block)?; // From here on it survives a crash.
//!
//! let mut block = Block::new(Height(1), first, genesis);
//! block.put::<Balances>(&[0xa1; 20], &20);
//! engine.commit(block)?;
//! assert_eq!(engine.get::<Balances>(&[0xa1; 20])?, Some(20));
//!
//! engine.reorg_to(Height(0))?; // All collections go back, at once.
//! assert_eq!(engine.get::<Balances>(&[0xa1; 20])?, Some(50));
//! store.close_blocking()?;
//! # Ok(())
//! # }
//! ```
//!
//! The calls above block the thread; those of [`Engine`] itself are `async` and run on any runtime.
//!
//! - [`collection!`] declares a collection, its record and its indexes in one place; the traits can be implemented by
//!   hand as well;
//! - [`key`] and [`value`] are the codecs of keys and records, [`record!`] makes a record of a struct or an enum;
//! - [`chain`] reads the block files of a Bitcoin node and declares the collections of an OPNet node;
//! - [`Draft`] is a block in the making, whose reads see it; [`Overlay`] the same for calls that are only simulated;
//! - [`verify`] checks every byte of a store;
//! - [`docs`] is the guide: new collections, composite keys, reorgs, durability.
//!
//! It is for Linux with io_uring, on a filesystem with direct I/O. It is not a server, not a consensus engine and not an
//! SQL database; it does not replicate, and one process at a time holds a store.
#![forbid(unsafe_code)]

mod batch;
pub mod chain;
mod collection;
mod config;
mod declare;
pub mod docs;
mod draft;
mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod key;
mod placement;
pub mod value;
mod verify;

pub use batch::{Batch, Block};
pub use collection::{
    ColdAfter, Collection, Compression, History, Index, IndexList, IndexRow, Layout, Purge, Scope, TierPolicy,
};
pub use config::{Config, Durability};
pub use draft::{BlockingOverlay, Draft, Overlay, OverlayScan, Savepoint};
pub use engine::{
    BlockingEngine, BlockingSnapshot, Committed, Engine, Event, IndexProgress, IndexStatus, Joined,
    JoinedRow, Page, Pending, PrefixOf, PurgeProgress, RawRow, Recovered, Reorged, Row, Scan, Snapshot,
    Stats, Subscription, Tip, Token, TokenError, Totals,
};
pub use error::{Difference, Error, Result};
pub use key::Desc;
pub use op_engine_io::{ColdLimits, ColdTarget};
pub use op_engine_shards::message::TierReport;
pub use op_engine_shards::{BlockHash, Height, Seq, ShardConfig};
pub use verify::{Compared, VerifyProgress, VerifyReport, VerifyScope, verify, verify_on};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
