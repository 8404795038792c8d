//! Writes a segment, front to back.

use op_engine_io::num::to_u64;
use op_engine_io::{Env, File as _, IO_UNIT_BYTES, IoBuf, OpenMode, WriteSync};

use super::cold_pages::{ColdPace, ColdPages, PageStart};
use super::directory::DirectoryWriter;
use super::filter::{FilterBits, FilterBuilder, FilterKey, FilterStep};
use super::format::{Checksum, Footer, Header, MetaPage, Packing, Part, SegmentHome, UNIT, VERSION, pad};
use super::index::IndexWriter;
use super::packing::Compression;
use super::page::PageWriter;
use super::page_end::PageEnd;
use crate::error::{Error, Result};
use crate::ids::{CollectionId, Height, Seq};
use crate::mutants::{Mutant, active};
use crate::ops::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::segment_meta::{Level, Place, SegmentMeta, Tier};

/// How segments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentConfig {
    /// Length of a page that holds several entries, in bytes; rounded up to the I/O unit.
    pub page_bytes: usize,
    /// Length of one write, in bytes; rounded up to the I/O unit.
    pub write_bytes: usize,
    /// The secret that filters hash keys with.
    pub filter_key: FilterKey,
    /// How many absent keys pass the filter.
    pub filter_bits: FilterBits,
}

impl SegmentConfig {
    /// Pages of 4 KiB, writes of 512 KiB, and a filter for a run that is one of many.
    #[must_use]
    pub fn new(filter_key: FilterKey) -> Self {
        Self {
            page_bytes: IO_UNIT_BYTES,
            write_bytes: 512 << 10,
            filter_key,
            filter_bits: FilterBits::Sixteen,
        }
    }
}

/// Writes a segment. It keeps one page, one write, the page index, and eight bytes a key for the
/// filter in memory.
pub struct SegmentBuilder<E: Env> {
    env: E,
    home: SegmentHome,
    number: u64,
    collection: CollectionId,
    config: SegmentConfig,
    checksum: Checksum,
    out: Output<E>,
    /// The data pages, if they go to the cold target.
    cold: Option<ColdPages<E>>,
    page: PageWriter,
    page_end: PageEnd,
    page_buf: Vec<u8>,
    /// Where the page in the making begins, if it goes to the cold target.
    page_start: PageStart,
    index: IndexWriter,
    filter: FilterBuilder,
    key_min: Option<Vec<u8>>,
    entries: u64,
    tombstones: u64,
    keys: u64,
    large_values: u64,
    seqs: (Seq, Seq),
}

