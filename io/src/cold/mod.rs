//! Data that is seldom read, on a target of its own: a directory on any mount, or an object store.
//!
//! | | |
//! |---|---|
//! | objects | immutable, written once from front to back, there as a whole or not at all |
//! | durable | when `finish` or `remove` has resolved, never before |
//! | failures | typed, told to the asker, never repeated here behind its back for longer than the request's deadline |
//!
//! What never happens here:
//! - a request to a target runs on a shard's thread or in its ring: a target that hangs stops nothing but its askers,
//!   and those only until their deadline;
//! - bytes that did not arrive are made up: an answer that is too short is an error;
//! - a secret is part of a message, a log line or a `Debug` text.

mod directory;
mod failure;
mod fault;
#[cfg(feature = "object-store")]
mod object;
mod part;
mod place;
mod real;
mod store;
mod target;
mod workers;

pub use fault::ColdFault;
#[cfg(feature = "object-store")]
pub use object::ObjectStoreUrl;
pub use real::{RealCold, RealUpload};
pub use store::{ColdStore, ColdUpload};
pub use target::{ColdLimits, ColdTarget};
