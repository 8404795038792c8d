//! What a shard holds in memory. Changed only by synchronous functions, between awaits.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use op_engine_io::Env;
use op_engine_io::num::to_u64;

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::catalog::{Catalog, CollectionSpec, History};
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Seq};
use crate::log::{Frame, FrameKind};
use crate::memtable::{Memtable, key_prefix};
use crate::message::{Horizon, Pins, Progress};
use crate::ops::{self, Op};
use crate::run::Runs;
use crate::segment::Segment;
use crate::visibility::{Mask, Rollback, Scope};

/// A memtable that takes no more entries and waits to be flushed.
pub(crate) struct Frozen {
    pub(crate) memtable: Rc<RefCell<Memtable>>,
    /// The last commit that is in it or below it.
    pub(crate) through: Seq,
}

/// The masks for whole collections, by scope.
#[derive(Default, Clone)]
pub(crate) struct Masks {
    chain: Rc<Mask>,
    cleared: Rc<Mask>,
    global: Rc<Mask>,
}

impl Masks {
    fn new(rollbacks: &[Rollback]) -> Self {
        let all = |scope| Rc::new(Mask::for_range(rollbacks, scope, Seq::ZERO, Seq::MAX));
        Self { chain: all(Scope::Chain), cleared: all(Scope::Cleared), global: Rc::default() }
    }

    pub(crate) fn get(&self, scope: Scope) -> Rc<Mask> {
        Rc::clone(match scope {
            Scope::Chain => &self.chain,
            Scope::Cleared => &self.cleared,
            Scope::Global => &self.global,
        })
    }
}

/// What a shard holds in memory.
pub(crate) struct State<E: Env> {
    pub(crate) catalog: Arc<Catalog>,
    /// Catalogs that the manifest does not have yet, with the commits that brought them.
    pub(crate) catalogs_unsaved: Vec<(Seq, Arc<Catalog>)>,
    pub(crate) rollbacks: Vec<Rollback>,
    /// Rollbacks above the horizon, kept to recognise stranded views even when no entry is masked any more.
    stranding: Vec<Rollback>,
    pub(crate) masks: Masks,
    pub(crate) progress: Progress,
    pub(crate) applied: Seq,
    pub(crate) durable: Seq,
    pub(crate) flushed: Seq,
    pub(crate) pins: Pins,
    pub(crate) active: Rc<RefCell<Memtable>>,
    /// When the active memtable got its first entry.
    pub(crate) active_since: Duration,
    pub(crate) frozen: VecDeque<Rc<Frozen>>,
    /// The runs of each collection.
    pub(crate) runs: BTreeMap<CollectionId, Rc<Runs<E>>>,
    pub(crate) next_segment: u64,
    /// Bytes of keys and values that were applied since the store was opened.
    pub(crate) committed_bytes: BTreeMap<CollectionId, u64>,
    pub(crate) failed: Option<Error>,
}

/// The rollback that a reorg's frame carries: where the dead range begins.
///
/// | bytes | field |
/// |---|---|
/// | 8 | number of the first dead commit |
#[must_use]
pub fn encode_rollback(first_dead: Seq) -> Vec<u8> {
    first_dead.0.to_le_bytes().to_vec()
}

fn decode_rollback(seq: Seq, payload: &[u8]) -> Result<Rollback, Malformed> {
    let mut input = ByteReader::new(payload);
    let first_dead = Seq(input.u64()?);
    input.finish()?;
    // Going back to the tip kills nothing of the chain: its range is empty.
    if first_dead > seq {
        return Err(Malformed("a rollback kills commits after itself"));
    }
    Ok(Rollback { seq, first_dead })
}

/// The payload of a schema commit.
#[must_use]
pub fn encode_catalog(catalog: &Catalog) -> Vec<u8> {
    let mut out = ByteWriter::new();
    catalog.encode(&mut out);
    out.into_vec()
}

fn decode_catalog(payload: &[u8]) -> Result<Catalog, Malformed> {
    let mut input = ByteReader::new(payload);
    let catalog = Catalog::decode(&mut input)?;
    input.finish()?;
    Ok(catalog)
}

/// Operations by collection and key. Of two with one key the later stands, so their order stays.
fn in_key_order<'a>(ops: &'a [Op<'a>]) -> impl Iterator<Item = &'a Op<'a>> {
    // Most comparisons end at the first bytes, which lie together here, and the keys do not.
    let mut order: Vec<_> = ops.iter().map(|op| (op.collection, key_prefix(op.key, 0), op)).collect();
    order.sort_by(|(collection, prefix, op), (other_collection, other_prefix, other)| {
        (collection, prefix).cmp(&(other_collection, other_prefix)).then_with(|| op.key.cmp(other.key))
    });
    order.into_iter().map(|(_, _, op)| op)
}

