//! Which neighbouring segments of a collection to merge next.
//!
//! Segments stand in the order of their entries' numbers, and only neighbours are merged, so that ranges of numbers
//! never overlap. Those wholly below the horizon are *final*, the others *young*; the two are not mixed, so that a
//! reorg discards whole files. Within each part, enough neighbours of one size class become one of the next.

use std::ops::Range;

use crate::ids::Seq;

/// Neighbours at most before the cheapest group is merged whatever its sizes are.
const SEGMENTS_MAX: usize = 32;

/// What the policy knows of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) bytes: u64,
    pub(super) seq_max: Seq,
    /// It holds entries that a durable rollback has killed and that no snapshot needs.
    pub(super) has_dead: bool,
}

/// When to merge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Segments of one class that are merged.
    pub(super) fan_in: usize,
    /// Segments that one merge reads at most.
    pub(super) inputs_max: usize,
    /// The last number below the horizon.
    pub(super) horizon: Seq,
}

impl Policy {
    /// The segments to merge next, by position, oldest first; `None` if all is well.
    pub(super) fn pick(&self, segments: &[Candidate]) -> Option<Range<usize>> {
        if let Some(dead) = segments.iter().position(|segment| segment.has_dead) {
            return Some(dead..dead + 1);
        }
        let finals = segments.partition_point(|segment| segment.seq_max <= self.horizon);
        let (old, young) = segments.split_at_checked(finals)?;
        self.pick_among(young)
            .map(|range| range.start + finals..range.end + finals)
            .or_else(|| self.pick_among(old))
    }

    fn pick_among(&self, segments: &[Candidate]) -> Option<Range<usize>> {
        let classes: Vec<u32> = segments.iter().map(|segment| self.class(segment.bytes)).collect();
        let mut distinct = classes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let crowded = distinct.into_iter().find_map(|class| self.crowded(&classes, class));
        let range = crowded.or_else(|| self.cheapest(segments))?;
        Some(range.start..range.end.min(range.start + self.inputs_max))
    }

    /// The first run of neighbours of at most this class that has enough of exactly this class.
    fn crowded(&self, classes: &[u32], class: u32) -> Option<Range<usize>> {
        let mut start = 0;
        for run in classes.split(|other| *other > class) {
            let end = start + run.len();
            if run.iter().filter(|other| **other == class).count() >= self.fan_in {
                return Some(start..end);
            }
            start = end + 1;
        }
        None
    }

    /// The group of neighbours with the fewest bytes, once there are too many segments.
    fn cheapest(&self, segments: &[Candidate]) -> Option<Range<usize>> {
        if segments.len() <= SEGMENTS_MAX {
            return None;
        }
        let cost = |group: &[Candidate]| group.iter().map(|segment| segment.bytes).sum::<u64>();
        let (start, _) = segments.windows(self.fan_in).enumerate().min_by_key(|(_, group)| cost(group))?;
        Some(start..start + self.fan_in)
    }

    /// The size class: each is `fan_in` times larger than the one before.
    fn class(&self, bytes: u64) -> u32 {
        let base = u64::try_from(self.fan_in.max(2)).unwrap_or(u64::MAX);
        (bytes / 4096).max(1).ilog(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { fan_in: 4, inputs_max: 16, horizon: Seq(1000) };

    fn young(bytes: u64) -> Candidate {
        Candidate { bytes, seq_max: Seq(2000), has_dead: false }
    }

    fn old(bytes: u64) -> Candidate {
        Candidate { bytes, seq_max: Seq(10), has_dead: false }
    }

    #[test]
    fn final_and_young_segments_are_never_merged_together() {
        let segments = [old(4096), old(4096), young(4096), young(4096)];
        assert_eq!(POLICY.pick(&segments), None);
        let segments = [old(4096), young(4096), young(4096), young(4096), young(4096)];
        assert_eq!(POLICY.pick(&segments), Some(1..5));
    }

    #[test]
    fn a_large_segment_is_not_rewritten_for_a_few_small_ones() {
        let segments = [old(1 << 30), old(4096), old(4096), old(4096)];
        assert_eq!(POLICY.pick(&segments), None);
        let segments = [old(1 << 30), old(4096), old(4096), old(4096), old(4096)];
        assert_eq!(POLICY.pick(&segments), Some(1..5));
    }

    #[test]
    fn a_segment_with_dead_entries_is_rewritten_first() {
        let mut segments = vec![young(4096); 8];
        segments[5].has_dead = true;
        assert_eq!(POLICY.pick(&segments), Some(5..6));
    }

    #[test]
    fn the_number_of_segments_stays_bounded_whatever_their_sizes() {
        let mut segments = Vec::new();
        let mut random = 7u64;
        for _ in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            segments.push(old(4096 << (random >> 60)));
            while let Some(range) = POLICY.pick(&segments) {
                assert!(range.len() >= 2 && range.end <= segments.len());
                let bytes = segments[range.clone()].iter().map(|segment| segment.bytes).sum();
                segments.splice(range, [old(bytes)]);
            }
            assert!(segments.len() <= SEGMENTS_MAX);
        }
    }
}
