//! A short measurement of the device: which depth of reads and which way of syncing serve it best.
//!
//! It runs the host's own loop on the calling thread, over a file without a name in the store's directory.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::directory::Root;
use super::env::{HostTuning, RealEnv};
use super::file::RealFile;
use super::file_thread::FileThread;
use super::probe::nameless_file;
use super::pump::{self, Plan};
use super::ring::RingPlan;
use super::settings::RealSettings;
use super::tuning::Calibration;
use crate::buf::IoBuf;
use crate::env::{Dir, Env, File, FileKind, FileName, PanicReport, WriteSync};
use crate::error::{Error, Result};
use crate::num::to_u64;
use crate::sync_mode::SyncMode;

const PAGE_BYTES: usize = 4 << 10;
const FILL_BYTES: usize = 1 << 20;
/// Enough that a drive's own cache does not answer every read.
const FILE_BYTES_MAX: u64 = 256 << 20;
const FILE_BYTES_MIN: u64 = 8 << 20;
const DEPTH_MIN: usize = 8;
/// Doubling ends when the throughput grows by less than this factor.
const DEPTH_GAIN_MIN: f64 = 1.1;
/// Doubling ends when the slowest reads take longer by more than this factor.
const DEPTH_P99_RATIO_MAX: f64 = 2.0;
const SYNC_WRITE_BYTES: [usize; 2] = [4 << 10, 64 << 10];
/// A mode replaces the first one only if it is faster than measuring noise.
const SYNC_GAIN_MIN: f64 = 0.95;
const SYNC_SAMPLES_MAX: usize = 2000;

/// Measures the device that holds the directory `root`, in about `budget`.
///
/// # Errors
/// If the ring cannot be set up or the device fails.
pub fn calibrate(root: &Path, budget: Duration) -> Result<Calibration> {
    let root = Arc::new(Root::open(root, false)?);
    let fd = nameless_file(&root)?;
    let found: Arc<Mutex<Option<Result<Calibration>>>> = Arc::default();
    let failed = Arc::clone(&found);
    let files = FileThread::start("calibration", None)?;
    let plan = Plan {
        ring: RingPlan {
            host: "calibration".to_owned(),
            in_flight_max: RealSettings::IN_FLIGHT_MAX,
            arena_bytes: 8 << 20,
            file_places: 2,
            lock: None,
        },
        root,
        rings: Arc::default(),
        tuning: HostTuning { epoch: Instant::now(), read_depth: DEPTH_MIN, sync_mode: SyncMode::default() },
        file_calls: files.calls(),
        cold: None,
        spin_max: Duration::ZERO,
        on_panic: Arc::new(move |report| keep(&failed, Err(panicked(report)))),
    };
    let result = Arc::clone(&found);
    let set_up_failed = Arc::clone(&found);
    let main = move |env: RealEnv| async move {
        let name = FileName { dir: Dir::Root, kind: FileKind::Segment, number: 0 };
        let file = env.adopt(fd, name);
        keep(&result, measure(&env, &file, budget).await);
    };
    let started = move |set_up: Result<()>| {
        if let Err(error) = set_up {
            keep(&set_up_failed, Err(error));
        }
    };
    pump::run(plan, main, started);
    files.end();
    let found = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.unwrap_or(Err(Error::Stopped))
}

fn keep(place: &Mutex<Option<Result<Calibration>>>, result: Result<Calibration>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
}

fn panicked(report: PanicReport) -> Error {
    Error::Unsupported {
        what: "calibration".to_owned(),
        cause: report.message,
        remedy: "set the read depth and the sync mode by hand, and report this".to_owned(),
    }
}

async fn measure(env: &RealEnv, file: &RealFile, budget: Duration) -> Result<Calibration> {
    let mut measurements = Vec::new();
    let file_bytes = fill(env, file, budget / 4).await?;
    measurements.push(format!("file: {} MiB", file_bytes >> 20));
    let read_depth = measure_reads(env, file, file_bytes, budget / 2, &mut measurements).await?;
    let sync_mode = measure_syncs(env, file, budget / 4, &mut measurements).await?;
    Ok(Calibration { read_depth, sync_mode, measurements })
}

/// Writes bytes that do not compress, for at most `time`.
async fn fill(env: &RealEnv, file: &RealFile, time: Duration) -> Result<u64> {
    let mut buf = IoBuf::zeroed(FILL_BYTES);
    let mut random = Random(env.random());
    for word in buf.as_mut_slice().as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    let started = Instant::now();
    let mut offset = 0;
    while offset < FILE_BYTES_MIN || offset < FILE_BYTES_MAX && started.elapsed() < time {
        let (back, written) = file.write_at(offset, buf, WriteSync::None).await;
        written?;
        buf = back;
        offset += to_u64(FILL_BYTES);
    }
    file.sync_data().await?;
    Ok(offset)
}

