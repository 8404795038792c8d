//! Removing records that are no longer wanted, as their collections declare.
//!
//! The committer, between two blocks, looks at some records on the newest state, and removes those that the declaration
//! picks, with their index entries, in an ordinary commit. A pass goes through the whole collection; where it stands is
//! stored as the progress of an index is (`backfill`), so that a crash or a reorg takes back what was removed together with
//! the note of it.
//!
//! Only a record that is the same at the horizon is removed: whatever a reorg does, it was there. A record that changed
//! since is left to a later pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use op_engine_io::num::to_u64;
use op_engine_shards::message::ScanPage;
use op_engine_shards::visibility::Scope;
use op_engine_shards::{CollectionId, Height, Seq};

use crate::collection::PurgeSpec;
use crate::engine::backfill::{page_after, position_after};
use crate::engine::order::{IndexedChange, Resolved};
use crate::engine::prepare::{Prepared, get_each, prepare};
use crate::engine::progress::{Position, Stage, Work};
use crate::engine::registry::{Registered, Registry};
use crate::engine::shared::Shared;
use crate::error::{Error, Result};

/// Batches without anything to remove before the position is stored all the same.
const UNSTORED_MAX: u32 = 64;

/// How far the purging of a collection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeProgress {
    /// The collection.
    pub collection: String,
    /// The height that the current pass, or the last one, was given to decide by.
    pub below: Height,
    /// Whether a pass is under way.
    pub is_running: bool,
    /// Records that the pass has looked at.
    pub records_seen: u64,
    /// Records that were removed by all passes, as far as no reorg has brought them back.
    pub records_removed: u64,
    /// Why purging has stopped until the store is opened again, if it has.
    pub failure: Option<Error>,
}

#[derive(Debug)]
struct Known {
    work: Work,
    unstored: u32,
    failure: Option<Error>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    spec: PurgeSpec,
    known: Mutex<Known>,
}

