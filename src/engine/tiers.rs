//! Moving data between the store's own device and its cold target.

use std::any::TypeId;

use op_engine_io::{Env, reply};
use op_engine_shards::barrier::Commit;
use op_engine_shards::catalog::{Catalog, ColdMark};
use op_engine_shards::cold_mark;
use op_engine_shards::message::{CommitKind, Request, TierOrder, TierReport};
use op_engine_shards::segment::Compression;
use op_engine_shards::shard::encode_catalog;
use op_engine_shards::tier::{ColdAfter, Movable, TierPolicy};
use op_engine_shards::{BlockHash, CollectionId, Error as StorageError, Height, StoreId};

use crate::collection::{Collection, CollectionDef};
use crate::engine::Engine;
use crate::engine::committer::Committer;
use crate::engine::order::{Order, Resolved};
use crate::error::{Error, Result};

/// Refuses a policy that a collection cannot have.
pub(crate) fn check(def: &CollectionDef) -> Result<()> {
    check_policy(def.name, def.tier, Movable::of(def.scope, def.history, def.layout))
}

fn check_policy(name: &str, policy: TierPolicy, movable: Movable) -> Result<()> {
    let refused = |why| Err(Error::Setting { name: "tier", why });
    if policy.after != ColdAfter::Never && movable == Movable::Nothing {
        return refused(format!(
            "nothing of {name} can move to a cold target: only collections whose layout is AppendOnly, and old versions of those \
             with History::All, and none of scope Cleared"
        ));
    }
    if !Compression::LEVELS.contains(&policy.compression.level) {
        let (low, high) = (Compression::LEVELS.start(), Compression::LEVELS.end());
        return refused(format!("the level of compression of {name} is not in {low} to {high}"));
    }
    Ok(())
}

/// The mark of the store's cold target, which is put there if there is none and none is expected.
///
/// # Errors
/// What the target fails with, if its mark is not known yet; that of another store.
pub(crate) async fn find_mark<E: Env>(
    env: &E,
    store: StoreId,
    expected: Option<ColdMark>,
) -> Result<Option<ColdMark>> {
    let Some(target) = env.cold() else { return Ok(expected) };
    if let Some(expected) = expected {
        // Hot data is served whatever has become of the target.
        if let Err(error) = cold_mark::check(&target, store, expected).await {
            tracing::warn!(%error, "the cold target cannot be used");
        }
        return Ok(Some(expected));
    }
    if let Some(found) = cold_mark::find(&target, store).await? {
        return Ok(Some(found));
    }
    let mark = ColdMark(env.random());
    cold_mark::put(&target, store, mark).await?;
    Ok(Some(mark))
}

/// The same for a store that opens, whatever its target does.
pub(crate) async fn find_mark_at_open<E: Env>(
    env: &E,
    store: StoreId,
    expected: Option<ColdMark>,
) -> Result<Option<ColdMark>> {
    match find_mark(env, store, expected).await {
        Err(Error::Storage(error)) if error.is_cold() => {
            tracing::warn!(%error, "the cold target cannot be used");
            Ok(expected)
        }
        found => found,
    }
}

impl<E: Env> Committer<E> {
    /// Changes when data of a collection moves.
    pub(super) async fn set_tier(&self, collection: CollectionId, policy: TierPolicy) -> Result<()> {
        let mut wanted = self.catalog.borrow().clone();
        let spec = wanted.collections.iter_mut().find(|spec| spec.id == collection && !spec.dropped);
        let spec = spec.ok_or(StorageError::UnknownCollection { collection })?;
        check_policy(&spec.name, policy, Movable::of(spec.scope, spec.history, spec.layout))?;
        spec.tier = policy;
        self.commit_catalog(wanted).await
    }

    /// Puts the store's mark on its cold target, unless it is there.
    pub(super) async fn mark_cold_target(&self) -> Result<()> {
        let known = self.catalog.borrow().cold_mark;
        let found = find_mark(&self.env, self.store, known).await?;
        if found == known {
            return Ok(());
        }
        let wanted = Catalog { cold_mark: found, ..self.catalog.borrow().clone() };
        self.commit_catalog(wanted).await
    }

    async fn commit_catalog(&self, wanted: Catalog) -> Result<()> {
        self.check_alive()?;
        if *self.catalog.borrow() == wanted {
            return Ok(());
        }
        self.require_room("the policies of the tiers", &Resolved::default()).await?;
        let commit = Commit {
            kind: CommitKind::Schema,
            height: Height::default(),
            hash: BlockHash::default(),
            parent: BlockHash::default(),
            payloads: vec![encode_catalog(&wanted); self.barrier.shard_count()],
            durable: true,
        };
        let seq = self.send(commit).await?;
        self.shared.publish_applied(seq, |_| ());
        self.barrier.until_durable(seq).await?;
        *self.catalog.borrow_mut() = wanted;
        Ok(())
    }
}

impl Engine {
    /// Moves everything to the cold target whose time has come by the policies of the collections, however little it is, and what was
    /// brought back as well if `warmed`. What is in memory is written to segments first. Not needed: data moves by itself
    /// once there is enough of it. Resolves when it is done, which can take long: [`Engine::stats`] tell how far it is.
    ///
    /// # Errors
    /// What the cold target failed with; what has moved until then stays there, and the rest stays where it is.
    /// [`Error::ReadOnly`].
    pub async fn move_to_cold(&self, warmed: bool) -> Result<TierReport> {
        let (sender, answer) = reply();
        self.order(Order::MarkColdTarget(sender)).await?;
        self.answered(answer).await?;
        self.flush().await?;
        self.move_all(TierOrder::Run { warmed }).await
    }

    /// Brings back every segment of the cold target that has entries of blocks of these heights, both included. It stays on the
    /// store's own device until [`Engine::move_to_cold`] is told to take it along.
    ///
    /// # Errors
    /// As [`Engine::move_to_cold`]; [`op_engine_io::Error::OutOfSpace`] if there is no room.
    pub async fn warm_up(&self, from: Height, to: Height) -> Result<TierReport> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.move_all(TierOrder::WarmUp { from, to }).await
    }

    /// Where old data of this store moves to; `None` if it was opened without a cold target. Holds no secret.
    #[must_use]
    pub fn cold_target(&self) -> Option<String> {
        Some(self.world.as_ref()?.settings().cold.as_ref()?.to_string())
    }

    async fn move_all(&self, order: TierOrder) -> Result<TierReport> {
        let mut answers = Vec::new();
        for shard in &self.shared.shards {
            let (sender, answer) = reply();
            shard.send(Request::Tier(order, sender)).await?;
            answers.push(answer);
        }
        let (mut report, mut failure) = (TierReport::default(), None);
        for answer in answers {
            match answer.await? {
                Ok(moved) => report.add(moved),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(report), |error| Err(error.into()))
    }

    /// Changes when data of a collection moves to the cold target, until the store is opened again: then it is what the
    /// declaration or the [`Config`](crate::Config) says. What has moved stays there.
    ///
    /// # Errors
    /// [`Error::UnknownCollection`]; [`Error::Setting`] if nothing of the collection can move; the failure that has stopped
    /// commits.
    pub async fn set_tier<C: Collection>(&self, policy: TierPolicy) -> Result<()> {
        let id = self.shared.registry.collection(TypeId::of::<C>(), C::NAME)?.id;
        let (sender, answer) = reply();
        self.order(Order::Tier { collection: id, policy, reply: sender }).await?;
        self.answered(answer).await
    }
}
