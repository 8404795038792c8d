//! What a node asks of its collections.
//!
//! Every function takes an [`Engine`], for the tip, or a [`Snapshot`], and looks at one state throughout: what an index
//! says and the records it leads to belong together, also while blocks are committed and taken back.
//!
//! # Heights
//!
//! There is one meaning of a height everywhere: the state *after* the block at that height, as
//! [`Engine::at`] gives it. OPNet's node has two, which are asked for like this:
//!
//! | The node asks for | Here |
//! |---|---|
//! | a slot, an address of a contract or a balance **below** height `h` (`<`): what block `h` is executed on | `engine.at(Height(h - 1))` |
//! | a contract, an output or a key **at or below** height `h` (`<=`) | `engine.at(Height(h))`, or a `height_max` of `h` |
//! | to take back everything **from** height `h` on | `engine.reorg_to(Height(h - 1))` |
//!
//! # Pages
//!
//! What can be long is answered in [pages](crate::Page), and only a page is ever in memory. [`Paging`] tells how much is
//! wanted and gives back the token of the page before. Pages of a [`Snapshot`] belong together; those of an [`Engine`] show the
//! tip as it is when each is asked for, and are refused when what was given out may have been reorganised away.

mod blocks;
mod coins;
mod contracts;
mod epochs;
mod events;
mod keys;
mod mempool;
mod node;
mod paging;
mod slots;
mod submissions;
mod transactions;
mod witnesses;

use std::future::{Future, ready};

pub use super::collections::Balance;
pub use blocks::{BlockContents, block_at, block_by_checksum, block_by_hash, block_contents, latest_block};
pub use coins::{
    CoinFilter, OutputState, ScriptUtxo, SpentOutput, balance_of_address, balance_of_script, output,
    outputs_spent_at, spent_outputs_of_script, total_of_script, utxos_of_address, utxos_of_script,
};
pub use contracts::{
    DeployedContract, contract, contract_address, contract_by_address, contract_by_hybrid_key,
    contracts_deployed_at, contracts_deployed_up_to, contracts_of_deployer,
};
pub use epochs::{
    EpochTarget, best_target, epoch, epoch_at_block, epoch_by_hash, epochs_between, epochs_by_proposer,
    epochs_by_salt, epochs_by_target, latest_epoch, open_epochs, targets_of_epoch,
};
pub use events::{
    FoundEvent, events_of_block_range, events_of_contract, events_of_transaction, events_with_name,
};
pub use keys::{
    KeyForm, KnownKey, MldsaForm, MldsaFound, mldsa_key, mldsa_keys_inserted_up_to, mldsa_keys_of_tweaked,
    public_keys,
};
pub use mempool::{
    MempoolCounts, MempoolEntry, mempool_conflicts, mempool_counts, mempool_descendants, mempool_entry,
    mempool_latest, mempool_of_addresses,
};
pub use node::{FoundReorg, anyone_can_spend, chain_progress, reorgs_between};
pub use paging::{Order, Paging};
pub use slots::{slot, slot_exists, slots, slots_of_contract};
pub use submissions::{
    FoundSubmission, submission, submission_exists, submissions_between, submissions_by_hash,
    submissions_by_proposer, submissions_by_txid, submissions_of_epoch,
};
pub use transactions::{
    block_transactions, transaction, transaction_by_hash, transaction_by_txid, transaction_in_block,
    transactions_by_txid,
};
pub use witnesses::{FoundWitness, witness_exists, witnesses_of_block, witnesses_of_blocks};

use crate::{Collection, Engine, Index, IndexRow, Result, Row, Scan, Snapshot};

/// Something that shows a state of the store.
pub trait ChainView {
    /// The state, held.
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send;

    /// An ordered scan of a collection.
    fn scan<C: Collection>(&self) -> Scan<C::Key, Row<C>>;

    /// An ordered scan of an index.
    fn scan_index<I: Index>(&self) -> Scan<I::Key, IndexRow<I>, I>;
}

impl ChainView for Engine {
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send {
        self.snapshot()
    }

    fn scan<C: Collection>(&self) -> Scan<C::Key, Row<C>> {
        self.scan::<C>()
    }

    fn scan_index<I: Index>(&self) -> Scan<I::Key, IndexRow<I>, I> {
        self.scan_index::<I>()
    }
}

impl ChainView for Snapshot {
    fn view(&self) -> impl Future<Output = Result<Snapshot>> + Send {
        ready(Ok(self.clone()))
    }

    fn scan<C: Collection>(&self) -> Scan<C::Key, Row<C>> {
        self.scan::<C>()
    }

    fn scan_index<I: Index>(&self) -> Scan<I::Key, IndexRow<I>, I> {
        self.scan_index::<I>()
    }
}
