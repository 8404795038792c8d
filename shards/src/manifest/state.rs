//! What a shard's manifest says: the sum of its changes.

use std::collections::HashSet;

use super::edit::{Edit, Horizon};
use crate::bytes::Malformed;
use crate::catalog::Catalog;
use crate::ids::Seq;
use crate::segment_meta::SegmentMeta;
use crate::visibility::Rollback;

/// What a shard's manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestState {
    /// The collections.
    pub catalog: Catalog,
    /// The live segments: by collection, then from older to newer commits, then by key.
    pub segments: Vec<SegmentMeta>,
    /// Every commit up to this one is in segments.
    pub flushed: Seq,
    /// The rollbacks that still matter, oldest first.
    pub rollbacks: Vec<Rollback>,
    /// The lowest block that can still be reached, once there is one. It never goes back.
    pub horizon: Option<Horizon>,
    /// The lowest number that no segment ever had.
    pub next_segment: u64,
}

impl Default for ManifestState {
    fn default() -> Self {
        Self {
            catalog: Catalog::default(),
            segments: Vec::new(),
            flushed: Seq::ZERO,
            rollbacks: Vec::new(),
            horizon: None,
            next_segment: 1,
        }
    }
}

impl ManifestState {
    /// The change that leads from nothing to this state.
    #[must_use]
    pub fn snapshot(&self) -> Edit {
        Edit {
            added: self.segments.clone(),
            removed: Vec::new(),
            flushed: Some(self.flushed),
            rollbacks: Some(self.rollbacks.clone()),
            horizon: self.horizon,
            catalog: Some(self.catalog.clone()),
            next_segment: self.next_segment,
        }
    }

    /// The state after a change.
    ///
    /// # Errors
    /// [`Malformed`] if the change does not fit the state.
    pub fn with(&self, edit: &Edit) -> Result<Self, Malformed> {
        let mut next = self.clone();
        next.change_segments(edit)?;
        next.change_numbers(edit)?;
        if let Some(rollbacks) = &edit.rollbacks {
            next.rollbacks.clone_from(rollbacks);
        }
        if let Some(catalog) = &edit.catalog {
            next.catalog.clone_from(catalog);
        }
        Ok(next)
    }

    fn change_segments(&mut self, edit: &Edit) -> Result<(), Malformed> {
        let removed: HashSet<u64, ahash::RandomState> = edit.removed.iter().copied().collect();
        let before = self.segments.len();
        self.segments.retain(|segment| !removed.contains(&segment.number));
        if before - self.segments.len() != edit.removed.len() {
            return Err(Malformed("a removed segment is not live"));
        }
        let mut numbers: HashSet<u64, ahash::RandomState> =
            self.segments.iter().map(|segment| segment.number).collect();
        for segment in &edit.added {
            if segment.number >= edit.next_segment || !numbers.insert(segment.number) {
                return Err(Malformed("an added segment has a number that is taken"));
            }
        }
        self.segments.extend(edit.added.iter().cloned());
        self.segments.sort_by(|a, b| {
            (a.collection, a.seq_min, a.seq_max, &a.key_min, a.number).cmp(&(
                b.collection,
                b.seq_min,
                b.seq_max,
                &b.key_min,
                b.number,
            ))
        });
        Ok(())
    }

    fn change_numbers(&mut self, edit: &Edit) -> Result<(), Malformed> {
        if edit.next_segment < self.next_segment {
            return Err(Malformed("segment numbers would be given twice"));
        }
        self.next_segment = edit.next_segment;
        if let Some(flushed) = edit.flushed {
            if flushed < self.flushed {
                return Err(Malformed("the checkpoint would go back"));
            }
            self.flushed = flushed;
        }
        if let Some(horizon) = edit.horizon {
            if self
                .horizon
                .is_some_and(|current| horizon.height < current.height || horizon.seq < current.seq)
            {
                return Err(Malformed("the horizon would go back"));
            }
            self.horizon = Some(horizon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::tests::{catalog, segment};
    use super::*;
    use crate::ids::Height;

    fn edit(next_segment: u64) -> Edit {
        Edit { next_segment, ..Edit::default() }
    }

    fn sample() -> ManifestState {
        ManifestState::default()
            .with(&Edit {
                added: vec![segment(2, 20), segment(1, 10)],
                flushed: Some(Seq(24)),
                horizon: Some(Horizon { height: Height(7), seq: Seq(8) }),
                catalog: Some(catalog()),
                ..edit(3)
            })
            .unwrap()
    }

    #[test]
    fn segments_are_ordered_by_commits() {
        let numbers: Vec<u64> = sample().segments.iter().map(|segment| segment.number).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn what_is_absent_stays() {
        let after =
            sample().with(&Edit { removed: vec![1], added: vec![segment(3, 10)], ..edit(4) }).unwrap();
        assert_eq!(after.flushed, Seq(24));
        assert_eq!(after.catalog, catalog());
        assert_eq!(after.segments, vec![segment(3, 10), segment(2, 20)]);
    }

    #[test]
    fn a_snapshot_leads_back_to_the_state() {
        assert_eq!(ManifestState::default().with(&sample().snapshot()).unwrap(), sample());
        let empty = ManifestState::default();
        assert_eq!(empty.with(&empty.snapshot()).unwrap(), empty);
    }

    #[test]
    fn changes_that_do_not_fit_are_refused() {
        for bad in [
            Edit { removed: vec![9], ..edit(3) },
            Edit { removed: vec![1, 1], ..edit(3) },
            Edit { added: vec![segment(1, 30)], ..edit(3) },
            Edit { added: vec![segment(3, 30)], ..edit(3) },
            Edit { added: vec![segment(3, 30), segment(3, 40)], ..edit(4) },
            Edit { flushed: Some(Seq(23)), ..edit(3) },
            Edit { horizon: Some(Horizon { height: Height(6), seq: Seq(9) }), ..edit(3) },
            edit(2),
        ] {
            sample().with(&bad).unwrap_err();
        }
    }
}
