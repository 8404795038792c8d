//! The types that are fields of a record, or whole values, as they come.

use op_engine_io::num::to_u64;

use super::{Record, ValueError, ValueReader, ValueWriter};

/// Bytes of memory that an item of a vector may take for each byte that it takes at least in a value.
///
/// It bounds what a value can make a reader allocate: 128 times its bytes. Types beyond it are refused when the program
/// is compiled. Large arrays behind an option are the usual reason; as byte strings they take what they need.
pub const ITEM_EXPANSION_MAX: usize = 128;

/// A type that can be a field of a record.
pub trait Field: Sized {
    /// The fewest bytes that a value takes. It bounds how many items a count may announce.
    const BYTES_MIN: usize;

    /// Appends it.
    fn write(&self, out: &mut ValueWriter);

    /// Takes it.
    ///
    /// # Errors
    /// If it is cut off or malformed.
    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError>;

    /// Appends several, without their number. Bytes have a faster way than one by one.
    fn write_all(items: &[Self], out: &mut ValueWriter) {
        for item in items {
            item.write(out);
        }
    }

    /// Takes `count` of them.
    ///
    /// # Errors
    /// If one is cut off or malformed.
    fn read_all(count: usize, input: &mut ValueReader<'_>) -> Result<Vec<Self>, ValueError> {
        // An item may be larger in memory than in bytes: what the count announces is allocated when it comes.
        let affordable = input.remaining() / size_of::<Self>().max(1);
        let mut items = Vec::with_capacity(count.min(affordable));
        for _ in 0..count {
            items.push(Self::read(input)?);
        }
        Ok(items)
    }
}

/// Refuses types whose items cannot be counted, or would take too much memory.
pub(super) const fn check_item<T>(bytes_min: usize) {
    assert!(bytes_min > 0, "items without bytes could not be counted against what remains");
    assert!(size_of::<T>() / ITEM_EXPANSION_MAX <= bytes_min, "an item takes too much memory for its bytes");
}

/// A type that is the same as a field and as a whole value: its version is 1.
macro_rules! value_of_one_field {
    ($([$($generics:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($generics)*> Record for $type {
            const VERSION: u8 = 1;

            fn encode(&self, out: &mut ValueWriter) {
                self.write(out);
            }

            fn decode(version: u8, input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
                only_version_1(version)?;
                Self::read(input)
            }
        }
    )+};
}

fn only_version_1(found: u8) -> Result<(), ValueError> {
    if found == 1 { Ok(()) } else { Err(ValueError::UnknownVersion { found, newest: 1 }) }
}

macro_rules! number_fields {
    ($($int:ty),+) => {$(
        impl Field for $int {
            const BYTES_MIN: usize = size_of::<Self>();

            fn write(&self, out: &mut ValueWriter) {
                out.raw(&self.to_le_bytes());
            }

            fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
                Ok(Self::from_le_bytes(input.array()?))
            }
        }

        value_of_one_field!([] $int);
    )+};
}

number_fields!(u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl Field for u8 {
    const BYTES_MIN: usize = 1;

    fn write(&self, out: &mut ValueWriter) {
        out.raw(&[*self]);
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        let [byte] = input.array()?;
        Ok(byte)
    }

    fn write_all(items: &[Self], out: &mut ValueWriter) {
        out.raw(items);
    }

    fn read_all(count: usize, input: &mut ValueReader<'_>) -> Result<Vec<Self>, ValueError> {
        Ok(input.raw(count)?.to_vec())
    }
}

impl Field for bool {
    const BYTES_MIN: usize = 1;

    fn write(&self, out: &mut ValueWriter) {
        out.raw(&[u8::from(*self)]);
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        match input.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ValueError::Malformed("a truth value is neither 0 nor 1")),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    const BYTES_MIN: usize = N;

    fn write(&self, out: &mut ValueWriter) {
        out.raw(self);
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        input.array()
    }
}

impl<T: Field> Field for Vec<T> {
    // Depends on the items', so that the compiler refuses a type that contains itself.
    const BYTES_MIN: usize = {
        check_item::<T>(T::BYTES_MIN);
        1
    };

    fn write(&self, out: &mut ValueWriter) {
        const { check_item::<T>(T::BYTES_MIN) };
        out.varint(to_u64(self.len()));
        T::write_all(self, out);
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        const { check_item::<T>(T::BYTES_MIN) };
        let count = input.count(T::BYTES_MIN)?;
        T::read_all(count, input)
    }
}

impl Field for String {
    const BYTES_MIN: usize = 1;

    fn write(&self, out: &mut ValueWriter) {
        out.bytes(self.as_bytes());
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        match str::from_utf8(input.bytes()?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ValueError::Malformed("a text is not UTF-8")),
        }
    }
}

impl<T: Field> Field for Option<T> {
    // Depends on the value's, as that of a vector does.
    const BYTES_MIN: usize = {
        let _value = T::BYTES_MIN;
        1
    };

    fn write(&self, out: &mut ValueWriter) {
        match self {
            None => out.raw(&[0]),
            Some(value) => {
                out.raw(&[1]);
                value.write(out);
            }
        }
    }

    fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        match input.array()? {
            [0] => Ok(None),
            [1] => T::read(input).map(Some),
            _ => Err(ValueError::Malformed("an option is neither 0 nor 1")),
        }
    }
}

macro_rules! tuple_field {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Field),+> Field for ($($name,)+) {
            const BYTES_MIN: usize = 0 $(+ $name::BYTES_MIN)+;

            fn write(&self, out: &mut ValueWriter) {
                $(self.$index.write(out);)+
            }

            fn read(input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
                Ok(($($name::read(input)?,)+))
            }
        }

        value_of_one_field!([$($name: Field),+] ($($name,)+));
    };
}

tuple_field!(A 0);
tuple_field!(A 0, B 1);
tuple_field!(A 0, B 1, C 2);
tuple_field!(A 0, B 1, C 2, D 3);
tuple_field!(A 0, B 1, C 2, D 3, E 4);
tuple_field!(A 0, B 1, C 2, D 3, E 4, F 5);

value_of_one_field!([] u8, [] bool, [const N: usize] [u8; N], [T: Field] Option<T>);

/// A value that is bytes needs no length: they go to the end.
impl Record for Vec<u8> {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut ValueWriter) {
        out.raw(self);
    }

    fn decode(version: u8, input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        only_version_1(version)?;
        Ok(input.rest().to_vec())
    }
}

/// A value that is a text needs no length: it goes to the end.
impl Record for String {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut ValueWriter) {
        out.raw(self.as_bytes());
    }

    fn decode(version: u8, input: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        only_version_1(version)?;
        match str::from_utf8(input.rest()) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ValueError::Malformed("a text is not UTF-8")),
        }
    }
}

/// The set of keys is all there is: the value is its version only.
impl Record for () {
    const VERSION: u8 = 1;

    fn encode(&self, _: &mut ValueWriter) {}

    fn decode(version: u8, _: &mut ValueReader<'_>) -> Result<Self, ValueError> {
        only_version_1(version)
    }
}
