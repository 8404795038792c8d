//! Filling an index that was added to a collection with records.
//!
//! From the commit that adds the index, every block maintains it, as it does every other one. What was there before is
//! entered batch by batch: the committer, between two blocks, reads some records on the newest state, and commits their
//! entries together with the position that has been reached. At every commit it holds that
//!
//! - all entries of the records up to the position are in the index, and
//! - of the others those that blocks have written since, and none of a record that is no longer so.
//!
//! Entries and position are commits like any other. So a crash takes both back to one commit, and a reorg to one block, and
//! the work goes on from there: no case is special.

use op_engine_io::reply;
use op_engine_shards::message::{Direction, KeyRange, Request, ScanPage, ScanRequest, Select};
use op_engine_shards::ops::Op;
use op_engine_shards::{CollectionId, Seq};

use crate::collection::{IndexEntry, unique_owner};
use crate::engine::prepare::{Prepared, check_sizes, duplicate_key, get_each, place};
use crate::engine::progress::{Position, Stage, Work};
use crate::engine::registry::{Registered, RegisteredIndex};
use crate::engine::shared::Shared;
use crate::error::Result;

/// Bytes of records that are looked at in one commit, roughly.
const PAGE_BYTES: usize = 256 << 10;

/// The records after a position, on its shard.
pub(crate) async fn page_after(
    shared: &Shared,
    collection: CollectionId,
    position: &Position,
    view: Seq,
    rows_max: usize,
) -> Result<ScanPage> {
    let Some(shard) = shared.shards.get(usize::from(position.shard)) else { return Ok(ScanPage::default()) };
    let mut range = KeyRange::all();
    if let Some(after) = &position.after {
        range.start = std::ops::Bound::Excluded(after.clone());
    }
    let (reply, answer) = reply();
    let direction = Direction::Forward;
    let request = ScanRequest {
        view,
        collection,
        range,
        direction,
        rows_max,
        bytes_max: PAGE_BYTES,
        // It goes through everything once: its pages are not worth keeping.
        goes_on: true,
        select: Select::all(),
        reply,
    };
    shard.send(Request::Scan(request)).await?;
    Ok(answer.await.map_err(|_| shared.gone())??)
}

/// The position after a page; `None` at the end of the last shard.
pub(crate) fn position_after(shared: &Shared, before: Position, page: &ScanPage) -> Option<Position> {
    match &page.more_after {
        Some(last) => Some(Position { shard: before.shard, after: Some(last.clone()) }),
        None => {
            let next = before.shard.checked_add(1)?;
            (usize::from(next) < shared.shards.len()).then_some(Position { shard: next, after: None })
        }
    }
}

/// The next batch of entries of an index, on the newest state, which `view` shows. `seq` will be its commit.
///
/// # Errors
/// Whatever reading fails with. What is wrong with the records is no error, but ends the work.
pub(crate) async fn next_batch(
    shared: &Shared,
    (registered, index): (&Registered, &RegisteredIndex),
    (view, seq): (Seq, Seq),
    rows_max: usize,
) -> Result<(Prepared, Work)> {
    let mut work = shared.indexes.work(index.id);
    let mut prepared = Prepared::new(shared);
    let Stage::Running(position) = work.stage.clone() else { return Ok((prepared, work)) };
    let page = page_after(shared, registered.id, &position, view, rows_max).await?;
    work.stage = match entries_of(shared, index, &page, view).await? {
        Err(why) => Stage::Failed(why),
        Ok(entries) => {
            for entry in &entries {
                let shard = place(shared, index.id, &entry.key, entry.partition_bytes);
                let op = Op { collection: index.id, key: &entry.key, value: Some(&entry.value) };
                prepared.push(shard, op);
            }
            work.records += op_engine_io::num::to_u64(page.rows.len());
            position_after(shared, position, &page).map_or(Stage::Complete(seq), Stage::Running)
        }
    };
    prepared.push_work(shared, registered.scope, index.id, &work);
    Ok((prepared, work))
}

/// The entries of some records; or why they cannot all be in the index.
async fn entries_of(
    shared: &Shared,
    index: &RegisteredIndex,
    page: &ScanPage,
    view: Seq,
) -> Result<Result<Vec<IndexEntry>, String>> {
    let mut entries = Vec::new();
    for (key, value) in page.rows.iter() {
        let found = (index.spec.entries)(key, value).and_then(|found| {
            found.iter().try_for_each(|entry| check_sizes(&entry.key, Some(&entry.value)))?;
            Ok(found)
        });
        match found {
            Ok(found) => entries.extend(found),
            Err(why) => return Ok(Err(why.to_string())),
        }
    }
    if index.spec.unique
        && let Some(key) = first_duplicate(shared, index, &entries, view).await?
    {
        return Ok(Err(duplicate_key(index, &key).to_string()));
    }
    Ok(Ok(entries))
}

/// A key that two records have: two of these, or one of these and one in the index.
async fn first_duplicate(
    shared: &Shared,
    index: &RegisteredIndex,
    entries: &[IndexEntry],
    view: Seq,
) -> Result<Option<Vec<u8>>> {
    let mut keys: Vec<&[u8]> = entries.iter().map(|entry| entry.key.as_slice()).collect();
    keys.sort_unstable();
    if let Some([key, _]) = keys.array_windows().find(|[a, b]| a == b) {
        return Ok(Some(key.to_vec()));
    }
    let wanted: Vec<_> = entries
        .iter()
        .map(|entry| (place(shared, index.id, &entry.key, entry.partition_bytes), index.id, &entry.key))
        .collect();
    let owners = get_each(shared, view, &wanted).await?;
    let mut owned = entries.iter().zip(owners.iter());
    let duplicate = owned
        .find(|(entry, owner)| owner.is_some_and(|owner| unique_owner(owner) != unique_owner(&entry.value)));
    Ok(duplicate.map(|(entry, _)| entry.key.clone()))
}
