//! The write-ahead log of one shard.
//!
//! Files are filled with zeros ahead of use and reused when a checkpoint covers them; each use has a higher
//! generation, which is part of every frame's checksum. A frame lies in one file. One too large for an ordinary file
//! gets a file of its own size. When the disk is full, small files are made, if need be in the space of the
//! [`Reserve`](crate::reserve::Reserve).
//!
//! Each open of the store begins a new term in a fresh file, whose header names the cut: what earlier terms wrote
//! above it is dead for ever. The header is one durable write, so a shard is either in the new term or not, and every
//! later file of the term repeats it.
//!
//! What never happens here:
//! - a byte that was acknowledged is written again;
//! - the file with the newest header is reused or removed;
//! - a failed write is retried: the log refuses all further ones.

mod pool;
mod recovery;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env, File, FileKind, FileName, OpenMode, WriteSync};

use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId, Term};
use crate::log::frame::FrameContext;
use crate::log::header::FileHeader;
use crate::log::writer::{write_bytes, write_frames, write_header};
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES, unit_ceil};
use crate::mutants::{self, Mutant};

use pool::{FreeFile, Pool};
pub use recovery::{Recovered, WalEnd, recover};

/// Limits of a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalConfig {
    /// The size of an ordinary file.
    pub file_bytes: u64,
    /// How many files that are free for reuse are kept.
    pub free_files_max: usize,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, free_files_max: 2 }
    }
}

impl WalConfig {
    /// The limits, with a file size that is a multiple of the unit and has room for a frame.
    fn normalised(self) -> Self {
        let file_bytes = unit_ceil(self.file_bytes.clamp(2 * UNIT_BYTES, 1 << 40));
        Self { file_bytes, free_files_max: self.free_files_max.max(1) }
    }
}

/// What a WAL has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Files that hold frames, the current one included.
    pub files: usize,
    /// Files ready for use.
    pub free_files: usize,
    /// Bytes written for frames, padding included.
    pub bytes_appended: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
}

/// A file of which a checkpoint covers everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// The file.
    pub file: FileName,
    /// How many of its bytes have frames or may have.
    pub bytes: u64,
    /// The highest number of a frame in it.
    pub last: Seq,
}

/// A file whose frames may still be needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LiveFile {
    number: u64,
    bytes: u64,
    /// The highest number of a frame in it, dead ones included: they are out of the way only when the checkpoint has
    /// passed them.
    seq_max: Seq,
}

/// The file that frames are appended to.
#[derive(Debug)]
struct Current<F> {
    file: F,
    context: FrameContext,
    bytes: u64,
    /// Where the next write begins.
    position: u64,
    /// Up to where writes have resolved.
    written: u64,
    /// Up to where they are durable.
    synced: u64,
    seq_max: Seq,
}

#[derive(Debug)]
struct State<F> {
    current: Current<F>,
    /// Older files, oldest first.
    closed: VecDeque<LiveFile>,
    next_generation: u64,
    last: Seq,
    appending: bool,
    failed: Option<Error>,
    stats: WalStats,
}

/// The write-ahead log of one shard. Shared by the tasks of the shard through an `Rc`.
#[derive(Debug)]
pub struct Wal<E: Env> {
    env: E,
    identity: Identity,
    term: Term,
    term_cut: Seq,
    seq_floor: Seq,
    pool: Pool<E>,
    state: RefCell<State<E::File>>,
}

/// Marks the log as being appended to. If the append does not come to a good end, the log takes no more: bytes whose
/// fate is unknown lie behind its last good frame.
struct Appending<'a, E: Env> {
    wal: &'a Wal<E>,
    outcome: Option<Result<()>>,
}

impl<E: Env> Drop for Appending<'_, E> {
    fn drop(&mut self) {
        let mut state = self.wal.state.borrow_mut();
        state.appending = false;
        match self.outcome.take() {
            Some(Ok(())) => {}
            Some(Err(error)) => state.failed = Some(error.poison()),
            None => state.failed = Some(Error::Closed),
        }
    }
}

