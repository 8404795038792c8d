//! The chain is valid as far as it claims to be, and its coins are what its blocks made and spent.

use std::collections::BTreeSet;

use bitcoin::CompressedPublicKey;

use super::*;

fn options() -> RegtestOptions {
    RegtestOptions { seed: 7, transactions_per_block: 40, keys: 10, coinbase_maturity: 2 }
}

/// The unspent outputs after `blocks`, found without the chain's own book-keeping. Checks every rule on the way.
fn replay(blocks: &[Arc<ChainBlock>], maturity: u64) -> BTreeMap<OutPoint, (TxOut, u64, bool)> {
    let mut coins = BTreeMap::new();
    let mut parent = [0; 32];
    for (height, block) in (0u64..).zip(blocks) {
        assert_eq!((block.height, block.parent), (height, parent));
        parent = block.hash;
        assert_eq!(block.raw, serialize(&block.block));
        assert!(block.block.check_merkle_root() && block.block.check_witness_commitment());
        assert!(block.block.header.validate_pow(block.block.header.target()).is_ok());
        let mut fees = 0;
        for (transaction, txid) in block.block.txdata.iter().zip(&block.txids) {
            assert_eq!(transaction.compute_txid().to_byte_array(), *txid);
            let coinbase = transaction.is_coinbase();
            let made = transaction.output.iter().map(|output| output.value.to_sat()).sum::<u64>();
            let mut spent = 0;
            for input in transaction.input.iter().filter(|_| !coinbase) {
                let (output, since, coinbase): (TxOut, u64, bool) =
                    coins.remove(&input.previous_output).unwrap();
                assert!(!coinbase || since + maturity <= height);
                check_spend(&output, input);
                spent += output.value.to_sat();
            }
            assert!(coinbase || made <= spent);
            fees += if coinbase { 0 } else { spent - made };
            for (vout, output) in (0..).zip(&transaction.output) {
                if height > 0 && !output.script_pubkey.is_op_return() {
                    let outpoint = OutPoint { txid: Txid::from_byte_array(*txid), vout };
                    assert!(coins.insert(outpoint, (output.clone(), height, coinbase)).is_none());
                }
            }
        }
        let paid = block.block.txdata[0].output[0].value.to_sat();
        assert_eq!(paid, (SUBSIDY >> (height / HALVING_BLOCKS)) + fees);
    }
    coins
}

/// The spending data belongs to the script, apart from the signatures.
fn check_spend(output: &TxOut, input: &TxIn) {
    let script = &output.script_pubkey;
    let last = input.witness.last().unwrap_or_default();
    let public_key = |bytes: &[u8]| CompressedPublicKey::from_slice(bytes).unwrap();
    if script.is_p2pkh() {
        let pushed = input.script_sig.instructions().last().unwrap().unwrap();
        let key = public_key(pushed.push_bytes().unwrap().as_bytes());
        assert_eq!(*script, ScriptBuf::new_p2pkh(&key.pubkey_hash()));
    } else if script.is_p2wpkh() {
        assert_eq!(*script, ScriptBuf::new_p2wpkh(&public_key(last).wpubkey_hash()));
    } else if script.is_p2sh() {
        let redeem = input.script_sig.redeem_script().unwrap();
        assert_eq!(*script, redeem.to_p2sh());
        assert_eq!(*redeem, *ScriptBuf::new_p2wpkh(&public_key(last).wpubkey_hash()));
    } else if script.is_p2wsh() {
        assert_eq!(*script, bitcoin::Script::from_bytes(last).to_p2wsh());
    } else {
        assert!(script.is_p2tr() && input.script_sig.is_empty());
        assert_eq!(last.len(), 64);
    }
}

fn active(chain: &RegtestChain) -> Vec<Arc<ChainBlock>> {
    (0..=chain.height()).map(|height| Arc::clone(chain.block_at(height).unwrap())).collect()
}

fn assert_coins(chain: &RegtestChain, maturity: u64) {
    let coins: BTreeMap<_, _> = chain
        .utxos()
        .iter()
        .map(|(at, coin)| (*at, (coin.output.clone(), coin.height, coin.coinbase)))
        .collect();
    assert_eq!(coins, replay(&active(chain), maturity));
}

#[test]
fn blocks_are_valid_and_the_coins_are_theirs() {
    let mut chain = RegtestChain::new(options());
    chain.mine_blocks(30);
    assert_eq!(chain.height(), 30);
    assert_coins(&chain, 2);
    assert!((4..=30).all(|height| chain.block_at(height).unwrap().txids.len() == 40));

    let scripts: BTreeSet<_> = chain.utxos().values().map(|coin| coin.output.script_pubkey.clone()).collect();
    let has = |kind: fn(&bitcoin::Script) -> bool| scripts.iter().any(|script| kind(script));
    assert!(has(bitcoin::Script::is_p2pkh) && has(bitcoin::Script::is_p2sh));
    assert!(
        has(bitcoin::Script::is_p2wpkh) && has(bitcoin::Script::is_p2wsh) && has(bitcoin::Script::is_p2tr)
    );
    let carries_data = |block: &Arc<ChainBlock>| {
        block.block.txdata[1..].iter().any(|tx| tx.output.iter().any(|out| out.script_pubkey.is_op_return()))
    };
    assert!(active(&chain).iter().any(carries_data));
}

#[test]
fn the_networks_maturity_and_halvings_are_kept() {
    let mut chain =
        RegtestChain::new(RegtestOptions { transactions_per_block: 3, ..RegtestOptions::default() });
    chain.mine_blocks(320);
    assert_coins(&chain, 100);
    assert_eq!(chain.block_at(100).unwrap().txids.len(), 1);
    assert_eq!(chain.block_at(101).unwrap().txids.len(), 3);
}

#[test]
fn the_seed_decides_everything() {
    let mine = |seed| {
        let mut chain = RegtestChain::new(RegtestOptions { seed, ..options() });
        chain.mine_blocks(8);
        chain.fork_from(5);
        chain.mine_blocks(2);
        chain.tip().unwrap().hash
    };
    assert_eq!(mine(1), mine(1));
    assert_ne!(mine(1), mine(2));
}

#[test]
fn a_fork_takes_the_coins_back() {
    let mut chain = RegtestChain::new(options());
    chain.mine_blocks(12);
    let before = chain.utxos().clone();
    let old = chain.tip().unwrap().hash;
    chain.mine_blocks(5);
    assert!(chain.fork_from(12));
    assert_eq!((chain.height(), chain.tip().unwrap().hash), (12, old));
    assert_eq!(*chain.utxos(), before);
    chain.mine_blocks(7);
    assert_eq!(chain.height(), 19);
    assert_eq!(chain.mined().len(), 1 + 17 + 7);
    assert_coins(&chain, 2);
    let heights_13: Vec<_> = chain.mined().iter().filter(|block| block.height == 13).collect();
    assert!(heights_13.len() == 2 && heights_13[0].hash != heights_13[1].hash);
    assert!(!chain.fork_from(20));
}

#[test]
fn forgotten_blocks_are_gone() {
    let mut chain = RegtestChain::new(options());
    chain.mine_blocks(10);
    chain.forget_below(6);
    assert!(chain.block_at(5).is_none() && !chain.fork_from(5));
    assert!(chain.block_at(6).is_some() && chain.fork_from(6));
    chain.mine_blocks(3);
    assert_eq!(chain.height(), 9);
}
