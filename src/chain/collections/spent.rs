//! Outputs that were spent, with the height that spent them, for those who keep them.
//!
//! An output is in [`Utxos`](super::Utxos) or here, never in both. So the set of unspent outputs stays what a Bitcoin
//! node has and its index by script holds what a wallet can spend and nothing else, whether spent outputs are kept or
//! not; a row here has both heights, and a reorg below either takes it back. Whoever does not need spent outputs
//! leaves this collection empty and pays nothing for it.

use super::{Outpoint, Utxo, script_hash};
use crate::{Collection, Desc, Index, IndexList, record};

/// Spent outputs by outpoint.
///
/// Follows reorgs; the window restores an output to the unspent ones; rows are purged; spread by the key, as
/// [`Utxos`](super::Utxos) are.
#[derive(Debug)]
pub struct SpentUtxos;

record! {
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
}

impl Collection for SpentUtxos {
    const NAME: &'static str = "spent_utxos";
    type Key = Outpoint;
    type Value = SpentUtxo;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<SpentByHeight>().with::<SpentByScript>()
    }
}

/// Spent outputs by the height that spent them.
#[derive(Debug)]
pub struct SpentByHeight;

impl Index for SpentByHeight {
    const NAME: &'static str = "by_height";
    type Of = SpentUtxos;
    type Key = u64;
    type Covered = ();

    fn entries(_: &Outpoint, spent: &SpentUtxo, emit: &mut dyn FnMut(u64, ())) {
        emit(spent.spent_at, ());
    }
}

/// Spent outputs of a script, the last spent first.
#[derive(Debug)]
pub struct SpentByScript;

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

impl Index for SpentByScript {
    const NAME: &'static str = "by_script";
    type Of = SpentUtxos;
    /// The script's hash, and the height that spent it.
    type Key = ([u8; 32], Desc<u64>);
    type Covered = SpentOrigin;

    fn entries(_: &Outpoint, spent: &SpentUtxo, emit: &mut dyn FnMut(Self::Key, SpentOrigin)) {
        if let Some(utxo) = &spent.utxo {
            let origin = SpentOrigin { value: utxo.value, height: utxo.height, coinbase: utxo.coinbase };
            emit((script_hash(&utxo.script), Desc(spent.spent_at)), origin);
        }
    }
}
