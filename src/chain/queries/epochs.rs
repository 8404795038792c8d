//! OPNet epochs and what is aimed at them.

use std::ops::{Bound, RangeInclusive};

use super::paging::page;
use super::{ChainView, Page, Paging};
use crate::chain::collections::{
    Epoch, Epochs, EpochsByHash, EpochsByProposer, EpochsBySalt, EpochsByStart, EpochsByTarget, OpenEpochs,
    TargetEpoch, TargetEpochs, TargetsByDifficulty,
};
use crate::{Collection, Desc, Index, Result, Snapshot};

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
    view.view().await?.scan::<Epochs>().descending().limit(1).next().await
}

/// The epoch that a block is in: the last one that begins at or below it, if it has not ended before.
///
/// # Errors
/// If the store cannot be read.
pub async fn epoch_at_block(view: &impl ChainView, height: u64) -> Result<Option<Found>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<EpochsByStart>().range(Bound::Unbounded, Bound::Included(&height));
    let Some((_, number, end)) = rows.descending().limit(1).next().await? else { return Ok(None) };
    if end.is_some_and(|end| end < height) {
        return Ok(None);
    }
    Ok(snapshot.get::<Epochs>(&number).await?.map(|epoch| (number, epoch)))
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
    let snapshot = view.view().await?;
    // Epochs do not overlap: of those that begin below, only the last one can reach into the range.
    let first = epoch_at_block(&snapshot, *heights.start()).await?;
    let (after, last) = (Bound::Excluded(heights.start()), Bound::Included(heights.end()));
    let mut numbers: Vec<u64> = first.iter().map(|(number, _)| *number).collect();
    if heights.start() < heights.end() {
        let rows = snapshot.scan_index::<EpochsByStart>().range(after, last);
        let rows = rows.limit(limit.saturating_sub(numbers.len())).collect().await?;
        numbers.extend(rows.into_iter().map(|(_, number, _)| number));
    }
    numbers.truncate(limit);
    read(&snapshot, numbers).await
}

/// The epochs that have not ended, in their order.
///
/// # Errors
/// If the store cannot be read.
pub async fn open_epochs(view: &impl ChainView, limit: usize) -> Result<Vec<Found>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<OpenEpochs>().limit(limit).collect().await?;
    read(&snapshot, rows.into_iter().map(|(_, number, ())| number).collect()).await
}

/// The epochs with a target hash, in their order.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
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
/// If the store cannot be read, or the page does not belong to the question.
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
/// If the store cannot be read, or the page does not belong to the question.
pub async fn epochs_by_salt(view: &impl ChainView, salt: &[u8; 32], paging: &Paging) -> Result<Page<Found>> {
    by_index::<EpochsBySalt>(view, salt, paging).await
}

async fn by_index<I: Index<Of = Epochs, Key = [u8; 32], Covered = ()>>(
    view: &impl ChainView,
    key: &[u8; 32],
    paging: &Paging,
) -> Result<Page<Found>> {
    let snapshot = view.view().await?;
    let found = page(snapshot.scan_index::<I>().prefix(key), (*key, *key), paging).await?;
    let rows = read(&snapshot, found.rows.into_iter().map(|(_, number, ())| number).collect()).await?;
    Ok(Page { rows, next: found.next })
}

async fn read(snapshot: &Snapshot, numbers: Vec<u64>) -> Result<Vec<Found>> {
    let epochs = snapshot.get_many::<Epochs>(&numbers).await?;
    Ok(numbers.into_iter().zip(epochs).filter_map(|(number, epoch)| Some((number, epoch?))).collect())
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
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<TargetsByDifficulty>().prefix(&(epoch,));
    let found = page(rows, ((epoch, Desc(u64::MAX)), (epoch, Desc(0))), paging).await?;
    let keys: Vec<<TargetEpochs as Collection>::Key> =
        found.rows.into_iter().map(|(_, key, ())| key).collect();
    let targets = snapshot.get_many::<TargetEpochs>(&keys).await?;
    let rows = keys.into_iter().zip(targets);
    let rows = rows
        .filter_map(|((_, salt, mldsa_key), target)| Some(EpochTarget { salt, mldsa_key, target: target? }));
    Ok(Page { rows: rows.collect(), next: found.next })
}
