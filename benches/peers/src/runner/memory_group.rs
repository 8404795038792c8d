//! A limit of memory for a worker, the page cache that it fills included: a control group of its own.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

const REMOVALS_MAX: usize = 100;

/// How the memory of workers is limited.
#[derive(Debug)]
pub enum Memory {
    /// By groups below this directory.
    Groups {
        /// The group of this process.
        parent: PathBuf,
        /// The file that holds a group's limit.
        limit_file: &'static str,
    },
    /// Only by the sizes of caches that stores are given: the kernel lets this process make no group.
    CachesOnly {
        /// Why.
        why: String,
    },
}

impl Memory {
    /// Finds out what this process may do.
    #[must_use]
    pub fn detect() -> Self {
        let found = Self::own_group().ok_or_else(|| "it has no memory control group".to_owned());
        let tried = found.and_then(|memory| match memory.group(1 << 30) {
            Ok(_) => Ok(memory),
            Err(error) => Err(error.to_string()),
        });
        tried.unwrap_or_else(|why| Self::CachesOnly { why })
    }

    fn own_group() -> Option<Self> {
        let table = fs::read_to_string("/proc/self/cgroup").ok()?;
        let entry = |controller: &str| {
            table.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let controllers = parts.next()?;
                controllers
                    .split(',')
                    .any(|it| it == controller)
                    .then(|| parts.next().unwrap_or("/").to_owned())
            })
        };
        let below = |mount: &str, path: String| Path::new(mount).join(path.trim_start_matches('/'));
        if let Some(path) = entry("memory") {
            let parent = below("/sys/fs/cgroup/memory", path);
            return Some(Self::Groups { parent, limit_file: "memory.limit_in_bytes" });
        }
        Some(Self::Groups { parent: below("/sys/fs/cgroup", entry("")?), limit_file: "memory.max" })
    }

    /// A new group with a limit; none if groups cannot be made.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn group(&self, limit_bytes: u64) -> Result<Option<MemoryGroup>> {
        let Self::Groups { parent, limit_file } = self else { return Ok(None) };
        let path = parent.join(format!("op-engine-peers-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = MemoryGroup(path);
        let limit = group.0.join(limit_file);
        fs::write(&limit, limit_bytes.to_string())
            .map_err(|error| format!("{}: {error}", limit.display()))?;
        Ok(Some(group))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Groups { limit_file, .. } => {
                write!(f, "enforced by a control group ({limit_file}), page cache included")
            }
            Self::CachesOnly { why } => {
                write!(f, "by cache sizes only, the page cache is NOT limited: no control group, {why}")
            }
        }
    }
}

/// A control group. Its directory goes when this is dropped.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Puts a process in.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&self, process: u32) -> Result<()> {
        let path = self.0.join("cgroup.procs");
        fs::write(&path, process.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that has just ended may still be in it.
        for _ in 0..REMOVALS_MAX {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} was not removed", self.0.display());
    }
}
