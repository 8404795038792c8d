//! The directory that the demo works in.

use std::path::{Path, PathBuf};

use op_engine_io::real::probe;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::tell;

/// A directory that goes when this does, unless it is to be kept.
pub(super) struct Workdir {
    path: PathBuf,
    keep: bool,
}

impl Workdir {
    /// A new directory in `parent`, or else in the first place for temporary files that can hold a store.
    pub(super) fn create(parent: Option<&Path>, keep: bool) -> Outcome<Self> {
        if let Some(parent) = parent {
            return Self::make(parent, keep);
        }
        let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
        let mut last = None;
        for place in places {
            match Self::make(&place, keep).map(|workdir| (probe(&workdir.path, 1 << 20).require(), workdir)) {
                Ok((Ok(()), workdir)) => return Ok(workdir),
                Ok((Err(error), _)) => last = Some(error.into()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Failure::Other("there is no place for the demo: give --path".to_owned())))
    }

    fn make(parent: &Path, keep: bool) -> Outcome<Self> {
        let path = parent.join(format!("op-engine-demo-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::os(format!("create {}", path.display()), error))?;
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { path, keep })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn store(&self) -> PathBuf {
        self.path.join("store")
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tell(format_args!("warning: could not remove {}: {error}", self.path.display()));
        }
    }
}
