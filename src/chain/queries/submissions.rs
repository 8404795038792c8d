//! Submitted solutions of epochs.

use std::ops::RangeInclusive;

use super::paging::page;
use super::{ChainView, Page, Paging};
use crate::chain::collections::{
    EpochSubmissions, Submission, SubmissionsByEpoch, SubmissionsByHash, SubmissionsByHeight,
    SubmissionsByProposer, SubmissionsByTxid,
};
use crate::{Result, Snapshot};

/// A submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSubmission {
    /// The hash of its transaction.
    pub tx_hash: [u8; 32],
    /// The submission.
    pub submission: Submission,
}

/// The submission of a transaction, by the transaction's hash.
///
/// # Errors
/// If the store cannot be read.
pub async fn submission(view: &impl ChainView, tx_hash: &[u8; 32]) -> Result<Option<Submission>> {
    view.view().await?.get::<EpochSubmissions>(tx_hash).await
}

/// Whether a proposer's ML-DSA key has submitted a salt for an epoch.
///
/// # Errors
/// If the store cannot be read.
pub async fn submission_exists(
    view: &impl ChainView,
    epoch: u64,
    mldsa_key: &[u8; 32],
    salt: &[u8; 32],
) -> Result<bool> {
    let snapshot = view.view().await?;
    let mut rows = snapshot.scan_index::<SubmissionsByEpoch>().prefix(&(epoch, *mldsa_key, *salt)).limit(1);
    Ok(rows.next().await?.is_some())
}

/// The submissions for an epoch, by the proposer's ML-DSA key and salt.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn submissions_of_epoch(
    view: &impl ChainView,
    epoch: u64,
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SubmissionsByEpoch>().prefix(&(epoch,));
    let range = ((epoch, [0; 32], [0; 32]), (epoch, [0xff; 32], [0xff; 32]));
    let found = page(rows, range, paging).await?.map(|(_, key, ())| key);
    read(&snapshot, found).await
}

/// The submissions of a proposer's ML-DSA key, by epoch.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn submissions_by_proposer(
    view: &impl ChainView,
    mldsa_key: &[u8; 32],
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SubmissionsByProposer>().prefix(&(*mldsa_key,));
    let found = page(rows, ((*mldsa_key, 0), (*mldsa_key, u64::MAX)), paging).await?.map(|(_, key, ())| key);
    read(&snapshot, found).await
}

/// The submissions with a hash, by the hash of their transactions.
///
/// # Errors
/// If the store cannot be read.
pub async fn submissions_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Vec<FoundSubmission>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SubmissionsByHash>().prefix(hash).collect().await?;
    let rows = rows.into_iter().map(|(_, key, ())| key).collect();
    Ok(read(&snapshot, Page { rows, next: None }).await?.rows)
}

/// The submissions of a transaction, by the transaction's id.
///
/// # Errors
/// If the store cannot be read.
pub async fn submissions_by_txid(view: &impl ChainView, txid: &[u8; 32]) -> Result<Vec<FoundSubmission>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SubmissionsByTxid>().prefix(txid).collect().await?;
    let rows = rows.into_iter().map(|(_, key, ())| key).collect();
    Ok(read(&snapshot, Page { rows, next: None }).await?.rows)
}

/// The submissions that some blocks hold, by height and the hash of their transactions.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn submissions_between(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SubmissionsByHeight>();
    let found = page(rows, heights.into_inner(), paging).await?.map(|(_, key, ())| key);
    read(&snapshot, found).await
}

async fn read(snapshot: &Snapshot, found: Page<[u8; 32]>) -> Result<Page<FoundSubmission>> {
    let submissions = snapshot.get_many::<EpochSubmissions>(&found.rows).await?;
    let rows = found.rows.into_iter().zip(submissions);
    let rows =
        rows.filter_map(|(tx_hash, submission)| Some(FoundSubmission { tx_hash, submission: submission? }));
    Ok(Page { rows: rows.collect(), next: found.next })
}
