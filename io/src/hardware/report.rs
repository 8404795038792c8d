//! Everything that is known of the machine.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, FileOp, Result};

use super::cgroup::{self, CpuQuota, MemoryLimit};
use super::cpu_set::{CpuId, CpuSet, affinity_of_this_thread};
use super::device::{BlockDevice, DeviceNumber};
use super::line::{Bytes, Line, write_lines};
use super::mounts::{Mount, mount_of, mounts};
use super::sys_root::{SysRoot, label};
use super::topology::Topology;

/// `CAP_IPC_LOCK`: the capability that frees a process from the limit on locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// From where the machine is looked at: the facts that come from system calls instead of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standpoint {
    /// The CPUs that the caller may run on; read from procfs if `None`.
    pub allowed: Option<CpuSet>,
    /// The data directory, or the nearest directory above it that exists; absolute and without symbolic links.
    pub data_path: PathBuf,
    /// The device of the data directory.
    pub device: Option<DeviceNumber>,
}

impl Standpoint {
    /// The calling thread's standpoint.
    ///
    /// # Errors
    /// [`Error::Os`] if the data path cannot be reached. It need not exist.
    pub fn of_this_thread(data_path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::Os {
            op: FileOp::Open,
            file: data_path.display().to_string(),
            offset: 0,
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
        };
        let whole = if data_path.as_os_str().is_empty() { Path::new(".") } else { data_path };
        let whole = std::path::absolute(whole).map_err(failed)?;
        let mut outcome = Err(io::Error::from_raw_os_error(libc::ENOENT));
        for dir in whole.ancestors() {
            outcome = fs::canonicalize(dir).and_then(|path| Ok((fs::metadata(&path)?.dev(), path)));
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        let (device, data_path) = outcome.map_err(failed)?;
        let device = DeviceNumber { major: libc::major(device), minor: libc::minor(device) };
        Ok(Self { allowed: affinity_of_this_thread(), data_path, device: Some(device) })
    }
}

/// How much memory this process may lock, which registered buffers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// As much as it likes.
    Unlimited,
    /// As much as it likes, because it has the capability for it.
    Exempt,
    /// So many bytes, shared by all processes of the user.
    Limit(u64),
    /// Nothing could be read.
    Unknown,
}

impl fmt::Display for Memlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Exempt => f.write_str("unlimited, by capability"),
            Self::Limit(bytes) => Bytes(*bytes).fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// What is known of the machine, as far as it bears on speed and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareReport {
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The hypervisor, if there are signs of one.
    pub hypervisor: Option<String>,
    /// The CPUs that may be used.
    pub topology: Topology,
    /// The CPU time that control groups grant.
    pub cpu_quota: Option<CpuQuota>,
    /// The memory of the machine.
    pub physical_memory_bytes: Option<u64>,
    /// The memory that control groups grant.
    pub memory_limit: Option<MemoryLimit>,
    /// The memory that may be locked.
    pub memlock: Memlock,
    /// The type of the filesystem of the data directory.
    pub filesystem: Option<String>,
    /// The device of the data directory; `None` for filesystems without one.
    pub device: Option<BlockDevice>,
}

impl HardwareReport {
    /// Looks at this machine. `data_path` is where the store is, or will be.
    ///
    /// # Errors
    /// [`Error::Os`] if the data path cannot be reached.
    pub fn detect(data_path: &Path) -> Result<Self> {
        Ok(Self::read(&SysRoot::default(), &Standpoint::of_this_thread(data_path)?))
    }

