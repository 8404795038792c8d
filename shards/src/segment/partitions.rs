//! Reading the partitions of a segment: one because a search needs it, or those that are not in memory yet.

use std::rc::Rc;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use op_engine_io::num::to_usize;
use op_engine_io::{Env, File as _};

use super::directory::{Partition, PartitionPlace};
use super::filter::FilterPartition;
use super::index::{IndexPartition, PageNo};
use super::reader::{Candidate, Segment};
use super::resident::{Loaded, Room};
use crate::error::{Error, Result};
use crate::ids::Seq;

/// How many bytes of partitions that lie together are read at once.
const READ_BYTES_MAX: u64 = 256 << 10;

/// Reads of partitions that have not ended. Whoever needs such a partition waits for the same read.
pub(super) type Loading = Vec<(Partition, WeakShared<LocalBoxFuture<'static, Result<Loaded>>>)>;

/// How much of a segment is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// All of its partitions.
    Whole,
    /// Some, and there is no room for more.
    NoRoom,
}

impl<E: Env> Segment<E> {
    /// As [`Segment::candidate`], for a partition that it asked for.
    #[must_use]
    pub fn candidate_in(&self, loaded: &Loaded, key: &[u8], hash: u64, view: Seq) -> Candidate {
        match loaded {
            Loaded::Filter(filter) if !filter.may_contain(hash) => Candidate::Absent,
            Loaded::Filter(_) => self.in_index(key, view),
            Loaded::Index(index) => Candidate::Page(index.locate(key, view)),
        }
    }

    /// The page in which the first entry at or after (`key`, `seq`) is, if any is.
    pub(super) fn in_index(&self, key: &[u8], seq: Seq) -> Candidate {
        let at = self.directory.index_of(key, seq);
        match self.residents.index(at) {
            Some(index) => Candidate::Page(index.locate(key, seq)),
            None => Candidate::Needs(Partition::Index(at)),
        }
    }

    /// Where a page is, by its number.
    #[must_use]
    pub fn place(&self, page: PageNo) -> Candidate {
        let Some(at) = self.directory.index_of_page(page) else { return Candidate::Absent };
        match self.residents.index(at) {
            Some(index) => index.page(page).map_or(Candidate::Absent, Candidate::Page),
            None => Candidate::Needs(Partition::Index(at)),
        }
    }

    /// A partition, from memory or from the device. It is kept if there is room or can be made. However many wait for
    /// it, it is read once.
    ///
    /// # Errors
    /// [`Error::Corruption`] or [`Error::Io`].
    pub async fn partition(self: &Rc<Self>, env: &E, partition: Partition) -> Result<Loaded> {
        if let Some(loaded) = self.residents.get(partition) {
            return Ok(loaded);
        }
        let is_this = |(other, _): &&(Partition, _)| *other == partition;
        let waited_for = self.loading.borrow().iter().find(is_this).and_then(|(_, read)| read.upgrade());
        if let Some(read) = waited_for {
            return read.await;
        }
        self.begin_read(env, partition).await
    }

