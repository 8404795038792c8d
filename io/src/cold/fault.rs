//! In which ways a cold target fails.

use std::fmt;

/// Why a cold target did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColdFault {
    /// It is not there: not mounted, no connection, or it reports that its device fails. A change may have been made
    /// all the same.
    Unreachable,
    /// It did not answer in time. A change may be made all the same, even later.
    TimedOut,
    /// It refuses the operation to this process.
    Denied,
    /// It has no space left, or a quota is used up.
    Full,
    /// It has no such object.
    Missing,
    /// The object ends before the range that was asked for, or the answer was cut off.
    Short,
    /// Anything else.
    Other,
}

impl ColdFault {
    /// Whether the same request can succeed later without anybody doing anything to the store's data.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut | Self::Denied | Self::Full)
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable | Self::TimedOut => {
                "check that the target is mounted and reachable; hot data is not affected, and reads go on by \
                 themselves once it is back"
            }
            Self::Denied => {
                "check the permissions of the directory, or the credentials in the environment; hot data is not \
                 affected"
            }
            Self::Full => "free some space on the target or raise its quota; until then data stays hot",
            Self::Missing => {
                "check that this is the store's own cold target and bring the object back from a copy of it"
            }
            Self::Short => "bring the object back from a copy of the target if a repeated read fails as well",
            Self::Other => "see the target's own log; hot data is not affected",
        }
    }

    /// What the error number of a call on a mounted target means.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::Full,
            libc::EACCES | libc::EPERM | libc::EROFS => Self::Denied,
            libc::ENOENT => Self::Missing,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::EIO
            | libc::ENXIO
            | libc::ENODEV
            | libc::ESTALE
            | libc::ENOTCONN
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::ENETRESET
            | libc::EPIPE
            | libc::ESHUTDOWN
            | libc::EREMOTEIO
            | libc::ENOMEDIUM
            | libc::ENOLINK => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// An error number that stands for the fault in a trace.
    pub(crate) const fn errno(self) -> i32 {
        match self {
            Self::Unreachable => libc::EHOSTDOWN,
            Self::TimedOut => libc::ETIMEDOUT,
            Self::Denied => libc::EACCES,
            Self::Full => libc::ENOSPC,
            Self::Missing => libc::ENOENT,
            Self::Short => libc::ENODATA,
            Self::Other => libc::EPROTO,
        }
    }
}

impl fmt::Display for ColdFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "it cannot be reached",
            Self::TimedOut => "it did not answer in time",
            Self::Denied => "it refuses access",
            Self::Full => "it is full",
            Self::Missing => "it has no such object",
            Self::Short => "the answer is too short",
            Self::Other => "it failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, FileOp};

    const ALL: [ColdFault; 7] = [
        ColdFault::Unreachable,
        ColdFault::TimedOut,
        ColdFault::Denied,
        ColdFault::Full,
        ColdFault::Missing,
        ColdFault::Short,
        ColdFault::Other,
    ];

    #[test]
    fn a_message_names_target_object_cause_and_remedy() {
        for fault in ALL {
            let error = Error::Cold {
                target: "/mnt/attic".to_owned(),
                op: FileOp::Read,
                file: "shard-001/0000000000000007.cold".to_owned(),
                fault,
                what: "the reason".to_owned(),
            };
            assert!(error.is_cold());
            let text = error.to_string();
            let parts =
                ["/mnt/attic", "read", "shard-001/0000000000000007.cold", "the reason", fault.remedy()];
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert!(text.contains(&fault.to_string()), "{text}");
        }
        assert!(!Error::Stopped.is_cold());
    }

    #[test]
    fn the_error_numbers_of_mounts_have_their_meaning() {
        let cases = [
            (libc::EDQUOT, ColdFault::Full),
            (libc::EROFS, ColdFault::Denied),
            (libc::ENOENT, ColdFault::Missing),
            (libc::ESTALE, ColdFault::Unreachable),
            (libc::ENOTCONN, ColdFault::Unreachable),
            (libc::EIO, ColdFault::Unreachable),
            (libc::ETIMEDOUT, ColdFault::TimedOut),
            (libc::EINVAL, ColdFault::Other),
        ];
        for (errno, fault) in cases {
            assert_eq!(ColdFault::from_errno(errno), fault);
        }
        // What stands for a fault in a trace means that fault; a cut answer has no number of its own.
        for fault in ALL.into_iter().filter(|fault| *fault != ColdFault::Short) {
            assert_eq!(ColdFault::from_errno(fault.errno()), fault);
        }
    }
}
