//! What the tests on the simulated machine share: a schema, an oracle, scripts, checks and runs.

pub mod check;
pub mod coverage;
pub mod damage;
pub mod life;
pub mod model;
pub mod opnet;
pub mod run;
pub mod schema;
pub mod script;
pub mod tables;
pub mod trial;