    /// Looks at the machine that a tree of files describes.
    #[must_use]
    pub fn read(root: &SysRoot, standpoint: &Standpoint) -> Self {
        let mounts = mounts(root);
        let mount = mount_of(&mounts, &standpoint.data_path);
        let allowed =
            standpoint.allowed.clone().filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| allowed_cpus(root));
        Self {
            kernel: root.label("/proc/sys/kernel/osrelease"),
            hypervisor: hypervisor(root),
            topology: topology(root, &allowed),
            cpu_quota: cgroup::cpu_quota(root, &mounts),
            physical_memory_bytes: physical_memory_bytes(root),
            memory_limit: cgroup::memory_limit(root, &mounts),
            memlock: memlock(root),
            filesystem: mount.and_then(|mount| label(&mount.filesystem)),
            device: device(root, standpoint.device, mount),
        }
    }

    /// The memory that this process can have, and what sets the bound.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<(u64, String)> {
        let physical = self.physical_memory_bytes.map(|bytes| (bytes, "physical memory".to_owned()));
        let limit = self.memory_limit.as_ref().map(|limit| (limit.bytes, limit.source.display().to_string()));
        [physical, limit].into_iter().flatten().min_by_key(|(bytes, _)| *bytes)
    }

    /// One line for each fact.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let nodes = self.topology.nodes();
        let nodes: Vec<String> =
            nodes.iter().map(|(node, cpus)| format!("node {node}: CPUs {cpus}")).collect();
        let threads = format!("hardware threads per core: {}", self.topology.threads_per_core());
        let source_of_quota = self.cpu_quota.as_ref().map(|quota| quota.source.display().to_string());
        let source_of_limit = self.memory_limit.as_ref().map(|limit| limit.source.display().to_string());
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let mut lines = vec![
            Line::known("kernel", self.kernel.as_ref(), ""),
            Line::new("hypervisor", or_none(self.hypervisor.clone()), ""),
            Line::new("allowed CPUs", &self.topology.allowed, "affinity and CPU set of this process"),
            Line::new("physical cores", self.topology.cores.len(), threads),
            Line::new("NUMA nodes", nodes.len(), nodes.join("; ")),
            Line::new(
                "CPU quota",
                or_none(self.cpu_quota.as_ref().map(ToString::to_string)),
                source_of_quota.unwrap_or_default(),
            ),
            Line::known("physical memory", self.physical_memory_bytes.map(Bytes), "/proc/meminfo"),
            Line::new(
                "memory limit",
                or_none(self.memory_limit.as_ref().map(ToString::to_string)),
                source_of_limit.unwrap_or_default(),
            ),
            Line::new("locked memory", self.memlock, "limit for registered buffers"),
            Line::known("filesystem", self.filesystem.as_ref(), ""),
        ];
        match &self.device {
            Some(device) => lines.extend(device.lines()),
            None => {
                lines.push(Line::new("device", "unknown", "the filesystem has no block device of its own"))
            }
        }
        lines
    }
}

impl fmt::Display for HardwareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.lines())
    }
}

#[cfg(not(feature = "hwloc"))]
fn topology(root: &SysRoot, allowed: &CpuSet) -> Topology {
    Topology::read(root, allowed)
}

/// hwloc knows quirks of machines that sysfs hides, but can only look at the real machine.
#[cfg(feature = "hwloc")]
fn topology(root: &SysRoot, allowed: &CpuSet) -> Topology {
    let from_library = if *root == SysRoot::default() { Topology::read_hwloc(allowed) } else { None };
    from_library.unwrap_or_else(|| Topology::read(root, allowed))
}

/// The CPUs that procfs says are allowed; else the ones online; else the one that must be there.
fn allowed_cpus(root: &SysRoot) -> CpuSet {
    let status = root.text("/proc/self/status").unwrap_or_default();
    let listed = status.lines().find_map(|line| CpuSet::parse(line.strip_prefix("Cpus_allowed_list:")?));
    listed
        .or_else(|| CpuSet::parse(&root.text("/sys/devices/system/cpu/online")?))
        .filter(|cpus| !cpus.is_empty())
        .unwrap_or_else(|| CpuSet::from_iter([CpuId(0)]))
}

fn physical_memory_bytes(root: &SysRoot) -> Option<u64> {
    let text = root.text("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn memlock(root: &SysRoot) -> Memlock {
    if may_lock_all(root) {
        return Memlock::Exempt;
    }
    let limits = root.text("/proc/self/limits").unwrap_or_default();
    let soft =
        limits.lines().find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next());
    match soft {
        Some("unlimited") => Memlock::Unlimited,
        Some(bytes) => bytes.parse().map_or(Memlock::Unknown, Memlock::Limit),
        None => Memlock::Unknown,
    }
}

