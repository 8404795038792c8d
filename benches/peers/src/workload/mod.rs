//! The blocks, and what a store must answer after each of them.
//!
//! Everything follows from one seed, so every store sees the same blocks.

mod block;
mod chain;
mod digest;
mod model;
mod random;
mod wire;

pub use block::{
    Block, CoinKey, CoinValue, Header, OldValues, ScriptKey, SlotKey, SlotValue, Txid, script_hash,
    script_key,
};
pub use chain::{Chain, reads_digest};
pub use digest::{Digests, Sum, answers_digest};
pub use model::{Life, Model, Shape};
pub use random::Random;
