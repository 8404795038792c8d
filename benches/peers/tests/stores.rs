//! Every store against the model, in small.
#![allow(missing_docs, reason = "tests")]

use std::path::Path;

use op_engine_peers::stores::{Kind, Settings, Store, Table, WINDOW_BLOCKS, sum};
use op_engine_peers::worker::read_old;
use op_engine_peers::workload::{Block, Digests, Model, OldValues, Shape};

const SETTINGS: Settings = Settings { memory_bytes: 128 << 20, every_block_durable: true };

/// Blocks with what must be read before each, and digests after each.
fn chain(blocks: usize, transactions: usize) -> Vec<(Block, OldValues, Digests)> {
    let shape = Shape { seed: 7, base_blocks: 4, base_coins: 2000, base_slots: 1000, transactions };
    let mut model = Model::new(shape);
    let mut next = || {
        let (block, old) = model.next_block();
        (block, old, model.digests())
    };
    (0..blocks).map(|_| next()).collect()
}

fn commit(store: &mut dyn Store, (block, old, _): &(Block, OldValues, Digests), durable: bool) {
    assert_eq!(&read_old(store, block).unwrap(), old, "reads of block {}", block.height);
    store.commit(block, old, durable).unwrap();
}

fn check(store: &mut dyn Store, (block, _, digests): &(Block, OldValues, Digests)) {
    assert_eq!(store.tip().unwrap(), Some(block.height));
    for (number, table) in Table::ALL.into_iter().enumerate() {
        assert_eq!(sum(store, table).unwrap(), digests[number], "{table:?} at {}", block.height);
    }
    for (key, value) in &block.created {
        let mut found = None;
        store.get(Table::Coins, key, &mut |_, value| found = value.map(<[u8]>::to_vec)).unwrap();
        assert_eq!(found.as_deref(), Some(&value[..]));
    }
}

fn goes_back_and_forth(kind: Kind, every_block_durable: bool) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("store");
    let settings = Settings { every_block_durable, ..SETTINGS };
    let open = |path: &Path| kind.open(path, settings).unwrap();
    let chain = chain(16, 40);
    let mut store = open(&path);
    assert_eq!(store.tip().unwrap(), None);
    chain.iter().for_each(|block| commit(store.as_mut(), block, every_block_durable || block.0.height == 15));
    check(store.as_mut(), &chain[15]);
    for target in [14, 14, 9, 2] {
        store.roll_back(target).unwrap();
        check(store.as_mut(), &chain[target as usize]);
        let gone = chain[target as usize + 1].0.created.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>();
        store.get_many(Table::Coins, &gone, &mut |_, value| assert_eq!(value, None)).unwrap();
    }
    store.settle().unwrap();
    store.close().unwrap();
}

#[test]
fn op_engine_follows_the_model() {
    goes_back_and_forth(Kind::OpEngine, true);
    goes_back_and_forth(Kind::OpEngine, false);
}

#[test]
fn rocksdb_follows_the_model() {
    goes_back_and_forth(Kind::RocksDb, true);
    goes_back_and_forth(Kind::RocksDb, false);
}

#[test]
fn fjall_follows_the_model() {
    goes_back_and_forth(Kind::Fjall, true);
    goes_back_and_forth(Kind::Fjall, false);
}

#[test]
fn redb_follows_the_model() {
    goes_back_and_forth(Kind::Redb, true);
    goes_back_and_forth(Kind::Redb, false);
}

#[test]
fn lmdb_follows_the_model() {
    goes_back_and_forth(Kind::Lmdb, true);
    goes_back_and_forth(Kind::Lmdb, false);
}

#[test]
fn the_whole_window_can_be_taken_back_and_no_more() {
    let chain = chain(310, 2);
    for kind in Kind::ALL {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let settings = Settings { every_block_durable: false, ..SETTINGS };
        let mut store = kind.open(&dir.path().join("store"), settings).unwrap();
        chain.iter().for_each(|block| commit(store.as_mut(), block, block.0.height == 309));
        store.roll_back(309 - WINDOW_BLOCKS).unwrap();
        check(store.as_mut(), &chain[309 - WINDOW_BLOCKS as usize]);
        assert!(store.roll_back(309 - WINDOW_BLOCKS - 1).is_err(), "{}", kind.name());
        store.close().unwrap();
    }
}

#[test]
fn blocks_survive_the_way_to_a_worker() {
    for (block, ..) in chain(6, 40) {
        assert_eq!(Block::decode(&block.encode()).unwrap(), block);
        assert!(Block::decode(&block.encode()[..100]).is_err());
    }
}

#[test]
fn a_store_is_where_it_was_when_it_is_opened_again() {
    let chain = chain(8, 40);
    for kind in Kind::ALL {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("store");
        let mut store = kind.open(&path, SETTINGS).unwrap();
        chain.iter().for_each(|block| commit(store.as_mut(), block, true));
        store.close().unwrap();
        // LMDB keeps its map to the end of the process, so the second one is only for the others.
        if kind != Kind::Lmdb {
            let mut store = kind.open(&path, SETTINGS).unwrap();
            check(store.as_mut(), &chain[7]);
            store.close().unwrap();
        }
    }
}
