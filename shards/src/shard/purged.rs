//! When records have been removed in such numbers that their space is wanted back. Pure.
//!
//! Runs are merged for their bytes, and a tombstone has few, however large the record is that it hides. Of an append-only
//! collection long runs are not merged at all. So the final runs descend, whatever the layout, once tombstones above the
//! bottom are half as many as the records that are left: to remove a record then costs the rewriting of at most two.

use crate::ids::Seq;

use super::policy::Choice;

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) entries: u64,
    pub(super) tombstones: u64,
    pub(super) seqs: (Seq, Seq),
    pub(super) is_bottom: bool,
    /// A merge is taking it over.
    pub(super) is_busy: bool,
}

/// What to merge of runs that stand from the oldest to the newest; nothing below `tombstones_min` tombstones.
pub(super) fn pick(runs: &[Tally], horizon: Seq, tombstones_min: u64) -> Option<Choice> {
    let end = runs.iter().take_while(|run| run.is_bottom || run.seqs.1 <= horizon).count();
    let (finals, young) = runs.split_at_checked(end)?;
    let above = || finals.iter().filter(|run| !run.is_bottom);
    let seq_max = above().map(|run| run.seqs.1).max()?;
    // Runs with numbers in common can only be merged together.
    let is_torn = young.first().is_some_and(|run| run.seqs.0 <= seq_max);
    if is_torn || finals.iter().any(|run| run.is_busy) {
        return None;
    }
    let tombstones: u64 = above().map(|run| run.tombstones).sum();
    let records: u64 = finals.iter().map(|run| run.entries.saturating_sub(run.tombstones)).sum();
    let left = records.saturating_sub(tombstones);
    (tombstones >= tombstones_min.max(1) && tombstones.saturating_mul(2) >= left)
        .then_some(Choice::Descend(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: u64, tombstones: u64, seqs: (u64, u64)) -> Tally {
        let seqs = (Seq(seqs.0), Seq(seqs.1));
        Tally { entries, tombstones, seqs, is_bottom: false, is_busy: false }
    }

    fn choose(runs: &[Tally]) -> Option<Choice> {
        pick(runs, Seq(100), 10)
    }

    #[test]
    fn final_runs_descend_once_enough_records_are_gone() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[run(90, 0, (1, 9)), run(29, 29, (10, 20))]), None);
        assert_eq!(choose(&[run(90, 0, (1, 9)), run(30, 30, (10, 20))]), Some(Choice::Descend(2)));
        assert_eq!(choose(&[run(9, 9, (1, 20))]), None, "too few");
        let bottom = Tally { is_bottom: true, ..run(100, 50, (1, 20)) };
        assert_eq!(choose(&[bottom]), None, "what the bottom could not drop counts no more");
    }

    #[test]
    fn what_a_reorg_can_reach_or_a_merge_has_is_left_alone() {
        let gone = run(30, 30, (10, 20));
        assert_eq!(choose(&[gone, run(30, 30, (90, 101))]), Some(Choice::Descend(1)));
        assert_eq!(choose(&[gone, run(30, 30, (15, 101))]), None, "they can only be merged together");
        assert_eq!(choose(&[Tally { is_busy: true, ..gone }]), None);
    }
}
