//! Turning memtables into segments.
//!
//! A flush writes segments, makes them and their names durable, and then appends one manifest record that ties them to
//! the commits that they cover. Only then is the WAL before them released. Nothing above the durable cut is flushed.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::{Dir, Env, ReplySender};
use smallvec::SmallVec;

use crate::catalog::{CollectionSpec, History};
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Height, Seq};
use crate::manifest::Edit;
use crate::memtable::{Memtable, VersionAt, VersionRef};
use crate::message::Event;
use crate::mutants::{Mutant, active};
use crate::retention::{Retain, VersionHead, retained};
use crate::segment::{Compression, FilterBits, Segment, SegmentBuilder, SegmentConfig};
use crate::segment_meta::{Place, SegmentMeta};
use crate::visibility::Mask;

use super::Shard;
use super::room::Unfinished;
use super::state::{Frozen, Retention};

/// Keys that are copied out of a memtable at once.
const KEYS_AT_ONCE: usize = 64;

/// Memory for a value that is kept for the next one.
const VALUE_BYTES_KEPT: usize = 1 << 20;

/// A key, and where its versions lie, newest first.
struct KeyVersions {
    key: Box<[u8]>,
    heads: SmallVec<[VersionHead; 2]>,
    places: SmallVec<[VersionAt; 2]>,
}

impl<E: Env> Shard<E> {
    /// Flushes memtables that are full or old, or all if somebody wants it, for as long as the shard lives.
    pub(super) async fn flush_memtables(self: Rc<Self>) {
        self.env.spawn(op_engine_io::TaskClass::Background, "memtable age", Rc::clone(&self).watch_age());
        loop {
            let mark = self.work.mark();
            if self.closing.get() || self.failure().is_some() {
                return;
            }
            self.freeze_as_wanted();
            let next = self.state.borrow().frozen.front().cloned();
            let done = match next {
                None => self.tend_wal().await,
                Some(frozen) if self.state.borrow().progress.cut < frozen.through => {
                    let wanted = Event::CutWanted(self.identity.shard, frozen.through);
                    if self.events.send(wanted).await.is_err() {
                        return;
                    }
                    Ok(())
                }
                Some(frozen) => match self.flush(&frozen).await {
                    Ok(()) => {
                        self.note_flushed().await;
                        continue;
                    }
                    Err(error) if error.is_out_of_space() => {
                        if let Err(error) = self.put_off_flush(&frozen, error).await {
                            return self.fail(error).await;
                        }
                        continue;
                    }
                    failed => failed,
                },
            };
            if let Err(error) = done {
                return self.fail(error).await;
            }
            self.raise_flushed();
            self.work.raised_since(mark).await;
        }
    }

    /// Wakes whoever waits for flushes.
    pub(super) fn raise_flushed(&self) {
        self.flushed.raise();
        self.pressure.flush_moved.raise();
    }

    /// Sets the active memtable aside if it holds commits that somebody wants flushed. Those that come later stay where
    /// they are: a memtable for every few of them would keep flushes and merges busy for as long as commits come. It waits
    /// for the memtable in hand, so that a request takes no room from commits.
    fn freeze_as_wanted(&self) {
        let mut state = self.state.borrow_mut();
        if state.frozen.is_empty() && state.flushed < self.flush_wanted.get() {
            state.freeze();
        }
    }

    /// Freezes a memtable that has held something for too long.
    async fn watch_age(self: Rc<Self>) {
        let age_max = self.config.memtable_age_max;
        loop {
            self.env.sleep(age_max).await;
            if self.closing.get() || self.failure().is_some() {
                return;
            }
            let now = self.env.now();
            let mut state = self.state.borrow_mut();
            let old = !state.active.borrow().is_empty() && now.saturating_sub(state.active_since) >= age_max;
            if old {
                state.freeze();
                drop(state);
                self.work.raise();
            }
        }
    }

    /// Flushes everything that has been applied. Out of space if the disk is full: the flush is tried again later.
    pub(super) async fn flush_everything(&self) -> Result<()> {
        let through = self.state.borrow().applied;
        let put_off = self.shortage.flushes_put_off();
        self.want_retry();
        self.flush_wanted.set(through);
        self.work.raise();
        loop {
            let mark = self.flushed.mark();
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if self.state.borrow().flushed >= through {
                return Ok(());
            }
            if let Some(full) = self.shortage.put_off_after(put_off) {
                return Err(full);
            }
            self.flushed.raised_since(mark).await;
        }
    }

