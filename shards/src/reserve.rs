//! Space that a shard keeps for what must not fail when the disk is full.
//!
//! However full the disk, a shard takes a reorg, goes on in a new manifest or WAL file, is closed and is opened again.
//! What that needs are a few small files. The reserve is a number of files of one length, the chunks, whose space was
//! taken from the filesystem before: when one of those small files cannot be made, a chunk is removed and the making is
//! tried again. Once there is space again, the chunk is made anew.
//!
//! Free space is no substitute: other programs may use it up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env, File, FileKind, FileName, OpenMode, Space};

use crate::error::Result;
use crate::ids::ShardId;
use crate::log::{UNIT_BYTES, unit_ceil};
use crate::signal::Signal;

/// The reserve of a shard, unless it is set: this, or the given part of the filesystem if that is less.
const BYTES_MAX: u64 = 64 << 20;
const PARTS_OF_FILESYSTEM: u64 = 100;
/// Chunks are few, so that opening a store looks at few files, and many enough for some files to be made one by one.
const CHUNKS: u64 = 16;
/// A small WAL file fits into a chunk, and so does a manifest of a few segments.
const CHUNK_BYTES_MIN: u64 = 64 << 10;

/// The reserve of one shard. Shared by its tasks through an `Rc`.
#[derive(Debug)]
pub struct Reserve<E: Env> {
    env: E,
    shard: ShardId,
    chunk_bytes: u64,
    chunks_wanted: u64,
    /// The numbers of those that are there.
    chunks: RefCell<BTreeSet<u64>>,
    /// Numbers are not given twice: a chunk that is being removed is still there for a while.
    next_number: Cell<u64>,
    /// Files that are being made in its space.
    borrowers: Cell<u32>,
    /// Whether a chunk could not be made although there seemed to be space.
    refused: Cell<bool>,
    given_up: Signal,
}

impl<E: Env> Reserve<E> {
    /// No reserve: for a store that is being created.
    #[must_use]
    pub fn none(env: &E, shard: ShardId) -> Self {
        Self::of_bytes(env, shard, 0)
    }

    fn of_bytes(env: &E, shard: ShardId, bytes: u64) -> Self {
        let chunk_bytes = unit_ceil((bytes / CHUNKS).max(CHUNK_BYTES_MIN.min(bytes)));
        Self {
            env: env.clone(),
            shard,
            chunk_bytes,
            chunks_wanted: bytes.checked_div(chunk_bytes).unwrap_or(0),
            chunks: RefCell::default(),
            next_number: Cell::new(1),
            borrowers: Cell::new(0),
            refused: Cell::new(false),
            given_up: Signal::default(),
        }
    }

    /// The reserve of `bytes`, or of the default size, with what is there of it among the files of the shard's
    /// directory. Chunks of another length are removed.
    ///
    /// # Errors
    /// If a file cannot be looked at or removed.
    pub async fn find(env: &E, shard: ShardId, bytes: Option<u64>, files: &[FileName]) -> Result<Self> {
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => default_bytes(env.space().await?),
        };
        let reserve = Self::of_bytes(env, shard, bytes);
        let chunks_wanted = usize::try_from(reserve.chunks_wanted).unwrap_or(usize::MAX);
        for name in files.iter().filter(|name| name.kind == FileKind::Reserve) {
            reserve.next_number.set(reserve.next_number.get().max(name.number.saturating_add(1)));
            let len = env.open(*name, OpenMode::Read).await?.len().await?;
            if len == reserve.chunk_bytes && reserve.chunks() < chunks_wanted {
                reserve.chunks.borrow_mut().insert(name.number);
            } else {
                env.remove(*name).await?;
            }
        }
        Ok(reserve)
    }

    /// The length of a chunk.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// What is there of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        to_u64(self.chunks.borrow().len()) * self.chunk_bytes
    }

    /// What has to be made anew.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.chunks_wanted * self.chunk_bytes - self.bytes()
    }

    /// What a file of `bytes` takes away from the reserve: whole chunks.
    #[must_use]
    pub fn cost_bytes(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.chunk_bytes.max(1))
    }

    /// Whether the last chunk could not be made although there seemed to be space.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.get()
    }

    /// Raised when a chunk has been given up.
    #[must_use]
    pub fn given_up(&self) -> &Signal {
        &self.given_up
    }

    /// Makes a file. For as long as there is no space for it, gives up one chunk after another and tries again.
    /// `attempt` leaves nothing behind when it fails for lack of space.
    ///
    /// # Errors
    /// Why it could not be made: out of space if the whole reserve was not enough.
    pub async fn within<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        // What is given up here must not be taken back before it is used.
        let _borrowing = Borrowing::begin(self);
        loop {
            let outcome = attempt().await;
            let full = outcome.as_ref().is_err_and(crate::Error::is_out_of_space);
            if !full || !self.give_up().await? {
                return outcome;
            }
        }
    }

    /// Gives a chunk back to the filesystem, if there is one.
    async fn give_up(&self) -> Result<bool> {
        let Some(number) = self.chunks.borrow_mut().pop_last() else { return Ok(false) };
        tracing::warn!(shard = %self.shard, "the disk is full: space is taken from the reserve");
        match self.env.remove(self.name(number)).await {
            // Somebody made room by hand.
            Err(op_engine_io::Error::NotFound { .. }) => {}
            removed => removed?,
        }
        self.env.sync_dir(Dir::Shard(self.shard.0)).await?;
        Ok(true)
    }

    /// Makes one of the chunks that are missing, durably, if the disk says that it has space for it. `false` if it does
    /// not, or none is missing.
    ///
    /// # Errors
    /// Out of space if there is none for it all the same; nothing is left behind then.
    pub async fn refill(&self) -> Result<bool> {
        let is_used = self.borrowers.get() > 0;
        if self.missing_bytes() == 0 || is_used || self.env.space().await?.available_bytes < self.chunk_bytes
        {
            return Ok(false);
        }
        let made = self.make_chunk().await.map(|()| true);
        self.refused.set(made.as_ref().is_err_and(crate::Error::is_out_of_space));
        made
    }

    async fn make_chunk(&self) -> Result<()> {
        let number = self.next_number.get();
        self.next_number.set(number.saturating_add(1));
        let name = self.name(number);
        let file = self.env.open(name, OpenMode::CreateNew).await?;
        let allocated = async {
            file.allocate(self.chunk_bytes).await?;
            file.sync_data().await
        };
        let allocated = allocated.await;
        drop(file);
        if let Err(error) = allocated {
            self.env.remove(name).await?;
            return Err(error.into());
        }
        self.env.sync_dir(Dir::Shard(self.shard.0)).await?;
        self.chunks.borrow_mut().insert(number);
        Ok(())
    }

    fn name(&self, number: u64) -> FileName {
        FileName { dir: Dir::Shard(self.shard.0), kind: FileKind::Reserve, number }
    }

    /// How many chunks are there.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks.borrow().len()
    }
}

