//! Keys whose bytes sort like the values they came from.
//!
//! | Type | Bytes |
//! |---|---|
//! | `u8` to `u128` | big-endian |
//! | `i8` to `i128` | big-endian, sign bit flipped, so that negative numbers come first |
//! | `bool` | 0 or 1 |
//! | `[u8; N]` | as they are |
//! | `Vec<u8>`, `String` | each byte 0 as `00 ff`, then `00 00` |
//! | `Option<T>` | 0, or 1 and the value |
//! | tuples of 1 to 6 | one component after the other |
//! | [`Desc<T>`] | the complement of every byte of the value |
//!
//! No encoding is the beginning of another one of the same type. So components can follow each other without
//! lengths, and the order of the whole is the order of the components from left to right. Every value has one
//! encoding and every other byte string is an error, so equal keys are equal bytes.
//!
//! ```
//! use op_engine::key::{Desc, Key, prefix_range};
//!
//! // All events of a contract, the newest first.
//! let key = ([7u8; 32], Desc(850_000u64), 3u32);
//! let bytes = key.to_bytes();
//! assert!(bytes < ([7u8; 32], Desc(849_999u64), 0u32).to_bytes());
//! assert_eq!(<([u8; 32], Desc<u64>, u32)>::decode_exact(&bytes), Ok(key));
//!
//! let (start, end) = prefix_range(&key.leading_bytes(1));
//! assert!(start <= bytes && end.is_some_and(|end| bytes < end));
//! ```

mod types;

#[cfg(test)]
mod tests;

pub use types::Desc;

/// Why bytes are not a key of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes end inside a component.
    #[error("the key ends too early")]
    TooShort,
    /// Bytes follow the last component.
    #[error("{bytes} bytes follow the end of the key")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A component is not one that the encoder writes.
    #[error("the key is not in its only valid form: {0}")]
    NotCanonical(&'static str),
}

/// A type that can be a key, or a component of one.
///
/// An implementation for a type of your own delegates to the components it is made of:
///
/// ```
/// use op_engine::key::{Key, KeyError, KeyReader, KeyWriter};
///
/// struct Slot {
///     contract: [u8; 32],
///     pointer: u64,
/// }
///
/// impl Key for Slot {
///     const COMPONENTS: usize = 2;
///
///     fn encode_leading(&self, components: usize, out: &mut KeyWriter) {
///         if components > 0 {
///             self.contract.encode(out);
///         }
///         if components > 1 {
///             self.pointer.encode(out);
///         }
///     }
///
///     fn decode(input: &mut KeyReader<'_>) -> Result<Self, KeyError> {
///         Ok(Self { contract: Key::decode(input)?, pointer: Key::decode(input)? })
///     }
/// }
/// ```
pub trait Key: Sized {
    /// How many components it has. A partition is a number of leading ones.
    const COMPONENTS: usize;

    /// Appends its first `components` components; all of them if there are not so many.
    fn encode_leading(&self, components: usize, out: &mut KeyWriter);

    /// Takes one key from the front of `input`.
    ///
    /// # Errors
    /// If the bytes are not what [`encode`](Self::encode) writes.
    fn decode(input: &mut KeyReader<'_>) -> Result<Self, KeyError>;

    /// What the key is made of, for people: `(bytes32, desc u64)`. A store keeps it, and refuses to be opened with a
    /// key of another shape. A type of your own should name its components, unless it is one thing.
    fn shape() -> String {
        format!("a kind of its own, of {} components", Self::COMPONENTS)
    }

    /// Appends the whole key.
    fn encode(&self, out: &mut KeyWriter) {
        self.encode_leading(Self::COMPONENTS, out);
    }

    /// The whole key as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        self.leading_bytes(Self::COMPONENTS)
    }

    /// The first `components` components as bytes: the beginning of every key that has the same ones.
    fn leading_bytes(&self, components: usize) -> Vec<u8> {
        let mut out = KeyWriter::new();
        self.encode_leading(components, &mut out);
        out.into_vec()
    }

    /// The key that `bytes`, all of them, encode.
    ///
    /// # Errors
    /// If the bytes are not exactly one key.
    fn decode_exact(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut input = KeyReader::new(bytes);
        let key = Self::decode(&mut input)?;
        input.finish()?;
        Ok(key)
    }
}

/// The keys that begin with `prefix`: from the first bound, included, to the second, excluded. No second bound
/// means to the end.
#[must_use]
pub fn prefix_range(prefix: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return (prefix.to_vec(), Some(end));
        }
    }
    (prefix.to_vec(), None)
}

/// Appends the components of a key.
#[derive(Debug, Default)]
pub struct KeyWriter {
    out: Vec<u8>,
    /// Applied to every byte: 0, or all ones inside a [`Desc`].
    mask: u8,
}

impl KeyWriter {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that goes on after the bytes of `out`.
    #[must_use]
    pub fn append_to(out: Vec<u8>) -> Self {
        Self { out, mask: 0 }
    }

    /// What was written.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }

    /// Bytes of a fixed number, as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        if self.mask == 0 {
            self.out.extend_from_slice(bytes);
        } else {
            self.out.extend(bytes.iter().map(|byte| byte ^ self.mask));
        }
    }

    /// Bytes of any number, escaped and terminated.
    pub fn escaped(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 2);
        for (index, part) in bytes.split(|byte| *byte == 0).enumerate() {
            if index > 0 {
                self.raw(&[0, 0xff]);
            }
            self.raw(part);
        }
        self.raw(&[0, 0]);
    }

    /// Writes in reversed order what `write` writes.
    pub fn reversed(&mut self, write: impl FnOnce(&mut Self)) {
        self.mask = !self.mask;
        write(self);
        self.mask = !self.mask;
    }
}

/// Takes the components of a key from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct KeyReader<'a> {
    rest: &'a [u8],
    mask: u8,
}

impl<'a> KeyReader<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, mask: 0 }
    }

    /// Exactly `N` bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(KeyError::TooShort)?;
        self.rest = rest;
        Ok(head.map(|byte| byte ^ self.mask))
    }

    /// Bytes of any number, as [`KeyWriter::escaped`] writes them.
    ///
    /// # Errors
    /// If they are not terminated, or a byte 0 is followed by another byte than the escape or the terminator.
    pub fn escaped(&mut self) -> Result<Vec<u8>, KeyError> {
        let mut out = Vec::new();
        loop {
            let [byte] = self.array()?;
            if byte != 0 {
                out.push(byte);
                continue;
            }
            match self.array()? {
                [0] => return Ok(out),
                [0xff] => out.push(0),
                _ => return Err(KeyError::NotCanonical("a zero byte is not escaped")),
            }
        }
    }

    /// Reads in reversed order what `read` reads.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn reversed<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        self.mask = !self.mask;
        let value = read(self);
        self.mask = !self.mask;
        value
    }

    /// Nothing may remain.
    ///
    /// # Errors
    /// If something does.
    pub fn finish(self) -> Result<(), KeyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(KeyError::Trailing { bytes: self.rest.len() }) }
    }
}
