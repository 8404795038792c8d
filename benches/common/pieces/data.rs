//! Keys and values as a node has them.

use crate::common::{key, mix};

/// A txid and the number of an output.
pub type Outpoint = [u8; 36];
/// A contract and a pointer.
pub type Slot = [u8; 64];
/// A key and its value.
pub type Entry<const K: usize, const V: usize> = ([u8; K], [u8; V]);

const SLOTS_OF_CONTRACT: u64 = 500;

/// Outpoints in no order, 2.4 to a transaction.
pub fn outpoints(count: usize) -> Vec<Outpoint> {
    let outputs = |transaction: u64| {
        let txid = key(transaction);
        (0..2 + u32::from(transaction % 5 < 2)).map(move |output| {
            let mut outpoint = [0; 36];
            outpoint[..32].copy_from_slice(&txid);
            outpoint[32..].copy_from_slice(&output.to_be_bytes());
            outpoint
        })
    };
    (0..).flat_map(outputs).take(count).collect()
}

/// Slots in no order, 500 to a contract.
pub fn slots(count: usize) -> Vec<Slot> {
    let slot = |n: u64| {
        let mut slot = [0; 64];
        slot[..32].copy_from_slice(&key(!(n / SLOTS_OF_CONTRACT)));
        slot[32..].copy_from_slice(&key(n));
        slot
    };
    (0..count as u64).map(slot).collect()
}

/// A value that follows from its number.
pub fn value<const V: usize>(n: u64) -> [u8; V] {
    let mut value = [0; V];
    for (at, part) in value.chunks_mut(8).enumerate() {
        let bytes = mix(n + ((at as u64) << 48)).to_be_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
    value
}

/// Keys with values, in the order of the keys.
pub fn entries<const K: usize, const V: usize>(mut keys: Vec<[u8; K]>) -> Vec<Entry<K, V>> {
    keys.sort_unstable();
    keys.into_iter().enumerate().map(|(n, key)| (key, value(n as u64))).collect()
}