/// Marks the reserve as being used, and has it refilled afterwards.
struct Borrowing<'a> {
    borrowers: &'a Cell<u32>,
    given_up: &'a Signal,
}

impl<'a> Borrowing<'a> {
    fn begin<E: Env>(reserve: &'a Reserve<E>) -> Self {
        reserve.borrowers.set(reserve.borrowers.get() + 1);
        Self { borrowers: &reserve.borrowers, given_up: &reserve.given_up }
    }
}

impl Drop for Borrowing<'_> {
    fn drop(&mut self) {
        self.borrowers.set(self.borrowers.get() - 1);
        self.given_up.raise();
    }
}

fn default_bytes(space: Space) -> u64 {
    BYTES_MAX.min(space.total_bytes / PARTS_OF_FILESYSTEM)
}

const _: () = assert!(CHUNK_BYTES_MIN.is_multiple_of(UNIT_BYTES));

#[cfg(test)]
mod tests {
    use op_engine_io::num::to_usize;
    use op_engine_io::sim::{Faults, Personality, SimDisk, SimEnv, SimOptions, SimWorld};

    use super::*;
    use crate::error::Error;
    use crate::log::testing::{IDENTITY, empty_disk, moments, run};

    const SHARD: ShardId = IDENTITY.shard;
    const BYTES: u64 = 4 * CHUNK_BYTES_MIN;

    async fn find(env: &SimEnv, bytes: u64) -> Reserve<SimEnv> {
        let files = env.list(Dir::Shard(SHARD.0)).await.unwrap();
        Reserve::find(env, SHARD, Some(bytes), &files).await.unwrap()
    }

    async fn fill(reserve: &Reserve<SimEnv>) {
        while reserve.refill().await.unwrap() {}
    }

    fn reserve_files(disk: &SimDisk) -> Vec<FileName> {
        disk.files().into_iter().filter(|name| name.kind == FileKind::Reserve).collect()
    }

    #[test]
    fn sizes_are_whole_chunks_within_what_was_asked_for() {
        let sizes = [(0, 0, 0), (1, 1, 4096), (70 << 10, 1, 64 << 10), (BYTES, 4, 64 << 10)];
        for (bytes, chunks, chunk_bytes) in sizes.into_iter().chain([(64 << 20, 16, 4 << 20)]) {
            let ((), _) = run(empty_disk(), async move |env: SimEnv| {
                let reserve = find(&env, bytes).await;
                let wanted = if bytes == 1 { 0 } else { chunks };
                assert_eq!(reserve.missing_bytes(), wanted * chunk_bytes, "of {bytes}");
            });
        }
        let total = |total_bytes| default_bytes(Space { available_bytes: 0, total_bytes });
        assert_eq!((total(1 << 40), total(200 << 20)), (64 << 20, 2 << 20));
    }