    pub(super) async fn flush_on_request(self: Rc<Self>, reply: ReplySender<Result<()>>) {
        reply.send(self.flush_everything().await);
    }

    /// Flushes a memtable. Out of space leaves the store as it was.
    async fn flush(&self, frozen: &Rc<Frozen>) -> Result<()> {
        let unfinished = Unfinished::default();
        {
            let memtable = frozen.memtable.borrow();
            self.pressure.begin_flush(self.env.now(), memtable.bytes(), memtable.entries());
        }
        let done = self.flush_into(frozen, &unfinished).await;
        self.pressure.end_flush(self.env.now(), done.is_ok(), self.config.memtable_bytes_max);
        if done.as_ref().is_err_and(Error::is_out_of_space) {
            self.remove_unfinished(unfinished).await?;
        }
        done
    }

    async fn flush_into(&self, frozen: &Rc<Frozen>, unfinished: &Unfinished) -> Result<()> {
        let retention = self.state.borrow().retention();
        let collections: Vec<CollectionId> = frozen.memtable.borrow().collections().collect();
        let mut added = Vec::new();
        for collection in collections {
            if self.state.borrow().is_dropped(collection) {
                continue;
            }
            let memtable = &frozen.memtable;
            added.extend(self.flush_collection(memtable, collection, &retention, unfinished).await?);
        }
        if !added.is_empty() && !active(Mutant::SkipDirectorySync) {
            self.env.sync_dir(Dir::Shard(self.identity.shard.0)).await?;
        }
        let through = frozen.through;
        if active(Mutant::RecycleEarly) {
            self.writer().wal.release(through).await?;
        }
        self.writer().manifest.apply(|| self.checkpoint_edit(added.clone(), through)).await?;
        // From here on the flush counts, and what fails is no lack of space.
        self.install(added, frozen, &retention).await.map_err(Error::poison)?;
        self.release_wal(through).await.map_err(Error::poison)?;
        self.stats.borrow_mut().flushes += 1;
        self.balance();
        self.segments_changed.raise();
        Ok(())
    }

    /// The manifest record that makes a flush count.
    fn checkpoint_edit(&self, added: Vec<SegmentMeta>, through: Seq) -> Edit {
        let state = self.state.borrow();
        // Rollbacks and catalogs above the checkpoint are in the WAL still, and might not survive a crash.
        let rollbacks = state.rollbacks.iter().filter(|rollback| rollback.seq <= through).copied().collect();
        let saved = state.catalogs_unsaved.iter().rev().find(|(seq, _)| *seq <= through);
        Edit {
            added,
            removed: Vec::new(),
            flushed: Some(through),
            rollbacks: Some(rollbacks),
            horizon: Some(state.progress.horizon),
            catalog: saved.map(|(_, catalog)| catalog.as_ref().clone()),
            next_segment: state.next_segment,
        }
    }

    /// Puts the segments of a flush in the place of its memtable.
    async fn install(
        &self,
        added: Vec<SegmentMeta>,
        frozen: &Rc<Frozen>,
        retention: &Retention,
    ) -> Result<()> {
        let segments = self.open_segments(added, retention).await?;
        let bytes_added: u64 = segments.iter().map(|segment| segment.meta().file_bytes).sum();
        self.note_written(&segments);
        self.stats.borrow_mut().flush_bytes += bytes_added;
        let mut state = self.state.borrow_mut();
        for added in segments.chunk_by(|a, b| a.meta().collection == b.meta().collection) {
            let Some(first) = added.first() else { continue };
            state.replace_segments(first.meta().collection, &[], added.iter().cloned());
        }
        let done = state.frozen.pop_front();
        assert!(done.is_some_and(|done| Rc::ptr_eq(&done, frozen)), "memtables are flushed in order");
        state.flushed = frozen.through;
        state.catalogs_unsaved.retain(|(seq, _)| *seq > frozen.through);
        state.forget_rollbacks();
        state.remask();
        Ok(())
    }

    /// Counts segments that were just written.
    pub(super) fn note_written(&self, segments: &[Rc<Segment<E>>]) {
        let mut stats = self.stats.borrow_mut();
        for SegmentMeta { collection, place, file_bytes, .. } in segments.iter().map(|segment| segment.meta())
        {
            let levels = &mut stats.traffic.entry(*collection).or_default().levels;
            levels.entry(place.level).or_default().written_bytes += file_bytes;
        }
    }

