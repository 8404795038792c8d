//! The committer: one task that orders commits, and what acknowledges them.
//!
//! A block is prepared when its parent is applied and is sent to the shards at once; its acknowledgement comes when
//! the cut has reached it, while later blocks are on their way already.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use op_engine_io::mailbox::Receiver;
use op_engine_io::{Env, ReplySender, TaskClass, reply};
use op_engine_shards::barrier::{Barrier, Commit};
use op_engine_shards::catalog::Catalog;
use op_engine_shards::message::{CommitKind, Progress, Request};
use op_engine_shards::ops::Op;
use op_engine_shards::shard::encode_rollback;
use op_engine_shards::signal::Signal;
use op_engine_shards::{BlockHash, CollectionId, Height, Seq, StoreId};

use crate::config::Durability;
use crate::engine::basis::{Basis, BetweenBlocks};
use crate::engine::chain_window::Tip;
use crate::engine::events::Event;
use crate::engine::order::{Committed, Order, Reorged, Resolved};
use crate::engine::prepare::{Failures, Prepared, prepare};
use crate::engine::progress::{Stage, Work};
use crate::engine::shared::Shared;
use crate::engine::space::{SpaceGuard, Wanted};
use crate::engine::system::{self, BlockRecord};
use crate::engine::upkeep::Upkeep;
use crate::error::{Error, Result};

/// How long the newest cut may stay unrecorded when no commit carries it.
const MARK_DELAY: Duration = Duration::from_millis(500);

/// Whom to tell of a commit, and what.
enum Ack {
    Commit(ReplySender<Result<Committed>>, Option<Event>),
    Reorg(ReplySender<Result<Reorged>>, Reorged, Event),
    Sync(ReplySender<Result<()>>),
}

struct PendingAck {
    seq: Seq,
    /// Whether the commit is acknowledged only when it is durable.
    durable: bool,
    ack: Ack,
}

/// What opening the store has found.
pub(crate) struct Found {
    pub(crate) store: StoreId,
    pub(crate) catalog: Catalog,
    /// The last commit.
    pub(crate) last: Seq,
}

/// Orders commits. Lives on a host of its own.
pub(crate) struct Committer<E: Env> {
    pub(super) env: E,
    pub(super) shared: Arc<Shared>,
    pub(super) barrier: Rc<Barrier>,
    pub(super) durability: Durability,
    pub(super) space: SpaceGuard<E>,
    chain_index: CollectionId,
    pub(super) between_blocks: BetweenBlocks,
    /// The last commit, to which the next one links.
    pub(super) last: Cell<Seq>,
    /// The highest cut that shards were told.
    told: Cell<Seq>,
    blocks_unsynced: Cell<u64>,
    acks: RefCell<VecDeque<PendingAck>>,
    /// The highest number for whose sake a sync was asked for.
    sync_wanted: Cell<Seq>,
    applied_moved: Signal,
    /// Whether shards were told of the failure that has stopped commits.
    stop_told: Cell<bool>,
    pub(super) upkeep: Upkeep,
    /// The collections as of the last commit that has changed them.
    pub(super) catalog: RefCell<Catalog>,
    pub(super) store: StoreId,
    /// Whether shards were told to end, so that what goes on in the background has nobody to talk to.
    closing: Cell<bool>,
}

impl<E: Env> Committer<E> {
    pub(crate) fn new(
        env: E,
        shared: Arc<Shared>,
        barrier: Rc<Barrier>,
        durability: Durability,
        upkeep: Upkeep,
        found: Found,
    ) -> Rc<Self> {
        let Found { store, catalog, last } = found;
        Rc::new(Self {
            space: SpaceGuard::new(env.clone()),
            env,
            shared,
            barrier,
            durability,
            chain_index: system::chain_spec().id,
            between_blocks: BetweenBlocks::default(),
            last: Cell::new(last),
            told: Cell::new(Seq::ZERO),
            blocks_unsynced: Cell::new(0),
            acks: RefCell::default(),
            sync_wanted: Cell::new(Seq::ZERO),
            applied_moved: Signal::default(),
            stop_told: Cell::new(false),
            upkeep,
            catalog: RefCell::new(catalog),
            store,
            closing: Cell::new(false),
        })
    }

