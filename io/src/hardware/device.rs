//! The block device that holds the data.

use std::fmt;
use std::path::{Path, PathBuf};

use super::cpu_set::NodeId;
use super::line::{Bytes, Line};
use super::sys_root::SysRoot;

/// More layers of mapped devices than anybody stacks.
const LAYERS_MAX: usize = 8;

/// The number of a device, as `stat` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Its driver. 0 for filesystems without a device.
    pub major: u32,
    /// Which of the driver's devices it is.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a device is, as far as its queue depth depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceClass {
    /// NVMe.
    Nvme,
    /// A disk that a hypervisor provides, through virtio or Xen. What it says of rotation means nothing.
    Virtual,
    /// A disk with moving heads.
    Rotational,
    /// Any other device.
    SolidState,
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nvme => "NVMe",
            Self::Virtual => "virtual disk",
            Self::Rotational => "rotational disk",
            Self::SolidState => "solid-state disk",
        })
    }
}

/// A whole block device: of a partition, the disk it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name, such as `nvme0n1`.
    pub name: String,
    /// The disk below a mapped device (LVM, encryption, RAID), the first one if there are several; else the name.
    pub disk: String,
    /// The model that the disk reports.
    pub model: Option<String>,
    /// What it is.
    pub class: DeviceClass,
    /// Whether the kernel takes it for a disk with moving heads.
    pub rotational: Option<bool>,
    /// How many requests the disk's queue holds.
    pub nr_requests: Option<u32>,
    /// The I/O scheduler in use.
    pub scheduler: Option<String>,
    /// Whether written data may sit in a cache that needs a flush.
    pub volatile_cache: Option<bool>,
    /// Whether a single write can bypass that cache.
    pub fua: Option<bool>,
    /// The smallest unit that can be addressed.
    pub logical_block_bytes: Option<u32>,
    /// The smallest unit that is written without reading it first.
    pub physical_block_bytes: Option<u32>,
    /// The longest request; longer ones are split.
    pub request_bytes_max: Option<u64>,
    /// Whether completions can be polled for.
    pub io_poll: Option<bool>,
    /// The NUMA node that the disk is attached to.
    pub node: Option<NodeId>,
}

impl BlockDevice {
    /// Reads what sysfs knows of a device.
    #[must_use]
    pub fn read(root: &SysRoot, number: DeviceNumber) -> Option<Self> {
        Self::read_below(root, &format!("/sys/dev/block/{number}"))
    }

    /// Reads what sysfs knows of a device file, such as `/dev/mapper/data`.
    pub(super) fn read_by_file(root: &SysRoot, file: &Path) -> Option<Self> {
        let target = root.resolve(file).unwrap_or_else(|| file.to_owned());
        Self::read_below(root, &format!("/sys/class/block/{}", file_name(&target)?))
    }

