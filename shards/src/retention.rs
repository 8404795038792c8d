//! Which versions of a key a flush or a merge keeps.
//!
//! Pure: the caller gathers all versions of one key from its inputs and asks. Three rules, in this order:
//!
//! 1. What a durable reorg killed goes, unless a held snapshot from before the reorg still sees it. What a reorg
//!    killed that is not durable stays: a crash could undo the reorg.
//! 2. Of what no reorg killed, a version goes once the next newer one lies at or below the horizon, unless a held
//!    snapshot lies between the two. Nothing can go back below the horizon, so nobody else can see it. A killed
//!    version hides nothing: it is left out of this rule on both sides. [`History::All`] skips the rule.
//! 3. A tombstone at or below the horizon goes once nothing older is left for it to hide.

use smallvec::SmallVec;

use crate::catalog::History;
use crate::ids::Seq;
use crate::visibility::Mask;

/// What the rules look at in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionHead {
    /// The commit that wrote it.
    pub seq: Seq,
    /// Whether it deletes.
    pub tombstone: bool,
}

/// What may still be read.
#[derive(Debug, Clone, Copy)]
pub struct Retain<'a> {
    /// How far back the collection keeps versions.
    pub history: History,
    /// The commit of the block at the horizon. Views that are not pinned are at or above it.
    pub horizon: Seq,
    /// The highest durable commit.
    pub cut: Seq,
    /// The views of held snapshots, ascending.
    pub pins: &'a [Seq],
    /// Whether no older version of any key exists outside the inputs.
    pub bottom: bool,
}

impl Retain<'_> {
    /// Whether a held snapshot lies in `from..to`.
    fn pinned_between(&self, from: Seq, to: Seq) -> bool {
        let first = self.pins.partition_point(|pin| *pin < from);
        self.pins.get(first).is_some_and(|pin| *pin < to)
    }
}

/// Whether a version is kept, for each of `versions`: all versions of one key in the inputs, newest first.
#[must_use]
pub fn retained(versions: &[VersionHead], mask: &Mask, retain: &Retain<'_>) -> SmallVec<[bool; 8]> {
    let mut next_live: Option<Seq> = None;
    let mut kept: SmallVec<[bool; 8]> = versions
        .iter()
        .map(|version| {
            if is_killed(version.seq, mask) {
                return match mask.killer(version.seq, retain.cut) {
                    Some(rollback) => retain.pinned_between(version.seq, rollback.seq),
                    None => true,
                };
            }
            let newer = next_live.replace(version.seq);
            match (retain.history, newer) {
                (History::Window, Some(newer)) if newer <= retain.horizon => {
                    retain.pinned_between(version.seq, newer)
                }
                _ => true,
            }
        })
        .collect();
    if retain.bottom {
        drop_idle_tombstones(versions, mask, retain.horizon, &mut kept);
    }
    kept
}

/// Drops tombstones from the oldest kept version up, until one is met that is not a settled tombstone.
fn drop_idle_tombstones(versions: &[VersionHead], mask: &Mask, horizon: Seq, kept: &mut [bool]) {
    for (version, kept) in versions.iter().zip(kept).rev() {
        if !*kept {
            continue;
        }
        if !version.tombstone || version.seq > horizon || is_killed(version.seq, mask) {
            return;
        }
        *kept = false;
    }
}

