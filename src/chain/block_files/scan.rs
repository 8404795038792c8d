//! Finds the records of block files and checks their headers.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bitcoin::block::Header;
use bitcoin::consensus::deserialize;
use bitcoin::hashes::Hash;
use op_engine_io::num::{to_u64, to_usize};

use super::file::{BlockFile, OpenBlockFile};
use super::{BlockFileError, BlockFileWarning, BlockFilesOptions, Damage, Result};

/// The magic and the size before a block.
pub(super) const RECORD_HEAD_BYTES: u64 = 8;
const MAGIC_BYTES: u64 = 4;
const HEADER_BYTES: u32 = 80;
const HEAD_BYTES: usize = 88;

/// How much is read at once where no record is known: little at first, for the next one is mostly near.
const SEARCH_BYTES_FIRST: usize = 4 << 10;
const SEARCH_BYTES: usize = 1 << 20;

/// A file of nothing but damage must not fill the memory with warnings.
const WARNINGS_PER_FILE_MAX: usize = 64;

/// What the block files hold, and what is wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanReport {
    /// How many files there are.
    pub files: u64,
    /// How many different blocks have a valid header.
    pub headers: u64,
    /// How many records repeat a block.
    pub duplicates: u64,
    /// How many blocks are linked to another start than the chain's: their ancestors are missing.
    pub orphans: u64,
    /// How many blocks lie on branches that have less work.
    pub stale: u64,
    /// What is not a block of the network, in the order of the files.
    pub warnings: Vec<BlockFileWarning>,
    /// How many more warnings there were than are kept of one file.
    pub warnings_dropped: u64,
}

/// A header that was found.
#[derive(Debug, Clone)]
pub(super) struct Scanned {
    pub(super) hash: [u8; 32],
    pub(super) parent: [u8; 32],
    pub(super) work: u128,
    pub(super) offset: u64,
    pub(super) block_bytes: u32,
}

/// What one file holds.
#[derive(Debug, Default)]
struct FileScan {
    headers: Vec<Scanned>,
    warnings: Vec<BlockFileWarning>,
    warnings_dropped: u64,
}

/// The files, the magic, what each file holds, and the report so far.
type DirectoryScan = (Vec<BlockFile>, [u8; 4], Vec<Vec<Scanned>>, ScanReport);

/// Reads the headers of all block files in `dir`, several files at a time.
pub(super) fn scan_directory(dir: &Path, options: &BlockFilesOptions) -> Result<DirectoryScan> {
    let files = BlockFile::list(dir)?;
    let magic = match options.magic {
        Some(magic) => magic,
        None => files
            .iter()
            .find_map(|file| first_magic(file, options.block_bytes_max))
            .ok_or_else(|| BlockFileError::UnknownMagic { dir: dir.to_owned() })?,
    };
    let format = Format { magic, block_bytes_max: options.block_bytes_max };

    let scans: Vec<Mutex<FileScan>> = files.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((file, scan)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            files.get(index).zip(scans.get(index))
        } {
            *scan.lock().unwrap_or_else(PoisonError::into_inner) = FileScan::of(file, format);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.clamp(1, files.len()) {
            scope.spawn(work);
        }
        work();
    });

    let mut report = ScanReport { files: to_u64(files.len()), ..ScanReport::default() };
    let mut headers = Vec::with_capacity(scans.len());
    for scan in scans {
        let scan = scan.into_inner().unwrap_or_else(PoisonError::into_inner);
        headers.push(scan.headers);
        report.warnings.extend(scan.warnings);
        report.warnings_dropped += scan.warnings_dropped;
    }
    Ok((files, magic, headers, report))
}

/// The magic of the first record, if its header is valid. An unreadable file is reported by the scan itself.
fn first_magic(file: &BlockFile, block_bytes_max: u32) -> Option<[u8; 4]> {
    let open = file.open().ok()?;
    let head = read_head(&open, 0).ok()??;
    let magic = *head.first_chunk::<4>()?;
    let format = Format { magic, block_bytes_max };
    matches!(format.check(&head, 0, open.len), Found::Whole(_)).then_some(magic)
}

/// What makes bytes a record.
#[derive(Debug, Clone, Copy)]
struct Format {
    magic: [u8; 4],
    block_bytes_max: u32,
}

/// What bytes are.
enum Found {
    Whole(Scanned),
    /// The record goes beyond the end of the file.
    Torn {
        announced: u64,
    },
    BadHeader,
    Nothing,
}

impl Format {
    /// Judges the record that begins at `offset` of a file of `len` bytes.
    fn check(self, head: &[u8; HEAD_BYTES], offset: u64, len: u64) -> Found {
        let Some((magic, rest)) = head.split_first_chunk::<4>() else { return Found::Nothing };
        let Some((size, header)) = rest.split_first_chunk::<4>() else { return Found::Nothing };
        let block_bytes = u32::from_le_bytes(*size);
        if *magic != self.magic || block_bytes < HEADER_BYTES || block_bytes > self.block_bytes_max {
            return Found::Nothing;
        }
        let announced = RECORD_HEAD_BYTES + u64::from(block_bytes);
        if announced > len.saturating_sub(offset) {
            return Found::Torn { announced };
        }
        match checked_header(header) {
            Some((hash, parent, work)) => Found::Whole(Scanned { hash, parent, work, offset, block_bytes }),
            None => Found::BadHeader,
        }
    }
}

