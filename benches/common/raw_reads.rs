//! The device's own speed: bare rings that read random pages of a store's files, one thread a shard.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use op_engine_io::yardstick::BareReads;

use super::median;

/// The largest segment of each shard.
pub fn largest_segments(store: &Path, shards: u16) -> Vec<PathBuf> {
    let largest = |shard: u16| {
        let files = std::fs::read_dir(store.join(format!("shard-{shard:03}"))).expect("a shard's directory");
        let segments = files
            .filter_map(Result::ok)
            .filter(|file| file.path().extension().is_some_and(|it| it == "segment"));
        segments.max_by_key(|file| file.metadata().map_or(0, |it| it.len())).expect("a segment").path()
    };
    (0..shards).map(largest).collect()
}

/// One thread with a bare ring, which reads as many pages as it is told and answers.
pub struct RawThread {
    work: Sender<u64>,
    done: Receiver<()>,
}

impl RawThread {
    pub fn new(path: PathBuf, depth: u32, seed: u64) -> Self {
        let (work, orders) = channel();
        let (answer, done) = channel();
        std::thread::spawn(move || {
            let mut reads = BareReads::open(&path, depth, seed).expect("a bare ring");
            for count in orders {
                reads.read(count, |_| ()).expect("a bare read");
                if answer.send(()).is_err() {
                    return;
                }
            }
        });
        Self { work, done }
    }
}

/// Has all threads read their part of a batch, and waits: as `get_many` does.
pub fn read_batch(threads: &[RawThread], count: usize) {
    for thread in threads {
        thread.work.send((count / threads.len()) as u64).expect("the thread lives");
    }
    for thread in threads {
        thread.done.recv().expect("the thread lives");
    }
}

/// Reads per second, and CPU time of each read in microseconds.
#[derive(Default)]
pub struct Samples {
    pub rates: Vec<f64>,
    pub cpu_micros: Vec<f64>,
}

impl Samples {
    pub fn add(&mut self, reads: f64, elapsed: Duration, cpu: Duration) {
        self.rates.push(reads / elapsed.as_secs_f64());
        self.cpu_micros.push(cpu.as_secs_f64() * 1e6 / reads);
    }

    pub fn print(&self, name: &str, of: &Samples) -> f64 {
        let (rate, cpu) = (median(self.rates.clone()), median(self.cpu_micros.clone()));
        let ratio = rate / median(of.rates.clone());
        println!("  {name:<36} {rate:>9.0} reads/s {cpu:>7.2} us CPU/read {:>6.1} %", ratio * 100.0);
        ratio
    }
}
