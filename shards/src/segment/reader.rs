//! An open segment: its directory in memory, partitions of filter and page index as the budget allows, pages on request.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{Env, File as _, FileName, IO_UNIT_BYTES, IoBuf, OpenMode};

use super::cold_part::ColdPart;
use super::directory::{Directory, Partition};
use super::format::{
    Checksum, Footer, Header, MetaPage, Offsets, Packing, Part, SegmentHome, UNIT, VERSION, padded,
};
use super::index::{IndexPartition, PageNo, PagePlace};
use super::page::{Lookup, Page};
use super::partitions::Loading;
use super::resident::{PartitionCache, Residents};
use super::trim::FileVersion;
use crate::cache::{PageCache, Shelf};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Value;
use crate::mutants::{Mutant, active};
use crate::range::{Direction, KeyRange};
use crate::segment_meta::{SegmentMeta, Tier};
use crate::visibility::Mask;

/// How much of a directory is read at once.
const PART_READ_BYTES: usize = 256 << 10;
/// What is read of the end of a file at once. A small segment has its partitions there too.
const TAIL_BYTES: u64 = 32 << 10;

/// What a segment says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// It does not have the key.
    Absent,
    /// If it has the key, then in this page.
    Page(PagePlace),
    /// A partition that is not in memory must tell: [`Segment::partition`], then [`Segment::candidate_in`].
    Needs(Partition),
}

/// A page as it was read.
#[derive(Debug)]
pub enum Fetched {
    /// As it is in the file, not verified.
    Plain(IoBuf),
    /// From the cold target, verified and unpacked.
    Unpacked(Vec<u8>),
}

/// An open segment.
pub struct Segment<E: Env> {
    pub(super) file: E::File,
    pub(super) name: FileName,
    pub(super) checksum: Checksum,
    pub(super) meta: SegmentMeta,
    /// The lowest key in the file. Those below the one of `meta` count no more.
    pub(super) file_key_min: Vec<u8>,
    /// The page where the lowest key of `meta` is, if the segment was trimmed.
    pub(super) first: Option<PagePlace>,
    pub(super) version: FileVersion,
    pub(super) keys: u64,
    pub(super) directory: Rc<Directory>,
    pub(super) residents: Rc<Residents>,
    pub(super) loading: RefCell<Loading>,
    /// What it takes to read pages from the cold target, if they are there.
    pub(super) cold: Option<Rc<ColdPart>>,
    pub(super) mask: RefCell<Rc<Mask>>,
    /// The rollbacks whose dead entries were left out when it was written. Empty after an open.
    pub(super) clean_of: RefCell<Vec<Seq>>,
}

