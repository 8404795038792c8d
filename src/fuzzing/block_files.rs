//! Block files of a node.

use std::fs;

use tempfile::TempDir;

use crate::chain::block_files::{BlockFiles, BlockFilesOptions};
use crate::chain::regtest::{RegtestChain, RegtestOptions};

const KEY: [u8; 8] = [0xfa, 1, 2, 0xbf, 0xb5, 6, 0xda, 8];
/// The files are under a key.
const WITH_KEY: u8 = 1;
/// The magic is to be found out.
const UNKNOWN_MAGIC: u8 = 2;
/// The height of the first block is to be found out.
const UNKNOWN_HEIGHT: u8 = 4;
/// Blocks of a file that are read.
const BLOCKS_MAX: u64 = 4;

/// A file, after how it is read. What of it is a chain is read without damage; the rest is told.
pub(super) fn run(bytes: &[u8]) {
    let Some((how, file)) = bytes.split_first() else { return };
    let Ok(dir) = TempDir::new() else { return };
    let mut stored = file.to_vec();
    if how & WITH_KEY != 0 {
        stored.iter_mut().zip(KEY.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        assert!(fs::write(dir.path().join("xor.dat"), KEY).is_ok(), "a file can be written");
    }
    assert!(fs::write(dir.path().join("blk00000.dat"), stored).is_ok(), "a file can be written");
    let options = BlockFilesOptions {
        magic: (how & UNKNOWN_MAGIC == 0).then(RegtestChain::magic),
        first_height: (how & UNKNOWN_HEIGHT == 0).then_some(7),
        threads: 1,
        ..BlockFilesOptions::default()
    };
    let Ok(files) = BlockFiles::open(dir.path(), options) else { return };
    let (first, tip) = (files.first_height(), files.tip_height());
    assert!(first <= tip && files.hash_at(tip).is_some(), "a chain has a block");
    for height in (first..=tip).take(usize::try_from(BLOCKS_MAX).unwrap_or_default()) {
        if let Ok(Some(block)) = files.block_at(height) {
            assert_eq!(Some(block.hash), files.hash_at(height), "a block is the one of its header");
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let options = RegtestOptions { seed: 3, transactions_per_block: 1, keys: 2, coinbase_maturity: 1 };
    let mut chain = RegtestChain::new(options);
    chain.mine_blocks(2);
    let record = |height: u64| {
        let raw = chain.block_at(height).map(|block| block.raw.clone()).unwrap_or_default();
        let bytes = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        [&RegtestChain::magic(), &bytes.to_le_bytes(), &raw[..]].concat()
    };
    let whole = [record(0), record(1)].concat();
    let torn: Vec<u8> = record(1).into_iter().take(100).collect();
    vec![
        [&[0], &whole[..]].concat(),
        [&[WITH_KEY | UNKNOWN_MAGIC | UNKNOWN_HEIGHT], &whole[..]].concat(),
        [&[UNKNOWN_HEIGHT], &record(2)[..], b"garbage", &record(1), &[0; 20]].concat(),
        [&[0], &torn[..]].concat(),
    ]
}
