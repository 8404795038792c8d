//! The payload of a commit beside one whose lengths have a fixed width.

use std::rc::Rc;

use op_engine_shards::CollectionId;
use op_engine_shards::bytes::{ByteReader, ByteWriter};
use op_engine_shards::ops::{self, Op};

use super::data::{Entry, outpoints, value};
use super::{Piece, head, mixed};

const OPERATIONS: usize = 1000;
const C: CollectionId = CollectionId(3);

fn entries(count: usize) -> Vec<Entry<36, 60>> {
    outpoints(count).into_iter().enumerate().map(|(n, key)| (key, value(n as u64))).collect()
}

/// Writes so many puts of outpoints.
pub fn write(out: &mut ByteWriter, count: usize) {
    put_all(out, &entries(count));
}

fn put_all(out: &mut ByteWriter, entries: &[Entry<36, 60>]) {
    for (key, value) in entries {
        ops::encode(out, Op { collection: C, key, value: Some(value) });
    }
}

/// Tag, collection, lengths of key and value: 11 bytes.
fn put_all_fixed(out: &mut Vec<u8>, entries: &[Entry<36, 60>]) {
    for (key, value) in entries {
        out.push(1);
        out.extend_from_slice(&C.0.to_le_bytes());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
}

pub fn encode() -> Piece {
    let entries = Rc::new(entries(OPERATIONS));
    let fixed = Rc::clone(&entries);
    Piece::new(OPERATIONS)
        .way("operations", move || {
            let mut out = ByteWriter::new();
            put_all(&mut out, &entries);
            tail(out.as_slice())
        })
        .way("fixed lengths by hand", move || {
            let mut out = Vec::new();
            put_all_fixed(&mut out, &fixed);
            tail(&out)
        })
        .agreed()
}

fn tail(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.last_chunk().expect("eight bytes"))
}

pub fn decode() -> Piece {
    let entries = entries(OPERATIONS);
    let (mut out, mut fixed) = (ByteWriter::new(), Vec::new());
    put_all(&mut out, &entries);
    put_all_fixed(&mut fixed, &entries);
    let bytes = out.into_vec();
    Piece::new(OPERATIONS)
        .way("operations", move || {
            let (mut input, mut digest) = (ByteReader::new(&bytes), 0);
            while let Some(op) = ops::decode(&mut input).expect("an operation") {
                digest = operation(digest, op.collection.0, op.key, op.value.expect("a put"));
            }
            digest
        })
        .way("fixed lengths by hand", move || {
            let (mut rest, mut digest) = (fixed.as_slice(), 0);
            while let Some((fields, after)) = rest.split_first_chunk::<11>() {
                let [tag, a, b, c, d, key_low, key_high, e, f, g, h] = *fields;
                assert_eq!(tag, 1);
                let (key, after) = after.split_at(usize::from(u16::from_le_bytes([key_low, key_high])));
                let (value, after) = after.split_at(u32::from_le_bytes([e, f, g, h]) as usize);
                digest = operation(digest, u32::from_le_bytes([a, b, c, d]), key, value);
                rest = after;
            }
            digest
        })
        .agreed()
}

fn operation(digest: u64, collection: u32, key: &[u8], value: &[u8]) -> u64 {
    mixed(digest, u64::from(collection) ^ head(key) ^ tail(value))
}
