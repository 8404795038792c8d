//! Every decoder, to be fed with any bytes: see `fuzz/`. Not for users: compiled in only for tests and fuzzing.

mod block_files;
mod declared;
#[cfg(test)]
mod tests;

pub use op_engine_shards::fuzzing::Target;

use crate::engine::fuzzing as engine;

const TARGETS: &[Target] = &[
    Target { name: "keys", run: declared::keys, seeds: declared::key_seeds },
    Target { name: "values", run: declared::values, seeds: declared::value_seeds },
    Target { name: "index_entries", run: declared::index_entries, seeds: declared::index_entry_seeds },
    Target { name: "chain_records", run: engine::chain_records, seeds: engine::chain_record_seeds },
    Target { name: "work_records", run: engine::work_records, seeds: engine::work_record_seeds },
    Target { name: "definitions", run: engine::definitions, seeds: engine::definition_seeds },
    Target { name: "tokens", run: engine::tokens, seeds: engine::token_seeds },
    Target { name: "block_files", run: block_files::run, seeds: block_files::seeds },
];

/// All decoders: of this crate, and of the shards.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain(op_engine_shards::fuzzing::TARGETS)
}

/// The decoder with a name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    targets().find(|target| target.name == name)
}
