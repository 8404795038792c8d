//! Which indexes can be read, and how far the others are.
//!
//! An index that is as old as its collection can always be read. One that came later can be read on every view at or after
//! the commit that completed it. The truth is the record of its work on that view; what is known here of the newest one
//! only saves reading it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use op_engine_shards::visibility::Scope;
use op_engine_shards::{CollectionId, Seq};

use crate::engine::definition::Origin;
use crate::engine::prepare::get_each;
use crate::engine::progress::{Stage, Work, decode_row, work_key};
use crate::engine::reader::is_expired;
use crate::engine::registry::Registry;
use crate::engine::shared::Shared;
use crate::engine::system;
use crate::error::{Error, Result};

/// Whether an index can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexStatus {
    /// It can.
    Ready,
    /// Not yet: the records that were there before it are being entered.
    Building,
    /// It could not be completed. It is made anew when the store is opened again.
    Failed {
        /// Why not.
        why: String,
    },
}

/// How far an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexProgress {
    /// The index, as `collection.index`.
    pub index: String,
    /// Whether it can be read.
    pub status: IndexStatus,
    /// Records of the collection that have been entered. A reorg can take some back.
    pub records_done: u64,
    /// Records that the collection had in segments when the work began or went on, versions of one record counted apart.
    pub records_estimated: u64,
    /// What holds the work up, to be tried again.
    pub stalled: Option<Error>,
}

/// How an index takes part in commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is complete, and what contradicts it is refused.
    Ready,
    /// Changes are entered, but nothing is refused for its sake.
    Building,
    /// It is left as it is.
    Failed,
}

#[derive(Debug)]
struct Known {
    work: Work,
    estimated: u64,
    stalled: Option<Error>,
}

/// An index that came later than its collection.
#[derive(Debug)]
struct Entry {
    name: String,
    scope: Scope,
    known: Mutex<Known>,
}

impl Entry {
    fn look<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        // Nothing that holds the lock can panic half way through a change.
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The indexes that came later than their collections.
#[derive(Debug, Default)]
pub(crate) struct IndexStates(BTreeMap<CollectionId, Entry>);

impl IndexStates {
    pub(crate) fn new(registry: &Registry) -> Self {
        let later = registry.all().flat_map(|registered| {
            let later = registered.indexes.iter().filter(|index| index.origin == Origin::Later);
            later.map(|index| {
                let known = Known { work: Work::default(), estimated: 0, stalled: None };
                let (name, scope) = (index.spec.name.clone(), registered.scope);
                (index.id, Entry { name, scope, known: Mutex::new(known) })
            })
        });
        Self(later.collect())
    }

    /// How an index takes part in commits on top of the newest one.
    pub(crate) fn phase(&self, id: CollectionId) -> Phase {
        let Some(entry) = self.0.get(&id) else { return Phase::Ready };
        entry.look(|known| match known.work.stage {
            Stage::Complete(_) => Phase::Ready,
            Stage::Running(_) => Phase::Building,
            Stage::Failed(_) => Phase::Failed,
        })
    }

    /// The indexes that are being filled, by number.
    pub(crate) fn building(&self) -> Vec<CollectionId> {
        self.0.keys().copied().filter(|id| self.phase(*id) == Phase::Building).collect()
    }

    /// What is known of the work on an index.
    pub(crate) fn work(&self, id: CollectionId) -> Work {
        self.0.get(&id).map(|entry| entry.look(|known| known.work.clone())).unwrap_or_default()
    }

    /// Takes in the work on an index.
    pub(crate) fn set(&self, id: CollectionId, work: Work) {
        if let Some(entry) = self.0.get(&id) {
            entry.look(|known| {
                known.work = work;
                known.stalled = None;
            });
        }
    }

    /// Takes in all stored work.
    pub(crate) fn set_all(&self, works: &BTreeMap<CollectionId, Work>) {
        for id in self.0.keys() {
            self.set(*id, works.get(id).cloned().unwrap_or_default());
        }
    }

