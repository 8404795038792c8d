//! What the kernel counts of this process.

use std::io;
use std::time::Duration;

/// CPU time and memory of this process, all its threads and the kernel's work for it included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Time in its own code.
    pub user: Duration,
    /// Time in the kernel on its behalf.
    pub system: Duration,
    /// The most memory that it ever had resident, in bytes.
    pub resident_bytes_max: u64,
}

impl ProcessUsage {
    /// Asks the kernel (`getrusage`).
    #[must_use]
    pub fn now() -> Self {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to memory for one `rusage`, which is valid in any state, all zeros included.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |time: libc::timeval| {
            let micros = u64::try_from(time.tv_usec).unwrap_or(0);
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
        };
        Self {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            resident_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
        }
    }

    /// Time in its own code and in the kernel.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }

    /// The CPU time since an earlier look; memory as it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            resident_bytes_max: self.resident_bytes_max,
        }
    }
}

/// Bytes that this process caused to be moved to and from storage (`/proc/self/io`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceTraffic {
    /// Bytes fetched from storage.
    pub read_bytes: u64,
    /// Bytes sent to storage.
    pub write_bytes: u64,
}

impl DeviceTraffic {
    /// Asks the kernel.
    ///
    /// # Errors
    /// If the kernel keeps no such counts (`CONFIG_TASK_IO_ACCOUNTING`) or denies them.
    pub fn now() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/io")?;
        let field = |name: &str| {
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
            value.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/self/io"))
            })
        };
        Ok(Self { read_bytes: field("read_bytes")?, write_bytes: field("write_bytes")? })
    }

    /// What was moved since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let before = ProcessUsage::now();
        let started = std::time::Instant::now();
        let mut sum = 0_u64;
        while started.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = ProcessUsage::now().since(&before);
        assert!(used.user > Duration::from_millis(5), "{used:?}");
        assert!(used.resident_bytes_max > 1 << 20);
        assert!(DeviceTraffic::now().is_ok());
    }
}
