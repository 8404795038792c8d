//! Checks what is on disk without starting a term, and lists everything that is wrong.
//!
//! Every byte that the store depends on is read: the superblock's copies, the manifest, the frames of the WAL above the
//! checkpoint and all segments that the manifest refers to. Nothing is written.

use std::collections::BTreeSet;

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env, File, FileKind, FileName, IO_UNIT_BYTES, OpenMode};

use crate::bytes::ByteReader;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::log::{Frame, FrameKind, Identity, UNIT_BYTES};
use crate::manifest::{self, ManifestState};
use crate::message::RecoveryReport;
use crate::ops;
use crate::segment::{self, FilterKey, SegmentHome, VerifyScope};
use crate::superblock::{self, Loaded, Superblock};
use crate::wal;

/// What the check of a shard's files found.
#[derive(Debug, Clone, Default)]
pub struct ShardVerification {
    /// Everything that is wrong.
    pub faults: Vec<Error>,
    /// Files in the shard's directory.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Live segments.
    pub segments: u64,
    /// Those of them whose pages are in the cold target.
    pub cold_segments: u64,
    /// Bytes of those pages.
    pub cold_bytes: u64,
    /// Versions in them, tombstones included.
    pub entries: u64,
    /// Commits in the WAL above the checkpoint.
    pub commits: u64,
    /// Segments that the manifest does not refer to. The next opening removes them.
    pub leftovers: Vec<FileName>,
    /// What recovery would report; `None` if the manifest or the WAL cannot be read.
    pub report: Option<RecoveryReport>,
    /// The collections as of the checkpoint and the commits above it.
    pub catalog: Option<Catalog>,
}

/// What the check of the store's identity found.
#[derive(Debug, Clone, Default)]
pub struct SuperblockVerification {
    /// Everything that is wrong.
    pub faults: Vec<Error>,
    /// Files in the store's own directory.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The identity; `None` if it cannot be read.
    pub superblock: Option<Superblock>,
}

/// The bytes of each file in a directory.
///
/// # Errors
/// If the directory holds a foreign file or a file cannot be opened.
pub async fn file_bytes<E: Env>(env: &E, dir: Dir) -> Result<Vec<(FileName, u64)>> {
    let mut found = Vec::new();
    for name in env.list(dir).await? {
        let file = env.open(name, OpenMode::Read).await?;
        found.push((name, file.len().await?));
    }
    Ok(found)
}

/// Checks the store's own directory and every copy of its identity.
///
/// # Errors
/// Only if the machine stops.
pub async fn verify_superblock<E: Env>(env: &E) -> Result<SuperblockVerification> {
    let mut found = SuperblockVerification::default();
    if let Err(fault) = check_superblock(env, &mut found).await {
        found.faults.push(unless_stopped(fault)?);
    }
    Ok(found)
}

async fn check_superblock<E: Env>(env: &E, found: &mut SuperblockVerification) -> Result<()> {
    let files = file_bytes(env, Dir::Root).await?;
    found.files = to_u64(files.len());
    found.bytes = files.iter().map(|(_, bytes)| bytes).sum();
    for (name, _) in files.iter().filter(|(name, _)| *name != superblock::NAME) {
        let what = "the store's own directory holds one file of the store only".to_owned();
        found.faults.push(Error::Foreign { file: name.to_string(), what });
    }
    let missing = |what: &str| Error::Missing { file: superblock::NAME.to_string(), what: what.to_owned() };
    let superblock = match superblock::load(env).await? {
        Loaded::Ready(superblock) => superblock,
        Loaded::Absent => return Err(missing("the identity of the store")),
        Loaded::Unfinished => return Err(missing("the identity of a store whose creation did not finish")),
    };
    found.superblock = Some(superblock.clone());
    let file = env.open(superblock::NAME, OpenMode::Read).await?;
    for copy in 0..superblock::COPIES {
        let offset = UNIT_BYTES * u64::from(copy);
        let buffer = env.buffer(IO_UNIT_BYTES).await;
        let (buffer, outcome) = file.read_at(offset, buffer).await;
        let read = match outcome {
            Ok(()) => Superblock::decode(buffer.as_slice(), copy + 1)?,
            Err(error) => {
                found.faults.push(unless_stopped(error.into())?);
                continue;
            }
        };
        if read.as_ref() != Some(&superblock) {
            let what = format!("copy {} of {} is not like the others", copy + 1, superblock::COPIES);
            found.faults.push(Error::corruption(superblock::NAME, offset, what));
        }
    }
    Ok(())
}

/// Checks all files of one shard. `progress` is called with the bytes of each file when they have been checked.
///
/// # Errors
/// Only if the machine stops.
pub async fn verify_shard<E: Env>(
    env: &E,
    identity: Identity,
    filter_key: &FilterKey,
    scope: VerifyScope,
    progress: &impl Fn(u64),
) -> Result<ShardVerification> {
    let mut found = ShardVerification::default();
    if let Err(fault) = check_shard(env, identity, filter_key, scope, progress, &mut found).await {
        found.faults.push(unless_stopped(fault)?);
    }
    Ok(found)
}

