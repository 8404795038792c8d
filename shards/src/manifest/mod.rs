//! The manifest of one shard: the log of its live segments, its checkpoint and its collections.
//!
//! The log is one file: a snapshot of the whole state, then changes, each made durable before it counts. Its whole
//! length is filled with zeros when it is made, so that no change fails for lack of space. A file that is full is
//! replaced by the next number, in this order:
//!
//! 1. the new file is filled with zeros, its header and snapshot are durable, then its name;
//! 2. the old file is removed, and its removal is durable;
//! 3. only then are changes appended to the new file.
//!
//! So while both exist, the new one holds the very state of the old one. If the power fails before its snapshot is
//! whole, the old one is read and the new one is a leftover. If there is no space for it, not even in the
//! [`Reserve`], it is removed durably, and the old one stays in force. Opening the store always replaces the file:
//! nothing is ever appended behind a record whose write was cut off.
//!
//! Each frame carries the checkpoint as its cut, and the file's header the term of the store: see
//! [`crate::wal::Recovered::check_term`].

mod edit;
mod recovery;
mod state;
#[cfg(test)]
mod tests;

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::lock::Mutex;
use op_engine_io::{Dir, Env, File, FileKind, FileName, OpenMode, WriteSync};

use crate::bytes::ByteWriter;
use crate::error::{Error, Result};
use crate::ids::{BlockHash, Height, Seq, ShardId, Term};
use crate::log::frame::FrameContext;
use crate::log::header::FileHeader;
use crate::log::writer::{write_bytes, write_frames, write_header};
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES, unit_ceil};
use crate::mutants::{self, Mutant};
use crate::reserve::Reserve;

pub use edit::{Edit, Horizon, ROLLBACKS_MAX, SEGMENTS_MAX};
pub use recovery::{RecoveredManifest, recover};
pub use state::ManifestState;

/// Limits of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestConfig {
    /// Room for changes behind the snapshot of a file; there is as much as the snapshot takes if that is more.
    pub room_bytes: u64,
}

impl Default for ManifestConfig {
    fn default() -> Self {
        Self { room_bytes: 32 << 10 }
    }
}

/// The manifest of one shard. Shared by the tasks of the shard through an `Rc`.
#[derive(Debug)]
pub struct Manifest<E: Env> {
    env: E,
    identity: Identity,
    config: ManifestConfig,
    term: Term,
    reserve: Rc<Reserve<E>>,
    state: RefCell<ManifestState>,
    /// Where the file that is in force ends: what follows is room.
    end: Cell<u64>,
    /// Locked for as long as a change takes, so that changes of several tasks queue.
    writer: Mutex<Writer<E::File>>,
}

/// The file that changes are appended to.
#[derive(Debug)]
struct Writer<F> {
    file: F,
    context: FrameContext,
    position: u64,
    /// The length of the file.
    bytes: u64,
    last: Seq,
    /// Why nothing is written any more.
    failed: Option<Error>,
}

impl<E: Env> Manifest<E> {
    /// Starts the manifest of a shard of a store that is being created. Manifest files that an unfinished creation
    /// has left are replaced.
    ///
    /// # Errors
    /// [`Error::Foreign`] if the directory holds segments or WAL files: then it belongs to a store.
    pub async fn create(
        env: &E,
        identity: Identity,
        config: ManifestConfig,
        term: Term,
        state: ManifestState,
    ) -> Result<Self> {
        let names = env.list(Dir::Shard(identity.shard.0)).await?;
        if let Some(name) = names.iter().find(|name| name.kind != FileKind::Manifest) {
            return Err(Error::Foreign {
                file: name.to_string(),
                what: "the store is being created, but this file is of another store".to_owned(),
            });
        }
        let reserve = Rc::new(Reserve::none(env, identity.shard));
        Self::replace(env, identity, config, reserve, term, state, &names).await
    }

