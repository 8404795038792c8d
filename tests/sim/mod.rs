//! What the tests on the simulated machine share: a schema, an oracle, scripts, checks and runs.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and each test uses a part of this"
)]

pub mod check;
pub mod damage;
pub mod life;
pub mod model;
pub mod run;
pub mod schema;
pub mod script;
