//! The world as a shard of OP-Engine sees it: files, buffers, time, randomness and tasks.
//!
//! [`Env`] is the only way in which the crates above touch the outside. It has two implementations:
//! the [`real`] one (one pinned thread per core, an own io_uring, direct I/O) and the deterministic
//! simulation in [`sim`], which can crash, tear sectors and fail at every single operation.
//!
//! What never happens here:
//! - no code of this crate knows what a block, a key or a height is;
//! - no type of glommio, io-uring or an async runtime appears in a public signature;
//! - no buffer that the kernel may still write to is freed or moved.

mod buf;
mod cold;
mod env;
mod error;
pub mod hardware;
pub mod mailbox;
pub mod num;
mod patience;
pub mod real;
mod reply;
pub mod sim;
mod sync_mode;
mod task;
pub mod yardstick;

pub use buf::{IO_UNIT_BYTES, IoBuf};
#[cfg(feature = "object-store")]
pub use cold::ObjectStoreUrl;
pub use cold::{ColdFault, ColdLimits, ColdStore, ColdTarget, ColdUpload, RealCold, RealUpload};
pub use env::{
    Dir, Env, File, FileKind, FileName, OpenMode, PanicHook, PanicReport, Place, Running, Space, TaskClass,
    World, WriteSync,
};
pub use error::{Error, FileOp, Result};
pub use reply::{Disconnected, Reply, ReplySender, block_on, reply};
pub use sync_mode::{SyncMode, UnknownSyncMode};
pub use task::{ReadyTask, TaskSet, Unpark};
