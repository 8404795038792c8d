//! The collections of an OPNet node.
//!
//! They are made of nothing but this crate's public API: a collection of your own is declared the same way and goes
//! into the same blocks.
//!
//! | Collection | Key | Record | Scope | Indexes |
//! |---|---|---|---|---|
//! | [`Blocks`] | height | [`BlockInfo`] | chain | [`BlocksByHash`], [`BlocksByChecksum`], unique |
//! | [`Transactions`] | height, position in the block | [`StoredTransaction`] | chain | |
//! | [`TransactionIds`] | txid, or hash | [`TransactionPlace`] | chain | |
//! | [`Events`] | height, position, number | [`ContractEvent`] | chain | [`EventsByContract`], [`EventsByName`] |
//! | [`Utxos`] | txid, output number | [`Utxo`] | chain | [`UtxosByScript`], the most valuable first |
//! | [`SpentUtxos`] | txid, output number | [`SpentUtxo`] | chain | [`SpentByHeight`], [`SpentByScript`] |
//! | [`ScriptTotals`] | hash of a script | [`ScriptTotal`] | chain | |
//! | [`ContractState`] | contract, pointer | [`Slot`] | chain, every version kept | |
//! | [`Contracts`] | contract | [`Contract`] | chain | [`ContractsByAddress`] and [`ContractsByHybridKey`], unique; [`ContractsByDeployer`], [`ContractsByHeight`] |
//! | [`Epochs`] | number | [`Epoch`] | chain | [`EpochsByHash`], unique; [`EpochsByTarget`], [`EpochsByProposer`], [`EpochsBySalt`], [`EpochsByStart`], [`OpenEpochs`] |
//! | [`EpochSubmissions`] | hash of a transaction | [`Submission`] | chain | [`SubmissionsByEpoch`], [`SubmissionsByHash`], [`SubmissionsByTxid`], [`SubmissionsByProposer`], [`SubmissionsByHeight`] |
//! | [`TargetEpochs`] | epoch, salt, key | [`TargetEpoch`] | cleared | [`TargetsByDifficulty`] |
//! | [`BlockWitnesses`] | height, witness | [`BlockWitness`] | chain | [`WitnessesByKey`] |
//! | [`PublicKeys`] | tweaked public key | [`KeyForms`] | global | [`PublicKeysByAddress`], [`PublicKeysByKey`] |
//! | [`MldsaPublicKeys`] | hash of a key | [`MldsaKey`] | chain | [`MldsaByLegacyKey`], unique; [`MldsaByTweakedKey`], [`MldsaByHeight`] |
//! | [`Mempool`] | id | [`MempoolTransaction`] | global | [`MempoolByAddress`], [`MempoolByInput`], [`MempoolByFirstSeen`] |
//! | [`AnyoneCanSpend`] | txid, output number | [`AnyoneCanSpendOutput`] | global | |
//! | [`BlockchainInformation`] | network | [`ChainProgress`] | global | |
//! | [`Reorgs`] | first and last height | [`ReorgRecord`] | chain | |
//! | [`WalletMeta`] | name | bytes | global | |
//!
//! Hashes are in the byte order in which they are computed, which Bitcoin's tools show reversed.
//!
//! [`queries`](super::queries) answers what a node asks of them.

mod block_coins;
mod blocks;
mod contract_state;
mod contracts;
mod epochs;
mod events;
mod keys;
mod mempool;
mod node;
mod spent;
mod submissions;
mod totals;
mod transactions;
mod utxos;
mod witnesses;

#[cfg(test)]
mod tests;

pub use block_coins::BlockCoins;
pub use blocks::{BlockInfo, Blocks, BlocksByChecksum, BlocksByHash, ChecksumProof, OpnetBlock};
pub use contract_state::{ContractState, Slot, SlotKey};
pub use contracts::{
    Contract, ContractSummary, Contracts, ContractsByAddress, ContractsByDeployer, ContractsByHeight,
    ContractsByHybridKey,
};
pub use epochs::{
    Epoch, Epochs, EpochsByHash, EpochsByProposer, EpochsBySalt, EpochsByStart, EpochsByTarget, OpenEpochs,
    Proposer, TargetEpoch, TargetEpochs, TargetsByDifficulty,
};
pub use events::{ContractEvent, EventKey, Events, EventsByContract, EventsByName};
pub use keys::{
    KeyForms, MldsaByHeight, MldsaByLegacyKey, MldsaByTweakedKey, MldsaKey, MldsaLevel, MldsaPublicKeys,
    PublicKeys, PublicKeysByAddress, PublicKeysByKey,
};
pub use mempool::{
    Mempool, MempoolByAddress, MempoolByFirstSeen, MempoolByInput, MempoolForm, MempoolOutput,
    MempoolTransaction, MempoolWeight,
};
pub use node::{
    AnyoneCanSpend, AnyoneCanSpendOutput, BlockchainInformation, ChainProgress, ReorgRecord, Reorgs,
    WalletMeta,
};
pub use spent::{SpentByHeight, SpentByScript, SpentOrigin, SpentUtxo, SpentUtxos};
pub use submissions::{
    EpochSubmissions, Submission, SubmissionsByEpoch, SubmissionsByHash, SubmissionsByHeight,
    SubmissionsByProposer, SubmissionsByTxid,
};
pub use totals::{Balance, ScriptTotal, ScriptTotals, TOTAL_VALUES_MIN};
pub use transactions::{
    Call, Execution, StoredTransaction, TransactionIds, TransactionKind, TransactionPlace, Transactions,
};
pub use utxos::{CoinOrigin, Outpoint, Utxo, Utxos, UtxosByScript, is_unspendable, script_hash};
pub use witnesses::{BlockWitness, BlockWitnesses, WitnessesByKey, witness_key_hash};

use crate::{ColdAfter, Config, TierPolicy};

/// Transactions, events, witnesses and old versions of slots move to the cold target of the store as soon as no reorg can reach
/// them. What a node asks for all the time stays: coins, the newest slots, blocks, the places of transactions, and all indexes.
const WHEN_FINAL: TierPolicy = TierPolicy::after_confirmations(0);

/// Has the data that can move do so at another time.
#[must_use]
pub fn cold_after(config: Config, after: ColdAfter) -> Config {
    let policy = TierPolicy { after, ..WHEN_FINAL };
    let config = config.tier::<Transactions>(policy).tier::<Events>(policy);
    config.tier::<BlockWitnesses>(policy).tier::<ContractState>(policy)
}

/// Adds all of them: `Config::new(path).collections(chain::collections)`.
#[must_use]
pub fn collections(config: Config) -> Config {
    let config = config
        .collection::<Blocks>()
        .collection::<Transactions>()
        .collection::<TransactionIds>()
        .collection::<Utxos>()
        .collection::<ContractState>()
        .collection::<PublicKeys>()
        .collection::<WalletMeta>();
    let config = config
        .collection::<Events>()
        .collection::<SpentUtxos>()
        .collection::<ScriptTotals>()
        .collection::<Contracts>()
        .collection::<Epochs>()
        .collection::<EpochSubmissions>()
        .collection::<TargetEpochs>()
        .collection::<BlockWitnesses>();
    config
        .collection::<MldsaPublicKeys>()
        .collection::<Mempool>()
        .collection::<AnyoneCanSpend>()
        .collection::<BlockchainInformation>()
        .collection::<Reorgs>()
}
