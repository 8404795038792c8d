//! Values as versioned records.
//!
//! | Bytes | Field | Meaning |
//! |---|---|---|
//! | 1 | version | 1 to 255; 0 is never valid, so that zeros are no record |
//! | rest | fields | one after the other, to the end |
//!
//! | Field | Bytes |
//! |---|---|
//! | `u8` to `u128`, `i8` to `i128` | little-endian |
//! | `u16`, `u32`, `u64` as [`Compact`] | varint, seven bits a byte, lowest first, shortest form only |
//! | `i16`, `i32`, `i64` as [`Compact`] | 0, -1, 1, -2, ... as the varint of 0, 1, 2, 3, ... |
//! | `bool` | 0 or 1 |
//! | `[u8; N]` | as they are |
//! | `Vec<T>`, `String` | their number as a varint, then the items |
//! | `Option<T>` | 0, or 1 and the value |
//! | tuples of 1 to 6 | one after the other |
//! | a nested record | its version, then its fields |
//! | a nested enum | the number of the variant, never 0; then nothing, a field, or a version and fields |
//!
//! A value has one encoding in each version. Bytes that follow the last field are an error, and a length is checked
//! against what remains before anything is allocated for it: decoding takes at most [`ITEM_EXPANSION_MAX`] times the
//! bytes of the value. An enum that is the whole value follows a version, which is 1.
//!
//! [`record!`](crate::record) makes the codec of a struct or an enum; [`Record`] can also be implemented by hand.

mod codec;
mod fields;
mod record;

#[cfg(test)]
mod tests;

use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};

pub use codec::{Codec, Compact, Plain};
pub use fields::{Field, ITEM_EXPANSION_MAX};
#[doc(hidden)]
pub use record::{known_version, least_variant, newest_version};

/// Why bytes are not a value of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// No version of the type has this number. A newer build may have written it.
    #[error("the value has version {found}, this build reads up to {newest}. Use the build that wrote it")]
    UnknownVersion {
        /// The version of the value.
        found: u8,
        /// The newest that this build knows.
        newest: u8,
    },
    /// No variant of an enum has this number. A newer build may have written it.
    #[error(
        "the value has a variant with the number {found}, which this build does not know. Use the build that wrote it"
    )]
    UnknownVariant {
        /// The number of the variant.
        found: u8,
    },
    /// A field is not one that the encoder writes.
    #[error("the value is malformed: {0}")]
    Malformed(&'static str),
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the end of the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

impl From<Malformed> for ValueError {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why.0)
    }
}

/// A type that can be a value.
///
/// By hand, when the versions differ in more than added fields:
///
/// ```
/// use op_engine::value::{Record, ValueError, ValueReader, ValueWriter};
///
/// /// Version 1 counted in whole coins.
/// #[derive(Debug, PartialEq)]
/// struct Balance {
///     satoshis: u64,
/// }
///
/// impl Record for Balance {
///     const VERSION: u8 = 2;
///
///     fn encode(&self, out: &mut ValueWriter) {
///         out.field(&self.satoshis);
///     }
///
///     fn decode(version: u8, input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
///         match version {
///             1 => Ok(Self { satoshis: u64::from(input.field::<u32>()?) * 100_000_000 }),
///             2 => Ok(Self { satoshis: input.field()? }),
///             found => Err(ValueError::UnknownVersion { found, newest: Self::VERSION }),
///         }
///     }
/// }
///
/// assert_eq!(Balance::decode_exact(&[1, 3, 0, 0, 0]), Ok(Balance { satoshis: 300_000_000 }));
/// ```
pub trait Record: Sized {
    /// The version that is written, 1 to 255.
    const VERSION: u8;

    /// Appends the fields, without the version.
    fn encode(&self, out: &mut ValueWriter);

    /// Takes the fields of a value of `version`.
    ///
    /// # Errors
    /// If there is no such version, or the fields are not what it writes.
    fn decode(version: u8, input: &mut ValueReader<'_>) -> Result<Self, ValueError>;

    /// The version and the fields as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = ValueWriter::new();
        out.record(self);
        out.into_vec()
    }

    /// The value that `bytes`, all of them, encode.
    ///
    /// # Errors
    /// If the bytes are not exactly one value of a known version.
    fn decode_exact(bytes: &[u8]) -> Result<Self, ValueError> {
        let mut input = ValueReader::new(bytes);
        let value = input.record()?;
        input.finish()?;
        Ok(value)
    }
}

/// Appends the fields of a value.
#[derive(Debug, Default)]
pub struct ValueWriter {
    bytes: ByteWriter,
}

impl ValueWriter {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes.into_vec()
    }

    /// A field in its plain form.
    pub fn field<T: Field>(&mut self, value: &T) {
        value.write(self);
    }

    /// A number as a varint.
    pub fn varint(&mut self, value: u64) {
        self.bytes.varint(value);
    }

    /// Bytes of a number that the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.raw(bytes);
    }

    /// Bytes with their number before them.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.bytes(bytes);
    }

    /// A nested record with its version before it.
    pub fn record<T: Record>(&mut self, value: &T) {
        const { assert!(T::VERSION > 0, "version 0 is never valid") };
        self.raw(&[T::VERSION]);
        value.encode(self);
    }
}

/// Takes the fields of a value from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct ValueReader<'a> {
    bytes: ByteReader<'a>,
}

impl<'a> ValueReader<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: ByteReader::new(bytes) }
    }

    /// How many bytes have not been read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.rest().len()
    }

    /// A field in its plain form.
    ///
    /// # Errors
    /// If it is cut off or malformed.
    pub fn field<T: Field>(&mut self) -> Result<T, ValueError> {
        T::read(self)
    }

    /// A number as a varint.
    ///
    /// # Errors
    /// If it is cut off or not in its shortest form.
    pub fn varint(&mut self) -> Result<u64, ValueError> {
        Ok(self.bytes.varint()?)
    }

    /// Exactly `N` bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        Ok(self.bytes.array()?)
    }

    /// Exactly `len` bytes.
    ///
    /// # Errors
    /// If fewer remain.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], ValueError> {
        Ok(self.bytes.raw(len)?)
    }

    /// Bytes with their number before them.
    ///
    /// # Errors
    /// If they are cut off.
    pub fn bytes(&mut self) -> Result<&'a [u8], ValueError> {
        Ok(self.bytes.bytes(usize::MAX)?)
    }

    /// All that remains.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.rest();
        self.bytes = ByteReader::new(&[]);
        rest
    }

    /// A number of items that take at least `item_bytes_min` bytes each. It is at most what the remaining bytes
    /// can hold.
    ///
    /// # Errors
    /// If it is cut off or larger.
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, ValueError> {
        Ok(self.bytes.count(usize::MAX, item_bytes_min)?)
    }

    /// A nested record with its version before it.
    ///
    /// # Errors
    /// If it is cut off, malformed or of an unknown version.
    pub fn record<T: Record>(&mut self) -> Result<T, ValueError> {
        let [version] = self.array()?;
        if version == 0 {
            return Err(ValueError::UnknownVersion { found: 0, newest: T::VERSION });
        }
        T::decode(version, self)
    }

    /// Nothing may remain.
    ///
    /// # Errors
    /// If something does.
    pub fn finish(self) -> Result<(), ValueError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(ValueError::Trailing { bytes }),
        }
    }
}
