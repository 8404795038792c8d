//! OPNet epochs, the solutions that were submitted for them, and those that are aimed at.

use crate::{Collection, Desc, Index, IndexList, Scope, record};

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

/// OPNet epochs by number.
///
/// Follows reorgs; the window restores the end that a reorg takes from an epoch; changed when an epoch ends; few, so
/// spread by the key and merged in scans.
#[derive(Debug)]
pub struct Epochs;

record! {
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
}

impl Collection for Epochs {
    const NAME: &'static str = "epochs";
    type Key = u64;
    type Value = Epoch;

    fn indexes() -> IndexList<Self> {
        IndexList::new()
            .with::<EpochsByHash>()
            .with::<EpochsByTarget>()
            .with::<EpochsByProposer>()
            .with::<EpochsBySalt>()
            .with::<EpochsByStart>()
            .with::<OpenEpochs>()
    }
}

/// Epochs by hash.
#[derive(Debug)]
pub struct EpochsByHash;

impl Index for EpochsByHash {
    const NAME: &'static str = "by_hash";
    type Of = Epochs;
    type Key = [u8; 32];
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &u64, epoch: &Epoch, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(epoch.hash, ());
    }
}

/// Epochs by target hash.
#[derive(Debug)]
pub struct EpochsByTarget;

impl Index for EpochsByTarget {
    const NAME: &'static str = "by_target";
    type Of = Epochs;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &u64, epoch: &Epoch, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(epoch.target_hash, ());
    }
}

/// Epochs of a proposer's ML-DSA key, in their order.
#[derive(Debug)]
pub struct EpochsByProposer;

impl Index for EpochsByProposer {
    const NAME: &'static str = "by_proposer";
    type Of = Epochs;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &u64, epoch: &Epoch, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(epoch.proposer.mldsa_key, ());
    }
}

/// Epochs by the salt of their solution.
#[derive(Debug)]
pub struct EpochsBySalt;

impl Index for EpochsBySalt {
    const NAME: &'static str = "by_salt";
    type Of = Epochs;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &u64, epoch: &Epoch, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(epoch.proposer.salt, ());
    }
}

/// Epochs by their first block, with their last.
#[derive(Debug)]
pub struct EpochsByStart;

impl Index for EpochsByStart {
    const NAME: &'static str = "by_start";
    type Of = Epochs;
    type Key = u64;
    type Covered = Option<u64>;

    fn entries(_: &u64, epoch: &Epoch, emit: &mut dyn FnMut(u64, Option<u64>)) {
        emit(epoch.start_block, epoch.end_block);
    }
}

/// Epochs that have not ended, by number.
#[derive(Debug)]
pub struct OpenEpochs;

impl Index for OpenEpochs {
    const NAME: &'static str = "open";
    type Of = Epochs;
    type Key = u64;
    type Covered = ();

    fn entries(number: &u64, epoch: &Epoch, emit: &mut dyn FnMut(u64, ())) {
        if epoch.end_block.is_none() {
            emit(*number, ());
        }
    }
}

/// Solutions that were aimed at an epoch, by epoch, salt and ML-DSA key.
///
/// Emptied by any reorg, which changes what solutions are compared with; those of an epoch are on one shard.
#[derive(Debug)]
pub struct TargetEpochs;

record! {
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
}

impl Collection for TargetEpochs {
    const NAME: &'static str = "target_epochs";
    /// The epoch, the salt, and the hash of the finder's ML-DSA key.
    type Key = (u64, [u8; 32], [u8; 32]);
    type Value = TargetEpoch;
    const SCOPE: Scope = Scope::Cleared;
    const PARTITION: usize = 1;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<TargetsByDifficulty>()
    }
}

/// Solutions of an epoch, the most difficult first.
#[derive(Debug)]
pub struct TargetsByDifficulty;

impl Index for TargetsByDifficulty {
    const NAME: &'static str = "by_difficulty";
    type Of = TargetEpochs;
    type Key = (u64, Desc<u64>);
    type Covered = ();

    fn entries(key: &(u64, [u8; 32], [u8; 32]), target: &TargetEpoch, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((key.0, Desc(target.difficulty)), ());
    }
}
