//! The hot pieces of the engine, each beside what one would take in its place.
//!
//! A piece is a number of ways to do the same work; the first one is the engine's. One call does the work some hundred
//! or thousand times, so that what a call costs itself does not matter. That the ways give the same answers is asserted
//! when a piece is made, and so outside of what is measured.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark fails by panicking"
)]

use std::sync::atomic::AtomicBool;

mod bloom;
mod cache;
mod codecs;
mod data;
mod filter;
mod frame;
mod index;
mod lru;
mod memtable;
mod merge;
mod operations;
mod page;
mod ribbon;

/// Whether pieces whose input is large are to have all of it. Times need that; counts of instructions do not.
pub static AT_SCALE: AtomicBool = AtomicBool::new(false);

/// One way to do the work. A call returns a number that depends on all answers.
pub struct Way {
    pub name: &'static str,
    pub work: Box<dyn FnMut() -> u64>,
}

/// Some work, and the ways to do it.
pub struct Piece {
    /// How many operations one call does.
    pub operations: u64,
    /// How many bytes one call handles, where that tells more than the operations do.
    pub bytes: Option<u64>,
    pub ways: Vec<Way>,
    /// What the times alone do not tell.
    pub notes: Vec<String>,
}

impl Piece {
    fn new(operations: usize) -> Self {
        Self { operations: operations as u64, bytes: None, ways: Vec::new(), notes: Vec::new() }
    }

    fn of_bytes(self, bytes: usize) -> Self {
        Self { bytes: Some(bytes as u64), ..self }
    }

    fn way(mut self, name: &'static str, work: impl FnMut() -> u64 + 'static) -> Self {
        self.ways.push(Way { name, work: Box::new(work) });
        self
    }

    fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// Asserts that all ways answer the same.
    fn agreed(mut self) -> Self {
        let answers: Vec<u64> = self.ways.iter_mut().map(|way| (way.work)()).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "the ways answer {answers:x?}");
        self
    }
}

/// Makes a piece: as late as possible, because it can take a second and much memory.
pub type Maker = fn() -> Piece;

/// All pieces by name.
pub const PIECES: [(&str, Maker); 30] = [
    ("memtable insert, commits", memtable::insert_commits),
    ("memtable insert, random", memtable::insert_random),
    ("memtable get", memtable::get),
    ("memtable get, absent", memtable::get_absent),
    ("memtable scan", memtable::scan),
    ("merge of memtables", merge::memtables),
    ("merge of segments", merge::segments),
    ("cache hit", cache::hit),
    ("cache turnover", cache::turnover),
    ("frame encode", frame::encode),
    ("frame decode", frame::decode),
    ("small frame encode", frame::encode_small),
    ("small frame decode", frame::decode_small),
    ("page encode", page::encode),
    ("page search, outpoints", page::search_outpoints),
    ("page search, slots", page::search_slots),
    ("filter build", filter::build),
    ("filter query, present", filter::query_present),
    ("filter query, absent", filter::query_absent),
    ("filter of 16 bits build", filter::build_16),
    ("filter of 16 bits query, present", filter::query_present_16),
    ("filter of 16 bits query, absent", filter::query_absent_16),
    ("filter hash", filter::hash),
    ("page index search", index::search),
    ("key encode", codecs::key_encode),
    ("key decode", codecs::key_decode),
    ("value encode", codecs::value_encode),
    ("value decode", codecs::value_decode),
    ("operations encode", operations::encode),
    ("operations decode", operations::decode),
];

/// Pieces that are too large to count their instructions.
pub const LARGE_PIECES: [(&str, Maker); 3] = [
    ("filter of 4 million keys build", filter::build_many),
    ("filter of 4 million keys query, present", filter::query_present_many),
    ("filter of 4 million keys query, absent", filter::query_absent_many),
];

/// Adds an answer to those before it. Their order matters.
fn mixed(digest: u64, answer: u64) -> u64 {
    digest.rotate_left(7) ^ answer
}

/// The first eight bytes as a number.
fn head(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("at least eight bytes"))
}