/// The hash, the parent and the work of a header with a valid proof of work.
fn checked_header(bytes: &[u8]) -> Option<([u8; 32], [u8; 32], u128)> {
    let header: Header = deserialize(bytes).ok()?;
    // A larger exponent does not fit 256 bits, and the target would wrap around to another one.
    if header.bits.to_consensus() >> 24 > 32 {
        return None;
    }
    let hash = header.validate_pow(header.target()).ok()?;
    let work = header.work().to_be_bytes();
    let (high, low) = work.split_first_chunk::<16>()?;
    let low = u128::from_be_bytes(*low.first_chunk()?);
    let work = if *high == [0; 16] { low } else { u128::MAX };
    Some((hash.to_byte_array(), header.prev_blockhash.to_byte_array(), work))
}

/// The bytes at `offset` up to the end of a header, zeros behind the end of the file; `None` if less than the head
/// of a record is left.
fn read_head(file: &OpenBlockFile, offset: u64) -> io::Result<Option<[u8; HEAD_BYTES]>> {
    let mut head = [0; HEAD_BYTES];
    let available = to_usize(file.len.saturating_sub(offset)).min(HEAD_BYTES);
    if to_u64(available) < RECORD_HEAD_BYTES {
        return Ok(None);
    }
    let Some(bytes) = head.get_mut(..available) else { return Ok(None) };
    file.read(offset, bytes)?;
    Ok(Some(head))
}

impl FileScan {
    fn of(file: &BlockFile, format: Format) -> Self {
        let mut scan = Self::default();
        let mut offset = 0;
        let walked = file.open().and_then(|open| scan.walk(file, &open, format, &mut offset));
        if let Err(error) = walked {
            scan.warn(file, offset, Damage::Unreadable { cause: error.to_string() });
        }
        scan
    }

    fn warn(&mut self, file: &BlockFile, offset: u64, damage: Damage) {
        if self.warnings.len() < WARNINGS_PER_FILE_MAX {
            self.warnings.push(BlockFileWarning { file: file.path.clone(), offset, damage });
        } else {
            self.warnings_dropped += 1;
        }
    }

    /// Goes from record to record; where there is none, to the next one.
    fn walk(
        &mut self,
        file: &BlockFile,
        open: &OpenBlockFile,
        format: Format,
        offset: &mut u64,
    ) -> io::Result<()> {
        while *offset < open.len {
            let record = match read_head(open, *offset)? {
                Some(head) => format.check(&head, *offset, open.len),
                None => Found::Nothing,
            };
            if let Found::Whole(header) = record {
                *offset += RECORD_HEAD_BYTES + u64::from(header.block_bytes);
                self.headers.push(header);
                continue;
            }
            let past_zeros = skip_zeros(open, *offset)?;
            if past_zeros > *offset && matches!(record, Found::Nothing) {
                // Under a key, the magic of a record may be stored as zeros.
                let from = past_zeros.saturating_sub(MAGIC_BYTES).max(*offset + 1);
                *offset = find_record(open, format, from, past_zeros)?.unwrap_or(past_zeros);
                continue;
            }
            let next = find_record(open, format, *offset + 1, open.len)?;
            let bytes = next.unwrap_or(open.len) - *offset;
            let damage = match (record, next) {
                (Found::BadHeader, _) => Damage::BadHeader,
                (Found::Torn { announced }, None) => Damage::TornRecord { announced, available: bytes },
                _ => Damage::Garbage { bytes },
            };
            self.warn(file, *offset, damage);
            *offset += bytes;
        }
        Ok(())
    }
}

/// The first byte from `offset` on that is not stored as zero, or the end of the file.
fn skip_zeros(file: &OpenBlockFile, mut offset: u64) -> io::Result<u64> {
    let mut chunk = vec![0; SEARCH_BYTES_FIRST];
    while offset < file.len {
        chunk.truncate(to_usize(file.len - offset));
        file.read_stored(offset, &mut chunk)?;
        if let Some(zeros) = chunk.iter().position(|byte| *byte != 0) {
            return Ok(offset + to_u64(zeros));
        }
        offset += to_u64(chunk.len());
        chunk.resize(SEARCH_BYTES, 0);
    }
    Ok(file.len)
}

/// The first whole record that begins at `from` or behind, but before `until`.
fn find_record(file: &OpenBlockFile, format: Format, from: u64, until: u64) -> io::Result<Option<u64>> {
    let mut chunk = Vec::new();
    let mut start = from;
    let mut chunk_bytes = SEARCH_BYTES_FIRST;
    while start < until {
        chunk.resize(to_usize(file.len.saturating_sub(start)).min(chunk_bytes), 0);
        chunk_bytes = SEARCH_BYTES;
        file.read(start, &mut chunk)?;
        let last_of_file = start + to_u64(chunk.len()) >= file.len;
        // Windows that the chunk cuts off are looked at in the next one, which begins with them.
        for (position, window) in chunk.windows(HEAD_BYTES).enumerate() {
            let offset = start + to_u64(position);
            if offset >= until {
                return Ok(None);
            }
            if !window.starts_with(&format.magic) {
                continue;
            }
            if let Some(head) = window.first_chunk()
                && matches!(format.check(head, offset, file.len), Found::Whole(_))
            {
                return Ok(Some(offset));
            }
        }
        if last_of_file {
            break;
        }
        start += to_u64(chunk.len() - HEAD_BYTES + 1);
    }
    Ok(None)
}