impl<E: Env> Segment<E> {
    /// Opens a segment and checks everything but its pages and partitions. Partitions that are read are kept in
    /// `cache`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Corruption`], [`Error::Foreign`] or [`Error::UnsupportedVersion`] if the file is not
    /// the one that `meta` tells of; [`Error::Io`] if it cannot be read.
    pub async fn open(
        env: &E,
        home: SegmentHome,
        meta: SegmentMeta,
        mask: Mask,
        cache: &Rc<PartitionCache>,
    ) -> Result<Rc<Self>> {
        let mut faults = Vec::new();
        let loaded = Self::load(env, home, meta, mask, cache, &mut faults).await;
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => loaded.map(Rc::new),
        }
    }

    /// Opens a segment as far as it goes: faults of the header, without which pages can be read, are listed.
    pub(super) async fn load(
        env: &E,
        home: SegmentHome,
        meta: SegmentMeta,
        mask: Mask,
        cache: &Rc<PartitionCache>,
        faults: &mut Vec<Error>,
    ) -> Result<Self> {
        let name = home.file_name(meta.number);
        let file = env.open(name, OpenMode::Read).await.map_err(|error| match error {
            op_engine_io::Error::NotFound { file } => {
                Error::Missing { file, what: format!("a segment of collection {}", meta.collection) }
            }
            error => error.into(),
        })?;
        let mut loader =
            Loader { env, file: &file, name, checksum: home.checksum(meta.number), tail: Vec::new() };
        loader.check_length(&meta).await?;
        let tail_at = loader.read_tail(&meta).await?;
        loader.check_header(home, &meta).await.or_else(|fault| found(faults, fault))?;
        let (page, offsets) = loader.meta_page(&meta)?;
        let bytes = loader.directory(tail_at, offsets.directory, page.directory).await?;
        let directory = Directory::decode(&bytes, &page, &offsets)
            .map_err(|why| Error::malformed(name, offsets.directory, why))?;
        let (checksum, tail) = (loader.checksum, loader.tail);
        let mut segment = Self {
            file,
            name,
            checksum,
            keys: page.keys,
            cold: ColdPart::new(home, &meta, &page, &offsets).map(Rc::new),
            file_key_min: page.key_min,
            first: None,
            version: FileVersion::first(),
            meta,
            residents: Residents::new(cache, &directory),
            directory: Rc::new(directory),
            loading: RefCell::default(),
            mask: RefCell::new(Rc::new(mask)),
            clean_of: RefCell::default(),
        };
        segment.keep_tail(tail_at, &tail);
        if segment.is_trimmed() {
            segment.trim_to(segment.first_page_from(env, &segment.meta.key_min).await?);
        }
        Ok(segment)
    }

    /// Keeps the partitions that came with the end of the file. One that is damaged is told when it is needed.
    fn keep_tail(&self, tail_at: u64, tail: &[u8]) {
        let partitions = self.directory.partitions();
        for (partition, place) in partitions.filter(|(_, place)| place.offset() >= tail_at && place.bytes > 0)
        {
            let _: Result<bool> = self.keep_all(tail_at, tail, &[(partition, place)]);
        }
    }

    /// What the manifest holds of it.
    #[must_use]
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// The name of its file.
    #[must_use]
    pub fn file_name(&self) -> FileName {
        self.name
    }

    /// Which part of the cache its pages are kept in.
    #[must_use]
    pub fn shelf(&self) -> Shelf {
        if self.cold.is_some() { Shelf::Cold } else { Shelf::Hot }
    }

    /// Whether some key of a range may count in it.
    #[must_use]
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        range.reaches(&self.meta.key_min, Direction::Forward)
            && range.reaches(&self.meta.key_max, Direction::Backward)
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.directory.pages()
    }

    /// How many distinct keys it has.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The memory that it takes: its directory, the partitions that are there, and its keys.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.file_key_min.len()
            + self.meta.key_min.len()
            + self.meta.key_max.len()
            + to_usize(self.residents.bytes())
    }

    /// The rollbacks that matter for its entries.
    #[must_use]
    pub fn mask(&self) -> Rc<Mask> {
        if active(Mutant::SkipMask) {
            return Rc::default();
        }
        self.mask.borrow().clone()
    }

    /// The rollbacks that matter for its entries, whatever readers are shown.
    #[must_use]
    pub fn true_mask(&self) -> Rc<Mask> {
        self.mask.borrow().clone()
    }

    /// Replaces the rollbacks that matter for its entries.
    pub fn set_mask(&self, mask: Mask) {
        *self.mask.borrow_mut() = Rc::new(mask);
    }

    /// Notes the rollbacks whose dead entries were left out when it was written.
    pub fn set_clean_of(&self, rollbacks: Vec<Seq>) {
        *self.clean_of.borrow_mut() = rollbacks;
    }

    /// Whether the dead entries of a rollback were left out when it was written.
    #[must_use]
    pub fn is_clean_of(&self, rollback: Seq) -> bool {
        self.clean_of.borrow().contains(&rollback)
    }

    /// Where the newest version of a key at or below a view is, if it is in this segment: judged by its ranges, by the
    /// filter for this hash of the key, and by the page index.
    #[must_use]
    pub fn candidate(&self, key: &[u8], hash: u64, view: Seq) -> Candidate {
        if !self.covers(key, view) {
            return Candidate::Absent;
        }
        if let Some(at) = self.directory.filter_of(hash) {
            match self.residents.filter(at) {
                None => return Candidate::Needs(Partition::Filter(at)),
                Some(filter) if !filter.may_contain(hash) => return Candidate::Absent,
                Some(_) => {}
            }
        }
        self.in_index(key, view)
    }

    /// Whether the segment's ranges leave room for a version of a key that a view sees.
    #[must_use]
    pub fn covers(&self, key: &[u8], view: Seq) -> bool {
        let meta = &self.meta;
        meta.seq_min <= view && meta.key_min.as_slice() <= key && key <= meta.key_max.as_slice()
    }

    /// Reads one page in one device read and verifies it.
    ///
    /// # Errors
    /// [`Error::Corruption`] or [`Error::Io`].
    pub async fn page(&self, env: &E, place: PagePlace) -> Result<Rc<Page>> {
        let buf = self.fetch_page(env, place).await?;
        Ok(Rc::new(self.decode_page(place, &buf)?))
    }

    /// Reads one page in one read, of the device or of the cold target, for [`Segment::decode_page`].
    ///
    /// # Errors
    /// [`Error::Corruption`], [`Error::NoColdTarget`] or [`Error::Io`].
    pub async fn fetch_page(&self, env: &E, place: PagePlace) -> Result<Fetched> {
        let (start, bytes) = place.bytes_in(self.unit());
        if let Some(cold) = &self.cold {
            return Ok(Fetched::Unpacked(self.unpacked(env, cold, place).await?));
        }
        let buf = env.read_buffer(to_usize(bytes)).await;
        let (buf, result) = self.file.read_at(UNIT + start, buf).await;
        result.map_err(|error| self.read_error(error))?;
        Ok(Fetched::Plain(buf))
    }

    /// What the lengths of its pages are counted in.
    fn unit(&self) -> u64 {
        self.cold.as_ref().map_or(UNIT, |cold| cold.unit())
    }

    /// So many bytes of pages, in units.
    pub(super) fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(to_u64(bytes) / self.unit()).unwrap_or(u32::MAX)
    }

    /// Where the file or the object has a page.
    pub(super) fn offset_of(&self, place: PagePlace) -> u64 {
        UNIT + place.bytes_in(self.unit()).0
    }

    async fn unpacked(&self, env: &E, cold: &ColdPart, place: PagePlace) -> Result<Vec<u8>> {
        let unpacker = self.unpacker(env, cold).await?;
        let (start, bytes) = place.bytes_in(cold.unit());
        let read = cold.read(env, UNIT + start, bytes).await?;
        self.unpack(cold, &unpacker, place, &read)
    }

    /// Verifies a page that was read.
    ///
    /// # Errors
    /// [`Error::Corruption`].
    pub fn decode_page(&self, place: PagePlace, fetched: &Fetched) -> Result<Page> {
        match fetched {
            Fetched::Plain(buf) => self.verified(place, buf.as_slice()),
            Fetched::Unpacked(bytes) => Page::parse(self.page_name(), self.offset_of(place), bytes),
        }
    }

    /// The file or the object that has the pages.
    pub(super) fn page_name(&self) -> FileName {
        self.cold.as_ref().map_or(self.name, |cold| cold.name())
    }

    /// Reads the pages of a partition from `first` on that fit into `bytes_max`, at least one, in one device read, and
    /// verifies them.
    pub(super) async fn stretch(
        &self,
        env: &E,
        index: &IndexPartition,
        first: PageNo,
        bytes_max: usize,
    ) -> Result<Vec<Rc<Page>>> {
        let (count, units) = index.stretch(first, self.units_of(bytes_max));
        let start = self.offset_of(index.page(first).ok_or_else(|| self.no_such_page())?);
        let bytes = self.unit() * u64::from(units);
        let places = (first.0..first.0.saturating_add(count))
            .map(|number| index.page(PageNo(number)).ok_or_else(|| self.no_such_page()));
        if let Some(cold) = &self.cold {
            let unpacker = self.unpacker(env, cold).await?;
            let read = cold.read(env, start, bytes).await?;
            let page = |place: Result<PagePlace>| {
                let place = place?;
                let bytes = read.get(to_usize(self.offset_of(place) - start)..).unwrap_or_default();
                let page = self.unpack(cold, &unpacker, place, bytes)?;
                Page::parse(cold.name(), self.offset_of(place), &page).map(Rc::new)
            };
            return places.map(page).collect();
        }
        let buf = env.read_buffer(to_usize(bytes)).await;
        let (buf, result) = self.file.read_at(start, buf).await;
        result.map_err(|error| self.read_error(error))?;
        let page = |place: Result<PagePlace>| {
            let place = place?;
            let bytes = buf.as_slice().get(to_usize(self.offset_of(place) - start)..).unwrap_or_default();
            self.verified(place, bytes).map(Rc::new)
        };
        places.map(page).collect()
    }

    fn verified(&self, place: PagePlace, bytes: &[u8]) -> Result<Page> {
        let bytes = self.checked(place, bytes)?;
        Page::parse(self.name, self.offset_of(place), bytes)
    }

    /// The bytes of a page as they are in the file or the object.
    pub(super) fn checked<'a>(&self, place: PagePlace, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let (_, len) = place.bytes_in(self.unit());
        let bytes = bytes.get(..to_usize(len)).unwrap_or_default();
        if place.crc == self.checksum.of(bytes) {
            return Ok(bytes);
        }
        let what = "the checksum of a page does not match";
        Err(Error::corruption(self.page_name(), self.offset_of(place), what))
    }

    /// A page through the cache.
    ///
    /// # Errors
    /// As [`Segment::page`].
    pub async fn cached_page(&self, env: &E, cache: &PageCache, place: PagePlace) -> Result<Rc<Page>> {
        if let Some(found) = cache.get(self.shelf(), self.meta.number, place.number) {
            return Ok(found);
        }
        let read = self.page(env, place).await?;
        cache.insert(self.shelf(), self.meta.number, place.number, read.clone());
        Ok(read)
    }

    /// The newest version of a key that a view sees, by way of the filter, the index and the cache. A tombstone too:
    /// it hides what is in older places.
    ///
    /// # Errors
    /// As [`Segment::page`] and [`Segment::partition`].
    pub async fn get(
        self: &Rc<Self>,
        env: &E,
        cache: &PageCache,
        key: &[u8],
        hash: u64,
        view: Seq,
    ) -> Result<Option<(Seq, Option<Value>)>> {
        let mask = self.mask();
        let mut candidate = self.candidate(key, hash, view);
        let mut onward = None;
        loop {
            let place = match candidate {
                Candidate::Absent => return Ok(None),
                Candidate::Page(place) => place,
                Candidate::Needs(partition) => {
                    let loaded = self.partition(env, partition).await?;
                    candidate = match onward {
                        None => self.candidate_in(&loaded, key, hash, view),
                        Some(page) => loaded.place(page),
                    };
                    continue;
                }
            };
            match self.cached_page(env, cache, place).await?.find(key, view, &mask)? {
                Lookup::Found(seq, value) => return Ok(Some((seq, value.map(Value::from)))),
                Lookup::NextPage if place.goes_on => {
                    onward = Some(place.number.next());
                    candidate = self.place(place.number.next());
                }
                Lookup::Absent | Lookup::NextPage => return Ok(None),
            }
        }
    }

    pub(super) fn no_such_page(&self) -> Error {
        Error::corruption(self.name, UNIT, "the page index refers to a page that does not exist")
    }

    pub(super) fn read_error(&self, error: op_engine_io::Error) -> Error {
        short_file(self.name, error)
    }
}

