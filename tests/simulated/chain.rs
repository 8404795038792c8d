//! A chain in a store: what the collections hold after blocks, branches, damage and repetition.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chain_support::*;
use bitcoin::hashes::Hash;
use op_engine::chain::block_files::{BlockFileError, BlockFileWriter, BlockFiles, BlockFilesOptions};
use op_engine::chain::collections::{
    Blocks, ContractState, KeyForms, PublicKeys, PublicKeysByAddress, Utxo, WalletMeta,
};
use op_engine::chain::ingest::DemoSlots;
use op_engine::chain::queries::{CoinFilter, Paging, utxos_of_script};
use op_engine::chain::regtest::{RegtestChain, RegtestOptions};
use op_engine::chain::{ChainError, Ingest, block_changes, queries};
use op_engine::{Batch, Config, Engine, Height, chain};
use op_engine_io::block_on;
use op_engine_io::sim::{SimDisk, SimOptions, SimWorld};

fn chain_of(seed: u64, blocks: u64) -> RegtestChain {
    let options = RegtestOptions { seed, transactions_per_block: 25, keys: 20, coinbase_maturity: 3 };
    let mut chain = RegtestChain::new(options);
    chain.mine_blocks(blocks);
    chain
}

fn ingest_options() -> Ingest<'static> {
    Ingest::new().pipeline_depth(4).threads(2)
}

#[test]
fn the_simulated_store_equals_the_chain_on_every_branch() {
    for shards in [1, 3] {
        let world = SimWorld::new(SimOptions::with_seed(shards.into()), SimDisk::new());
        let machine = world.clone();
        let run = world.run(async move {
            let config = Config::new("/simulated").collections(chain::collections);
            let engine = Engine::open_on(machine.clone(), config, shards, small()).await.unwrap();
            let mut chain = chain_of(7, 40);
            for block in best_chain(&chain) {
                engine.commit(block_changes(&block)).await.unwrap();
            }
            check_store(&engine, &chain).await;

            assert!(chain.fork_from(33));
            engine.reorg_to(Height(33)).await.unwrap();
            check_store(&engine, &chain).await;

            chain.mine_blocks(12);
            for block in best_chain(&chain).split_off(34) {
                engine.commit(block_changes(&block)).await.unwrap();
            }
            check_store(&engine, &chain).await;
            engine.close().await.unwrap();
        });
        run.done().expect("the run ends");
        assert_eq!(world.panics(), Vec::new());
        drop(world.stop());
    }
}

#[test]
fn an_ingest_follows_the_chain_over_branches_and_repetition() {
    let folder = folder("follow");
    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let mut chain = chain_of(11, 60);
    let files = folder.path().join("node");

    // Partly, then the rest, then once more.
    chain.write_block_files(&files, Some(*b"\x01\x80abcdef")).unwrap();
    let source = BlockFiles::open(&files, BlockFilesOptions::default()).unwrap();
    let report = ingest_options().until(20).run(&engine, &source).unwrap();
    assert_eq!((report.counts.blocks, report.tip.unwrap().height), (21, Height(20)));
    let mut heights = Vec::new();
    let report = ingest_options().on_progress(|now| heights.push(now.height)).run(&engine, &source).unwrap();
    assert_eq!((report.counts.blocks, report.reorged), (40, None));
    assert_eq!(heights, (21..=60).collect::<Vec<_>>());
    block_on(check_store(&engine, &chain));
    for until in [10, 60, 1000] {
        let before = engine.tip();
        let report = ingest_options().until(until).run(&engine, &source).unwrap();
        assert_eq!((report.counts.blocks, report.reorged, report.tip), (0, None, before));
    }

    // A competing branch with more work.
    assert!(chain.fork_from(52));
    chain.mine_blocks(11);
    chain.write_block_files(&files, None).unwrap();
    std::fs::remove_file(files.join("xor.dat")).unwrap();
    let source = BlockFiles::open(&files, BlockFilesOptions::default()).unwrap();
    assert_eq!(source.report().stale, 8);
    let report = ingest_options().run(&engine, &source).unwrap();
    let reorged = report.reorged.unwrap();
    assert_eq!((reorged.from, reorged.to, report.counts.blocks), (Height(60), Height(52), 11));
    block_on(check_store(&engine, &chain));
    block_on(engine.close()).unwrap();

    // What is in the store is enough to go on.
    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    chain.mine_blocks(3);
    let report = ingest_options().run(&engine, best_chain(&chain).as_slice()).unwrap();
    assert_eq!((report.counts.blocks, report.reorged), (3, None));
    block_on(check_store(&engine, &chain));
    block_on(engine.close()).unwrap();
}

