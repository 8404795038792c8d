//! The guide: how to model data for a chain that changes its mind, and what exactly is promised.
//!
//! | Page | Answers |
//! |---|---|
//! | [`new_collection`] | How is a collection declared, filled and asked? How does it change later? |
//! | [`composite_keys`] | What goes into a key, and in which order? Which shard does it choose? |
//! | [`reorgs`] | What does a reorg take back, what survives it, how far does it go? |
//! | [`durability`] | When is a block safe, from what, and what happens when something fails? |
//! | [`tiers`] | What moves to cheap storage, when, and what if that fails? |
//!
//! There is no code here; every example on these pages is compiled and run by the tests.

#[doc = include_str!("new_collection.md")]
pub mod new_collection {}

#[doc = include_str!("composite_keys.md")]
pub mod composite_keys {}

#[doc = include_str!("reorgs.md")]
pub mod reorgs {}

#[doc = include_str!("tiers.md")]
pub mod tiers {}

#[doc = include_str!("durability.md")]
pub mod durability {}