impl<E: Env> SegmentBuilder<E> {
    /// Creates the file.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub async fn create(
        env: E,
        home: SegmentHome,
        number: u64,
        collection: CollectionId,
        config: SegmentConfig,
    ) -> Result<Self> {
        let page_bytes = config.page_bytes.max(1).next_multiple_of(IO_UNIT_BYTES);
        let write_bytes = config.write_bytes.max(1).next_multiple_of(IO_UNIT_BYTES);
        let config = SegmentConfig { page_bytes, write_bytes, ..config };
        let checksum = home.checksum(number);
        let file = env.open(home.file_name(number), OpenMode::CreateNew).await?;
        let mut out =
            Output { env: env.clone(), file, buf: None, filled: 0, written: 0, write_bytes, copy: None };
        out.append(&header_of(home, number, collection)).await?;
        Ok(Self {
            env,
            home,
            number,
            collection,
            config,
            checksum,
            out,
            cold: None,
            page: PageWriter::default(),
            page_end: PageEnd::default(),
            page_buf: Vec::new(),
            page_start: PageStart::default(),
            index: IndexWriter::default(),
            filter: FilterBuilder::new(config.filter_bits),
            key_min: None,
            entries: 0,
            tombstones: 0,
            keys: 0,
            large_values: 0,
            seqs: (Seq::MAX, Seq::ZERO),
        })
    }

    /// Creates the file, and the object of the cold target that the data pages go to.
    ///
    /// # Errors
    /// If either cannot be created or written.
    pub async fn create_cold(
        env: E,
        home: SegmentHome,
        number: u64,
        collection: CollectionId,
        config: SegmentConfig,
        compression: Compression,
        pace: ColdPace,
    ) -> Result<Self> {
        let header = header_of(home, number, collection);
        let cold = ColdPages::create(&env, home, number, compression, pace, header).await?;
        let hot = Self::create(env, home, number, collection, config).await?;
        Ok(Self { cold: Some(cold), ..hot })
    }

    /// Adds the next entry: keys ascend, the versions of a key descend.
    ///
    /// # Errors
    /// If a write fails, or the key or value is too long.
    ///
    /// # Panics
    /// If the entry is out of order.
    pub async fn add(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) -> Result<()> {
        let limits =
            [("a key", key.len(), KEY_BYTES_MAX), ("a value", value.map_or(0, <[u8]>::len), VALUE_BYTES_MAX)];
        for (what, len, max) in limits {
            if len > max {
                return Err(Error::Limit { what, value: to_u64(len), max: to_u64(max) });
            }
        }
        let is_new_key = if self.key_min.is_some() {
            let (last_key, last_seq) = self.page.last();
            let order = last_key.cmp(key);
            assert!(order.is_lt() || order.is_eq() && last_seq > seq, "entries of a segment come in order");
            order.is_lt()
        } else {
            self.key_min = Some(key.to_vec());
            true
        };
        let alone = PageWriter::bytes_alone(key, value);
        let oversize = alone > self.config.page_bytes;
        if !self.page.is_empty() && (oversize || self.is_full_for(key, value)) {
            // With a large entry the next page would be longer for those taken back.
            let is_small = alone <= self.config.page_bytes / 2;
            let taken_back = if is_small { self.page_end.take_back(&mut self.page, key) } else { Vec::new() };
            self.end_page().await?;
            for (key, seq, value) in taken_back {
                self.push(&key, seq, value.as_deref());
            }
        }
        self.push(key, seq, value);
        if is_new_key {
            self.keys += 1;
            self.filter.add(self.config.filter_key.hash(key));
        }
        self.entries += 1;
        self.tombstones += u64::from(value.is_none());
        self.large_values += u64::from(oversize);
        self.seqs = (self.seqs.0.min(seq), self.seqs.1.max(seq));
        // An entry with a page of its own is read alone: what came after it would be read with it.
        if oversize { self.end_page().await } else { Ok(()) }
    }

    fn push(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) {
        if self.page.is_empty() {
            if self.cold.is_some() {
                self.page_start = PageStart::new((self.entries > 0).then(|| self.page.last()), key);
            } else {
                let last = (self.index.pages() > 0).then(|| self.page.last());
                self.index.begin_page(last, key);
            }
        }
        self.page_end.note(&self.page, self.config.page_bytes, (key, seq, value));
        self.page.push(key, seq, value);
    }

    /// Whether the page ends before an entry that would fit into an empty one. A page grows to twice its length
    /// rather than leave more than a quarter of it empty.
    fn is_full_for(&self, key: &[u8], value: Option<&[u8]>) -> bool {
        let page_bytes = self.config.page_bytes;
        let room = self.page.bytes().next_multiple_of(page_bytes);
        let may_grow = room == page_bytes && self.page.bytes() < page_bytes / 4 * 3;
        self.page.bytes_with(key, value) > if may_grow { 2 * page_bytes } else { room }
    }

    async fn end_page(&mut self) -> Result<()> {
        self.page.finish(&mut self.page_buf);
        if let Some(cold) = &mut self.cold {
            let start = std::mem::take(&mut self.page_start);
            cold.add(self.page_buf.clone(), start);
            cold.pack_full(&self.env, self.checksum, &mut self.index).await?;
        } else {
            let units = super::format::to_u32(self.page_buf.len() / IO_UNIT_BYTES);
            self.index.end_page(units, self.checksum.of(&self.page_buf));
            self.out.append(&self.page_buf).await?;
        }
        self.page_end.clear();
        self.page_buf.clear();
        self.page_buf.shrink_to(1 << 20);
        Ok(())
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How many entries were added.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many entries have a page of their own because they are longer than a common one.
    #[must_use]
    pub fn large_values(&self) -> u64 {
        self.large_values
    }

    /// The length of the file so far, without filter and index.
    #[must_use]
    pub fn bytes_so_far(&self) -> u64 {
        let cold = self.cold.as_ref().map_or(0, ColdPages::bytes_so_far);
        self.out.position() + cold + to_u64(self.page.bytes())
    }

    /// The number of the segment.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes the rest and makes the file durable. Its name becomes durable when the caller syncs the directory. The
    /// segment is a run of its own, as flushed, unless the caller gives it another place.
    ///
    /// # Errors
    /// If a write or the sync fails.
    ///
    /// # Panics
    /// If nothing was added: such a segment is abandoned instead.
    pub async fn finish(mut self, heights: (Height, Height)) -> Result<SegmentMeta> {
        assert!(!self.is_empty(), "a segment holds at least one entry");
        if !self.page.is_empty() {
            self.end_page().await?;
        }
        let (data_bytes, plain_bytes, packing) = match self.cold.take() {
            None => (self.out.position() - UNIT, 0, Packing::Plain),
            Some(mut cold) => {
                let ended = cold.end(&self.env, self.checksum, &mut self.index).await?;
                // From here on the object gets what the file gets.
                self.out.copy = Some(cold);
                let dictionary = append_part(&mut self.out, self.checksum, ended.dictionary).await?;
                (
                    ended.data_bytes,
                    ended.plain_bytes,
                    Packing::Packed { dictionary, content_crc: ended.content_crc },
                )
            }
        };
        let tier = match packing {
            Packing::Plain => Tier::Hot,
            Packing::Packed { .. } => Tier::Cold { data_bytes, plain_bytes },
        };
        let pages = self.index.pages();
        let mut directory = DirectoryWriter::new(self.config.filter_bits);
        let filter_bytes = self.write_filter(&mut directory).await?;
        let index_bytes = self.write_index(&mut directory).await?;
        let directory = append_part(&mut self.out, self.checksum, directory.into_vec()).await?;
        let key_min = self.key_min.take().unwrap_or_default();
        let key_max = self.page.last().0.to_vec();
        let meta = MetaPage {
            filter_bytes,
            index_bytes,
            directory,
            data_bytes,
            packing,
            pages,
            entries: self.entries,
            tombstones: self.tombstones,
            keys: self.keys,
            seqs: self.seqs,
            heights,
            key_min,
            key_max,
        };
        let meta_unit = meta.encode();
        let meta_crc = self.checksum.of(&meta_unit);
        self.out.append(&meta_unit).await?;
        let file_bytes = self.out.position() + UNIT;
        let all_bytes = if tier.is_cold() { file_bytes + data_bytes } else { file_bytes };
        let footer_unit = Footer { version: VERSION, file_bytes: all_bytes, meta_crc }.encode();
        let footer_crc = self.checksum.of(&footer_unit);
        self.out.append(&footer_unit).await?;
        self.out.flush().await?;
        if !active(Mutant::SkipSegmentSync) {
            self.out.file.sync_data().await?;
        }
        if let Some(cold) = self.out.copy.take() {
            cold.finish(&self.env).await?;
        }
        Ok(SegmentMeta {
            number: self.number,
            collection: self.collection,
            place: Place {
                level: if tier.is_cold() { Level::ARCHIVED } else { Level::FLUSHED },
                run: self.number,
            },
            tier,
            file_bytes,
            entries: meta.entries,
            tombstones: meta.tombstones,
            key_min: meta.key_min,
            key_max: meta.key_max,
            seq_min: meta.seqs.0,
            seq_max: meta.seqs.1,
            height_min: meta.heights.0,
            height_max: meta.heights.1,
            footer_crc,
        })
    }

    /// Builds the filter, letting others run meanwhile, and tells how long it is.
    async fn write_filter(&mut self, directory: &mut DirectoryWriter) -> Result<u64> {
        let begin = self.out.position();
        let filter = std::mem::replace(&mut self.filter, FilterBuilder::new(self.config.filter_bits));
        let mut partitions = filter.partitions();
        loop {
            match partitions.step() {
                FilterStep::More => {}
                FilterStep::Partition(bytes) => {
                    directory.filters.push(append_part(&mut self.out, self.checksum, bytes).await?);
                }
                FilterStep::Done => return Ok(self.out.position() - begin),
            }
            self.env.yield_now().await;
        }
    }

    /// Writes the page index, and tells how long it is.
    async fn write_index(&mut self, directory: &mut DirectoryWriter) -> Result<u64> {
        let begin = self.out.position();
        for mut part in std::mem::take(&mut self.index).finish() {
            let bytes = std::mem::take(&mut part.bytes);
            directory.indexes.push((append_part(&mut self.out, self.checksum, bytes).await?, part));
        }
        Ok(self.out.position() - begin)
    }

    /// Removes the unfinished file.
    ///
    /// # Errors
    /// If its name cannot be removed.
    pub async fn abandon(self) -> Result<()> {
        let Self { env, home, number, .. } = self;
        Ok(env.remove(home.file_name(number)).await?)
    }
}

