//! One block file, its bytes freed from the key.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use op_engine_io::num::{to_u64, to_usize};

use super::{BlockFileError, Result};

/// The bytes of a key.
pub(super) const KEY_BYTES: usize = 8;

/// The name of the key file.
pub(super) const KEY_FILE: &str = "xor.dat";

/// The key over all block files of a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct XorKey([u8; KEY_BYTES]);

impl XorKey {
    pub(super) fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    /// The key in `dir`; zeros, which change nothing, if there is none.
    fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(KEY_FILE);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(64).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(BlockFileError::Io { op: "read", file: path, offset: 0, source }),
            Ok(_) => {}
        }
        match <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
            Ok(key) => Ok(Self(key)),
            Err(_) => Err(BlockFileError::BadXorKey { file: path, len: to_u64(bytes.len()) }),
        }
    }

    /// Adds or removes the key: both are the same. `offset` is where `bytes` begin in the file.
    pub(super) fn apply(self, offset: u64, bytes: &mut [u8]) {
        if self == Self::default() {
            return;
        }
        let mut key = self.0;
        key.rotate_left(to_usize(offset % to_u64(KEY_BYTES)));
        for chunk in bytes.chunks_mut(KEY_BYTES) {
            for (byte, key) in chunk.iter_mut().zip(key) {
                *byte ^= key;
            }
        }
    }
}

/// A block file of a directory.
#[derive(Debug)]
pub(super) struct BlockFile {
    pub(super) path: PathBuf,
    key: XorKey,
}

impl BlockFile {
    /// The block files in `dir`, or else in `dir/blocks`, in the order of their numbers.
    pub(super) fn list(dir: &Path) -> Result<Vec<Self>> {
        for dir in [dir.to_owned(), dir.join("blocks")] {
            let mut numbers = numbered_files(&dir)?;
            if numbers.is_empty() {
                continue;
            }
            numbers.sort_unstable();
            let key = XorKey::load(&dir)?;
            return Ok(numbers.into_iter().map(|(_, path)| Self { path, key }).collect());
        }
        Err(BlockFileError::NoBlockFiles { dir: dir.to_owned() })
    }

    pub(super) fn open(&self) -> io::Result<OpenBlockFile> {
        let file = File::open(&self.path)?;
        let len = file.metadata()?.len();
        Ok(OpenBlockFile { file, len, key: self.key })
    }

    /// The error of an operation at `offset`.
    pub(super) fn io_error(&self, op: &'static str, offset: u64, source: io::Error) -> BlockFileError {
        BlockFileError::Io { op, file: self.path.clone(), offset, source }
    }
}

/// The files in `dir` that are named like block files. No directory is no files.
fn numbered_files(dir: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let error = |source| BlockFileError::Io { op: "list", file: dir.to_owned(), offset: 0, source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        if let Some(number) = entry.file_name().to_str().and_then(file_number) {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

fn file_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("blk")?.strip_suffix(".dat")?;
    (digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// An open block file.
#[derive(Debug)]
pub(super) struct OpenBlockFile {
    file: File,
    /// The length when it was opened, in bytes.
    pub(super) len: u64,
    key: XorKey,
}

impl OpenBlockFile {
    /// Fills `bytes` from `offset` with what is in the file, the key not removed.
    pub(super) fn read_stored(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Removes the key from bytes of `offset`.
    pub(super) fn decode(&self, offset: u64, bytes: &mut [u8]) {
        self.key.apply(offset, bytes);
    }

    /// Fills `bytes` from `offset`.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_stored(offset, bytes)?;
        self.decode(offset, bytes);
        Ok(())
    }
}
