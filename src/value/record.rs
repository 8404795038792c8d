//! The macro that makes a struct or an enum and its codec.

use super::ValueError;

/// Defines a struct or an enum that is a [`Record`](crate::value::Record), and a [`Field`](crate::value::Field) of
/// other records.
///
/// # Structs
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
///         version 1 { a: u8 }
///         version 3 { b: u8 = 0 }
///         version 2 { c: u8 = 0 }
///     }
/// }
/// ```
///
/// # Enums
///
/// Each variant has a number from 1 to 255, which is what is written. After it comes nothing, one field, or fields
/// below the versions that brought them. Variants can be added, and renamed; the number of one that is removed is
/// never given to another.
///
/// ```
/// use op_engine::record;
/// use op_engine::value::{Record, ValueError};
///
/// record! {
///     /// What a transaction does.
///     #[derive(Debug, Clone, PartialEq)]
///     pub enum Action {
///         1 = Transfer,
///         /// The bytecode.
///         2 = Deploy(Vec<u8>),
///         3 = Call {
///             version 1 { contract: [u8; 2], gas: u64 as Compact }
///             version 2 { calldata: Vec<u8> = Vec::new() }
///         },
///     }
/// }
///
/// assert_eq!(Action::Transfer.to_bytes(), [1, 1]);
/// assert_eq!(Action::Deploy(vec![7]).to_bytes(), [1, 2, 1, 7]);
/// let call = Action::Call { contract: [8, 9], gas: 5, calldata: vec![] };
/// assert_eq!(call.to_bytes(), [1, 3, 2, 8, 9, 5, 0]);
///
/// // A call from before there was a version 2, and a variant of a newer build.
/// assert_eq!(Action::decode_exact(&[1, 3, 1, 8, 9, 5]), Ok(call));
/// assert_eq!(Action::decode_exact(&[1, 4]), Err(ValueError::UnknownVariant { found: 4 }));
/// ```
///
/// Two variants with one number are refused when the program is compiled, and so is the number 0:
///
/// ```compile_fail
/// op_engine::record! { enum Wrong { 1 = A, 1 = B } }
/// ```
/// ```compile_fail
/// op_engine::record! { enum Wrong { 0 = A } }
/// ```
///
/// # Nesting
///
/// Structs and enums are fields of each other, alone, in options, vectors and tuples. A type that contains itself is
/// refused when the program is compiled, so that no bytes can make a reader descend without end:
///
/// ```compile_fail
/// op_engine::record! { struct Tree { version 1 { label: u8, branches: Option<Vec<Tree>> } } }
/// ```
///
/// So is a vector of items that take much more memory than bytes
/// ([`ITEM_EXPANSION_MAX`](crate::value::ITEM_EXPANSION_MAX)):
///
/// ```compile_fail
/// op_engine::record! { struct Sparse { version 1 { pages: Vec<Option<[u8; 4096]>> } } }
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

        const _: (u8, usize) =
            (<$name as $crate::value::Record>::VERSION, <$name as $crate::value::Field>::BYTES_MIN);

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
                $crate::value::known_version(version, &[1 $(, $version)*])?;
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
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $(
                $(#[$variant_meta:meta])*
                $number:literal = $variant:ident
                $(($payload:ty $(as $payload_codec:ident)?))?
                $({
                    version 1 {
                        $($(#[$first_meta:meta])* $first:ident: $first_type:ty $(as $first_codec:ident)?),*
                        $(,)?
                    }
                    $(version $version:literal {
                        $($(#[$field_meta:meta])* $field:ident: $type:ty $(as $codec:ident)? = $default:expr),*
                        $(,)?
                    })*
                })?
            ),+
            $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility enum $name {
            $(
                $(#[$variant_meta])*
                $variant $(($payload))? $({
                    $($(#[$first_meta])* $first: $first_type,)*
                    $($($(#[$field_meta])* $field: $type,)*)*
                })?,
            )+
        }

        const _: usize = <$name as $crate::value::Field>::BYTES_MIN;

        impl $crate::value::Field for $name {
            // The number, and what the least variant takes in its version 1.
            const BYTES_MIN: usize = 1 + $crate::value::least_variant(&[$((
                $number,
                0 $(+ <$crate::record!(@codec $($payload_codec)?) as $crate::value::Codec<$payload>>::BYTES_MIN)?
                $(+ 1 $(+ <$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::BYTES_MIN)*)?
            )),+]);

            fn write(&self, out: &mut $crate::value::ValueWriter) {
                match self {$(
                    Self::$variant
                    $(($crate::record!(@second $payload, payload)))?
                    $({ $($first,)* $($($field,)*)* })? => {
                        out.raw(&[$number]);
                        $(<$crate::record!(@codec $($payload_codec)?) as $crate::value::Codec<$payload>>::write(payload, out);)?
                        $(
                            out.raw(&[const { $crate::value::newest_version(&[1 $(, $version)*]) }]);
                            $(<$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::write($first, out);)*
                            $($(<$crate::record!(@codec $($codec)?) as $crate::value::Codec<$type>>::write($field, out);)*)*
                        )?
                    }
                )+}
            }

            fn read(
                input: &mut $crate::value::ValueReader<'_>,
            ) -> ::core::result::Result<Self, $crate::value::ValueError> {
                let [number] = input.array()?;
                match number {
                    $($number => {
                        $(
                            let [version] = input.array()?;
                            $crate::value::known_version(version, &[1 $(, $version)*])?;
                            $(let $first = <$crate::record!(@codec $($first_codec)?) as $crate::value::Codec<$first_type>>::read(input)?;)*
                            $($(let $field = if version >= $version {
                                <$crate::record!(@codec $($codec)?) as $crate::value::Codec<$type>>::read(input)?
                            } else {
                                $default
                            };)*)*
                        )?
                        ::core::result::Result::Ok(
                            Self::$variant
                            $((<$crate::record!(@codec $($payload_codec)?) as $crate::value::Codec<$payload>>::read(input)?))?
                            $({ $($first,)* $($($field,)*)* })?
                        )
                    })+
                    found => ::core::result::Result::Err($crate::value::ValueError::UnknownVariant { found }),
                }
            }
        }

        // As a whole value it has one version: variants are added without another one.
        impl $crate::value::Record for $name {
            const VERSION: u8 = 1;

            fn encode(&self, out: &mut $crate::value::ValueWriter) {
                $crate::value::Field::write(self, out);
            }

            fn decode(
                version: u8,
                input: &mut $crate::value::ValueReader<'_>,
            ) -> ::core::result::Result<Self, $crate::value::ValueError> {
                $crate::value::known_version(version, &[1])?;
                <Self as $crate::value::Field>::read(input)
            }
        }
    };
    (@second $first:ty, $second:ident) => { $second };
    (@codec) => { $crate::value::Plain };
    (@codec Compact) => { $crate::value::Compact };
    (@codec $codec:ident) => { $codec };
}

/// Refuses a version that is not among `versions`, which end with the newest.
///
/// # Errors
/// [`ValueError::UnknownVersion`].
#[doc(hidden)]
pub fn known_version(found: u8, versions: &[u8]) -> Result<(), ValueError> {
    if versions.contains(&found) {
        return Ok(());
    }
    Err(ValueError::UnknownVersion { found, newest: versions.last().copied().unwrap_or_default() })
}

/// The fewest bytes of all variants, each given as its number and its bytes.
///
/// # Panics
/// While compiling, if a number is 0 or occurs twice.
#[doc(hidden)]
#[must_use]
pub const fn least_variant(variants: &[(u8, usize)]) -> usize {
    let mut least = usize::MAX;
    let mut rest = variants;
    while let [(number, bytes_min), after @ ..] = rest {
        assert!(*number > 0, "the number 0 is never valid");
        let mut others = after;
        while let [(other, _), after @ ..] = others {
            assert!(*number != *other, "two variants have the same number");
            others = after;
        }
        if *bytes_min < least {
            least = *bytes_min;
        }
        rest = after;
    }
    least
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