impl<E: Env> std::fmt::Debug for SegmentBuilder<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentBuilder")
            .field("number", &self.number)
            .field("collection", &self.collection)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

fn header_of(home: SegmentHome, number: u64, collection: CollectionId) -> Vec<u8> {
    let header = Header { version: VERSION, store: home.store, shard: home.shard, number, collection };
    header.encode(home.checksum(number))
}

async fn append_part<E: Env>(out: &mut Output<E>, checksum: Checksum, mut bytes: Vec<u8>) -> Result<Part> {
    let len = to_u64(bytes.len());
    pad(&mut bytes);
    let part = Part { bytes: len, crc: checksum.of(&bytes) };
    out.append(&bytes).await?;
    Ok(part)
}

/// Gathers bytes into writes of equal length.
struct Output<E: Env> {
    env: E,
    file: E::File,
    buf: Option<IoBuf>,
    filled: usize,
    written: u64,
    write_bytes: usize,
    /// Gets the same bytes.
    copy: Option<ColdPages<E>>,
}

impl<E: Env> Output<E> {
    fn position(&self) -> u64 {
        self.written + to_u64(self.filled)
    }

    async fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Some(copy) = &mut self.copy {
            copy.append(&self.env, bytes).await?;
        }
        while !bytes.is_empty() {
            let mut buf = match self.buf.take() {
                Some(buf) => buf,
                None => self.env.buffer(self.write_bytes).await,
            };
            let (_, room) = buf.as_mut_slice().split_at_mut(self.filled);
            let (head, rest) = bytes.split_at(bytes.len().min(room.len()));
            let (room, left) = room.split_at_mut(head.len());
            room.copy_from_slice(head);
            let is_full = left.is_empty();
            self.filled += head.len();
            self.buf = Some(buf);
            bytes = rest;
            if is_full {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes what is gathered, a multiple of the I/O unit.
    async fn flush(&mut self) -> Result<()> {
        debug_assert!(self.filled.is_multiple_of(IO_UNIT_BYTES), "parts are padded");
        let Some(mut buf) = self.buf.take().filter(|_| self.filled > 0) else { return Ok(()) };
        buf.truncate(self.filled);
        let (buf, result) = self.file.write_at(self.written, buf, WriteSync::None).await;
        result?;
        self.written += to_u64(self.filled);
        self.filled = 0;
        // A shortened buffer is not used again.
        self.buf = Some(buf).filter(|buf| buf.len() >= self.write_bytes);
        Ok(())
    }
}