async fn check_shard<E: Env>(
    env: &E,
    identity: Identity,
    filter_key: &FilterKey,
    scope: VerifyScope,
    progress: &impl Fn(u64),
    found: &mut ShardVerification,
) -> Result<()> {
    let files = file_bytes(env, Dir::Shard(identity.shard.0)).await?;
    found.files = to_u64(files.len());
    found.bytes = files.iter().map(|(_, bytes)| bytes).sum();
    let bytes_of = |wanted: &dyn Fn(&FileName) -> bool| -> u64 {
        files.iter().filter(|(name, _)| wanted(name)).map(|(_, bytes)| bytes).sum()
    };
    let manifest = manifest::recover(env, identity).await?;
    progress(bytes_of(&|name| name.kind == FileKind::Manifest));
    // The manifest says which segments there are, whatever the WAL holds.
    let walked = check_wal(env, identity, &manifest, found).await;
    if let Err(fault) = walked {
        found.faults.push(unless_stopped(fault)?);
    }
    progress(bytes_of(&|name| matches!(name.kind, FileKind::Wal | FileKind::Reserve)));
    let state = &manifest.state;
    let live: BTreeSet<u64> = state.segments.iter().map(|meta| meta.number).collect();
    let is_leftover = |name: &FileName| name.kind == FileKind::Segment && !live.contains(&name.number);
    found.leftovers = files.iter().map(|(name, _)| *name).filter(is_leftover).collect();
    progress(bytes_of(&is_leftover));
    check_segments(env, identity, filter_key, scope, progress, state, found).await
}

async fn check_wal<E: Env>(
    env: &E,
    identity: Identity,
    manifest: &manifest::RecoveredManifest,
    found: &mut ShardVerification,
) -> Result<()> {
    let state = &manifest.state;
    let wal = wal::recover(env, identity, state.flushed).await?;
    wal.check_term(manifest.term)?;
    let mut catalog = state.catalog.clone();
    for frame in &wal.frames {
        let checked = check_frame(frame, &mut catalog);
        if let Err(what) = checked {
            let what = format!("commit {}: {what}", frame.seq);
            found.faults.push(Error::corruption(wal.end.file, 0, what));
        }
    }
    found.commits = to_u64(wal.frames.len());
    found.catalog = Some(catalog);
    found.report = Some(RecoveryReport {
        shard: identity.shard,
        last: wal.last,
        last_at: (wal.end.file.to_string(), wal.end.offset),
        acknowledged: wal.cut_mark.max(state.flushed),
        seq_seen_max: wal.seq_seen_max,
        term_max: wal.term_max.max(manifest.term),
        horizon: state.horizon.unwrap_or_default(),
        torn_tail_bytes: wal.dropped_tail_bytes,
    });
    Ok(())
}

/// Whether a commit can be applied: its operations decode and belong to collections that exist.
fn check_frame(frame: &Frame, catalog: &mut Catalog) -> Result<(), String> {
    let mut input = ByteReader::new(&frame.payload);
    match frame.kind {
        FrameKind::Block | FrameKind::Global => {
            while let Some(op) = ops::decode(&mut input).map_err(|why| why.0.to_owned())? {
                if catalog.get(op.collection).is_none() {
                    return Err(format!("it changes collection {}, which does not exist", op.collection));
                }
            }
        }
        FrameKind::Schema => {
            *catalog = Catalog::decode(&mut input).map_err(|why| why.0.to_owned())?;
            input.finish().map_err(|why| why.0.to_owned())?;
        }
        FrameKind::Reorg | FrameKind::Mark => {}
        FrameKind::Edit | FrameKind::Snapshot => return Err("it is a record of a manifest".to_owned()),
    }
    Ok(())
}

async fn check_segments<E: Env>(
    env: &E,
    identity: Identity,
    filter_key: &FilterKey,
    scope: VerifyScope,
    progress: &impl Fn(u64),
    state: &ManifestState,
    found: &mut ShardVerification,
) -> Result<()> {
    let home = SegmentHome { store: identity.store, shard: identity.shard };
    for meta in &state.segments {
        let name = home.file_name(meta.number);
        if state.catalog.get(meta.collection).is_none() {
            let what = format!("it belongs to collection {}, which does not exist", meta.collection);
            found.faults.push(Error::corruption(name, 0, what));
        }
        if meta.seq_max > state.flushed || meta.seq_min == Seq::ZERO {
            let what = format!(
                "it holds commits {} to {}, but the checkpoint is at {}",
                meta.seq_min, meta.seq_max, state.flushed
            );
            found.faults.push(Error::corruption(name, 0, what));
        }
        found.faults.extend(segment::verify(env, home, meta.clone(), filter_key, scope).await?);
        found.segments += 1;
        if meta.tier.is_cold() {
            found.cold_segments += 1;
            found.cold_bytes += meta.total_bytes() - meta.file_bytes;
        }
        found.entries += meta.entries;
        progress(meta.file_bytes);
    }
    Ok(())
}

/// A fault of the store, unless it is the machine that has stopped.
fn unless_stopped(error: Error) -> Result<Error> {
    match error {
        Error::Io(op_engine_io::Error::Stopped) | Error::Closed => Err(error),
        fault => Ok(fault),
    }
}
