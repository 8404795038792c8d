//! Limits that control groups set, version 1 and 2, also mixed.
//!
//! A limit of any ancestor binds, so every directory from the process's group up to the mount point is asked and the
//! tightest limit wins.

use std::fmt;
use std::path::{Path, PathBuf};

use super::line::Bytes;
use super::mounts::Mount;
use super::sys_root::SysRoot;

/// Kernels write "no limit" in version 1 as a number just below 2^63. No machine has this much memory.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// How much CPU time a control group grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    /// CPU time per period, in microseconds. Never 0.
    pub quota_us: u64,
    /// The period, in microseconds. Never 0.
    pub period_us: u64,
    /// The file that says so.
    pub source: PathBuf,
}

impl CpuQuota {
    /// How many CPUs the quota can keep busy, rounded down, at least 1.
    #[must_use]
    pub fn whole_cpus(&self) -> u64 {
        self.quota_us.checked_div(self.period_us).unwrap_or(1).max(1)
    }

    fn is_tighter_than(&self, other: &Self) -> bool {
        u128::from(self.quota_us) * u128::from(other.period_us)
            < u128::from(other.quota_us) * u128::from(self.period_us)
    }
}

impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths =
            (u128::from(self.quota_us) * 100).checked_div(u128::from(self.period_us)).unwrap_or(0);
        write!(f, "{}.{:02} CPUs", hundredths / 100, hundredths % 100)
    }
}

/// How much memory a control group grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit. Never 0.
    pub bytes: u64,
    /// The file that says so.
    pub source: PathBuf,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.bytes).fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The tightest CPU quota of this process's groups.
pub(super) fn cpu_quota(root: &SysRoot, mounts: &[Mount]) -> Option<CpuQuota> {
    let quotas = groups(root, mounts, "cpu").into_iter().filter_map(|(version, dir)| match version {
        Version::V1 => {
            let source = dir.join("cpu.cfs_quota_us");
            let quota_us = root.value(&source)?;
            let period_us = root.value(dir.join("cpu.cfs_period_us"))?;
            Some(CpuQuota { quota_us, period_us, source })
        }
        Version::V2 => {
            let source = dir.join("cpu.max");
            let text = root.text(&source)?;
            let (quota, period) = text.split_once(' ')?;
            Some(CpuQuota { quota_us: quota.parse().ok()?, period_us: period.trim().parse().ok()?, source })
        }
    });
    quotas
        .filter(|quota| quota.quota_us > 0 && quota.period_us > 0)
        .reduce(|tightest, quota| if quota.is_tighter_than(&tightest) { quota } else { tightest })
}

/// The tightest memory limit of this process's groups. The limit above which version 2 throttles counts too.
pub(super) fn memory_limit(root: &SysRoot, mounts: &[Mount]) -> Option<MemoryLimit> {
    let files = groups(root, mounts, "memory").into_iter().flat_map(|(version, dir)| {
        let names: &[&str] = match version {
            Version::V1 => &["memory.limit_in_bytes"],
            Version::V2 => &["memory.max", "memory.high"],
        };
        names.iter().map(move |name| dir.join(name))
    });
    files
        .filter_map(|source| Some(MemoryLimit { bytes: root.value(&source)?, source }))
        .filter(|limit| limit.bytes > 0 && limit.bytes < NO_LIMIT_BYTES)
        .min_by_key(|limit| limit.bytes)
}