#[test]
fn what_cannot_be_followed_is_said_and_changes_nothing() {
    let folder = folder("refuse");
    let config = config(folder.path().join("store")).reorg_window(5);
    let engine = Engine::open_blocking(config).unwrap();
    let mut chain = chain_of(3, 30);
    ingest_options().run(&engine, best_chain(&chain).as_slice()).unwrap();
    let tip = engine.tip();

    let blocks = best_chain(&chain);
    let mut ahead = chain_of(3, 35);
    let pruned = best_chain(&ahead).split_off(33);
    let refused = ingest_options().run(&engine, pruned.as_slice()).unwrap_err();
    assert!(matches!(refused, ChainError::Gap { tip: Height(30), first: Height(33) }), "{refused}");

    assert!(chain.fork_from(20));
    chain.mine_blocks(15);
    let refused = ingest_options().run(&engine, best_chain(&chain).as_slice()).unwrap_err();
    assert!(
        matches!(refused, ChainError::ForkBelowHorizon { tip: Height(30), horizon: Height(25), .. }),
        "{refused}"
    );
    assert_eq!(engine.tip(), tip);

    // A chain that is behind says nothing against the store's.
    let report = ingest_options().run(&engine, &blocks[..12]).unwrap();
    assert_eq!((report.counts.blocks, report.tip), (0, tip));
    // One that begins right above the store's tip goes on from it.
    ahead.mine_blocks(1);
    let report = ingest_options().run(&engine, &best_chain(&ahead)[31..]).unwrap();
    assert_eq!(report.counts.blocks, 6);
    block_on(check_store(&engine, &ahead));
    block_on(engine.close()).unwrap();
}

#[test]
fn all_before_a_damaged_block_is_committed() {
    let folder = folder("damage");
    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let chain = chain_of(5, 30);
    let files = folder.path().join("node");
    let mut writer = BlockFileWriter::create(&files, RegtestChain::magic(), None).unwrap();
    let mut damaged_at = 0;
    for block in best_chain(&chain) {
        let mut raw = block.raw.clone();
        if block.height == 17 {
            // The last byte belongs to the lock time of the last transaction.
            *raw.last_mut().unwrap() ^= 1;
        }
        let offset = writer.append(&raw).unwrap();
        if block.height == 17 {
            damaged_at = offset;
        }
    }
    writer.finish().unwrap();
    let source = BlockFiles::open(&files, BlockFilesOptions::default()).unwrap();
    let failed = ingest_options().run(&engine, &source).unwrap_err();
    match failed {
        ChainError::BlockFile(BlockFileError::MerkleMismatch { file, offset, height }) => {
            assert_eq!((file, offset, height), (files.join("blk00000.dat"), damaged_at, 17));
        }
        other => panic!("{other}"),
    }
    assert_eq!(engine.tip().unwrap().height, Height(16));
    block_on(check_store(&engine, &chain_of(5, 16)));
    block_on(engine.close()).unwrap();
}

#[test]
fn a_block_of_the_main_network_is_found_by_every_index() {
    let folder = folder("mainnet");
    let files = folder.path().join("node");
    let magic = bitcoin::p2p::Magic::BITCOIN.to_bytes();
    let mut writer = BlockFileWriter::create(&files, magic, Some(*b"abcdefgh")).unwrap();
    writer.append(bitcoin_test_data::blocks::mainnet_702861()).unwrap();
    writer.finish().unwrap();
    let source = BlockFiles::open(&files, BlockFilesOptions::default()).unwrap();
    let block = source.block_at(702_861).unwrap().unwrap();

    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let report = ingest_options().run(&engine, &source).unwrap();
    assert_eq!((report.counts.blocks, report.counts.bytes), (1, 1_381_836));
    assert_eq!(report.counts.transactions, u64::try_from(block.txids.len()).unwrap());

    let spent: BTreeSet<_> =
        block.block.txdata.iter().flat_map(|tx| &tx.input).map(|input| input.previous_output).collect();
    let mut coins = Coins::new();
    for transaction in &block.block.txdata {
        let txid = transaction.compute_txid();
        for (vout, output) in (0u32..).zip(&transaction.output) {
            if output.script_pubkey.is_op_return() || spent.contains(&bitcoin::OutPoint { txid, vout }) {
                continue;
            }
            let coin = Utxo {
                value: output.value.to_sat(),
                height: 702_861,
                coinbase: transaction.is_coinbase(),
                script: output.script_pubkey.to_bytes(),
            };
            coins.insert((txid.to_byte_array(), vout), coin);
        }
    }
    assert!(coins.len() > 2000);
    let check = async || {
        let view = engine.snapshot().await.unwrap();
        check_coins(&view, &coins).await;
        check_block(&view, &block).await;
    };
    block_on(check());
    // From segments as from memory.
    block_on(engine.flush()).unwrap();
    block_on(check());
    block_on(engine.close()).unwrap();
}

