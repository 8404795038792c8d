//! Point reads on a view.

use std::any::TypeId;
use std::sync::Arc;

use op_engine_shards::{CollectionId, Error as StorageError, Height, Seq};

use crate::collection::{Collection, History, Index, Scope, decode_entry, encode_key};
use crate::engine::chain_window::Tip;
use crate::engine::index_state::require_complete;
use crate::engine::prepare::{Answers, get_each};
use crate::engine::shared::Shared;
use crate::engine::system;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::value::Record;

/// Attempts to read the tip before giving up: each fails only if the whole window has moved past in the meantime.
const TIP_READS_MAX: usize = 64;

/// A key of an index, and the value it leads to.
pub(crate) type IndexHit<I> =
    (<<I as Index>::Of as Collection>::Key, <<I as Index>::Of as Collection>::Value);

/// Where a read takes its view from.
#[derive(Clone, Copy)]
pub(crate) enum At {
    /// Whatever the tip is.
    Tip,
    /// A view that is held by the caller.
    View(Seq),
}

pub(crate) async fn get_many<'a, C: Collection>(
    shared: &Arc<Shared>,
    at: At,
    keys: impl IntoIterator<Item = &'a C::Key>,
) -> Result<Vec<Option<C::Value>>> {
    let registered = shared.registry.collection(TypeId::of::<C>(), C::NAME)?;
    let wanted = keys
        .into_iter()
        .map(|key| {
            let (bytes, partition_bytes) = encode_key(key, C::PARTITION);
            place(shared, registered.id, bytes, partition_bytes)
        })
        .collect::<Vec<_>>();
    let values = read(shared, at, &wanted).await?;
    values.iter().map(|value| value.map(decode_value::<C>).transpose()).collect()
}

/// Records as they were after the block at a height, without holding that state: one message a shard.
pub(crate) async fn get_many_at<C: Collection>(
    shared: &Arc<Shared>,
    height: Height,
    keys: &[C::Key],
) -> Result<Vec<Option<C::Value>>> {
    let registered = shared.registry.collection(TypeId::of::<C>(), C::NAME)?;
    for attempt in 0.. {
        let (block, is_kept) = block_at(shared, height).await?;
        let is_kept = is_kept || registered.history == History::All;
        if !is_kept || registered.scope == Scope::Cleared {
            let horizon = shared.chain(|chain| chain.reachable());
            return Err(Error::HistoryGone { collection: C::NAME.to_owned(), height, horizon });
        }
        match get_many::<C>(shared, At::View(block.seq), keys).await {
            // The horizon or a reorg has overtaken it.
            Err(error) if is_expired(&error) && attempt < TIP_READS_MAX => {}
            answer => return answer,
        }
    }
    unreachable!("the last attempt returns")
}

/// The block at a height, and whether collections with a window can be read there.
pub(crate) async fn block_at(shared: &Shared, height: Height) -> Result<(Tip, bool)> {
    let (block, first, tip) = shared.chain(|chain| (chain.at(height), chain.first(), chain.tip()));
    if let Some(block) = block {
        return Ok((block, true));
    }
    let (Some(first), Some(tip)) = (first, tip) else { return Err(Error::EmptyChain) };
    let missing = Error::NoSuchHeight { height, first, tip: tip.height };
    if height < first || height > tip.height {
        return Err(missing);
    }
    Ok((system::block_at(shared, shared.applied(), height).await?.ok_or(missing)?, false))
}

/// The record that a key of a unique index leads to.
pub(crate) async fn get_by<I: Index>(
    shared: &Arc<Shared>,
    at: At,
    key: &I::Key,
) -> Result<Option<IndexHit<I>>> {
    const { assert!(I::UNIQUE, "only a unique index leads to one record: scan the others") };
    let (index, _) = shared.registry.index(TypeId::of::<I>(), I::NAME)?;
    let view = match at {
        At::Tip => shared.applied(),
        At::View(view) => view,
    };
    require_complete(shared, index, view).await?;
    let (bytes, partition_bytes) = encode_key(key, I::PARTITION);
    let wanted = [place(shared, index, bytes.clone(), partition_bytes)];
    let answers = read(shared, At::View(view), &wanted).await?;
    let Some(entry) = answers.iter().next().flatten() else { return Ok(None) };
    let (_, record, _) = decode_entry::<I>(&bytes, entry)?;
    let value =
        get_many::<I::Of>(shared, At::View(view), std::slice::from_ref(&record)).await?.pop().flatten();
    Ok(value.map(|value| (record, value)))
}

pub(crate) fn decode_value<C: Collection>(bytes: &[u8]) -> Result<C::Value> {
    C::Value::decode_exact(bytes).map_err(|why| Error::Value { collection: C::NAME.to_owned(), why })
}

fn place(
    shared: &Shared,
    collection: CollectionId,
    key: Vec<u8>,
    partition_bytes: usize,
) -> (usize, CollectionId, Vec<u8>) {
    let shard = shared.placement.shard(collection, key.get(..partition_bytes).unwrap_or(&key));
    (shard, collection, key)
}

async fn read(shared: &Arc<Shared>, at: At, wanted: &[(usize, CollectionId, Vec<u8>)]) -> Result<Answers> {
    match at {
        At::View(view) => get_each(shared, view, wanted).await,
        At::Tip => {
            for _ in 1..TIP_READS_MAX {
                match get_each(shared, shared.applied(), wanted).await {
                    Err(Error::Storage(StorageError::ViewExpired { .. })) => {}
                    answer => return answer,
                }
            }
            get_each(shared, shared.applied(), wanted).await
        }
    }
}

/// Whether an error says that a view's versions are gone.
pub(crate) fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Storage(StorageError::ViewExpired { .. }))
}

/// A prefix of a composite key: its leading components, as a tuple.
///
/// `(a,)` and `(a, b)` are prefixes of `(a, b, c)`, and so is the key itself.
pub trait PrefixOf<K>: Key {}

impl<K: Key> PrefixOf<K> for K {}

macro_rules! prefixes {
    ($(($($part:ident),+) of ($($whole:ident),+);)+) => {
        $(impl<$($whole: Key),+> PrefixOf<($($whole,)+)> for ($($part,)+) {})+
    };
}

prefixes! {
    (A) of (A, B);
    (A) of (A, B, C);
    (A, B) of (A, B, C);
    (A) of (A, B, C, D);
    (A, B) of (A, B, C, D);
    (A, B, C) of (A, B, C, D);
    (A) of (A, B, C, D, E);
    (A, B) of (A, B, C, D, E);
    (A, B, C) of (A, B, C, D, E);
    (A, B, C, D) of (A, B, C, D, E);
    (A) of (A, B, C, D, E, F);
    (A, B) of (A, B, C, D, E, F);
    (A, B, C) of (A, B, C, D, E, F);
    (A, B, C, D) of (A, B, C, D, E, F);
    (A, B, C, D, E) of (A, B, C, D, E, F);
}
