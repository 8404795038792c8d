//! How the memory budget is shared out.

use crate::error::Result;

use super::line::{Bytes, Line};
use super::overrides::{Overrides, setting};

const MEMTABLE_PERCENT: u64 = 40;
const READ_CACHE_PERCENT: u64 = 30;
const FILTER_PERCENT: u64 = 25;
const OTHER_PERCENT: u64 = 5;

/// The parts of the memory budget, each for the whole engine. They add up to the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySplit {
    /// Memtables, active and being flushed.
    pub memtable_bytes: u64,
    /// Read caches.
    pub read_cache_bytes: u64,
    /// Filters and page indexes of segments.
    pub filter_bytes: u64,
    /// Arenas of I/O buffers, queues and everything else.
    pub other_bytes: u64,
}

impl MemorySplit {
    /// Shares out a budget of which `arena_bytes` are taken by the arenas of all shards.
    ///
    /// Parts set by hand are kept; the others share what is left in the proportion of their percentages.
    pub(super) fn of(budget_bytes: u64, arena_bytes: u64, overrides: &Overrides) -> Result<Self> {
        let parts = [
            (MEMTABLE_PERCENT, overrides.memtable_bytes),
            (READ_CACHE_PERCENT, overrides.read_cache_bytes),
            (FILTER_PERCENT, overrides.filter_bytes),
        ];
        let by_hand = parts.iter().filter_map(|(_, bytes)| *bytes).try_fold(arena_bytes, u64::checked_add);
        let Some(left) = by_hand.and_then(|by_hand| budget_bytes.checked_sub(by_hand)) else {
            let why = format!(
                "the parts set by hand and the arenas of I/O buffers need {} together; raise it or lower them",
                Bytes(by_hand.unwrap_or(u64::MAX))
            );
            return Err(setting("memory_budget_bytes", Bytes(budget_bytes), why));
        };
        let left = left.saturating_add(arena_bytes);
        let percents: u64 =
            parts.iter().filter(|(_, bytes)| bytes.is_none()).map(|(percent, _)| percent).sum();
        let other_bytes = share(left, OTHER_PERCENT, percents + OTHER_PERCENT).max(arena_bytes);
        let shared = left.saturating_sub(other_bytes);
        let [memtable_bytes, read_cache_bytes, filter_bytes] =
            parts.map(|(percent, bytes)| bytes.unwrap_or_else(|| share(shared, percent, percents)));
        let used = memtable_bytes.saturating_add(read_cache_bytes).saturating_add(filter_bytes);
        Ok(Self {
            memtable_bytes,
            read_cache_bytes,
            filter_bytes,
            other_bytes: budget_bytes.saturating_sub(used),
        })
    }

    pub(super) fn lines(&self, overrides: &Overrides) -> [Line; 4] {
        let why = |by_hand: Option<u64>, percent: u64| {
            if by_hand.is_some() {
                "set by hand".to_owned()
            } else {
                format!("{percent} parts of 100 of the budget")
            }
        };
        [
            Line::new(
                "memtables",
                Bytes(self.memtable_bytes),
                why(overrides.memtable_bytes, MEMTABLE_PERCENT),
            ),
            Line::new(
                "read cache",
                Bytes(self.read_cache_bytes),
                why(overrides.read_cache_bytes, READ_CACHE_PERCENT),
            ),
            Line::new(
                "filters and indexes",
                Bytes(self.filter_bytes),
                why(overrides.filter_bytes, FILTER_PERCENT),
            ),
            Line::new(
                "buffers and other",
                Bytes(self.other_bytes),
                "the rest, at least the arenas of all shards",
            ),
        ]
    }
}

/// `total * part / whole` without overflow; 0 of nothing.
fn share(total: u64, part: u64, whole: u64) -> u64 {
    let share = (u128::from(total) * u128::from(part)).checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(share).unwrap_or(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const MIB: u64 = 1 << 20;

    fn sum(split: MemorySplit) -> u64 {
        split.memtable_bytes + split.read_cache_bytes + split.filter_bytes + split.other_bytes
    }

    #[test]
    fn parts_have_their_percentages() {
        let split = MemorySplit::of(1000 * MIB, 16 * MIB, &Overrides::default()).unwrap();
        let expected = [400, 300, 250, 50].map(|part| part * MIB);
        assert_eq!(
            [split.memtable_bytes, split.read_cache_bytes, split.filter_bytes, split.other_bytes],
            expected
        );
    }

    #[test]
    fn large_arenas_make_the_other_parts_smaller() {
        let split = MemorySplit::of(100 * MIB, 24 * MIB, &Overrides::default()).unwrap();
        assert_eq!(split.memtable_bytes, 32 * MIB);
        assert!(split.other_bytes >= 24 * MIB);
        assert_eq!(sum(split), 100 * MIB);
    }

    #[test]
    fn parts_set_by_hand_stay_and_the_rest_is_shared() {
        let overrides = Overrides { memtable_bytes: Some(40 * MIB), ..Overrides::default() };
        let split = MemorySplit::of(100 * MIB, 0, &overrides).unwrap();
        assert_eq!(
            (split.memtable_bytes, split.read_cache_bytes, split.filter_bytes),
            (40 * MIB, 30 * MIB, 25 * MIB)
        );
        let all = Overrides { read_cache_bytes: Some(0), filter_bytes: Some(MIB), ..overrides };
        let split = MemorySplit::of(100 * MIB, 0, &all).unwrap();
        assert_eq!((split.read_cache_bytes, split.other_bytes), (0, 59 * MIB));
    }

    #[test]
    fn parts_beyond_the_budget_are_refused() {
        let overrides = Overrides { filter_bytes: Some(90 * MIB), ..Overrides::default() };
        let error = MemorySplit::of(100 * MIB, 16 * MIB, &overrides).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "memory_budget_bytes", .. }), "{error}");
        let overrides =
            Overrides { filter_bytes: Some(u64::MAX), memtable_bytes: Some(7), ..Overrides::default() };
        assert!(MemorySplit::of(u64::MAX, 16 * MIB, &overrides).is_err());
    }

    #[test]
    fn the_parts_always_add_up() {
        for budget in [16 * MIB, 64 * MIB + 1, u64::MAX] {
            assert_eq!(sum(MemorySplit::of(budget, 3 * MIB, &Overrides::default()).unwrap()), budget);
        }
    }
}
