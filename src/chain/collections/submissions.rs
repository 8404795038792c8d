//! Solutions of epochs that are in blocks.

use super::Proposer;
use crate::{Collection, Index, IndexList, record};

/// Submissions by the hash of their transaction.
///
/// Follows reorgs; the window restores what a later submission replaced; overwritten; spread by the key.
#[derive(Debug)]
pub struct EpochSubmissions;

record! {
    /// A solution of an epoch that a transaction has submitted.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Submission {
        version 1 {
            /// The height of the block that holds the transaction.
            pub confirmed_at: u64 as Compact,
            /// The number of the epoch.
            pub epoch: u64 as Compact,
            /// The first block of the epoch.
            pub start_block: u64 as Compact,
            /// The id of the transaction.
            pub txid: [u8; 32],
            /// The hash of the submission.
            pub hash: [u8; 32],
            /// What it proposes.
            pub proposed: Proposer,
        }
    }
}

impl Collection for EpochSubmissions {
    const NAME: &'static str = "epoch_submissions";
    type Key = [u8; 32];
    type Value = Submission;

    fn indexes() -> IndexList<Self> {
        IndexList::new()
            .with::<SubmissionsByEpoch>()
            .with::<SubmissionsByHash>()
            .with::<SubmissionsByTxid>()
            .with::<SubmissionsByProposer>()
            .with::<SubmissionsByHeight>()
    }
}

/// Submissions by epoch, the proposer's ML-DSA key and salt: those of an epoch, and whether one is there already.
#[derive(Debug)]
pub struct SubmissionsByEpoch;

impl Index for SubmissionsByEpoch {
    const NAME: &'static str = "by_epoch";
    type Of = EpochSubmissions;
    type Key = (u64, [u8; 32], [u8; 32]);
    type Covered = ();

    fn entries(_: &[u8; 32], submission: &Submission, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((submission.epoch, submission.proposed.mldsa_key, submission.proposed.salt), ());
    }
}

/// Submissions by their own hash.
#[derive(Debug)]
pub struct SubmissionsByHash;

impl Index for SubmissionsByHash {
    const NAME: &'static str = "by_hash";
    type Of = EpochSubmissions;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &[u8; 32], submission: &Submission, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(submission.hash, ());
    }
}

/// Submissions by the id of their transaction.
#[derive(Debug)]
pub struct SubmissionsByTxid;

impl Index for SubmissionsByTxid {
    const NAME: &'static str = "by_txid";
    type Of = EpochSubmissions;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &[u8; 32], submission: &Submission, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(submission.txid, ());
    }
}

/// Submissions of a proposer's ML-DSA key, by epoch.
#[derive(Debug)]
pub struct SubmissionsByProposer;

impl Index for SubmissionsByProposer {
    const NAME: &'static str = "by_proposer";
    type Of = EpochSubmissions;
    type Key = ([u8; 32], u64);
    type Covered = ();

    fn entries(_: &[u8; 32], submission: &Submission, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((submission.proposed.mldsa_key, submission.epoch), ());
    }
}

/// Submissions by the height of their block.
#[derive(Debug)]
pub struct SubmissionsByHeight;

impl Index for SubmissionsByHeight {
    const NAME: &'static str = "by_height";
    type Of = EpochSubmissions;
    type Key = u64;
    type Covered = ();

    fn entries(_: &[u8; 32], submission: &Submission, emit: &mut dyn FnMut(u64, ())) {
        emit(submission.confirmed_at, ());
    }
}
