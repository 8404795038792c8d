//! Who sees which entry.
//!
//! A reader holds one sequence number, its view. A reorg is a commit of its own: the one with number `seq` kills the
//! entries numbered `first_dead..seq`. So, for an entry of a `Chain` collection:
//!
//! ```text
//! visible(entry, view) = entry <= view  and no rollback r with  r.seq <= view  and  r.first_dead <= entry < r.seq
//! ```
//!
//! A view taken before a reorg keeps seeing what the reorg killed. `Global` collections ignore rollbacks; for `Cleared`
//! ones every rollback starts at zero.

use smallvec::SmallVec;

use crate::ids::Seq;

/// Whether and how a collection follows reorgs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A reorg takes away what the orphaned blocks wrote.
    Chain,
    /// A reorg touches nothing.
    Global,
    /// Any reorg empties the collection.
    Cleared,
}

/// One reorg, as readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// The reorg's own commit. Entries below it may be dead, entries above it are not.
    pub seq: Seq,
    /// The first dead entry: the one after the block that the chain went back to.
    pub first_dead: Seq,
}

impl Rollback {
    /// Whether a view is inside the dead range: such a view lasts only while it is pinned.
    #[must_use]
    pub fn strands(&self, view: Seq) -> bool {
        self.first_dead <= view && view < self.seq
    }

    /// The range of entries that the rollback kills in a collection of this scope, if it kills any.
    #[must_use]
    pub fn kills(&self, scope: Scope) -> Option<Self> {
        match scope {
            Scope::Chain => (self.first_dead < self.seq).then_some(*self),
            Scope::Global => None,
            Scope::Cleared => Some(Self { seq: self.seq, first_dead: Seq::ZERO }),
        }
    }
}

/// The rollbacks that matter for a set of entries: nearly always none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask(SmallVec<[Rollback; 2]>);

impl Mask {
    /// The part of `rollbacks` that touches entries numbered `seq_min..=seq_max` of a collection of this scope.
    #[must_use]
    pub fn for_range(rollbacks: &[Rollback], scope: Scope, seq_min: Seq, seq_max: Seq) -> Self {
        Self(
            rollbacks
                .iter()
                .filter_map(|rollback| rollback.kills(scope))
                .filter(|range| range.first_dead <= seq_max && seq_min < range.seq)
                .collect(),
        )
    }

    /// Whether no rollback matters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rollbacks, oldest first, with their ranges as this collection's scope has them.
    #[must_use]
    pub fn rollbacks(&self) -> &[Rollback] {
        &self.0
    }

    /// Whether a reader at `view` sees an entry.
    #[must_use]
    pub fn shows(&self, entry: Seq, view: Seq) -> bool {
        entry <= view && !self.0.iter().any(|range| range.seq <= view && range.strands(entry))
    }

    /// The first rollback at or below `cut` that kills an entry, if one does.
    #[must_use]
    pub fn killer(&self, entry: Seq, cut: Seq) -> Option<Rollback> {
        self.0.iter().find(|range| range.seq <= cut && range.strands(entry)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits 1 to 5; 6 goes back to 3; 7 and 8; 9 goes back to 3 again.
    const ROLLBACKS: [Rollback; 2] =
        [Rollback { seq: Seq(6), first_dead: Seq(4) }, Rollback { seq: Seq(9), first_dead: Seq(4) }];

    fn seen(scope: Scope, view: u64) -> Vec<u64> {
        let mask = Mask::for_range(&ROLLBACKS, scope, Seq::ZERO, Seq::MAX);
        (1..=10).filter(|entry| mask.shows(Seq(*entry), Seq(view))).collect()
    }

    #[test]
    fn a_view_sees_its_own_past_whatever_was_rolled_back_after_it() {
        assert_eq!(seen(Scope::Chain, 5), [1, 2, 3, 4, 5]);
        assert_eq!(seen(Scope::Chain, 8), [1, 2, 3, 6, 7, 8]);
        assert_eq!(seen(Scope::Chain, 10), [1, 2, 3, 9, 10]);
    }

    #[test]
    fn global_entries_outlive_rollbacks_and_cleared_ones_do_not() {
        assert_eq!(seen(Scope::Global, 10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(seen(Scope::Cleared, 5), [1, 2, 3, 4, 5]);
        assert_eq!(seen(Scope::Cleared, 8), [6, 7, 8]);
        assert_eq!(seen(Scope::Cleared, 10), [9, 10]);
    }

    #[test]
    fn a_mask_holds_only_the_rollbacks_that_touch_its_range() {
        let mask = |from, to| Mask::for_range(&ROLLBACKS, Scope::Chain, Seq(from), Seq(to));
        assert!(mask(1, 3).is_empty());
        assert!(mask(9, 20).is_empty());
        assert_eq!(mask(4, 4).rollbacks(), ROLLBACKS);
        assert_eq!(mask(7, 8).rollbacks(), &ROLLBACKS[1..]);
        assert_eq!(mask(4, 8).killer(Seq(5), Seq(7)), Some(ROLLBACKS[0]));
        assert_eq!(mask(7, 8).killer(Seq(7), Seq(8)), None);
    }
}
