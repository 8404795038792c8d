//! The ways to write a field.

use op_engine_io::num::to_u64;

use super::fields::check_item;
use super::{Field, ValueError, ValueReader, ValueWriter};

/// A way to write a field of type `T`: the word after `as` in [`record!`](crate::record).
pub trait Codec<T> {
    /// The fewest bytes that a value takes.
    const BYTES_MIN: usize;

    /// Appends `value`.
    fn write(value: &T, out: &mut ValueWriter);

    /// Takes a value.
    ///
    /// # Errors
    /// If it is cut off or malformed.
    fn read(input: &mut ValueReader<'_>) -> Result<T, ValueError>;
}

/// As [`Field`] says: numbers in their full width. What a field without `as` gets.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl<T: Field> Codec<T> for Plain {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn write(value: &T, out: &mut ValueWriter) {
        value.write(out);
    }

    fn read(input: &mut ValueReader<'_>) -> Result<T, ValueError> {
        T::read(input)
    }
}

/// Numbers as varints, alone, in options and in vectors: those near zero take fewer bytes than their full width.
#[derive(Debug, Clone, Copy)]
pub struct Compact;

const TOO_LARGE: ValueError = ValueError::Malformed("a number exceeds its type");

macro_rules! compact_unsigned {
    ($($int:ty),+) => {$(
        impl Codec<$int> for Compact {
            const BYTES_MIN: usize = 1;

            fn write(value: &$int, out: &mut ValueWriter) {
                out.varint(u64::from(*value));
            }

            fn read(input: &mut ValueReader<'_>) -> Result<$int, ValueError> {
                <$int>::try_from(input.varint()?).map_err(|_| TOO_LARGE)
            }
        }
    )+};
}

compact_unsigned!(u16, u32, u64);

macro_rules! compact_signed {
    ($($int:ty),+) => {$(
        impl Codec<$int> for Compact {
            const BYTES_MIN: usize = 1;

            fn write(value: &$int, out: &mut ValueWriter) {
                out.varint(zigzag(i64::from(*value)));
            }

            fn read(input: &mut ValueReader<'_>) -> Result<$int, ValueError> {
                <$int>::try_from(unzigzag(input.varint()?)).map_err(|_| TOO_LARGE)
            }
        }
    )+};
}

compact_signed!(i16, i32, i64);

/// 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
fn zigzag(value: i64) -> u64 {
    // The sign in every bit, below the others.
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

impl<T> Codec<Option<T>> for Compact
where
    Self: Codec<T>,
{
    const BYTES_MIN: usize = 1;

    fn write(value: &Option<T>, out: &mut ValueWriter) {
        out.raw(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            <Self as Codec<T>>::write(value, out);
        }
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Option<T>, ValueError> {
        if bool::read(input)? { <Self as Codec<T>>::read(input).map(Some) } else { Ok(None) }
    }
}

impl<T> Codec<Vec<T>> for Compact
where
    Self: Codec<T>,
{
    const BYTES_MIN: usize = 1;

    fn write(values: &Vec<T>, out: &mut ValueWriter) {
        out.varint(to_u64(values.len()));
        for value in values {
            <Self as Codec<T>>::write(value, out);
        }
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Vec<T>, ValueError> {
        const { check_item::<T>(<Self as Codec<T>>::BYTES_MIN) };
        let count = input.count(<Self as Codec<T>>::BYTES_MIN)?;
        let mut values = Vec::with_capacity(count.min(input.remaining() / size_of::<T>().max(1)));
        for _ in 0..count {
            values.push(<Self as Codec<T>>::read(input)?);
        }
        Ok(values)
    }
}
