//! The mempool.

use std::collections::{BTreeMap, BTreeSet};

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    Mempool, MempoolByAddress, MempoolByFirstSeen, MempoolByInput, MempoolTransaction, Outpoint,
    TransactionKind,
};
use crate::{Page, Result, Snapshot};

/// A transaction of the mempool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolEntry {
    /// Its id.
    pub id: [u8; 32],
    /// The transaction.
    pub transaction: MempoolTransaction,
}

/// What is in the mempool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MempoolCounts {
    /// Transactions.
    pub transactions: u64,
    /// Those that call or deploy contracts.
    pub opnet: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A transaction of the mempool, by id.
///
/// # Errors
/// If the store cannot be read.
pub async fn mempool_entry(view: &impl ChainView, id: &[u8; 32]) -> Result<Option<MempoolTransaction>> {
    view.view().await?.get::<Mempool>(id).await
}

/// The transactions of the mempool, the newest first, and those of one time by id.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn mempool_latest(view: &impl ChainView, paging: &Paging) -> Result<Page<MempoolEntry>> {
    let rows = paged(view.scan_index::<MempoolByFirstSeen>(), paging).with_records();
    let rows = rows.page(paging.limit).await?;
    Ok(mapped(rows, |((_, id, _), transaction)| MempoolEntry { id, transaction }))
}

/// The newest transactions that pay any of some addresses, each once, at most `limit` of them, and those of one time by
/// id. Reads no more than `limit` entries of each address.
///
/// # Errors
/// If the store cannot be read.
pub async fn mempool_of_addresses(
    view: &impl ChainView,
    addresses: &[impl AsRef<str>],
    limit: usize,
) -> Result<Vec<MempoolEntry>> {
    let snapshot = view.view().await?;
    let mut newest = BTreeSet::new();
    for address in addresses {
        let prefix = (address.as_ref().to_owned(),);
        let rows = snapshot.scan_index::<MempoolByAddress>().prefix(&prefix).limit(limit).collect().await?;
        newest.extend(rows.into_iter().map(|((_, first_seen), id, ())| (first_seen, id)));
    }
    read(&snapshot, newest.into_iter().take(limit).map(|(_, id)| id).collect()).await
}

/// The transactions that spend any of some outputs, by id, and which of them each spends: those that conflict
/// with a transaction that spends them, and those that make outputs of a wallet unusable.
///
/// # Errors
/// If the store cannot be read.
pub async fn mempool_conflicts(
    view: &impl ChainView,
    outputs: &[Outpoint],
) -> Result<BTreeMap<[u8; 32], Vec<Outpoint>>> {
    let snapshot = view.view().await?;
    let mut found: BTreeMap<[u8; 32], Vec<Outpoint>> = BTreeMap::new();
    for output in outputs {
        for (input, id, ()) in snapshot.scan_index::<MempoolByInput>().prefix(output).collect().await? {
            found.entry(id).or_default().push(input);
        }
    }
    Ok(found)
}

/// The transactions that spend outputs of a transaction, or of one of these, and so on, at most `limit` of them, by id:
/// what goes if it goes.
///
/// # Errors
/// If the store cannot be read.
pub async fn mempool_descendants(
    view: &impl ChainView,
    id: &[u8; 32],
    limit: usize,
) -> Result<BTreeSet<[u8; 32]>> {
    let snapshot = view.view().await?;
    let (mut found, mut next) = (BTreeSet::new(), vec![*id]);
    while let Some(parent) = next.pop() {
        let mut rows = snapshot.scan_index::<MempoolByInput>().prefix(&(parent,));
        while let Some((_, child, ())) = rows.next().await? {
            if found.len() >= limit {
                return Ok(found);
            }
            if child != *id && found.insert(child) {
                next.push(child);
            }
        }
    }
    Ok(found)
}

/// How much is in the mempool. The shards add up index entries, and send the sums.
///
/// # Errors
/// If the store cannot be read.
pub async fn mempool_counts(view: &impl ChainView) -> Result<MempoolCounts> {
    let snapshot = view.view().await?;
    let all = snapshot.scan_index::<MempoolByFirstSeen>().sum(|(.., weight)| weight.bytes.into()).await?;
    let opnet = snapshot.scan_index::<MempoolByFirstSeen>();
    let opnet = opnet.filter(|(.., weight)| weight.kind != TransactionKind::Generic).count().await?;
    let bytes = u64::try_from(all.sum).unwrap_or(u64::MAX);
    Ok(MempoolCounts { transactions: all.rows, opnet, bytes })
}

async fn read(snapshot: &Snapshot, ids: Vec<[u8; 32]>) -> Result<Vec<MempoolEntry>> {
    let transactions = snapshot.get_many::<Mempool>(&ids).await?;
    let rows = ids.into_iter().zip(transactions);
    Ok(rows.filter_map(|(id, transaction)| Some(MempoolEntry { id, transaction: transaction? })).collect())
}