    /// Opens segments that were just written under `retention`.
    pub(super) async fn open_segments(
        &self,
        metas: Vec<SegmentMeta>,
        retention: &Retention,
    ) -> Result<Vec<Rc<Segment<E>>>> {
        let mut segments = Vec::with_capacity(metas.len());
        for meta in metas {
            let left_out = self.state.borrow().left_out(&meta, retention);
            let segment =
                Segment::open(&self.env, self.home, meta, Mask::default(), &self.partitions).await?;
            segment.load_partitions(&self.env).await?;
            segment.set_clean_of(left_out);
            segments.push(segment);
        }
        Ok(segments)
    }

    /// Writes what a memtable holds of one collection: what no reorg can reach apart from the rest.
    async fn flush_collection(
        &self,
        memtable: &Rc<RefCell<Memtable>>,
        collection: CollectionId,
        retention: &Retention,
        unfinished: &Unfinished,
    ) -> Result<Vec<SegmentMeta>> {
        let (spec, mask, bottom) = {
            let state = self.state.borrow();
            let spec = state.collection(collection)?.clone();
            let mask = state.masks.get(spec.scope);
            (spec, mask, state.runs_of(collection).is_empty())
        };
        let mut output = Output {
            shard: self,
            spec: &spec,
            memtable,
            horizon: retention.horizon,
            unfinished,
            parts: Default::default(),
            value: Vec::new(),
        };
        let mut after: Option<Box<[u8]>> = None;
        let mut slice_ends = self.env.now() + self.env.background_slice();
        loop {
            let keys = copy_keys(&memtable.borrow(), collection, after.as_deref());
            let Some(last) = keys.last() else { break };
            after = Some(last.key.clone());
            self.pressure.advance_flush(keys.iter().map(|key| key.heads.len()).sum());
            for versions in &keys {
                output.add(versions, &mask, &retention.of(spec.history, bottom)).await?;
            }
            if self.env.now() >= slice_ends {
                self.env.yield_now().await;
                slice_ends = self.env.now() + self.env.background_slice();
            }
        }
        output.finish().await
    }

    /// The number of the next segment.
    pub(super) fn take_segment_number(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let number = state.next_segment;
        state.next_segment += 1;
        number
    }

    /// Begins a segment, and notes it as unfinished.
    pub(super) async fn begin_segment(
        &self,
        collection: CollectionId,
        filter_bits: FilterBits,
        unfinished: &Unfinished,
    ) -> Result<SegmentBuilder<E>> {
        let number = self.take_segment_number();
        unfinished.add(number);
        let config = SegmentConfig {
            page_bytes: self.config.page_bytes,
            write_bytes: self.config.segment_write_bytes,
            filter_bits,
            ..SegmentConfig::new(self.filter_key)
        };
        SegmentBuilder::create(self.env.clone(), self.home, number, collection, config).await
    }

    /// Begins a segment in the cold target, and notes its file as unfinished.
    pub(super) async fn begin_cold_segment(
        &self,
        collection: CollectionId,
        compression: Compression,
        unfinished: &Unfinished,
    ) -> Result<SegmentBuilder<E>> {
        let number = self.take_segment_number();
        // The target may finish an upload long after it was given up: no other object is to have its name.
        self.writer().manifest.apply(|| self.numbers_edit()).await?;
        unfinished.add(number);
        let config = SegmentConfig {
            page_bytes: self.config.cold_page_bytes,
            write_bytes: self.config.segment_write_bytes,
            filter_bits: FilterBits::Eight,
            ..SegmentConfig::new(self.filter_key)
        };
        let (env, pace) = (self.env.clone(), self.tiering.pace());
        SegmentBuilder::create_cold(env, self.home, number, collection, config, compression, pace).await
    }

    /// The manifest record that keeps numbers from being used again.
    fn numbers_edit(&self) -> Edit {
        Edit { next_segment: self.state.borrow().next_segment, ..Edit::default() }
    }
}

