//! A failure of a target before it is known whose request it ends.

use std::io;

use super::fault::ColdFault;
use crate::error::{Error, FileOp};

/// How a request failed, and what the target said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) fault: ColdFault,
    pub(super) what: String,
}

impl Failure {
    pub(super) fn new(fault: ColdFault, what: impl Into<String>) -> Self {
        Self { fault, what: what.into() }
    }

    /// For an error number of a system call.
    pub(super) fn of_errno(errno: i32) -> Self {
        Self::new(ColdFault::from_errno(errno), io::Error::from_raw_os_error(errno).to_string())
    }

    /// For an upload that cannot be gone on with.
    pub(super) fn broken_upload() -> Self {
        Self::new(ColdFault::Other, "an earlier part of this upload failed")
    }

    /// For a range that ends behind the object.
    pub(super) fn short(len: u64, offset: u64, bytes: u64) -> Self {
        let end = offset.saturating_add(bytes);
        Self::new(ColdFault::Short, format!("it has {len} bytes, and those up to {end} were asked for"))
    }

    /// The error of a request.
    pub(super) fn error(self, target: String, op: FileOp, file: String) -> Error {
        Error::Cold { target, op, file, fault: self.fault, what: self.what }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::of_errno(errno),
            None => Self::new(ColdFault::Other, error.to_string()),
        }
    }
}
