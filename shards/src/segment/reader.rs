//! An open segment: filter and page index in memory, pages on request.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{Env, File as _, FileName, IO_UNIT_BYTES, IoBuf, OpenMode};

use super::filter::Filter;
use super::format::{Checksum, Footer, Header, MetaPage, Offsets, Part, SegmentHome, UNIT, VERSION, padded};
use super::index::PageIndex;
use super::page::{Lookup, Page};
use crate::cache::PageCache;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Value;
use crate::mutants::{Mutant, active};
use crate::range::{Direction, KeyRange};
use crate::segment_meta::SegmentMeta;
use crate::visibility::Mask;

/// How much of a filter or index is read at once.
const PART_READ_BYTES: usize = 256 << 10;

/// The number of a page in its segment, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl PageNo {
    pub(super) fn index(self) -> usize {
        super::format::from_u32(self.0)
    }

    pub(super) fn new(index: usize) -> Self {
        Self(super::format::to_u32(index))
    }

    /// The page after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// An open segment.
pub struct Segment<E: Env> {
    file: E::File,
    name: FileName,
    checksum: Checksum,
    meta: SegmentMeta,
    /// The lowest key in the file. Those below the one of `meta` count no more.
    file_key_min: Vec<u8>,
    keys: u64,
    filter: Option<Filter>,
    index: PageIndex,
    mask: RefCell<Rc<Mask>>,
    /// The rollbacks whose dead entries were left out when it was written. Empty after an open.
    clean_of: RefCell<Vec<Seq>>,
}

