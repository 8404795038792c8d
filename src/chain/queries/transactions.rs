//! Transactions.

use super::ChainView;
use crate::chain::collections::{StoredTransaction, TransactionIds, TransactionPlace, Transactions};
use crate::{Result, Snapshot};

/// A transaction and where it is.
type Found = (TransactionPlace, StoredTransaction);

/// A transaction by its txid or its hash, whichever it is. Of several with the same one, the last.
///
/// # Errors
/// If the store cannot be read.
pub async fn transaction(view: &impl ChainView, id: &[u8; 32]) -> Result<Option<Found>> {
    let snapshot = view.view().await?;
    let Some(place) = snapshot.get::<TransactionIds>(id).await? else { return Ok(None) };
    let transaction = snapshot.get::<Transactions>(&(place.height, place.position)).await?;
    Ok(transaction.map(|transaction| (place, transaction)))
}

/// A transaction by its txid. Of several with the same one, the last.
///
/// # Errors
/// If the store cannot be read.
pub async fn transaction_by_txid(view: &impl ChainView, txid: &[u8; 32]) -> Result<Option<Found>> {
    Ok(transaction(view, txid).await?.filter(|(_, found)| found.txid == *txid))
}

/// A transaction by its hash with witnesses. Of several with the same one, the last.
///
/// # Errors
/// If the store cannot be read.
pub async fn transaction_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Option<Found>> {
    Ok(transaction(view, hash).await?.filter(|(_, found)| found.hash() == *hash))
}

/// Many transactions by their txids, in the order of these: two batches of reads.
///
/// # Errors
/// If the store cannot be read.
pub async fn transactions_by_txid(view: &impl ChainView, txids: &[[u8; 32]]) -> Result<Vec<Option<Found>>> {
    let snapshot = view.view().await?;
    let places = snapshot.get_many::<TransactionIds>(txids).await?;
    let keys: Vec<_> = places.iter().flatten().map(|place| (place.height, place.position)).collect();
    let mut found = snapshot.get_many::<Transactions>(&keys).await?.into_iter();
    let pair = |(place, txid): (Option<TransactionPlace>, &[u8; 32])| {
        let place = place?;
        let transaction = found.next()??;
        (transaction.txid == *txid).then_some((place, transaction))
    };
    Ok(places.into_iter().zip(txids).map(pair).collect())
}

/// The transaction at a position of a block.
///
/// # Errors
/// If the store cannot be read.
pub async fn transaction_in_block(
    view: &impl ChainView,
    height: u64,
    position: u32,
) -> Result<Option<StoredTransaction>> {
    view.view().await?.get::<Transactions>(&(height, position)).await
}

/// The transactions of a block in their order; none if there is no such block.
///
/// # Errors
/// If the store cannot be read.
pub async fn block_transactions(view: &impl ChainView, height: u64) -> Result<Vec<StoredTransaction>> {
    transactions_of(&view.view().await?, height).await
}

pub(super) async fn transactions_of(snapshot: &Snapshot, height: u64) -> Result<Vec<StoredTransaction>> {
    let rows = snapshot.scan::<Transactions>().prefix(&(height,)).collect().await?;
    Ok(rows.into_iter().map(|(_, transaction)| transaction).collect())
}
