//! What a node asks of its collections.
//!
//! Every function takes an [`Engine`], for the tip, or a [`Snapshot`], and looks at one state throughout: what an index
//! says and the records it leads to belong together, also while blocks are committed and taken back.

use std::future::{Future, ready};

use super::collections::{
    BlockInfo, BlocksByHash, CoinOrigin, Outpoint, StoredTransaction, TransactionIds, TransactionPlace,
    Transactions, UtxosByScript, script_hash,
};
use crate::{Desc, Engine, Result, Snapshot};

/// Something that shows a state of the store.
pub trait ChainView {
    /// The state, held.
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send;
}

impl ChainView for Engine {
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send {
        self.snapshot()
    }
}

impl ChainView for Snapshot {
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send {
        ready(Ok(self.clone()))
    }
}

/// An unspent output of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptUtxo {
    /// Where it is.
    pub outpoint: Outpoint,
    /// In satoshis.
    pub value: u64,
    /// The height of the block that made it, and whether a coinbase did.
    pub origin: CoinOrigin,
}

/// What a script owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// In satoshis.
    pub value: u64,
    /// In how many unspent outputs.
    pub utxos: u64,
}

/// The unspent outputs of a script, the most valuable first, at most `limit` of them.
///
/// # Errors
/// If the store cannot be read.
pub async fn utxos_of_script(view: &impl ChainView, script: &[u8], limit: usize) -> Result<Vec<ScriptUtxo>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<UtxosByScript>().prefix(&(script_hash(script),)).limit(limit);
    let rows = rows.collect().await?;
    let utxo = |((_, Desc(value)), outpoint, origin)| ScriptUtxo { outpoint, value, origin };
    Ok(rows.into_iter().map(utxo).collect())
}

/// The sum of the unspent outputs of a script. Reads all of their index entries, and none of the outputs.
///
/// # Errors
/// If the store cannot be read.
pub async fn balance_of_script(view: &impl ChainView, script: &[u8]) -> Result<Balance> {
    let snapshot = view.view().await?;
    let mut rows = snapshot.scan_index::<UtxosByScript>().prefix(&(script_hash(script),));
    let mut balance = Balance::default();
    while let Some(((_, Desc(value)), ..)) = rows.next().await? {
        // All coins there are fit 51 bits.
        balance.value = balance.value.saturating_add(value);
        balance.utxos += 1;
    }
    Ok(balance)
}

/// A transaction and where it is. Of several with the same id, the last one.
///
/// # Errors
/// If the store cannot be read.
pub async fn transaction_by_txid(
    view: &impl ChainView,
    txid: &[u8; 32],
) -> Result<Option<(TransactionPlace, StoredTransaction)>> {
    let snapshot = view.view().await?;
    let Some(place) = snapshot.get::<TransactionIds>(txid).await? else { return Ok(None) };
    let transaction = snapshot.get::<Transactions>(&(place.height, place.position)).await?;
    Ok(transaction.map(|transaction| (place, transaction)))
}

/// A block's height and header.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Option<(u64, BlockInfo)>> {
    view.view().await?.get_by::<BlocksByHash>(hash).await
}

/// The transactions of a block in their order; none if there is no such block.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_transactions(view: &impl ChainView, height: u64) -> Result<Vec<StoredTransaction>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan::<Transactions>().prefix(&(height,)).collect().await?;
    Ok(rows.into_iter().map(|(_, transaction)| transaction).collect())
}
