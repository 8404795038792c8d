//! Sequential writes, and durable appends as a write-ahead log makes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ring::{BareRing, Ending};
use super::{DEPTH_MAX, Offsets};
use crate::buf::{IO_UNIT_BYTES, IoBuf};
use crate::num::{to_u64, to_usize};
use crate::sync_mode::SyncMode;

const FILL_BYTES: u64 = 1 << 20;

/// Writes of one size to one file that is preallocated with real zeros, from the thread that made it.
pub struct BareWrites {
    ring: BareRing,
    unit_bytes: u64,
    file_bytes: u64,
    offset: u64,
}

impl BareWrites {
    /// Creates a file of at least `file_bytes`, all written and synced, for writes of `unit_bytes` (rounded up to
    /// 4 KiB), `depth` of them at once. What is written does not compress.
    ///
    /// # Errors
    /// If the file is there already, there is no space for it, or the kernel refuses direct I/O or the ring.
    pub fn create(path: &Path, file_bytes: u64, unit_bytes: u64, depth: u32) -> io::Result<Self> {
        let unit_bytes = unit_bytes.max(1).next_multiple_of(to_u64(IO_UNIT_BYTES));
        let file_bytes = file_bytes.next_multiple_of(unit_bytes).next_multiple_of(FILL_BYTES);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).custom_flags(libc::O_DIRECT).open(path)?;
        fill(&file, file_bytes)?;
        let mut ring = BareRing::new(file, depth.clamp(1, DEPTH_MAX), to_usize(unit_bytes))?;
        let mut random = Offsets(0x9E37_79B9_7F4A_7C15);
        for buf in ring.buffers_mut() {
            for word in buf.as_mut_slice().as_chunks_mut::<8>().0 {
                *word = random.below(u64::MAX).to_le_bytes();
            }
        }
        Ok(Self { ring, unit_bytes, file_bytes, offset: 0 })
    }

    /// The bytes of one write.
    #[must_use]
    pub const fn unit_bytes(&self) -> u64 {
        self.unit_bytes
    }

    /// One write behind the last one, durable when it returns. Wraps around at the end of the file.
    ///
    /// # Errors
    /// If the write or its sync fails.
    pub fn append_durable(&mut self, mode: SyncMode) -> io::Result<Duration> {
        let offset = self.next_offset();
        let started = Instant::now();
        let ending = match mode {
            SyncMode::WriteThenSync => Ending::Plain,
            SyncMode::Linked => Ending::ThenSync,
            SyncMode::Dsync => Ending::Dsync,
        };
        self.ring.write(0, offset, ending)?;
        self.ring.drain(|_, _| ())?;
        if mode == SyncMode::WriteThenSync {
            self.ring.sync(0)?;
            self.ring.drain(|_, _| ())?;
        }
        Ok(started.elapsed())
    }

    /// Writes at least that many bytes, one unit after the other, as many at once as the depth allows, and syncs.
    ///
    /// # Errors
    /// If a write or the sync fails.
    pub fn write_through(&mut self, bytes: u64) -> io::Result<Duration> {
        let started = Instant::now();
        let mut idle: Vec<_> = (0..self.ring.depth()).collect();
        let mut begun_bytes = 0;
        loop {
            while begun_bytes < bytes
                && let Some(slot) = idle.pop()
            {
                let offset = self.next_offset();
                self.ring.write(slot, offset, Ending::Plain)?;
                begun_bytes += self.unit_bytes;
            }
            if self.ring.in_flight() == 0 {
                break;
            }
            self.ring.wait(|slot, _| idle.push(slot))?;
        }
        self.ring.sync(0)?;
        self.ring.drain(|_, _| ())?;
        Ok(started.elapsed())
    }

    fn next_offset(&mut self) -> u64 {
        if self.offset + self.unit_bytes > self.file_bytes {
            self.offset = 0;
        }
        let offset = self.offset;
        self.offset += self.unit_bytes;
        offset
    }
}

fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let zeros = IoBuf::zeroed(to_usize(FILL_BYTES));
    for _ in 0..bytes / FILL_BYTES {
        file.write_all(zeros.as_slice())?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_of_every_mode_land_and_wrap_around() {
        let temp = tempfile::tempdir().unwrap();
        for mode in SyncMode::ALL {
            let path = temp.path().join(mode.name());
            let mut writes = BareWrites::create(&path, 1 << 20, 300 << 10, 2).unwrap();
            assert_eq!(writes.unit_bytes(), 300 << 10);
            for _ in 0..5 {
                assert!(writes.append_durable(mode).unwrap() > Duration::ZERO);
            }
            let content = std::fs::read(&path).unwrap();
            assert!(content.iter().take(900 << 10).filter(|byte| **byte == 0).count() < 20 << 10);
        }
    }

    #[test]
    fn sequential_writes_fill_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        let mut writes = BareWrites::create(&path, 4 << 20, 64 << 10, 4).unwrap();
        assert!(writes.write_through(4 << 20).unwrap() > Duration::ZERO);
        let content = std::fs::read(&path).unwrap();
        assert!(content.chunks_exact(64 << 10).all(|unit| unit.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn a_file_that_is_there_is_not_touched() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"mine").unwrap();
        assert!(BareWrites::create(&path, 1 << 20, 4096, 1).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
