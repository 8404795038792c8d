//! Reads every byte of a segment and lists everything that is wrong.

use std::rc::Rc;

use op_engine_io::Env;

use super::filter::FilterKey;
use super::format::SegmentHome;
use super::page::{Page, Run};
use super::reader::{PageNo, Segment};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::range::internal_order;
use crate::segment_meta::SegmentMeta;
use crate::visibility::Mask;

/// Checks the file of a segment: every checksum, the order, the ranges and counts, and that the filter knows every key.
/// Returns all faults; none if the file is sound.
///
/// # Errors
/// Only if the machine stops: what cannot be read is a fault of the file.
pub async fn verify<E: Env>(
    env: &E,
    home: SegmentHome,
    meta: SegmentMeta,
    filter_key: &FilterKey,
) -> Result<Vec<Error>> {
    let mut faults = Vec::new();
    match Segment::load(env, home, meta, Mask::default(), &mut faults).await {
        Ok(segment) => faults.append(&mut segment.verify_all(env, filter_key).await?),
        Err(Error::Io(op_engine_io::Error::Stopped)) => return Err(op_engine_io::Error::Stopped.into()),
        Err(fault) => faults.push(fault),
    }
    Ok(faults)
}

impl<E: Env> Segment<E> {
    /// Checks all pages of an open segment, as [`verify`] does.
    ///
    /// # Errors
    /// Only if the machine stops.
    pub async fn verify_all(&self, env: &E, filter_key: &FilterKey) -> Result<Vec<Error>> {
        let mut check =
            Check { segment: self, filter_key, faults: Vec::new(), last: None, seen: Seen::default() };
        let mut complete = true;
        for number in 0..self.pages() {
            let page_no = PageNo::new(number);
            let read = self.page(env, page_no).await;
            match read.and_then(|page| check.page(page_no, &page)) {
                Ok(()) => {}
                Err(Error::Io(op_engine_io::Error::Stopped)) => {
                    return Err(op_engine_io::Error::Stopped.into());
                }
                Err(fault) => {
                    complete = false;
                    check.last = None;
                    check.faults.push(fault);
                }
            }
            env.yield_now().await;
        }
        if complete {
            check.totals();
        }
        Ok(check.faults)
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
    faults: Vec<Error>,
    last: Option<(Vec<u8>, Seq)>,
    seen: Seen,
}

impl<E: Env> Check<'_, E> {
    fn page(&mut self, page_no: PageNo, page: &Rc<Page>) -> Result<()> {
        let mut run = Run::default();
        for number in 0..page.runs() {
            page.load_run(number, &mut run)?;
            for at in 0..run.len() {
                if let Some(entry) = run.get(at, page) {
                    self.entry(page_no, entry.key, entry.seq, entry.value.is_none());
                }
            }
        }
        Ok(())
    }

    fn fault(&mut self, page: PageNo, what: &str) {
        self.faults.push(Error::corruption(self.segment.file_name(), self.segment.page_offset(page), what));
    }

    fn entry(&mut self, page: PageNo, key: &[u8], seq: Seq, tombstone: bool) {
        let last = self.last.as_ref().map(|(last_key, last_seq)| (last_key.as_slice(), *last_seq));
        if last.is_some_and(|last| internal_order(last, (key, seq)).is_ge()) {
            self.fault(page, "entries are out of order");
        }
        if self.segment.page_at(key, seq) != page {
            self.fault(page, "the page index leads elsewhere for an entry of this page");
        }
        let is_new_key = self.last.as_ref().is_none_or(|(last_key, _)| last_key != key);
        if is_new_key {
            self.seen.keys += 1;
            if !self.segment.may_contain(self.filter_key.hash(key)) {
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
        let agrees = seen.entries == meta.entries
            && seen.tombstones == meta.tombstones
            && seen.keys == self.segment.keys()
            && seen.seqs == Some((meta.seq_min, meta.seq_max))
            && seen.key_min.as_deref() == Some(self.segment.file_key_min())
            && seen.key_max == meta.key_max;
        if !agrees {
            let offset = meta.file_bytes.saturating_sub(2 * super::format::UNIT);
            let what = "counts or ranges in the meta page are not those of the entries";
            self.faults.push(Error::corruption(self.segment.file_name(), offset, what));
        }
    }
}
