//! Reading the pages of a segment from the cold target.

use std::rc::{Rc, Weak};

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{ColdStore as _, Env, File as _, FileName, OpenMode, WriteSync};

use super::format::{MetaPage, Offsets, Packing, Part, SegmentHome, UNIT, padded};
use super::index::PagePlace;
use super::packing::Unpacker;
use super::reader::Segment;
use crate::error::{Error, Result};
use crate::segment_meta::{SegmentMeta, Tier};

/// What it takes to read pages from the cold target.
#[derive(Debug)]
pub(super) struct ColdPart {
    name: FileName,
    unit: u64,
    dictionary: Part,
    /// Where the file has the dictionary.
    dictionary_at: u64,
}

impl ColdPart {
    /// Of a segment; `None` if its pages are in its file.
    pub(super) fn new(
        home: SegmentHome,
        meta: &SegmentMeta,
        page: &MetaPage,
        offsets: &Offsets,
    ) -> Option<Self> {
        match page.packing {
            Packing::Plain => None,
            Packing::Packed { dictionary, .. } => Some(Self {
                name: home.cold_name(meta.number),
                unit: page.packing.unit(),
                dictionary,
                dictionary_at: offsets.dictionary,
            }),
        }
    }

    pub(super) fn name(&self) -> FileName {
        self.name
    }

    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// The length of the object.
    pub(super) async fn length<E: Env>(&self, env: &E) -> Result<u64> {
        let store = env.cold().ok_or_else(|| Error::NoColdTarget { file: self.name.to_string() })?;
        Ok(store.length(self.name).await?)
    }

    /// Bytes of the object.
    pub(super) async fn read<E: Env>(&self, env: &E, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let store = env.cold().ok_or_else(|| Error::NoColdTarget { file: self.name.to_string() })?;
        let read = store.read(self.name, offset, bytes).await?;
        if to_u64(read.len()) == bytes {
            Ok(read)
        } else {
            Err(Error::corruption(self.name, offset, "a read of the cold target was cut short"))
        }
    }
}

/// Who reads an object: it can be removed when nobody does.
#[derive(Debug, Clone)]
pub struct ObjectUse {
    /// The object.
    pub name: FileName,
    users: Weak<ColdPart>,
}

impl ObjectUse {
    /// Whether somebody still has the segment.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.users.strong_count() > 0
    }
}

impl<E: Env> Segment<E> {
    /// Its object in the cold target, if it has one.
    #[must_use]
    pub fn object(&self) -> Option<ObjectUse> {
        self.cold.as_ref().map(|cold| ObjectUse { name: cold.name, users: Rc::downgrade(cold) })
    }

    /// What unpacks its pages. Its dictionary is read from the file unless it was used lately.
    pub(super) async fn unpacker(&self, env: &E, cold: &ColdPart) -> Result<Rc<Unpacker>> {
        let unpackers = self.residents.cache().unpackers();
        if let Some(ready) = unpackers.get(self.meta.number) {
            return Ok(ready);
        }
        let unpacker = Rc::new(self.read_unpacker(env, cold).await?);
        unpackers.keep(self.meta.number, Rc::clone(&unpacker));
        Ok(unpacker)
    }

    async fn read_unpacker(&self, env: &E, cold: &ColdPart) -> Result<Unpacker> {
        let at = cold.dictionary_at;
        let malformed = |why| Error::malformed(self.name, at, why);
        if cold.dictionary.bytes == 0 {
            return Unpacker::new(&[]).map_err(malformed);
        }
        let bytes = padded(cold.dictionary.bytes).unwrap_or_default();
        let buf = env.read_buffer(to_usize(bytes)).await;
        let (buf, result) = self.file.read_at(at, buf).await;
        result.map_err(|error| self.read_error(error))?;
        let bytes = buf.as_slice();
        if self.checksum.of(bytes) != cold.dictionary.crc {
            return Err(Error::corruption(self.name, at, "the checksum of the dictionary does not match"));
        }
        let dictionary = bytes.get(..to_usize(cold.dictionary.bytes)).unwrap_or_default();
        Unpacker::new(dictionary).map_err(malformed)
    }

    /// A page of the object: verified, then unpacked.
    pub(super) fn unpack(
        &self,
        cold: &ColdPart,
        unpacker: &Unpacker,
        place: PagePlace,
        bytes: &[u8],
    ) -> Result<Vec<u8>> {
        let bytes = self.checked(place, bytes)?;
        unpacker.unpack(bytes).map_err(|why| Error::malformed(cold.name, self.offset_of(place), why))
    }
}

/// Bytes of an object that are read at once while a file is made again.
const RESTORE_BYTES: u64 = 256 << 10;

/// Makes the file of a cold segment again from its object, in the place of what is there.
///
/// # Errors
/// If the object cannot be read, or the file not be written. Whether it is the right one is found when it is opened.
pub async fn restore<E: Env>(env: &E, home: SegmentHome, meta: &SegmentMeta) -> Result<()> {
    let (name, object) = (home.file_name(meta.number), home.cold_name(meta.number));
    let Tier::Cold { data_bytes, .. } = meta.tier else {
        return Err(Error::Missing { file: name.to_string(), what: "its pages are nowhere else".to_owned() });
    };
    let store = env.cold().ok_or_else(|| Error::NoColdTarget { file: object.to_string() })?;
    // What is wrong with the target is known before anything is changed.
    let mut bytes = store.read(object, 0, UNIT).await?;
    match env.remove(name).await {
        Ok(()) | Err(op_engine_io::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = env.open(name, OpenMode::CreateNew).await?;
    let mut written = 0;
    loop {
        let mut buf = env.buffer(bytes.len()).await;
        if let Some(room) = buf.as_mut_slice().get_mut(..bytes.len()) {
            room.copy_from_slice(&bytes);
        }
        let (_, result) = file.write_at(written, buf, WriteSync::None).await;
        result?;
        written += to_u64(bytes.len());
        if written >= meta.file_bytes {
            break;
        }
        let wanted = RESTORE_BYTES.min(meta.file_bytes - written);
        bytes = store.read(object, data_bytes + written, wanted).await?;
    }
    file.sync_data().await?;
    env.sync_dir(name.dir).await?;
    Ok(())
}
