//! Which runs of a collection to merge next. Pure.
//!
//! Runs whose entries are all at or below the horizon are *final*, the others *young*. The two are never mixed, so that a
//! reorg discards whole files; young ones are merged with each other only when there are many.
//!
//! Final runs of a `Mutable` collection are levelled lazily. Above one bottom run, which holds the oldest version of every
//! key, stand runs in the order in which they were flushed: enough neighbours of one size become one of the next. When
//! all of them together have reached a certain part of the bottom's bytes, they descend into it. An entry is so
//! written once by its flush, once for each size above, and by descents about as often as that part goes into the whole.
//!
//! Those of an `AppendOnly` collection, whose keys are written once, are merged with their neighbours only, up to a
//! size: what is written in order of height stays in order of height. A byte is so written by its flush and by two merges, and
//! one in ten by a single merge, of small runs together with large ones.

use std::ops::Range;

use crate::catalog::Layout;
use crate::config::ShardConfig;
use crate::ids::Seq;

/// Neighbours at most before the cheapest group is merged whatever its sizes are.
const NEIGHBOURS_MAX: usize = 32;

/// What the policy knows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) bytes: u64,
    pub(super) seqs: (Seq, Seq),
    pub(super) is_bottom: bool,
    /// A merge is taking it over.
    pub(super) is_busy: bool,
}

/// What to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Neighbours, by position, into one run.
    Merge(Range<usize>),
    /// Everything from the bottom up to this position into the bottom.
    Descend(usize),
}

/// When to merge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    layout: Layout,
    /// The last number below the horizon.
    horizon: Seq,
    fan_in: usize,
    inputs_max: usize,
    append_run_bytes_max: u64,
    young_runs_max: usize,
    bottom_ratio_percent: u64,
    /// Whatever it costs, everything final is to be in the bottom run.
    wants_all: bool,
}

/// Neighbours that can only be merged together: a merge of them was begun once and not ended, so their numbers overlap.
#[derive(Debug, Clone)]
struct Cluster {
    runs: Range<usize>,
    bytes: u64,
    seq_max: Seq,
    is_busy: bool,
}

impl Policy {
    pub(super) fn new(config: &ShardConfig, layout: Layout, horizon: Seq, wants_all: bool) -> Self {
        Self {
            layout,
            horizon,
            fan_in: match layout {
                Layout::Mutable => config.merge_fan_in.max(2),
                Layout::AppendOnly => (config.merge_fan_in + config.merge_fan_in / 4).max(2),
            },
            inputs_max: match layout {
                Layout::Mutable => config.merge_inputs_max.max(2),
                Layout::AppendOnly => (config.merge_inputs_max + config.merge_inputs_max / 4).max(2),
            },
            append_run_bytes_max: config.append_run_bytes_max,
            young_runs_max: config.young_runs_max.max(1),
            bottom_ratio_percent: config.bottom_ratio_percent,
            wants_all,
        }
    }

    /// What to merge next of runs that stand from the oldest to the newest; `None` if all is well.
    pub(super) fn pick(&self, runs: &[Candidate]) -> Option<Choice> {
        let clusters = clusters(runs);
        let finals = clusters.partition_point(|cluster| cluster.seq_max <= self.horizon);
        let (finals, young) = clusters.split_at_checked(finals)?;
        if self.layout == Layout::Mutable
            && let Some(end) = self.descent(runs, finals)
        {
            return Some(Choice::Descend(end));
        }
        let young = if young.len() > self.young_runs_max { self.crowded(young) } else { None };
        young.or_else(|| self.crowded(finals)).map(Choice::Merge)
    }

    /// Up to which position the final runs are to descend, if they are.
    fn descent(&self, runs: &[Candidate], finals: &[Cluster]) -> Option<usize> {
        let bottom = runs.first().filter(|run| run.is_bottom);
        let end = finals.last()?.runs.end;
        if bottom.is_some_and(|bottom| bottom.is_busy) || finals.iter().any(|cluster| cluster.is_busy) {
            return None;
        }
        let above: u64 = finals.iter().map(|cluster| cluster.bytes).sum();
        let bottom_bytes = bottom.map_or(0, |bottom| bottom.bytes);
        let is_heavy = above.saturating_mul(100) >= bottom_bytes.saturating_mul(self.bottom_ratio_percent);
        let is_worth_it = finals.len() >= self.fan_in && is_heavy;
        (self.wants_all || is_worth_it).then_some(end)
    }

