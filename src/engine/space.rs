//! Whether the disk has room for a commit: asked before the commit is prepared, so that a full disk stops nothing.
//!
//! A commit is refused if, after it, the disk might not have room for what must follow: WAL files, a flush of every
//! memtable, the next manifests, and what is missing of the reserves. Each commit is looked at afresh, so freed space is
//! used at once. Reorgs need no room of their own: the reserve answers for them.
//!
//! What a disk says of itself is not always true; of a quota it may know nothing. So a shard that was refused space counts
//! as full, and is asked to try again before the next commit is refused for it.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::{Either, select};
use op_engine_io::Env;
use op_engine_io::num::to_u64;
use op_engine_shards::barrier::Barrier;
use op_engine_shards::log::frame::HEADER_BYTES;
use op_engine_shards::log::{UNIT_BYTES, unit_ceil};
use op_engine_shards::message::SpaceNeed;

use crate::engine::order::{IndexedChange, Resolved};
use crate::error::{Error, Result};

/// What the disk has said is taken for true for this long, if there is plenty beyond what is needed.
const TRUST: Duration = Duration::from_secs(1);
/// More than is written in that time.
const PLENTY_BYTES: u64 = 4 << 30;
/// Segments take at most so many times the bytes of a commit.
const SEGMENT_GROWTH: u64 = 2;
/// What an index may have to forget for a change beside what it has to learn.
const OLD_ENTRY_BYTES: u64 = 256;
/// How often shards are asked to make room, however many commits are refused.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Shards may have begun an attempt before they were asked for one, so the first one may say nothing.
const RETRIES: u32 = 2;
/// How long a commit waits for shards to try again.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What a commit takes, at most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// On all shards together, in bytes.
    bytes: u64,
    /// The frame on each shard, in bytes.
    frames: Vec<u64>,
}

impl Wanted {
    /// By a batch whose index entries are not all known yet.
    pub(crate) fn by(changes: &Resolved) -> Self {
        let Resolved { payloads, indexed, .. } = changes;
        let indexed: u64 = indexed.iter().map(indexed_bytes).sum();
        let plain = payloads.iter().map(|payload| to_u64(payload.len()));
        // Entries may go to any shard.
        let frame = |bytes| unit_ceil(bytes + indexed + to_u64(HEADER_BYTES));
        Self { bytes: indexed + plain.clone().sum::<u64>(), frames: plain.map(frame).collect() }
    }
}

fn indexed_bytes(change: &IndexedChange) -> u64 {
    let entries = change.entries.iter().flat_map(|index| &index.entries);
    let entries: usize = entries.map(|entry| entry.key.len() + entry.value.len()).sum();
    let record = change.key.len() + change.value.as_ref().map_or(0, Vec::len);
    to_u64(record + 2 * entries) + OLD_ENTRY_BYTES
}

/// What must be free before a commit.
fn needed_bytes(needs: &[SpaceNeed], wanted: &Wanted) -> u64 {
    let wal = needs.iter().zip(&wanted.frames).map(|(need, frame)| {
        if *frame <= need.wal_room_bytes { 0 } else { need.wal_file_bytes.max(frame + UNIT_BYTES) }
    });
    let before: u64 = needs.iter().map(|need| need.bytes).sum();
    before + wanted.bytes * SEGMENT_GROWTH + wal.sum::<u64>()
}

/// Whether a shard that was refused space has no more room for the commit in what it has.
fn is_stuck(needs: &[SpaceNeed], wanted: &Wanted) -> bool {
    let mut shards = needs.iter().zip(&wanted.frames);
    shards.any(|(need, frame)| need.refused && (need.memtables_full || *frame > need.wal_room_bytes))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Room,
    /// The disk says that it has not enough.
    Full,
    /// The disk says that it has enough, but has refused a shard.
    Stuck,
}

/// Refuses commits that the disk might have no room for.
pub(crate) struct SpaceGuard<E: Env> {
    env: E,
    /// What the disk has said last, and when.
    seen: Cell<Option<(u64, Duration)>>,
    /// When shards were last asked to make room.
    asked: Cell<Option<Duration>>,
}

impl<E: Env> SpaceGuard<E> {
    pub(crate) fn new(env: E) -> Self {
        Self { env, seen: Cell::new(None), asked: Cell::new(None) }
    }

    /// Makes sure that there is room for a commit.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]. Nothing has been changed then.
    pub(crate) async fn require(&self, barrier: &Barrier, what: &str, wanted: &Wanted) -> Result<()> {
        let mut retries = 0;
        loop {
            let needs = barrier.space_needs();
            let needed = needed_bytes(&needs, wanted);
            let available = self.available_bytes(needed).await?;
            let verdict = match (available >= needed, is_stuck(&needs, wanted)) {
                (false, _) => Verdict::Full,
                (true, true) => Verdict::Stuck,
                (true, false) => Verdict::Room,
            };
            match verdict {
                Verdict::Room => return Ok(()),
                Verdict::Stuck if retries < RETRIES => self.retry(barrier, &needs).await?,
                Verdict::Stuck | Verdict::Full => {
                    self.ask_for_room(barrier).await?;
                    return Err(Error::OutOfSpace { what: what.to_owned(), needed, available });
                }
            }
            retries += 1;
        }
    }

