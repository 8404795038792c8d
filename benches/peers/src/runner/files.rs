//! The files of a store, from outside.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::Result;

/// Bytes that the files of a store take on the device.
///
/// # Errors
/// If they cannot be listed.
pub fn disk_bytes(store: &Path) -> Result<u64> {
    files(store)?.iter().map(|file| Ok(fs::metadata(file)?.blocks() * 512)).sum()
}

/// Writes back what the kernel holds of a store's files, and forgets it.
///
/// # Errors
/// If the kernel refuses.
pub fn forget_cached(store: &Path) -> Result<()> {
    for file in files(store)? {
        let file = File::open(file)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}
