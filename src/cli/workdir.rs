//! A directory to work in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use op_engine_io::real::probe;

use super::failure::{Failure, Outcome};
use super::show::tell;

/// How often, and after which pause, a directory is tried to be removed again.
const REMOVALS_MAX: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// A directory that goes when this does, unless it is to be kept.
pub(crate) struct Workdir {
    path: PathBuf,
    keep: bool,
}

impl Workdir {
    /// A new directory for a command, in `parent` or else in the first place for temporary files that can hold a store.
    pub(crate) fn create(command: &str, parent: Option<&Path>, keep: bool) -> Outcome<Self> {
        if let Some(parent) = parent {
            return Self::make(command, parent, keep);
        }
        let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
        let mut last = None;
        for place in places {
            match Self::make(command, &place, keep)
                .map(|workdir| (probe(&workdir.path, 1 << 20).require(), workdir))
            {
                Ok((Ok(()), workdir)) => return Ok(workdir),
                Ok((Err(error), _)) => last = Some(error.into()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Failure::Other("there is no place to work in: give --path".to_owned())))
    }

    fn make(command: &str, parent: &Path, keep: bool) -> Outcome<Self> {
        let path = parent.join(format!("op-engine-{command}-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::os(format!("create {}", path.display()), error))?;
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // After a failure a store may still be closing in the background, and its files come and go.
        let mut outcome = std::fs::remove_dir_all(&self.path);
        for _ in 0..REMOVALS_MAX {
            if outcome.is_ok() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
            outcome = std::fs::remove_dir_all(&self.path);
        }
        if let Err(error) = outcome {
            tell(format_args!("warning: could not remove {}: {error}", self.path.display()));
        }
    }
}
