//! Random reads with nothing above the kernel: what the device and its driver give.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the yardstick has to be the bare ring"
)]

use std::alloc::Layout;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::{IoUring, opcode, types};

use super::Rng;

const PAGE: u64 = 4096;

/// A ring with one registered file and one registered buffer per operation in flight, on the thread that made it.
pub struct RawReads {
    ring: IoUring,
    buffers: Buffers,
    _file: File,
    pages: u64,
    depth: u64,
    rng: Rng,
}

struct Buffers {
    start: *mut u8,
    layout: Layout,
}

impl Buffers {
    fn new(depth: u64) -> Self {
        let layout = Layout::from_size_align((depth * PAGE) as usize, PAGE as usize).unwrap();
        // SAFETY: the size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null());
        Self { start, layout }
    }

    fn at(&self, slot: u64) -> *mut u8 {
        // SAFETY: slots are below the depth that the memory was made for.
        unsafe { self.start.add((slot * PAGE) as usize) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: our own allocation, with its own layout.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}

impl RawReads {
    pub fn new(path: &Path, depth: u64, seed: u64) -> Self {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        let pages = file.metadata().unwrap().len() / PAGE;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build((depth as u32).next_power_of_two())
            .unwrap();
        ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
        let buffers = Buffers::new(depth);
        let vectors: Vec<_> = (0..depth)
            .map(|slot| libc::iovec { iov_base: buffers.at(slot).cast(), iov_len: PAGE as usize })
            .collect();
        // SAFETY: the buffers live as long as the ring, which is dropped first.
        unsafe { ring.submitter().register_buffers(&vectors) }.unwrap();
        Self { ring, buffers, _file: file, pages, depth, rng: Rng(seed) }
    }

    /// Reads that many random pages, never more than the depth at once.
    pub fn read(&mut self, count: u64) {
        let (mut begun, mut done) = (0, 0);
        while begun < count.min(self.depth) {
            self.push(begun);
            begun += 1;
        }
        while done < count {
            self.ring.submit_and_wait(1).unwrap();
            let ended: Vec<(u64, i32)> =
                self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
            for (slot, result) in ended {
                assert_eq!(result, PAGE as i32, "a page is read whole");
                done += 1;
                if begun < count {
                    self.push(slot);
                    begun += 1;
                }
            }
        }
    }

    fn push(&mut self, slot: u64) {
        let offset = self.rng.below(self.pages) * PAGE;
        let read = opcode::ReadFixed::new(types::Fixed(0), self.buffers.at(slot), PAGE as u32, slot as u16);
        let entry = read.offset(offset).build().user_data(slot);
        // SAFETY: the buffer is registered and belongs to this slot until its completion.
        unsafe { self.ring.submission().push(&entry) }.unwrap();
    }
}
