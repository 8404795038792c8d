//! WAL files that are ready for use.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use op_engine_io::{Dir, Env, File, OpenMode};

use super::{LiveFile, WalConfig, wal_name};
use crate::error::Result;
use crate::ids::ShardId;
use crate::log::UNIT_BYTES;
use crate::mutants::{self, Mutant};
use crate::reserve::Reserve;

/// The length of a file that is made when there is no space for an ordinary one.
const SMALL_FILE_BYTES: u64 = 64 << 10;

const _: () = assert!(SMALL_FILE_BYTES.is_multiple_of(UNIT_BYTES));

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
    reserve: Rc<Reserve<E>>,
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
        reserve: Rc<Reserve<E>>,
        free: Vec<FreeFile>,
        next_number: u64,
    ) -> Self {
        Self {
            env: env.clone(),
            shard,
            config,
            reserve,
            free: RefCell::new(free),
            next_number: Cell::new(next_number),
            preparing: Cell::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.free.borrow().len()
    }

    /// The length of the largest free file.
    pub(super) fn largest_bytes(&self) -> u64 {
        self.free.borrow().iter().map(|file| file.bytes).max().unwrap_or(0)
    }

    /// The length of the file that is made when there is no space for an ordinary one.
    pub(super) fn small_file_bytes(&self) -> u64 {
        SMALL_FILE_BYTES.min(self.config.file_bytes)
    }

    /// The length of an ordinary file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.config.file_bytes
    }

    /// A file of at least `needed` bytes: a free one, or a new one. If the disk is full, it is a small one, and made in
    /// the space of the reserve.
    pub(super) async fn take(&self, needed: u64) -> Result<FreeFile> {
        let ready = {
            let mut free = self.free.borrow_mut();
            free.iter().position(|file| file.bytes >= needed).map(|at| free.swap_remove(at))
        };
        if let Some(file) = ready {
            return Ok(file);
        }
        match self.create(needed.max(self.config.file_bytes)).await {
            Err(error) if error.is_out_of_space() => {}
            made => return made,
        }
        let small = needed.max(self.small_file_bytes());
        self.reserve.within(async || self.create(small).await).await
    }

    /// Makes sure that there is a file for an ordinary rotation, if there is space for one.
    pub(super) async fn prepare(&self) -> Result<()> {
        if self.len() > 0 || self.preparing.replace(true) {
            return Ok(());
        }
        let _preparing = Preparing(&self.preparing);
        match self.create(self.config.file_bytes).await {
            Ok(file) => self.free.borrow_mut().push(file),
            // A rotation will do with less.
            Err(error) if error.is_out_of_space() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives back free files beyond the first `kept`.
    pub(super) async fn trim(&self, kept: usize) -> Result<()> {
        let surplus: Vec<u64> = {
            let mut free = self.free.borrow_mut();
            let kept = kept.min(free.len());
            free.drain(kept..).map(|file| file.number).collect()
        };
        self.remove(surplus).await
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
        self.remove(surplus).await
    }

    /// Removes files that nobody needs.
    pub(super) async fn remove(&self, numbers: Vec<u64>) -> Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        for number in numbers {
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
