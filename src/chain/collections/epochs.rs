//! OPNet epochs, the solutions that were submitted for them, and those that are aimed at.

use crate::{Desc, collection, record};

record! {
    /// Who solved an epoch.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Proposer {
        version 1 {
            /// The solution.
            pub solution: [u8; 32],
            /// The hash of the proposer's ML-DSA key.
            pub mldsa_key: [u8; 32],
            /// The proposer's key on Bitcoin's curve.
            pub legacy_key: [u8; 33],
            /// What was varied to find the solution.
            pub salt: [u8; 32],
            /// What the proposer wrote.
            pub graffiti: Option<[u8; 16]>,
        }
    }
}

collection! {
    /// OPNet epochs by number.
    ///
    /// Follows reorgs; the window restores the end that a reorg takes from an epoch; changed when an epoch ends; few, so
    /// spread by the key and merged in scans.
    pub collection Epochs = "epochs": u64 => Epoch;

    /// An OPNet epoch. Epochs follow each other in the order of their numbers, and no block is in two.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Epoch {
        version 1 {
            /// Its hash.
            pub hash: [u8; 32],
            /// The root of the tree of what it covers.
            pub root: [u8; 32],
            /// The height of its first block.
            pub start_block: u64 as Compact,
            /// The height of its last block; absent while it is open.
            pub end_block: Option<u64>,
            /// The difficulty of its solution, scaled.
            pub difficulty: u64 as Compact,
            /// What a solution is compared with.
            pub target_hash: [u8; 32],
            /// Who solved it.
            pub proposer: Proposer,
            /// The hashes that lead from its parts to its root.
            pub proofs: Vec<[u8; 32]>,
        }
    }

    /// Epochs by hash.
    pub unique index EpochsByHash = "by_hash": [u8; 32], |_, epoch| epoch.hash;

    /// Epochs by target hash.
    pub index EpochsByTarget = "by_target": [u8; 32], |_, epoch| epoch.target_hash;

    /// Epochs of a proposer's ML-DSA key, in their order.
    pub index EpochsByProposer = "by_proposer": [u8; 32], |_, epoch| epoch.proposer.mldsa_key;

    /// Epochs by the salt of their solution.
    pub index EpochsBySalt = "by_salt": [u8; 32], |_, epoch| epoch.proposer.salt;

    /// Epochs by their first block, with their last.
    pub index EpochsByStart = "by_start": u64 => Option<u64>,
        |_, epoch, emit| emit(epoch.start_block, epoch.end_block);

    /// Epochs that have not ended, by number.
    pub index OpenEpochs = "open": u64,
        |number, epoch, emit| if epoch.end_block.is_none() {
            emit(*number, ());
        };
}

collection! {
    /// Solutions that were aimed at an epoch, by epoch, salt and ML-DSA key.
    ///
    /// Emptied by any reorg, which changes what solutions are compared with; those of an epoch are on one shard.
    ///
    /// The key: the epoch, the salt, and the hash of the finder's ML-DSA key.
    pub collection TargetEpochs = "target_epochs": (u64, [u8; 32], [u8; 32]) => TargetEpoch
        where scope: Cleared, partition: 1;

    /// A solution before it is in a block.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TargetEpoch {
        version 1 {
            /// How difficult it was to find.
            pub difficulty: u64 as Compact,
            /// The finder's key on Bitcoin's curve.
            pub legacy_key: [u8; 33],
            /// The finder's ML-DSA key.
            pub mldsa_public_key: Vec<u8>,
            /// The finder's signature.
            pub signature: Vec<u8>,
            /// What the finder wrote.
            pub graffiti: Option<[u8; 16]>,
        }
    }

    /// Solutions of an epoch, the most difficult first.
    pub index TargetsByDifficulty = "by_difficulty": (u64, Desc<u64>),
        |key, target| (key.0, Desc(target.difficulty));
}
