//! Outputs that were spent, with the height that spent them, for those who keep them.
//!
//! An output is in [`Utxos`](super::Utxos) or here, never in both. So the set of unspent outputs stays what a Bitcoin
//! node has and its index by script holds what a wallet can spend and nothing else, whether spent outputs are kept or
//! not; a row here has both heights, and a reorg below either takes it back. Whoever does not need spent outputs
//! leaves this collection empty and pays nothing for it.

use super::{Outpoint, Utxo, script_hash};
use crate::{Desc, collection, record};

collection! {
    /// Spent outputs by outpoint.
    ///
    /// Follows reorgs; the window restores an output to the unspent ones; rows are purged; spread by the key, as
    /// [`Utxos`](super::Utxos) are.
    pub collection SpentUtxos = "spent_utxos": Outpoint => SpentUtxo;

    /// A spent output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SpentUtxo {
        version 1 {
            /// The height of the block that spent it.
            pub spent_at: u64 as Compact,
            /// What it was; absent if it was made before the first block of the store.
            pub utxo: Option<Utxo>,
        }
    }

    /// Spent outputs by the height that spent them.
    pub index SpentByHeight = "by_height": u64, |_, spent| spent.spent_at;

    /// Spent outputs of a script, the last spent first.
    ///
    /// The key: the script's hash, and the height that spent it.
    pub index SpentByScript = "by_script": ([u8; 32], Desc<u64>) => SpentOrigin,
        |_, spent, emit| if let Some(utxo) = &spent.utxo {
            let origin = SpentOrigin { value: utxo.value, height: utxo.height, coinbase: utxo.coinbase };
            emit((script_hash(&utxo.script), Desc(spent.spent_at)), origin);
        };
}

record! {
    /// What a spent output was, without its script.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SpentOrigin {
        version 1 {
            /// In satoshis.
            pub value: u64 as Compact,
            /// The height of the block that made it.
            pub height: u64 as Compact,
            /// Whether a coinbase made it.
            pub coinbase: bool,
        }
    }
}