impl<E: Env> Wal<E> {
    /// Appends frames in order. With `durable` they survive a crash once this resolves; without, once a later
    /// [`Wal::sync`] has. There is only one append at a time.
    ///
    /// # Errors
    /// If a write fails. All later appends fail then.
    pub async fn append(&self, frames: Vec<Frame>, durable: bool) -> Result<()> {
        self.check_usable()?;
        assert!(!self.state.borrow().appending, "one append at a time");
        self.state.borrow_mut().appending = true;
        let mut appending = Appending { wal: self, outcome: None };
        let outcome = self.append_all(frames, durable).await;
        appending.outcome = Some(outcome.clone());
        outcome
    }

    /// Makes every append that has resolved durable.
    ///
    /// # Errors
    /// If the sync fails. All later appends fail then.
    pub async fn sync(&self) -> Result<()> {
        self.check_usable()?;
        if mutants::active(Mutant::SkipWalSync) {
            return Ok(());
        }
        let (file, generation, written) = {
            let state = self.state.borrow();
            let current = &state.current;
            if current.synced == current.written {
                return Ok(());
            }
            (current.file.clone(), current.context.generation, current.written)
        };
        let outcome = file.sync_data().await.map_err(Error::from);
        let mut state = self.state.borrow_mut();
        match &outcome {
            Ok(()) if state.current.context.generation == generation => {
                state.current.synced = state.current.synced.max(written);
            }
            // A rotation has synced the file before it went on to the next.
            Ok(()) => {}
            Err(error) => state.failed = Some(error.clone().poison()),
        }
        outcome
    }

    /// The files whose frames are all numbered up to `through`, oldest first: a durable checkpoint covers them.
    #[must_use]
    pub fn covered(&self, through: Seq) -> Vec<Covered> {
        let state = self.state.borrow();
        let covered = state.closed.iter().filter(|file| file.seq_max <= through);
        let shard = self.identity.shard;
        covered
            .map(|file| Covered { file: wal_name(shard, file.number), bytes: file.bytes, last: file.seq_max })
            .collect()
    }

