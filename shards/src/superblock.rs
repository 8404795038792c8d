//! The identity of a store: four copies in the file `0000000000000000.super` of the root directory.
//!
//! Each copy fills one unit of 4096 bytes; all that matters lies in its first sector.
//!
//! | offset | bytes | field | why it is there |
//! |---|---|---|---|
//! | 0 | 4 | magic `OPES` | |
//! | 4 | 2 | version | of the superblock and of the directory layout |
//! | 6 | 1 | copy, from 1 | a copy that was read or written in another's place is caught |
//! | 7 | 1 | zero | |
//! | 8 | 8 | incompatible features | bits; a build that does not know one of them must not touch the store |
//! | 16 | 16 | store | repeated in every other file |
//! | 32 | 2 | shard count | never 0 |
//! | 34 | 6 | zeros | |
//! | 40 | 16 | placement key | of the hash that places keys on shards |
//! | 56 | 8 | sequence | grows with every update; from 1 |
//! | 64 | 4 | parent checksum | of the copies with the sequence before, so that updates form a chain |
//! | 68 | 1 + n | created by | version of the build that created the store, at most 64 bytes of UTF-8 |
//! | 133 | 375 | zeros | |
//! | 508 | 4 | checksum | CRC-32 (IEEE) of the 508 bytes before it |
//!
//! Magic, version and checksum keep their places in every version of the format.
//!
//! The copies are written one after another, each durable before the next. Two agreeing copies of the highest sequence
//! make a superblock: one alone may be an update that did not finish.
//!
//! A store is created in this order: directories of the shards, their manifests, the superblock, and only then the
//! first term of each WAL. So where the first shard has neither WAL files nor segments, nothing can have been stored: a
//! superblock that is absent or not whole was being created, and the creation may begin again. Otherwise it is damage.

use op_engine_io::num::to_u64;
use op_engine_io::{Dir, Env, File, FileKind, FileName, IO_UNIT_BYTES, IoBuf, OpenMode, WriteSync};

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::log::{COUNTER_MAX, UNIT_BYTES};
use crate::mutants::{self, Mutant};

/// The version of the format that this build reads and writes.
pub const VERSION: u16 = 2;
/// The features of the format that this build knows.
pub const FEATURES: u64 = 0;
/// Bytes of the creating build's version at most.
pub const CREATED_BY_BYTES_MAX: usize = 64;

/// The file that holds it.
pub(crate) const NAME: FileName = FileName { dir: Dir::Root, kind: FileKind::Superblock, number: 0 };
const MAGIC: [u8; 4] = *b"OPES";
pub(crate) const COPIES: u8 = 4;
const QUORUM: usize = 2;
const CHECKED_BYTES: usize = 508;

/// The identity of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Features that a build must know to open the store, as bits.
    pub features: u64,
    /// The store.
    pub store: StoreId,
    /// How many shards it has, for ever.
    pub shard_count: u16,
    /// The key of the hash that places keys on shards.
    pub placement_key: [u8; 16],
    /// The version of the build that created the store.
    pub created_by: String,
    /// Grows with every update. From 1.
    pub sequence: u64,
    /// The checksum of the superblock before the last update; 0 for the first.
    pub parent_crc: u32,
}

/// What the root directory says of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// There is none.
    Absent,
    /// Its creation did not finish. [`discard_unfinished`] makes way for another.
    Unfinished,
    /// The store's identity.
    Ready(Superblock),
}

impl Superblock {
    /// The checksum that an update of this superblock names as its parent's.
    #[must_use]
    pub fn crc(&self) -> u32 {
        crc32fast::hash(&self.encode(0))
    }

