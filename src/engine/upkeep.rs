//! The committer's work in the background: it takes turns with what it is ordered to do.
//!
//! One bounded batch follows every order, and others follow while there is none. Each is a commit of its own. Work that fails
//! is tried again after a pause; work that the disk has no room for, too.

use std::cell::{Cell, RefCell};
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
    /// The number of records of collections that are looked through, as far as they are in segments.
    estimates: RefCell<BTreeMap<CollectionId, u64>>,
}

impl Upkeep {
    pub(crate) fn new(rows_max: usize) -> Self {
        Self {
            rows_max,
            is_stale: Cell::new(false),
            is_estimated: Cell::new(false),
            rests_until: Cell::default(),
            estimates: RefCell::default(),
        }
    }
}

impl<E: Env> Committer<E> {
    /// The next order; works in the background until there is one. `None` when no order can come any more.
    pub(super) async fn next_order(&self, orders: &mut Receiver<Order>) -> Option<Order> {
        loop {
            let mut rest = self.rest();
            if rest == Some(Duration::ZERO) {
                self.work_in_background().await;
                rest = self.rest();
            }
            let at_once = poll_fn(|cx| match orders.poll_recv(cx) {
                Poll::Ready(order) => Poll::Ready(Some(order)),
                Poll::Pending => Poll::Ready(None),
            });
            if let Some(order) = at_once.await {
                return order;
            }
            match rest {
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

    /// How long to wait before there is something to do; `None` if there is nothing.
    fn rest(&self) -> Option<Duration> {
        let is_idle = !self.upkeep.is_stale.get() && self.shared.indexes.building().is_empty();
        if is_idle || self.barrier.failure().is_some() {
            return None;
        }
        Some(self.upkeep.rests_until.get().saturating_sub(self.env.now()))
    }

    async fn work_in_background(&self) {
        let Err(error) = self.try_work().await else { return };
        let pause = if matches!(error, Error::OutOfSpace { .. }) { FULL_PAUSE } else { FAILURE_PAUSE };
        tracing::warn!(%error, "work in the background rests");
        self.upkeep.rests_until.set(self.env.now() + pause);
        if let Some(id) = self.shared.indexes.building().first() {
            self.shared.indexes.set_stalled(*id, error);
        }
    }

    async fn try_work(&self) -> Result<()> {
        self.load_works().await?;
        self.estimate().await?;
        let Some(id) = self.shared.indexes.building().first().copied() else { return Ok(()) };
        let Some((registered, index)) = self.shared.registry.index_by_id(id) else { return Ok(()) };
        let numbers = (self.last.get(), self.barrier.next_seq());
        let (prepared, work) =
            backfill::next_batch(&self.shared, (registered, index), numbers, self.upkeep.rows_max).await?;
        self.commit_work(&format!("filling index {}", index.spec.name), prepared).await?;
        self.shared.indexes.set(id, work);
        Ok(())
    }

    /// Commits a batch of work. As durable as blocks are: it costs no sync of its own while they wait for none.
    async fn commit_work(&self, what: &str, prepared: Prepared) -> Result<()> {
        let changes =
            Resolved { payloads: prepared.into_payloads(), indexed: Vec::new(), collections: Vec::new() };
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
        *self.upkeep.estimates.borrow_mut() = records;
        Ok(())
    }
}
