//! Which cold target a store has, and what is asked of it at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a store keeps data that is seldom read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColdTarget {
    /// A directory, on any mount. It must exist; it belongs to one store.
    Directory(PathBuf),
}

impl fmt::Display for ColdTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// How much is asked of a cold target at once, and how long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdLimits {
    /// How many requests are made at the same time, at least one.
    pub concurrency: usize,
    /// How long a read may take before it fails, and whatever else changes nothing of what is there.
    pub read: Duration,
    /// How long a write, a removal, or the last step of an upload may take before it fails.
    pub change: Duration,
}

impl Default for ColdLimits {
    fn default() -> Self {
        Self { concurrency: 8, read: Duration::from_secs(30), change: Duration::from_secs(120) }
    }
}