    /// The neighbours to merge among clusters, of which the busy ones are left alone.
    fn crowded(&self, clusters: &[Cluster]) -> Option<Range<usize>> {
        let is_left_alone = |cluster: &Cluster| {
            cluster.is_busy || self.layout == Layout::AppendOnly && cluster.bytes >= self.append_run_bytes_max
        };
        let idle = clusters.split(is_left_alone);
        idle.filter_map(|neighbours| self.crowded_neighbours(neighbours)).next()
    }

    fn crowded_neighbours(&self, clusters: &[Cluster]) -> Option<Range<usize>> {
        let classes: Vec<u32> = clusters.iter().map(|cluster| self.class(cluster.bytes)).collect();
        let mut distinct = classes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let group = distinct.iter().find_map(|class| self.crowd_of(&classes, *class, self.fan_in));
        let group = match (self.layout, group) {
            (Layout::AppendOnly, Some(group)) => self.with_larger(&classes, &distinct, group),
            (_, group) => group.or_else(|| self.cheapest(clusters))?,
        };
        let group = clusters.get(group.start..group.end.min(group.start + self.inputs_max))?;
        Some(group.first()?.runs.start..group.last()?.runs.end)
    }

    /// A crowd together with larger neighbours, if these are one run short of a crowd: what is merged with them is not
    /// made one of them first. It would make the crowd full, and be written twice.
    fn with_larger(&self, classes: &[u32], distinct: &[u32], group: Range<usize>) -> Range<usize> {
        let covering = |class: &u32| {
            let crowd = self.crowd_of(classes, *class, self.fan_in.saturating_sub(1).max(2))?;
            (crowd.start <= group.start && group.end <= crowd.end).then_some(crowd)
        };
        distinct.iter().rev().find_map(covering).unwrap_or(group)
    }

    /// The first neighbours of at most this class, enough of which are exactly of this class.
    fn crowd_of(&self, classes: &[u32], class: u32, enough: usize) -> Option<Range<usize>> {
        let mut start = 0;
        for neighbours in classes.split(|other| *other > class) {
            let end = start + neighbours.len();
            if neighbours.iter().filter(|other| **other == class).count() >= enough {
                return Some(start..end);
            }
            start = end + 1;
        }
        None
    }

    /// The group with the fewest bytes, once there are too many.
    fn cheapest(&self, clusters: &[Cluster]) -> Option<Range<usize>> {
        if self.layout == Layout::AppendOnly || clusters.len() <= NEIGHBOURS_MAX {
            return None;
        }
        let cost = |group: &[Cluster]| group.iter().map(|cluster| cluster.bytes).sum::<u64>();
        let groups = clusters.windows(self.fan_in).enumerate();
        let (start, _) = groups.min_by_key(|(_, group)| cost(group))?;
        Some(start..start + self.fan_in)
    }

    /// The size class: each is `fan_in` times larger than the one before.
    fn class(&self, bytes: u64) -> u32 {
        let base = u64::try_from(self.fan_in).unwrap_or(u64::MAX);
        (bytes / 4096).max(1).ilog(base)
    }
}

