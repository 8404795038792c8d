//! The whole engine on the simulated machine, one module a behaviour. One program, because each that holds the engine
//! costs a minute of building.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::type_complexity,
    reason = "a test fails by panicking"
)]

mod backfill;
mod bad_input;
mod chain;
#[path = "../chain_support/mod.rs"]
mod chain_support;
mod corruption;
mod crash_at_every_io;
mod crash_in_recovery;
mod determinism;
mod disk_full;
mod get_many;
mod mutants;
mod point_reads;
mod purge;
mod random_seeds;
mod scans;
mod schema_change;
mod snapshots;
mod stalls;
mod support;
mod verify;
