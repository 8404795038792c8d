//! Digests of what a store holds and answers.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A digest of the rows of a table, which can be kept up to date row by row.
///
/// It does not depend on the order of the rows: whoever scans a table checks that its keys ascend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' hashes.
    pub hash: u128,
}

impl Sum {
    /// Adds a row.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.hash = self.hash.wrapping_add(row_hash(key, value));
    }

    /// Takes a row out that is in.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows -= 1;
        self.hash = self.hash.wrapping_sub(row_hash(key, value));
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest128()
}

/// A sum for each table that all stores have.
pub type Digests = [Sum; 6];

/// A digest of answers to reads, in their order.
#[must_use]
pub fn answers_digest<'a>(answers: impl Iterator<Item = Option<&'a [u8]>>) -> u128 {
    let mut bytes = Vec::new();
    for answer in answers {
        bytes.push(u8::from(answer.is_some()));
        bytes.extend(answer.unwrap_or_default());
    }
    xxh3_128(&bytes)
}
