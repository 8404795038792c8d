//! The macro that makes an enum a field of records.

/// Defines an enum without fields that is a [`Field`](crate::value::Field): its code in one byte. 0 is never valid.
macro_rules! coded {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $code:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $crate::value::Field for $name {
            const BYTES_MIN: usize = 1;

            fn write(&self, out: &mut $crate::value::ValueWriter) {
                let code: u8 = match self {
                    $(Self::$variant => $code),+
                };
                out.field(&code);
            }

            fn read(
                input: &mut $crate::value::ValueReader<'_>,
            ) -> ::core::result::Result<Self, $crate::value::ValueError> {
                match input.field::<u8>()? {
                    $($code => Ok(Self::$variant),)+
                    _ => Err($crate::value::ValueError::Malformed(concat!("unknown code of ", stringify!($name)))),
                }
            }
        }
    };
}

pub(super) use coded;