    /// Makes a change durable, then part of the state. Changes of several tasks queue, not always in the order in which
    /// they came: each is drawn up when its turn has come, so that none carries what an earlier one has overtaken.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a write fails; all later changes fail then. Out of space if a new file was due and could
    /// not be made, and [`Error::Corruption`] if the change does not fit the state: both without an effect.
    pub async fn apply(&self, draw_up: impl FnOnce() -> Edit) -> Result<()> {
        let mut writer = self.writer.lock().await;
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let edit = draw_up();
        let next = self.state.borrow().with(&edit);
        let next = next.map_err(|why| Error::malformed(self.name(&writer), writer.position, why))?;
        // If this future is dropped half-way, the fate of the write is unknown and no other may follow.
        writer.failed = Some(Error::Closed);
        let outcome = self.append(&mut writer, &edit).await;
        let outcome = outcome.map_err(|error| if error.is_out_of_space() { error } else { error.poison() });
        writer.failed = outcome.as_ref().err().filter(|error| !error.is_out_of_space()).cloned();
        outcome?;
        *self.state.borrow_mut() = next;
        self.end.set(writer.position);
        Ok(())
    }

    /// The bytes that the next file may take from the disk: usually, and if space is short.
    #[must_use]
    pub fn next_file_bytes(&self) -> (u64, u64) {
        let end = self.end.get();
        (file_bytes(end, self.config.room_bytes), end + UNIT_BYTES)
    }

    /// What the manifest says. The borrow must not live across an await.
    #[must_use]
    pub fn state(&self) -> Ref<'_, ManifestState> {
        self.state.borrow()
    }

    fn name(&self, writer: &Writer<E::File>) -> FileName {
        manifest_name(self.identity.shard, writer.context.number)
    }

    /// Fails with out of space only if nothing has changed.
    async fn append(&self, writer: &mut Writer<E::File>, edit: &Edit) -> Result<()> {
        let flushed = edit.flushed.unwrap_or_else(|| self.state.borrow().flushed);
        let frames = [frame(FrameKind::Edit, writer.last, flushed, edit)];
        let bytes = write_bytes(&frames);
        if writer.position + bytes <= writer.bytes {
            return self.write(writer, frames).await.map_err(Error::poison);
        }
        let old = self.name(writer);
        let start = Start { number: writer.context.number + 1, room_bytes: self.config.room_bytes, bytes };
        let state = self.state.borrow().clone();
        *writer = begin_file(&self.env, self.identity, &self.reserve, self.term, start, &state).await?;
        writer.failed = Some(Error::Closed);
        remove_files(&self.env, self.identity.shard, &[old]).await.map_err(Error::poison)?;
        let frames = [frame(FrameKind::Edit, writer.last, flushed, edit)];
        self.write(writer, frames).await.map_err(Error::poison)
    }

    async fn write(&self, writer: &mut Writer<E::File>, frames: [Frame; 1]) -> Result<()> {
        let [last] = &frames;
        writer.last = last.seq;
        let Writer { file, context, position, .. } = &*writer;
        let written = write_frames(&self.env, file, context, *position, &frames, WriteSync::Durable);
        writer.position = written.await?;
        Ok(())
    }

    /// Puts a new file in the place of `old` ones.
    async fn replace(
        env: &E,
        identity: Identity,
        config: ManifestConfig,
        reserve: Rc<Reserve<E>>,
        term: Term,
        state: ManifestState,
        old: &[FileName],
    ) -> Result<Self> {
        let newest = old.iter().map(|name| name.number).max().unwrap_or(0);
        let number = newest.checked_add(1).ok_or_else(|| Error::Foreign {
            file: manifest_name(identity.shard, newest).to_string(),
            what: "its number is out of range".to_owned(),
        })?;
        let start = Start { number, room_bytes: config.room_bytes, bytes: 0 };
        let writer = begin_file(env, identity, &reserve, term, start, &state).await?;
        remove_files(env, identity.shard, old).await?;
        Ok(Self {
            env: env.clone(),
            identity,
            config,
            term,
            reserve,
            state: RefCell::new(state),
            end: Cell::new(writer.position),
            writer: Mutex::new(writer),
        })
    }
}

/// How a new file begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    number: u64,
    /// Room for changes, if there is space for it.
    room_bytes: u64,
    /// The length of the change that follows at once, if one does.
    bytes: u64,
}

/// The length of a file whose snapshot ends at `end`.
fn file_bytes(end: u64, room_bytes: u64) -> u64 {
    end + unit_ceil(room_bytes.max(end))
}

