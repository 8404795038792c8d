//! Which paths of the storage a run has taken.

use std::ops::AddAssign;

use op_engine::Engine;
use op_engine_shards::stats::{ShardStats, StallReason};

use super::check::Checked;

/// The paths that are counted, by name.
const PATHS: [(&str, fn(&ShardStats) -> u64); 15] = [
    ("flushes", |shard| shard.flushes),
    ("merges above the bottom", |shard| shard.merges - shard.descents - shard.segments_cleaned),
    ("descents", |shard| shard.descents),
    ("steps of a part of a merge", |shard| shard.merge_steps_partial),
    ("trimmed segments", |shard| shard.segments_trimmed),
    ("bytes given back within files", |shard| shard.released_bytes),
    ("cleaned segments", |shard| shard.segments_cleaned),
    ("deleted orphans", |shard| shard.orphans_deleted),
    ("large values", |shard| shard.large_values),
    ("stalls by flushes", |shard| shard.stalls.of(StallReason::MemtablesFull).count),
    ("stalls by merges", |shard| shard.stalls.of(StallReason::MergesBehind).count),
    ("stalls by the WAL", |shard| shard.stalls.of(StallReason::WalQueueFull).count),
    ("stalls by a full disk", |shard| shard.stalls.of(StallReason::OutOfSpace).count),
    ("flushes put off", |shard| shard.space.flushes_put_off),
    ("merges put off", |shard| shard.space.merges_put_off),
];

/// How often each path was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: [u64; PATHS.len()],
    /// Commits that were refused because the disk was full.
    pub refused: u64,
}

impl Coverage {
    /// Since the engine was opened.
    pub async fn of(engine: &Engine) -> Checked<Self> {
        let stats = engine.stats().await?;
        let counts = PATHS.map(|(_, count)| stats.shards.iter().map(count).sum());
        Ok(Self { counts, refused: stats.refused_for_space })
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PATHS.iter().zip(self.counts).map(|((name, _), count)| (*name, count))
    }

    /// Every path was taken more than so many times, but for those that are named.
    pub fn expect_more_than(&self, times: u64, but_for: &[&str]) {
        println!(
            "{}",
            self.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        );
        assert!(but_for.iter().all(|other| PATHS.iter().any(|(name, _)| name == other)), "{but_for:?}");
        for (name, count) in self.iter().filter(|(name, _)| !but_for.contains(name)) {
            assert!(count > times, "{count} {name}: the run does not cover that path");
        }
    }
}

impl AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.refused += other.refused;
    }
}
