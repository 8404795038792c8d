//! Solutions of epochs that are in blocks.

use super::Proposer;
use crate::collection;

collection! {
    /// Submissions by the hash of their transaction.
    ///
    /// Follows reorgs; the window restores what a later submission replaced; overwritten; spread by the key.
    pub collection EpochSubmissions = "epoch_submissions": [u8; 32] => Submission;

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

    /// Submissions by epoch, the proposer's ML-DSA key and salt: those of an epoch, and whether one is there already.
    pub index SubmissionsByEpoch = "by_epoch": (u64, [u8; 32], [u8; 32]),
        |_, submission| (submission.epoch, submission.proposed.mldsa_key, submission.proposed.salt);

    /// Submissions by their own hash.
    pub index SubmissionsByHash = "by_hash": [u8; 32], |_, submission| submission.hash;

    /// Submissions by the id of their transaction.
    pub index SubmissionsByTxid = "by_txid": [u8; 32], |_, submission| submission.txid;

    /// Submissions of a proposer's ML-DSA key, by epoch.
    pub index SubmissionsByProposer = "by_proposer": ([u8; 32], u64),
        |_, submission| (submission.proposed.mldsa_key, submission.epoch);

    /// Submissions by the height of their block.
    pub index SubmissionsByHeight = "by_height": u64, |_, submission| submission.confirmed_at;
}
