//! The way in which a write is made durable.

use std::fmt;
use std::str::FromStr;

/// The way in which a durable write reaches the medium.
///
/// All modes give the same guarantee once the write is reported as done. They differ in the number of
/// submissions and device commands, and which of them is fastest depends on the device: a drive with a
/// power-protected cache ignores flushes, a drive with FUA can skip them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// The write first, and `fdatasync` after its completion was seen.
    WriteThenSync,
    /// The write and `fdatasync` in one submission, ordered by the kernel (`IOSQE_IO_LINK`).
    #[default]
    Linked,
    /// The write alone, with `RWF_DSYNC`. On a device with FUA this is one command without a cache flush.
    Dsync,
}

impl SyncMode {
    /// All modes, in the order in which a calibration tries them.
    pub const ALL: [Self; 3] = [Self::WriteThenSync, Self::Linked, Self::Dsync];

    /// The name as written in settings and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WriteThenSync => "write-then-sync",
            Self::Linked => "linked",
            Self::Dsync => "dsync",
        }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The given text names no sync mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no sync mode: use write-then-sync, linked or dsync")]
pub struct UnknownSyncMode(pub String);

impl FromStr for SyncMode {
    type Err = UnknownSyncMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| UnknownSyncMode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for mode in SyncMode::ALL {
            assert_eq!(mode.name().parse::<SyncMode>().unwrap(), mode);
        }
        assert_eq!("fsync".parse::<SyncMode>().unwrap_err(), UnknownSyncMode("fsync".to_owned()));
    }
}