/// The runs above the bottom as clusters.
fn clusters(runs: &[Candidate]) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (at, run) in runs.iter().enumerate().filter(|(_, run)| !run.is_bottom) {
        match clusters.last_mut().filter(|last| run.seqs.0 <= last.seq_max) {
            Some(last) => {
                last.runs.end = at + 1;
                last.bytes += run.bytes;
                last.seq_max = last.seq_max.max(run.seqs.1);
                last.is_busy |= run.is_busy;
            }
            None => clusters.push(Cluster {
                runs: at..at + 1,
                bytes: run.bytes,
                seq_max: run.seqs.1,
                is_busy: run.is_busy,
            }),
        }
    }
    clusters
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: u64 = 1000;

    fn policy(layout: Layout) -> Policy {
        let config = ShardConfig {
            merge_fan_in: 4,
            young_runs_max: 3,
            append_run_bytes_max: 1 << 20,
            ..ShardConfig::default()
        };
        Policy::new(&config, layout, Seq(HORIZON), false)
    }

    /// Runs of these bytes, numbered upwards from a number.
    fn runs(from: u64, bytes: &[u64]) -> Vec<Candidate> {
        let run = |(seq, bytes): (u64, &u64)| Candidate {
            bytes: *bytes,
            seqs: (Seq(seq), Seq(seq)),
            is_bottom: false,
            is_busy: false,
        };
        (from..).zip(bytes).map(run).collect()
    }

    fn bottom(bytes: u64) -> Candidate {
        Candidate { bytes, seqs: (Seq(1), Seq(1)), is_bottom: true, is_busy: false }
    }

    fn with_bottom(bytes: u64, above: Vec<Candidate>) -> Vec<Candidate> {
        std::iter::once(bottom(bytes)).chain(above).collect()
    }

    #[test]
    fn final_and_young_runs_are_never_merged_together() {
        let mutable = policy(Layout::Mutable);
        assert_eq!(mutable.pick(&runs(HORIZON - 1, &[4096; 4])), None);
        let five = runs(HORIZON, &[4096; 5]);
        assert_eq!(mutable.pick(&five), Some(Choice::Merge(1..5)));
    }

    #[test]
    fn young_runs_are_left_alone_while_they_are_few() {
        assert_eq!(policy(Layout::Mutable).pick(&runs(HORIZON + 1, &[4096; 3])), None);
        assert_eq!(policy(Layout::AppendOnly).pick(&runs(HORIZON + 1, &[4096; 3])), None);
    }

    #[test]
    fn final_runs_descend_when_they_weigh_enough() {
        let mutable = policy(Layout::Mutable);
        assert_eq!(mutable.pick(&runs(1, &[4096; 3])), None);
        assert_eq!(mutable.pick(&runs(1, &[4096; 4])), Some(Choice::Descend(4)));
        let light = with_bottom(1 << 20, runs(2, &[4096, 65536, 4096, 65536]));
        assert_eq!(mutable.pick(&light), None);
        let heavy = with_bottom(1 << 18, runs(2, &[4096, 65536, 4096, 65536]));
        assert_eq!(mutable.pick(&heavy), Some(Choice::Descend(5)));
    }

    #[test]
    fn equal_neighbours_become_one_while_they_are_too_light_to_descend() {
        let crowded = with_bottom(1 << 30, runs(2, &[65536, 4096, 4096, 4096, 4096, 70_000]));
        assert_eq!(policy(Layout::Mutable).pick(&crowded), Some(Choice::Merge(2..6)));
    }

    #[test]
    fn what_a_merge_is_taking_over_is_left_alone() {
        let mut busy = with_bottom(1 << 16, runs(2, &[65536, 65536, 65536, 65536, 4096, 4096, 4096, 4096]));
        for run in busy.iter_mut().take(5) {
            run.is_busy = true;
        }
        assert_eq!(policy(Layout::Mutable).pick(&busy), Some(Choice::Merge(5..9)));
        busy.truncate(8);
        assert_eq!(policy(Layout::Mutable).pick(&busy), None);
    }

    #[test]
    fn runs_whose_numbers_overlap_are_merged_together_or_not_at_all() {
        let mut torn = with_bottom(1 << 30, runs(2, &[4096; 6]));
        // An unfinished merge of the second and third run has left a part of its result.
        torn[2].seqs = (Seq(3), Seq(4));
        assert_eq!(policy(Layout::Mutable).pick(&torn), Some(Choice::Merge(1..7)));
        torn.truncate(5);
        assert_eq!(policy(Layout::Mutable).pick(&torn), None, "they count as one");
    }

    #[test]
    fn everything_final_descends_if_that_is_wanted() {
        let config = ShardConfig::default();
        let wanting = Policy::new(&config, Layout::Mutable, Seq(HORIZON), true);
        let one = with_bottom(1 << 30, runs(HORIZON, &[4096, 4096]));
        assert_eq!(wanting.pick(&one), Some(Choice::Descend(2)));
        assert_eq!(wanting.pick(&with_bottom(1 << 30, runs(HORIZON + 1, &[4096]))), None);
    }

    #[test]
    fn long_runs_of_append_only_collections_are_final_in_every_sense() {
        let append = policy(Layout::AppendOnly);
        assert_eq!(append.pick(&runs(1, &[1 << 20; 8])), None);
        // A quarter more of them than of a mutable collection.
        assert_eq!(append.pick(&runs(1, &[1 << 20, 4096, 4096, 4096, 4096])), None);
        assert_eq!(
            append.pick(&runs(1, &[1 << 20, 4096, 4096, 4096, 4096, 4096])),
            Some(Choice::Merge(1..6))
        );
    }

    #[test]
    fn what_would_make_a_crowd_of_an_append_only_collection_full_is_merged_with_it() {
        let append = policy(Layout::AppendOnly);
        let small = [4096; 5];
        let large = |count| [vec![1 << 16; count], small.to_vec()].concat();
        assert_eq!(append.pick(&runs(1, &large(3))), Some(Choice::Merge(3..8)));
        assert_eq!(append.pick(&runs(1, &large(4))), Some(Choice::Merge(0..9)));
        assert_eq!(append.pick(&runs(1, &large(4)[..8])), None, "not before there are enough small ones");
        assert_eq!(
            policy(Layout::Mutable).pick(&with_bottom(1 << 40, runs(2, &large(3)))),
            Some(Choice::Merge(4..9))
        );
    }

    /// How often a byte of an append-only collection is merged until its run is left alone, and runs at most.
    #[test]
    fn append_only_runs_are_merged_less_than_twice_and_stay_few() {
        let config = ShardConfig { young_runs_max: 12, ..ShardConfig::default() };
        let mut all: Vec<Candidate> = Vec::new();
        let (mut flushed, mut written, mut most) = (0, 0, 0);
        for number in 1..3000 {
            let bytes = (10 << 20) + ((number * 7919 % 3) << 20);
            all.extend(runs(number, &[bytes]));
            flushed += bytes;
            let policy = Policy::new(&config, Layout::AppendOnly, Seq(number.saturating_sub(6)), false);
            while let Some(choice) = policy.pick(&all) {
                let Choice::Merge(range) = choice else { panic!("there is no bottom") };
                let inputs = &all[range.clone()];
                let bytes = inputs.iter().map(|run| run.bytes).sum();
                let seqs = (inputs[0].seqs.0, inputs[inputs.len() - 1].seqs.1);
                written += bytes;
                all.splice(range, [Candidate { bytes, seqs, is_bottom: false, is_busy: false }]);
            }
            most = most.max(all.iter().filter(|run| run.bytes < config.append_run_bytes_max).count());
        }
        let amplification = written as f64 / flushed as f64;
        assert!(amplification < 1.95, "a byte is merged {amplification:.3} times");
        assert!(most < 30, "{most} runs");
    }

    /// Flushes of random sizes, merged as the policy says, with a horizon that follows.
    #[test]
    fn runs_stay_few_and_writes_bounded_whatever_is_flushed() {
        let mut random = 7u64;
        let config = ShardConfig { merge_fan_in: 8, young_runs_max: 12, ..ShardConfig::default() };
        let mut all: Vec<Candidate> = Vec::new();
        let (mut flushed, mut written) = (0, 0);
        for number in 1..500 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = (16 << 20) + (random >> 40);
            all.extend(runs(number, &[bytes]));
            flushed += bytes;
            let policy = Policy::new(&config, Layout::Mutable, Seq(number.saturating_sub(6)), false);
            while let Some(choice) = policy.pick(&all) {
                let (range, is_bottom) = match choice {
                    Choice::Merge(range) => (range, false),
                    Choice::Descend(end) => (0..end, true),
                };
                let inputs = &all[range.clone()];
                assert!(inputs.len() >= 2);
                let bytes = inputs.iter().map(|run| run.bytes).sum();
                let seqs = (inputs[0].seqs.0, inputs[inputs.len() - 1].seqs.1);
                written += bytes;
                all.splice(range, [Candidate { bytes, seqs, is_bottom, is_busy: false }]);
            }
            assert!(all.len() <= 32, "{} runs", all.len());
        }
        let amplification = written as f64 / flushed as f64;
        println!("a byte is merged {amplification:.2} times");
        assert!(amplification < 4.5, "{amplification}");
    }
}