/// Whether the limit on locked memory does not hold for this process: it has the capability, and has it in the
/// machine's own user namespace, not in one that a container made.
fn may_lock_all(root: &SysRoot) -> bool {
    let status = root.text("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    let map = root.text("/proc/self/uid_map").unwrap_or_default();
    effective >> CAP_IPC_LOCK & 1 == 1 && map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn hypervisor(root: &SysRoot) -> Option<String> {
    if let Some(kind) = root.label("/sys/hypervisor/type") {
        return Some(kind);
    }
    let cpus = root.text("/proc/cpuinfo").unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "hypervisor").then(|| {
        root.label("/sys/class/dmi/id/sys_vendor").unwrap_or_else(|| "one that gives no name".to_owned())
    })
}

fn device(root: &SysRoot, number: Option<DeviceNumber>, mount: Option<&Mount>) -> Option<BlockDevice> {
    // Filesystems that manage devices themselves, such as btrfs, give files a made-up device number.
    let by_number = number.and_then(|number| BlockDevice::read(root, number));
    by_number.or_else(|| {
        let source = Path::new(&mount?.source);
        if source.starts_with("/dev") { BlockDevice::read_by_file(root, source) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn a_whole_machine() {
        let fixture = Fixture::new();
        fixture.two_sockets();
        fixture.nvme();
        fixture.file("proc/sys/kernel/osrelease", "6.1.0-test\n");
        fixture.file("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");
        fixture.file("proc/cpuinfo", "processor : 0\nflags\t: fpu hypervisor sse\n");
        fixture.file("sys/class/dmi/id/sys_vendor", "QEMU\n");
        fixture.file("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-3\n");
        fixture.file(
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  8388608  8388608  bytes\n",
        );
        let report = fixture.report(0..8);
        assert_eq!(report.kernel.as_deref(), Some("6.1.0-test"));
        assert_eq!(report.hypervisor.as_deref(), Some("QEMU"));
        assert_eq!(report.topology.cores.len(), 4);
        assert_eq!(report.memory_bytes(), Some((16 << 30, "physical memory".to_owned())));
        assert_eq!(report.memlock, Memlock::Limit(8 << 20));
        assert_eq!(report.filesystem.as_deref(), Some("xfs"));
        assert_eq!(report.device.as_ref().unwrap().name, "nvme0n1");
        let text = report.to_string();
        for line in [
            "allowed CPUs: 0-7 (affinity and CPU set of this process)",
            "NUMA nodes: 2 (node 0: CPUs 0-1,4-5; node 1: CPUs 2-3,6-7)",
            "locked memory: 8 MiB (limit for registered buffers)",
            "CPU quota: none",
            "longest request: 128 KiB (queue/max_sectors_kb)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let elsewhere = Standpoint { allowed: None, ..fixture.standpoint(0..1) };
        assert_eq!(HardwareReport::read(&fixture.root(), &elsewhere).topology.allowed.to_string(), "0-3");
    }

    #[test]
    fn nothing_known() {
        let report = HardwareReport::read(&Fixture::new().root(), &Standpoint::default());
        assert_eq!(report.topology.allowed.to_string(), "0");
        assert_eq!((report.memory_bytes(), report.memlock), (None, Memlock::Unknown));
        assert_eq!((&report.device, &report.filesystem), (&None, &None));
        assert!(report.lines().iter().any(|line| line.name == "device" && line.value == "unknown"));
    }

    #[test]
    fn a_filesystem_with_made_up_device_numbers_is_found_by_its_source() {
        let fixture = Fixture::new();
        fixture.file("proc/self/mountinfo", "1 0 0:40 / / rw - btrfs /dev/sdb2 rw\n");
        fixture.file("sys/devices/ata1/block/sdb/sdb2/partition", "2\n");
        fixture.file("sys/devices/ata1/block/sdb/queue/rotational", "1\n");
        fixture.link("sys/class/block/sdb2", "../../devices/ata1/block/sdb/sdb2");
        let device = fixture.report(0..1).device.unwrap();
        assert_eq!((device.name.as_str(), device.rotational), ("sdb", Some(true)));
    }

    #[test]
    fn capability_in_a_container_does_not_lift_the_limit() {
        let fixture = Fixture::new();
        fixture.file("proc/self/status", "CapEff:\t0000000000004000\n");
        fixture.file(
            "proc/self/limits",
            "Max locked memory         65536                65536                bytes\n",
        );
        fixture.file("proc/self/uid_map", "0     100000      65536\n");
        assert_eq!(fixture.report(0..1).memlock, Memlock::Limit(65536));
        fixture.file("proc/self/uid_map", "         0          0 4294967295\n");
        assert_eq!(fixture.report(0..1).memlock, Memlock::Exempt);
    }

    #[test]
    fn this_machine_can_be_described() {
        let dir = tempfile::tempdir().unwrap();
        let report = HardwareReport::detect(&dir.path().join("not/yet/there")).unwrap();
        assert!(!report.topology.cores.is_empty());
        assert!(report.physical_memory_bytes.is_some());
        assert!(report.kernel.is_some() && report.filesystem.is_some());
        let held: usize = report.topology.cores.iter().map(|core| core.cpus.len()).sum();
        assert_eq!(held, report.topology.allowed.len());
    }

    #[test]
    fn a_path_through_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = HardwareReport::detect(&file.path().join("x")).unwrap_err();
        assert!(matches!(error, Error::Os { errno: libc::ENOTDIR, .. }), "{error}");
    }
}