    /// Makes sure that a reorg cannot fail for lack of space. If the reserves answer for it, nothing is asked.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]. Nothing has been changed then.
    pub(crate) async fn require_reorg(&self, barrier: &Barrier) -> Result<()> {
        let needed = barrier.space_needs().iter().map(|need| need.reorg_bytes).sum();
        let available = if needed == 0 { 0 } else { self.env.space().await?.available_bytes };
        if available >= needed {
            return Ok(());
        }
        Err(Error::OutOfSpace { what: "the reorg".to_owned(), needed, available })
    }

    /// What the disk has, as of now if that may matter.
    async fn available_bytes(&self, needed: u64) -> Result<u64> {
        let now = self.env.now();
        if let Some((available, at)) = self.seen.get()
            && now.saturating_sub(at) < TRUST
            && available >= needed.saturating_add(PLENTY_BYTES)
        {
            return Ok(available);
        }
        let available = self.env.space().await?.available_bytes;
        self.seen.set(Some((available, now)));
        Ok(available)
    }

    /// Has the shards that were refused space try again, and waits until they have.
    async fn retry(&self, barrier: &Barrier, before: &[SpaceNeed]) -> Result<()> {
        barrier.make_room().await?;
        let tried = async {
            loop {
                let mark = barrier.changed().mark();
                let now = barrier.space_needs();
                let mut refused = before.iter().zip(&now).filter(|(before, _)| before.refused);
                if refused.all(|(before, now)| now.attempts > before.attempts) || barrier.failure().is_some()
                {
                    return;
                }
                barrier.changed().raised_since(mark).await;
            }
        };
        match select(Box::pin(tried), Box::pin(self.env.sleep(RETRY_MAX))).await {
            Either::Left(_) | Either::Right(_) => Ok(()),
        }
    }

    async fn ask_for_room(&self, barrier: &Barrier) -> Result<()> {
        let now = self.env.now();
        if self.asked.get().is_some_and(|asked| now.saturating_sub(asked) < ASK_EVERY) {
            return Ok(());
        }
        self.asked.set(Some(now));
        Ok(barrier.make_room().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn need(bytes: u64) -> SpaceNeed {
        SpaceNeed { bytes, wal_room_bytes: MIB, wal_file_bytes: 8 * MIB, ..SpaceNeed::default() }
    }

    fn wanted(frames: &[u64]) -> Wanted {
        Wanted { bytes: frames.iter().sum(), frames: frames.to_vec() }
    }

    #[test]
    fn a_commit_needs_its_segments_and_a_file_where_its_frame_does_not_fit() {
        let needs = [need(3 * MIB), need(5 * MIB)];
        assert_eq!(needed_bytes(&needs, &wanted(&[0, 0])), 8 * MIB);
        assert_eq!(needed_bytes(&needs, &wanted(&[MIB, 0])), 10 * MIB);
        assert_eq!(needed_bytes(&needs, &wanted(&[MIB + 1, MIB])), 8 * MIB + 2 * (2 * MIB + 1) + 8 * MIB);
        let large = 20 * MIB;
        let file = large + UNIT_BYTES;
        assert_eq!(needed_bytes(&needs, &wanted(&[large, large])), 8 * MIB + 4 * large + 2 * file);
    }

    #[test]
    fn a_refused_shard_is_stuck_only_when_the_commit_needs_something_new() {
        let full = SpaceNeed { memtables_full: true, ..need(0) };
        let refused = SpaceNeed { refused: true, ..need(0) };
        let both = SpaceNeed { refused: true, ..full };
        let small = wanted(&[1, 1]);
        assert!(!is_stuck(&[full, refused], &small));
        assert!(is_stuck(&[need(0), both], &small));
        assert!(is_stuck(&[refused, need(0)], &wanted(&[MIB + 1, 1])));
        assert!(!is_stuck(&[need(0), refused], &wanted(&[MIB + 1, 1])));
    }

    #[test]
    fn what_a_batch_wants_covers_its_records_and_the_entries_of_its_indexes() {
        use crate::collection::IndexEntry;
        use crate::engine::order::NewEntries;
        let entry = IndexEntry { key: vec![0; 40], value: vec![0; 10], partition_bytes: 40 };
        let change = IndexedChange {
            type_id: std::any::TypeId::of::<()>(),
            name: "coins",
            collection: op_engine_shards::CollectionId(1),
            shard: 0,
            key: vec![0; 30],
            value: Some(vec![0; 70]),
            entries: vec![NewEntries { index: 0, entries: vec![entry] }],
            below: crate::batch::Below::Unknown,
        };
        let changes = Resolved {
            payloads: vec![vec![0; 5000], Vec::new()],
            indexed: vec![change],
            collections: Vec::new(),
        };
        let indexed = 100 + 100 + OLD_ENTRY_BYTES;
        assert_eq!(Wanted::by(&changes), Wanted { bytes: 5000 + indexed, frames: vec![8192, 4096] });
    }
}
