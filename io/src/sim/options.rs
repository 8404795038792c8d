//! What a run is made of.

use std::time::Duration;

use super::faults::Faults;

/// Which promises the simulated filesystem keeps beyond those that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Personality {
    /// None: a sync covers its own file or directory and nothing else. Finds syncs that were forgotten.
    Strict,
    /// Those of ext4 with an ordered journal: each sync covers everything that completed before it was submitted,
    /// and metadata survives a crash as a prefix of its history.
    Ext4,
}

/// What a durable write makes durable under [`Personality::Strict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DurableCover {
    /// Its own bytes only, as a DSYNC write with forced unit access does.
    Write,
    /// Its own bytes and every write to the file that had completed when it was submitted, as a linked fdatasync does.
    File,
}

/// The seed and the conditions of one run.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The filesystem.
    pub personality: Personality,
    /// The reach of a durable write.
    pub durable_cover: DurableCover,
    /// What goes wrong.
    pub faults: Faults,
    /// The shortest time that an operation takes.
    pub latency_min: Duration,
    /// The longest time that an operation takes, unless it is drawn to be slow.
    pub latency_max: Duration,
    /// How often an operation on a name or a length ends at once, without a turn of other tasks, in parts per 10,000.
    /// On a real machine these are plain system calls: all of them do.
    pub at_once: u16,
    /// How much simulated time one step takes, so that a task that yields for ever does not stop the clock.
    pub step_time: Duration,
    /// A run that takes more steps ends with [`super::Outcome::StepLimit`].
    pub step_max: u64,
    /// The I/O index after whose event the power fails.
    pub crash_at: Option<u64>,
    /// The bytes that files may grow by; `None` for no limit. A name can be created only while there is a page left.
    pub free_bytes: Option<u64>,
    /// Whether there is a cold target. Its objects live on the disk, whether there is one or not.
    pub cold: bool,
    /// The answer to [`crate::Env::read_depth`].
    pub read_depth: usize,
    /// Whether to keep a line of text per step and I/O event, for the replay of one seed.
    pub trace: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            personality: Personality::Strict,
            durable_cover: DurableCover::File,
            faults: Faults::default(),
            latency_min: Duration::from_micros(5),
            latency_max: Duration::from_micros(200),
            at_once: 5_000,
            step_time: Duration::from_micros(1),
            step_max: 2_000_000,
            crash_at: None,
            free_bytes: None,
            cold: false,
            read_depth: 32,
            trace: false,
        }
    }
}

impl SimOptions {
    /// The default conditions with a seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}
