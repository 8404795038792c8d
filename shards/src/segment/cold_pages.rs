//! The data pages of a cold segment on their way to the cold target.
//!
//! Pages wait until there are enough of them to train a dictionary with, and from then on until there are enough to be
//! worth a thread that packs them. What has arrived is read back before the object counts.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{ColdStore as _, ColdUpload as _, Env, FileName, TaskClass};

use super::format::{Checksum, PACKED_UNIT, SegmentHome, UNIT, pad, to_u32};
use super::index::IndexWriter;
use super::packing::{self, Compression};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::mutants::{Mutant, active};

/// Bytes of pages that a dictionary is trained with: some hundred times its length.
const SAMPLE_BYTES: u64 = 4 << 20;
/// Bytes of pages that are packed at once.
const BATCH_BYTES: u64 = 1 << 20;
/// What is read back at once.
const READ_BACK_BYTES: u64 = 1 << 20;

/// Holds what goes to and comes from the cold target below a rate.
#[derive(Debug, Clone)]
pub struct ColdPace {
    bytes_per_second: u64,
    /// When the next transfer may begin.
    next: Rc<Cell<Duration>>,
}

impl ColdPace {
    /// At most so many bytes a second, on average; 0 for no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Rc::default() }
    }

    /// Waits for the turn of a transfer.
    pub(crate) async fn wait<E: Env>(&self, env: &E, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let now = env.now();
        let begin = self.next.get().max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.next.set(begin.saturating_add(Duration::from_nanos(nanos)));
        if begin > now {
            env.sleep(begin.saturating_sub(now)).await;
        }
    }
}

/// What the page index is told at the beginning of a page.
#[derive(Debug, Default)]
pub(super) struct PageStart {
    last: Option<(Vec<u8>, Seq)>,
    first_key: Vec<u8>,
}

impl PageStart {
    pub(super) fn new(last: Option<(&[u8], Seq)>, first_key: &[u8]) -> Self {
        Self { last: last.map(|(key, seq)| (key.to_vec(), seq)), first_key: first_key.to_vec() }
    }
}

/// What is known when all pages have gone.
pub(super) struct Ended {
    pub(super) data_bytes: u64,
    pub(super) plain_bytes: u64,
    pub(super) dictionary: Vec<u8>,
    pub(super) content_crc: u32,
}

