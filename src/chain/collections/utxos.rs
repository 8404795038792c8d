//! The unspent transaction outputs, as a Bitcoin node has them.
//!
//! Outputs that can never be spent are not stored: those whose script begins with `OP_RETURN` or is longer than 10,000
//! bytes, and the one of the genesis block. So the collection is equal to what `dumptxoutset` of a node writes at the
//! same height.

use bitcoin::hashes::{Hash, sha256};

use crate::{Desc, collection, record};

/// A transaction's id and the number of one of its outputs.
pub type Outpoint = ([u8; 32], u32);

const OP_RETURN: u8 = 0x6a;
/// Longer scripts cannot be executed.
const SCRIPT_BYTES_MAX: usize = 10_000;

/// Whether an output with this script can never be spent, by the rule of Bitcoin Core.
#[must_use]
pub fn is_unspendable(script: &[u8]) -> bool {
    script.first() == Some(&OP_RETURN) || script.len() > SCRIPT_BYTES_MAX
}

/// The SHA-256 of an output script, by which [`UtxosByScript`] finds it. Electrum servers use the same hash, and show
/// it reversed.
#[must_use]
pub fn script_hash(script: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(script).to_byte_array()
}

collection! {
    /// Unspent outputs by outpoint.
    ///
    /// Follows reorgs; the window restores what was spent; rows come and go; spread by the key, since a spend names nothing
    /// else.
    pub collection Utxos = "utxos": Outpoint => Utxo;

    /// An unspent output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Utxo {
        version 1 {
            /// In satoshis.
            pub value: u64 as Compact,
            /// The height of the block that made it.
            pub height: u64 as Compact,
            /// Whether a coinbase made it: it can be spent 100 blocks later.
            pub coinbase: bool,
            /// The output script.
            pub script: Vec<u8>,
        }
    }

    /// Unspent outputs of a script, the most valuable first. Answers what an address owns without reading the outputs.
    ///
    /// The key: the script's hash, and the value in satoshis.
    pub index UtxosByScript = "by_script": ([u8; 32], Desc<u64>) => CoinOrigin,
        |_, utxo, emit| {
            let origin = CoinOrigin { height: utxo.height, coinbase: utxo.coinbase };
            emit((script_hash(&utxo.script), Desc(utxo.value)), origin);
        };
}

record! {
    /// Where an output comes from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CoinOrigin {
        version 1 {
            /// The height of the block that made it.
            pub height: u64 as Compact,
            /// Whether a coinbase made it.
            pub coinbase: bool,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_spent_is_told_as_a_node_does() {
        assert!(is_unspendable(&[0x6a]));
        assert!(is_unspendable(&[0x51; 10_001]));
        assert!(!is_unspendable(&[0x51; 10_000]));
        assert!(!is_unspendable(&[0x51, 0x6a]));
        // Anyone can spend it.
        assert!(!is_unspendable(&[]));
    }

    #[test]
    fn the_script_hash_is_that_of_electrum() {
        // The example of Electrum's protocol documentation, reversed.
        let script = bitcoin::hex::FromHex::from_hex("76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac");
        let script: Vec<u8> = script.unwrap();
        let mut shown = script_hash(&script);
        shown.reverse();
        let shown: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, "8b01df4e368ea28f8dc0423bcf7a4923e3a12d307c875e47a0cfbf90b5c39161");
    }
}