impl<E: Env> State<E> {
    /// The state that a manifest describes, before any frame is applied.
    pub(crate) fn new(
        catalog: Catalog,
        rollbacks: Vec<Rollback>,
        horizon: Horizon,
        flushed: Seq,
        next_segment: u64,
    ) -> Self {
        Self {
            catalog: Arc::new(catalog),
            catalogs_unsaved: Vec::new(),
            masks: Masks::new(&rollbacks),
            stranding: rollbacks.clone(),
            rollbacks,
            progress: Progress { cut: flushed, horizon },
            applied: flushed,
            durable: flushed,
            flushed,
            pins: Pins::default(),
            active: Rc::default(),
            active_since: Duration::ZERO,
            frozen: VecDeque::new(),
            runs: BTreeMap::new(),
            next_segment,
            committed_bytes: BTreeMap::new(),
            failed: None,
        }
    }

    /// Makes a commit visible. The payload has been made by this engine or has passed its checksum; what does not
    /// decode all the same is refused before anything is changed.
    pub(crate) fn apply(&mut self, frame: &Frame, now: Duration) -> Result<(), Malformed> {
        match frame.kind {
            FrameKind::Block | FrameKind::Global => self.apply_operations(frame, now)?,
            FrameKind::Reorg => {
                let rollback = decode_rollback(frame.seq, &frame.payload)?;
                self.rollbacks.push(rollback);
                self.stranding.push(rollback);
                self.remask();
            }
            FrameKind::Schema => {
                let catalog = Arc::new(decode_catalog(&frame.payload)?);
                self.catalogs_unsaved.push((frame.seq, Arc::clone(&catalog)));
                self.catalog = catalog;
            }
            FrameKind::Mark | FrameKind::Snapshot | FrameKind::Edit => return Ok(()),
        }
        self.applied = frame.seq;
        Ok(())
    }

    fn apply_operations(&mut self, frame: &Frame, now: Duration) -> Result<(), Malformed> {
        let mut ops = Vec::new();
        let mut input = ByteReader::new(&frame.payload);
        while let Some(op) = ops::decode(&mut input)? {
            if self.catalog.get(op.collection).is_none() {
                return Err(Malformed("an operation names an unknown collection"));
            }
            ops.push(op);
        }
        let mut active = self.active.borrow_mut();
        if active.is_empty() {
            self.active_since = now;
        }
        if frame.kind == FrameKind::Block {
            active.note_block(frame.seq, frame.height);
        }
        // The memtable looks for each key from the one before on.
        for op in in_key_order(&ops) {
            active.insert(op.collection, op.key, frame.seq, op.value);
        }
        for ops in ops.chunk_by(|a, b| a.collection == b.collection) {
            let Some(first) = ops.first() else { continue };
            let bytes: usize = ops.iter().map(|op| op.key.len() + op.value.map_or(0, <[u8]>::len)).sum();
            *self.committed_bytes.entry(first.collection).or_default() += to_u64(bytes);
        }
        Ok(())
    }

    /// Takes in what the barrier knows. The horizon never goes down.
    pub(crate) fn advance(&mut self, progress: Progress) {
        self.progress.cut = self.progress.cut.max(progress.cut);
        self.progress.horizon = self.progress.horizon.max(progress.horizon);
        let horizon = self.progress.horizon.seq;
        self.stranding.retain(|rollback| rollback.seq > horizon);
    }

    /// Gives every segment the mask that the rollbacks make.
    pub(crate) fn remask(&mut self) {
        self.masks = Masks::new(&self.rollbacks);
        for (collection, runs) in &self.runs {
            let Some(spec) = self.catalog.get(*collection) else { continue };
            // What is archived has no dead entry: it was below the horizon when it was written.
            for segment in runs.living().iter().flat_map(|run| run.files()) {
                let meta = segment.meta();
                let rollbacks = self.rollbacks.iter().filter(|rollback| !segment.is_clean_of(rollback.seq));
                let rollbacks: Vec<Rollback> = rollbacks.copied().collect();
                segment.set_mask(Mask::for_range(&rollbacks, spec.scope, meta.seq_min, meta.seq_max));
            }
        }
    }

    /// Drops rollbacks that no entry anywhere needs any more.
    pub(crate) fn forget_rollbacks(&mut self) {
        let memory_min = self.memtables().filter_map(|memtable| memtable.borrow().seq_min()).min();
        let memory_min = memory_min.unwrap_or(Seq::MAX);
        let needed = |rollback: &&Rollback| {
            rollback.seq > self.flushed
                || rollback.seq > self.progress.cut
                || memory_min < rollback.seq
                || self.runs.iter().any(|(collection, runs)| {
                    let scope = self.catalog.get(*collection).map_or(Scope::Chain, |spec| spec.scope);
                    runs.living().iter().flat_map(|run| run.files()).any(|segment| {
                        let meta = segment.meta();
                        !segment.is_clean_of(rollback.seq)
                            && !Mask::for_range(&[**rollback], scope, meta.seq_min, meta.seq_max).is_empty()
                    })
                })
        };
        self.rollbacks = self.rollbacks.iter().filter(needed).copied().collect();
    }

