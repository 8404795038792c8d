//! What a manifest says when the store is opened.

use std::rc::Rc;

use op_engine_io::num::to_usize;
use op_engine_io::{Dir, Env, File, FileKind, FileName, OpenMode};

use super::edit::Edit;
use super::{Manifest, ManifestConfig, ManifestState, manifest_name};
use crate::bytes::ByteReader;
use crate::error::{Error, Result};
use crate::ids::{Seq, Term};
use crate::log::frame::FrameContext;
use crate::log::header::FileHeader;
use crate::log::reader::{Expect, LogReader};
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES};
use crate::reserve::Reserve;

/// What a manifest says when the store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredManifest {
    /// The state that it leads to.
    pub state: ManifestState,
    /// The term in which it was written. The WAL must know it.
    pub term: Term,
    /// Bytes of a record whose write was cut off.
    pub dropped_tail_bytes: u64,
    identity: Identity,
    /// Every manifest file in the directory.
    files: Vec<FileName>,
}

/// Reads the manifest of a shard. Changes nothing on disk.
///
/// A record that is bad and the last one was in flight when the power failed. A bad one before a good one is damage.
///
/// # Errors
/// [`Error::Missing`] if there is no manifest, [`Error::Corruption`] if none can be read.
pub async fn recover<E: Env>(env: &E, identity: Identity) -> Result<RecoveredManifest> {
    let dir = Dir::Shard(identity.shard.0);
    let files: Vec<FileName> =
        env.list(dir).await?.into_iter().filter(|name| name.kind == FileKind::Manifest).collect();
    let mut newest_first = files.clone();
    newest_first.sort_by_key(|name| std::cmp::Reverse(name.number));
    let Some(newest) = newest_first.first().copied() else {
        return Err(Error::Missing {
            file: manifest_name(identity.shard, 1).to_string(),
            what: "no manifest is in this directory, so its segments are unknown".to_owned(),
        });
    };
    env.sync_dir(dir).await?;
    for name in newest_first {
        if let Some((state, term, dropped_tail_bytes)) = read(env, identity, name).await? {
            return Ok(RecoveredManifest { state, term, dropped_tail_bytes, identity, files });
        }
    }
    Err(Error::corruption(newest, 0, "its snapshot cannot be read, and no older manifest is there"))
}

impl RecoveredManifest {
    /// The newest file of the manifest.
    #[must_use]
    pub fn newest_file(&self) -> FileName {
        let newest = self.files.iter().max_by_key(|name| name.number).copied();
        newest.unwrap_or(manifest_name(self.identity.shard, 1))
    }

    /// Goes on in a new file that begins with a snapshot, and removes the others.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn open<E: Env>(
        self,
        env: &E,
        config: ManifestConfig,
        reserve: Rc<Reserve<E>>,
        term: Term,
    ) -> Result<Manifest<E>> {
        Manifest::replace(env, self.identity, config, reserve, term, self.state, &self.files).await
    }
}

/// The state that a file leads to; `None` if its header or its snapshot is not whole.
async fn read<E: Env>(
    env: &E,
    identity: Identity,
    name: FileName,
) -> Result<Option<(ManifestState, Term, u64)>> {
    let file = env.open(name, OpenMode::Read).await?;
    // What is read here must not vanish in the next crash: the other shards rely on it.
    file.sync_data().await?;
    if file.len().await? < UNIT_BYTES {
        return Ok(None);
    }
    let buffer = env.buffer(to_usize(UNIT_BYTES)).await;
    let (buffer, outcome) = file.read_at(0, buffer).await;
    outcome?;
    let header = FileHeader::decode(buffer.as_slice(), name, Purpose::Manifest, identity)?;
    drop(buffer);
    let Some(header) = header else { return Ok(None) };
    let context = FrameContext {
        purpose: Purpose::Manifest,
        identity,
        number: name.number,
        term: header.term,
        generation: header.generation,
    };
    let mut reader = LogReader::new(env, file, Expect::Context(context)).await?;
    let folded = fold(&mut reader).await?;
    let bad_at = reader.position();
    let beyond = reader.scan_beyond().await?;
    match folded {
        None if beyond.seq > Seq(1) => Err(Error::corruption(name, bad_at, "its snapshot is damaged")),
        None => Ok(None),
        Some((_, last)) if beyond.seq > last.next() => {
            Err(Error::corruption(name, bad_at, format!("the record after record {last} is damaged")))
        }
        Some((state, _)) => Ok(Some((state, header.term, beyond.bytes))),
    }
}

/// The sum of a file's records and the number of the last; `None` if its snapshot is not whole.
async fn fold<E: Env>(reader: &mut LogReader<E>) -> Result<Option<(ManifestState, Seq)>> {
    let mut folded: Option<(ManifestState, Seq)> = None;
    while let Some((offset, frame)) = reader.next().await? {
        let (before, kind, prev) = match folded.take() {
            None => (ManifestState::default(), FrameKind::Snapshot, Seq::ZERO),
            Some((state, last)) => (state, FrameKind::Edit, last),
        };
        if frame.kind != kind || frame.prev != prev || frame.seq != prev.next() {
            return Err(Error::corruption(reader.name(), offset, "a record is missing before this one"));
        }
        let edit = decode(&frame).map_err(|why| Error::malformed(reader.name(), offset, why))?;
        let state = before.with(&edit).map_err(|why| Error::malformed(reader.name(), offset, why))?;
        folded = Some((state, frame.seq));
    }
    Ok(folded)
}

fn decode(frame: &Frame) -> Result<Edit, crate::bytes::Malformed> {
    let mut input = ByteReader::new(&frame.payload);
    let edit = Edit::decode(&mut input)?;
    input.finish()?;
    Ok(edit)
}