    fn begin_read(
        self: &Rc<Self>,
        env: &E,
        partition: Partition,
    ) -> Shared<LocalBoxFuture<'static, Result<Loaded>>> {
        let (segment, env) = (Rc::clone(self), env.clone());
        let read = async move {
            segment.residents.cache().count_read();
            let read = segment.read_partition(&env, partition).await;
            if let Ok(loaded) = &read {
                segment.residents.keep(partition, loaded, Room::Made);
            }
            read
        };
        let read = read.boxed_local().shared();
        let mut loading = self.loading.borrow_mut();
        loading.retain(|(_, read)| read.upgrade().is_some());
        loading.extend(read.downgrade().map(|read| (partition, read)));
        read
    }

    /// Reads a partition and verifies it.
    pub(super) async fn read_partition(&self, env: &E, partition: Partition) -> Result<Loaded> {
        let place = self.directory.place(partition).ok_or_else(|| self.no_such_page())?;
        let buf = env.read_buffer(to_usize(place.padded_bytes())).await;
        let (buf, result) = self.file.read_at(place.offset(), buf).await;
        result.map_err(|error| self.read_error(error))?;
        self.decode_partition(partition, place, buf.as_slice())
    }

    /// Takes the bytes of a partition with their padding.
    pub(super) fn decode_partition(
        &self,
        partition: Partition,
        place: PartitionPlace,
        bytes: &[u8],
    ) -> Result<Loaded> {
        let bytes = bytes.get(..to_usize(place.padded_bytes())).unwrap_or_default();
        if self.checksum.of(bytes) != place.crc {
            let what = match partition {
                Partition::Filter(_) => "the checksum of a partition of the filter does not match",
                Partition::Index(_) => "the checksum of a partition of the page index does not match",
            };
            return Err(Error::corruption(self.name, place.offset(), what));
        }
        let bytes = bytes.get(..super::format::from_u32(place.bytes)).unwrap_or_default();
        let decoded = match partition {
            Partition::Filter(_) => FilterPartition::decode(self.directory.bits, bytes)
                .map(|filter| Loaded::Filter(Rc::new(filter))),
            Partition::Index(at) => {
                let (span, lower, upper) = self.directory.span(at).ok_or_else(|| self.no_such_page())?;
                IndexPartition::decode(bytes, span, lower, upper).map(|index| Loaded::Index(Rc::new(index)))
            }
        };
        decoded.map_err(|why| Error::malformed(self.name, place.offset(), why))
    }

    /// Reads the partitions that are not in memory, as long as there is room without evicting others.
    ///
    /// # Errors
    /// [`Error::Corruption`] or [`Error::Io`], at the first partition that cannot be had.
    pub async fn load_partitions(&self, env: &E) -> Result<Completeness> {
        let mut at = 0;
        loop {
            let stretch = self.missing_stretch(&mut at);
            let Some((_, first)) = stretch.first() else {
                let is_whole = at >= self.directory.filters() + self.directory.indexes();
                return Ok(if is_whole { Completeness::Whole } else { Completeness::NoRoom });
            };
            let start = first.offset();
            let end = stretch.last().map_or(start, |(_, last)| last.offset() + last.padded_bytes());
            let buf = env.read_buffer(to_usize(end - start)).await;
            let (buf, result) = self.file.read_at(start, buf).await;
            result.map_err(|error| self.read_error(error))?;
            if !self.keep_all(start, buf.as_slice(), &stretch)? {
                return Ok(Completeness::NoRoom);
            }
            drop(buf);
            env.yield_now().await;
        }
    }

    /// Keeps partitions that were read together, as long as there is room. Tells whether there was.
    pub(super) fn keep_all(
        &self,
        start: u64,
        bytes: &[u8],
        partitions: &[(Partition, PartitionPlace)],
    ) -> Result<bool> {
        for (partition, place) in partitions {
            let bytes = bytes.get(to_usize(place.offset() - start)..).unwrap_or_default();
            let loaded = self.decode_partition(*partition, *place, bytes)?;
            if !self.residents.keep(*partition, &loaded, Room::Free) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next partitions from number `at` on that lie together, are not in memory, and for which there is room.
    fn missing_stretch(&self, at: &mut usize) -> Vec<(Partition, PartitionPlace)> {
        let mut stretch = Vec::new();
        let mut bytes = 0;
        for (partition, place) in self.directory.partitions().skip(*at) {
            // What lets every key pass has no bytes, and is not asked for.
            if place.bytes > 0 && !self.residents.has(partition) {
                let longer = bytes + place.padded_bytes();
                let fits = longer <= READ_BYTES_MAX || stretch.is_empty();
                if !fits || !self.residents.cache().has_room(longer) {
                    return stretch;
                }
                bytes = longer;
                stretch.push((partition, place));
            } else if !stretch.is_empty() {
                return stretch;
            }
            *at += 1;
        }
        stretch
    }
}