    pub(crate) fn encode(&self, copy: u8) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.raw(&MAGIC);
        out.u16(VERSION);
        out.u8(copy);
        out.u8(0);
        out.u64(self.features);
        out.raw(&self.store.0);
        out.u16(self.shard_count);
        out.raw(&[0; 6]);
        out.raw(&self.placement_key);
        out.u64(self.sequence);
        out.u32(self.parent_crc);
        out.bytes(self.created_by.as_bytes());
        let mut sector = out.into_vec();
        sector.resize(CHECKED_BYTES, 0);
        let crc = crc32fast::hash(&sector);
        sector.extend_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads a copy; `None` if it is bad.
    pub(crate) fn decode(unit: &[u8], copy: u8) -> Result<Option<Self>> {
        let Ok(mut input) = verified(unit) else { return Ok(None) };
        let version = input.u16().unwrap_or_default();
        if version != VERSION {
            return Err(Error::UnsupportedVersion {
                file: NAME.to_string(),
                found: u32::from(version),
                supported: u32::from(VERSION),
            });
        }
        Ok(Self::fields(input, copy).ok())
    }

    fn fields(mut input: ByteReader<'_>, copy: u8) -> Result<Self, Malformed> {
        if input.u8()? != copy {
            return Err(Malformed("it is another copy"));
        }
        input.u8()?;
        let features = input.u64()?;
        let store = StoreId(input.array()?);
        let shard_count = input.u16()?;
        input.raw(6)?;
        let placement_key = input.array()?;
        let sequence = input.u64()?;
        let parent_crc = input.u32()?;
        let created_by = std::str::from_utf8(input.bytes(CREATED_BY_BYTES_MAX)?)
            .map_err(|_| Malformed("the creating build is not UTF-8"))?
            .to_owned();
        if shard_count == 0 || sequence == 0 || sequence > COUNTER_MAX {
            return Err(Malformed("a number is out of range"));
        }
        Ok(Self { features, store, shard_count, placement_key, created_by, sequence, parent_crc })
    }

    fn check_limits(&self) -> Result<()> {
        let value = to_u64(self.created_by.len());
        let max = to_u64(CREATED_BY_BYTES_MAX);
        if value > max {
            return Err(Error::Limit { what: "the bytes of the creating build's version", value, max });
        }
        assert!(self.shard_count > 0 && self.sequence > 0, "shards and sequences are counted from 1");
        Ok(())
    }
}

/// Creates the superblock of a store whose shards have their manifests. Durable when this resolves.
///
/// # Errors
/// If the file exists or cannot be written.
pub async fn create<E: Env>(env: &E, superblock: &Superblock) -> Result<()> {
    superblock.check_limits()?;
    let file = env.open(NAME, OpenMode::CreateNew).await?;
    file.zero_fill(UNIT_BYTES * u64::from(COPIES)).await?;
    write_copies(env, &file, superblock).await?;
    sync_names(env).await
}

/// Puts `next` in the place of `current`, with the sequence and the parent's checksum that follow from it. Durable when
/// this resolves.
///
/// # Errors
/// If the file cannot be written.
pub async fn update<E: Env>(env: &E, current: &Superblock, next: Superblock) -> Result<Superblock> {
    let next = Superblock { sequence: current.sequence + 1, parent_crc: current.crc(), ..next };
    next.check_limits()?;
    let file = env.open(NAME, OpenMode::ReadWrite).await?;
    write_copies(env, &file, &next).await?;
    Ok(next)
}

/// Reads the superblock. Changes nothing on disk.
///
/// # Errors
/// [`Error::Corruption`] or [`Error::Missing`] if it is damaged or gone, [`Error::UnsupportedVersion`] if another build
/// wrote it.
pub async fn load<E: Env>(env: &E) -> Result<Loaded> {
    let present = env.list(Dir::Root).await?.contains(&NAME);
    let copies = if present { read_copies(env).await? } else { Vec::new() };
    if let Some(superblock) = quorum(&copies) {
        check_features(superblock)?;
        return Ok(Loaded::Ready(superblock.clone()));
    }
    // The first shard has a WAL file from the first open on.
    let used = env.list(Dir::Shard(0)).await?.iter().any(|name| name.kind != FileKind::Manifest);
    match (present, used) {
        (false, false) => Ok(Loaded::Absent),
        (true, false) => Ok(Loaded::Unfinished),
        (false, true) => {
            Err(Error::Missing { file: NAME.to_string(), what: "the identity of the store".to_owned() })
        }
        (true, true) => {
            let good = copies.len();
            let what = format!("of {COPIES} copies {good} can be read, and no {QUORUM} of them agree");
            Err(Error::corruption(NAME, 0, what))
        }
    }
}

