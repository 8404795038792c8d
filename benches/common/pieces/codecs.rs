//! The codecs of keys and records beside the same written by hand for one type.

use std::rc::Rc;

use op_engine::chain::collections::{Outpoint, Utxo};
use op_engine::key::Key;
use op_engine::value::Record;

use super::{Piece, head, mixed};
use crate::common::{Rng, key};

const ITEMS: usize = 1000;
const SCRIPT_BYTES: usize = 34;

fn outpoints() -> Vec<Outpoint> {
    (0..ITEMS as u64).map(|n| (key(n), (n % 3) as u32)).collect()
}

fn key_by_hand((txid, output): &Outpoint) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36);
    bytes.extend_from_slice(txid);
    bytes.extend_from_slice(&output.to_be_bytes());
    bytes
}

fn key_from_hand(bytes: &[u8]) -> Outpoint {
    let bytes: &[u8; 36] = bytes.try_into().expect("36 bytes");
    let (txid, output) = bytes.split_first_chunk().expect("36 bytes");
    (*txid, u32::from_be_bytes(output.try_into().expect("4 bytes")))
}

pub fn key_encode() -> Piece {
    let keys = Rc::new(outpoints());
    assert!(keys.iter().all(|key| Key::to_bytes(key) == key_by_hand(key)));
    let by_hand = Rc::clone(&keys);
    Piece::new(ITEMS)
        .way("Key", move || keys.iter().fold(0, |digest, key| encoded(digest, &Key::to_bytes(key))))
        .way("by hand", move || by_hand.iter().fold(0, |digest, key| encoded(digest, &key_by_hand(key))))
        .agreed()
}

pub fn key_decode() -> Piece {
    let bytes: Vec<Vec<u8>> = outpoints().iter().map(Key::to_bytes).collect();
    let bytes = Rc::new(bytes);
    let by_hand = Rc::clone(&bytes);
    let decoded = |digest, (txid, output): Outpoint| mixed(digest, head(&txid[24..]) ^ u64::from(output));
    Piece::new(ITEMS)
        .way("Key", move || {
            let keys = bytes.iter().map(|bytes| <Outpoint as Key>::decode_exact(bytes).expect("a key"));
            keys.fold(0, decoded)
        })
        .way("by hand", move || by_hand.iter().map(|bytes| key_from_hand(bytes)).fold(0, decoded))
        .agreed()
}

fn encoded(digest: u64, bytes: &[u8]) -> u64 {
    mixed(digest, u64::from_le_bytes(*bytes.last_chunk().expect("eight bytes")))
}

/// Amounts of all magnitudes, recent heights, scripts of 34 bytes.
fn utxos() -> Vec<Utxo> {
    let mut rng = Rng(8);
    let mut utxo = |n: usize| Utxo {
        value: rng.next() >> (20 + rng.below(34)),
        height: 800_000 + rng.below(60_000),
        coinbase: rng.below(2000) == 0,
        script: [[0x51, 0x20].as_slice(), &key(n as u64)].concat(),
    };
    (0..ITEMS).map(&mut utxo).collect()
}

/// Version, amount, height, coinbase, length of the script, script.
fn value_by_hand(utxo: &Utxo) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + 8 + 4 + 1 + 2 + utxo.script.len());
    bytes.push(1);
    bytes.extend_from_slice(&utxo.value.to_le_bytes());
    bytes.extend_from_slice(&(utxo.height as u32).to_le_bytes());
    bytes.push(u8::from(utxo.coinbase));
    bytes.extend_from_slice(&(utxo.script.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&utxo.script);
    bytes
}

fn value_from_hand(bytes: &[u8]) -> Utxo {
    let (fields, script) = bytes.split_first_chunk::<16>().expect("all fields");
    let [version, value @ .., _, _, _, _, coinbase, low, high] = fields;
    let height: [u8; 4] = fields[9..13].try_into().expect("4 bytes");
    assert!(*version == 1 && *coinbase < 2 && script.len() == usize::from(u16::from_le_bytes([*low, *high])));
    Utxo {
        value: u64::from_le_bytes(*value),
        height: u64::from(u32::from_le_bytes(height)),
        coinbase: *coinbase == 1,
        script: script.to_vec(),
    }
}

pub fn value_encode() -> Piece {
    let utxos = Rc::new(utxos());
    let by_hand = Rc::clone(&utxos);
    let bytes = |encode: fn(&Utxo) -> Vec<u8>| utxos.iter().map(|utxo| encode(utxo).len()).sum::<usize>();
    let mean = |bytes: usize| bytes as f64 / ITEMS as f64;
    let note = format!(
        "bytes a record with {SCRIPT_BYTES} of script: {:.1}, by hand {:.1}",
        mean(bytes(Record::to_bytes)),
        mean(bytes(value_by_hand))
    );
    Piece::new(ITEMS)
        .way("Record", move || utxos.iter().fold(0, |digest, utxo| encoded(digest, &utxo.to_bytes())))
        .way("fixed widths by hand", move || {
            by_hand.iter().fold(0, |digest, utxo| encoded(digest, &value_by_hand(utxo)))
        })
        .agreed()
        .note(note)
}

pub fn value_decode() -> Piece {
    let utxos = utxos();
    let bytes: Vec<Vec<u8>> = utxos.iter().map(Record::to_bytes).collect();
    let by_hand: Vec<Vec<u8>> = utxos.iter().map(value_by_hand).collect();
    for (utxo, (bytes, by_hand)) in utxos.iter().zip(bytes.iter().zip(&by_hand)) {
        assert_eq!(Utxo::decode_exact(bytes).as_ref(), Ok(utxo));
        assert_eq!(value_from_hand(by_hand), *utxo);
    }
    let decoded = |digest, utxo: Utxo| mixed(digest, utxo.value ^ utxo.height << 32 ^ head(&utxo.script));
    Piece::new(ITEMS)
        .way("Record", move || {
            bytes.iter().map(|bytes| Utxo::decode_exact(bytes).expect("a record")).fold(0, decoded)
        })
        .way("fixed widths by hand", move || {
            by_hand.iter().map(|bytes| value_from_hand(bytes)).fold(0, decoded)
        })
        .agreed()
}
