//! Reading and writing the fields of on-disk formats. Numbers are little-endian.

use op_engine_io::num::{to_u64, to_usize};

/// Why bytes are not what they should be. The caller adds where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

const TOO_SHORT: Malformed = Malformed("it ends too early");

/// Appends fields to a byte vector.
#[derive(Debug, Default)]
pub struct ByteWriter {
    out: Vec<u8>,
}

impl ByteWriter {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A number in 1 to 10 bytes, seven bits each, lowest first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
    }

    /// A length as a varint, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(to_u64(bytes.len()));
        self.raw(bytes);
    }
}

impl From<Vec<u8>> for ByteWriter {
    fn from(out: Vec<u8>) -> Self {
        Self { out }
    }
}

/// Takes fields from the front of a byte slice. Every length is checked against what remains before it is used.
#[derive(Debug, Clone)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Exactly `len` bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    /// Exactly `N` bytes as an array.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TOO_SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// If none remains.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A varint, in its shortest form only.
    ///
    /// # Errors
    /// If it is cut off, longer than it need be, or above 64 bits.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("a number exceeds 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Malformed("a number is longer than it need be"));
                }
                return Ok(value);
            }
        }
        Err(Malformed("a number exceeds 64 bits"))
    }

    /// A length-prefixed byte string of at most `len_max` bytes.
    ///
    /// # Errors
    /// If it is cut off or longer.
    pub fn bytes(&mut self, len_max: usize) -> Result<&'a [u8], Malformed> {
        let len = to_usize(self.varint()?);
        if len > len_max {
            return Err(Malformed("a length exceeds its limit"));
        }
        self.raw(len)
    }

    /// A count of items of at least `item_bytes_min` bytes each: at most `count_max`, and never more than the
    /// remaining bytes could hold, so that it is safe to allocate for.
    ///
    /// # Errors
    /// If it is cut off or larger.
    pub fn count(&mut self, count_max: usize, item_bytes_min: usize) -> Result<usize, Malformed> {
        let count = to_usize(self.varint()?);
        if count > count_max || count > self.rest.len() / item_bytes_min.max(1) {
            return Err(Malformed("a count exceeds its limit"));
        }
        Ok(count)
    }

    /// Nothing may remain.
    ///
    /// # Errors
    /// If something does.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes follow the end")) }
    }
}
