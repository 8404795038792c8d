//! Reads every byte of a segment and lists everything that is wrong.

use std::rc::Rc;

use op_engine_io::num::to_usize;
use op_engine_io::{Env, File as _};

use super::cold_part::ColdPart;
use super::directory::Partition;
use super::filter::{FilterKey, FilterPartition};
use super::format::{SegmentHome, UNIT, from_u32};
use super::index::{IndexPartition, PageNo, PagePlace};
use super::page::{Page, Run};
use super::reader::Segment;
use super::resident::{Loaded, PartitionCache};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::range::internal_order;
use crate::segment_meta::SegmentMeta;
use crate::visibility::Mask;

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyScope {
    /// What is on the store's own device.
    Hot,
    /// And every page in the cold target.
    ColdToo,
}

/// Checks the file of a segment: every checksum, the order, the ranges and counts, that the page index leads to every
/// entry, and that the filter knows every key. Returns all faults; none if the file is sound. Pages that a merge has taken
/// over from it are nothing to anybody, and not looked at.
///
/// # Errors
/// Only if the machine stops: what cannot be read is a fault of the file.
pub async fn verify<E: Env>(
    env: &E,
    home: SegmentHome,
    meta: SegmentMeta,
    filter_key: &FilterKey,
    scope: VerifyScope,
) -> Result<Vec<Error>> {
    let mut faults = Vec::new();
    match Segment::load(env, home, meta, Mask::default(), &PartitionCache::new(0), &mut faults).await {
        Ok(segment) => faults.append(&mut segment.verify_all(env, filter_key, scope).await?),
        Err(Error::Io(op_engine_io::Error::Stopped)) => return Err(op_engine_io::Error::Stopped.into()),
        Err(fault) => faults.push(fault),
    }
    Ok(faults)
}

impl<E: Env> Segment<E> {
    /// Checks all partitions and pages of an open segment, as [`verify`] does. The filter is in memory meanwhile.
    ///
    /// # Errors
    /// Only if the machine stops.
    pub async fn verify_all(
        &self,
        env: &E,
        filter_key: &FilterKey,
        scope: VerifyScope,
    ) -> Result<Vec<Error>> {
        let filters = Vec::with_capacity(self.directory.filters());
        let (faults, seen) = (Vec::new(), Seen::default());
        let mut check =
            Check { segment: self, filter_key, filters, faults, last: None, seen, complete: true };
        for at in (0..).take(self.directory.filters()) {
            let place = self.directory.place(Partition::Filter(at));
            let filter = match place {
                Some(place) if place.bytes > 0 => check.read(env, Partition::Filter(at)).await?,
                _ => None,
            };
            check.filters.push(match filter {
                Some(Loaded::Filter(filter)) => Some(filter),
                _ => None,
            });
        }
        let reads_pages = self.cold.is_none() || scope == VerifyScope::ColdToo;
        for at in (0..).take(self.directory.indexes()) {
            match check.read(env, Partition::Index(at)).await? {
                Some(Loaded::Index(_)) if !reads_pages => check.skip(),
                Some(Loaded::Index(index)) => check.pages(env, at, &index).await?,
                _ => check.skip(),
            }
        }
        if check.complete {
            check.totals();
        }
        if let Some(cold) = self.cold.as_ref().filter(|_| scope == VerifyScope::ColdToo) {
            let faults = self.compare_with_object(env, cold).await?;
            check.faults.extend(faults);
        }
        Ok(check.faults)
    }
}

/// A fault of the file, unless it is the machine that has stopped.
fn unless_stopped(fault: Error) -> Result<Error> {
    match fault {
        Error::Io(op_engine_io::Error::Stopped) => Err(fault),
        fault => Ok(fault),
    }
}

#[derive(Debug, Default)]
struct Seen {
    entries: u64,
    tombstones: u64,
    keys: u64,
    seqs: Option<(Seq, Seq)>,
    key_min: Option<Vec<u8>>,
    key_max: Vec<u8>,
}

struct Check<'a, E: Env> {
    segment: &'a Segment<E>,
    filter_key: &'a FilterKey,
    /// The partitions of the filter; none where one is damaged or lets every key pass.
    filters: Vec<Option<Rc<FilterPartition>>>,
    faults: Vec<Error>,
    last: Option<(Vec<u8>, Seq)>,
    seen: Seen,
    /// All entries have been seen.
    complete: bool,
}

/// Bytes of a file and its object that are compared at once.
const COMPARED_BYTES: u64 = 256 << 10;

impl<E: Env> Segment<E> {
    /// Everything but the data pages is the same in the file and in the object.
    async fn compare_with_object(&self, env: &E, cold: &ColdPart) -> Result<Vec<Error>> {
        let compared = self.find_difference(env, cold).await;
        match compared {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(fault)) | Err(fault) => Ok(vec![unless_stopped(fault)?]),
        }
    }

    async fn find_difference(&self, env: &E, cold: &ColdPart) -> Result<Option<Error>> {
        let data_bytes = self.meta.total_bytes() - self.meta.file_bytes;
        if cold.length(env).await? != self.meta.total_bytes() {
            return Ok(Some(Error::corruption(
                cold.name(),
                0,
                "the object has another length than was written",
            )));
        }
        let mut at = 0;
        while at < self.meta.file_bytes {
            // The header lies before the data pages, the rest behind them.
            let (bytes, offset) = if at == 0 {
                (UNIT, 0)
            } else {
                (COMPARED_BYTES.min(self.meta.file_bytes - at), at + data_bytes)
            };
            let theirs = cold.read(env, offset, bytes).await?;
            let buf = env.read_buffer(to_usize(bytes)).await;
            let (buf, result) = self.file.read_at(at, buf).await;
            result.map_err(|error| self.read_error(error))?;
            if buf.as_slice().get(..theirs.len()) != Some(&theirs) {
                let what = "the object differs from the file that is kept of it";
                return Ok(Some(Error::corruption(cold.name(), offset, what)));
            }
            at += bytes;
            env.yield_now().await;
        }
        Ok(None)
    }
}