    /// Works on orders until the engine is closed or every handle is gone.
    pub(crate) async fn run(self: Rc<Self>, mut orders: Receiver<Order>) {
        self.env.spawn(TaskClass::Foreground, "acknowledge", Rc::clone(&self).acknowledge());
        self.env.spawn(TaskClass::Background, "record the cut", Rc::clone(&self).record_cut());
        self.env.spawn(TaskClass::Background, "sync deferred commits", Rc::clone(&self).sync_deferred());
        while let Some(order) = self.next_order(&mut orders).await {
            match order {
                Order::Block { height, hash, parent, changes, basis, reply } => {
                    let outcome = self.commit_block(height, hash, parent, changes, basis).await;
                    let event = Event::Committed { height, hash };
                    self.answer_commit(outcome, reply, Some(event), self.durability.waits());
                }
                Order::Global { changes, reply } => {
                    let outcome = self.commit_global(changes).await;
                    self.answer_commit(outcome, reply, None, true);
                }
                Order::Reorg { target, reply } => self.reorg(target, reply).await,
                Order::Tier { collection, policy, reply } => {
                    reply.send(self.set_tier(collection, policy).await)
                }
                Order::MarkColdTarget(reply) => reply.send(self.mark_cold_target().await),
                Order::Settle(reply) => reply.send(self.check_alive()),
                Order::Sync(reply) => self.sync(reply).await,
                Order::Close(reply) => {
                    let outcome = self.close().await;
                    self.shared.subscribers.close();
                    return reply.send(outcome);
                }
            }
        }
        // Every handle is gone. What was acknowledged is durable; let what is on its way become so.
        drop(self.close().await);
    }