impl Entry {
    fn look<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        // Nothing that holds the lock can panic half way through a change.
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A batch of a pass.
pub(crate) struct Batch {
    /// What to commit; nothing if there was nothing to remove.
    pub(crate) prepared: Option<Prepared>,
    pub(crate) work: Work,
}

/// The collections that are purged.
#[derive(Debug, Default)]
pub(crate) struct PurgeStates(BTreeMap<CollectionId, Entry>);

impl PurgeStates {
    pub(crate) fn new(registry: &Registry) -> Self {
        let purged = registry.all().filter_map(|registered| {
            let known = Mutex::new(Known { work: nothing_done(), unstored: 0, failure: None });
            let entry = Entry { name: registered.name, spec: registered.purge.clone()?, known };
            Some((registered.id, entry))
        });
        Self(purged.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in all stored work.
    pub(crate) fn set_all(&self, works: &BTreeMap<CollectionId, Work>) {
        for (id, entry) in &self.0 {
            let work = works.get(id).cloned().unwrap_or_else(nothing_done);
            entry.look(|known| {
                known.work = work;
                known.unstored = 0;
            });
        }
    }

    /// Takes in the work on a collection, and whether it was stored.
    pub(crate) fn set(&self, id: CollectionId, work: Work, is_stored: bool) {
        if let Some(entry) = self.0.get(&id) {
            entry.look(|known| {
                known.work = work;
                known.unstored = if is_stored { 0 } else { known.unstored + 1 };
            });
        }
    }

    /// Stops purging a collection until the store is opened again.
    pub(crate) fn fail(&self, id: CollectionId, error: Error) {
        if let Some(entry) = self.0.get(&id) {
            entry.look(|known| known.failure = Some(error));
        }
    }

    /// A collection of which something is to be looked at.
    pub(crate) fn due(&self, tip: Height, horizon: Height) -> Option<CollectionId> {
        let is_due = |entry: &Entry| {
            entry.look(|known| {
                let is_running = matches!(known.work.stage, Stage::Running(_));
                let next = target(&entry.spec, tip, horizon);
                known.failure.is_none()
                    && (is_running
                        || next > 0 && next >= known.work.below.saturating_add(step_of(&entry.spec, known)))
            })
        };
        self.0.iter().find(|(_, entry)| is_due(entry)).map(|(id, _)| *id)
    }

    pub(crate) fn progress(&self, id: CollectionId) -> Option<PurgeProgress> {
        self.0.get(&id).map(progress_of)
    }

    pub(crate) fn all(&self) -> Vec<PurgeProgress> {
        self.0.values().map(progress_of).collect()
    }
}

fn nothing_done() -> Work {
    Work { stage: Stage::Complete(Seq::ZERO), ..Work::default() }
}

/// The height by which a pass that begins now decides: never above what a reorg can reach.
fn target(spec: &PurgeSpec, tip: Height, horizon: Height) -> u64 {
    tip.0.saturating_sub(spec.blocks).min(horizon.0)
}

/// By how much the height must have risen for another pass. The first one is worth it at once.
fn step_of(spec: &PurgeSpec, known: &Known) -> u64 {
    if known.work.below == 0 { 0 } else { spec.every.max(1) }
}

fn progress_of(entry: &Entry) -> PurgeProgress {
    entry.look(|known| PurgeProgress {
        collection: entry.name.to_owned(),
        below: Height(known.work.below),
        is_running: matches!(known.work.stage, Stage::Running(_)),
        records_seen: known.work.records,
        records_removed: known.work.removed,
        failure: known.failure.clone(),
    })
}

/// The next batch of a pass, which begins if none is under way. `view` shows the newest state, `seq` will be the commit.
///
/// # Errors
/// [`Error::DeclarationPanicked`] of the declaration's test; whatever reading fails with.
pub(crate) async fn next_batch(
    shared: &Arc<Shared>,
    registered: &Registered,
    (view, seq): (Seq, Seq),
    rows_max: usize,
) -> Result<Batch> {
    let (tip, horizon) = shared.chain(|chain| (chain.tip(), chain.horizon()));
    let tip = tip.map_or(Height::default(), |tip| tip.height);
    let Some(entry) = shared.purges.0.get(&registered.id) else {
        return Ok(Batch { prepared: None, work: nothing_done() });
    };
    let (mut work, unstored) = entry.look(|known| (known.work.clone(), known.unstored));
    let position = match work.stage.clone() {
        Stage::Running(position) => position,
        Stage::Complete(_) | Stage::Failed(_) => {
            work = Work { below: target(&entry.spec, tip, horizon.height), records: 0, ..work };
            Position::default()
        }
    };
    let page = page_after(shared, registered.id, &position, view, rows_max).await?;
    let wanted =
        settled(shared, registered, (&entry.spec, &work, position.shard), &page, horizon.seq).await?;
    work.records += to_u64(page.rows.len());
    work.removed += to_u64(wanted.len());
    work.stage = position_after(shared, position, &page).map_or(Stage::Complete(seq), Stage::Running);
    let is_idle = wanted.is_empty() && matches!(work.stage, Stage::Running(_)) && unstored < UNSTORED_MAX;
    if is_idle {
        return Ok(Batch { prepared: None, work });
    }
    let payloads = shared.shards.iter().map(|_| Vec::new()).collect();
    let mut prepared = prepare(shared, Resolved { payloads, indexed: wanted }, view).await?;
    prepared.push_work(shared, registered.scope, registered.id, &work);
    Ok(Batch { prepared: Some(prepared), work })
}

/// The removals of those records of a page that the declaration picks and that are the same at the horizon.
async fn settled(
    shared: &Shared,
    registered: &Registered,
    (spec, work, shard): (&PurgeSpec, &Work, u16),
    page: &ScanPage,
    horizon: Seq,
) -> Result<Vec<IndexedChange>> {
    let mut picked = Vec::new();
    for (key, value) in page.rows.iter() {
        if (spec.test)(key, value, Height(work.below))? {
            picked.push((key, value));
        }
    }
    let shard = usize::from(shard);
    let wanted: Vec<_> = picked.iter().map(|(key, _)| (shard, registered.id, key)).collect();
    let then = get_each(shared, horizon, &wanted).await?;
    let is_same = |now: &[u8], then: Option<&[u8]>| then == Some(now);
    let settled = picked.iter().zip(then.iter()).filter(|((_, now), then)| is_same(now, *then));
    Ok(settled
        .map(|((key, _), _)| IndexedChange {
            type_id: registered.type_id,
            name: registered.name,
            collection: registered.id,
            shard,
            key: key.to_vec(),
            value: None,
            entries: Vec::new(),
        })
        .collect())
}

/// Versions of a collection that keeps every one of them are never freed, so there is nothing to purge.
pub(crate) fn check(registered: &Registered) -> Result<()> {
    let is_senseless = registered.history == op_engine_shards::catalog::History::All;
    match &registered.purge {
        Some(_) if is_senseless => {
            let why = format!(
                "{} keeps every version for ever: declare it with `History::Window`",
                registered.name
            );
            Err(Error::Setting { name: "purge", why })
        }
        Some(_) if registered.scope == Scope::Cleared => {
            let why = format!("{} is emptied by reorgs, so no record of it is beyond them", registered.name);
            Err(Error::Setting { name: "purge", why })
        }
        _ => Ok(()),
    }
}
