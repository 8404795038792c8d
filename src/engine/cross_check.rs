//! Compares what a store holds with itself: records with their indexes, both ways, and the chain with its links.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use op_engine_io::num::to_u64;
use op_engine_io::reply;
use op_engine_shards::message::{Direction, KeyRange, Request, ScanRequest, Select};
use op_engine_shards::{CollectionId, Height, Seq};

use crate::engine::index_state::require_complete;
use crate::engine::prepare::get_each;
use crate::engine::registry::{Registered, RegisteredIndex};
use crate::engine::scan::{self, Scan};
use crate::engine::shared::{Pin, Shared};
use crate::engine::system::{self, BlockRecord};
use crate::engine::{Engine, Tip};
use crate::error::{Error, Result};

/// Rows that are compared at once.
const PAGE_ROWS: usize = 256;
/// Bytes of rows that are compared at once.
const PAGE_BYTES: usize = 1 << 20;
/// Faults that are kept of one collection or index: more say nothing new, and must not fill the memory.
const FAULTS_MAX: usize = 1000;

/// A row as it is stored: its key and its value.
pub type RawRow = (Vec<u8>, Vec<u8>);

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct CrossCheck {
    pub(crate) faults: Vec<Error>,
    pub(crate) records: u64,
    pub(crate) index_entries: u64,
    pub(crate) blocks: u64,
}

/// Rows of one shard.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

impl Engine {
    /// An ordered scan of a collection, or of an index named `collection.index`, with the rows as they are stored: for
    /// tools that know a collection by its name only.
    ///
    /// # Errors
    /// [`Error::UnknownCollection`].
    pub fn scan_raw(&self, name: &str) -> Result<Scan<Vec<u8>, RawRow>> {
        for registered in self.shared.registry.all() {
            if registered.name == name {
                return Ok(scan::raw_scan(&self.shared, (registered.id, registered.scope), registered.name));
            }
            if let Some(index) = registered.indexes.iter().find(|index| index.spec.name == name) {
                return Ok(scan::raw_scan(&self.shared, (index.id, registered.scope), registered.name));
            }
        }
        Err(Error::UnknownCollection { name: name.to_owned() })
    }

    /// Reads every record and every index entry at the tip and compares them. `progress` is called with the number of
    /// rows after each page.
    pub(crate) async fn cross_check(&self, progress: &(impl Fn(u64) + Sync)) -> Result<CrossCheck> {
        let (tip, view) = self.shared.tip_view();
        let pin = self.shared.pin(view).await?;
        let mut check =
            Check { shared: &self.shared, view, _pin: pin, progress, found: CrossCheck::default() };
        check.chain(tip).await?;
        for registered in self.shared.registry.all() {
            check.records(registered).await?;
            for index in &registered.indexes {
                if check.shows(index).await? {
                    check.entries(registered, index).await?;
                }
            }
        }
        Ok(check.found)
    }
}

struct Check<'a, P> {
    shared: &'a Arc<Shared>,
    view: Seq,
    _pin: Pin,
    progress: &'a P,
    found: CrossCheck,
}

/// The faults of one collection.
struct Faults<'a> {
    name: &'a str,
    list: Vec<Error>,
    dropped: u64,
}

impl<'a> Faults<'a> {
    fn of(name: &'a str) -> Self {
        Self { name, list: Vec::new(), dropped: 0 }
    }

    fn push(&mut self, fault: Error) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        } else {
            self.dropped += 1;
        }
    }

    fn contradiction(&mut self, key: &[u8], what: impl Into<String>) {
        let fault = Error::Contradiction {
            collection: self.name.to_owned(),
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            what: what.into(),
        };
        self.push(fault);
    }

    fn into_list(mut self) -> Vec<Error> {
        if self.dropped > 0 {
            let what = format!("{} more faults like the ones before", self.dropped);
            let (collection, key) = (self.name.to_owned(), String::new());
            self.list.push(Error::Contradiction { collection, key, what });
        }
        self.list
    }
}