impl<E: Env> Segment<E> {
    /// Opens a segment and checks everything but its pages.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Corruption`], [`Error::Foreign`] or [`Error::UnsupportedVersion`] if the file is not
    /// the one that `meta` tells of; [`Error::Io`] if it cannot be read.
    pub async fn open(env: &E, home: SegmentHome, meta: SegmentMeta, mask: Mask) -> Result<Rc<Self>> {
        let mut faults = Vec::new();
        let loaded = Self::load(env, home, meta, mask, &mut faults).await;
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => loaded.map(Rc::new),
        }
    }

    /// Opens a segment as far as it goes: faults of header and filter, without which pages can be read, are listed.
    pub(super) async fn load(
        env: &E,
        home: SegmentHome,
        meta: SegmentMeta,
        mask: Mask,
        faults: &mut Vec<Error>,
    ) -> Result<Self> {
        let name = home.file_name(meta.number);
        let file = env.open(name, OpenMode::Read).await.map_err(|error| match error {
            op_engine_io::Error::NotFound { file } => {
                Error::Missing { file, what: format!("a segment of collection {}", meta.collection) }
            }
            error => error.into(),
        })?;
        let loader = Loader { env, file: &file, name, checksum: home.checksum(meta.number) };
        loader.check_length(&meta).await?;
        loader.check_header(home, &meta).await.or_else(|fault| found(faults, fault))?;
        let (page, offsets) = loader.meta_page(&meta).await?;
        let index_bytes = loader.part(offsets.index, page.index).await?;
        let index = PageIndex::decode(&index_bytes, page.pages, page.data_bytes)
            .map_err(|why| Error::malformed(name, offsets.index, why))?;
        let filter = match loader.filter(offsets.filter, page.filter).await {
            Ok(filter) => filter,
            Err(fault) => {
                found(faults, fault)?;
                None
            }
        };
        let checksum = loader.checksum;
        Ok(Self {
            file,
            name,
            checksum,
            keys: page.keys,
            file_key_min: page.key_min,
            meta,
            filter,
            index,
            mask: RefCell::new(Rc::new(mask)),
            clean_of: RefCell::default(),
        })
    }

    /// The same segment without the keys below the lowest one of `meta`, for readers to come.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub async fn trimmed(&self, env: &E, home: SegmentHome, meta: SegmentMeta) -> Result<Rc<Self>> {
        let trimmed = Self::open(env, home, meta, Mask::default()).await?;
        trimmed.set_mask(self.true_mask().as_ref().clone());
        trimmed.set_clean_of(self.clean_of.borrow().clone());
        Ok(trimmed)
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

    /// The lowest key in the file, whether or not it still counts.
    #[must_use]
    pub fn file_key_min(&self) -> &[u8] {
        &self.file_key_min
    }

    /// Whether a merge has taken over the lowest keys of the file.
    #[must_use]
    pub fn is_trimmed(&self) -> bool {
        self.file_key_min < self.meta.key_min
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
        self.index.pages()
    }

    /// How many distinct keys it has.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The memory that filter, index and keys take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.file_key_min.len()
            + self.meta.key_min.len()
            + self.meta.key_max.len()
            + self.index.memory_bytes()
            + self.filter.as_ref().map_or(0, Filter::memory_bytes)
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

    /// Whether a key with this hash may be in it. `false` is certain.
    #[must_use]
    pub fn may_contain(&self, hash: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(hash))
    }

    /// The page in which the newest version of a key at or below a view is, if any is; `None` if the segment's
    /// ranges rule it out.
    #[must_use]
    pub fn locate(&self, key: &[u8], view: Seq) -> Option<PageNo> {
        self.covers(key, view).then(|| self.page_at(key, view))
    }

    /// As [`Segment::locate`], for a key with this hash: `None`, too, if the filter rules it out.
    #[must_use]
    pub fn candidate(&self, key: &[u8], hash: u64, view: Seq) -> Option<PageNo> {
        (self.covers(key, view) && self.may_contain(hash)).then(|| self.page_at(key, view))
    }

    /// Whether the segment's ranges leave room for a version of a key that a view sees.
    #[must_use]
    pub fn covers(&self, key: &[u8], view: Seq) -> bool {
        let meta = &self.meta;
        meta.seq_min <= view && meta.key_min.as_slice() <= key && key <= meta.key_max.as_slice()
    }

    /// The page in which the first entry at or after (`key`, `seq`) is, if any is.
    pub(super) fn page_at(&self, key: &[u8], seq: Seq) -> PageNo {
        PageNo::new(self.index.locate(key, seq))
    }

    /// Whether versions of `key` go on from the page before into this one. Decides whether [`Lookup::NextPage`] is
    /// followed.
    #[must_use]
    pub fn goes_on_with(&self, page: PageNo, key: &[u8]) -> bool {
        self.index.goes_on_with(page.index(), key)
    }

    /// Reads one page in one device read and verifies it.
    ///
    /// # Errors
    /// [`Error::Corruption`] or [`Error::Io`].
    pub async fn page(&self, env: &E, page: PageNo) -> Result<Rc<Page>> {
        let buf = self.fetch_page(env, page).await?;
        Ok(Rc::new(self.decode_page(page, &buf)?))
    }

    /// Reads one page in one device read, for [`Segment::decode_page`].
    ///
    /// # Errors
    /// [`Error::Corruption`] or [`Error::Io`].
    pub async fn fetch_page(&self, env: &E, page: PageNo) -> Result<IoBuf> {
        let (start, bytes) = self.index.range(page.index()).ok_or_else(|| self.no_such_page())?;
        let buf = env.read_buffer(to_usize(bytes)).await;
        let (buf, result) = self.file.read_at(UNIT + start, buf).await;
        result.map_err(|error| self.read_error(error))?;
        Ok(buf)
    }

    /// Verifies a page that was read.
    ///
    /// # Errors
    /// [`Error::Corruption`].
    pub fn decode_page(&self, page: PageNo, buf: &IoBuf) -> Result<Page> {
        let (start, bytes) = self.index.range(page.index()).ok_or_else(|| self.no_such_page())?;
        let bytes = buf.as_slice().get(..to_usize(bytes)).unwrap_or_default();
        self.verified(page.index(), UNIT + start, bytes)
    }

    /// Reads the pages from `first` on that fit into `bytes_max`, at least one, in one device read, and verifies them.
    pub(super) async fn stretch(&self, env: &E, first: PageNo, bytes_max: usize) -> Result<Vec<Rc<Page>>> {
        let (count, bytes) = self.index.stretch(first.index(), bytes_max);
        let (start, _) = self.index.range(first.index()).ok_or_else(|| self.no_such_page())?;
        let buf = env.read_buffer(to_usize(bytes)).await;
        let (buf, result) = self.file.read_at(UNIT + start, buf).await;
        result.map_err(|error| self.read_error(error))?;
        let mut pages = Vec::with_capacity(count);
        for number in first.index()..first.index() + count {
            let (at, len) = self.index.range(number).ok_or_else(|| self.no_such_page())?;
            let relative = to_usize(at - start);
            let bytes = buf.as_slice().get(relative..relative + to_usize(len)).unwrap_or_default();
            pages.push(Rc::new(self.verified(number, UNIT + at, bytes)?));
        }
        Ok(pages)
    }

    /// The first page of a stretch of at most `bytes_max` that ends with `last`.
    pub(super) fn first_of_stretch(&self, last: PageNo, bytes_max: usize) -> PageNo {
        let mut first = last.index();
        while let Some(before) = first.checked_sub(1) {
            let (count, _) = self.index.stretch(before, bytes_max);
            if before + count <= last.index() {
                break;
            }
            first = before;
        }
        PageNo::new(first)
    }

    fn verified(&self, number: usize, offset: u64, bytes: &[u8]) -> Result<Page> {
        if self.index.crc(number) != Some(self.checksum.of(bytes)) {
            return Err(Error::corruption(self.name, offset, "the checksum of a page does not match"));
        }
        Page::parse(self.name, offset, bytes)
    }

    /// A page through the cache.
    ///
    /// # Errors
    /// As [`Segment::page`].
    pub async fn cached_page(&self, env: &E, cache: &PageCache, page: PageNo) -> Result<Rc<Page>> {
        if let Some(found) = cache.get(self.meta.number, page) {
            return Ok(found);
        }
        let read = self.page(env, page).await?;
        cache.insert(self.meta.number, page, read.clone());
        Ok(read)
    }

    /// The newest version of a key that a view sees, by way of the filter, the index and the cache. A tombstone too:
    /// it hides what is in older places.
    ///
    /// # Errors
    /// As [`Segment::page`].
    pub async fn get(
        &self,
        env: &E,
        cache: &PageCache,
        key: &[u8],
        hash: u64,
        view: Seq,
    ) -> Result<Option<(Seq, Option<Value>)>> {
        let Some(mut page) = self.candidate(key, hash, view) else { return Ok(None) };
        let mask = self.mask();
        loop {
            match self.cached_page(env, cache, page).await?.find(key, view, &mask)? {
                Lookup::Found(seq, value) => return Ok(Some((seq, value))),
                Lookup::NextPage if self.goes_on_with(page.next(), key) => page = page.next(),
                Lookup::Absent | Lookup::NextPage => return Ok(None),
            }
        }
    }

    /// Where a page begins in the file.
    pub(super) fn page_offset(&self, page: PageNo) -> u64 {
        self.index.range(page.index()).map_or(0, |(start, _)| UNIT + start)
    }

    fn no_such_page(&self) -> Error {
        Error::corruption(self.name, UNIT, "the page index refers to a page that does not exist")
    }

    fn read_error(&self, error: op_engine_io::Error) -> Error {
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
        if meta.file_bytes < 5 * UNIT || !meta.file_bytes.is_multiple_of(UNIT) {
            return Err(self.corruption(0, "no segment has such a length"));
        }
        Ok(())
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

    async fn meta_page(&self, meta: &SegmentMeta) -> Result<(MetaPage, Offsets)> {
        let footer_at = meta.file_bytes - UNIT;
        let meta_at = footer_at - UNIT;
        let units = self.read(meta_at, 2 * UNIT).await?;
        let (meta_unit, footer_unit) = units.split_at(IO_UNIT_BYTES);
        if self.checksum.of(footer_unit) != meta.footer_crc {
            return Err(self.corruption(footer_at, "the checksum of the footer does not match"));
        }
        let footer =
            Footer::decode(footer_unit).map_err(|why| Error::malformed(self.name, footer_at, why))?;
        if footer.version != VERSION || footer.file_bytes != meta.file_bytes {
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
            && page.key_max == meta.key_max;
        if !agrees {
            return Err(self.corruption(meta_at, "the meta page contradicts the manifest"));
        }
        let offsets = page.offsets(meta.file_bytes).filter(|offsets| offsets.meta == meta_at);
        let offsets =
            offsets.ok_or_else(|| self.corruption(meta_at, "the lengths of the parts do not add up"))?;
        Ok((page, offsets))
    }

    /// A part without its padding. Its length was checked against the file's.
    async fn part(&self, offset: u64, part: Part) -> Result<Vec<u8>> {
        let mut bytes = self.read(offset, padded(part.bytes).unwrap_or_default()).await?;
        if self.checksum.of(&bytes) != part.crc {
            return Err(self.corruption(offset, "the checksum of a filter or page index does not match"));
        }
        bytes.truncate(to_usize(part.bytes));
        Ok(bytes)
    }

    async fn filter(&self, offset: u64, part: Part) -> Result<Option<Filter>> {
        if part.bytes == 0 {
            return Ok(None);
        }
        let bytes = self.part(offset, part).await?;
        Filter::decode(&bytes).map(Some).map_err(|why| Error::malformed(self.name, offset, why))
    }
}
