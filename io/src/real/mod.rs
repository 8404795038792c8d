//! The real machine: pinned threads, one io_uring per thread, direct I/O below one directory.
//!
//! A [`RealWorld`] owns a store's directory. Each of its hosts is a thread with a ring, an arena of buffers and a set
//! of tasks, driven by one loop (`pump`). Operations queue up while tasks run and reach the kernel together, once
//! per turn; the thread sleeps in its ring, where completions, other threads and timers wake it.

mod arena;
mod calibrate;
mod counters;
mod courtesy;
mod directory;
mod doorbell;
mod env;
mod file;
mod file_table;
mod file_thread;
mod host;
mod lock;
mod operation;
mod permits;
mod probe;
mod pump;
mod removed;
mod ring;
mod ring_setup;
mod settings;
mod share;
mod slab;
pub(crate) mod sys;
mod target;
mod timers;
mod tuning;
mod world;

pub use calibrate::calibrate;
pub use counters::Counters;
pub use env::RealEnv;
pub use file::RealFile;
pub use probe::{Outcome, ProbeReport, ProbeStep, probe};
pub use ring::RingReport;
pub use settings::RealSettings;
pub use tuning::Calibration;
pub use world::RealWorld;