    /// Takes back what a reorg to a commit may take back, before it does: until the records have been read again, what
    /// was complete after that commit passes for unknown.
    pub(crate) fn unsettle(&self, target: Seq) {
        for entry in self.0.values().filter(|entry| entry.scope == Scope::Chain) {
            entry.look(|known| match known.work.stage {
                Stage::Complete(since) if since <= target => {}
                _ => known.work = Work::default(),
            });
        }
    }

    pub(crate) fn set_estimate(&self, id: CollectionId, records: u64) {
        if let Some(entry) = self.0.get(&id) {
            entry.look(|known| known.estimated = records);
        }
    }

    pub(crate) fn set_stalled(&self, id: CollectionId, error: Error) {
        if let Some(entry) = self.0.get(&id) {
            entry.look(|known| known.stalled = Some(error));
        }
    }

    /// Whether an index is known to be complete on a view.
    fn is_ready(&self, id: CollectionId, view: Seq) -> bool {
        let Some(entry) = self.0.get(&id) else { return true };
        entry.look(|known| matches!(known.work.stage, Stage::Complete(since) if since <= view))
    }

    /// Whether an index can be read on a view that shows this work on it.
    fn judge(&self, id: CollectionId, work: Work) -> Result<()> {
        let Some(entry) = self.0.get(&id) else { return Ok(()) };
        let index = entry.name.clone();
        match work.stage {
            Stage::Complete(_) => Ok(()),
            Stage::Failed(why) => Err(Error::IndexFailed { index, why }),
            Stage::Running(_) => entry.look(|known| {
                if matches!(known.work.stage, Stage::Complete(_)) {
                    return Err(Error::IndexTooNew { index });
                }
                let records_estimated = known.estimated.max(work.records);
                Err(Error::IndexIncomplete { index, records_done: work.records, records_estimated })
            }),
        }
    }

    /// How far an index is; `None` if it is as old as its collection.
    pub(crate) fn progress(&self, id: CollectionId) -> Option<IndexProgress> {
        self.0.get(&id).map(progress_of)
    }

    /// How far all indexes are that came later than their collections.
    pub(crate) fn all(&self) -> Vec<IndexProgress> {
        self.0.values().map(progress_of).collect()
    }
}

fn progress_of(entry: &Entry) -> IndexProgress {
    entry.look(|known| IndexProgress {
        index: entry.name.clone(),
        status: match &known.work.stage {
            Stage::Complete(_) => IndexStatus::Ready,
            Stage::Running(_) => IndexStatus::Building,
            Stage::Failed(why) => IndexStatus::Failed { why: why.clone() },
        },
        records_done: known.work.records,
        records_estimated: known.estimated.max(known.work.records),
        stalled: known.stalled.clone(),
    })
}

/// Whether an index, or a collection, can be read on a view. Ask after the view was taken.
///
/// # Errors
/// [`Error::IndexIncomplete`], [`Error::IndexTooNew`], [`Error::IndexFailed`].
pub(crate) async fn require_complete(shared: &Shared, id: CollectionId, view: Seq) -> Result<()> {
    if shared.indexes.is_ready(id, view) {
        return Ok(());
    }
    let scope = shared.indexes.0.get(&id).map_or(Scope::Chain, |entry| entry.scope);
    let collection = system::progress_spec(scope).id;
    let key = work_key(id);
    let shard = shared.placement.shard(collection, &key);
    let work = match get_each(shared, view, &[(shard, collection, key)]).await {
        Ok(answers) => match answers.iter().next().flatten() {
            Some(value) => decode_row(&key, value)?.1,
            None => Work::default(),
        },
        // A state whose records of work are gone is older than anything that is known.
        Err(error) if is_expired(&error) => Work::default(),
        Err(error) => return Err(error),
    };
    shared.indexes.judge(id, work)
}
