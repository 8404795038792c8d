//! The manifest of one shard: the log of its live segments, its checkpoint and its collections.
//!
//! The log is one file: a snapshot of the whole state, then changes, each made durable before it counts. A file that
//! has grown is replaced by the next number, in this order:
//!
//! 1. the new file's header and snapshot are durable, then its name;
//! 2. the old file is removed, and its removal is durable;
//! 3. only then are changes appended to the new file.
//!
//! So while both exist, the new one holds the very state of the old one. If the power fails before its snapshot is
//! whole, the old one is read and the new one is a leftover. Opening the store always replaces the file: nothing is
//! ever appended behind a record whose write was cut off.
//!
//! Each frame carries the checkpoint as its cut, and the file's header the term of the store: see
//! [`crate::wal::Recovered::check_term`].

mod edit;
mod recovery;
mod state;
#[cfg(test)]
mod tests;

use std::cell::{Ref, RefCell};
use std::sync::Arc;

use futures_util::lock::Mutex;
use op_engine_io::{Dir, Env, FileKind, FileName, OpenMode, WriteSync};

use crate::bytes::ByteWriter;
use crate::error::{Error, Result};
use crate::ids::{BlockHash, Height, Seq, ShardId, Term};
use crate::log::frame::FrameContext;
use crate::log::header::FileHeader;
use crate::log::writer::{write_frames, write_header};
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES};
use crate::mutants::{self, Mutant};

pub use edit::{Edit, Horizon, ROLLBACKS_MAX, SEGMENTS_MAX};
pub use recovery::{RecoveredManifest, recover};
pub use state::ManifestState;

/// Limits of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestConfig {
    /// A file that exceeds this, and four times its snapshot, is replaced.
    pub file_bytes_max: u64,
}

impl Default for ManifestConfig {
    fn default() -> Self {
        Self { file_bytes_max: 1 << 20 }
    }
}

/// The manifest of one shard. Shared by the tasks of the shard through an `Rc`.
#[derive(Debug)]
pub struct Manifest<E: Env> {
    env: E,
    identity: Identity,
    config: ManifestConfig,
    term: Term,
    state: RefCell<ManifestState>,
    /// Locked for as long as a change takes, so that changes of several tasks queue.
    writer: Mutex<Writer<E::File>>,
}

/// The file that changes are appended to.
#[derive(Debug)]
struct Writer<F> {
    file: F,
    context: FrameContext,
    position: u64,
    /// Where the snapshot ends.
    snapshot_end: u64,
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
        Self::replace(env, identity, config, term, state, &names).await
    }

    /// Makes a change durable, then part of the state. Changes of several tasks queue, not always in the order in which
    /// they came: each is drawn up when its turn has come, so that none carries what an earlier one has overtaken.
    ///
    /// # Errors
    /// If a write fails; all later changes fail then. [`Error::Corruption`], without an effect, if the change does
    /// not fit the state.
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
        writer.failed = outcome.as_ref().err().map(|error| error.clone().poison());
        outcome?;
        *self.state.borrow_mut() = next;
        Ok(())
    }

    /// What the manifest says. The borrow must not live across an await.
    #[must_use]
    pub fn state(&self) -> Ref<'_, ManifestState> {
        self.state.borrow()
    }

    fn name(&self, writer: &Writer<E::File>) -> FileName {
        manifest_name(self.identity.shard, writer.context.number)
    }

    async fn append(&self, writer: &mut Writer<E::File>, edit: &Edit) -> Result<()> {
        if writer.position > self.config.file_bytes_max.max(writer.snapshot_end.saturating_mul(4)) {
            let old = self.name(writer);
            let number = writer.context.number + 1;
            let state = self.state.borrow().clone();
            *writer = begin_file(&self.env, self.identity, self.term, number, &state).await?;
            remove_files(&self.env, self.identity.shard, &[old]).await?;
        }
        let flushed = edit.flushed.unwrap_or_else(|| self.state.borrow().flushed);
        let frame = frame(FrameKind::Edit, writer.last, flushed, edit);
        writer.last = frame.seq;
        writer.position = write_frames(
            &self.env,
            &writer.file,
            &writer.context,
            writer.position,
            &[frame],
            WriteSync::Durable,
        )
        .await?;
        Ok(())
    }

    /// Puts a new file in the place of `old` ones.
    async fn replace(
        env: &E,
        identity: Identity,
        config: ManifestConfig,
        term: Term,
        state: ManifestState,
        old: &[FileName],
    ) -> Result<Self> {
        let newest = old.iter().map(|name| name.number).max().unwrap_or(0);
        let number = newest.checked_add(1).ok_or_else(|| Error::Foreign {
            file: manifest_name(identity.shard, newest).to_string(),
            what: "its number is out of range".to_owned(),
        })?;
        let writer = begin_file(env, identity, term, number, &state).await?;
        remove_files(env, identity.shard, old).await?;
        Ok(Self {
            env: env.clone(),
            identity,
            config,
            term,
            state: RefCell::new(state),
            writer: Mutex::new(writer),
        })
    }
}

/// Writes a new file with a snapshot of the state and makes it and its name durable.
async fn begin_file<E: Env>(
    env: &E,
    identity: Identity,
    term: Term,
    number: u64,
    state: &ManifestState,
) -> Result<Writer<E::File>> {
    let file = env.open(manifest_name(identity.shard, number), OpenMode::CreateNew).await?;
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
    let snapshot = frame(FrameKind::Snapshot, Seq::ZERO, state.flushed, &state.snapshot());
    let last = snapshot.seq;
    let end = write_frames(env, &file, &context, UNIT_BYTES, &[snapshot], WriteSync::Durable).await?;
    sync_names(env, identity.shard).await?;
    Ok(Writer { file, context, position: end, snapshot_end: end, last, failed: None })
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
