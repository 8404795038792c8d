//! The first unit of a log file: what the file is, and the term in which it is written.
//!
//! | offset | bytes | field | why it is there |
//! |---|---|---|---|
//! | 0 | 4 | magic `OPEL` | |
//! | 4 | 2 | version | of this header and of the frames behind it |
//! | 6 | 1 | purpose | 1 WAL, 2 manifest |
//! | 7 | 1 | zero | |
//! | 8 | 16 | store | |
//! | 24 | 2 | shard | |
//! | 26 | 2 | shard count | |
//! | 28 | 4 | zero | |
//! | 32 | 8 | file number | |
//! | 40 | 8 | generation | grows with every use of any file of the log; never 0 |
//! | 48 | 8 | term | |
//! | 56 | 8 | cut of the term | frames of earlier terms above it are dead |
//! | 64 | 8 | floor of the term | no number up to this one is given in the term |
//! | 72 | 8 | previous seq | the last commit before the file |
//! | 80 | 428 | zeros | |
//! | 508 | 4 | checksum | CRC-32 (IEEE) of the 508 bytes before it |
//!
//! Zeros fill the rest of the unit. All that matters lies in one sector of 512 bytes, which a crash leaves old, new or
//! unreadable, never mixed. Magic, version and checksum keep their places in every version of the format, so that a
//! newer version is told from damage. Each file repeats what its term began with: a term holds for as long as any of
//! its files exists, whatever was removed before.

use op_engine_io::FileName;

use super::{COUNTER_MAX, Identity, Purpose};
use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::error::{Error, Result};
use crate::ids::{Seq, Term};

/// The version of the log format.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"OPEL";
const SECTOR_BYTES: usize = 512;
const CHECKED_BYTES: usize = SECTOR_BYTES - 4;

/// The first unit of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// What the log is for.
    pub purpose: Purpose,
    /// Whose log it is.
    pub identity: Identity,
    /// The number in the file's name.
    pub number: u64,
    /// Which use of the file this is.
    pub generation: u64,
    /// The term in which the file is written.
    pub term: Term,
    /// Frames of earlier terms above this number are dead.
    pub term_cut: Seq,
    /// No number up to this one is given in the term.
    pub seq_floor: Seq,
    /// The last commit before the file.
    pub prev: Seq,
}

impl FileHeader {
    /// The sector as the table of this module says.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.raw(&MAGIC);
        out.u16(VERSION);
        out.u8(self.purpose.tag());
        out.u8(0);
        out.raw(&self.identity.store.0);
        out.u16(self.identity.shard.0);
        out.u16(self.identity.shard_count);
        out.u32(0);
        for number in
            [self.number, self.generation, self.term.0, self.term_cut.0, self.seq_floor.0, self.prev.0]
        {
            out.u64(number);
        }
        let mut sector = out.into_vec();
        sector.resize(CHECKED_BYTES, 0);
        let crc = crc32fast::hash(&sector);
        sector.extend_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads a header. `None` if there is none, as in a file that is being created or reused when the power fails.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`] and [`Error::Foreign`] for an intact header that is not ours.
    pub fn decode(
        bytes: &[u8],
        name: FileName,
        purpose: Purpose,
        identity: Identity,
    ) -> Result<Option<Self>> {
        let Ok(mut fields) = verified(bytes) else { return Ok(None) };
        let version = fields.u16().unwrap_or_default();
        if version != VERSION {
            return Err(Error::UnsupportedVersion {
                file: name.to_string(),
                found: u32::from(version),
                supported: u32::from(VERSION),
            });
        }
        let header = Self::fields(fields, purpose, identity, name.number)
            .map_err(|why| Error::Foreign { file: name.to_string(), what: why.0.to_owned() })?;
        Ok(Some(header))
    }

    fn fields(
        mut input: ByteReader<'_>,
        purpose: Purpose,
        identity: Identity,
        number: u64,
    ) -> Result<Self, Malformed> {
        if input.u8()? != purpose.tag() {
            return Err(Malformed("it is a log of another purpose"));
        }
        input.u8()?;
        if input.array()? != identity.store.0 {
            return Err(Malformed("it is of another store"));
        }
        if input.u16()? != identity.shard.0 || input.u16()? != identity.shard_count {
            return Err(Malformed("it is of another shard"));
        }
        input.u32()?;
        if input.u64()? != number {
            return Err(Malformed("it was written under another name"));
        }
        let header = Self {
            purpose,
            identity,
            number,
            generation: input.u64()?,
            term: Term(input.u64()?),
            term_cut: Seq(input.u64()?),
            seq_floor: Seq(input.u64()?),
            prev: Seq(input.u64()?),
        };
        let counters =
            [header.generation, header.term.0, header.term_cut.0, header.seq_floor.0, header.prev.0];
        if header.generation == 0 || counters.into_iter().any(|counter| counter > COUNTER_MAX) {
            return Err(Malformed("a number in its header is out of range"));
        }
        Ok(header)
    }
}

/// What follows the magic, if magic and checksum are right.
fn verified(bytes: &[u8]) -> Result<ByteReader<'_>, Malformed> {
    let mut whole = ByteReader::new(bytes);
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

#[cfg(test)]
mod tests {
    use op_engine_io::{Dir, FileKind};

    use super::*;
    use crate::ids::{ShardId, StoreId};

    const NAME: FileName = FileName { dir: Dir::Shard(2), kind: FileKind::Wal, number: 5 };
    const IDENTITY: Identity = Identity { store: StoreId([7; 16]), shard: ShardId(2), shard_count: 4 };

    fn sample() -> FileHeader {
        FileHeader {
            purpose: Purpose::Wal,
            identity: IDENTITY,
            number: 5,
            generation: 8,
            term: Term(3),
            term_cut: Seq(10),
            seq_floor: Seq(15),
            prev: Seq(10),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Option<FileHeader>> {
        FileHeader::decode(bytes, NAME, Purpose::Wal, IDENTITY)
    }

    #[test]
    fn round_trip() {
        let mut unit = sample().encode();
        assert_eq!(unit.len(), SECTOR_BYTES);
        unit.resize(4096, 0);
        assert_eq!(decode(&unit).unwrap(), Some(sample()));
    }

    #[test]
    fn every_flipped_bit_is_unreadable() {
        let mut bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes).unwrap(), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(decode(&[0; 4096]).unwrap(), None);
        assert_eq!(decode(&[]).unwrap(), None);
    }

    #[test]
    fn an_intact_header_of_something_else_is_named() {
        let foreign = [
            FileHeader { purpose: Purpose::Manifest, ..sample() },
            FileHeader { number: 6, ..sample() },
            FileHeader { generation: 0, ..sample() },
            FileHeader { prev: Seq(COUNTER_MAX + 1), ..sample() },
            FileHeader { identity: Identity { store: StoreId([8; 16]), ..IDENTITY }, ..sample() },
            FileHeader { identity: Identity { shard: ShardId(1), ..IDENTITY }, ..sample() },
        ];
        for header in foreign {
            assert!(matches!(decode(&header.encode()), Err(Error::Foreign { .. })));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().encode();
        bytes[4] = 9;
        let crc = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(Error::UnsupportedVersion { found: 9, .. })));
    }
}
