//! OPNet epochs and what is aimed at them.

use std::ops::{Bound, RangeInclusive};

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    Epoch, Epochs, EpochsByHash, EpochsByProposer, EpochsBySalt, EpochsByStart, EpochsByTarget, OpenEpochs,
    TargetEpoch, TargetsByDifficulty,
};
use crate::{Index, Page, Result};

/// An epoch's number, and the epoch.
type Found = (u64, Epoch);

/// A solution that is aimed at an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochTarget {
    /// The salt.
    pub salt: [u8; 32],
    /// The hash of the finder's ML-DSA key.
    pub mldsa_key: [u8; 32],
    /// The solution.
    pub target: TargetEpoch,
}

/// The epoch of a number.
///
/// # Errors
/// If the store cannot be read.
pub async fn epoch(view: &impl ChainView, number: u64) -> Result<Option<Epoch>> {
    view.view().await?.get::<Epochs>(&number).await
}

/// The epoch with a hash.
///
/// # Errors
/// If the store cannot be read.
pub async fn epoch_by_hash(view: &impl ChainView, hash: &[u8; 32]) -> Result<Option<Found>> {
    view.view().await?.get_by::<EpochsByHash>(hash).await
}

/// The newest epoch.
///
/// # Errors
/// If the store cannot be read.
pub async fn latest_epoch(view: &impl ChainView) -> Result<Option<Found>> {
    view.scan::<Epochs>().descending().limit(1).next().await
}

/// The epoch that a block is in: the last one that begins at or below it, if it has not ended before.
///
/// # Errors
/// If the store cannot be read.
pub async fn epoch_at_block(view: &impl ChainView, height: u64) -> Result<Option<Found>> {
    let rows = view.scan_index::<EpochsByStart>().range(Bound::Unbounded, Bound::Included(&height));
    let last = rows.descending().limit(1).with_records().next().await?;
    Ok(last.map(|((_, number, _), epoch)| (number, epoch)).filter(|(_, epoch)| !has_ended(epoch, height)))
}

fn has_ended(epoch: &Epoch, before: u64) -> bool {
    epoch.end_block.is_some_and(|end| end < before)
}

/// The epochs that have a block in common with some blocks, in their order, at most `limit` of them.
///
/// # Errors
/// If the store cannot be read.
pub async fn epochs_between(
    view: &impl ChainView,
    heights: RangeInclusive<u64>,
    limit: usize,
) -> Result<Vec<Found>> {
    if heights.is_empty() {
        return Ok(Vec::new());
    }
    let snapshot = view.view().await?;
    // Epochs do not overlap: of those that begin below, only the last one can reach into the range.
    let first = epoch_at_block(&snapshot, *heights.start()).await?;
    let mut found: Vec<Found> = first.into_iter().take(limit).collect();
    let (after, last) = (Bound::Excluded(heights.start()), Bound::Included(heights.end()));
    let rows = snapshot.scan_index::<EpochsByStart>().range(after, last).limit(limit - found.len());
    found.extend(
        rows.with_records().collect().await?.into_iter().map(|((_, number, _), epoch)| (number, epoch)),
    );
    Ok(found)
}

/// The epochs that have not ended, in their order.
///
/// # Errors
/// If the store cannot be read.
pub async fn open_epochs(view: &impl ChainView, limit: usize) -> Result<Vec<Found>> {
    let rows = view.scan_index::<OpenEpochs>().limit(limit).with_records().collect().await?;
    Ok(rows.into_iter().map(|((_, number, ()), epoch)| (number, epoch)).collect())
}

/// The epochs with a target hash, in their order.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn epochs_by_target(
    view: &impl ChainView,
    target_hash: &[u8; 32],
    paging: &Paging,
) -> Result<Page<Found>> {
    by_index::<EpochsByTarget>(view, target_hash, paging).await
}

/// The epochs that a proposer's ML-DSA key has solved, in their order.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn epochs_by_proposer(
    view: &impl ChainView,
    mldsa_key: &[u8; 32],
    paging: &Paging,
) -> Result<Page<Found>> {
    by_index::<EpochsByProposer>(view, mldsa_key, paging).await
}

/// The epochs that were solved with a salt, in their order.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn epochs_by_salt(view: &impl ChainView, salt: &[u8; 32], paging: &Paging) -> Result<Page<Found>> {
    by_index::<EpochsBySalt>(view, salt, paging).await
}

async fn by_index<I: Index<Of = Epochs, Key = [u8; 32], Covered = ()>>(
    view: &impl ChainView,
    key: &[u8; 32],
    paging: &Paging,
) -> Result<Page<Found>> {
    let rows = paged(view.scan_index::<I>().prefix(key), paging).with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, number, ()), epoch)| (number, epoch)))
}

/// The most difficult solution that is aimed at an epoch; of equal ones the first by salt and key.
///
/// # Errors
/// [`Error::HistoryGone`](crate::Error::HistoryGone) on the state at a height: what a reorg empties has no past.
pub async fn best_target(view: &impl ChainView, epoch: u64) -> Result<Option<EpochTarget>> {
    Ok(targets_of_epoch(view, epoch, &Paging::first(1)).await?.rows.pop())
}

/// The solutions that are aimed at an epoch, the most difficult first; equal ones by salt and key.
///
/// # Errors
/// As [`best_target`], and if the page does not belong to the question.
pub async fn targets_of_epoch(
    view: &impl ChainView,
    epoch: u64,
    paging: &Paging,
) -> Result<Page<EpochTarget>> {
    let rows = paged(view.scan_index::<TargetsByDifficulty>().prefix(&(epoch,)), paging);
    let rows = rows.with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, (_, salt, mldsa_key), ()), target)| EpochTarget { salt, mldsa_key, target }))
}