async fn measure_reads(
    env: &RealEnv,
    file: &RealFile,
    file_bytes: u64,
    time: Duration,
    measurements: &mut Vec<String>,
) -> Result<usize> {
    let levels = (RealSettings::IN_FLIGHT_MAX / DEPTH_MIN).ilog2() + 1;
    let mut depth = DEPTH_MIN;
    let mut best: Option<(usize, Reads)> = None;
    while depth <= RealSettings::IN_FLIGHT_MAX {
        let reads = read_at_depth(env, file, file_bytes, depth, time / levels).await?;
        measurements.push(format!(
            "random 4 KiB reads, {depth} in flight: {:.0} per second, p99 {} us",
            reads.per_second,
            reads.p99.as_micros()
        ));
        if let Some((_, before)) = &best {
            let slower = reads.p99.as_secs_f64() > before.p99.as_secs_f64() * DEPTH_P99_RATIO_MAX;
            if reads.per_second < before.per_second * DEPTH_GAIN_MIN || slower {
                break;
            }
        }
        best = Some((depth, reads));
        depth *= 2;
    }
    Ok(best.map_or(DEPTH_MIN, |(depth, _)| depth))
}

struct Reads {
    per_second: f64,
    p99: Duration,
}

async fn read_at_depth(
    env: &RealEnv,
    file: &RealFile,
    file_bytes: u64,
    depth: usize,
    time: Duration,
) -> Result<Reads> {
    let pages = file_bytes / to_u64(PAGE_BYTES);
    let mut random = Random(env.random());
    let mut read = |buf: IoBuf| {
        let offset = random.next() % pages * to_u64(PAGE_BYTES);
        async move {
            let started = Instant::now();
            let (buf, result) = file.read_at(offset, buf).await;
            (buf, result, started.elapsed())
        }
    };
    let mut in_flight = FuturesUnordered::new();
    for _ in 0..depth {
        in_flight.push(read(env.read_buffer(PAGE_BYTES).await));
    }
    let started = Instant::now();
    let mut latencies = Vec::new();
    while let Some((buf, result, latency)) = in_flight.next().await {
        result?;
        latencies.push(latency);
        if started.elapsed() < time {
            in_flight.push(read(buf));
        }
    }
    let count = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
    Ok(Reads {
        per_second: f64::from(count) / started.elapsed().as_secs_f64(),
        p99: quantile(&mut latencies, 99),
    })
}

async fn measure_syncs(
    env: &RealEnv,
    file: &RealFile,
    time: Duration,
    measurements: &mut Vec<String>,
) -> Result<SyncMode> {
    let slice = time / u32::try_from(SyncMode::ALL.len() * SYNC_WRITE_BYTES.len()).unwrap_or(1);
    let mut best: Option<(SyncMode, f64)> = None;
    for mode in SyncMode::ALL {
        let file = file.with_sync_mode(mode);
        let mut score = 1.0;
        for bytes in SYNC_WRITE_BYTES {
            let median = median_sync(env, &file, bytes, slice).await?;
            measurements.push(format!(
                "durable write of {} KiB, {mode}: median {} us",
                bytes >> 10,
                median.as_micros()
            ));
            score *= median.as_secs_f64();
        }
        // Both sizes count alike: the product is compared, and its noise is squared too.
        if best.is_none_or(|(_, before)| score < before * SYNC_GAIN_MIN) {
            best = Some((mode, score));
        }
    }
    Ok(best.map_or_else(SyncMode::default, |(mode, _)| mode))
}

/// The median time of durable overwrites, one at a time, through the first part of the file.
async fn median_sync(env: &RealEnv, file: &RealFile, bytes: usize, time: Duration) -> Result<Duration> {
    let mut buf = env.buffer(bytes).await;
    let started = Instant::now();
    let mut latencies = Vec::new();
    let mut offset = 0;
    while latencies.len() < 3 || started.elapsed() < time && latencies.len() < SYNC_SAMPLES_MAX {
        let before = Instant::now();
        let (back, written) = file.write_at(offset, buf, WriteSync::Durable).await;
        written?;
        latencies.push(before.elapsed());
        buf = back;
        offset = (offset + to_u64(bytes)) % FILE_BYTES_MIN;
    }
    Ok(quantile(&mut latencies, 50))
}

fn quantile(latencies: &mut [Duration], percent: usize) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() * percent / 100).or(latencies.last()).copied().unwrap_or_default()
}

/// A generator for offsets: speed matters and quality does not (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let Self(state) = self;
        *state |= 1;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_ends_in_time_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let found = calibrate(temp.path(), Duration::from_millis(400)).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!((DEPTH_MIN..=RealSettings::IN_FLIGHT_MAX).contains(&found.read_depth));
        assert!(found.measurements.len() >= 8, "{:?}", found.measurements);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn quantiles_of_few_values() {
        let mut values = [3, 1, 2].map(Duration::from_secs);
        assert_eq!(quantile(&mut values, 50), Duration::from_secs(2));
        assert_eq!(quantile(&mut values, 99), Duration::from_secs(3));
        assert_eq!(quantile(&mut [], 50), Duration::ZERO);
    }
}