/// The directories, innermost first, of the groups that can limit this process through a controller.
fn groups(root: &SysRoot, mounts: &[Mount], controller: &str) -> Vec<(Version, PathBuf)> {
    let table = root.text("/proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in table.lines() {
        // HIERARCHY:CONTROLLERS:PATH
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let version = if controllers.is_empty() {
            Version::V2
        } else if controllers.split(',').any(|name| name == controller) {
            Version::V1
        } else {
            continue;
        };
        let path = Path::new(path);
        let holds = |mount: &&Mount| match version {
            Version::V1 => {
                mount.filesystem == "cgroup" && mount.options.split(',').any(|name| name == controller)
            }
            Version::V2 => mount.filesystem == "cgroup2",
        };
        let within = mounts.iter().filter(holds).find(|mount| path.starts_with(&mount.root));
        // In a container the table may name a path of the host of which only the end is mounted.
        let Some(mount) = within.or_else(|| mounts.iter().find(holds)) else { continue };
        let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let innermost = mount.point.join(below);
        let dirs = innermost.ancestors().take_while(|dir| dir.starts_with(&mount.point));
        groups.extend(dirs.map(|dir| (version, dir.to_owned())));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::mounts::mounts;
    use super::*;

    const UNIFIED: &str = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    fn limits(fixture: &Fixture) -> (Option<CpuQuota>, Option<MemoryLimit>) {
        let root = fixture.root();
        let mounts = mounts(&root);
        (cpu_quota(&root, &mounts), memory_limit(&root, &mounts))
    }

    #[test]
    fn version_2_takes_the_tightest_of_nested_limits() {
        let fixture = Fixture::new();
        fixture.file("proc/self/mountinfo", UNIFIED);
        fixture.file("proc/self/cgroup", "0::/system.slice/node.service\n");
        let slice = "sys/fs/cgroup/system.slice";
        fixture.file(&format!("{slice}/node.service/cpu.max"), "400000 100000\n");
        fixture.file(&format!("{slice}/cpu.max"), "150000 100000\n");
        fixture.file(&format!("{slice}/node.service/memory.max"), "max\n");
        fixture.file(&format!("{slice}/node.service/memory.high"), "3221225472\n");
        fixture.file(&format!("{slice}/memory.max"), "2147483648\n");
        let (quota, memory) = limits(&fixture);
        let quota = quota.unwrap();
        assert_eq!(
            (quota.quota_us, quota.to_string().as_str(), quota.whole_cpus()),
            (150_000, "1.50 CPUs", 1)
        );
        let memory = memory.unwrap();
        assert_eq!(memory.bytes, 2 << 30);
        assert_eq!(memory.source, Path::new("/sys/fs/cgroup/system.slice/memory.max"));
    }

    #[test]
    fn version_1_in_a_container_with_only_its_own_group_mounted() {
        let fixture = Fixture::new();
        fixture.file(
            "proc/self/mountinfo",
            "30 1 0:26 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 1 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        fixture.file("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc/inner\n3:pids:/\n");
        fixture.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n");
        fixture.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        fixture.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
        fixture.file("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "9223372036854771712\n");
        let (quota, memory) = limits(&fixture);
        assert_eq!(quota.unwrap().whole_cpus(), 3);
        assert_eq!(memory.unwrap().bytes, 1 << 30);
    }

    #[test]
    fn mixed_hierarchies_are_both_asked() {
        let fixture = Fixture::new();
        fixture.file(
            "proc/self/mountinfo",
            "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        fixture.file("proc/self/cgroup", "4:memory:/a\n0::/b\n");
        fixture.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000000\n");
        fixture.file("sys/fs/cgroup/unified/b/cpu.max", "50000 100000\n");
        let (quota, memory) = limits(&fixture);
        assert_eq!(quota.unwrap().whole_cpus(), 1);
        assert_eq!(memory.unwrap().bytes, 1_000_000);
    }

    #[test]
    fn no_limit_and_nonsense_are_no_limit() {
        for (cpu, memory) in
            [("max 100000", "max"), ("0 0", "0"), ("-1 5", "-5"), ("", ""), ("7", "18446744073709551616")]
        {
            let fixture = Fixture::new();
            fixture.file("proc/self/mountinfo", UNIFIED);
            fixture.file("proc/self/cgroup", "0::/../x\nnonsense\n");
            fixture.file("sys/fs/cgroup/cpu.max", cpu);
            fixture.file("sys/fs/cgroup/memory.max", memory);
            assert_eq!(limits(&fixture), (None, None), "{cpu} {memory}");
        }
        assert_eq!(limits(&Fixture::new()), (None, None));
    }
}
