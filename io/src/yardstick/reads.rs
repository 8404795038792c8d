//! Random reads of whole units at a fixed depth.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ring::BareRing;
use super::{DEPTH_MAX, Offsets};
use crate::buf::IO_UNIT_BYTES;
use crate::num::to_u64;

/// Random reads of 4 KiB from one file, a fixed number of them in flight, from the thread that made it.
pub struct BareReads {
    ring: BareRing,
    offsets: Offsets,
    units: u64,
    idle: Vec<usize>,
}

impl BareReads {
    /// Opens a file for direct reads, `depth` of them at once (1 to [`DEPTH_MAX`]). The same seed reads the same
    /// offsets.
    ///
    /// # Errors
    /// If the file has less than 4 KiB, cannot be opened with `O_DIRECT`, or the kernel refuses the ring.
    pub fn open(path: &Path, depth: u32, seed: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let units = file.metadata()?.len() / to_u64(IO_UNIT_BYTES);
        if units == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has less than 4 KiB"));
        }
        let ring = BareRing::new(file, depth.clamp(1, DEPTH_MAX), IO_UNIT_BYTES)?;
        Ok(Self { idle: (0..ring.depth()).collect(), ring, offsets: Offsets(seed | 1), units })
    }

    /// Reads that many units, and tells how long each took, from its submission on.
    ///
    /// # Errors
    /// If a read fails or is short.
    pub fn read(&mut self, count: u64, each: impl FnMut(Duration)) -> io::Result<()> {
        self.run(|begun| begun < count, each)
    }

    /// Reads for that long, and tells how long each read took. Gives the number of reads.
    ///
    /// # Errors
    /// If a read fails or is short.
    pub fn read_for(&mut self, time: Duration, mut each: impl FnMut(Duration)) -> io::Result<u64> {
        let end = Instant::now() + time;
        let mut count = 0;
        self.run(
            |_| Instant::now() < end,
            |latency| {
                count += 1;
                each(latency);
            },
        )?;
        Ok(count)
    }

    fn run(&mut self, more: impl Fn(u64) -> bool, mut each: impl FnMut(Duration)) -> io::Result<()> {
        let Self { ring, offsets, units, idle } = self;
        let mut begun = 0;
        loop {
            while !idle.is_empty() && more(begun) {
                let Some(slot) = idle.pop() else { break };
                ring.read(slot, offsets.below(*units) * to_u64(IO_UNIT_BYTES))?;
                begun += 1;
            }
            if ring.in_flight() == 0 {
                return Ok(());
            }
            ring.wait(|slot, latency| {
                idle.push(slot);
                each(latency);
            })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_read_is_counted_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, vec![7; 64 * IO_UNIT_BYTES]).unwrap();
        for depth in [1, 3, 32] {
            let mut reads = BareReads::open(&path, depth, 5).unwrap();
            for count in [1, 2, 500] {
                let mut seen = 0;
                reads.read(count, |_| seen += 1).unwrap();
                assert_eq!(seen, count);
            }
            assert!(reads.read_for(Duration::from_millis(20), |_| ()).unwrap() > 0);
        }
    }

    #[test]
    fn a_file_without_a_whole_unit_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert!(BareReads::open(&path, 1, 5).is_err());
    }
}
