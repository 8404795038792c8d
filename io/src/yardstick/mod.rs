//! The device with nothing of ours above the kernel's ring: what every figure of the engine is held against.
//!
//! Closed loops on the calling thread: a fixed number of operations is in flight, and each completion starts the next
//! one. Files and buffers are registered, I/O is direct. What such a loop reaches is what the device and the kernel's
//! driver give; no engine that reads the same pages can be faster.

mod reads;
mod ring;
mod usage;
mod writes;

pub use reads::BareReads;
pub use usage::{DeviceTraffic, ProcessUsage};
pub use writes::BareWrites;

/// The most operations that a loop may have in flight.
pub const DEPTH_MAX: u32 = 1024;

/// A generator for offsets: speed matters and quality does not (xorshift, Marsaglia 2003).
struct Offsets(u64);

impl Offsets {
    fn below(&mut self, bound: u64) -> u64 {
        let Self(state) = self;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % bound.max(1)
    }
}