    #[test]
    fn it_is_found_again_and_follows_the_setting() {
        let ((), disk) = run(empty_disk(), async |env: SimEnv| fill(&find(&env, BYTES).await).await);
        assert_eq!(reserve_files(&disk).len(), 4);
        let ((), disk) = run(disk, async |env: SimEnv| {
            assert_eq!(find(&env, BYTES).await.missing_bytes(), 0);
            let larger = find(&env, 5 * CHUNK_BYTES_MIN).await;
            assert_eq!(larger.missing_bytes(), CHUNK_BYTES_MIN);
            assert_eq!(find(&env, 2 * CHUNK_BYTES_MIN).await.bytes(), 2 * CHUNK_BYTES_MIN);
        });
        assert_eq!(reserve_files(&disk).len(), 2);
        let ((), disk) = run(disk, async |env: SimEnv| assert_eq!(find(&env, 0).await.bytes(), 0));
        assert_eq!(reserve_files(&disk), []);
    }

    #[test]
    fn what_does_not_fit_is_made_in_its_space_until_it_is_used_up() {
        let world = SimWorld::new(SimOptions::with_seed(1), empty_disk());
        let env = world.env();
        let done = world.run(async {
            let reserve = find(&env, BYTES).await;
            fill(&reserve).await;
            world.set_free_bytes(Some(0));
            let mut number = 0;
            let mut make = async |bytes: u64| {
                reserve
                    .within(async || {
                        number += 1;
                        let name = FileName { dir: Dir::Shard(0), kind: FileKind::Wal, number };
                        let file = env.open(name, OpenMode::CreateNew).await?;
                        let filled = file.zero_fill(bytes).await;
                        drop(file);
                        if filled.is_err() {
                            env.remove(name).await?;
                        }
                        Ok(filled?)
                    })
                    .await
            };
            make(CHUNK_BYTES_MIN).await.unwrap();
            assert_eq!(reserve.chunks(), 3);
            make(2 * CHUNK_BYTES_MIN).await.unwrap();
            assert_eq!(reserve.chunks(), 1);
            assert!(make(2 * CHUNK_BYTES_MIN).await.unwrap_err().is_out_of_space());
            assert_eq!(reserve.chunks(), 0);
            assert_eq!(env.space().await.unwrap().available_bytes, CHUNK_BYTES_MIN);

            // One chunk fits, the second does not, and leaves nothing.
            assert_eq!(reserve.refill().await, Ok(true));
            assert_eq!(reserve.refill().await, Ok(false));
            assert!(!reserve.is_refused());
            // Space that the disk tells of and does not give, as with a quota.
            world.set_free_bytes(None);
            world.set_faults(Faults { no_space: 10_000, ..Faults::default() });
            assert!(reserve.refill().await.unwrap_err().is_out_of_space());
            assert!(reserve.is_refused());
            world.set_faults(Faults::default());
            fill(&reserve).await;
            assert!(!reserve.is_refused());
            // Any other failure is none of its business.
            let failed = reserve.within(async || Err::<(), _>(Error::Closed)).await;
            assert_eq!(failed, Err(Error::Closed));
            assert_eq!(reserve.chunks(), 4);
        });
        done.done().unwrap();
        assert_eq!(reserve_files(&world.stop()).len(), 4);
    }

    #[test]
    fn a_chunk_that_somebody_removed_is_no_trouble() {
        let ((), mut disk) = run(empty_disk(), async |env: SimEnv| fill(&find(&env, BYTES).await).await);
        let reserve_names = reserve_files(&disk);
        disk.remove_file(reserve_names[3]);
        let world = SimWorld::new(SimOptions::with_seed(1), disk);
        let env = world.env();
        let done = world.run(async {
            let reserve = find(&env, BYTES).await;
            assert_eq!(reserve.chunks(), 3);
            env.remove(reserve_names[2]).await.unwrap();
            assert!(reserve.give_up().await.unwrap());
            assert_eq!(reserve.chunks(), 2);
        });
        done.done().unwrap();
        drop(world.stop());
    }

    #[test]
    fn a_crash_at_any_moment_leaves_chunks_that_count_only_with_their_full_length() {
        let (_, _, moments) = moments(3, empty_disk(), (), async |env, _| {
            let reserve = find(&env, BYTES).await;
            fill(&reserve).await;
            reserve.give_up().await.unwrap();
            fill(&reserve).await;
        });
        for (at, (disk, ())) in (0..).zip(&moments) {
            for personality in [Personality::Strict, Personality::Ext4] {
                let ((), disk) = run(disk.crash(at, personality), async |env: SimEnv| {
                    fill(&find(&env, BYTES).await).await;
                });
                let lens: Vec<usize> =
                    reserve_files(&disk).iter().map(|name| disk.read_file(*name).unwrap().len()).collect();
                assert_eq!(lens, [to_usize(CHUNK_BYTES_MIN); 4]);
            }
        }
    }
}
