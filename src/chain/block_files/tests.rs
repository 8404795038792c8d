//! Block files of every condition: the chain comes out, and damage is told with its place.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use tempfile::TempDir;

use super::*;
use crate::chain::regtest::{RegtestChain, RegtestOptions};

const KEY: [u8; 8] = [0xfa, 1, 2, 0xbf, 0xb5, 6, 0xda, 8];

fn chain(blocks: u64) -> RegtestChain {
    let options = RegtestOptions { seed: 3, transactions_per_block: 6, keys: 5, coinbase_maturity: 1 };
    let mut chain = RegtestChain::new(options);
    chain.mine_blocks(blocks);
    chain
}

fn active(chain: &RegtestChain) -> Vec<Arc<ChainBlock>> {
    (0..=chain.height()).map(|height| Arc::clone(chain.block_at(height).unwrap())).collect()
}

fn writer(dir: &TempDir, key: Option<[u8; 8]>) -> BlockFileWriter {
    BlockFileWriter::create(dir.path(), RegtestChain::magic(), key).unwrap()
}

fn append_all(writer: &mut BlockFileWriter, blocks: &[Arc<ChainBlock>]) {
    for block in blocks {
        writer.append(&block.raw).unwrap();
    }
}

fn open(dir: &TempDir) -> Result<BlockFiles> {
    BlockFiles::open(dir.path(), BlockFilesOptions { threads: 3, ..BlockFilesOptions::default() })
}

fn file(dir: &TempDir, number: u32) -> PathBuf {
    dir.path().join(format!("blk{number:05}.dat"))
}

/// The blocks up to the first error, and the error.
fn read(files: &BlockFiles, from: u64) -> (Vec<ChainBlock>, Option<BlockFileError>) {
    let started = Instant::now();
    let mut blocks = Vec::new();
    for block in files.blocks(from).unwrap() {
        assert!(started.elapsed() < Duration::from_secs(60));
        match block {
            Ok(block) => blocks.push(block),
            Err(error) => return (blocks, Some(error)),
        }
    }
    (blocks, None)
}

#[track_caller]
fn assert_reads(files: &BlockFiles, expected: &[Arc<ChainBlock>]) {
    let (blocks, error) = read(files, files.first_height());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(blocks.len(), expected.len());
    assert!(blocks.iter().zip(expected).all(|(read, expected)| read == &**expected));
    assert_eq!(files.tip_height(), expected.last().unwrap().height);
    assert_eq!(files.hash_at(files.tip_height()), Some(expected.last().unwrap().hash));
    assert_eq!(files.hash_at(files.tip_height() + 1), None);
}

/// The only warning of `files`: its file and offset, and what it says.
#[track_caller]
fn warning(files: &BlockFiles) -> (PathBuf, u64, Damage) {
    let [warning] = files.report().warnings.as_slice() else { panic!("{:?}", files.report()) };
    assert!(warning.to_string().contains(&warning.offset.to_string()));
    (warning.file.clone(), warning.offset, warning.damage.clone())
}

#[test]
fn a_plain_directory_gives_the_chain() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(40));
    chain.write_block_files(dir.path(), None).unwrap();
    let files = open(&dir).unwrap();
    assert_reads(&files, &active(&chain));
    assert_eq!(files.magic(), RegtestChain::magic());
    assert_eq!(*files.report(), ScanReport { files: 1, headers: 41, ..ScanReport::default() });
    let (tail, _) = read(&files, 38);
    assert_eq!(tail.iter().map(|block| block.height).collect::<Vec<_>>(), [38, 39, 40]);
    assert_eq!(files.block_at(7).unwrap().unwrap(), **chain.block_at(7).unwrap());
    assert!(read(&files, 41).0.is_empty());
    assert!(files.block_at(41).unwrap().is_none());
}

#[test]
fn the_data_directory_of_a_node_will_do() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(3));
    chain.write_block_files(dir.path().join("blocks"), Some(KEY)).unwrap();
    assert_reads(&open(&dir).unwrap(), &active(&chain));
}

