//! What a process has used: time, CPU, device, memory.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Elapsed time of what is timed, and CPU time of all threads without that of the main thread between timed parts.
///
/// Threads of the store work when they want; all of their CPU time counts.
pub struct Meter {
    elapsed: Duration,
    cpu_began: Duration,
    untimed_cpu: Duration,
    main_cpu: Duration,
    io_began: Io,
}

/// Bytes of devices, not of caches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Io {
    /// Read from devices.
    pub read_bytes: u64,
    /// Written to devices, or to be written by the kernel later.
    pub written_bytes: u64,
}

impl Meter {
    /// Starts to measure.
    pub fn start() -> Self {
        Self {
            elapsed: Duration::ZERO,
            cpu_began: clock(ClockId::ProcessCPUTime),
            untimed_cpu: Duration::ZERO,
            main_cpu: clock(ClockId::ThreadCPUTime),
            io_began: Io::now(),
        }
    }

    /// Times something on the main thread.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.untimed_cpu += clock(ClockId::ThreadCPUTime) - self.main_cpu;
        let began = Instant::now();
        let done = work();
        self.elapsed += began.elapsed();
        self.main_cpu = clock(ClockId::ThreadCPUTime);
        done
    }

    /// Seconds elapsed, seconds of CPU, bytes read, bytes written.
    pub fn values(&mut self) -> String {
        self.time(|| ());
        let cpu = clock(ClockId::ProcessCPUTime) - self.cpu_began;
        let io = Io::now();
        format!(
            "{} {} {} {}",
            self.elapsed.as_secs_f64(),
            cpu.saturating_sub(self.untimed_cpu).as_secs_f64(),
            io.read_bytes - self.io_began.read_bytes,
            io.written_bytes - self.io_began.written_bytes
        )
    }
}

impl Io {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self { read_bytes: field(&text, "read_bytes:"), written_bytes: field(&text, "write_bytes:") }
    }
}

/// The most memory that was resident so far, and what is resident now without mapped files, in bytes.
pub fn resident_bytes() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    (field(&text, "VmHWM:") << 10, field(&text, "RssAnon:") << 10)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
