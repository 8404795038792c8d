//! Creating a shard, and bringing it back.
//!
//! Recovery has two halves. The first reads the manifest and the WAL and changes nothing. Only when every shard has
//! done so, and the cut is known, the second half starts the new term, discards what is above the cut and replays
//! the rest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use op_engine_io::mailbox::Sender;
use op_engine_io::{Dir, Env, FileKind, FileName};

use crate::cache::PageCache;
use crate::catalog::{Catalog, ColdMark};
use crate::cold_mark;
use crate::config::ShardConfig;
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Seq, Term};
use crate::log::{Frame, Identity};
use crate::manifest::{self, Manifest, ManifestConfig, ManifestState, RecoveredManifest};
use crate::message::{Event, GoOn, RecoveryReport, StartTerm};
use crate::reserve::Reserve;
use crate::run::Runs;
use crate::segment::{ColdPace, FilterKey, PartitionCache, Segment, SegmentHome, restore};
use crate::segment_meta::Level;
use crate::signal::Signal;
use crate::stats::ShardStats;
use crate::visibility::Mask;
use crate::wal::{self, Covered, WalConfig};

use super::archiving::{copy_out, wal_copy_name};
use super::job::Claims;
use super::pressure::Pressure;
use super::room::Shortage;
use super::state::State;
use super::tiering::Tiering;
use super::{LogQueue, Shard, Writer};

/// Makes an empty shard in its own directory.
///
/// # Errors
/// If the directory holds a shard already, or cannot be written.
pub async fn create<E: Env>(env: &E, identity: Identity) -> Result<()> {
    env.create_dir(Dir::Shard(identity.shard.0)).await?;
    let state = ManifestState { catalog: Catalog::default(), next_segment: 1, ..ManifestState::default() };
    Manifest::create(env, identity, ManifestConfig::default(), Term::default(), state).await?;
    Ok(())
}

/// What a shard has on disk, with its segments open.
pub(super) struct Recovery<E: Env> {
    identity: Identity,
    manifest: RecoveredManifest,
    wal: wal::Recovered,
    runs: BTreeMap<CollectionId, Rc<Runs<E>>>,
    partitions: Rc<PartitionCache>,
}

/// Reads what a shard has on disk. Changes nothing, but for lost files of cold segments, which are made again.
pub(super) async fn recover<E: Env>(
    env: &E,
    identity: Identity,
    config: &ShardConfig,
) -> Result<Recovery<E>> {
    let partitions = PartitionCache::new(config.filter_bytes_max);
    let manifest = manifest::recover(env, identity).await?;
    let wal = wal::recover(env, identity, manifest.state.flushed).await?;
    wal.check_term(manifest.term)?;
    let mut segments: BTreeMap<CollectionId, Vec<_>> = BTreeMap::new();
    for meta in &manifest.state.segments {
        let scope = manifest.state.catalog.get(meta.collection).map(|spec| spec.scope);
        let scope = scope.ok_or(Error::UnknownCollection { collection: meta.collection })?;
        let mask = match meta.place.level {
            Level::ARCHIVED => Mask::default(),
            _ => Mask::for_range(&manifest.state.rollbacks, scope, meta.seq_min, meta.seq_max),
        };
        let home = home_of(identity);
        let segment = match Segment::open(env, home, meta.clone(), mask.clone(), &partitions).await {
            // The file of a cold segment has nothing that its object has not.
            Err(Error::Missing { .. } | Error::Corruption { .. })
                if meta.tier.is_cold() && config.restores_cold_files =>
            {
                tracing::warn!(
                    segment = meta.number,
                    "the file of a cold segment is made again from its object"
                );
                restore(env, home, meta).await?;
                Segment::open(env, home, meta.clone(), mask, &partitions).await?
            }
            opened => opened?,
        };
        segments.entry(meta.collection).or_default().push(segment);
    }
    let mut runs = BTreeMap::new();
    for (collection, segments) in segments {
        let sorted = Runs::new(segments);
        if !sorted.are_sound() {
            let what = format!("the segments of collection {collection} overlap");
            return Err(Error::corruption(manifest.newest_file(), 0, what));
        }
        runs.insert(collection, Rc::new(sorted));
    }
    Ok(Recovery { identity, manifest, wal, runs, partitions })
}

impl<E: Env> Recovery<E> {
    /// What the other shards need to know.
    pub(super) fn report(&self) -> RecoveryReport {
        RecoveryReport {
            shard: self.identity.shard,
            last: self.wal.last,
            last_at: (self.wal.end.file.to_string(), self.wal.end.offset),
            acknowledged: self.wal.cut_mark.max(self.manifest.state.flushed),
            seq_seen_max: self.wal.seq_seen_max,
            term_max: self.wal.term_max.max(self.manifest.term),
            horizon: self.manifest.state.horizon.unwrap_or_default(),
            torn_tail_bytes: self.wal.dropped_tail_bytes,
        }
    }

