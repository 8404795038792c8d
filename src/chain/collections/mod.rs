//! The collections of an OPNet node.
//!
//! They are made of nothing but this crate's public API: a collection of your own is declared the same way and goes
//! into the same blocks.
//!
//! | Collection | Key | Record | Scope | Indexes |
//! |---|---|---|---|---|
//! | [`Blocks`] | height | [`BlockInfo`] | chain | [`BlocksByHash`], unique |
//! | [`Transactions`] | height, position in the block | [`StoredTransaction`] | chain | |
//! | [`TransactionIds`] | txid | [`TransactionPlace`] | chain | |
//! | [`Utxos`] | txid, output number | [`Utxo`] | chain | [`UtxosByScript`], the most valuable first |
//! | [`ContractState`] | contract, pointer | 32 bytes | chain, every version kept | |
//! | [`PublicKeys`] | tweaked public key | [`KeyForms`] | global | [`PublicKeysByAddress`] |
//! | [`WalletMeta`] | name | bytes | global | |
//!
//! Hashes are in the byte order in which they are computed, which Bitcoin's tools show reversed.

mod blocks;
mod contract_state;
mod transactions;
mod utxos;
mod wallet;

pub use blocks::{BlockInfo, Blocks, BlocksByHash};
pub use contract_state::ContractState;
pub use transactions::{StoredTransaction, TransactionIds, TransactionPlace, Transactions};
pub use utxos::{CoinOrigin, Outpoint, Utxo, Utxos, UtxosByScript, is_unspendable, script_hash};
pub use wallet::{KeyForms, PublicKeys, PublicKeysByAddress, WalletMeta};

use crate::Config;

/// Adds all of them: `Config::new(path).collections(chain::collections)`.
#[must_use]
pub fn collections(config: Config) -> Config {
    config
        .collection::<Blocks>()
        .collection::<Transactions>()
        .collection::<TransactionIds>()
        .collection::<Utxos>()
        .collection::<ContractState>()
        .collection::<PublicKeys>()
        .collection::<WalletMeta>()
}