/// The object of a cold segment in the making.
pub(super) struct ColdPages<E: Env> {
    store: E::Cold,
    name: FileName,
    upload: <E::Cold as op_engine_io::ColdStore>::Upload,
    pace: ColdPace,
    compression: Compression,
    /// Empty if there is none; absent until that is known.
    dictionary: Option<Vec<u8>>,
    pages: Vec<Vec<u8>>,
    starts: Vec<PageStart>,
    waiting_bytes: u64,
    plain_bytes: u64,
    /// What has not been sent yet.
    gathered: Vec<u8>,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl<E: Env> ColdPages<E> {
    pub(super) async fn create(
        env: &E,
        home: SegmentHome,
        number: u64,
        compression: Compression,
        pace: ColdPace,
        header: Vec<u8>,
    ) -> Result<Self> {
        let name = home.cold_name(number);
        let store = env.cold().ok_or(Error::NoColdTarget { file: name.to_string() })?;
        let upload = store.upload(name).await?;
        let mut pages = Self {
            store,
            name,
            upload,
            pace,
            compression,
            dictionary: (!compression.dictionary).then(Vec::new),
            pages: Vec::new(),
            starts: Vec::new(),
            waiting_bytes: 0,
            plain_bytes: 0,
            gathered: Vec::new(),
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        };
        pages.append(env, &header).await?;
        Ok(pages)
    }

    /// Bytes of the object so far; of pages that wait what they are before they are packed.
    pub(super) fn bytes_so_far(&self) -> u64 {
        self.bytes + self.waiting_bytes
    }

    pub(super) fn add(&mut self, page: Vec<u8>, start: PageStart) {
        self.waiting_bytes += to_u64(page.len());
        self.plain_bytes += to_u64(page.len());
        self.pages.push(page);
        self.starts.push(start);
    }

    /// Packs the pages that wait, if they are enough.
    pub(super) async fn pack_full(
        &mut self,
        env: &E,
        checksum: Checksum,
        index: &mut IndexWriter,
    ) -> Result<()> {
        let enough = if self.dictionary.is_some() { BATCH_BYTES } else { SAMPLE_BYTES };
        if self.waiting_bytes >= enough { self.pack(env, checksum, index).await } else { Ok(()) }
    }

    async fn pack(&mut self, env: &E, checksum: Checksum, index: &mut IndexWriter) -> Result<()> {
        let pages = std::mem::take(&mut self.pages);
        self.waiting_bytes = 0;
        let (dictionary, compression) = (self.dictionary.take(), self.compression);
        let work = move || {
            let dictionary =
                dictionary.unwrap_or_else(|| packing::train(&pages, compression).unwrap_or_default());
            let packed = packing::pack_all(&pages, compression, &dictionary, to_usize(PACKED_UNIT));
            (dictionary, packed)
        };
        let (dictionary, packed) = env.off_core(work).await?;
        self.dictionary = Some(dictionary);
        for (page, start) in packed.into_iter().zip(std::mem::take(&mut self.starts)) {
            let last = start.last.as_ref().map(|(key, seq)| (key.as_slice(), *seq));
            index.begin_page(last, &start.first_key);
            index.end_page(to_u32(page.len() / to_usize(PACKED_UNIT)), checksum.of(&page));
            self.append(env, &page).await?;
        }
        Ok(())
    }

    /// Sends the pages that are left.
    pub(super) async fn end(
        &mut self,
        env: &E,
        checksum: Checksum,
        index: &mut IndexWriter,
    ) -> Result<Ended> {
        if !self.pages.is_empty() {
            self.pack(env, checksum, index).await?;
        }
        let mut padding = vec![0; to_usize(self.bytes % UNIT)];
        pad(&mut padding);
        let padding = padding.split_off(to_usize(self.bytes % UNIT));
        self.append(env, &padding).await?;
        let dictionary = self.dictionary.take().unwrap_or_default();
        Ok(Ended {
            data_bytes: self.bytes - UNIT,
            plain_bytes: self.plain_bytes,
            dictionary,
            content_crc: self.crc.clone().finalize(),
        })
    }

    pub(super) async fn append(&mut self, env: &E, bytes: &[u8]) -> Result<()> {
        self.bytes += to_u64(bytes.len());
        self.crc.update(bytes);
        self.gathered.extend_from_slice(bytes);
        if to_u64(self.gathered.len()) >= BATCH_BYTES { self.send(env).await } else { Ok(()) }
    }

    async fn send(&mut self, env: &E) -> Result<()> {
        self.pace.wait(env, to_u64(self.gathered.len())).await;
        Ok(self.upload.append(std::mem::take(&mut self.gathered)).await?)
    }

    /// Makes the object durable, and reads it back.
    pub(super) async fn finish(mut self, env: &E) -> Result<()> {
        self.send(env).await?;
        let Self { store, name, upload, pace, bytes, crc, .. } = self;
        if active(Mutant::SwitchBeforeSync) {
            env.spawn(TaskClass::Background, "late upload", async move {
                let _: op_engine_io::Result<()> = upload.finish().await;
            });
            return Ok(());
        }
        upload.finish().await?;
        let (mut offset, mut read) = (0, crc32fast::Hasher::new());
        while offset < bytes {
            let wanted = READ_BACK_BYTES.min(bytes - offset);
            pace.wait(env, wanted).await;
            read.update(&store.read(name, offset, wanted).await?);
            offset += wanted;
            env.yield_now().await;
        }
        let is_whole = store.length(name).await? == bytes && read.finalize() == crc.finalize();
        let what = "it was read back, and is not what was written";
        if is_whole { Ok(()) } else { Err(Error::corruption(name, 0, what)) }
    }
}