fn is_killed(seq: Seq, mask: &Mask) -> bool {
    mask.killer(seq, Seq::MAX).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::visibility::{Rollback, Scope};

    const LAST: u64 = 60;

    #[derive(Debug, Clone)]
    struct Case {
        versions: Vec<VersionHead>,
        rollbacks: Vec<Rollback>,
        pins: Vec<Seq>,
        horizon: Seq,
        cut: Seq,
        scope: Scope,
        history: History,
    }

    fn cases() -> impl Strategy<Value = Case> {
        (
            prop::collection::btree_map(1..LAST, any::<bool>(), 0..12),
            prop::collection::btree_map(2..LAST, 1u64..12, 0..4),
            prop::collection::btree_set(1..LAST, 0..4),
            0..LAST,
            0..=LAST,
            prop_oneof![Just(Scope::Chain), Just(Scope::Global), Just(Scope::Cleared)],
            prop_oneof![Just(History::Window), Just(History::All)],
        )
            .prop_map(|(versions, rollbacks, pins, horizon, cut, scope, history)| {
                let rollbacks: Vec<_> = rollbacks
                    .into_iter()
                    .map(|(seq, depth)| Rollback {
                        seq: Seq(seq),
                        first_dead: Seq(seq.saturating_sub(depth).max(1)),
                    })
                    .collect();
                Case {
                    // A reorg's own commit writes nothing.
                    versions: versions
                        .into_iter()
                        .rev()
                        .filter(|(seq, _)| rollbacks.iter().all(|rollback| rollback.seq.0 != *seq))
                        .map(|(seq, tombstone)| VersionHead { seq: Seq(seq), tombstone })
                        .collect(),
                    rollbacks,
                    pins: pins.into_iter().map(Seq).collect(),
                    // The horizon follows from the durable tip.
                    horizon: Seq(horizon.min(cut)),
                    cut: Seq(cut),
                    scope,
                    history,
                }
            })
    }

    fn mask(case: &Case, rollbacks: &[Rollback]) -> Mask {
        Mask::for_range(rollbacks, case.scope, Seq::ZERO, Seq::MAX)
    }

    fn seen(versions: &[VersionHead], mask: &Mask, view: Seq) -> Option<Seq> {
        let newest = versions.iter().find(|version| mask.shows(version.seq, view))?;
        (!newest.tombstone).then_some(newest.seq)
    }

    fn stranded(mask: &Mask, view: Seq) -> bool {
        mask.rollbacks().iter().any(|rollback| rollback.strands(view))
    }

    fn survivors(case: &Case, bottom: bool) -> Vec<VersionHead> {
        let retain =
            Retain { history: case.history, horizon: case.horizon, cut: case.cut, pins: &case.pins, bottom };
        let kept = retained(&case.versions, &mask(case, &case.rollbacks), &retain);
        assert_eq!(kept.len(), case.versions.len());
        case.versions.iter().zip(kept).filter(|(_, kept)| *kept).map(|(version, _)| *version).collect()
    }

    /// The reorgs as readers may come to know them: all; without those a crash undoes; and with a later one.
    fn futures(case: &Case) -> Vec<Vec<Rollback>> {
        let durable: Vec<_> =
            case.rollbacks.iter().filter(|rollback| rollback.seq <= case.cut).copied().collect();
        let mut later = case.rollbacks.clone();
        later.push(Rollback { seq: Seq(LAST + 5), first_dead: case.horizon.next() });
        vec![case.rollbacks.clone(), durable, later]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_reader_can_tell(case in cases(), bottom in any::<bool>(), below in any::<Option<bool>>()) {
            let after = survivors(&case, bottom);
            // When something older exists elsewhere, what is hidden must stay hidden.
            let older = below.filter(|_| !bottom).map(|tombstone| VersionHead { seq: Seq::ZERO, tombstone });
            let with_older = |versions: &[VersionHead]| versions.iter().copied().chain(older).collect::<Vec<_>>();
            let (before, after) = (with_older(&case.versions), with_older(&after));
            for rollbacks in futures(&case) {
                let mask = mask(&case, &rollbacks);
                for view in (0..LAST + 10).map(Seq) {
                    let pinned = case.pins.contains(&view);
                    if pinned || view >= case.horizon && !stranded(&mask, view) {
                        prop_assert_eq!(seen(&before, &mask, view), seen(&after, &mask, view), "view {}", view);
                    }
                }
            }
        }

        #[test]
        fn full_history_keeps_every_live_value(case in cases(), bottom in any::<bool>()) {
            let case = Case { history: History::All, ..case };
            let after = survivors(&case, bottom);
            let mask = mask(&case, &case.rollbacks);
            for version in &case.versions {
                if !version.tombstone && !is_killed(version.seq, &mask) {
                    prop_assert!(after.contains(version));
                }
            }
        }

        #[test]
        fn nothing_useless_stays(case in cases()) {
            let case = Case { history: History::Window, pins: Vec::new(), horizon: Seq(LAST), cut: Seq(LAST), ..case };
            let after = survivors(&case, true);
            prop_assert!(after.len() <= 1, "{:?}", after);
            prop_assert!(after.iter().all(|version| !version.tombstone), "{:?}", after);
        }

        #[test]
        fn a_second_pass_changes_nothing(case in cases(), bottom in any::<bool>()) {
            let once = survivors(&case, bottom);
            let twice = survivors(&Case { versions: once.clone(), ..case }, bottom);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn a_value_created_and_deleted_below_the_horizon_vanishes() {
        let case = Case {
            versions: vec![
                VersionHead { seq: Seq(5), tombstone: true },
                VersionHead { seq: Seq(3), tombstone: false },
            ],
            rollbacks: Vec::new(),
            pins: Vec::new(),
            horizon: Seq(10),
            cut: Seq(20),
            scope: Scope::Chain,
            history: History::Window,
        };
        assert_eq!(survivors(&case, true), []);
        assert_eq!(survivors(&case, false).len(), 1, "the tombstone may hide something older");
        assert_eq!(survivors(&Case { pins: vec![Seq(4)], ..case.clone() }, true).len(), 2);
        assert_eq!(survivors(&Case { horizon: Seq(4), ..case }, true).len(), 2);
    }

    #[test]
    fn a_reorg_that_may_be_undone_drops_nothing() {
        let case = Case {
            versions: vec![VersionHead { seq: Seq(8), tombstone: false }],
            rollbacks: vec![Rollback { seq: Seq(12), first_dead: Seq(7) }],
            pins: Vec::new(),
            horizon: Seq(5),
            cut: Seq(11),
            scope: Scope::Chain,
            history: History::Window,
        };
        assert_eq!(survivors(&case, true).len(), 1);
        assert_eq!(survivors(&Case { cut: Seq(12), ..case.clone() }, true).len(), 0);
        assert_eq!(survivors(&Case { cut: Seq(12), pins: vec![Seq(9)], ..case }, true).len(), 1);
    }
}
