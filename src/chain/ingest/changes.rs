//! What a block of Bitcoin changes in the collections.

use ahash::AHashSet;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Transaction, VarInt};
use op_engine_io::num::{to_u64, to_usize};

use super::IngestCounts;
use crate::chain::ChainBlock;
use crate::chain::collections::{
    BlockInfo, Blocks, Outpoint, StoredTransaction, TransactionPlace, Utxo, Utxos, is_unspendable,
};
use crate::{Block, BlockHash, Height};

/// Bytes of a header.
const HEADER_BYTES: usize = 80;
/// The parent of the genesis block.
const NO_PARENT: [u8; 32] = [0; 32];

/// Everything that a block changes: itself, its transactions, and the unspent outputs.
///
/// An output that is spent in the block that makes it leaves nothing. The spend of an output that the store does not
/// have, because it began above the output's height, changes nothing.
#[must_use]
pub fn block_changes(block: &ChainBlock) -> Block {
    let mut changes = Block::new(Height(block.height), BlockHash(block.hash), BlockHash(block.parent));
    changes.put::<Blocks>(&block.height, &block_info(block));
    put_transactions(block, &mut changes);
    put_utxos(block, &mut changes);
    changes
}

/// What a block counts for.
pub(super) fn counts(block: &ChainBlock) -> IngestCounts {
    let transactions = &block.block.txdata;
    IngestCounts {
        blocks: 1,
        transactions: to_u64(transactions.len()),
        outputs: transactions.iter().map(|transaction| to_u64(transaction.output.len())).sum(),
        spends: spent(block).map(|_| 1).sum(),
        bytes: to_u64(block.raw.len()),
    }
}

fn block_info(block: &ChainBlock) -> BlockInfo {
    let header = &block.block.header;
    // A block's size is a 32-bit number in the block files and the network's messages.
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    BlockInfo {
        hash: block.hash,
        parent: block.parent,
        merkle_root: header.merkle_root.to_byte_array(),
        version: header.version.to_consensus(),
        time: header.time,
        median_time: None,
        bits: header.bits.to_consensus(),
        nonce: header.nonce,
        transactions: small(block.block.txdata.len()),
        size_bytes: small(block.raw.len()),
        stripped_bytes: small(stripped_bytes(block)),
        weight: block.block.weight().to_wu(),
        opnet: None,
    }
}

fn put_transactions(block: &ChainBlock, changes: &mut Block) {
    let transactions = &block.block.txdata;
    let mut rest =
        block.raw.get(HEADER_BYTES + VarInt::from(transactions.len()).size()..).unwrap_or_default();
    for (position, (transaction, txid)) in (0u32..).zip(transactions.iter().zip(&block.txids)) {
        let raw = take_transaction(&mut rest, transaction);
        let stored =
            StoredTransaction { txid: *txid, witness_hash: witness_hash(transaction), raw, execution: None };
        stored.put(TransactionPlace { height: block.height, position }, changes);
    }
}

/// The bytes of a block without witnesses: its weight counts them four times, and those of witnesses once.
fn stripped_bytes(block: &ChainBlock) -> usize {
    let weight = to_usize(block.block.weight().to_wu());
    weight.saturating_sub(block.raw.len()) / 3
}

/// The hash of a transaction with its witnesses; `None` if it has none, and the hash is its id.
fn witness_hash(transaction: &Transaction) -> Option<[u8; 32]> {
    let has_witness = transaction.input.iter().any(|input| !input.witness.is_empty());
    has_witness.then(|| transaction.compute_wtxid().to_byte_array())
}

/// The bytes of the next transaction of a serialised block. Finding where it ends is cheaper than serialising it again.
fn take_transaction(rest: &mut &[u8], transaction: &Transaction) -> Vec<u8> {
    match rest.split_at_checked(transaction.total_size()) {
        Some((raw, after)) => {
            *rest = after;
            raw.to_vec()
        }
        None => serialize(transaction),
    }
}

/// The outputs that a block spends.
fn spent(block: &ChainBlock) -> impl Iterator<Item = Outpoint> {
    let transactions = block.block.txdata.iter().filter(|transaction| !transaction.is_coinbase());
    transactions
        .flat_map(|transaction| &transaction.input)
        .map(|input| (input.previous_output.txid.to_byte_array(), input.previous_output.vout))
}

fn put_utxos(block: &ChainBlock, changes: &mut Block) {
    let made: AHashSet<&[u8; 32]> = block.txids.iter().collect();
    let mut spent_at_once: AHashSet<Outpoint> = AHashSet::new();
    for outpoint in spent(block) {
        if made.contains(&outpoint.0) {
            spent_at_once.insert(outpoint);
        } else {
            changes.delete::<Utxos>(&outpoint);
        }
    }
    if block.parent == NO_PARENT {
        return;
    }
    for (transaction, txid) in block.block.txdata.iter().zip(&block.txids) {
        let coinbase = transaction.is_coinbase();
        for (vout, output) in (0u32..).zip(&transaction.output) {
            let outpoint = (*txid, vout);
            if is_unspendable(output.script_pubkey.as_bytes()) || spent_at_once.contains(&outpoint) {
                continue;
            }
            let utxo = Utxo {
                value: output.value.to_sat(),
                height: block.height,
                coinbase,
                script: output.script_pubkey.to_bytes(),
            };
            changes.put::<Utxos>(&outpoint, &utxo);
        }
    }
}
