//! Deliberate faults, to test the tests: each must be caught by the crash tests.
//!
//! Without the feature `mutants` [`active`] is a constant `false` and the branches vanish.

/// A deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The WAL is written but not synced before a commit is called durable.
    SkipWalSync,
    /// Created and removed names are not made durable.
    SkipDirectorySync,
    /// A commit is acknowledged before the last shard has it.
    AcknowledgeEarly,
    /// Frames do not carry the highest cut.
    DropCutMark,
    /// Recovery goes on in the old term, so that stale frames can come back.
    SkipNewTerm,
    /// Segments that straddle a dead range show its entries.
    SkipMask,
    /// WAL files are recycled before the manifest record that makes them unneeded is durable.
    RecycleEarly,
    /// A segment is referenced before it is synced.
    SkipSegmentSync,
    /// A cold segment is referenced before its object is durable.
    SwitchBeforeSync,
    /// What was moved to the cold target is removed before the manifest record that refers to its new place.
    DeleteBeforeSwitch,
    /// The space of what a merge has taken over is given back while it is still read.
    ReleaseUnderReaders,
    /// A merge drops tombstones although older runs hold what they hide.
    DropTombstonesEarly,
    /// A merge drops versions that the reorg window still needs.
    ForgetWindow,
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether a fault is switched on for this thread.
#[must_use]
pub fn active(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    {
        ACTIVE.get() == Some(mutant)
    }
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}

/// Switches a fault on for this thread, or all off.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// How much longer every read of records takes, in nanoseconds.
#[cfg(feature = "mutants")]
static READ_DELAY_NANOS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Makes every read of records keep its shard busy for that much longer, to test what measures reads. Tells whether
/// this program can: only those built with the feature `mutants`.
pub fn delay_reads(delay: std::time::Duration) -> bool {
    #[cfg(feature = "mutants")]
    {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        READ_DELAY_NANOS.store(nanos, std::sync::atomic::Ordering::Relaxed);
        true
    }
    #[cfg(not(feature = "mutants"))]
    {
        let _ = delay;
        false
    }
}

/// How much longer reads of records are to take.
pub(crate) fn read_delay() -> std::time::Duration {
    #[cfg(feature = "mutants")]
    {
        std::time::Duration::from_nanos(READ_DELAY_NANOS.load(std::sync::atomic::Ordering::Relaxed))
    }
    #[cfg(not(feature = "mutants"))]
    {
        std::time::Duration::ZERO
    }
}