#[test]
fn a_key_is_removed() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(20));
    chain.write_block_files(dir.path(), Some(KEY)).unwrap();
    assert_reads(&open(&dir).unwrap(), &active(&chain));
    assert!(!fs::read(file(&dir, 0)).unwrap().starts_with(&RegtestChain::magic()));

    // A key of zeros is no key.
    let plain = TempDir::new().unwrap();
    chain.write_block_files(plain.path(), Some([0; 8])).unwrap();
    assert!(fs::read(file(&plain, 0)).unwrap().starts_with(&RegtestChain::magic()));
    assert_reads(&open(&plain).unwrap(), &active(&chain));
}

#[test]
fn a_lost_or_wrong_key_is_told() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(3));
    chain.write_block_files(dir.path(), Some(KEY)).unwrap();
    fs::write(dir.path().join("xor.dat"), [1; 7]).unwrap();
    assert!(matches!(open(&dir), Err(BlockFileError::BadXorKey { len: 7, .. })));
    fs::remove_file(dir.path().join("xor.dat")).unwrap();
    // The header would not be one under another key, so a wrong magic is not taken for another network.
    assert!(matches!(open(&dir), Err(BlockFileError::UnknownMagic { .. })));
    let options = BlockFilesOptions { magic: Some(RegtestChain::magic()), ..BlockFilesOptions::default() };
    assert!(matches!(BlockFiles::open(dir.path(), options), Err(BlockFileError::NoBlocks { .. })));
}

#[test]
fn blocks_out_of_order_in_many_files() {
    for key in [None, Some(KEY)] {
        let (dir, chain) = (TempDir::new().unwrap(), chain(60));
        let mut writer = writer(&dir, key).with_file_bytes_max(20_000);
        let mut blocks = active(&chain);
        // Children come up to nine places before their parents.
        blocks[1..].chunks_mut(10).for_each(<[_]>::reverse);
        append_all(&mut writer, &blocks);
        writer.finish().unwrap();
        let files = open(&dir).unwrap();
        assert!(files.report().files > 2 && file(&dir, 2).exists());
        assert_reads(&files, &active(&chain));
    }
}

#[test]
fn the_branch_with_the_most_work_wins() {
    let (dir, mut chain) = (TempDir::new().unwrap(), chain(20));
    let old = active(&chain);
    // Of two branches with the same work, the first one stays.
    chain.fork_from(15);
    chain.mine_blocks(5);
    chain.write_block_files(dir.path(), None).unwrap();
    let files = open(&dir).unwrap();
    assert_reads(&files, &old);
    assert_eq!((files.report().stale, files.report().orphans), (5, 0));

    chain.mine();
    chain.write_block_files(dir.path(), None).unwrap();
    let files = open(&dir).unwrap();
    assert_reads(&files, &active(&chain));
    assert_eq!((files.report().stale, files.report().headers), (5, 27));
    assert_eq!(files.tree().len(), 27);
    assert!(files.tree().begins_at_genesis());
}

#[test]
fn repeated_and_orphaned_blocks_are_counted() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(20));
    let blocks = active(&chain);
    let mut writer = writer(&dir, None);
    for height in (0..=10).chain([4, 10]).chain(15..=20) {
        writer.append(&blocks[height].raw).unwrap();
    }
    writer.finish().unwrap();
    let files = open(&dir).unwrap();
    assert_reads(&files, &blocks[..=10]);
    let expected = ScanReport { files: 1, headers: 17, duplicates: 2, orphans: 6, ..ScanReport::default() };
    assert_eq!(*files.report(), expected);
}

#[test]
fn reserved_zeros_are_no_damage() {
    for key in [None, Some(KEY)] {
        let (dir, chain) = (TempDir::new().unwrap(), chain(20));
        let blocks = active(&chain);
        // Between records, at the end, and so that the next record begins at every offset of the key.
        let mut writer = writer(&dir, key);
        for (zeros, block) in blocks.iter().enumerate() {
            writer.append(&block.raw).unwrap();
            writer.append_zeros(zeros).unwrap();
        }
        writer.append_zeros(3_000_000).unwrap();
        writer.next_file().unwrap();
        writer.append_zeros(5).unwrap();
        writer.finish().unwrap();
        let files = open(&dir).unwrap();
        assert_eq!(files.report().warnings, []);
        assert_reads(&files, &blocks);
    }
}