impl<P: Fn(u64)> Check<'_, P> {
    /// The blocks from the first to the tip, each linked to the one below.
    async fn chain(&mut self, tip: Option<Tip>) -> Result<()> {
        let id = system::chain_spec().id;
        let mut faults = Faults::of("op-engine/chain");
        let mut heights: Option<(Height, Height)> = None;
        let mut unlinked = Vec::new();
        for shard in 0..self.shared.shards.len() {
            let mut pages = Pages::new(self.shared, self.view, shard, id);
            while let Some(rows) = pages.next().await? {
                let mut blocks = Vec::with_capacity(rows.len());
                for (key, value) in &rows {
                    match (system::chain_height(key), BlockRecord::decode(value)) {
                        (Ok(height), Ok(block)) => blocks.push(block.at(height)),
                        _ => faults.contradiction(key, "it does not decode"),
                    }
                    if self.shared.placement.shard(id, key) != shard {
                        faults
                            .contradiction(key, format!("it is on shard {shard}, where it does not belong"));
                    }
                }
                unlinked.extend(self.unlinked_blocks(id, &blocks).await?);
                for Tip { height, .. } in &blocks {
                    let (low, high) = heights.unwrap_or((*height, *height));
                    heights = Some((low.min(*height), high.max(*height)));
                }
                self.found.blocks += to_u64(blocks.len());
                (self.progress)(to_u64(rows.len()));
            }
        }
        let first = heights.map(|(low, _)| low);
        for block in unlinked.into_iter().filter(|block| Some(block.height) != first) {
            let what = format!("block {} does not link to the block below", block.height);
            faults.contradiction(&system::chain_key(block.height), what);
        }
        if heights.map(|(_, high)| high) != tip.map(|tip| tip.height) {
            faults.contradiction(&[], "its highest block is not the tip");
        }
        self.found.faults.extend(faults.into_list());
        Ok(())
    }

    /// Those of some blocks whose parent is not the block below.
    async fn unlinked_blocks(&self, id: CollectionId, blocks: &[Tip]) -> Result<Vec<Tip>> {
        let below = |block: &Tip| {
            let key = system::chain_key(Height(block.height.0.wrapping_sub(1)));
            (self.shared.placement.shard(id, &key), id, key.to_vec())
        };
        let parents = get_each(self.shared, self.view, &blocks.iter().map(below).collect::<Vec<_>>()).await?;
        let linked = |block: &Tip, parent: Option<&[u8]>| {
            let parent = parent.and_then(|value| BlockRecord::decode(value).ok());
            let parent = parent.map(|record| record.at(Height(block.height.0.wrapping_sub(1))));
            parent.is_some_and(|parent| parent.hash == block.parent && parent.seq < block.seq)
        };
        let unlinked = blocks.iter().zip(parents.iter()).filter(|(block, parent)| !linked(block, *parent));
        Ok(unlinked.map(|(block, _)| *block).collect())
    }

    /// Every record decodes, is on its shard, and has the index entries that it should have.
    async fn records(&mut self, registered: &Registered) -> Result<()> {
        let mut faults = Faults::of(registered.name);
        for shard in 0..self.shared.shards.len() {
            let mut pages = Pages::new(self.shared, self.view, shard, registered.id);
            while let Some(rows) = pages.next().await? {
                for (key, value) in &rows {
                    match (registered.inspect)(key, value) {
                        Ok(partition) => {
                            if self.place(registered.id, key, partition) != shard {
                                let what = format!("it is on shard {shard}, where it does not belong");
                                faults.contradiction(key, what);
                            }
                        }
                        Err(fault) => faults.push(fault),
                    }
                }
                self.find_entries(registered, &rows, &mut faults).await?;
                self.found.records += to_u64(rows.len());
                (self.progress)(to_u64(rows.len()));
            }
        }
        self.found.faults.extend(faults.into_list());
        Ok(())
    }

    /// Whether an index is complete. One that is not holds what it holds.
    async fn shows(&self, index: &RegisteredIndex) -> Result<bool> {
        match require_complete(self.shared, index.id, self.view).await {
            Ok(()) => Ok(true),
            Err(Error::IndexIncomplete { .. } | Error::IndexFailed { .. } | Error::IndexTooNew { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks up the entries of some records in all indexes.
    async fn find_entries(
        &self,
        registered: &Registered,
        rows: &Rows,
        faults: &mut Faults<'_>,
    ) -> Result<()> {
        for index in &registered.indexes {
            if !self.shows(index).await? {
                continue;
            }
            let RegisteredIndex { id, spec, .. } = index;
            let mut expected = Vec::new();
            for (key, value) in rows {
                // A record that does not decode is a fault of its own, and has been noted.
                expected.extend(
                    (spec.entries)(key, value).unwrap_or_default().into_iter().map(|entry| (key, entry)),
                );
            }
            let wanted = expected.iter().map(|(_, entry)| {
                (self.place(*id, &entry.key, entry.partition_bytes), *id, entry.key.clone())
            });
            let stored = get_each(self.shared, self.view, &wanted.collect::<Vec<_>>()).await?;
            for ((key, entry), stored) in expected.iter().zip(stored.iter()) {
                match stored {
                    None => faults.contradiction(key, format!("its entry in index {} is missing", spec.name)),
                    Some(stored) if stored[..] != entry.value[..] => {
                        faults.contradiction(key, format!("its entry in index {} is another one", spec.name));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Every entry of an index is on its shard and belongs to a record that has it.
    async fn entries(&mut self, registered: &Registered, index: &RegisteredIndex) -> Result<()> {
        let mut faults = Faults::of(&index.spec.name);
        for shard in 0..self.shared.shards.len() {
            let mut pages = Pages::new(self.shared, self.view, shard, index.id);
            while let Some(rows) = pages.next().await? {
                self.find_owners(registered, index, (shard, &rows), &mut faults).await?;
                self.found.index_entries += to_u64(rows.len());
                (self.progress)(to_u64(rows.len()));
            }
        }
        self.found.faults.extend(faults.into_list());
        Ok(())
    }

    async fn find_owners(
        &self,
        registered: &Registered,
        index: &RegisteredIndex,
        (shard, rows): (usize, &Rows),
        faults: &mut Faults<'_>,
    ) -> Result<()> {
        let mut owned = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            match (index.spec.owner)(key, value) {
                Ok((owner, partition)) => owned.push((key, value, owner, partition)),
                Err(fault) => faults.push(fault),
            }
        }
        let wanted = owned.iter().map(|(_, _, owner, partition)| {
            (self.place(registered.id, owner, *partition), registered.id, owner.clone())
        });
        let records = get_each(self.shared, self.view, &wanted.collect::<Vec<_>>()).await?;
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        for ((key, value, owner, _), record) in owned.iter().zip(records.iter()) {
            if !seen.insert(key) {
                faults.contradiction(key, "the entry occurs twice");
            }
            let Some(record) = record else {
                faults.contradiction(key, "the entry leads to a record that does not exist");
                continue;
            };
            let entries = (index.spec.entries)(owner, record).unwrap_or_default();
            match entries.iter().find(|entry| entry.key == **key) {
                None => faults.contradiction(key, "the entry leads to a record that does not have it"),
                Some(entry) if entry.value[..] != value[..] => {
                    faults.contradiction(key, "the entry differs from that of its record");
                }
                Some(entry) if self.place(index.id, key, entry.partition_bytes) != shard => {
                    faults.contradiction(key, format!("it is on shard {shard}, where it does not belong"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn place(&self, id: CollectionId, key: &[u8], partition_bytes: usize) -> usize {
        self.shared.placement.shard(id, key.get(..partition_bytes).unwrap_or(key))
    }
}

/// The rows of one collection on one shard, page by page.
struct Pages<'a> {
    shared: &'a Arc<Shared>,
    view: Seq,
    shard: usize,
    collection: CollectionId,
    after: Option<Vec<u8>>,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn new(shared: &'a Arc<Shared>, view: Seq, shard: usize, collection: CollectionId) -> Self {
        Self { shared, view, shard, collection, after: None, ended: false }
    }

    async fn next(&mut self) -> Result<Option<Rows>> {
        let Some(shard) = self.shared.shards.get(self.shard).filter(|_| !self.ended) else { return Ok(None) };
        let start = self.after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (reply, answer) = reply();
        let request = ScanRequest {
            view: self.view,
            collection: self.collection,
            range: KeyRange { start, end: Bound::Unbounded },
            direction: Direction::Forward,
            rows_max: PAGE_ROWS,
            bytes_max: PAGE_BYTES,
            goes_on: true,
            select: Select { entries_max: u64::MAX, ..Select::all() },
            reply,
        };
        shard.send(Request::Scan(request)).await?;
        let page = answer.await??;
        self.ended = page.more_after.is_none();
        self.after = page.more_after;
        let rows: Rows = page.rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        Ok((!rows.is_empty()).then_some(rows))
    }
}