    /// Answers orders of an engine that was opened for reading only.
    pub(crate) async fn refuse(self: Rc<Self>, mut orders: Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Block { reply, .. } | Order::Global { reply, .. } => reply.send(Err(Error::ReadOnly)),
                Order::Reorg { reply, .. } => reply.send(Err(Error::ReadOnly)),
                Order::Tier { reply, .. } | Order::MarkColdTarget(reply) | Order::Settle(reply) => {
                    reply.send(Err(Error::ReadOnly));
                }
                Order::Sync(reply) => reply.send(Ok(())),
                Order::Close(reply) => {
                    self.shared.subscribers.close();
                    return reply.send(self.close_shards().await);
                }
            }
        }
    }

    fn progress(&self) -> Progress {
        Progress { cut: self.barrier.cut(), horizon: self.shared.chain(|chain| chain.horizon()) }
    }

    async fn commit_block(
        &self,
        height: Height,
        hash: BlockHash,
        parent: BlockHash,
        changes: Resolved,
        basis: Option<Basis>,
    ) -> Result<Seq> {
        self.check_alive()?;
        if let Some(basis) = &basis {
            self.between_blocks.check(basis, height, self.shared.chain(|chain| chain.tip()))?;
        }
        self.shared.chain(|chain| chain.check_link(height, parent))?;
        self.require_room(&format!("block {height}"), &changes).await?;
        self.load_works().await?;
        let drafted = basis.map(|basis| basis.view);
        let mut prepared = prepare(&self.shared, changes, self.last.get(), drafted).await?;
        let seq = self.barrier.next_seq();
        let block = Tip { height, hash, parent, seq };
        self.index_block(block, &mut prepared);
        let failed = std::mem::take(&mut prepared.failed);
        let payloads = prepared.into_payloads();
        let durable = self.durability.waits();
        let commit = Commit { kind: CommitKind::Block, height, hash, parent, payloads, durable };
        self.send(commit).await?;
        self.shared.publish_applied(seq, |chain| chain.push(block));
        self.note_failed(failed);
        self.count_deferred().await?;
        Ok(seq)
    }

    /// Adds the block to the engine's own index of the chain.
    fn index_block(&self, block: Tip, prepared: &mut Prepared) {
        let key = system::chain_key(block.height);
        let value = BlockRecord::of(block).encode();
        let shard = self.shared.placement.shard(self.chain_index, &key);
        prepared.push(shard, Op { collection: self.chain_index, key: &key, value: Some(&value) });
    }

    /// Takes in that a commit has made it impossible to complete some indexes.
    pub(super) fn note_failed(&self, failed: Failures) {
        for (id, why) in failed {
            let work = Work { stage: Stage::Failed(why), ..self.shared.indexes.work(id) };
            self.shared.indexes.set(id, work);
        }
    }

    async fn commit_global(&self, changes: Resolved) -> Result<Seq> {
        self.check_alive()?;
        self.require_room("the batch", &changes).await?;
        self.load_works().await?;
        let collections = changes.collections.clone();
        let mut prepared = prepare(&self.shared, changes, self.last.get(), None).await?;
        let failed = std::mem::take(&mut prepared.failed);
        let seq = self.send_between_blocks(prepared.into_payloads(), true).await?;
        self.between_blocks.note_batch(seq, &collections);
        self.note_failed(failed);
        Ok(seq)
    }

    /// Sends a commit that is no block.
    pub(super) async fn send_between_blocks(&self, payloads: Vec<Vec<u8>>, durable: bool) -> Result<Seq> {
        let commit = Commit {
            kind: CommitKind::Global,
            height: Height::default(),
            hash: BlockHash::default(),
            parent: BlockHash::default(),
            payloads,
            durable,
        };
        let seq = self.send(commit).await?;
        self.shared.publish_applied(seq, |_| ());
        Ok(seq)
    }

    pub(super) async fn require_room(&self, what: &str, changes: &Resolved) -> Result<()> {
        self.count_refusal(self.space.require(&self.barrier, what, &Wanted::by(changes)).await)
    }

    fn count_refusal(&self, outcome: Result<()>) -> Result<()> {
        if matches!(outcome, Err(Error::OutOfSpace { .. })) {
            self.shared.count_refusal();
        }
        outcome
    }

    /// Sends a commit to every shard, and waits until readers of every shard could see it.
    pub(super) async fn send(&self, commit: Commit) -> Result<Seq> {
        let progress = self.progress();
        let seq = self.barrier.send(commit, self.last.get(), progress).await?;
        self.last.set(seq);
        self.told.set(self.told.get().max(progress.cut));
        self.barrier.until_applied(seq).await?;
        Ok(seq)
    }

    pub(super) fn check_alive(&self) -> Result<()> {
        match self.barrier.failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    pub(super) async fn count_deferred(&self) -> Result<()> {
        let Durability::Deferred { blocks, .. } = self.durability else { return Ok(()) };
        self.blocks_unsynced.set(self.blocks_unsynced.get() + 1);
        self.applied_moved.raise();
        if self.blocks_unsynced.get() >= blocks {
            self.blocks_unsynced.set(0);
            self.barrier.request_sync().await?;
        }
        Ok(())
    }

    fn answer_commit(
        &self,
        outcome: Result<Seq>,
        reply: ReplySender<Result<Committed>>,
        event: Option<Event>,
        durable: bool,
    ) {
        match outcome {
            Ok(seq) => self.queue_ack(PendingAck { seq, durable, ack: Ack::Commit(reply, event) }),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn queue_ack(&self, ack: PendingAck) {
        self.acks.borrow_mut().push_back(ack);
        self.barrier.changed().raise();
    }

    async fn reorg(&self, target: Height, reply: ReplySender<Result<Reorged>>) {
        match self.commit_reorg(target).await {
            Err(error) => reply.send(Err(error)),
            Ok((reorged, hash)) => {
                let event = Event::Reorged { from: reorged.from, to: reorged.to, hash };
                let ack = Ack::Reorg(reply, reorged, event);
                self.queue_ack(PendingAck { seq: reorged.seq, durable: true, ack });
            }
        }
    }

    async fn commit_reorg(&self, target: Height) -> Result<(Reorged, BlockHash)> {
        self.check_alive()?;
        let (tip, from) = self.shared.chain(|chain| {
            let tip = chain.check_reorg(target)?;
            Ok::<_, Error>((tip, chain.tip().map_or(target, |tip| tip.height)))
        })?;
        self.count_refusal(self.space.require_reorg(&self.barrier).await)?;
        self.unsettle(tip.seq);
        let payload = encode_rollback(tip.seq.next());
        let commit = Commit {
            kind: CommitKind::Reorg,
            height: tip.height,
            hash: tip.hash,
            parent: tip.parent,
            payloads: vec![payload; self.barrier.shard_count()],
            durable: true,
        };
        let seq = self.send(commit).await?;
        self.between_blocks.note_reorg(seq);
        self.shared.publish_applied(seq, |chain| chain.go_back(target));
        Ok((Reorged { seq, from, to: target }, tip.hash))
    }

    async fn sync(&self, reply: ReplySender<Result<()>>) {
        match self.start_sync().await {
            Err(error) => reply.send(Err(error)),
            Ok(()) => {
                self.queue_ack(PendingAck { seq: self.last.get(), durable: true, ack: Ack::Sync(reply) })
            }
        }
    }

    async fn start_sync(&self) -> Result<()> {
        self.check_alive()?;
        self.blocks_unsynced.set(0);
        Ok(self.barrier.request_sync().await?)
    }

    /// Makes everything durable, records it and flushes every shard.
    async fn close(&self) -> Result<()> {
        let synced = self.sync_and_mark().await;
        synced.and(self.close_shards().await)
    }

    async fn close_shards(&self) -> Result<()> {
        self.closing.set(true);
        let mut answers = Vec::with_capacity(self.shared.shards.len());
        for shard in &self.shared.shards {
            let (sender, answer) = reply();
            if shard.send(Request::Close(sender)).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut outcome = Ok(());
        for answer in answers {
            let closed = answer.await.map_err(Error::from).and_then(|closed| Ok(closed?));
            outcome = outcome.and(closed);
        }
        outcome
    }

    async fn sync_and_mark(&self) -> Result<()> {
        self.start_sync().await?;
        self.barrier.until_durable(self.last.get()).await?;
        self.settle();
        Ok(self.barrier.mark(self.progress()).await?)
    }

    /// Acknowledges commits as the watermarks move, for as long as the host lives.
    async fn acknowledge(self: Rc<Self>) {
        loop {
            let mark = self.barrier.changed().mark();
            self.settle();
            self.spread_failure().await;
            if let Err(error) = self.help_flushes().await {
                tracing::warn!(%error, "shards cannot be told what is durable");
            }
            self.barrier.changed().raised_since(mark).await;
        }
    }

    /// Stops commits on every shard once they have failed on one, so that nothing there waits for the cut.
    async fn spread_failure(&self) {
        let Some(failure) = self.barrier.failure() else { return };
        if self.stop_told.replace(true) {
            return;
        }
        for shard in &self.shared.shards {
            // A shard that has ended waits for nothing.
            let _: Result<(), _> = shard.send(Request::Stop(failure.clone())).await;
        }
    }

    /// Publishes the watermarks and answers everybody whose commit they have reached.
    fn settle(&self) {
        let cut = self.barrier.cut();
        self.shared.publish_durable(cut);
        self.shared.update_chain(|chain| chain.advance(cut));
        if let Some(failure) = self.barrier.failure() {
            self.shared.set_failure(failure);
        }
        while let Some(ack) = self.next_ack(cut) {
            let committed = Committed { seq: ack.seq, durable: ack.seq <= cut };
            match ack.ack {
                Ack::Commit(reply, event) => {
                    if let Some(event) = event {
                        self.shared.subscribers.tell(event);
                    }
                    reply.send(Ok(committed));
                }
                Ack::Reorg(reply, reorged, event) => {
                    self.shared.subscribers.tell(event);
                    reply.send(Ok(reorged));
                }
                Ack::Sync(reply) => reply.send(Ok(())),
            }
        }
        if let Some(failure) = self.barrier.failure() {
            let unanswered = std::mem::take(&mut *self.acks.borrow_mut());
            for ack in unanswered {
                match ack.ack {
                    Ack::Commit(reply, _) => reply.send(Err(failure.clone().into())),
                    Ack::Reorg(reply, ..) => reply.send(Err(failure.clone().into())),
                    Ack::Sync(reply) => reply.send(Err(failure.clone().into())),
                }
            }
        }
    }

    fn next_ack(&self, cut: Seq) -> Option<PendingAck> {
        let mut acks = self.acks.borrow_mut();
        let ready = acks.front().is_some_and(|ack| !ack.durable || ack.seq <= cut);
        if ready { acks.pop_front() } else { None }
    }

    /// Flushes need commits to be durable everywhere, and to know it.
    async fn help_flushes(&self) -> Result<()> {
        let (wanted, cut) = (self.barrier.cut_wanted(), self.barrier.cut());
        if wanted <= self.told.get() || self.barrier.failure().is_some() {
            return Ok(());
        }
        if wanted <= cut {
            return self.tell().await;
        }
        if !self.durability.waits() && wanted > self.sync_wanted.get() {
            self.sync_wanted.set(wanted);
            self.barrier.request_sync().await?;
        }
        Ok(())
    }

    async fn tell(&self) -> Result<()> {
        let progress = self.progress();
        self.told.set(self.told.get().max(progress.cut));
        Ok(self.barrier.mark(progress).await?)
    }

    /// Has the cut recorded when no commit has carried it for a while.
    async fn record_cut(self: Rc<Self>) {
        loop {
            let mark = self.barrier.changed().mark();
            if self.barrier.cut() > self.told.get() && self.barrier.failure().is_none() {
                self.env.sleep(MARK_DELAY).await;
                if self.closing.get() {
                    return;
                }
                if self.barrier.cut() > self.told.get() && self.tell().await.is_err() {
                    return;
                }
                continue;
            }
            self.barrier.changed().raised_since(mark).await;
        }
    }

    /// Makes deferred commits durable after their interval.
    async fn sync_deferred(self: Rc<Self>) {
        let Durability::Deferred { interval, .. } = self.durability else { return };
        loop {
            let mark = self.applied_moved.mark();
            if self.barrier.failure().is_some() {
                return;
            }
            if self.barrier.applied() > self.barrier.cut() {
                self.env.sleep(interval).await;
                if self.closing.get() {
                    return;
                }
                if self.barrier.applied() > self.barrier.cut() && self.barrier.request_sync().await.is_err() {
                    return;
                }
                self.blocks_unsynced.set(0);
            }
            self.applied_moved.raised_since(mark).await;
        }
    }
}
