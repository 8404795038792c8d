//! The payload of a commit: puts and deletes, in the form that the WAL keeps them.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 1 = put, 2 = delete; 0 never occurs |
//! | varint | collection |
//! | varint + n | key |
//! | varint + n | value, for a put |
//!
//! Operations follow each other to the end of the payload. They are encoded once, by the thread that made them; the
//! shard logs the bytes as they are.

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::ids::CollectionId;

/// Bytes of a key at most.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value at most.
pub const VALUE_BYTES_MAX: usize = 32 << 20;

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;

/// One change of one key. The value is absent for a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<'a> {
    /// The collection or index.
    pub collection: CollectionId,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value; `None` deletes.
    pub value: Option<&'a [u8]>,
}

/// Appends an operation to a payload.
pub fn encode(out: &mut ByteWriter, op: Op<'_>) {
    out.u8(if op.value.is_some() { TAG_PUT } else { TAG_DELETE });
    out.varint(u64::from(op.collection.0));
    out.bytes(op.key);
    if let Some(value) = op.value {
        out.bytes(value);
    }
}

/// Takes the next operation from a payload; `None` at its end.
///
/// # Errors
/// [`Malformed`] if the payload is not what [`encode`] writes.
pub fn decode<'a>(input: &mut ByteReader<'a>) -> Result<Option<Op<'a>>, Malformed> {
    if input.is_empty() {
        return Ok(None);
    }
    let tag = input.u8()?;
    let collection =
        u32::try_from(input.varint()?).map_err(|_| Malformed("a collection number is too large"))?;
    let key = input.bytes(KEY_BYTES_MAX)?;
    let value = match tag {
        TAG_PUT => Some(input.bytes(VALUE_BYTES_MAX)?),
        TAG_DELETE => None,
        _ => return Err(Malformed("unknown operation")),
    };
    Ok(Some(Op { collection: CollectionId(collection), key, value }))
}
