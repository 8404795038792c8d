//! The types that are keys as they come.

use std::cmp::Ordering;

use super::{Key, KeyError, KeyReader, KeyWriter};

/// A component in reversed order: the largest value first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Desc<T>(pub T);

impl<T: Ord> Ord for Desc<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl<T: PartialOrd> PartialOrd for Desc<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        other.0.partial_cmp(&self.0)
    }
}

/// The methods of a key that is one component: `$shape` names it, `$write` appends it, `$read` takes it.
macro_rules! single_component {
    ($shape:expr, |$value:ident, $out:ident| $write:expr, |$input:ident| $read:expr) => {
        const COMPONENTS: usize = 1;

        fn shape() -> String {
            $shape
        }

        fn encode_leading(&self, components: usize, $out: &mut KeyWriter) {
            let $value = self;
            if components > 0 {
                $write;
            }
        }

        fn decode($input: &mut KeyReader<'_>) -> Result<Self, KeyError> {
            $read
        }
    };
}

macro_rules! unsigned_keys {
    ($($int:ty),+) => {$(
        impl Key for $int {
            single_component!(
                stringify!($int).to_owned(),
                |value, out| out.raw(&value.to_be_bytes()),
                |input| Ok(Self::from_be_bytes(input.array()?))
            );
        }
    )+};
}

unsigned_keys!(u8, u16, u32, u64, u128);

macro_rules! signed_keys {
    ($($int:ty),+) => {$(
        impl Key for $int {
            single_component!(
                stringify!($int).to_owned(),
                // The minimum has only the sign bit set.
                |value, out| out.raw(&(value ^ Self::MIN).to_be_bytes()),
                |input| Ok(Self::from_be_bytes(input.array()?) ^ Self::MIN)
            );
        }
    )+};
}

signed_keys!(i8, i16, i32, i64, i128);

impl Key for bool {
    single_component!("bool".to_owned(), |value, out| out.raw(&[u8::from(*value)]), |input| match input
        .array()?
    {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(KeyError::NotCanonical("a truth value is neither 0 nor 1")),
    });
}

impl<const N: usize> Key for [u8; N] {
    single_component!(format!("bytes{N}"), |value, out| out.raw(value), |input| input.array());
}

impl Key for Vec<u8> {
    single_component!("bytes".to_owned(), |value, out| out.escaped(value), |input| input.escaped());
}

impl Key for String {
    single_component!("text".to_owned(), |value, out| out.escaped(value.as_bytes()), |input| {
        Self::from_utf8(input.escaped()?).map_err(|_| KeyError::NotCanonical("a text is not UTF-8"))
    });
}

impl<T: Key> Key for Option<T> {
    single_component!(
        format!("option {}", T::shape()),
        |value, out| match value {
            None => out.raw(&[0]),
            Some(value) => {
                out.raw(&[1]);
                value.encode(out);
            }
        },
        |input| match input.array()? {
            [0] => Ok(None),
            [1] => T::decode(input).map(Some),
            _ => Err(KeyError::NotCanonical("an option is neither 0 nor 1")),
        }
    );
}

impl<T: Key> Key for Desc<T> {
    single_component!(
        format!("desc {}", T::shape()),
        |value, out| out.reversed(|out| value.0.encode(out)),
        |input| input.reversed(T::decode).map(Desc)
    );
}

macro_rules! tuple_key {
    ($count:literal: $($name:ident $index:tt),+) => {
        impl<$($name: Key),+> Key for ($($name,)+) {
            const COMPONENTS: usize = $count;

            fn shape() -> String {
                format!("({})", [$($name::shape()),+].join(", "))
            }

            fn encode_leading(&self, components: usize, out: &mut KeyWriter) {
                $(
                    if components > $index {
                        self.$index.encode(out);
                    }
                )+
            }

            fn decode(input: &mut KeyReader<'_>) -> Result<Self, KeyError> {
                Ok(($($name::decode(input)?,)+))
            }
        }
    };
}

tuple_key!(1: A 0);
tuple_key!(2: A 0, B 1);
tuple_key!(3: A 0, B 1, C 2);
tuple_key!(4: A 0, B 1, C 2, D 3);
tuple_key!(5: A 0, B 1, C 2, D 3, E 4);
tuple_key!(6: A 0, B 1, C 2, D 3, E 4, F 5);