/// Makes a new file with a snapshot of the state; if space is short, one with less room, and if need be in the space
/// of the reserve. Out of space leaves nothing behind.
async fn begin_file<E: Env>(
    env: &E,
    identity: Identity,
    reserve: &Reserve<E>,
    term: Term,
    start: Start,
    state: &ManifestState,
) -> Result<Writer<E::File>> {
    let snapshot = [frame(FrameKind::Snapshot, Seq::ZERO, state.flushed, &state.snapshot())];
    let end = UNIT_BYTES + write_bytes(&snapshot);
    let usual = file_bytes(end, start.room_bytes).max(end + start.bytes);
    let least = end + start.bytes.max(UNIT_BYTES);
    let place = FilePlace { identity, term, number: start.number };
    match make_file(env, place, usual, &snapshot).await {
        Err(error) if error.is_out_of_space() => {}
        made => return made,
    }
    reserve.within(async || make_file(env, place, least, &snapshot).await).await
}

/// Which file of which manifest.
#[derive(Debug, Clone, Copy)]
struct FilePlace {
    identity: Identity,
    term: Term,
    number: u64,
}

/// Makes a file of a length. Whatever out of space has left of it is durably gone.
async fn make_file<E: Env>(
    env: &E,
    place: FilePlace,
    bytes: u64,
    snapshot: &[Frame; 1],
) -> Result<Writer<E::File>> {
    let outcome = write_file(env, place, bytes, snapshot).await;
    if outcome.as_ref().is_err_and(Error::is_out_of_space) {
        let removed = match env.remove(manifest_name(place.identity.shard, place.number)).await {
            Err(op_engine_io::Error::NotFound { .. }) => Ok(()),
            removed => removed,
        };
        removed.map_err(|error| Error::from(error).poison())?;
        sync_names(env, place.identity.shard).await.map_err(Error::poison)?;
    }
    outcome
}

/// Writes a new file and makes it and its name durable.
async fn write_file<E: Env>(
    env: &E,
    place: FilePlace,
    bytes: u64,
    snapshot: &[Frame; 1],
) -> Result<Writer<E::File>> {
    let FilePlace { identity, term, number } = place;
    let file = env.open(manifest_name(identity.shard, number), OpenMode::CreateNew).await?;
    file.zero_fill(bytes).await?;
    let context = FrameContext { purpose: Purpose::Manifest, identity, number, term, generation: number };
    let header = FileHeader {
        purpose: Purpose::Manifest,
        identity,
        number,
        generation: number,
        term,
        term_cut: Seq::ZERO,
        seq_floor: Seq::ZERO,
        prev: Seq::ZERO,
    };
    write_header(env, &file, &header).await?;
    let end = write_frames(env, &file, &context, UNIT_BYTES, snapshot, WriteSync::Durable).await?;
    sync_names(env, identity.shard).await?;
    let [snapshot] = snapshot;
    Ok(Writer { file, context, position: end, bytes, last: snapshot.seq, failed: None })
}

async fn remove_files<E: Env>(env: &E, shard: ShardId, names: &[FileName]) -> Result<()> {
    for name in names {
        env.remove(*name).await?;
    }
    if names.is_empty() { Ok(()) } else { sync_names(env, shard).await }
}

async fn sync_names<E: Env>(env: &E, shard: ShardId) -> Result<()> {
    if !mutants::active(Mutant::SkipDirectorySync) {
        env.sync_dir(Dir::Shard(shard.0)).await?;
    }
    Ok(())
}

/// A record of the manifest. Records are numbered from 1 in each file.
fn frame(kind: FrameKind, prev: Seq, flushed: Seq, edit: &Edit) -> Frame {
    let mut out = ByteWriter::new();
    edit.encode(&mut out);
    Frame {
        kind,
        seq: prev.next(),
        prev,
        cut: flushed,
        height: Height(0),
        hash: BlockHash::default(),
        parent: BlockHash::default(),
        payload: Arc::from(out.into_vec()),
    }
}

fn manifest_name(shard: ShardId, number: u64) -> FileName {
    FileName { dir: Dir::Shard(shard.0), kind: FileKind::Manifest, number }
}
