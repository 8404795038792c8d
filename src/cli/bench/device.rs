//! The bare device, measured in the same run as everything that is compared with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use op_engine_io::SyncMode;
use op_engine_io::yardstick::{BareReads, BareWrites};

use super::figure::{Figure, Unit};
use super::meter::{Meter, SLICES};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::bytes;

const DEPTHS: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const APPEND_BYTES: [u64; 7] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10];
const FILE_BYTES: u64 = 256 << 20;
const APPEND_FILE_BYTES: u64 = 64 << 20;
const WRITE_BYTES: u64 = 512 << 10;
const WRITE_DEPTH: u32 = 4;

/// What the device gives without an engine.
pub(crate) struct Device {
    /// A file of bytes that do not compress.
    path: PathBuf,
    /// Reads each second, by depth.
    reads: Vec<(u32, f64)>,
    write_bytes_per_second: f64,
    /// The median time of a durable append in milliseconds, by its bytes.
    appends: Vec<(u64, f64)>,
}

impl Device {
    /// Measures the device below `dir`: reads and appends for about `time` each.
    pub(crate) fn measure(
        dir: &Path,
        time: Duration,
        sync_mode: SyncMode,
        meter: &mut Meter,
        mut tell: impl FnMut(Figure),
    ) -> Outcome<Self> {
        let path = dir.join("device");
        let mut device =
            Self { path: path.clone(), reads: Vec::new(), write_bytes_per_second: 0.0, appends: Vec::new() };
        let written = device.measure_writes(&path)?;
        tell(written);
        for depth in DEPTHS {
            tell(device.measure_reads(&path, depth, time / 4, meter)?);
        }
        let path = dir.join("appends");
        for append_bytes in APPEND_BYTES {
            tell(device.measure_appends(&path, append_bytes, time / 4, sync_mode, meter)?);
            std::fs::remove_file(&path).map_err(failed("remove the measured file"))?;
        }
        Ok(device)
    }

    fn measure_writes(&mut self, path: &Path) -> Outcome<Figure> {
        let file = BareWrites::create(path, FILE_BYTES, WRITE_BYTES, WRITE_DEPTH);
        let mut file = file.map_err(failed("write to the device"))?;
        let mut samples = Vec::new();
        for _ in 0..SLICES {
            let part = FILE_BYTES / u64::from(SLICES);
            let took = file.write_through(part).map_err(failed("write to the device"))?;
            samples.push(part as f64 / took.as_secs_f64());
        }
        // The rest, so that every page that is read later holds what was written.
        file.write_through(FILE_BYTES / 4).map_err(failed("write to the device"))?;
        let name = format!("sequential writes of {}", bytes(WRITE_BYTES));
        let figure = Figure::new(Workload::Device, name, Unit::BytesPerSecond, samples);
        self.write_bytes_per_second = figure.median();
        Ok(Figure { parameter: WRITE_BYTES, ..figure })
    }

    fn measure_reads(
        &mut self,
        path: &Path,
        depth: u32,
        time: Duration,
        meter: &mut Meter,
    ) -> Outcome<Figure> {
        let mut file = BareReads::open(path, depth, depth.into()).map_err(failed("read the device"))?;
        let measured = meter.measure(None, time, |end, latencies| {
            let rest = end.saturating_duration_since(Instant::now());
            file.read_for(rest, |latency| latencies.add(latency)).map_err(failed("read the device"))
        })?;
        let figure = measured.figure(Workload::Device, format!("random 4 KiB reads, {depth} in flight"));
        self.reads.push((depth, figure.median()));
        Ok(Figure { parameter: depth.into(), ..figure })
    }

    fn measure_appends(
        &mut self,
        path: &Path,
        append_bytes: u64,
        time: Duration,
        sync_mode: SyncMode,
        meter: &mut Meter,
    ) -> Outcome<Figure> {
        let file = BareWrites::create(path, APPEND_FILE_BYTES, append_bytes, 1);
        let mut file = file.map_err(failed("append to a file"))?;
        let measured = meter.measure(None, time, |end, latencies| {
            let mut count = 0;
            while count < 3 || Instant::now() < end {
                latencies.add(file.append_durable(sync_mode).map_err(failed("append to a file"))?);
                count += 1;
            }
            Ok(count)
        })?;
        let name = format!("durable appends of {}", bytes(append_bytes));
        let figure = measured.figure(Workload::Device, name);
        self.appends.push((append_bytes, figure.latency.map_or(0.0, |latency| latency.p50 / 1e3)));
        Ok(Figure { parameter: append_bytes, ..figure })
    }

    /// Reads each second with that many in flight, measured now: devices do not give the same at all times.
    pub(crate) fn reads_per_second_now(&self, in_flight: u64, time: Duration) -> Outcome<f64> {
        let depth = u32::try_from(in_flight).unwrap_or(u32::MAX);
        let mut file = BareReads::open(&self.path, depth, in_flight).map_err(failed("read the device"))?;
        let started = Instant::now();
        let count = file.read_for(time, |_| ()).map_err(failed("read the device"))?;
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }

    /// The most reads each second at any depth.
    pub(crate) fn reads_per_second_max(&self) -> f64 {
        self.reads.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    /// Bytes that can be written in order each second.
    pub(crate) fn write_bytes_per_second(&self) -> f64 {
        self.write_bytes_per_second
    }

    /// How long one durable append of that many bytes takes, in milliseconds: on the line through the nearest measured
    /// sizes, and beyond the largest at the rate of sequential writes.
    pub(crate) fn append_millis(&self, append_bytes: f64) -> f64 {
        let Some((largest, slowest)) = self.appends.last() else { return 0.0 };
        let beyond = append_bytes - *largest as f64;
        if beyond >= 0.0 {
            return slowest + beyond / self.write_bytes_per_second * 1e3;
        }
        let mut pairs = self.appends.iter().zip(self.appends.iter().skip(1));
        let around = pairs.find(|(_, (above, _))| append_bytes <= *above as f64);
        let Some(((low, low_millis), (high, high_millis))) = around else { return *slowest };
        let part = ((append_bytes - *low as f64) / (*high - *low) as f64).max(0.0);
        low_millis + (high_millis - low_millis) * part
    }

    /// What the bare device would need for that much work, one kind after the other, in seconds.
    pub(crate) fn seconds_for(&self, reads: f64, durable_append_bytes: Option<f64>, other_bytes: f64) -> f64 {
        let append = durable_append_bytes.map_or(0.0, |bytes| self.append_millis(bytes) / 1e3);
        reads / self.reads_per_second_max() + append + other_bytes / self.write_bytes_per_second()
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::os(what, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_taken_from_the_nearest_measurements() {
        let device = Device {
            path: PathBuf::new(),
            reads: vec![(1, 100.0), (32, 900.0), (64, 850.0)],
            write_bytes_per_second: 1e6,
            appends: vec![(4096, 1.0), (8192, 2.0)],
        };
        assert_eq!(
            [100.0, 4096.0, 6144.0, 8192.0].map(|bytes| device.append_millis(bytes)),
            [1.0, 1.0, 1.5, 2.0]
        );
        assert!((device.append_millis(8192.0 + 1e6) - 1002.0).abs() < 1e-9);
        assert!((device.seconds_for(90.0, Some(4096.0), 1e6) - 1.101).abs() < 1e-9);
    }
}
