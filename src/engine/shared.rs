//! What every handle of an engine shares. Nothing here is a shard's memory: shards are only sent messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use op_engine_io::mailbox::Sender;
use op_engine_io::reply;
use op_engine_shards::message::{Pins, Request};
use op_engine_shards::{Error as StorageError, Seq};

use crate::engine::chain_window::{ChainWindow, Tip};
use crate::engine::events::Subscribers;
use crate::engine::index_state::IndexStates;
use crate::engine::purge::PurgeStates;
use crate::engine::registry::Registry;
use crate::error::{Error, Result};
use crate::placement::Placement;

/// What every handle of an engine shares.
pub(crate) struct Shared {
    pub(crate) shards: Vec<Sender<Request>>,
    pub(crate) placement: Placement,
    pub(crate) registry: Registry,
    pub(crate) indexes: IndexStates,
    pub(crate) purges: PurgeStates,
    pub(crate) subscribers: Subscribers,
    applied: AtomicU64,
    durable: AtomicU64,
    refused_for_space: AtomicU64,
    window: Mutex<ChainWindow>,
    pins: Mutex<PinTable>,
    failure: OnceLock<StorageError>,
    panicked: PanicSlot,
}

/// Where the first panic of any task is noted.
pub(crate) type PanicSlot = Arc<OnceLock<StorageError>>;

/// Held snapshots, by view.
#[derive(Default)]
struct PinTable {
    version: u64,
    holders: BTreeMap<Seq, usize>,
}

impl PinTable {
    fn pins(&mut self) -> Pins {
        self.version += 1;
        Pins { version: self.version, views: self.holders.keys().copied().collect() }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        shards: Vec<Sender<Request>>,
        placement: Placement,
        registry: Registry,
        panicked: PanicSlot,
    ) -> Self {
        Self {
            shards,
            placement,
            indexes: IndexStates::new(&registry),
            purges: PurgeStates::new(&registry),
            registry,
            panicked,
            subscribers: Subscribers::default(),
            applied: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            refused_for_space: AtomicU64::new(0),
            window: Mutex::new(ChainWindow::default()),
            pins: Mutex::new(PinTable::default()),
            failure: OnceLock::new(),
        }
    }

    /// Commits up to here are what readers of the tip see.
    pub(crate) fn applied(&self) -> Seq {
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// Commits up to here survive a crash.
    pub(crate) fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn publish_durable(&self, cut: Seq) {
        self.durable.fetch_max(cut.0, Ordering::AcqRel);
    }

    /// Commits and reorgs that were refused for lack of space.
    pub(crate) fn refused_for_space(&self) -> u64 {
        self.refused_for_space.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refusal(&self) {
        self.refused_for_space.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a commit, and the chain after it, what readers of the tip see.
    pub(crate) fn publish_applied(&self, seq: Seq, change: impl FnOnce(&mut ChainWindow)) {
        let mut window = locked(&self.window);
        change(&mut window);
        self.applied.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// Looks at the chain.
    pub(crate) fn chain<T>(&self, look: impl FnOnce(&ChainWindow) -> T) -> T {
        look(&locked(&self.window))
    }

    /// Changes the chain without a commit.
    pub(crate) fn update_chain<T>(&self, change: impl FnOnce(&mut ChainWindow) -> T) -> T {
        change(&mut locked(&self.window))
    }

    /// The tip and the view that shows it, taken together.
    pub(crate) fn tip_view(&self) -> (Option<Tip>, Seq) {
        let window = locked(&self.window);
        (window.tip(), self.applied())
    }

    /// The failure that has stopped commits, if one has.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        self.panicked.get().or_else(|| self.failure.get()).cloned()
    }

    pub(crate) fn set_failure(&self, failure: StorageError) {
        // The first failure stays.
        drop(self.failure.set(failure));
    }

    /// Why nothing answers any more.
    pub(crate) fn gone(&self) -> Error {
        self.panicked.get().map_or(Error::Closed, |panic| panic.clone().into())
    }

    /// Keeps a view readable on every shard until it is released.
    pub(crate) async fn pin(self: &Arc<Self>, view: Seq) -> Result<Pin> {
        let pins = {
            let mut table = locked(&self.pins);
            *table.holders.entry(view).or_insert(0) += 1;
            table.pins()
        };
        // From here on dropping the pin releases the view, also if a shard refuses.
        let pin = Pin { shared: Arc::clone(self), view };
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (sender, answer) = reply();
            shard.send(Request::Pin { pins: pins.clone(), added: Some(view), reply: sender }).await?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| self.gone())??;
        }
        Ok(pin)
    }

    fn release(&self, view: Seq) {
        let pins = {
            let mut table = locked(&self.pins);
            if let Some(holders) = table.holders.get_mut(&view) {
                *holders -= 1;
                if *holders > 0 {
                    return;
                }
            }
            table.holders.remove(&view);
            table.pins()
        };
        for shard in &self.shards {
            let (sender, _) = reply();
            // A full mailbox only delays the news: the next change of the set carries it, too.
            drop(shard.try_send(Request::Pin { pins: pins.clone(), added: None, reply: sender }));
        }
    }
}

/// A view that stays readable while this lives.
pub(crate) struct Pin {
    shared: Arc<Shared>,
    view: Seq,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.release(self.view);
    }
}
