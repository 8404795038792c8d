//! When the data of a collection moves to the cold target.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 1 never, 2 after confirmations, 3 by age in runs; never 0 |
//! | 4 | how many confirmations, or runs that stay; 0 for never |
//! | 1 | level of zstd |
//! | 1 | 1 without a dictionary, 2 with one; never 0 |

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::catalog::{History, Layout};
use crate::segment::Compression;
use crate::visibility::Scope;

/// When data moves to the cold target. Only what no reorg can reach any more ever does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColdAfter {
    /// It stays on the store's own device.
    Never,
    /// Once the newest block that is in a file has so many blocks above it. Fewer than the reorg window count as that.
    Confirmations(u32),
    /// Once so many newer runs of the collection are final. A run is what flushes and merges have written in order.
    Runs(u32),
}

/// When the data of a collection moves to the cold target, and how it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TierPolicy {
    /// When.
    pub after: ColdAfter,
    /// How.
    pub compression: Compression,
}

/// What moves of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movable {
    /// Whole runs: keys are written once, in the order of blocks.
    Runs,
    /// Versions that a newer one has taken the place of; the newest of every key stays.
    OldVersions,
    /// Nothing: what is old is read as often as what is new, or a reorg takes it all.
    Nothing,
}

impl Movable {
    /// Of a collection of this kind.
    #[must_use]
    pub fn of(scope: Scope, history: History, layout: Layout) -> Self {
        match (scope, history, layout) {
            (Scope::Cleared, ..) | (_, History::Window, Layout::Mutable) => Self::Nothing,
            (_, _, Layout::AppendOnly) => Self::Runs,
            (_, History::All, Layout::Mutable) => Self::OldVersions,
        }
    }
}

impl TierPolicy {
    /// Never.
    pub const HOT: Self = Self { after: ColdAfter::Never, compression: Compression::DEFAULT };

    /// After so many confirmations, packed as usual.
    #[must_use]
    pub const fn after_confirmations(confirmations: u32) -> Self {
        Self { after: ColdAfter::Confirmations(confirmations), compression: Compression::DEFAULT }
    }

    /// Writes the policy as the table of this module says.
    pub fn encode(&self, out: &mut ByteWriter) {
        let (code, count) = match self.after {
            ColdAfter::Never => (1, 0),
            ColdAfter::Confirmations(confirmations) => (2, confirmations),
            ColdAfter::Runs(runs) => (3, runs),
        };
        out.u8(code);
        out.u32(count);
        out.u8(self.compression.level.unsigned_abs());
        out.u8(if self.compression.dictionary { 2 } else { 1 });
    }

    /// Reads back what [`TierPolicy::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn decode(input: &mut ByteReader<'_>) -> Result<Self, Malformed> {
        let after = match (input.u8()?, input.u32()?) {
            (1, 0) => ColdAfter::Never,
            (2, confirmations) => ColdAfter::Confirmations(confirmations),
            (3, runs) => ColdAfter::Runs(runs),
            _ => return Err(Malformed("unknown tier policy")),
        };
        let level = i8::try_from(input.u8()?).ok().filter(|level| Compression::LEVELS.contains(level));
        let level = level.ok_or(Malformed("unknown level of compression"))?;
        let dictionary = match input.u8()? {
            1 => false,
            2 => true,
            _ => return Err(Malformed("unknown kind of compression")),
        };
        Ok(Self { after, compression: Compression { level, dictionary } })
    }
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self::HOT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(policy: TierPolicy) -> Vec<u8> {
        let mut out = ByteWriter::new();
        policy.encode(&mut out);
        out.into_vec()
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_have_one_form(bytes in prop::collection::vec(0u8..5, 7)) {
            if let Ok(policy) = TierPolicy::decode(&mut ByteReader::new(&bytes)) {
                prop_assert_eq!(encoded(policy), bytes);
            }
        }
    }

    #[test]
    fn policies_come_back() {
        for after in [ColdAfter::Never, ColdAfter::Confirmations(100), ColdAfter::Runs(7)] {
            for level in [1, 19] {
                let policy = TierPolicy { after, compression: Compression { level, dictionary: level == 1 } };
                assert_eq!(TierPolicy::decode(&mut ByteReader::new(&encoded(policy))), Ok(policy));
            }
        }
        TierPolicy::decode(&mut ByteReader::new(&[0; 7])).unwrap_err();
    }
}
