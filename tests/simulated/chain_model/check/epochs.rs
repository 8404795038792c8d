//! Epochs, submissions and targets.

use op_engine::chain::collections::{Epoch, Submission};
use op_engine::chain::queries::*;
use op_engine::{Desc, Error};
use op_engine_io::sim::Rng;

use super::{any, any_heights, same, same_pages};
use crate::chain_model::pools::{Of, PROPOSERS, SALTS, id};
use crate::chain_model::state::{Seen, State};
use crate::support::check::{Checked, Trouble};

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    epochs(view, seen, rng).await?;
    epochs_by_form(view, &seen.state, rng).await?;
    submissions(view, seen, rng).await?;
    targets(view, seen, rng).await
}

fn found(state: &State, wanted: impl Fn(&Epoch) -> bool) -> Vec<(u64, Epoch)> {
    let found = state.epochs.iter().filter(|(_, epoch)| wanted(epoch));
    found.map(|(number, epoch)| (*number, epoch.clone())).collect()
}

async fn epochs(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let state = &seen.state;
    let number = rng.below(state.epochs.len() as u64 + 2);
    same("epoch", &epoch(view, number).await?, &state.epochs.get(&number).cloned())?;
    let last = state.epochs.last_key_value().map(|(number, epoch)| (*number, epoch.clone()));
    same("latest_epoch", &latest_epoch(view).await?, &last)?;
    let limit = [1, 1000][rng.index(2)];
    let mut wanted = found(state, |epoch| epoch.end_block.is_none());
    wanted.truncate(limit);
    same("open_epochs", &open_epochs(view, limit).await?, &wanted)?;

    let heights = any_heights(rng, seen.tip);
    let height = *heights.start();
    let overlaps = |epoch: &Epoch, first: u64, last: u64| {
        epoch.start_block <= last && epoch.end_block.is_none_or(|end| end >= first)
    };
    let wanted = found(state, |epoch| overlaps(epoch, height, height)).pop();
    same("epoch_at_block", &epoch_at_block(view, height).await?, &wanted)?;
    let mut wanted = found(state, |epoch| overlaps(epoch, height, *heights.end()));
    wanted.truncate(if heights.is_empty() { 0 } else { limit });
    same("epochs_between", &epochs_between(view, heights, limit).await?, &wanted)
}

async fn epochs_by_form(view: &impl ChainView, state: &State, rng: &mut Rng) -> Checked {
    let some = any(rng, state.epochs.values()).cloned();
    let hash = some.map_or(id(Of::Epoch, rng.below(200)), |epoch| epoch.hash);
    let wanted = found(state, |epoch| epoch.hash == hash).pop();
    same("epoch_by_hash", &epoch_by_hash(view, &hash).await?, &wanted)?;
    let target = id(Of::Target, rng.below(4));
    let wanted = found(state, |epoch| epoch.target_hash == target);
    same_pages("epochs_by_target", rng, wanted, async |paging| epochs_by_target(view, &target, paging).await)
        .await?;
    let key = id(Of::Proposer, rng.below(PROPOSERS + 1));
    let wanted = found(state, |epoch| epoch.proposer.mldsa_key == key);
    same_pages("epochs_by_proposer", rng, wanted, async |paging| {
        epochs_by_proposer(view, &key, paging).await
    })
    .await?;
    let salt = id(Of::Salt, rng.below(SALTS + 1));
    let wanted = found(state, |epoch| epoch.proposer.salt == salt);
    same_pages("epochs_by_salt", rng, wanted, async |paging| epochs_by_salt(view, &salt, paging).await).await
}

async fn submissions(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let state = &seen.state;
    let all = || {
        let all = state.submissions.iter();
        all.map(|(tx_hash, submission)| FoundSubmission { tx_hash: *tx_hash, submission: submission.clone() })
    };
    let some: Option<Submission> = any(rng, state.submissions.values()).cloned();
    let tx_hash = id(Of::Submission, rng.below(21));
    same("submission", &submission(view, &tx_hash).await?, &state.submissions.get(&tx_hash).cloned())?;

    let epoch = some.as_ref().map_or(0, |some| some.epoch);
    let (key, salt) = (id(Of::Proposer, rng.below(PROPOSERS)), id(Of::Salt, rng.below(SALTS)));
    let is = |found: &FoundSubmission| {
        let proposed = &found.submission.proposed;
        found.submission.epoch == epoch && proposed.mldsa_key == key && proposed.salt == salt
    };
    let exists = submission_exists(view, epoch, &key, &salt).await?;
    same("submission_exists", &exists, &all().any(|found| is(&found)))?;
    let mut wanted: Vec<_> = all().filter(|found| found.submission.epoch == epoch).collect();
    wanted.sort_by_key(|found| {
        (found.submission.proposed.mldsa_key, found.submission.proposed.salt, found.tx_hash)
    });
    same_pages("submissions_of_epoch", rng, wanted, async |paging| {
        submissions_of_epoch(view, epoch, paging).await
    })
    .await?;
    let mut wanted: Vec<_> = all().filter(|found| found.submission.proposed.mldsa_key == key).collect();
    wanted.sort_by_key(|found| (found.submission.epoch, found.tx_hash));
    same_pages("submissions_by_proposer", rng, wanted, async |paging| {
        submissions_by_proposer(view, &key, paging).await
    })
    .await?;
    let hash = id(Of::Solution, rng.below(8));
    let wanted: Vec<_> = all().filter(|found| found.submission.hash == hash).collect();
    same("submissions_by_hash", &submissions_by_hash(view, &hash).await?, &wanted)?;
    let txid = id(Of::Transaction, rng.below(11));
    let wanted: Vec<_> = all().filter(|found| found.submission.txid == txid).collect();
    same("submissions_by_txid", &submissions_by_txid(view, &txid).await?, &wanted)?;
    let heights = any_heights(rng, seen.tip);
    let mut wanted: Vec<_> = all().filter(|found| heights.contains(&found.submission.confirmed_at)).collect();
    wanted.sort_by_key(|found| (found.submission.confirmed_at, found.tx_hash));
    same_pages("submissions_between", rng, wanted, async |paging| {
        submissions_between(view, heights.clone(), paging).await
    })
    .await
}

async fn targets(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let epoch = rng.below(4);
    let Some(targets) = &seen.targets else {
        return match best_target(view, epoch).await {
            Err(Error::HistoryGone { collection, .. }) if collection == "target_epochs" => Ok(()),
            other => Err(Trouble::Wrong(format!("best_target in the past gave {other:?}"))),
        };
    };
    let of_epoch = targets.iter().filter(|((of, ..), _)| *of == epoch);
    let mut wanted: Vec<_> = of_epoch
        .map(|((_, salt, mldsa_key), target)| EpochTarget {
            salt: *salt,
            mldsa_key: *mldsa_key,
            target: target.clone(),
        })
        .collect();
    wanted.sort_by_key(|found| (Desc(found.target.difficulty), found.salt, found.mldsa_key));
    same("best_target", &best_target(view, epoch).await?, &wanted.first().cloned())?;
    same_pages("targets_of_epoch", rng, wanted, async |paging| targets_of_epoch(view, epoch, paging).await)
        .await
}
