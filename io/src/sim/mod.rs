//! The simulated machine: one thread, one seed, no real time.
//!
//! Every host of a [`SimWorld`] is a set of tasks on the calling thread. At each step the seed decides which ready
//! task runs or which due completion is delivered; when there is neither, the clock jumps to the next completion or
//! timer, and when there is nothing to jump to, the run is a deadlock. The same seed, options, disk and program give
//! the same [`SimWorld::trace_hash`].
//!
//! The files live on a [`SimDisk`], which keeps what is durable apart from what is only visible, so that
//! [`SimDisk::crash`] can draw any image that a loss of power may leave behind.
//!
//! What never happens here:
//! - no thread, wall clock, path, or iteration in the order of a random hash;
//! - no borrow of the world's state while a task is polled, woken or dropped.

mod cold;
mod crash;
mod disk;
mod edit;
mod faults;
mod host;
mod inode;
mod io;
mod objects;
mod options;
mod pages;
mod rng;
mod trace;
mod world;

#[cfg(test)]
mod cold_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod mailbox_tests;
#[cfg(test)]
mod world_tests;

pub use cold::{ColdFaults, SimCold, SimUpload};
pub use disk::SimDisk;
pub use faults::{Fault, Faults};
pub use host::{SimEnv, SimFile};
pub use options::{DurableCover, Personality, SimOptions};
pub use rng::Rng;
pub use trace::{IoEvent, IoPhase};
pub use world::{Outcome, SimWorld};