    /// Starts the term, unless the shard is only read, and replays what is left.
    pub(super) async fn go_on(
        self,
        env: &E,
        config: ShardConfig,
        filter_key: FilterKey,
        events: Sender<Event>,
        order: GoOn,
    ) -> Result<Shard<E>> {
        let Self { identity, manifest, wal, runs, partitions } = self;
        let mut state = initial_state(&manifest.state, runs);
        let pace = ColdPace::new(config.cold_bytes_per_second);
        let (cut, writer, frames) = match order {
            GoOn::ReadOnly(cut) => {
                let mut frames = wal.frames;
                frames.retain(|frame| frame.seq <= cut);
                (cut, None, frames)
            }
            GoOn::Write(StartTerm { term, cut, seq_floor }) => {
                let files = env.list(Dir::Shard(identity.shard.0)).await?;
                // First what makes room: the disk may be full.
                remove_leftovers(env, identity, &manifest.state, &files).await?;
                let reserve = Reserve::find(env, identity.shard, config.space_reserve_bytes, &files).await?;
                let reserve = Rc::new(reserve);
                if let Some(mark) = manifest.state.catalog.cold_mark.filter(|_| config.archives_wal)
                    && let Err(error) = archive_wal(env, identity, mark, &wal, &pace).await
                {
                    tracing::warn!(%error, "WAL files are used again without a copy");
                }
                let wal_config = WalConfig { file_bytes: config.wal_file_bytes, ..WalConfig::default() };
                let (wal, frames) =
                    wal.start_term(env, wal_config, Rc::clone(&reserve), term, cut, seq_floor).await?;
                let manifest =
                    manifest.open(env, ManifestConfig::default(), Rc::clone(&reserve), term).await?;
                // What opening has used of the reserve, the files of the last term have mostly given back.
                while reserve.missing_bytes() > 0 && reserve.refill().await.or_else(unless_full)? {}
                (cut, Some(Writer { wal, manifest, reserve }), frames)
            }
        };
        state.progress.cut = cut;
        replay(&mut state, &frames, &config, env)?;
        assert_eq!(state.applied, cut, "replay ends at the cut");
        state.durable = cut;
        let log = LogQueue { written: Cell::new(cut), marked: Cell::new(cut), ..LogQueue::default() };
        Ok(Shard {
            env: env.clone(),
            identity,
            home: home_of(identity),
            filter_key,
            cache: Rc::new(PageCache::new(config.cache_bytes, config.cold_cache_bytes)),
            partitions,
            config,
            state: RefCell::new(state),
            writer,
            events,
            parts: RefCell::default(),
            parts_grown: Signal::default(),
            log,
            work: Signal::default(),
            flushed: Signal::default(),
            segments_changed: Signal::default(),
            closing: Cell::new(false),
            flush_wanted: Cell::new(Seq::ZERO),
            compaction_wanted: Cell::new(false),
            pressure: Pressure::default(),
            shortage: Shortage::default(),
            claims: Claims::default(),
            tiering: Tiering::new(pace),
            stats: RefCell::new(ShardStats { shard: identity.shard, ..ShardStats::default() }),
        })
    }
}

/// Copies WAL files of an earlier life that are about to be used again. A target that fails does not keep the store from opening.
async fn archive_wal<E: Env>(
    env: &E,
    identity: Identity,
    mark: ColdMark,
    wal: &wal::Recovered,
    pace: &ColdPace,
) -> Result<()> {
    let Some(target) = env.cold() else { return Ok(()) };
    cold_mark::check(&target, identity.store, mark).await?;
    for Covered { file, bytes, last } in wal.covered() {
        copy_out(env, file, bytes, wal_copy_name(file.dir, last), pace).await?;
    }
    Ok(())
}

fn initial_state<E: Env>(manifest: &ManifestState, runs: BTreeMap<CollectionId, Rc<Runs<E>>>) -> State<E> {
    let mut state = State::new(
        manifest.catalog.clone(),
        manifest.rollbacks.clone(),
        manifest.horizon.unwrap_or_default(),
        manifest.flushed,
        manifest.next_segment,
    );
    state.runs = runs;
    state
}

/// Applies the frames above the checkpoint, as when they were new.
fn replay<E: Env>(state: &mut State<E>, frames: &[Frame], config: &ShardConfig, env: &E) -> Result<()> {
    for frame in frames {
        state.apply(frame, env.now()).map_err(|why| Error::Refused { what: why.to_string() })?;
        if state.active.borrow().is_full(config.memtable_bytes_max) {
            state.freeze();
        }
    }
    Ok(())
}

/// Removes segments that no manifest record refers to: of flushes and merges that did not come to an end, and of
/// merges whose inputs were about to be removed.
async fn remove_leftovers<E: Env>(
    env: &E,
    identity: Identity,
    manifest: &ManifestState,
    files: &[FileName],
) -> Result<()> {
    let live: Vec<u64> = manifest.segments.iter().map(|meta| meta.number).collect();
    let dir = Dir::Shard(identity.shard.0);
    let mut removed = false;
    for name in files {
        if name.kind == FileKind::Segment && !live.contains(&name.number) {
            assert_eq!(*name, home_of(identity).file_name(name.number), "names are made from numbers");
            env.remove(*name).await?;
            removed = true;
        }
    }
    if removed {
        env.sync_dir(dir).await?;
    }
    Ok(())
}

/// A disk without space is no failure of what can be done later.
fn unless_full(error: Error) -> Result<bool> {
    if error.is_out_of_space() { Ok(false) } else { Err(error) }
}

fn home_of(identity: Identity) -> SegmentHome {
    SegmentHome { store: identity.store, shard: identity.shard }
}