/// Removes a superblock whose creation did not finish.
///
/// # Errors
/// If it cannot be removed.
pub async fn discard_unfinished<E: Env>(env: &E) -> Result<()> {
    env.remove(NAME).await?;
    sync_names(env).await
}

/// The superblock of the highest sequence that enough copies agree on.
fn quorum(copies: &[Superblock]) -> Option<&Superblock> {
    copies
        .iter()
        .filter(|candidate| copies.iter().filter(|other| other == candidate).count() >= QUORUM)
        .max_by_key(|superblock| superblock.sequence)
}

fn check_features(superblock: &Superblock) -> Result<()> {
    let unknown = superblock.features & !FEATURES;
    if unknown == 0 {
        return Ok(());
    }
    Err(Error::Io(op_engine_io::Error::Unsupported {
        what: format!("opening the store of {NAME}"),
        cause: format!("it uses features {unknown:#x} of the format, which this build does not know"),
        remedy: "use the build that wrote it".to_owned(),
    }))
}

/// What follows the magic, if magic and checksum are right.
fn verified(unit: &[u8]) -> Result<ByteReader<'_>, Malformed> {
    let mut whole = ByteReader::new(unit);
    let checked = whole.raw(CHECKED_BYTES)?;
    if whole.u32()? != crc32fast::hash(checked) {
        return Err(Malformed("the checksum does not match"));
    }
    let mut fields = ByteReader::new(checked);
    if fields.array()? != MAGIC {
        return Err(Malformed("the magic is wrong"));
    }
    Ok(fields)
}

async fn write_copies<E: Env>(env: &E, file: &E::File, superblock: &Superblock) -> Result<()> {
    for copy in 0..COPIES {
        let mut buffer = env.buffer(IO_UNIT_BYTES).await;
        fill(&mut buffer, &superblock.encode(copy + 1));
        let (_, outcome) = file.write_at(UNIT_BYTES * u64::from(copy), buffer, WriteSync::Durable).await;
        outcome?;
    }
    Ok(())
}

fn fill(buffer: &mut IoBuf, bytes: &[u8]) {
    if let Some(target) = buffer.as_mut_slice().get_mut(..bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

/// The copies that can be read.
async fn read_copies<E: Env>(env: &E) -> Result<Vec<Superblock>> {
    let file = env.open(NAME, OpenMode::Read).await?;
    // What is read here decides what is done next, so neither it nor its name must vanish in the next crash.
    sync_names(env).await?;
    file.sync_data().await?;
    let bytes = file.len().await?;
    let mut copies = Vec::with_capacity(usize::from(COPIES));
    for copy in 0..COPIES {
        let offset = UNIT_BYTES * u64::from(copy);
        if offset + UNIT_BYTES > bytes {
            break;
        }
        let buffer = env.buffer(IO_UNIT_BYTES).await;
        let (buffer, outcome) = file.read_at(offset, buffer).await;
        match outcome {
            Ok(()) => copies.extend(Superblock::decode(buffer.as_slice(), copy + 1)?),
            // The device cannot read this copy: the others make up for it.
            Err(op_engine_io::Error::Os { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copies)
}

async fn sync_names<E: Env>(env: &E) -> Result<()> {
    if !mutants::active(Mutant::SkipDirectorySync) {
        env.sync_dir(Dir::Root).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
