//! The handle that a user holds, and what is behind it.

mod backfill;
mod basis;
mod blocking;
mod chain_window;
mod committer;
mod cross_check;
mod definition;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod index_state;
mod machine;
mod open;
mod order;
mod prepare;
mod progress;
mod purge;
mod reader;
mod registry;
mod scan;
mod shared;
mod snapshot;
mod space;
mod system;
mod tiers;
mod upkeep;

use std::sync::{Arc, Mutex, PoisonError};

use op_engine_io::mailbox::Sender;
use op_engine_io::real::{Counters, RealWorld};
use op_engine_io::{Reply, Running, World, block_on, reply};
use op_engine_shards::message::Request;
use op_engine_shards::stats::ShardStats;
use op_engine_shards::{BlockHash, Height, Seq, ShardConfig};

use crate::batch::{Batch, Block};
use crate::collection::{Collection, Index, IndexRow};
use crate::config::Config;
use crate::draft::Draft;
use crate::error::{Error, Result};

pub(crate) use basis::Basis;
pub(crate) use index_state::require_complete;
pub(crate) use prepare::{check_sizes, get_each};
pub(crate) use reader::{IndexHit, decode_value};
pub(crate) use registry::RegisteredIndex;

pub use blocking::{BlockingEngine, BlockingSnapshot};
pub use chain_window::Tip;
pub use cross_check::RawRow;
pub use events::{Event, Subscription};
pub use index_state::{IndexProgress, IndexStatus};
pub use order::{Committed, Reorged};
pub use purge::PurgeProgress;
pub use reader::PrefixOf;
pub use scan::{Joined, JoinedRow, Page, Row, Scan, Token, TokenError, Totals};
pub use snapshot::Snapshot;

use order::Order;
use prepare::{Allowed, resolve};
use reader::At;
use scan::View;
use shared::Shared;

/// What opening a store found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The commit at which the store goes on.
    pub cut: Seq,
    /// Bytes of unfinished writes behind it, which were dropped. None of them had been acknowledged.
    pub torn_tail_bytes: u64,
}

/// What an engine says of itself.
#[derive(Debug, Clone)]
pub struct Stats {
    /// The tip, if there is one.
    pub tip: Option<Tip>,
    /// The lowest height that a reorg can go back to.
    pub horizon: Height,
    /// Readers see commits up to here.
    pub applied: Seq,
    /// Commits up to here survive a crash.
    pub durable: Seq,
    /// The failure that has stopped commits, if one has.
    pub failure: Option<Error>,
    /// Commits and reorgs that were refused because the disk was full, since the store was opened.
    pub refused_for_space: u64,
    /// How far each index is that was added to a collection with records.
    pub indexes: Vec<IndexProgress>,
    /// How far the purging of each collection has come that is purged.
    pub purges: Vec<PurgeProgress>,
    /// Each shard.
    pub shards: Vec<ShardStats>,
    /// What was done to the device; `None` in a simulation.
    pub device: Option<Counters>,
}

/// A store. Cheap to clone; every method may be called from any thread and any async runtime.
///
/// When the last handle is dropped, the engine makes durable what it has, flushes and ends in the background.
/// [`Engine::close`] does the same, waits for it and tells of errors.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    orders: Sender<Order>,
    hosts: Arc<Mutex<Vec<Running>>>,
    recovered: Recovered,
    read_only: bool,
    world: Option<RealWorld>,
}

/// The acknowledgement of a block on its way.
#[derive(Debug)]
pub struct Pending {
    answer: Reply<Result<Committed>>,
    gone: Error,
}

impl Pending {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// Why the block was not committed. After [`Error::Storage`] it may or may not be there after the next open.
    pub async fn acknowledged(self) -> Result<Committed> {
        self.answer.await.unwrap_or(Err(self.gone))
    }

    /// Blocks the calling thread until the acknowledgement is there.
    ///
    /// # Errors
    /// As [`Pending::acknowledged`].
    pub fn wait(self) -> Result<Committed> {
        block_on(self.acknowledged())
    }
}

impl Engine {
    fn new(
        shared: Arc<Shared>,
        orders: Sender<Order>,
        hosts: Vec<Running>,
        recovered: Recovered,
        read_only: bool,
    ) -> Self {
        Self { shared, orders, hosts: Arc::new(Mutex::new(hosts)), recovered, read_only, world: None }
    }

