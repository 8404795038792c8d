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
