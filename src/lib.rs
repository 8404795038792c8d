//! OP-Engine.
#![forbid(unsafe_code)]

mod batch;
pub mod chain;
mod collection;
mod config;
mod engine;
mod error;
pub mod key;
mod placement;
pub mod value;

pub use batch::{Batch, Block};
pub use collection::{Collection, History, Index, IndexList, IndexRow, Layout, Scope};
pub use config::{Config, Durability};
pub use engine::{
    BlockingEngine, BlockingSnapshot, Committed, Engine, Event, Pending, PrefixOf, Recovered, Reorged, Row,
    Scan, Snapshot, Stats, Subscription, Tip,
};
pub use error::{Error, Result};
pub use key::Desc;
pub use op_engine_shards::{BlockHash, Height, Seq, ShardConfig};
