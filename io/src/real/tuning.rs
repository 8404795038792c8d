//! What a calibration has found, kept beside the data.
//!
//! The file `tuning` in the store's directory is text, so that an operator can read and change it:
//!
//! ```text
//! op-engine tuning 1
//! device 254:0
//! read_depth 64
//! sync_mode linked
//! ```
//!
//! The device comes first among the values, because nothing after it counts if the store has moved to another one.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::directory::{Root, TUNING_NAME, TUNING_NEW_NAME, path_error};
use super::settings::RealSettings;
use super::sys;
use crate::error::{FileOp, Result};
use crate::sync_mode::SyncMode;

const HEADER: &str = "op-engine tuning 1";
/// More than the file ever holds: a larger one is not ours.
const FILE_BYTES_MAX: u64 = 4096;

/// The values that were found best on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// How many reads one host should keep in flight.
    pub read_depth: usize,
    /// How durable writes are made durable.
    pub sync_mode: SyncMode,
    /// What was measured, one line each, for reports. Not kept in the file.
    pub measurements: Vec<String>,
}

impl Calibration {
    /// Reads the values kept in the directory `root`; `None` if there are none, if they belong to another device or
    /// if the file cannot be understood.
    ///
    /// # Errors
    /// If the directory or the file cannot be read.
    pub fn load(root: &Path) -> Result<Option<Self>> {
        let root = Root::open(root, false)?;
        let path = root.path().join(TUNING_NAME);
        let fd = match sys::open_at(root.fd(), TUNING_NAME, libc::O_RDONLY, 0) {
            Ok(fd) => fd,
            Err(libc::ENOENT) => return Ok(None),
            Err(errno) => {
                return Err(path_error(FileOp::Open, &path, &std::io::Error::from_raw_os_error(errno)));
            }
        };
        let mut bytes = Vec::new();
        let read = std::fs::File::from(fd).take(FILE_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| path_error(FileOp::Read, &path, &error))?;
        let parsed = Self::parse(&String::from_utf8_lossy(&bytes), root.device()?);
        if parsed.is_none() {
            tracing::info!(path = %path.display(), "the kept calibration is of another device or version: not used");
        }
        Ok(parsed)
    }

    /// Keeps the values in the directory `root`, atomically and durably.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, root: &Path) -> Result<()> {
        let root = Root::open(root, false)?;
        let path = root.path().join(TUNING_NAME);
        let failed = |op| move |errno| (op, errno);
        let device = root.device()?;
        let write = || -> Result<(), (FileOp, i32)> {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
            let fd = sys::open_at(root.fd(), TUNING_NEW_NAME, flags, 0o600).map_err(failed(FileOp::Open))?;
            let mut file = std::fs::File::from(fd);
            let written = file.write_all(self.text(device).as_bytes());
            written.map_err(|error| (FileOp::Write, sys::errno_of(&error)))?;
            sys::sync_all(file.as_fd()).map_err(failed(FileOp::Sync))?;
            sys::rename_at(root.fd(), TUNING_NEW_NAME, TUNING_NAME).map_err(failed(FileOp::Write))?;
            sys::sync_all(root.fd()).map_err(failed(FileOp::SyncDir))
        };
        write().map_err(|(op, errno)| path_error(op, &path, &std::io::Error::from_raw_os_error(errno)))
    }

    fn text(&self, device: u64) -> String {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let Self { read_depth, sync_mode, .. } = self;
        format!("{HEADER}\ndevice {major}:{minor}\nread_depth {read_depth}\nsync_mode {sync_mode}\n")
    }

    fn parse(text: &str, device: u64) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADER {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let kept_device = value("device")?;
        let read_depth = value("read_depth")?.parse().ok()?;
        let sync_mode = value("sync_mode")?.parse().ok()?;
        let same_device = kept_device == format!("{}:{}", libc::major(device), libc::minor(device));
        let in_range = (1..=RealSettings::IN_FLIGHT_MAX).contains(&read_depth);
        (same_device && in_range).then_some(Self { read_depth, sync_mode, measurements: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_unless_the_device_or_the_text_differs() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(Calibration::load(temp.path()).unwrap(), None);
        let kept = Calibration { read_depth: 64, sync_mode: SyncMode::Dsync, measurements: Vec::new() };
        kept.save(temp.path()).unwrap();
        assert_eq!(Calibration::load(temp.path()).unwrap(), Some(kept.clone()));

        let device = Root::open(temp.path(), false).unwrap().device().unwrap();
        let text = kept.text(device);
        assert_eq!(Calibration::parse(&text, device + 1), None);
        for damaged in [
            String::new(),
            text.replace("tuning 1", "tuning 2"),
            text.replace("read_depth 64", "read_depth 0"),
            text.replace("read_depth 64", "read_depth 99999999999999999999999"),
            text.replace("dsync", "sometimes"),
            text.replace("device", "devices"),
        ] {
            assert_eq!(Calibration::parse(&damaged, device), None, "{damaged}");
        }
        std::fs::write(temp.path().join(TUNING_NAME), [0xFF; 9000]).unwrap();
        assert_eq!(Calibration::load(temp.path()).unwrap(), None);
    }
}
