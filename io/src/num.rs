//! Conversions between sizes that are lossless on the only platforms we build for: 64-bit ones.

const _: () = assert!(usize::BITS == 64, "OP-Engine needs a 64-bit platform");

/// A length or index from a file or message as a length in memory. Lossless, because `usize` has 64 bits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// A length in memory as a number for a file or message. Lossless, because `usize` has 64 bits.
#[must_use]
pub const fn to_u64(value: usize) -> u64 {
    value as u64
}