#[test]
fn a_reorg_makes_slots_absent_again_and_leaves_the_wallet_alone() {
    let folder = folder("slots");
    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let slots = DemoSlots { contracts: 3, slots_per_contract: 50, writes_per_block: 10 };
    let chain = best_chain(&chain_of(9, 20));
    ingest_options().demo_slots(slots).until(10).run(&engine, chain.as_slice()).unwrap();
    let first = block_on(engine.scan::<ContractState>().collect()).unwrap();
    assert!((50..150).contains(&first.len()));
    ingest_options().demo_slots(slots).run(&engine, chain.as_slice()).unwrap();
    let grown = block_on(engine.scan::<ContractState>().collect()).unwrap();
    let appeared = grown.iter().find(|(slot, _)| first.iter().all(|(other, _)| other != slot)).unwrap().0;
    assert!(block_on(engine.get::<ContractState>(&appeared)).unwrap().is_some());

    let mut wallet = Batch::new();
    let forms = KeyForms {
        p2tr: Some("bcrt1pexample".into()),
        p2pkh: Some("mexample".into()),
        ..KeyForms::default()
    };
    wallet.put::<PublicKeys>(&[2; 32], &forms).put::<WalletMeta>(&"label".to_owned(), &b"savings".to_vec());
    block_on(engine.commit_global(wallet)).unwrap();
    block_on(engine.reorg_to(Height(10))).unwrap();

    assert_eq!(block_on(engine.get::<ContractState>(&appeared)).unwrap(), None);
    assert_eq!(block_on(engine.scan::<ContractState>().collect()).unwrap(), first);
    assert_eq!(block_on(engine.scan::<Blocks>().collect()).unwrap().len(), 11);
    let label = block_on(engine.get::<WalletMeta>(&"label".to_owned())).unwrap();
    assert_eq!(label.as_deref(), Some(&b"savings"[..]));
    for address in ["bcrt1pexample", "mexample"] {
        let rows = engine.scan_index::<PublicKeysByAddress>().prefix(&address.to_owned()).collect();
        let keys: Vec<_> = block_on(rows).unwrap().into_iter().map(|(_, key, ())| key).collect();
        assert_eq!(keys, [[2; 32]]);
    }
    block_on(engine.close()).unwrap();
}

#[test]
fn a_transaction_that_comes_twice_is_found_at_its_last_place() {
    let folder = folder("twice");
    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let mut chain = best_chain(&chain_of(1, 3));
    // Block 4 repeats the coinbase of block 1, as two blocks of the main network do.
    let mut repeated = (*chain[1]).clone();
    repeated.block.header.prev_blockhash = bitcoin::BlockHash::from_byte_array(chain[3].hash);
    repeated.raw = bitcoin::consensus::serialize(&repeated.block);
    let hash = repeated.block.block_hash().to_byte_array();
    chain.push(Arc::new(chain::ChainBlock { height: 4, hash, parent: chain[3].hash, ..repeated }));
    ingest_options().run(&engine, chain.as_slice()).unwrap();
    let txid = chain[1].txids[0];
    let (place, _) = block_on(queries::transaction_by_txid(&engine, &txid)).unwrap().unwrap();
    assert_eq!(place.height, 4);
    let script = chain[1].block.txdata[0].output[0].script_pubkey.as_bytes();
    let coins =
        block_on(utxos_of_script(&engine, script, &CoinFilter::default(), &Paging::first(10))).unwrap().rows;
    let found: Vec<_> = coins.iter().filter(|coin| coin.outpoint == (txid, 0)).collect();
    assert_eq!(found.iter().map(|coin| coin.origin.height).collect::<Vec<_>>(), [4]);

    block_on(engine.reorg_to(Height(3))).unwrap();
    let (place, _) = block_on(queries::transaction_by_txid(&engine, &txid)).unwrap().unwrap();
    assert_eq!(place.height, 1);
    block_on(engine.close()).unwrap();
}