    /// The collection with a number.
    pub(crate) fn collection(&self, id: CollectionId) -> Result<&CollectionSpec> {
        self.catalog.get(id).ok_or(Error::UnknownCollection { collection: id })
    }

    /// Whether a collection is dropped for good: a crash could still undo a drop above the cut.
    pub(crate) fn is_dropped(&self, id: CollectionId) -> bool {
        let settled = self.catalogs_unsaved.last().is_none_or(|(seq, _)| *seq <= self.progress.cut);
        settled && self.catalog.is_dropped(id)
    }

    /// The collections of which there is anything in memtables or segments, ascending.
    pub(crate) fn collections_in_use(&self) -> Vec<CollectionId> {
        let mut ids: Vec<CollectionId> = self
            .memtables()
            .flat_map(|memtable| memtable.borrow().collections().collect::<Vec<_>>())
            .collect();
        ids.extend(self.runs.iter().filter(|(_, runs)| !runs.is_empty()).map(|(id, _)| *id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether everything that a view needs is still there.
    pub(crate) fn can_serve(&self, view: Seq, history: History) -> bool {
        self.pins.views.binary_search(&view).is_ok() || self.can_pin(view, history)
    }

    /// Whether everything that a view needs is there and can be kept.
    pub(crate) fn can_pin(&self, view: Seq, history: History) -> bool {
        let kept = history == History::All || view >= self.progress.horizon.seq;
        let cut = self.progress.cut;
        kept && !self.stranding.iter().any(|rollback| rollback.seq <= cut && rollback.strands(view))
    }

    /// Sets the active memtable aside to be flushed, if it holds anything.
    pub(crate) fn freeze(&mut self) {
        if self.applied == self.frozen.back().map_or(self.flushed, |frozen| frozen.through) {
            return;
        }
        let memtable = std::mem::take(&mut self.active);
        self.frozen.push_back(Rc::new(Frozen { memtable, through: self.applied }));
    }

    /// All memtables, the newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Rc<RefCell<Memtable>>> {
        std::iter::once(&self.active).chain(self.frozen.iter().rev().map(|frozen| &frozen.memtable))
    }

    /// Bytes in all memtables.
    pub(crate) fn memtable_bytes(&self) -> usize {
        self.memtables().map(|memtable| memtable.borrow().bytes()).sum()
    }

    /// The runs of a collection.
    pub(crate) fn runs_of(&self, collection: CollectionId) -> Rc<Runs<E>> {
        self.runs.get(&collection).cloned().unwrap_or_default()
    }

    /// Takes the segments with the `removed` numbers out of a collection and puts `added` in. Readers that have begun
    /// keep what they have.
    pub(crate) fn replace_segments(
        &mut self,
        collection: CollectionId,
        removed: &[u64],
        added: impl IntoIterator<Item = Rc<Segment<E>>>,
    ) {
        let before = self.runs_of(collection);
        let kept = before.files().filter(|segment| !removed.contains(&segment.meta().number)).cloned();
        let after = Runs::new(kept.chain(added));
        assert!(after.are_sound(), "the keys of two files of a run do not overlap");
        self.runs.insert(collection, Rc::new(after));
    }

    /// What flushes and merges may drop.
    pub(crate) fn retention(&self) -> Retention {
        Retention {
            horizon: self.progress.horizon.seq,
            cut: self.progress.cut,
            pins: Arc::clone(&self.pins.views),
        }
    }
}

/// What flushes and merges may drop, as of one moment. It stays right as time goes on: the horizon and the cut only
/// rise, and a view is pinned only if nothing that it needs has been dropped.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    pub(crate) horizon: Seq,
    pub(crate) cut: Seq,
    pub(crate) pins: Arc<[Seq]>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn operations_come_by_collection_and_key_and_those_of_one_key_as_they_were(
            keys in prop::collection::vec((0u32..3, prop::collection::vec(0u8..2, 0..11)), 0..60),
        ) {
            let value: Vec<u8> = (0..60).collect();
            let op = |(at, (collection, key))| Op {
                collection: CollectionId(collection),
                key,
                value: value.get(..at),
            };
            let ops: Vec<Op<'_>> = keys.iter().map(|(collection, key)| (*collection, key.as_slice())).enumerate().map(op).collect();
            let mut expected = ops.clone();
            expected.sort_by_key(|op| (op.collection, op.key));
            prop_assert_eq!(in_key_order(&ops).copied().collect::<Vec<_>>(), expected);
        }
    }
}
