//! What the figures depend on besides the stores.

use std::path::{Path, PathBuf};

/// CPU, kernel, filesystem and load, in one line.
#[must_use]
pub fn describe(path: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    format!(
        "{} x {}, Linux {}, {}, load {} at the start.",
        std::thread::available_parallelism().map_or(0, usize::from),
        cpu.unwrap_or("unknown CPU"),
        read("/proc/sys/kernel/osrelease").trim(),
        filesystem(path),
        read("/proc/loadavg").split(' ').next().unwrap_or_default()
    )
}

fn filesystem(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| PathBuf::from("/"));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holds = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        path.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    });
    holds.max_by_key(|(len, _)| *len).map_or_else(|| "unknown filesystem".to_owned(), |(_, name)| name)
}