#[test]
fn a_torn_last_record_costs_only_itself() {
    for (key, cut) in [(None, 1), (None, 300), (Some(KEY), 40), (Some(KEY), 1)] {
        let (dir, chain) = (TempDir::new().unwrap(), chain(20));
        let blocks = active(&chain);
        let mut writer = writer(&dir, key);
        let offsets: Vec<_> = blocks.iter().map(|block| writer.append(&block.raw).unwrap()).collect();
        writer.finish().unwrap();
        let len = fs::metadata(file(&dir, 0)).unwrap().len() - cut;
        fs::File::options().write(true).open(file(&dir, 0)).unwrap().set_len(len).unwrap();
        let files = open(&dir).unwrap();
        assert_reads(&files, &blocks[..20]);
        let announced = blocks[20].raw.len() as u64 + 8;
        let damage = Damage::TornRecord { announced, available: announced - cut };
        assert_eq!(warning(&files), (file(&dir, 0), offsets[20], damage));
    }
}

#[test]
fn garbage_between_records_is_passed_over() {
    for key in [None, Some(KEY)] {
        let (dir, chain) = (TempDir::new().unwrap(), chain(20));
        let blocks = active(&chain);
        // It holds the magic, before an impossible and before a possible size.
        let magic = RegtestChain::magic();
        let mut garbage = vec![0x5a; 2_500_000];
        garbage[100..104].copy_from_slice(&magic);
        garbage[200..208].copy_from_slice(&[&magic[..], &[100, 0, 0, 0]].concat());
        let mut writer = writer(&dir, key);
        append_all(&mut writer, &blocks[..8]);
        writer.append_bytes(&garbage).unwrap();
        let after = writer.append(&blocks[8].raw).unwrap();
        append_all(&mut writer, &blocks[9..]);
        writer.finish().unwrap();
        let files = open(&dir).unwrap();
        assert_reads(&files, &blocks);
        let bytes = garbage.len() as u64;
        assert_eq!(warning(&files), (file(&dir, 0), after - bytes, Damage::Garbage { bytes }));
    }
}

/// A directory whose file has one bit of block 12 flipped, `at` bytes behind the beginning of its record.
fn with_flipped_bit(at: impl Fn(&ChainBlock) -> usize) -> (TempDir, Vec<Arc<ChainBlock>>, u64) {
    let (dir, chain) = (TempDir::new().unwrap(), chain(20));
    let blocks = active(&chain);
    let mut writer = writer(&dir, None);
    let offsets: Vec<_> = blocks.iter().map(|block| writer.append(&block.raw).unwrap()).collect();
    writer.finish().unwrap();
    let mut bytes = fs::read(file(&dir, 0)).unwrap();
    bytes[usize::try_from(offsets[12]).unwrap() + at(&blocks[12])] ^= 4;
    fs::write(file(&dir, 0), bytes).unwrap();
    (dir, blocks, offsets[12])
}