    /// Frees the files whose frames are all numbered up to `through`: a durable checkpoint covers them.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub async fn release(&self, through: Seq) -> Result<()> {
        let released: Vec<LiveFile> = {
            let mut state = self.state.borrow_mut();
            let (released, kept): (Vec<_>, Vec<_>) =
                state.closed.iter().partition(|file| file.seq_max <= through);
            state.closed = kept.into();
            released
        };
        self.pool.take_back(released).await
    }

    /// Makes sure that a file is ready for the next rotation, if there is space for one. Runs beside appends.
    ///
    /// # Errors
    /// If the file cannot be created or filled.
    pub async fn prepare(&self) -> Result<()> {
        self.check_usable()?;
        self.pool.prepare().await
    }

    /// Gives back files that are ready for use, but for the one that the next rotation takes.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub async fn trim(&self) -> Result<()> {
        self.pool.trim(1).await
    }

    /// The largest frame that can be appended after `queued` bytes of others without a new file, in bytes.
    #[must_use]
    pub fn room_bytes(&self, queued: u64) -> u64 {
        let state = self.state.borrow();
        let current = (state.current.bytes - state.current.position).saturating_sub(queued);
        current.max(self.pool.largest_bytes().saturating_sub(UNIT_BYTES))
    }

    /// The length of an ordinary file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.pool.file_bytes()
    }

    /// The length of the file that is made when there is no space for an ordinary one.
    #[must_use]
    pub fn small_file_bytes(&self) -> u64 {
        self.pool.small_file_bytes()
    }

    /// What the log has done so far.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        let state = self.state.borrow();
        WalStats { files: state.closed.len() + 1, free_files: self.pool.len(), ..state.stats }
    }

    /// The term in which frames are written.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    fn check_usable(&self) -> Result<()> {
        match &self.state.borrow().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    async fn append_all(&self, mut frames: Vec<Frame>, durable: bool) -> Result<()> {
        if mutants::active(Mutant::DropCutMark) {
            frames.iter_mut().for_each(|frame| frame.cut = Seq::ZERO);
        }
        check_frames(&frames, self.state.borrow().last)?;
        let mut rest = frames.as_slice();
        while let Some(first) = rest.first() {
            let fitting = self.fitting(rest);
            if fitting == 0 {
                self.rotate(first.file_bytes()).await?;
                continue;
            }
            let (now, later) = rest.split_at(fitting);
            self.write(now, durable).await?;
            rest = later;
        }
        Ok(())
    }

    /// How many of the frames fit into the current file.
    fn fitting(&self, frames: &[Frame]) -> usize {
        let state = self.state.borrow();
        let mut room = state.current.bytes - state.current.position;
        frames
            .iter()
            .take_while(|frame| {
                let left = room.checked_sub(frame.file_bytes());
                room = left.unwrap_or(0);
                left.is_some()
            })
            .count()
    }

    /// Writes frames that fit into the current file.
    async fn write(&self, frames: &[Frame], durable: bool) -> Result<()> {
        let bytes = write_bytes(frames);
        let durable = durable && !mutants::active(Mutant::SkipWalSync);
        let (file, context, offset, all_synced) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let current = &mut state.current;
            let offset = current.position;
            current.position += bytes;
            for frame in frames {
                current.seq_max = current.seq_max.max(frame.seq);
                state.last = state.last.max(frame.seq);
            }
            state.stats.bytes_appended += bytes;
            state.stats.padding_bytes += bytes - frames.iter().map(Frame::file_bytes).sum::<u64>();
            (current.file.clone(), current.context, offset, current.synced == offset)
        };
        // A durable write answers for its own bytes only, so after writes that were not durable a sync is needed.
        let sync = if durable && all_synced { WriteSync::Durable } else { WriteSync::None };
        let end = write_frames(&self.env, &file, &context, offset, frames, sync).await?;
        self.state.borrow_mut().current.written = end;
        if durable && !all_synced {
            file.sync_data().await?;
        }
        if durable {
            self.state.borrow_mut().current.synced = end;
        }
        Ok(())
    }

    /// Goes on to another file with room for a frame of `needed` bytes. Until its header is durable nothing is written
    /// behind it, and what was written before is durable by then.
    async fn rotate(&self, needed: u64) -> Result<()> {
        let unsynced = {
            let state = self.state.borrow();
            let current = &state.current;
            (current.synced < current.written).then(|| current.file.clone())
        };
        if let Some(file) = unsynced
            && !mutants::active(Mutant::SkipWalSync)
        {
            file.sync_data().await?;
        }
        let free = self.pool.take(UNIT_BYTES + unit_ceil(needed)).await?;
        let (generation, prev) = {
            let mut state = self.state.borrow_mut();
            let generation = state.next_generation;
            state.next_generation += 1;
            (generation, state.last)
        };
        let header = FileHeader {
            purpose: Purpose::Wal,
            identity: self.identity,
            number: free.number,
            generation,
            term: self.term,
            term_cut: self.term_cut,
            seq_floor: self.seq_floor,
            prev,
        };
        let current = begin_file(&self.env, &free, &header).await?;
        let mut state = self.state.borrow_mut();
        let old = std::mem::replace(&mut state.current, current);
        state.closed.push_back(LiveFile {
            number: old.context.number,
            bytes: old.bytes,
            seq_max: old.seq_max,
        });
        Ok(())
    }
}

/// Frames that our own code hands in form a chain and keep the payload's limit.
fn check_frames(frames: &[Frame], last: Seq) -> Result<()> {
    let mut last = last;
    for frame in frames {
        let value = to_u64(frame.payload.len());
        let max = to_u64(crate::log::frame::PAYLOAD_BYTES_MAX);
        if value > max {
            return Err(Error::Limit { what: "the bytes of a WAL frame", value, max });
        }
        if frame.kind != FrameKind::Mark {
            assert!(frame.prev == last && frame.seq > last, "frames are appended in the order of the chain");
            last = frame.seq;
        }
    }
    Ok(())
}

/// Writes the header of a free file and makes it the one to append to.
async fn begin_file<E: Env>(env: &E, free: &FreeFile, header: &FileHeader) -> Result<Current<E::File>> {
    let file = env.open(wal_name(header.identity.shard, free.number), OpenMode::ReadWrite).await?;
    write_header(env, &file, header).await?;
    Ok(Current {
        file,
        context: context_of(header),
        bytes: free.bytes,
        position: UNIT_BYTES,
        written: UNIT_BYTES,
        synced: UNIT_BYTES,
        seq_max: Seq::ZERO,
    })
}

fn wal_name(shard: ShardId, number: u64) -> FileName {
    FileName { dir: Dir::Shard(shard.0), kind: FileKind::Wal, number }
}

fn context_of(header: &FileHeader) -> FrameContext {
    FrameContext {
        purpose: header.purpose,
        identity: header.identity,
        number: header.number,
        term: header.term,
        generation: header.generation,
    }
}
