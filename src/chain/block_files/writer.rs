//! Writes block files as a node does: for tests, and for a chain made up for a demonstration.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use op_engine_io::num::to_u64;

use super::file::{KEY_BYTES, KEY_FILE, XorKey};
use super::{BlockFileError, Result};

/// The size at which a node begins the next file.
pub const FILE_BYTES_MAX: u64 = 128 << 20;

/// Writes `blk00000.dat` and so on into a directory.
#[derive(Debug)]
pub struct BlockFileWriter {
    dir: PathBuf,
    magic: [u8; 4],
    key: XorKey,
    file_bytes_max: u64,
    number: u32,
    offset: u64,
    file: Option<BufWriter<File>>,
}

impl BlockFileWriter {
    /// Creates `dir` if need be, and the key file in it if there is a key. Files that are there are replaced.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn create(dir: impl Into<PathBuf>, magic: [u8; 4], xor_key: Option<[u8; KEY_BYTES]>) -> Result<Self> {
        let dir = dir.into();
        let refused =
            |op, file: &PathBuf, source| BlockFileError::Io { op, file: file.clone(), offset: 0, source };
        fs::create_dir_all(&dir).map_err(|source| refused("create", &dir, source))?;
        if let Some(key) = xor_key {
            let file = dir.join(KEY_FILE);
            fs::write(&file, key).map_err(|source| refused("write", &file, source))?;
        }
        let key = XorKey::new(xor_key.unwrap_or_default());
        Ok(Self { dir, magic, key, file_bytes_max: FILE_BYTES_MAX, number: 0, offset: 0, file: None })
    }

    /// Begins the next file once one would exceed `bytes`, instead of at 128 MiB.
    #[must_use]
    pub fn with_file_bytes_max(mut self, bytes: u64) -> Self {
        self.file_bytes_max = bytes;
        self
    }

    /// Appends the record of a block. Returns where it begins in its file.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn append(&mut self, block: &[u8]) -> Result<u64> {
        let size = u32::try_from(block.len()).map_err(|_| {
            let too_large = io::Error::new(io::ErrorKind::InvalidInput, "the block exceeds 4 GiB");
            self.refused("write", too_large)
        })?;
        if self.offset > 0 && self.offset + 8 + u64::from(size) > self.file_bytes_max {
            self.next_file()?;
        }
        let offset = self.offset;
        self.append_bytes(&[&self.magic[..], &size.to_le_bytes(), block].concat())?;
        Ok(offset)
    }

    /// Appends bytes that are no record, under the key.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut bytes = bytes.to_vec();
        self.key.apply(self.offset, &mut bytes);
        self.append_stored(&bytes)
    }

    /// Appends reserved space: zeros that are not under the key.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn append_zeros(&mut self, count: usize) -> Result<()> {
        self.append_stored(&vec![0; count])
    }

    fn append_stored(&mut self, bytes: &[u8]) -> Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let created = File::create(self.path()).map_err(|source| self.refused("create", source))?;
                BufWriter::with_capacity(1 << 20, created)
            }
        };
        file.write_all(bytes).map_err(|source| self.refused("write", source))?;
        self.file = Some(file);
        self.offset += to_u64(bytes.len());
        Ok(())
    }

    /// Ends the file; the next record begins another one.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn next_file(&mut self) -> Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush().map_err(|source| self.refused("write", source))?;
        }
        self.number += 1;
        self.offset = 0;
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn finish(mut self) -> Result<()> {
        self.next_file()
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("blk{:05}.dat", self.number))
    }

    fn refused(&self, op: &'static str, source: io::Error) -> BlockFileError {
        BlockFileError::Io { op, file: self.path(), offset: self.offset, source }
    }
}
