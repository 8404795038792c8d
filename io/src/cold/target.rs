//! Which cold target a store has, and what is asked of it at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "object-store")]
use super::object::ObjectStoreUrl;
use crate::error::{Error, Result};

/// Where a store keeps data that is seldom read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColdTarget {
    /// A directory, on any mount. It must exist; it belongs to one store.
    Directory(PathBuf),
    /// A bucket of an object store, with credentials from the environment.
    #[cfg(feature = "object-store")]
    ObjectStore(ObjectStoreUrl),
}

impl ColdTarget {
    /// Reads a path, `file:///path`, or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// - [`Error::Setting`] for a URL of another kind, or one with credentials in it. It does not repeat the URL.
    /// - [`Error::Unsupported`] for an object store if the feature `object-store` was left out.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| Error::Setting {
            name: "cold",
            value: "what was given".to_owned(),
            why: format!("{why}: give a directory, or s3://bucket/prefix"),
        };
        match text.split_once("://") {
            None if text.is_empty() => Err(refused("it is empty")),
            None => Ok(Self::Directory(PathBuf::from(text))),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Directory(PathBuf::from(path))),
            Some(("s3", _)) => Self::object_store(text),
            Some(_) => Err(refused("such a URL is not known")),
        }
    }

    #[cfg(feature = "object-store")]
    fn object_store(text: &str) -> Result<Self> {
        ObjectStoreUrl::parse(text).map(Self::ObjectStore)
    }

    #[cfg(not(feature = "object-store"))]
    fn object_store(_text: &str) -> Result<Self> {
        Err(Error::Unsupported {
            what: "keeping cold data in an object store".to_owned(),
            cause: "this program was built without it".to_owned(),
            remedy: "build it with the feature `object-store`, or give a directory".to_owned(),
        })
    }
}

impl fmt::Display for ColdTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            #[cfg(feature = "object-store")]
            Self::ObjectStore(url) => url.fmt(f),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        for (text, path) in
            [("/mnt/attic", "/mnt/attic"), ("attic", "attic"), ("file:///mnt/attic", "/mnt/attic")]
        {
            let target = ColdTarget::parse(text).unwrap();
            assert_eq!(target, ColdTarget::Directory(PathBuf::from(path)));
            assert_eq!(target.to_string(), path);
        }
        for text in ["", "file://attic", "http://me:hunter2@attic", "s3://me:hunter2@attic"] {
            let error = ColdTarget::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!(ColdTarget::parse("s3://attic/x").is_ok(), cfg!(feature = "object-store"));
    }
}
