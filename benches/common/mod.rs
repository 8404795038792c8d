//! What the benchmarks share: where they keep their stores, what they tell of the machine, and medians.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking, and each one uses a part of this"
)]

pub mod raw_reads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use op_engine_io::yardstick::ProcessUsage;

/// Below the build's own directory: on a disk, unlike the system's place for temporary files.
pub const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// How many times each measurement is repeated, in turns with those that it is compared to.
pub const RUNS: usize = 7;

/// The same random numbers in every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Spreads a number over all bits.
pub fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Key number `n`: 32 bytes in no order, as transaction ids are.
pub fn key(n: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (at, part) in key.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&mix(n ^ (at as u64) << 56).to_be_bytes());
    }
    key
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints what the numbers depend on.
pub fn print_machine(dir: &Path) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    println!("machine     {} x {cpus}", cpu.unwrap_or("unknown CPU"));
    println!("kernel      {}", kernel.trim());
    println!("filesystem  {}", filesystem(dir));
    println!("load        {}", load.split(' ').next().unwrap_or_default());
}

fn filesystem(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| PathBuf::from("/"));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holds_dir = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        dir.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    });
    holds_dir.max_by_key(|(len, _)| *len).map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}

/// Elapsed and CPU time of something.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Duration) {
    let (began, cpu) = (Instant::now(), ProcessUsage::now());
    let done = work();
    (done, began.elapsed(), ProcessUsage::now().since(&cpu).cpu())
}