    fn read_below(root: &SysRoot, link: &str) -> Option<Self> {
        let dir = whole_device(root, root.resolve(link)?);
        let disk_dir = lowest_disk(root, dir.clone());
        let disk = file_name(&disk_dir)?;
        let queue = |name: &str| dir.join("queue").join(name);
        let rotational = root.flag(queue("rotational"));
        Some(Self {
            name: file_name(&dir)?,
            class: class(&disk, &disk_dir, rotational),
            model: root.label(disk_dir.join("device/model")),
            rotational,
            nr_requests: root
                .value(disk_dir.join("queue/nr_requests"))
                .or_else(|| root.value(queue("nr_requests"))),
            scheduler: root.label(disk_dir.join("queue/scheduler")).and_then(|list| chosen(&list)),
            volatile_cache: match root.text(queue("write_cache")).as_deref() {
                Some("write back") => Some(true),
                Some("write through") => Some(false),
                _ => None,
            },
            fua: root.flag(queue("fua")),
            logical_block_bytes: root.value(queue("logical_block_size")),
            physical_block_bytes: root.value(queue("physical_block_size")),
            request_bytes_max: root.value::<u64>(queue("max_sectors_kb")).map(|kib| kib.saturating_mul(1024)),
            io_poll: root.flag(queue("io_poll")),
            node: node(root, &disk_dir),
            disk,
        })
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let yes_no = |flag: Option<bool>| flag.map(|flag| if flag { "yes" } else { "no" });
        let bytes = |value: Option<u64>| value.map(Bytes);
        let disk = if self.disk == self.name { String::new() } else { format!("on {}", self.disk) };
        vec![
            Line::new("device", &self.name, disk),
            Line::new("device class", self.class, ""),
            Line::known("model", self.model.as_ref(), ""),
            Line::known("rotational", yes_no(self.rotational), ""),
            Line::known("queue length", self.nr_requests, "queue/nr_requests"),
            Line::known("scheduler", self.scheduler.as_ref(), ""),
            Line::known("volatile write cache", yes_no(self.volatile_cache), "queue/write_cache"),
            Line::known("FUA", yes_no(self.fua), "writes that bypass the cache"),
            Line::known("logical block", bytes(self.logical_block_bytes.map(u64::from)), ""),
            Line::known("physical block", bytes(self.physical_block_bytes.map(u64::from)), ""),
            Line::known("longest request", bytes(self.request_bytes_max), "queue/max_sectors_kb"),
            Line::known("polling", yes_no(self.io_poll), "queue/io_poll"),
            Line::known("device node", self.node, "NUMA node of the device"),
        ]
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The disk of a partition.
fn whole_device(root: &SysRoot, dir: PathBuf) -> PathBuf {
    match dir.parent() {
        Some(parent) if root.exists(dir.join("partition")) => parent.to_owned(),
        _ => dir,
    }
}

/// The disk at the bottom of a stack of mapped devices.
fn lowest_disk(root: &SysRoot, mut dir: PathBuf) -> PathBuf {
    for _ in 0..LAYERS_MAX {
        let slaves = dir.join("slaves");
        let below = root.names(&slaves).into_iter().find_map(|name| root.resolve(slaves.join(name)));
        match below {
            Some(below) => dir = whole_device(root, below),
            None => break,
        }
    }
    dir
}

fn class(disk: &str, dir: &Path, rotational: Option<bool>) -> DeviceClass {
    let behind_virtio =
        dir.components().any(|part| part.as_os_str().to_str().is_some_and(|part| part.starts_with("virtio")));
    if disk.starts_with("nvme") {
        DeviceClass::Nvme
    } else if behind_virtio || disk.starts_with("vd") || disk.starts_with("xvd") {
        DeviceClass::Virtual
    } else if rotational == Some(true) {
        DeviceClass::Rotational
    } else {
        DeviceClass::SolidState
    }
}

/// The entry in brackets of a list of choices: `none [mq-deadline] kyber`.
fn chosen(list: &str) -> Option<String> {
    let (_, rest) = list.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The NUMA node of the nearest bus device above a disk. The kernel writes -1 for none.
fn node(root: &SysRoot, disk: &Path) -> Option<NodeId> {
    let file = disk.ancestors().map(|dir| dir.join("numa_node")).find(|file| root.exists(file))?;
    root.value(file).map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn a_partition_of_an_nvme_drive() {
        let fixture = Fixture::new();
        fixture.nvme();
        let device = BlockDevice::read(&fixture.root(), DeviceNumber { major: 259, minor: 1 }).unwrap();
        let expected = BlockDevice {
            name: "nvme0n1".into(),
            disk: "nvme0n1".into(),
            model: Some("Fast Drive 9000".into()),
            class: DeviceClass::Nvme,
            rotational: Some(false),
            nr_requests: Some(1023),
            scheduler: Some("none".into()),
            volatile_cache: Some(true),
            fua: Some(true),
            logical_block_bytes: Some(512),
            physical_block_bytes: Some(4096),
            request_bytes_max: Some(128 << 10),
            io_poll: Some(true),
            node: Some(NodeId(1)),
        };
        assert_eq!(device, expected);
    }

    #[test]
    fn a_mapped_device_is_judged_by_the_disk_below() {
        let fixture = Fixture::new();
        fixture.nvme();
        let mapped = "sys/devices/virtual/block/dm-0";
        fixture.file(&format!("{mapped}/queue/rotational"), "0\n");
        fixture.file(&format!("{mapped}/queue/nr_requests"), "128\n");
        fixture.link(
            &format!("{mapped}/slaves/nvme0n1p1"),
            "../../../../pci0000:80/0000:80:01.0/nvme/nvme0/nvme0n1/nvme0n1p1",
        );
        fixture.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0");
        fixture.file("dev/dm-0", "");
        fixture.link("dev/mapper/data", "../dm-0");
        let device = BlockDevice::read_by_file(&fixture.root(), Path::new("/dev/mapper/data")).unwrap();
        assert_eq!((device.name.as_str(), device.disk.as_str()), ("dm-0", "nvme0n1"));
        assert_eq!((device.class, device.nr_requests), (DeviceClass::Nvme, Some(1023)));
        assert_eq!(device.node, Some(NodeId(1)));
    }

    #[test]
    fn a_virtual_disk_that_claims_to_rotate_is_virtual() {
        let fixture = Fixture::new();
        fixture.file("sys/devices/pci0000:00/virtio1/block/vda/queue/rotational", "1\n");
        fixture.link("sys/dev/block/254:0", "../../devices/pci0000:00/virtio1/block/vda");
        let device = BlockDevice::read(&fixture.root(), DeviceNumber { major: 254, minor: 0 }).unwrap();
        assert_eq!((device.class, device.rotational, device.node), (DeviceClass::Virtual, Some(true), None));
        assert_eq!((device.nr_requests, device.fua, device.scheduler), (None, None, None));
    }

    #[test]
    fn devices_that_are_stacked_in_a_circle_end() {
        let fixture = Fixture::new();
        fixture.file("sys/devices/a/size", "1");
        fixture.link("sys/devices/a/slaves/a", "..");
        fixture.link("sys/dev/block/1:1", "../../devices/a");
        let device = BlockDevice::read(&fixture.root(), DeviceNumber { major: 1, minor: 1 }).unwrap();
        assert_eq!((device.name.as_str(), device.disk.as_str()), ("a", "a"));
        assert_eq!(BlockDevice::read(&fixture.root(), DeviceNumber { major: 0, minor: 45 }), None);
    }
}
