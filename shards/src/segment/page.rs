//! Data pages: some entries in order, found by binary search.
//!
//! A key repeats only what differs from the key before it, except at the start of each run of 16 entries, where it is
//! whole: the search goes over the runs' starts, then along one run. Several versions of a key take a few bytes each.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | sequence number of the first entry; others are told relative to it, which is short |
//! | 4 | entries, at least 1 |
//! | 4 | length of the entries |
//! | 4 each | where each run begins, from the start of the entries; before them, so that the search touches one line |
//! | n | entries |
//! | zeros | up to the I/O unit |
//!
//! An entry:
//!
//! | bytes | field |
//! |---|---|
//! | varint | bytes that its key shares with the key before it; 0 at the start of a run |
//! | varint | other bytes of its key |
//! | varint | 0 for a tombstone, else the length of its value + 1 |
//! | varint | its sequence number minus that of the first entry, zigzag: 0, -1, 1, -2 ... become 0, 1, 2, 3 ... |
//! | n | those other bytes |
//! | n | its value |

use std::cmp::Ordering;
use std::ops::Range;

use op_engine_io::FileName;
use op_engine_io::num::{to_u64, to_usize};

use super::format::{from_u32, pad, to_u32};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::ops::KEY_BYTES_MAX;
use crate::visibility::Mask;

/// Entries from one whole key to the next.
pub(super) const RUN_ENTRIES: usize = 16;
const HEAD_BYTES: usize = 8 + 4 + 4;
const ENTRY_BYTES_MIN: usize = 4;

/// Fills one page after the other.
#[derive(Debug, Default)]
pub struct PageWriter {
    entries: Vec<u8>,
    runs: Vec<u32>,
    count: usize,
    base: Seq,
    last_key: Vec<u8>,
    last_seq: Seq,
}

impl PageWriter {
    /// Whether the page has no entry yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of the page if it ended here, without padding.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEAD_BYTES + self.runs.len() * 4 + self.entries.len()
    }

    /// The length that the page has at most with one more entry.
    #[must_use]
    pub fn bytes_with(&self, key: &[u8], value: Option<&[u8]>) -> usize {
        self.bytes() + Self::entry_bytes_max(key.len() - self.shared(key), value)
    }

    /// The length of a page with only this entry, at most.
    pub(super) fn bytes_alone(key: &[u8], value: Option<&[u8]>) -> usize {
        HEAD_BYTES + Self::entry_bytes_max(key.len(), value)
    }

    /// A run's start, two lengths of keys, the sequence number, and the value with its length.
    fn entry_bytes_max(key_bytes: usize, value: Option<&[u8]>) -> usize {
        4 + 2 * 2 + 10 + key_bytes + value.map_or(1, |value| 5 + value.len())
    }

    fn shared(&self, key: &[u8]) -> usize {
        if self.count.is_multiple_of(RUN_ENTRIES) { 0 } else { common_prefix(&self.last_key, key) }
    }

    /// Adds the next entry: keys ascend, the versions of a key descend.
    pub fn push(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) {
        if self.is_empty() {
            self.base = seq;
        }
        let shared = self.shared(key);
        if self.count.is_multiple_of(RUN_ENTRIES) {
            self.runs.push(to_u32(self.entries.len()));
        }
        let (_, rest) = key.split_at(shared);
        let mut out = ByteWriter::from(std::mem::take(&mut self.entries));
        out.varint(to_u64(shared));
        out.varint(to_u64(rest.len()));
        out.varint(value.map_or(0, |value| to_u64(value.len()) + 1));
        out.varint(zigzag(seq.0.wrapping_sub(self.base.0)));
        out.raw(rest);
        out.raw(value.unwrap_or_default());
        self.entries = out.into_vec();
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(rest);
        self.last_seq = seq;
        self.count += 1;
    }

    /// The last entry that was pushed, of this page or the one before.
    pub(super) fn last(&self) -> (&[u8], Seq) {
        (&self.last_key, self.last_seq)
    }

    /// Where the page would end, to come back to with [`PageWriter::truncate`].
    pub(super) fn mark(&self) -> PageMark {
        PageMark { entries: self.entries.len(), runs: self.runs.len(), count: self.count }
    }

    /// Takes back what was pushed after a mark, before which the last entry was this one.
    pub(super) fn truncate(&mut self, mark: PageMark, last_key: &[u8], last_seq: Seq) {
        self.entries.truncate(mark.entries);
        self.runs.truncate(mark.runs);
        self.count = mark.count;
        self.last_key.clear();
        self.last_key.extend_from_slice(last_key);
        self.last_seq = last_seq;
    }

    /// Ends the page, writes it with its padding, and begins the next one.
    pub fn finish(&mut self, page: &mut Vec<u8>) {
        page.clear();
        let mut out = ByteWriter::from(std::mem::take(page));
        out.u64(self.base.0);
        out.u32(to_u32(self.count));
        out.u32(to_u32(self.entries.len()));
        for run in &self.runs {
            out.u32(*run);
        }
        out.raw(&self.entries);
        *page = out.into_vec();
        pad(page);
        self.entries.clear();
        self.entries.shrink_to(1 << 20);
        self.runs.clear();
        self.count = 0;
    }
}

