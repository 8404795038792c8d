//! A segment of which a merge has taken over the lowest keys, and the space that those still take.
//!
//! What was taken over stays readable for those who began to read before, and nobody else looks at it: neither at its pages
//! nor at those read ahead. So when the last of those readers is gone, the file can have a hole there; readers who came later
//! only keep what they began with. It is made after the manifest record that trims the segment is durable, and whether a
//! crash brings the bytes back makes no difference.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use op_engine_io::Env;

use super::directory::Partition;
use super::format::UNIT;
use super::index::{PageNo, PagePlace};
use super::reader::Segment;
use super::resident::Loaded;
use crate::error::Result;
use crate::ids::Seq;
use crate::mutants::{Mutant, active};
use crate::segment_meta::SegmentMeta;

/// What one file is to those who read it: before and after it was trimmed, as long as somebody has that.
#[derive(Debug)]
struct Versions {
    /// Where the data pages of each begin that matter to it, as offsets in the file.
    begins: RefCell<Vec<u64>>,
    /// Everything before has been released.
    released_to: Cell<u64>,
}

/// One of them. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct FileVersion {
    begin: u64,
    all: Rc<Versions>,
}

impl FileVersion {
    /// Of a file that was just opened.
    pub(super) fn first() -> Self {
        let all = Versions { begins: RefCell::new(vec![0]), released_to: Cell::default() };
        Self { begin: 0, all: Rc::new(all) }
    }

    /// Another one of the same file.
    fn beginning_at(&self, begin: u64) -> Self {
        self.all.begins.borrow_mut().push(begin);
        Self { begin, all: Rc::clone(&self.all) }
    }

    /// Up to where nobody reads any more.
    fn unread_to(&self) -> u64 {
        self.all.begins.borrow().iter().min().copied().unwrap_or(0)
    }
}

impl Drop for FileVersion {
    fn drop(&mut self) {
        let mut begins = self.all.begins.borrow_mut();
        if let Some(at) = begins.iter().position(|begin| *begin == self.begin) {
            begins.swap_remove(at);
        }
    }
}

impl<E: Env> Segment<E> {
    /// The same segment without the keys below the lowest one of `meta`, for readers to come. That key is in `first`, by
    /// [`Segment::first_page_from`].
    #[must_use]
    pub fn trimmed(&self, meta: SegmentMeta, first: Option<PagePlace>) -> Rc<Self> {
        let first = first.or(self.first);
        let begin = first.map_or(0, |first| self.offset_of(first));
        Rc::new(Self {
            file: self.file.clone(),
            name: self.name,
            checksum: self.checksum,
            meta,
            file_key_min: self.file_key_min.clone(),
            first,
            version: self.version.beginning_at(begin),
            keys: self.keys,
            directory: Rc::clone(&self.directory),
            residents: Rc::clone(&self.residents),
            cold: self.cold.clone(),
            loading: Default::default(),
            mask: self.mask.clone(),
            clean_of: self.clean_of.clone(),
        })
    }

    /// Notes the page of the lowest key of a segment that was trimmed before it was opened.
    pub(super) fn trim_to(&mut self, first: Option<PagePlace>) {
        let begin = first.map_or(0, |first| self.offset_of(first));
        self.version = self.version.beginning_at(begin);
        self.first = first;
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

    /// The page at which one begins who looks for a key or higher ones. `None` if the index is damaged, or the pages are in
    /// the cold target: then all of them are kept.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub async fn first_page_from(&self, env: &E, key: &[u8]) -> Result<Option<PagePlace>> {
        if self.cold.is_some() {
            return Ok(None);
        }
        let at = self.directory.index_of(key, Seq::MAX);
        let index = match self.residents.index(at) {
            Some(index) => index,
            None => match self.read_partition(env, Partition::Index(at)).await {
                Ok(Loaded::Index(index)) => index,
                Ok(Loaded::Filter(_)) => return Ok(None),
                Err(error) if error.is_corruption() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        Ok(Some(index.locate(key, Seq::MAX)))
    }

    /// The number of the lowest page that may still be read.
    pub(super) fn first_page(&self) -> PageNo {
        self.first.map_or(PageNo(0), |first| first.number)
    }

    /// The bytes of the file that a merge has taken over and that nobody can read any more, if they still take space.
    #[must_use]
    pub fn releasable(&self) -> Option<Range<u64>> {
        let first = self.first?;
        let is_hasty = active(Mutant::ReleaseUnderReaders);
        let to = if is_hasty { self.offset_of(first) } else { self.version.unread_to() };
        let from = self.version.all.released_to.get().max(UNIT);
        (from < to).then_some(from..to)
    }

    /// Notes that everything before this offset takes no space any more.
    pub fn note_released(&self, to: u64) {
        self.version.all.released_to.set(to);
    }
}