impl<E: Env> Check<'_, E> {
    /// A partition, or none and a fault.
    async fn read(&mut self, env: &E, partition: Partition) -> Result<Option<Loaded>> {
        let read = self.segment.read_partition(env, partition).await;
        env.yield_now().await;
        match read {
            Ok(loaded) => Ok(Some(loaded)),
            Err(fault) => {
                self.faults.push(unless_stopped(fault)?);
                Ok(None)
            }
        }
    }

    /// Goes on after entries that cannot be seen.
    fn skip(&mut self) {
        self.complete = false;
        self.last = None;
    }

    /// Checks the pages of a partition of the page index.
    async fn pages(&mut self, env: &E, at: u32, index: &IndexPartition) -> Result<()> {
        let Some((span, _, _)) = self.segment.directory.span(at) else { return Ok(()) };
        let first = self.segment.first_page().0;
        for number in (span.first..).take(from_u32(span.pages)).filter(|number| *number >= first) {
            let Some(place) = index.page(PageNo(number)) else { continue };
            let read = self.segment.page(env, place).await;
            if let Err(fault) = read.and_then(|page| self.page(at, index, place, &page)) {
                self.skip();
                self.faults.push(unless_stopped(fault)?);
            }
            env.yield_now().await;
        }
        Ok(())
    }

    fn page(&mut self, at: u32, index: &IndexPartition, place: PagePlace, page: &Rc<Page>) -> Result<()> {
        let mut run = Run::default();
        for number in 0..page.runs() {
            page.load_run(number, &mut run)?;
            for nth in 0..run.len() {
                let Some(entry) = run.get(nth, page) else { continue };
                let leads_here = self.segment.directory.index_of(entry.key, entry.seq) == at
                    && index.locate(entry.key, entry.seq) == place;
                if !leads_here {
                    self.fault(place, "the page index leads elsewhere for an entry of this page");
                }
                self.entry(place, entry.key, entry.seq, entry.value.is_none());
            }
        }
        Ok(())
    }

    fn fault(&mut self, page: PagePlace, what: &str) {
        self.faults.push(Error::corruption(self.segment.page_name(), self.segment.offset_of(page), what));
    }

    /// Whether the filter lets a key pass.
    fn passes(&self, key: &[u8]) -> bool {
        let hash = self.filter_key.hash(key);
        let at = self.segment.directory.filter_of(hash);
        let filter = at.and_then(|at| self.filters.get(from_u32(at))?.as_ref());
        filter.is_none_or(|filter| filter.may_contain(hash))
    }

    fn entry(&mut self, page: PagePlace, key: &[u8], seq: Seq, tombstone: bool) {
        let last = self.last.as_ref().map(|(last_key, last_seq)| (last_key.as_slice(), *last_seq));
        if last.is_some_and(|last| internal_order(last, (key, seq)).is_ge()) {
            self.fault(page, "entries are out of order");
        }
        let is_new_key = self.last.as_ref().is_none_or(|(last_key, _)| last_key != key);
        if is_new_key {
            self.seen.keys += 1;
            if !self.passes(key) {
                self.fault(page, "the filter does not know a key of this page");
            }
        }
        self.seen.entries += 1;
        self.seen.tombstones += u64::from(tombstone);
        let (min, max) = self.seen.seqs.unwrap_or((seq, seq));
        self.seen.seqs = Some((min.min(seq), max.max(seq)));
        self.seen.key_min.get_or_insert_with(|| key.to_vec());
        if is_new_key {
            self.seen.key_max = key.to_vec();
        }
        match &mut self.last {
            Some((last_key, last_seq)) => {
                last_key.clear();
                last_key.extend_from_slice(key);
                *last_seq = seq;
            }
            last => *last = Some((key.to_vec(), seq)),
        }
    }

    fn totals(&mut self) {
        let (meta, seen) = (self.segment.meta(), &self.seen);
        let agrees = if self.segment.first_page() == PageNo(0) {
            seen.entries == meta.entries
                && seen.tombstones == meta.tombstones
                && seen.keys == self.segment.keys()
                && seen.seqs == Some((meta.seq_min, meta.seq_max))
                && seen.key_min.as_deref() == Some(self.segment.file_key_min())
                && seen.key_max == meta.key_max
        } else {
            // The pages of a trimmed segment that were taken over are not there to be counted.
            let is_within = |(min, max)| meta.seq_min <= min && max <= meta.seq_max;
            seen.entries <= meta.entries
                && seen.tombstones <= meta.tombstones
                && seen.keys <= self.segment.keys()
                && seen.seqs.is_some_and(is_within)
                && seen.key_min.as_deref().is_some_and(|key_min| key_min <= meta.key_min.as_slice())
                && seen.key_max == meta.key_max
        };
        if !agrees {
            let offset = meta.file_bytes.saturating_sub(2 * super::format::UNIT);
            let what = "counts or ranges in the meta page are not those of the entries";
            self.faults.push(Error::corruption(self.segment.file_name(), offset, what));
        }
    }
}