/// The keys after one. Values are not copied: they can be large.
fn copy_keys(memtable: &Memtable, collection: CollectionId, after: Option<&[u8]>) -> Vec<KeyVersions> {
    memtable
        .keys_after(collection, after)
        .take(KEYS_AT_ONCE)
        .map(|key| {
            let head = |version: VersionRef<'_>| VersionHead {
                seq: version.seq,
                tombstone: version.value.is_none(),
            };
            KeyVersions {
                key: Box::from(key.key()),
                heads: key.versions().map(head).collect(),
                places: key.versions().map(|version| version.at).collect(),
            }
        })
        .collect()
}

impl Retention {
    /// What may be dropped of a collection.
    pub(super) fn of(&self, history: History, bottom: bool) -> Retain<'_> {
        Retain { history, horizon: self.horizon, cut: self.cut, pins: &self.pins, bottom }
    }
}

/// One run that a flush writes.
struct Part<E: Env> {
    open: Option<(SegmentBuilder<E>, Seq, Seq)>,
    done: Vec<SegmentMeta>,
}

impl<E: Env> Default for Part<E> {
    fn default() -> Self {
        Self { open: None, done: Vec::new() }
    }
}

/// The runs that one collection's part of a memtable becomes: at or below the horizon, and above it.
struct Output<'a, E: Env> {
    shard: &'a Shard<E>,
    spec: &'a CollectionSpec,
    memtable: &'a RefCell<Memtable>,
    horizon: Seq,
    unfinished: &'a Unfinished,
    parts: [Part<E>; 2],
    /// The value that is being written.
    value: Vec<u8>,
}

impl<E: Env> Output<'_, E> {
    /// Adds what must be kept of a key.
    async fn add(&mut self, versions: &KeyVersions, mask: &Mask, retain: &Retain<'_>) -> Result<()> {
        self.end_full().await?;
        let kept = retained(&versions.heads, mask, retain);
        let versions_kept = versions.heads.iter().zip(&versions.places).zip(kept).filter(|(_, kept)| *kept);
        for ((VersionHead { seq, .. }, at), _) in versions_kept {
            let part = usize::from(*seq > self.horizon);
            let Some(Part { open, .. }) = self.parts.get_mut(part) else { continue };
            if open.is_none() {
                let (id, bits) = (self.spec.id, FilterBits::Sixteen);
                let builder = self.shard.begin_segment(id, bits, self.unfinished).await?;
                *open = Some((builder, *seq, *seq));
            }
            if let Some((builder, seq_min, seq_max)) = open {
                *seq_min = (*seq).min(*seq_min);
                *seq_max = (*seq).max(*seq_max);
                let is_put = copy_value(&self.memtable.borrow(), *at, &mut self.value);
                builder.add(&versions.key, *seq, is_put.then_some(&self.value)).await?;
            }
        }
        Ok(())
    }

    /// Ends files that are full: the next key goes on in another one.
    async fn end_full(&mut self) -> Result<()> {
        let bytes_max = self.shard.config.segment_bytes_max;
        for part in &mut self.parts {
            if part.open.as_ref().is_some_and(|(builder, ..)| builder.bytes_so_far() >= bytes_max) {
                part.end(self.shard, self.memtable).await?;
            }
        }
        Ok(())
    }

    async fn finish(self) -> Result<Vec<SegmentMeta>> {
        let mut metas = Vec::new();
        for mut part in self.parts {
            part.end(self.shard, self.memtable).await?;
            metas.append(&mut part.done);
        }
        Ok(metas)
    }
}

impl<E: Env> Part<E> {
    /// Ends the file that is being written, if one is.
    async fn end(&mut self, shard: &Shard<E>, memtable: &RefCell<Memtable>) -> Result<()> {
        let Some((builder, seq_min, seq_max)) = self.open.take() else { return Ok(()) };
        shard.stats.borrow_mut().large_values += builder.large_values();
        let heights = memtable.borrow().heights(seq_min, seq_max);
        let heights = heights.unwrap_or((Height::default(), Height::default()));
        let meta = builder.finish(heights).await?;
        let run = self.done.first().map_or(meta.number, |first| first.number);
        self.done.push(SegmentMeta { place: Place { run, ..meta.place }, ..meta });
        Ok(())
    }
}

/// Copies the value of a version; `false` if it is a tombstone.
fn copy_value(memtable: &Memtable, at: VersionAt, into: &mut Vec<u8>) -> bool {
    let Some(value) = memtable.value(at) else { return false };
    into.clear();
    into.shrink_to(VALUE_BYTES_KEPT);
    into.extend_from_slice(value);
    true
}
