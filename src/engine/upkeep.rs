//! The committer's work in the background: it takes turns with what it is ordered to do.
//!
//! One bounded batch follows every order, and others follow while there is none. Each is a commit of its own. Work that fails
//! is tried again after a pause; work that the disk has no room for, too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use op_engine_io::mailbox::Receiver;
use op_engine_io::{Env, reply};
use op_engine_shards::message::Request;
use op_engine_shards::{CollectionId, Seq};

use crate::engine::backfill;
use crate::engine::committer::Committer;
use crate::engine::order::{Order, Resolved};
use crate::engine::prepare::Prepared;
use crate::engine::progress;
use crate::engine::purge;
use crate::engine::reader::is_expired;
use crate::engine::space::Wanted;
use crate::error::{Error, Result};

/// How long work rests for which the disk has no room.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How long work rests that has failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// What the committer knows of its work in the background.
pub(crate) struct Upkeep {
    /// Records that one commit covers.
    rows_max: usize,
    /// Whether a reorg may have changed the stored records of work since they were read.
    is_stale: Cell<bool>,
    /// Whether it is known roughly how much there is to do.
    is_estimated: Cell<bool>,
    /// Until when nothing is tried.
    rests_until: Cell<Duration>,
}

impl Upkeep {
    pub(crate) fn new(rows_max: usize) -> Self {
        let (is_stale, is_estimated) = (Cell::new(false), Cell::new(false));
        Self { rows_max, is_stale, is_estimated, rests_until: Cell::default() }
    }
}

/// What is to be done next.
enum Task {
    /// Reading what a reorg has left of the work.
    Load,
    Fill(CollectionId),
    Purge(CollectionId),
}

impl<E: Env> Committer<E> {
    /// The next order; works in the background until there is one. `None` when no order can come any more.
    pub(super) async fn next_order(&self, orders: &mut Receiver<Order>) -> Option<Order> {
        loop {
            let mark = self.barrier.changed().mark();
            if self.rest() == Some(Duration::ZERO) {
                self.work_in_background().await;
            }
            let at_once = poll_fn(|cx| match orders.poll_recv(cx) {
                Poll::Ready(order) => Poll::Ready(Some(order)),
                Poll::Pending => Poll::Ready(None),
            });
            if let Some(order) = at_once.await {
                return order;
            }
            match self.rest() {
                // Records come of age as the durable tip moves.
                None if !self.shared.purges.is_empty() => {
                    let moved = Box::pin(self.barrier.changed().raised_since(mark));
                    if let Either::Left((order, _)) = select(Box::pin(orders.recv()), moved).await {
                        return order;
                    }
                }
                None => return orders.recv().await,
                Some(Duration::ZERO) => {}
                Some(rest) => {
                    let sleep = Box::pin(self.env.sleep(rest));
                    if let Either::Left((order, _)) = select(Box::pin(orders.recv()), sleep).await {
                        return order;
                    }
                }
            }
        }
    }

    fn next_task(&self) -> Option<Task> {
        if self.upkeep.is_stale.get() {
            return Some(Task::Load);
        }
        if let Some(id) = self.shared.indexes.building().first() {
            return Some(Task::Fill(*id));
        }
        if self.shared.purges.is_empty() {
            return None;
        }
        let (tip, horizon) = self.shared.chain(|chain| (chain.tip(), chain.horizon()));
        self.shared.purges.due(tip?.height, horizon.height).map(Task::Purge)
    }

    /// How long to wait before there is something to do; `None` if there is nothing.
    fn rest(&self) -> Option<Duration> {
        if self.barrier.failure().is_some() {
            return None;
        }
        self.next_task()?;
        Some(self.upkeep.rests_until.get().saturating_sub(self.env.now()))
    }