    /// Opens a store, or creates it.
    ///
    /// Detects the machine, takes the store's lock, recovers every shard and checks that no acknowledged commit is
    /// missing. The work is done on threads of the engine's own.
    ///
    /// # Errors
    /// What the machine lacks, with the remedy; [`Error::Storage`] for a locked, damaged or foreign store;
    /// [`Error::SchemaChanged`]. Nothing is modified by a failed open of an existing store before its shards have
    /// all been recovered.
    pub async fn open(config: Config) -> Result<Self> {
        let (sender, answer) = reply();
        let thread = std::thread::Builder::new().name("op-engine-open".to_owned());
        let spawned = thread.spawn(move || sender.send(Self::open_blocking(config)));
        if let Err(error) = spawned {
            return Err(Error::Setting { name: "threads", why: error.to_string() });
        }
        answer.await?
    }

    /// As [`Engine::open`], on the calling thread.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_blocking(config: Config) -> Result<Self> {
        let machine = machine::Machine::derive(&config)?;
        let world = RealWorld::open(machine.settings(&config))?;
        let has_cold_target = config.cold.is_some();
        let (settings, reserve) = (config.shard_settings.clone(), config.space_reserve_bytes);
        let shard_config = |shards| {
            let settings = settings.clone().unwrap_or_else(|| machine.shard_config(shards, has_cold_target));
            ShardConfig { space_reserve_bytes: reserve.or(settings.space_reserve_bytes), ..settings }
        };
        let opened = block_on(open::open_in(world.clone(), config, machine.shards(), shard_config));
        opened.map(|engine| Self { world: Some(world), ..engine })
    }

    /// Opens a store on any world: for tests on the simulated one.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_on<W: World>(
        world: W,
        config: Config,
        shards: u16,
        settings: ShardConfig,
    ) -> Result<Self> {
        open::open_in(world, config, shards, |_| settings.clone()).await
    }

    /// The same calls for threads that may block.
    #[must_use]
    pub fn blocking(&self) -> BlockingEngine<'_> {
        BlockingEngine(self)
    }

    /// As [`Engine::close`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn close_blocking(self) -> Result<()> {
        block_on(self.close())
    }

    /// What opening the store found.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The newest block that readers see.
    #[must_use]
    pub fn tip(&self) -> Option<Tip> {
        self.shared.chain(|chain| chain.tip())
    }

    /// The lowest height that [`Engine::reorg_to`] can go back to.
    #[must_use]
    pub fn horizon(&self) -> Height {
        self.shared.chain(|chain| chain.reachable())
    }

    /// The block at a height, if it is in the part of the chain that a reorg can reach.
    #[must_use]
    pub fn block_at(&self, height: Height) -> Option<Tip> {
        self.shared.chain(|chain| chain.at(height))
    }

    /// The highest block that the store shares with `headers`: where a reorg must go back to. `None` if none of them
    /// is in the part of the chain that a reorg can reach.
    #[must_use]
    pub fn find_fork(&self, headers: &[(Height, BlockHash)]) -> Option<Tip> {
        self.shared.chain(|chain| chain.find_fork(headers))
    }

    /// Commits a block: all of its changes in all collections, or nothing.
    ///
    /// Resolves when the block is acknowledged: durable, or applied with deferred durability.
    ///
    /// # Errors
    /// [`Error::HeightMismatch`], [`Error::BrokenLink`], [`Error::DuplicateKey`], [`Error::Limit`],
    /// [`Error::StaleDraft`], [`Error::UnknownCollection`], [`Error::OutOfSpace`]: the store is unchanged. [`Error::Storage`]: commits have
    /// stopped.
    pub async fn commit(&self, block: Block) -> Result<Committed> {
        self.submit(block).await?.acknowledged().await
    }

    /// Hands a block over without waiting for its acknowledgement, so that the next one can follow at once.
    ///
    /// # Errors
    /// What can be seen without the parent's state: unknown collections and limits.
    pub async fn submit(&self, block: Block) -> Result<Pending> {
        let Block { height, hash, parent, batch, basis } = block;
        let changes = resolve(&self.shared, batch, Allowed::Everything)?;
        let (sender, answer) = reply();
        self.order(Order::Block { height, hash, parent, changes, basis, reply: sender }).await?;
        Ok(Pending { answer, gone: self.shared.gone() })
    }

    /// Begins a block: a [`Draft`] on the state after its parent, which must be the tip. Waits until the blocks that were
    /// submitted before have been applied, so that the parent may be one of them; it need not be acknowledged.
    ///
    /// # Errors
    /// [`Error::HeightMismatch`], [`Error::BrokenLink`]: also if the parent was submitted and refused.
    /// [`Error::ReadOnly`]; [`Error::Storage`] if commits have stopped.
    pub async fn draft(&self, height: Height, parent: BlockHash) -> Result<Draft> {
        let (sender, answer) = reply();
        self.order(Order::Settle(sender)).await?;
        self.answered(answer).await?;
        let snapshot = self.snapshot().await?;
        chain_window::check_link(snapshot.tip(), height, parent)?;
        Ok(Draft::new(snapshot, height, parent))
    }

    /// Commits changes of collections outside the chain, `Global` and `Cleared` ones: all of them, or nothing. Always
    /// durable when it resolves.
    ///
    /// # Errors
    /// [`Error::NotGlobal`] and as [`Engine::commit`].
    pub async fn commit_global(&self, batch: Batch) -> Result<Committed> {
        let changes = resolve(&self.shared, batch, Allowed::OutsideChain)?;
        let (sender, answer) = reply();
        self.order(Order::Global { changes, reply: sender }).await?;
        self.answered(answer).await
    }

    /// Takes every collection that follows the chain back to the state after the block at `height`, atomically, in a
    /// time that does not depend on what the orphaned blocks wrote. Durable when it resolves. It needs no free space:
    /// the store keeps some for it.
    ///
    /// # Errors
    /// [`Error::ReorgAboveTip`], [`Error::ReorgBelowHorizon`], [`Error::EmptyChain`]: the store is unchanged.
    /// [`Error::OutOfSpace`] if the disk is full and what is kept has been used up by earlier reorgs or openings.
    pub async fn reorg_to(&self, height: Height) -> Result<Reorged> {
        let (sender, answer) = reply();
        self.order(Order::Reorg { target: height, reply: sender }).await?;
        self.answered(answer).await
    }

    /// Makes every commit so far durable.
    ///
    /// # Errors
    /// The failure that has stopped commits.
    pub async fn sync(&self) -> Result<()> {
        let (sender, answer) = reply();
        self.order(Order::Sync(sender)).await?;
        self.answered(answer).await
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.map_err(|_| self.shared.gone())
    }

    async fn answered<T>(&self, answer: Reply<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_| Err(self.shared.gone()))
    }

    /// The record with a key, at the tip.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be read. Damage is never taken for absence.
    pub async fn get<C: Collection>(&self, key: &C::Key) -> Result<Option<C::Value>> {
        Ok(self.get_many::<C>(std::slice::from_ref(key)).await?.pop().flatten())
    }

    /// The records with many keys, at one tip, in the order of the keys. All device reads are in flight together.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn get_many<C: Collection>(&self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        reader::get_many::<C>(&self.shared, At::Tip, keys).await
    }

    /// The record with a key, as it was after the block at `height`.
    ///
    /// # Errors
    /// As [`Engine::get_many_at`].
    pub async fn get_at<C: Collection>(&self, height: Height, key: &C::Key) -> Result<Option<C::Value>> {
        Ok(self.get_many_at::<C>(height, std::slice::from_ref(key)).await?.pop().flatten())
    }

    /// The records with many keys, as they were after the block at `height`, in the order of the keys. One meaning
    /// everywhere: what the newest value *below* a height was is asked of the height before it.
    ///
    /// As [`Engine::at`] and [`Snapshot::get_many`], with one message a shard and nothing held.
    ///
    /// # Errors
    /// [`Error::NoSuchHeight`], [`Error::EmptyChain`], [`Error::HistoryGone`], and as [`Engine::get`].
    pub async fn get_many_at<C: Collection>(
        &self,
        height: Height,
        keys: &[C::Key],
    ) -> Result<Vec<Option<C::Value>>> {
        reader::get_many_at::<C>(&self.shared, height, keys).await
    }

    /// The record that a key of a unique index leads to, at the tip.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn get_by<I: Index>(&self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        reader::get_by::<I>(&self.shared, At::Tip, key).await
    }

    /// An ordered scan of a collection, on the tip as it is when the first row is taken.
    #[must_use]
    pub fn scan<C: Collection>(&self) -> Scan<C::Key, Row<C>> {
        scan::record_scan::<C>(&self.shared, View::Tip)
    }

    /// An ordered scan of an index, on the tip as it is when the first row is taken.
    #[must_use]
    pub fn scan_index<I: Index>(&self) -> Scan<I::Key, IndexRow<I>, I> {
        scan::index_scan::<I>(&self.shared, View::Tip)
    }

    /// The state of the tip, held: it stays readable through commits, merges and reorgs until it is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of_tip(&self.shared).await
    }

    /// The state after the block at a height, held. `Window` collections can be read back to the horizon, those with
    /// `History::All` back to the first block.
    ///
    /// # Errors
    /// [`Error::NoSuchHeight`], [`Error::EmptyChain`].
    pub async fn at(&self, height: Height) -> Result<Snapshot> {
        Snapshot::at(&self.shared, height).await
    }

    /// Tells of every commit and reorg from here on, in order.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.shared.subscribers.subscribe()
    }

    /// Writes every memtable to segments now. Not needed for durability.
    ///
    /// # Errors
    /// The failure that has stopped commits; or that the disk is full, which stops nothing.
    pub async fn flush(&self) -> Result<()> {
        self.ask_all_shards(Request::Flush).await
    }

    /// Writes every memtable to segments, and merges all that no reorg can reach as far as it goes, whatever that
    /// costs: what is superseded is gone then, and every record is found in one place. Not needed: merges go on by
    /// themselves.
    ///
    /// # Errors
    /// The failure that has stopped commits; or that the disk is full, which stops nothing: the rest is merged when there
    /// is space again.
    pub async fn compact(&self) -> Result<()> {
        self.ask_all_shards(Request::Compact).await
    }

    /// Makes what was committed durable, has every shard do something, and waits until all have done it.
    async fn ask_all_shards(
        &self,
        request: impl Fn(op_engine_io::ReplySender<op_engine_shards::Result<()>>) -> Request,
    ) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.sync().await?;
        let mut answers = Vec::new();
        for shard in &self.shared.shards {
            let (sender, answer) = reply();
            shard.send(request(sender)).await?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await??;
        }
        Ok(())
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn stats(&self) -> Result<Stats> {
        let mut shards = Vec::with_capacity(self.shared.shards.len());
        for shard in &self.shared.shards {
            let (sender, answer) = reply();
            shard.send(Request::Stats(sender)).await?;
            shards.push(answer.await?);
        }
        Ok(Stats {
            tip: self.tip(),
            horizon: self.horizon(),
            applied: self.shared.applied(),
            durable: self.shared.durable(),
            failure: self.shared.failure().map(Error::from),
            refused_for_space: self.shared.refused_for_space(),
            indexes: self.shared.indexes.all(),
            purges: self.shared.purges.all(),
            shards,
            device: self.world.as_ref().map(RealWorld::counters),
        })
    }

    /// How far an index is. One that is as old as its collection is always ready; one that was added later is filled in
    /// the background, batch by batch between blocks, also after a crash or another open. A read of an index that is not
    /// ready is an error. So is a read of one on a state, held or by height, that is older than the commit that has
    /// completed it: the collection itself can be read there. A reorg below that commit has the index go back to where
    /// it was at that block, and go on from there.
    ///
    /// # Errors
    /// [`Error::UnknownCollection`].
    pub fn index_progress<I: Index>(&self) -> Result<IndexProgress> {
        let (id, registered) = self.shared.registry.index(std::any::TypeId::of::<I>(), I::NAME)?;
        let index = format!("{}.{}", registered.name, I::NAME);
        let (status, records_done, records_estimated) = (IndexStatus::Ready, 0, 0);
        let always = IndexProgress { index, status, records_done, records_estimated, stalled: None };
        Ok(self.shared.indexes.progress(id).unwrap_or(always))
    }

    /// How far the purging of a collection has come; `None` if it is not purged.
    ///
    /// # Errors
    /// [`Error::UnknownCollection`].
    pub fn purge_progress<C: Collection>(&self) -> Result<Option<PurgeProgress>> {
        let registered = self.shared.registry.collection(std::any::TypeId::of::<C>(), C::NAME)?;
        Ok(self.shared.purges.progress(registered.id))
    }

    /// The number of each collection and index that this engine was opened with, as statistics name them.
    #[must_use]
    pub fn collection_names(&self) -> Vec<(op_engine_shards::CollectionId, String)> {
        self.shared.registry.names()
    }

    /// How many shards the store has.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shared.shards.len()
    }

    /// Makes everything durable, flushes, ends all threads of the engine and lets go of the store. Other handles get
    /// [`Error::Closed`] from then on. What a full disk has no room for stays in the write-ahead log.
    ///
    /// # Errors
    /// The failure that has stopped commits, or that prevented the flush. What was acknowledged is on disk all the
    /// same.
    pub async fn close(self) -> Result<()> {
        let (sender, answer) = reply();
        let outcome = match self.order(Order::Close(sender)).await {
            Ok(()) => self.answered(answer).await,
            Err(error) => Err(error),
        };
        let hosts = std::mem::take(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner));
        for host in hosts {
            host.finished().await;
        }
        outcome
    }
}

/// The catalog's numbers are an implementation detail of the registry; names are what users know.
impl registry::Registry {
    fn names(&self) -> Vec<(op_engine_shards::CollectionId, String)> {
        let mut names: Vec<_> = system::specs().into_iter().map(|spec| (spec.id, spec.name)).collect();
        names.extend(self.all().flat_map(|registered| {
            let indexes = registered.indexes.iter().map(|index| (index.id, index.spec.name.clone()));
            std::iter::once((registered.id, registered.name.to_owned())).chain(indexes).collect::<Vec<_>>()
        }));
        names.sort_unstable_by_key(|(id, _)| *id);
        names
    }
}
