//! Where in which object store the objects are.

use std::fmt;

use crate::error::{Error, Result};

const SCHEME: &str = "s3://";

/// The bucket of an object store, and the prefix that all names in it have: `s3://bucket/prefix`.
///
/// There is no place for credentials in it. They come from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStoreUrl {
    bucket: String,
    /// Parts of the prefix, none of them empty.
    prefix: Vec<String>,
}

impl ObjectStoreUrl {
    /// Reads `s3://bucket` or `s3://bucket/prefix`, with letters, digits, `.`, `-` and `_` in the parts.
    ///
    /// # Errors
    /// [`Error::Setting`] for anything else. It does not repeat the text, which might hold a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| Error::Setting {
            name: "cold",
            value: "this URL of an object store".to_owned(),
            why: format!("{why}: write s3://bucket/prefix, and give credentials by AWS_* variables only"),
        };
        let Some(rest) = text.strip_prefix(SCHEME) else { return Err(refused("its scheme is not known")) };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut parts = rest.split('/').map(str::to_owned);
        let is_plain = |part: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain)
        };
        let bucket = parts.next().filter(is_plain).ok_or_else(|| refused("it names no bucket"))?;
        let prefix: Vec<String> = parts.collect();
        if !prefix.iter().all(is_plain) {
            return Err(refused("its prefix has empty parts or special characters"));
        }
        Ok(Self { bucket, prefix })
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The parts of the prefix of all names.
    pub(super) fn prefix(&self) -> &[String] {
        &self.prefix
    }
}

impl fmt::Display for ObjectStoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.bucket)?;
        self.prefix.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written() {
        for text in ["s3://attic", "s3://attic/node-1", "s3://at.tic/a/b_c"] {
            assert_eq!(ObjectStoreUrl::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ObjectStoreUrl::parse("s3://attic/").unwrap().to_string(), "s3://attic");
    }

    #[test]
    fn what_could_hold_a_secret_is_refused_and_not_repeated() {
        let refused = [
            "s3://",
            "s3:///x",
            "gs://attic",
            "s3://key:hunter2@attic/x",
            "s3://attic/x?token=hunter2",
            "s3://attic/../hunter2",
            "s3://attic//hunter2",
            "https://hunter2",
            "s3://attic/hunter2#",
        ];
        for text in refused {
            let error = ObjectStoreUrl::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