    async fn work_in_background(&self) {
        let Some(task) = self.next_task() else { return };
        let done = match task {
            Task::Load => self.load_works().await,
            Task::Fill(id) => self.fill(id).await,
            Task::Purge(id) => self.purge(id).await,
        };
        let Err(error) = done else { return };
        match (&task, &error) {
            // The horizon has moved on meanwhile.
            (Task::Purge(_), error) if is_expired(error) => return,
            (
                Task::Purge(id),
                Error::DeclarationPanicked { .. } | Error::Key { .. } | Error::Value { .. },
            ) => {
                tracing::error!(%error, "a collection is not purged any more");
                return self.shared.purges.fail(*id, error);
            }
            (Task::Fill(id), error) => self.shared.indexes.set_stalled(*id, error.clone()),
            (Task::Load | Task::Purge(_), _) => {}
        }
        let pause = if matches!(error, Error::OutOfSpace { .. }) { FULL_PAUSE } else { FAILURE_PAUSE };
        tracing::warn!(%error, "work in the background rests");
        self.upkeep.rests_until.set(self.env.now() + pause);
    }

    /// Enters some records into an index.
    async fn fill(&self, id: CollectionId) -> Result<()> {
        self.estimate().await?;
        let Some((registered, index)) = self.shared.registry.index_by_id(id) else { return Ok(()) };
        let numbers = (self.last.get(), self.barrier.next_seq());
        let (prepared, work) =
            backfill::next_batch(&self.shared, (registered, index), numbers, self.upkeep.rows_max).await?;
        self.commit_work(&format!("filling index {}", index.spec.name), prepared).await?;
        self.shared.indexes.set(id, work);
        Ok(())
    }

    /// Looks at some records of a collection, and removes those that are to be removed.
    async fn purge(&self, id: CollectionId) -> Result<()> {
        let Some(registered) = self.shared.registry.all().find(|registered| registered.id == id) else {
            return Ok(());
        };
        let numbers = (self.last.get(), self.barrier.next_seq());
        let purge::Batch { prepared, work } =
            purge::next_batch(&self.shared, registered, numbers, self.upkeep.rows_max).await?;
        let is_stored = prepared.is_some();
        if let Some(mut prepared) = prepared {
            let failed = std::mem::take(&mut prepared.failed);
            self.commit_work(&format!("purging {}", registered.name), prepared).await?;
            self.note_failed(failed);
        }
        self.shared.purges.set(id, work, is_stored);
        Ok(())
    }

    /// Commits a batch of work. As durable as blocks are: it costs no sync of its own while they wait for none.
    async fn commit_work(&self, what: &str, prepared: Prepared) -> Result<()> {
        let changes = Resolved { payloads: prepared.into_payloads(), indexed: Vec::new() };
        self.space.require(&self.barrier, what, &Wanted::by(&changes)).await?;
        self.send_between_blocks(changes.payloads, self.durability.waits()).await?;
        self.count_deferred().await
    }

    /// Notes that a reorg to a commit is about to take work back.
    pub(super) fn unsettle(&self, target: Seq) {
        self.shared.indexes.unsettle(target);
        self.upkeep.is_stale.set(true);
    }

    /// Reads what a reorg has left of the work, if there was one.
    pub(super) async fn load_works(&self) -> Result<()> {
        if self.upkeep.is_stale.get() {
            let works = progress::load(&self.shared.shards, self.last.get()).await?;
            self.shared.indexes.set_all(&works);
            self.shared.purges.set_all(&works);
            self.upkeep.is_stale.set(false);
        }
        Ok(())
    }

    /// Finds out roughly how much there is to do.
    async fn estimate(&self) -> Result<()> {
        if self.upkeep.is_estimated.replace(true) {
            return Ok(());
        }
        let mut records: BTreeMap<CollectionId, u64> = BTreeMap::new();
        for shard in &self.shared.shards {
            let (sender, answer) = reply();
            shard.send(Request::Stats(sender)).await?;
            let stats = answer.await.map_err(|_| self.shared.gone())?;
            for segment in stats.segments {
                *records.entry(segment.collection).or_default() += segment.keys;
            }
        }
        for id in self.shared.indexes.building() {
            if let Some((registered, _)) = self.shared.registry.index_by_id(id) {
                self.shared.indexes.set_estimate(id, records.get(&registered.id).copied().unwrap_or(0));
            }
        }
        Ok(())
    }
}