#[test]
fn a_changed_transaction_ends_the_chain_before_its_block() {
    // The lock time of the last transaction.
    let (dir, blocks, place) = with_flipped_bit(|block| 8 + block.raw.len() - 1);
    let files = open(&dir).unwrap();
    let (read, error) = read(&files, 0);
    assert!(read.iter().zip(&blocks[..12]).all(|(read, block)| read == &**block) && read.len() == 12);
    let Some(BlockFileError::MerkleMismatch { file: found, offset, height }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((found, offset, height), (file(&dir, 0), place, 12));
    assert!(files.block_at(12).is_err() && files.block_at(13).is_ok());
}

#[test]
fn a_changed_witness_ends_the_chain_before_its_block() {
    let inside_last_witness = |block: &ChainBlock| {
        let spend = block.block.txdata.iter().find(|tx| !tx.is_coinbase() && tx.input[0].witness.len() == 2);
        let signature = spend.unwrap().input[0].witness.nth(0).unwrap();
        8 + 30 + block.raw.windows(signature.len()).position(|window| window == signature).unwrap()
    };
    let (dir, _, place) = with_flipped_bit(inside_last_witness);
    let (read_blocks, error) = read(&open(&dir).unwrap(), 0);
    assert_eq!(read_blocks.len(), 12);
    let Some(BlockFileError::WitnessMismatch { offset, height: 12, .. }) = error else { panic!("{error:?}") };
    assert_eq!(offset, place);
    let options = BlockFilesOptions { check_witnesses: false, ..BlockFilesOptions::default() };
    assert_eq!(read(&BlockFiles::open(dir.path(), options).unwrap(), 0).0.len(), 21);
}

#[test]
fn a_changed_count_is_a_block_that_cannot_be_parsed() {
    let (dir, _, place) = with_flipped_bit(|_| 88);
    let (read_blocks, error) = read(&open(&dir).unwrap(), 0);
    assert_eq!(read_blocks.len(), 12);
    let Some(BlockFileError::Malformed { offset, .. }) = error else { panic!("{error:?}") };
    assert_eq!(offset, place);
}

#[test]
fn a_changed_header_ends_the_chain_and_is_told() {
    // In the previous hash, and in the bits: an exponent that does not fit.
    for (at, target_fits) in [(8 + 10, true), (8 + 75, false)] {
        let (dir, blocks, place) = with_flipped_bit(|_| at);
        let files = open(&dir).unwrap();
        // At regtest difficulty, every other changed header has a valid proof of work: then it is an orphan.
        let (kept, _) = read(&files, 0);
        assert!(kept.iter().zip(&blocks[..12]).all(|(read, block)| read == &**block) && kept.len() == 12);
        if !target_fits || !files.report().warnings.is_empty() {
            assert_eq!(warning(&files), (file(&dir, 0), place, Damage::BadHeader));
        }
        assert!(files.report().orphans >= 8);
    }
}

#[test]
fn a_changed_size_costs_what_it_hides() {
    // The high byte: beyond the limit. The second: too long by up to 64 KiB, so that it hides records behind it.
    for at in [4 + 3, 4 + 1] {
        let (dir, blocks, _) = with_flipped_bit(|_| at);
        let files = open(&dir).unwrap();
        let (kept, error) = read(&files, 0);
        assert!(kept.iter().zip(&blocks[..12]).all(|(read, block)| read == &**block) && kept.len() == 12);
        assert!(error.is_some() || !files.report().warnings.is_empty());
    }
}

#[test]
fn other_networks_are_recognised_by_their_magic() {
    let chain = chain(5);
    for magic in [[0xf9, 0xbe, 0xb4, 0xd9], [0x0a, 0x03, 0xcf, 0x40], [1, 2, 3, 4], [0; 4]] {
        let dir = TempDir::new().unwrap();
        let mut writer = BlockFileWriter::create(dir.path(), magic, None).unwrap();
        append_all(&mut writer, &active(&chain));
        writer.finish().unwrap();
        let files = open(&dir).unwrap();
        assert_eq!(files.magic(), magic);
        assert_reads(&files, &active(&chain));
        let options = BlockFilesOptions { magic: Some([9; 4]), ..BlockFilesOptions::default() };
        let other = BlockFiles::open(dir.path(), options);
        let Err(BlockFileError::NoBlocks { warnings, .. }) = other else { panic!("{other:?}") };
        assert_eq!(warnings.len(), 1);
    }
}

#[test]
fn nothing_to_read_is_an_error() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(open(&dir), Err(BlockFileError::NoBlockFiles { .. })));
    let missing = BlockFiles::open(dir.path().join("missing"), BlockFilesOptions::default());
    assert!(matches!(missing, Err(BlockFileError::NoBlockFiles { .. })));
    for name in ["blk.dat", "blk1.dat", "blk0000x.dat", "rev00000.dat", "blk00000.dat.bak"] {
        fs::write(dir.path().join(name), [0; 10]).unwrap();
    }
    assert!(matches!(open(&dir), Err(BlockFileError::NoBlockFiles { .. })));
    fs::write(file(&dir, 0), [0; 1000]).unwrap();
    assert!(matches!(open(&dir), Err(BlockFileError::UnknownMagic { .. })));
    fs::write(file(&dir, 0), []).unwrap();
    assert!(matches!(open(&dir), Err(BlockFileError::UnknownMagic { .. })));
}