/// A place between two entries of a page in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageMark {
    entries: usize,
    runs: usize,
    count: usize,
}

/// What a search in a page comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The newest version that the view sees; the value is absent for a tombstone.
    Found(Seq, Option<&'a [u8]>),
    /// No version that the view sees is in the segment.
    Absent,
    /// None is in this page, and the page ends before it is sure that none is in the next one.
    NextPage,
}

/// An entry where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The commit that wrote it.
    pub seq: Seq,
    /// What it wrote; `None` deletes.
    pub value: Option<&'a [u8]>,
}

/// A page in memory, verified.
#[derive(Debug)]
pub struct Page {
    file: FileName,
    offset: u64,
    bytes: Box<[u8]>,
    base: Seq,
    count: usize,
    runs: usize,
    entries_start: usize,
}

enum Stop<'a> {
    Match(Seq, Option<&'a [u8]>),
    Beyond,
    End,
}

struct Entry<'a> {
    shared: usize,
    rest: &'a [u8],
    seq: Seq,
    value: Option<&'a [u8]>,
}

impl Page {
    /// Takes the bytes of a page whose checksum holds, without their padding.
    ///
    /// # Errors
    /// [`Error::Corruption`] if they are not what a [`PageWriter`] writes.
    pub fn parse(file: FileName, offset: u64, bytes: &[u8]) -> Result<Self> {
        Self::parse_parts(file, offset, bytes).map_err(|why| Error::malformed(file, offset, why))
    }

    fn parse_parts(file: FileName, offset: u64, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        let base = Seq(input.u64()?);
        let count = from_u32(input.u32()?);
        let entries_len = from_u32(input.u32()?);
        let runs = count.div_ceil(RUN_ENTRIES);
        input.raw(runs.saturating_mul(4))?;
        let entries_start = bytes.len() - input.rest().len();
        input.raw(entries_len)?;
        if count == 0 || count > entries_len / ENTRY_BYTES_MIN {
            return Err(Malformed("the number of entries of a page is impossible"));
        }
        let bytes = bytes.get(..entries_start + entries_len).unwrap_or_default();
        Ok(Self { file, offset, bytes: Box::from(bytes), base, count, runs, entries_start })
    }