impl<E: Env> std::fmt::Debug for Segment<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// Lists a fault of the file. What is not one ends the work: the machine has stopped, or the file is another one.
fn found(faults: &mut Vec<Error>, fault: Error) -> Result<()> {
    match fault {
        Error::Io(op_engine_io::Error::Stopped)
        | Error::Foreign { .. }
        | Error::UnsupportedVersion { .. } => Err(fault),
        fault => {
            faults.push(fault);
            Ok(())
        }
    }
}

/// A file that was cut short is damaged where it ends.
fn short_file(name: FileName, error: op_engine_io::Error) -> Error {
    match error {
        op_engine_io::Error::ShortFile { len, .. } => Error::corruption(name, len, "the file ends too early"),
        error => error.into(),
    }
}

/// Reads and checks what is read once.
struct Loader<'a, E: Env> {
    env: &'a E,
    file: &'a E::File,
    name: FileName,
    checksum: Checksum,
    /// The end of the file.
    tail: Vec<u8>,
}

impl<E: Env> Loader<'_, E> {
    fn corruption(&self, offset: u64, what: &str) -> Error {
        Error::corruption(self.name, offset, what)
    }

    async fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(to_usize(bytes));
        while out.len() < to_usize(bytes) {
            let wanted = PART_READ_BYTES.min(to_usize(bytes) - out.len());
            let buf = self.env.read_buffer(wanted).await;
            let (buf, result) = self.file.read_at(offset + to_u64(out.len()), buf).await;
            result.map_err(|error| short_file(self.name, error))?;
            out.extend(buf.as_slice().iter().take(wanted));
        }
        Ok(out)
    }

    async fn check_length(&self, meta: &SegmentMeta) -> Result<()> {
        let len = self.file.len().await?;
        if len < meta.file_bytes {
            return Err(self.corruption(len, "the file ends too early"));
        }
        if len > meta.file_bytes {
            return Err(self.corruption(meta.file_bytes, "bytes follow the end of the segment"));
        }
        let units_min = if meta.tier.is_cold() { 5 } else { 6 };
        if meta.file_bytes < units_min * UNIT || !meta.file_bytes.is_multiple_of(UNIT) {
            return Err(self.corruption(0, "no segment has such a length"));
        }
        Ok(())
    }

    /// Reads the end of the file, and tells where that begins.
    async fn read_tail(&mut self, meta: &SegmentMeta) -> Result<u64> {
        let bytes = meta.file_bytes.min(TAIL_BYTES);
        self.tail = self.read(meta.file_bytes - bytes, bytes).await?;
        Ok(meta.file_bytes - bytes)
    }

    /// An unreadable header says nothing of whose the file is; a sound one of another file does.
    async fn check_header(&self, home: SegmentHome, meta: &SegmentMeta) -> Result<()> {
        let unit = self.read(0, UNIT).await?;
        let header = Header::decode(&unit).map_err(|why| Error::malformed(self.name, 0, why))?;
        if !Header::verifies(
            &unit,
            SegmentHome { store: header.store, shard: header.shard }.checksum(header.number),
        ) {
            return Err(self.corruption(0, "the checksum of the header does not match"));
        }
        if header.version != VERSION {
            let (found, supported) = (header.version, VERSION);
            return Err(Error::UnsupportedVersion { file: self.name.to_string(), found, supported });
        }
        let ours = Header {
            version: VERSION,
            store: home.store,
            shard: home.shard,
            number: meta.number,
            collection: meta.collection,
        };
        if header != ours {
            let what = format!(
                "it is segment {:016x} of collection {} on shard {} of store {}",
                header.number, header.collection, header.shard, header.store
            );
            return Err(Error::Foreign { file: self.name.to_string(), what });
        }
        Ok(())
    }

    fn meta_page(&self, meta: &SegmentMeta) -> Result<(MetaPage, Offsets)> {
        let footer_at = meta.file_bytes - UNIT;
        let cold_bytes = if let Tier::Cold { data_bytes, .. } = meta.tier { data_bytes } else { 0 };
        let meta_at = footer_at - UNIT;
        let (_, units) = self.tail.split_at(self.tail.len() - 2 * IO_UNIT_BYTES);
        let (meta_unit, footer_unit) = units.split_at(IO_UNIT_BYTES);
        if self.checksum.of(footer_unit) != meta.footer_crc {
            return Err(self.corruption(footer_at, "the checksum of the footer does not match"));
        }
        let footer =
            Footer::decode(footer_unit).map_err(|why| Error::malformed(self.name, footer_at, why))?;
        if footer.version != VERSION || footer.file_bytes != meta.file_bytes + cold_bytes {
            return Err(self.corruption(footer_at, "the footer contradicts the manifest"));
        }
        if self.checksum.of(meta_unit) != footer.meta_crc {
            return Err(self.corruption(meta_at, "the checksum of the meta page does not match"));
        }
        let page = MetaPage::decode(meta_unit).map_err(|why| Error::malformed(self.name, meta_at, why))?;
        let agrees = page.entries == meta.entries
            && page.tombstones == meta.tombstones
            && page.seqs == (meta.seq_min, meta.seq_max)
            && page.heights == (meta.height_min, meta.height_max)
            && page.key_min <= meta.key_min
            && page.key_max == meta.key_max
            && matches!(page.packing, Packing::Packed { .. }) == meta.tier.is_cold()
            && (!meta.tier.is_cold() || page.data_bytes == cold_bytes);
        if !agrees {
            return Err(self.corruption(meta_at, "the meta page contradicts the manifest"));
        }
        let offsets = page.offsets(meta.file_bytes).filter(|offsets| offsets.meta == meta_at);
        let offsets =
            offsets.ok_or_else(|| self.corruption(meta_at, "the lengths of the parts do not add up"))?;
        Ok((page, offsets))
    }

    /// The directory without its padding. Its length was checked against the file's.
    async fn directory(&self, tail_at: u64, offset: u64, part: Part) -> Result<Vec<u8>> {
        let bytes = padded(part.bytes).unwrap_or_default();
        let in_tail =
            offset.checked_sub(tail_at).and_then(|at| self.tail.get(to_usize(at)..to_usize(at + bytes)));
        let mut bytes = match in_tail {
            Some(bytes) => bytes.to_vec(),
            None => self.read(offset, bytes).await?,
        };
        if self.checksum.of(&bytes) != part.crc {
            return Err(self.corruption(offset, "the checksum of the directory does not match"));
        }
        bytes.truncate(to_usize(part.bytes));
        Ok(bytes)
    }
}