#[test]
fn an_unreadable_file_costs_only_its_blocks() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(10));
    chain.write_block_files(dir.path(), None).unwrap();
    fs::create_dir(file(&dir, 1)).unwrap();
    let files = open(&dir).unwrap();
    assert_reads(&files, &active(&chain));
    let (path, 0, Damage::Unreadable { .. }) = warning(&files) else { panic!("{:?}", files.report()) };
    assert_eq!(path, file(&dir, 1));
}

#[test]
fn a_pruned_node_begins_at_the_height_its_first_block_names() {
    // Heights up to 16 are opcodes, above 127 they have two bytes.
    for first in [1, 16, 17, 127, 128, 140] {
        let (dir, chain) = (TempDir::new().unwrap(), chain(150));
        let blocks = active(&chain);
        let mut writer = writer(&dir, None);
        // A shorter piece of the chain, unlinked to the rest, lies before it.
        if first > 20 {
            writer.append(&blocks[3].raw).unwrap();
        }
        append_all(&mut writer, &blocks[first..]);
        writer.finish().unwrap();
        let files = open(&dir).unwrap();
        assert_eq!(files.first_height(), first as u64);
        assert_reads(&files, &blocks[first..]);
        assert_eq!(files.report().orphans, u64::from(first > 20));
        assert!(matches!(files.blocks(0), Err(BlockFileError::BelowFirst { height: 0, .. })));
    }
}

#[test]
fn a_mainnet_block_alone_is_a_chain() {
    let dir = TempDir::new().unwrap();
    let raw = bitcoin_test_data::blocks::mainnet_702861();
    let mut writer = BlockFileWriter::create(dir.path(), [0xf9, 0xbe, 0xb4, 0xd9], Some(KEY)).unwrap();
    writer.append(raw).unwrap();
    writer.append_zeros(1000).unwrap();
    writer.finish().unwrap();
    let files = open(&dir).unwrap();
    let (blocks, error) = read(&files, 702_861);
    assert!(error.is_none(), "{error:?}");
    let [block] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    assert_eq!((block.height, &block.raw[..]), (702_861, raw));
    let hash = bitcoin::BlockHash::from_byte_array(block.hash).to_string();
    assert_eq!(hash, "000000000000000000000c835b2adcaedc20fdf6ee440009c249452c726dafae");
    assert_eq!(block.txids.len(), block.block.txdata.len());

    let options = BlockFilesOptions { first_height: Some(5), ..BlockFilesOptions::default() };
    assert_eq!(BlockFiles::open(dir.path(), options).unwrap().tip_height(), 5);
}

#[test]
fn a_small_limit_on_what_is_in_flight_changes_nothing() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(100));
    chain.write_block_files(dir.path(), None).unwrap();
    for (inflight_bytes_max, threads) in [(0, 4), (1, 1), (3_000, 8), (100_000, 2)] {
        let options = BlockFilesOptions { inflight_bytes_max, threads, ..BlockFilesOptions::default() };
        assert_reads(&BlockFiles::open(dir.path(), options).unwrap(), &active(&chain));
    }
}

#[test]
fn dropping_the_iterator_ends_its_threads() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(100));
    chain.write_block_files(dir.path(), None).unwrap();
    let options = BlockFilesOptions { inflight_bytes_max: 5_000, threads: 4, ..BlockFilesOptions::default() };
    let files = BlockFiles::open(dir.path(), options).unwrap();
    for taken in [0, 1, 7, 99, 101] {
        let started = Instant::now();
        let mut blocks = files.blocks(0).unwrap();
        assert_eq!(blocks.by_ref().take(taken).filter(Result::is_ok).count(), taken);
        drop(blocks);
        assert!(started.elapsed() < Duration::from_secs(20));
        // Every thread held the index.
        assert_eq!(Arc::strong_count(&files.index), 1);
    }
}