    /// The memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>() + 2 * size_of::<usize>()
    }

    /// How many entries it has.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.count
    }

    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// The newest version of a key that a view sees.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the page is not what a builder writes.
    pub fn find(&self, key: &[u8], view: Seq, mask: &Mask) -> Result<Lookup<'_>> {
        let (stop, _) = self.walk(key, view, |seq| mask.shows(seq, view)).map_err(|why| self.damaged(why))?;
        Ok(match stop {
            Stop::Match(seq, value) => Lookup::Found(seq, value),
            Stop::Beyond => Lookup::Absent,
            Stop::End => Lookup::NextPage,
        })
    }

    /// How many entries come before the first version of a key at or below a sequence number.
    pub(super) fn position(&self, key: &[u8], seq: Seq) -> Result<usize> {
        self.walk(key, seq, |_| true).map(|(_, position)| position).map_err(|why| self.damaged(why))
    }

    fn damaged(&self, why: Malformed) -> Error {
        Error::malformed(self.file, self.offset, why)
    }

    /// Goes to the first entry at or after (`key`, `seq`) and on along the key's versions until one is accepted.
    /// Returns how many entries were passed, too.
    ///
    /// Keys are compared without being put together: `matched` is how many bytes the entry before, which is less than
    /// the target, has in common with it. An entry that shares more than that with the entry before differs from the
    /// target at the same byte in the same way; one that shares less is greater.
    fn walk(
        &self,
        key: &[u8],
        seq: Seq,
        accept: impl Fn(Seq) -> bool,
    ) -> Result<(Stop<'_>, usize), Malformed> {
        let first_run = self.run_before(key, seq)?;
        let mut input = self.run_entries(first_run)?;
        let mut position = first_run * RUN_ENTRIES;
        let (mut matched, mut last_len) = (0, 0);
        while position < self.count {
            if position.is_multiple_of(RUN_ENTRIES) {
                (matched, last_len) = (0, 0);
            }
            let entry = self.entry(&mut input)?;
            if entry.shared > last_len {
                return Err(Malformed("a key shares more bytes than the key before it has"));
            }
            last_len = entry.shared + entry.rest.len();
            match entry.shared.cmp(&matched) {
                Ordering::Greater => {}
                Ordering::Less => return Ok((Stop::Beyond, position)),
                Ordering::Equal => {
                    let (_, wanted) = key.split_at(matched);
                    let common = common_prefix(entry.rest, wanted);
                    matched += common;
                    match (entry.rest.get(common), wanted.get(common)) {
                        (None, None) if entry.seq <= seq && accept(entry.seq) => {
                            return Ok((Stop::Match(entry.seq, entry.value), position));
                        }
                        (None, _) => {}
                        (Some(_), None) => return Ok((Stop::Beyond, position)),
                        (Some(found), Some(wanted)) if found > wanted => return Ok((Stop::Beyond, position)),
                        (Some(_), Some(_)) => {}
                    }
                }
            }
            position += 1;
        }
        Ok((Stop::End, position))
    }

    /// The last run that begins before (`key`, `seq`), or the first.
    fn run_before(&self, key: &[u8], seq: Seq) -> Result<usize, Malformed> {
        let (mut low, mut high) = (0, self.runs);
        while high - low > 1 {
            let middle = low.midpoint(high);
            let entry = self.entry(&mut self.run_entries(middle)?)?;
            if crate::range::internal_order((entry.rest, entry.seq), (key, seq)).is_lt() {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Reads from the start of a run.
    fn run_entries(&self, run: usize) -> Result<ByteReader<'_>, Malformed> {
        let at = HEAD_BYTES + run * 4;
        let start = self.bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        let start = from_u32(u32::from_le_bytes(*start.ok_or(Malformed("a run of a page does not exist"))?));
        let entries = self.bytes.get(self.entries_start + start..);
        entries.map(ByteReader::new).ok_or(Malformed("a run begins after the page's end"))
    }

    #[inline]
    fn entry<'a>(&'a self, input: &mut ByteReader<'a>) -> Result<Entry<'a>, Malformed> {
        let [shared, rest_len, value_code, seq_code] = entry_head(input)?;
        let (shared, rest_len) = (to_usize(shared), to_usize(rest_len));
        let seq = Seq(self.base.0.wrapping_add(unzigzag(seq_code)));
        if shared > KEY_BYTES_MAX || rest_len > KEY_BYTES_MAX - shared {
            return Err(Malformed("a key is too long"));
        }
        let rest = input.raw(rest_len)?;
        let value = match value_code.checked_sub(1) {
            Some(len) => Some(input.raw(to_usize(len))?),
            None => None,
        };
        Ok(Entry { shared, rest, seq, value })
    }

    /// Decodes a run, to go along it in either direction.
    pub(super) fn load_run(&self, run: usize, into: &mut Run) -> Result<()> {
        self.decode_run(run, into).map_err(|why| self.damaged(why))
    }

    fn decode_run(&self, run: usize, into: &mut Run) -> Result<(), Malformed> {
        into.keys.clear();
        into.entries.clear();
        let mut input = self.run_entries(run)?;
        let mut last = 0..0;
        for _ in run * RUN_ENTRIES..self.count.min((run + 1) * RUN_ENTRIES) {
            let entry = self.entry(&mut input)?;
            if entry.shared > last.len() {
                return Err(Malformed("a key shares more bytes than the key before it has"));
            }
            if !(entry.rest.is_empty() && entry.shared == last.len() && !into.entries.is_empty()) {
                let start = into.keys.len();
                into.keys.extend_from_within(last.start..last.start + entry.shared);
                into.keys.extend_from_slice(entry.rest);
                last = start..into.keys.len();
            }
            let end = self.bytes.len() - input.rest().len();
            let value = entry.value.map(|value| end - value.len()..end);
            into.entries.push(RunEntry { key: last.clone(), seq: entry.seq, value });
        }
        Ok(())
    }
}

/// Up to 16 entries with their keys put together.
#[derive(Debug, Default)]
pub(super) struct Run {
    keys: Vec<u8>,
    entries: Vec<RunEntry>,
}

#[derive(Debug)]
struct RunEntry {
    key: Range<usize>,
    seq: Seq,
    value: Option<Range<usize>>,
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// An entry of the run; its value is in `page`.
    pub(super) fn get<'a>(&'a self, at: usize, page: &'a Page) -> Option<EntryRef<'a>> {
        let entry = self.entries.get(at)?;
        let value = entry.value.clone().map(|range| page.bytes.get(range).unwrap_or_default());
        Some(EntryRef { key: self.keys.get(entry.key.clone())?, seq: entry.seq, value })
    }
}

/// The four numbers before an entry's bytes. Nearly always each takes one byte, and all are read at once.
fn entry_head(input: &mut ByteReader<'_>) -> Result<[u64; 4], Malformed> {
    match input.rest().first_chunk::<4>() {
        Some(head) if u32::from_le_bytes(*head) & 0x8080_8080 == 0 => {
            input.raw(4)?;
            Ok(head.map(u64::from))
        }
        _ => Ok([input.varint()?, input.varint()?, input.varint()?, input.varint()?]),
    }
}

/// How many bytes two strings have in common at the front.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let mut common = 0;
    for (a, b) in a_words.iter().zip(b_words) {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return common + from_u32(differing.trailing_zeros() / 8);
        }
        common += 8;
    }
    let rest = |bytes: &[u8]| bytes.len().saturating_sub(common);
    let tail = rest(a).min(rest(b));
    let tails = a.iter().skip(common).zip(b.iter().skip(common)).take(tail);
    common + tails.take_while(|(a, b)| a == b).count()
}

