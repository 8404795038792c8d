//! What tells the cold target of a store from another one, and from a directory that something should be mounted on.
//!
//! A small object at the top of the target:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `OPE-COLD` |
//! | 4 | format version, 1; first after the magic, since it says how to read the rest |
//! | 16 | store id |
//! | 8 | mark: a random number, which the catalog has too |
//! | 4 | CRC-32 of all bytes before; the object stands alone, so it has its own |

use op_engine_io::num::to_u64;
use op_engine_io::{ColdFault, ColdStore, ColdUpload as _, Dir, Error as IoError, FileKind, FileName};

use crate::bytes::{ByteReader, ByteWriter, Malformed};
use crate::catalog::ColdMark;
use crate::error::{Error, Result};
use crate::ids::StoreId;

/// The object.
pub const MARK_NAME: FileName = FileName { dir: Dir::Root, kind: FileKind::Cold, number: 0 };
const MAGIC: [u8; 8] = *b"OPE-COLD";
const VERSION: u32 = 1;
const BYTES: u64 = 8 + 4 + 16 + 8 + 4;

/// The mark as an object.
#[must_use]
pub fn encode(store: StoreId, mark: ColdMark) -> Vec<u8> {
    let mut out = ByteWriter::new();
    out.raw(&MAGIC);
    out.u32(VERSION);
    out.raw(&store.0);
    out.u64(mark.0);
    let crc = crc32fast::hash(out.as_slice());
    out.u32(crc);
    out.into_vec()
}

fn decode(bytes: &[u8]) -> Result<(u32, StoreId, ColdMark), Malformed> {
    let mut input = ByteReader::new(bytes);
    if input.array()? != MAGIC {
        return Err(Malformed("it does not begin as the mark of a cold target does"));
    }
    let (version, store, mark) = (input.u32()?, StoreId(input.array()?), ColdMark(input.u64()?));
    let told = bytes
        .split_last_chunk::<4>()
        .map(|(fields, crc)| (crc32fast::hash(fields), u32::from_le_bytes(*crc)));
    input.u32()?;
    input.finish()?;
    if told.is_none_or(|(found, told)| found != told) {
        return Err(Malformed("the checksum of the mark does not match"));
    }
    Ok((version, store, mark))
}

/// A mark that is accepted has one form.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok((VERSION, store, mark)) = decode(bytes) {
        assert_eq!(encode(store, mark), bytes, "a mark has one form");
    }
}

/// The mark that a target carries; `None` if it carries none.
///
/// # Errors
/// [`Error::Foreign`] if it is the target of another store, [`Error::Corruption`] or
/// [`Error::UnsupportedVersion`] if the mark cannot be read, and [`Error::Io`] if the target fails.
pub async fn find<C: ColdStore>(target: &C, store: StoreId) -> Result<Option<ColdMark>> {
    let bytes = match target.read(MARK_NAME, 0, BYTES).await {
        Ok(bytes) => bytes,
        Err(IoError::Cold { fault: ColdFault::Missing, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let file = format!("{MARK_NAME} of {}", target.target());
    let (version, owner, mark) = decode(&bytes).map_err(|why| Error::Corruption {
        file: file.clone(),
        offset: 0,
        what: why.0.to_owned(),
    })?;
    if version != VERSION {
        return Err(Error::UnsupportedVersion { file, found: version, supported: VERSION });
    }
    if owner != store {
        return Err(Error::Foreign { file, what: format!("the target holds data of store {owner}") });
    }
    Ok(Some(mark))
}

/// Puts a mark on a target.
///
/// # Errors
/// If the target fails.
pub async fn put<C: ColdStore>(target: &C, store: StoreId, mark: ColdMark) -> Result<()> {
    let mut upload = target.upload(MARK_NAME).await?;
    upload.append(encode(store, mark)).await?;
    Ok(upload.finish().await?)
}

/// Checks that a target carries a mark.
///
/// # Errors
/// As [`find`]; [`Error::ColdTargetUnknown`] if it carries none or another one.
pub async fn check<C: ColdStore>(target: &C, store: StoreId, mark: ColdMark) -> Result<()> {
    let found = find(target, store).await?;
    if found == Some(mark) {
        return Ok(());
    }
    let what =
        if found.is_some() { "it is marked as another target of this store" } else { "it has no mark" };
    Err(Error::ColdTargetUnknown { target: target.target(), what })
}

const _: () = assert!(BYTES == to_u64(size_of::<[u8; 40]>()), "the table adds up");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_changed_one_is_refused() {
        let bytes = encode(StoreId([7; 16]), ColdMark(9));
        assert_eq!(to_u64(bytes.len()), BYTES);
        assert_eq!(decode(&bytes), Ok((VERSION, StoreId([7; 16]), ColdMark(9))));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            decode(&damaged).unwrap_err();
            decode(&bytes[..at]).unwrap_err();
        }
        decode(&[0; 40]).unwrap_err();
    }
}
