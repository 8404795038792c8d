//! The decoders of this crate, to be fed with any bytes. Not for users: compiled in only for tests and fuzzing.
//!
//! A target takes its input apart in a way of its own, so that few bytes reach deep: checksums are put right, and what
//! a decoder is told by others stands before its bytes. It panics if a promise is broken: a decoder panics by itself,
//! what was accepted comes out otherwise when it is encoded again, or a search leads astray.

mod durable;
mod log;

use crate::segment::fuzzing as segment;

/// A decoder, and inputs that our own encoders make for it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Feeds it with any bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// The decoders of files below a shard, and of the payloads of commits.
pub const TARGETS: &[Target] = &[
    Target { name: "frames", run: log::frames, seeds: log::frame_seeds },
    Target { name: "log_headers", run: log::headers, seeds: log::header_seeds },
    Target { name: "wal_files", run: log::wal_files, seeds: log::wal_file_seeds },
    Target { name: "superblocks", run: durable::superblocks, seeds: durable::superblock_seeds },
    Target { name: "catalogs", run: durable::catalogs, seeds: durable::catalog_seeds },
    Target { name: "manifest_edits", run: durable::edits, seeds: durable::edit_seeds },
    Target { name: "ops", run: durable::ops, seeds: durable::ops_seeds },
    Target { name: "segment_units", run: segment::units, seeds: segment::unit_seeds },
    Target { name: "segment_directories", run: segment::directories, seeds: segment::directory_seeds },
    Target { name: "segment_pages", run: segment::pages, seeds: segment::page_seeds },
    Target {
        name: "index_partitions",
        run: segment::index_partitions,
        seeds: segment::index_partition_seeds,
    },
    Target { name: "packed_pages", run: segment::packed_pages, seeds: segment::packed_page_seeds },
    Target { name: "cold_marks", run: durable::cold_marks, seeds: durable::cold_mark_seeds },
    Target { name: "filters", run: segment::filters, seeds: segment::filter_seeds },
];

/// Puts the checksum of a sector right whose last four bytes are it.
fn seal_sector(bytes: &[u8], checked_bytes: usize) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    sector.resize(checked_bytes, 0);
    let crc = crc32fast::hash(&sector);
    sector.extend_from_slice(&crc.to_le_bytes());
    sector
}

/// Without the zeros at the end, which padding brings back.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}
