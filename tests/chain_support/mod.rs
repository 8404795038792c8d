//! What the tests of the chain share: the coins that a store must have, and a look at it through every index.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use op_engine::chain::collections::{
    CoinOrigin, Outpoint, TransactionIds, Transactions, Utxo, Utxos, UtxosByScript, script_hash,
};
use op_engine::chain::queries::{CoinFilter, Paging};
use op_engine::chain::regtest::RegtestChain;
use op_engine::chain::{ChainBlock, queries};
use op_engine::{Config, Desc, Engine, Height, ShardConfig, Snapshot, chain};

pub type Coins = BTreeMap<Outpoint, Utxo>;

/// Small enough for flushes, merges and WAL rotations to happen.
pub fn small() -> ShardConfig {
    ShardConfig {
        wal_file_bytes: 1 << 20,
        memtable_bytes_max: 256 << 10,
        space_reserve_bytes: Some(1 << 20),
        ..ShardConfig::default()
    }
}

/// A new store on this machine, in the build's folder: the folder for temporary files may be in memory.
pub fn folder(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn config(path: PathBuf) -> Config {
    let config = Config::new(path).collections(chain::collections).shards(2).calibrate(false);
    config.memory_budget(256 << 20).arena(8 << 20)
}

/// The blocks of the chain from genesis to the tip, without those of other branches.
pub fn best_chain(chain: &RegtestChain) -> Vec<Arc<ChainBlock>> {
    (0..=chain.height()).map(|height| Arc::clone(chain.block_at(height).unwrap())).collect()
}

pub fn coins_of(chain: &RegtestChain) -> Coins {
    let coin = |coin: &chain::regtest::Coin| Utxo {
        value: coin.output.value.to_sat(),
        height: coin.height,
        coinbase: coin.coinbase,
        script: coin.output.script_pubkey.to_bytes(),
    };
    let hash = bitcoin::hashes::Hash::to_byte_array;
    chain.utxos().iter().map(|(at, kept)| ((hash(at.txid), at.vout), coin(kept))).collect()
}

/// The coins, by every way to them, are these.
pub async fn check_coins(view: &Snapshot, expected: &Coins) {
    let found: Coins = view.scan::<Utxos>().collect().await.unwrap().into_iter().collect();
    let missing = expected.iter().find(|(at, coin)| found.get(*at) != Some(coin));
    let surplus = found.iter().find(|(at, _)| !expected.contains_key(*at));
    assert_eq!((missing, surplus), (None, None));

    let keys: Vec<Outpoint> = expected.keys().copied().collect();
    for (keys, coins) in keys.chunks(1000).zip(expected.values().collect::<Vec<_>>().chunks(1000)) {
        let got = view.get_many::<Utxos>(keys).await.unwrap();
        assert!(got.iter().map(Option::as_ref).eq(coins.iter().map(|coin| Some(*coin))));
    }

    let mut by_script: BTreeMap<&[u8], Vec<_>> = BTreeMap::new();
    for (at, coin) in expected {
        let origin = CoinOrigin { height: coin.height, coinbase: coin.coinbase };
        by_script.entry(&coin.script).or_default().push((Desc(coin.value), *at, origin));
    }
    assert_eq!(view.scan_index::<UtxosByScript>().collect().await.unwrap().len(), expected.len());
    for (script, mut coins) in by_script {
        coins.sort_by_key(|(value, at, _)| (*value, *at));
        let rows =
            view.scan_index::<UtxosByScript>().prefix(&(script_hash(script),)).collect().await.unwrap();
        let rows: Vec<_> = rows.into_iter().map(|((_, value), at, origin)| (value, at, origin)).collect();
        assert_eq!(rows, coins);
        let filter = CoinFilter::default();
        let best = queries::utxos_of_script(view, script, &filter, &Paging::first(3)).await.unwrap().rows;
        assert!(
            best.iter()
                .map(|coin| (Desc(coin.value), coin.outpoint))
                .eq(coins.iter().take(3).map(|(value, at, _)| (*value, *at)))
        );
        let balance = queries::balance_of_script(view, script, &filter).await.unwrap();
        assert_eq!(balance.utxos, u64::try_from(coins.len()).unwrap());
        assert_eq!(balance.value, coins.iter().map(|(Desc(value), ..)| value).sum::<u64>());
    }
}

/// The block and its transactions, by every way to them.
pub async fn check_block(view: &Snapshot, block: &ChainBlock) {
    let (height, info) = queries::block_by_hash(view, &block.hash).await.unwrap().unwrap();
    assert_eq!((height, info.hash, info.parent), (block.height, block.hash, block.parent));
    assert_eq!(info.nonce, block.block.header.nonce);
    assert_eq!(info.size_bytes, u32::try_from(block.raw.len()).unwrap());
    let stored = queries::block_transactions(view, block.height).await.unwrap();
    assert_eq!(stored.len(), block.block.txdata.len());
    assert_eq!(info.transactions, u32::try_from(stored.len()).unwrap());
    let places = view.get_many::<TransactionIds>(&block.txids).await.unwrap();
    for (position, ((stored, transaction), (txid, place))) in
        (0u32..).zip(stored.iter().zip(&block.block.txdata).zip(block.txids.iter().zip(places)))
    {
        assert_eq!(stored.txid, *txid);
        assert_eq!(stored.raw, bitcoin::consensus::serialize(transaction));
        assert_eq!(stored.parse().unwrap(), *transaction);
        let place = place.unwrap();
        assert_eq!((place.height, place.position), (block.height, position));
        let by_key = view.get::<Transactions>(&(block.height, position)).await.unwrap();
        assert_eq!(by_key.as_ref(), Some(stored));
    }
    let (_, last) = queries::transaction_by_txid(view, block.txids.last().unwrap()).await.unwrap().unwrap();
    assert_eq!(Some(&last), stored.last());
}

/// The block was taken back: nothing leads to it.
pub async fn check_gone(view: &Snapshot, block: &ChainBlock, others: &[Arc<ChainBlock>]) {
    assert_eq!(queries::block_by_hash(view, &block.hash).await.unwrap(), None);
    for txid in &block.txids {
        let kept = others.iter().any(|other| other.txids.contains(txid));
        assert_eq!(view.get::<TransactionIds>(txid).await.unwrap().is_some(), kept);
    }
}

/// The store has the generator's chain, and nothing else.
pub async fn check_store(engine: &Engine, chain: &RegtestChain) {
    let view = engine.snapshot().await.unwrap();
    let blocks = best_chain(chain);
    assert_eq!(view.tip().map(|tip| tip.height), Some(Height(chain.height())));
    check_coins(&view, &coins_of(chain)).await;
    for block in &blocks {
        check_block(&view, block).await;
    }
    for block in chain.mined() {
        if chain.block_at(block.height).is_none_or(|kept| kept.hash != block.hash) {
            check_gone(&view, block, &blocks).await;
        }
    }
}
