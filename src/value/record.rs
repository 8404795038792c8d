//! The macro that makes a struct and its codec.

/// Defines a struct that is a [`Record`](crate::value::Record), and a [`Field`](crate::value::Field) of other
/// records.
///
/// The fields stand below the version that brought them, in the order in which they are written. A new field goes
/// into a new version, with the value that it has in records of older ones. What is there is never changed.
///
/// ```
/// use op_engine::record;
/// use op_engine::value::{Record, ValueError};
///
/// record! {
///     /// An unspent output.
///     #[derive(Debug, Clone, PartialEq)]
///     pub struct Coin {
///         version 1 {
///             /// In satoshis. `as Compact`: small numbers take fewer bytes.
///             pub value: u64 as Compact,
///             pub script: Vec<u8>,
///         }
///         version 2 {
///             pub coinbase: bool = false,
///         }
///     }
/// }
///
/// let coin = Coin { value: 7, script: vec![0x51], coinbase: true };
/// assert_eq!(coin.to_bytes(), [2, 7, 1, 0x51, 1]);
/// assert_eq!(Coin::decode_exact(&coin.to_bytes()), Ok(coin.clone()));
///
/// // Written before there was a version 2.
/// assert_eq!(Coin::decode_exact(&[1, 7, 1, 0x51]), Ok(Coin { coinbase: false, ..coin }));
/// assert_eq!(Coin::decode_exact(&[3]), Err(ValueError::UnknownVersion { found: 3, newest: 2 }));
/// ```
///
/// Versions that do not ascend from 1 are refused when the program is compiled:
///
/// ```compile_fail
/// op_engine::record! {
///     struct Wrong {
///         version 2 { a: u8 = 0 }
///         version 1 { b: u8 }
///     }
/// }
/// ```
#[macro_export]
macro_rules! record {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            version 1 {
                $($(#[$first_meta:meta])* $first_visibility:vis $first:ident: $first_type:ty $(as $first_codec:ident)?),*
                $(,)?
            }
            $(version $version:literal {
                $(
                    $(#[$field_meta:meta])*
                    $field_visibility:vis $field:ident: $type:ty $(as $codec:ident)? = $default:expr
                ),*
                $(,)?
            })*
        }
    ) => {
        $(#[$meta])*
        $visibility struct $name {
            $($(#[$first_meta])* $first_visibility $first: $first_type,)*
            $($($(#[$field_meta])* $field_visibility $field: $type,)*)*
        }

        impl $crate::value::Record for $name {
            const VERSION: u8 = $crate::value::newest_version(&[1 $(, $version)*]);

            fn encode(&self, out: &mut $crate::value::ValueWriter) {
                $(<$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::write(&self.$first, out);)*
                $($(<$crate::record!(@codec $($codec)?) as $crate::value::Codec<$type>>::write(&self.$field, out);)*)*
            }

            fn decode(
                version: u8,
                input: &mut $crate::value::ValueReader<'_>,
            ) -> ::core::result::Result<Self, $crate::value::ValueError> {
                if ![1u8 $(, $version)*].contains(&version) {
                    return ::core::result::Result::Err($crate::value::ValueError::UnknownVersion {
                        found: version,
                        newest: <Self as $crate::value::Record>::VERSION,
                    });
                }
                $(let $first = <$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::read(input)?;)*
                $($(let $field = if version >= $version {
                    <$crate::record!(@codec $($codec)?) as $crate::value::Codec<$type>>::read(input)?
                } else {
                    $default
                };)*)*
                ::core::result::Result::Ok(Self { $($first,)* $($($field,)*)* })
            }
        }

        impl $crate::value::Field for $name {
            // The version, and what version 1 takes: later versions take more.
            const BYTES_MIN: usize =
                1 $(+ <$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::BYTES_MIN)*;

            fn write(&self, out: &mut $crate::value::ValueWriter) {
                out.record(self);
            }

            fn read(
                input: &mut $crate::value::ValueReader<'_>,
            ) -> ::core::result::Result<Self, $crate::value::ValueError> {
                input.record()
            }
        }
    };
    (@codec) => { $crate::value::Plain };
    (@codec Compact) => { $crate::value::Compact };
    (@codec $codec:ident) => { $codec };
}

/// The last of the versions of a record, which must ascend.
///
/// # Panics
/// While compiling, if they do not.
#[doc(hidden)]
#[must_use]
pub const fn newest_version(versions: &[u8]) -> u8 {
    let mut newest = 0;
    let mut rest = versions;
    while let [version, after @ ..] = rest {
        assert!(*version > newest, "the versions of a record must ascend");
        newest = *version;
        rest = after;
    }
    newest
}
