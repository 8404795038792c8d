//! Submitted solutions of epochs.

use std::ops::{Bound, RangeInclusive};

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    EpochSubmissions, Submission, SubmissionsByEpoch, SubmissionsByHash, SubmissionsByHeight,
    SubmissionsByProposer, SubmissionsByTxid,
};
use crate::{Index, IndexRow, Page, Result, Scan};

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
    let mut rows = view.scan_index::<SubmissionsByEpoch>().prefix(&(epoch, *mldsa_key, *salt)).limit(1);
    Ok(rows.next().await?.is_some())
}

/// The submissions for an epoch, by the proposer's ML-DSA key and salt.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn submissions_of_epoch(
    view: &impl ChainView,
    epoch: u64,
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    read(view.scan_index::<SubmissionsByEpoch>().prefix(&(epoch,)), paging).await
}

/// The submissions of a proposer's ML-DSA key, by epoch.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn submissions_by_proposer(
    view: &impl ChainView,
    mldsa_key: &[u8; 32],
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    read(view.scan_index::<SubmissionsByProposer>().prefix(&(*mldsa_key,)), paging).await
}

/// The submissions with a hash, by the hash of their transactions.
///
/// # Errors
/// If the store cannot be read.
pub async fn submissions_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Vec<FoundSubmission>> {
    read(view.scan_index::<SubmissionsByHash>().prefix(hash), &Paging::first(usize::MAX))
        .await
        .map(|page| page.rows)
}

/// The submissions of a transaction, by the transaction's id.
///
/// # Errors
/// If the store cannot be read.
pub async fn submissions_by_txid(view: &impl ChainView, txid: &[u8; 32]) -> Result<Vec<FoundSubmission>> {
    read(view.scan_index::<SubmissionsByTxid>().prefix(txid), &Paging::first(usize::MAX))
        .await
        .map(|page| page.rows)
}

/// The submissions that some blocks hold, by height and the hash of their transactions.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn submissions_between(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    read(
        view.scan_index::<SubmissionsByHeight>()
            .range(Bound::Included(heights.start()), Bound::Included(heights.end())),
        paging,
    )
    .await
}

/// A page of the submissions that entries of an index lead to.
async fn read<I: Index<Of = EpochSubmissions, Covered = ()>>(
    scan: Scan<I::Key, IndexRow<I>, I>,
    paging: &Paging,
) -> Result<Page<FoundSubmission>> {
    let rows = paged(scan, paging).with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, tx_hash, ()), submission)| FoundSubmission { tx_hash, submission }))
}