/// A difference modulo 2^64 as a number that is small when the difference is near zero.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ 0u64.wrapping_sub(difference >> 63)
}

fn unzigzag(code: u64) -> u64 {
    (code >> 1) ^ 0u64.wrapping_sub(code & 1)
}

#[cfg(test)]
mod tests {
    use op_engine_io::{Dir, FileKind};
    use proptest::prelude::*;

    use super::*;

    const FILE: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Segment, number: 1 };

    type Entries = Vec<(Vec<u8>, u64, Option<Vec<u8>>)>;

    fn entries() -> impl Strategy<Value = Entries> {
        let key = prop::collection::vec(prop_oneof![4 => 0u8..2, 1 => any::<u8>()], 0..20);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
        let versions = prop::collection::btree_map(any::<u16>().prop_map(u64::from), value, 1..20);
        prop::collection::btree_map(key, versions, 1..30).prop_map(|keys| {
            let versions = |(key, versions): (Vec<u8>, std::collections::BTreeMap<u64, _>)| {
                versions.into_iter().rev().map(move |(seq, value)| (key.clone(), seq, value))
            };
            keys.into_iter().flat_map(versions).collect()
        })
    }

    fn build(entries: &Entries) -> Vec<u8> {
        let mut writer = PageWriter::default();
        for (key, seq, value) in entries {
            let bytes_max = writer.bytes_with(key, value.as_deref());
            writer.push(key, Seq(*seq), value.as_deref());
            assert!(writer.bytes() <= bytes_max);
        }
        let mut page = Vec::new();
        writer.finish(&mut page);
        assert!(writer.is_empty());
        page
    }

    proptest! {
        #[test]
        fn a_page_answers_as_its_entries_do(
            entries in entries(),
            probes in prop::collection::vec((prop::collection::vec(0u8..3, 0..20), any::<u16>()), 20),
        ) {
            let page = Page::parse(FILE, 0, &build(&entries)).unwrap();
            prop_assert_eq!(page.entries(), entries.len());
            let own = entries.iter().map(|(key, seq, _)| (key.clone(), *seq));
            let probes = probes.into_iter().map(|(key, seq)| (key, u64::from(seq)));
            for (key, seq) in own.chain(probes) {
                for view in [seq.saturating_sub(1), seq, seq + 1, u64::MAX] {
                    let at = entries.iter().position(|(k, s, _)| (k, u64::MAX - s) >= (&key, u64::MAX - view));
                    prop_assert_eq!(page.position(&key, Seq(view)).unwrap(), at.unwrap_or(entries.len()));
                    let expected = match at.map(|at| &entries[at]) {
                        None => Lookup::NextPage,
                        Some((k, s, value)) if *k == key => {
                            Lookup::Found(Seq(*s), value.as_deref())
                        }
                        Some(_) => Lookup::Absent,
                    };
                    prop_assert_eq!(page.find(&key, Seq(view), &Mask::default()).unwrap(), expected);
                }
            }
            let mut run = Run::default();
            let mut listed = Entries::new();
            for number in 0..page.runs() {
                page.load_run(number, &mut run).unwrap();
                for at in 0..run.len() {
                    let entry = run.get(at, &page).unwrap();
                    listed.push((entry.key.to_vec(), entry.seq.0, entry.value.map(<[u8]>::to_vec)));
                }
            }
            prop_assert_eq!(listed, entries);
        }

        #[test]
        fn any_bytes_parse_or_fail(entries in entries(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
            let mut bytes = build(&entries);
            for (at, flip) in flips {
                let len = bytes.len();
                bytes[at % len.min(400)] ^= flip;
            }
            let Ok(page) = Page::parse(FILE, 0, &bytes) else { return Ok(()) };
            let mut run = Run::default();
            for number in 0..page.runs() {
                let _: Result<()> = page.load_run(number, &mut run);
            }
            for (key, seq, _) in &entries {
                let _: Result<Lookup> = page.find(key, Seq(*seq), &Mask::default());
            }
        }

        #[test]
        fn zigzag_is_undone(value in any::<u64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }

        #[test]
        fn prefixes_are_counted(a in prop::collection::vec(0u8..2, 0..40), b in prop::collection::vec(0u8..2, 0..40)) {
            let expected = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_prefix(&a, &b), expected);
            prop_assert_eq!(common_prefix(&a, &a), a.len());
        }
    }

    #[test]
    fn masked_versions_are_passed_over() {
        use crate::visibility::{Rollback, Scope};
        let entries = vec![
            (b"k".to_vec(), 9, Some(vec![9])),
            (b"k".to_vec(), 5, None),
            (b"k".to_vec(), 2, Some(vec![2])),
        ];
        let page = Page::parse(FILE, 0, &build(&entries)).unwrap();
        let mask = |first_dead| {
            let rollback = Rollback { seq: Seq(12), first_dead: Seq(first_dead) };
            Mask::for_range(&[rollback], Scope::Chain, Seq::ZERO, Seq::MAX)
        };
        assert_eq!(page.find(b"k", Seq(20), &mask(6)).unwrap(), Lookup::Found(Seq(5), None));
        assert_eq!(page.find(b"k", Seq(20), &mask(3)).unwrap(), Lookup::Found(Seq(2), Some(&[2][..])));
        assert_eq!(page.find(b"k", Seq(20), &mask(1)).unwrap(), Lookup::NextPage);
        assert_eq!(page.find(b"k", Seq(11), &mask(1)).unwrap(), Lookup::Found(Seq(9), Some(&[9][..])));
    }

    #[test]
    fn searches_are_fast() {
        let key = |n: u64| (n * 2).to_be_bytes().repeat(4);
        let entries: Entries = (0..80).map(|n| (key(n), 1000 + n, Some(vec![7; 32]))).collect();
        let page = Page::parse(FILE, 0, &build(&entries)).unwrap();
        let begun = std::time::Instant::now();
        let rounds = 2000;
        for _ in 0..rounds {
            for (key, ..) in &entries {
                let found = page.find(key, Seq::MAX, &Mask::default()).unwrap();
                assert!(matches!(std::hint::black_box(found), Lookup::Found(..)));
            }
        }
        let each = begun.elapsed() / (rounds * 80);
        println!("page find: {each:?}");
        assert!(each < std::time::Duration::from_micros(20), "{each:?}");
    }
}
