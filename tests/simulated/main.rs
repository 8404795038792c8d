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

mod amplification;
mod backfill;
mod bad_input;
mod chain;
mod chain_model;
#[path = "../chain_support/mod.rs"]
mod chain_support;
#[cfg(feature = "object-store")]
mod cold_s3;
mod corruption;
mod crash_at_every_io;
mod crash_in_recovery;
mod determinism;
mod disk_full;
mod draft;
mod get_many;
mod heights;
mod mutants;
mod point_reads;
mod purge;
mod random_seeds;
mod released_space;
mod revert_rules;
mod scans;
mod schema_change;
mod snapshots;
mod stalls;
mod state_rules;
mod support;
mod tier_faults;
mod tiers;
mod verify;
