//! Opening the store that a command names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use op_engine::{ColdTarget, Config, Engine, Error, Tip, chain};

use super::failure::Outcome;

/// The store of a command.
#[derive(Args)]
pub(crate) struct StoreArgs {
    /// The directory of the store
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Where old data was moved to: a directory, or s3://bucket/prefix
    #[arg(long, value_name = "TARGET", env = "OP_ENGINE_COLD_TARGET")]
    cold_target: Option<String>,
}

/// How long a command waits for another process to let go of the store.
const LOCK_WAIT: Duration = Duration::from_secs(2);

impl StoreArgs {
    /// A configuration for the store, which is not created.
    pub(crate) fn config(&self) -> Outcome<Config> {
        check_exists(&self.store)?;
        let config = config(&self.store).create(false);
        match &self.cold_target {
            None => Ok(config),
            Some(target) => Ok(config.cold(ColdTarget::parse(target)?)),
        }
    }

    /// Whether a cold target is given.
    pub(crate) fn has_cold_target(&self) -> bool {
        self.cold_target.is_some()
    }

    /// Opens the store for reading only: nothing in it is changed.
    pub(crate) fn open_to_read(&self) -> Outcome<Engine> {
        Ok(Engine::open_blocking(self.config()?.read_only(true))?)
    }

    /// Opens the store to change it.
    pub(crate) fn open_to_write(&self) -> Outcome<Engine> {
        Ok(Engine::open_blocking(self.config()?)?)
    }
}

/// The configuration for a store with the collections of the chain.
pub(crate) fn config(path: &Path) -> Config {
    Config::new(path).collections(chain::collections).lock_wait(LOCK_WAIT)
}

/// Refuses a directory that holds no store before anything is opened in it: not even a lock file is left behind.
pub(crate) fn check_exists(path: &Path) -> Outcome {
    if holds_store(path) {
        return Ok(());
    }
    Err(Error::NoStore { path: path.to_path_buf() }.into())
}

/// Whether a directory holds a store, or at least a part of one.
pub(crate) fn holds_store(path: &Path) -> bool {
    path.join("0000000000000000.super").exists() || path.join("shard-000").exists()
}

/// The tip of a store that is not empty.
pub(crate) fn tip_of(engine: &Engine) -> Outcome<Tip> {
    Ok(engine.tip().ok_or(Error::EmptyChain)?)
}
