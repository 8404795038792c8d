//! WAL files that are ready for use.

use std::cell::{Cell, RefCell};

use op_engine_io::{Dir, Env, File, OpenMode};

use super::{LiveFile, WalConfig, wal_name};
use crate::error::Result;
use crate::ids::ShardId;
use crate::mutants::{self, Mutant};

/// A file that was filled with zeros once, whose name is durable, and whose content nobody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FreeFile {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

/// WAL files that are ready for use, and the making of more.
#[derive(Debug)]
pub(super) struct Pool<E: Env> {
    env: E,
    shard: ShardId,
    config: WalConfig,
    free: RefCell<Vec<FreeFile>>,
    next_number: Cell<u64>,
    preparing: Cell<bool>,
}

/// Ends the preparation however it ends.
struct Preparing<'a>(&'a Cell<bool>);

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<E: Env> Pool<E> {
    /// A pool of `free`, which creates files from `next_number` on.
    pub(super) fn new(
        env: &E,
        shard: ShardId,
        config: WalConfig,
        free: Vec<FreeFile>,
        next_number: u64,
    ) -> Self {
        Self {
            env: env.clone(),
            shard,
            config,
            free: RefCell::new(free),
            next_number: Cell::new(next_number),
            preparing: Cell::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.free.borrow().len()
    }

    /// A file of at least `needed` bytes: a free one, or a new one.
    pub(super) async fn take(&self, needed: u64) -> Result<FreeFile> {
        let ready = {
            let mut free = self.free.borrow_mut();
            free.iter().position(|file| file.bytes >= needed).map(|at| free.swap_remove(at))
        };
        match ready {
            Some(file) => Ok(file),
            None => self.create(needed.max(self.config.file_bytes)).await,
        }
    }

    /// Makes sure that there is a file for an ordinary rotation.
    pub(super) async fn prepare(&self) -> Result<()> {
        if self.len() > 0 || self.preparing.replace(true) {
            return Ok(());
        }
        let _preparing = Preparing(&self.preparing);
        let file = self.create(self.config.file_bytes).await?;
        self.free.borrow_mut().push(file);
        Ok(())
    }

    /// Keeps files of the ordinary size up to the limit and removes the others.
    pub(super) async fn take_back(&self, files: Vec<LiveFile>) -> Result<()> {
        let mut surplus = Vec::new();
        for LiveFile { number, bytes, .. } in files {
            let mut free = self.free.borrow_mut();
            if bytes == self.config.file_bytes && free.len() < self.config.free_files_max {
                free.push(FreeFile { number, bytes });
            } else {
                surplus.push(number);
            }
        }
        if surplus.is_empty() {
            return Ok(());
        }
        for number in surplus {
            self.env.remove(wal_name(self.shard, number)).await?;
        }
        self.sync_names().await
    }

    async fn create(&self, bytes: u64) -> Result<FreeFile> {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let name = wal_name(self.shard, number);
        let file = self.env.open(name, OpenMode::CreateNew).await?;
        if let Err(error) = file.zero_fill(bytes).await {
            // Disk full is likely here. What was taken is given back; the failure that counts is the one above.
            drop(self.env.remove(name).await);
            return Err(error.into());
        }
        self.sync_names().await?;
        Ok(FreeFile { number, bytes })
    }

    async fn sync_names(&self) -> Result<()> {
        if !mutants::active(Mutant::SkipDirectorySync) {
            self.env.sync_dir(Dir::Shard(self.shard.0)).await?;
        }
        Ok(())
    }
}
