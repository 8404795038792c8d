//! A state of the store that stays readable.

use std::any::TypeId;
use std::sync::Arc;

use op_engine_shards::catalog::History;
use op_engine_shards::visibility::Scope;
use op_engine_shards::{Height, Seq};

use crate::collection::{Collection, Index, IndexRow};
use crate::draft::Overlay;
use crate::engine::blocking::BlockingSnapshot;
use crate::engine::chain_window::Tip;
use crate::engine::reader::{self, At, IndexHit, is_expired};
use crate::engine::scan::{self, Row, Scan, View};
use crate::engine::shared::{Pin, Shared};
use crate::error::{Error, Result};

/// Attempts to hold a view before giving up: each fails only if a reorg or the window overtakes it.
const PINS_MAX: usize = 64;

/// A state of the store that stays as it is: commits, merges and reorgs do not change what it shows.
///
/// `Chain` collections show the state after the snapshot's block. `Global` ones show what they held when that block, or
/// for a snapshot of the tip the last commit, was made. `Cleared` ones can be read only on a snapshot of the tip.
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
    view: Seq,
    tip: Option<Tip>,
    /// Whether it was asked for by height. What `Cleared` collections held then is not kept.
    by_height: bool,
    /// Absent below the horizon, where only collections that keep everything can be read.
    pin: Option<Arc<Pin>>,
}

impl Snapshot {
    pub(crate) async fn of_tip(shared: &Arc<Shared>) -> Result<Self> {
        let mut attempts = 0;
        loop {
            let (tip, view) = shared.tip_view();
            match shared.pin(view).await {
                Ok(pin) => {
                    let (shared, pin) = (Arc::clone(shared), Some(Arc::new(pin)));
                    return Ok(Self { shared, view, tip, by_height: false, pin });
                }
                Err(error) if is_expired(&error) && attempts < PINS_MAX => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) async fn at(shared: &Arc<Shared>, height: Height) -> Result<Self> {
        let mut attempts = 0;
        loop {
            let (block, is_in_window) = reader::block_at(shared, height).await?;
            let pin = if is_in_window { shared.pin(block.seq).await.map(Some) } else { Ok(None) };
            match pin {
                Ok(pin) => {
                    let (shared, view, tip) = (Arc::clone(shared), block.seq, Some(block));
                    return Ok(Self { shared, view, tip, by_height: true, pin: pin.map(Arc::new) });
                }
                Err(error) if is_expired(&error) && attempts < PINS_MAX => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The same calls for threads that may block.
    #[must_use]
    pub fn blocking(&self) -> BlockingSnapshot<'_> {
        BlockingSnapshot(self)
    }

    /// The newest block in it, if it has one.
    #[must_use]
    pub fn tip(&self) -> Option<Tip> {
        self.tip
    }

    /// Changes over this state, for simulated calls: reads see them, nothing else ever does.
    #[must_use]
    pub fn overlay(&self) -> Overlay {
        Overlay::new(self.clone())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The last commit that it shows. Two snapshots with the same one show the same state.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.view
    }

    /// The record with a key.
    ///
    /// # Errors
    /// [`Error::HistoryGone`] if the collection does not keep versions this old, [`Error::Storage`].
    pub async fn get<C: Collection>(&self, key: &C::Key) -> Result<Option<C::Value>> {
        Ok(self.get_many::<C>(std::slice::from_ref(key)).await?.pop().flatten())
    }

    /// The records with many keys, in the order of the keys.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub async fn get_many<C: Collection>(&self, keys: &[C::Key]) -> Result<Vec<Option<C::Value>>> {
        self.check_history::<C>()?;
        reader::get_many::<C>(&self.shared, At::View(self.view), keys).await
    }

    /// The record that a key of a unique index leads to.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub async fn get_by<I: Index>(&self, key: &I::Key) -> Result<Option<IndexHit<I>>> {
        self.check_history::<I::Of>()?;
        reader::get_by::<I>(&self.shared, At::View(self.view), key).await
    }

    /// An ordered scan of a collection.
    #[must_use]
    pub fn scan<C: Collection>(&self) -> Scan<C::Key, Row<C>> {
        scan::record_scan::<C>(&self.shared, self.held()).refused_by(self.check_history::<C>())
    }

    /// An ordered scan of an index.
    #[must_use]
    pub fn scan_index<I: Index>(&self) -> Scan<I::Key, IndexRow<I>, I> {
        scan::index_scan::<I>(&self.shared, self.held()).refused_by(self.check_history::<I::Of>())
    }

    fn held(&self) -> View {
        View::Held { view: self.view, tip: self.tip, pin: self.pin.clone() }
    }

    /// Whether a collection can be read in this state.
    pub(crate) fn check_history<C: Collection>(&self) -> Result<()> {
        let registered = self.shared.registry.collection(TypeId::of::<C>(), C::NAME)?;
        let kept = self.pin.is_some() || registered.history == History::All;
        if kept && !(self.by_height && registered.scope == Scope::Cleared) {
            return Ok(());
        }
        Err(Error::HistoryGone {
            collection: C::NAME.to_owned(),
            height: self.tip.map_or(Height::default(), |tip| tip.height),
            horizon: self.shared.chain(|chain| chain.reachable()),
        })
    }
}