#[test]
fn a_file_that_changes_under_the_reader_is_told() {
    let (dir, chain) = (TempDir::new().unwrap(), chain(10));
    let blocks = active(&chain);
    chain.write_block_files(dir.path(), None).unwrap();
    let files = open(&dir).unwrap();
    let mut bytes = fs::read(file(&dir, 0)).unwrap();
    bytes[8 + 68] ^= 1;
    fs::write(file(&dir, 0), &bytes).unwrap();
    assert!(matches!(read(&files, 0).1, Some(BlockFileError::Changed { offset: 0, .. })));
    fs::write(file(&dir, 0), &bytes[..2000]).unwrap();
    assert!(matches!(read(&files, 10).1, Some(BlockFileError::Io { op: "read", .. })));
    fs::remove_file(file(&dir, 0)).unwrap();
    let (read_blocks, error) = read(&files, 1);
    assert!(read_blocks.is_empty() && matches!(error, Some(BlockFileError::Io { op: "open", .. })));
    assert_eq!(blocks.len(), 11);
}

/// Whether a block is one of these, or one that differs in its header only and is as valid: in a test network every other
/// nonce is work enough, so a byte of noise in a header can make such a block, the last one that links up.
fn is_one_of(blocks: &[Arc<ChainBlock>], block: &ChainBlock) -> bool {
    let header = block.block.header;
    let is_valid = block.block.check_merkle_root() && header.validate_pow(header.target()).is_ok();
    let is_twin = |known: &ChainBlock| {
        is_valid && known.parent == block.parent && known.block.header.merkle_root == header.merkle_root
    };
    blocks.iter().any(|known| known.hash == block.hash || is_twin(known))
}

/// Random noise once hit the nonce of a block, and what was read was none of the chain's blocks.
#[test]
fn noise_in_the_last_header_is_refused_or_makes_another_valid_block() {
    let chain = chain(6);
    let blocks = active(&chain);
    let mut twins = 0;
    for value in 0..16 {
        let dir = TempDir::new().unwrap();
        chain.write_block_files(dir.path(), None).unwrap();
        let mut bytes = fs::read(file(&dir, 0)).unwrap();
        let nonce_at = bytes.len() - blocks[6].raw.len() + 76;
        bytes[nonce_at] = value;
        fs::write(file(&dir, 0), &bytes).unwrap();
        let files = open(&dir).unwrap();
        let (read, _) = read(&files, files.first_height());
        assert!(read.len() >= 6 && read.iter().all(|block| is_one_of(&blocks, block)));
        twins += usize::from(read.iter().any(|block| blocks.iter().all(|known| known.hash != block.hash)));
    }
    assert!((1..16).contains(&twins), "{twins}");
}

#[test]
fn files_of_noise_do_no_harm() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let chain = chain(6);
    let blocks = active(&chain);
    let whole = TempDir::new().unwrap();
    chain.write_block_files(whole.path(), None).unwrap();
    let bytes = fs::read(file(&whole, 0)).unwrap();
    let edits = proptest::collection::vec((any::<u32>(), any::<u8>(), 0usize..40), 1..8);
    let mut runner = TestRunner::new(Config::with_cases(150));
    runner
        .run(&(edits, any::<bool>()), |(edits, cut)| {
            let mut bytes = bytes.clone();
            for (place, value, run) in edits {
                let place = place as usize % bytes.len();
                let end = (place + run).min(bytes.len());
                bytes[place..end].fill(value);
                if cut && run == 7 {
                    bytes.truncate(end.max(200));
                }
            }
            let dir = TempDir::new().unwrap();
            fs::write(file(&dir, 0), &bytes).unwrap();
            let options = BlockFilesOptions {
                magic: Some(RegtestChain::magic()),
                threads: 2,
                ..BlockFilesOptions::default()
            };
            // Whatever is delivered links up; blocks at the heights of the chain are those of the chain.
            if let Ok(files) = BlockFiles::open(dir.path(), options) {
                let (read, _) = read(&files, files.first_height());
                for block in read {
                    prop_assert!(is_one_of(&blocks, &block));
                }
            }
            Ok(())
        })
        .unwrap();
}
