//! Trees of `/sys` and `/proc` files, made for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{CpuId, CpuSet, DeviceNumber, HardwareReport, Standpoint, SysRoot};

/// A made-up machine.
pub(super) struct Fixture {
    dir: TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(super) fn root(&self) -> SysRoot {
        SysRoot::new(self.dir.path())
    }

    pub(super) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        symlink(target, place).unwrap();
    }

    fn place(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// The CPUs with their siblings, as lists, and the nodes' CPUs.
    pub(super) fn topology(&self, siblings: &[(u32, &str)], nodes: &[(u32, &str)]) {
        for (cpu, list) in siblings {
            self.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), list);
        }
        for (node, list) in nodes {
            self.file(&format!("sys/devices/system/node/node{node}/cpulist"), list);
        }
    }

    /// Two sockets of two cores with two threads each: core n has the CPUs n and n + 4, socket 1 the cores 2 and 3.
    pub(super) fn two_sockets(&self) {
        let siblings: Vec<(u32, String)> =
            (0..8).map(|cpu| (cpu, format!("{},{}\n", cpu % 4, cpu % 4 + 4))).collect();
        let siblings: Vec<(u32, &str)> = siblings.iter().map(|(cpu, list)| (*cpu, list.as_str())).collect();
        self.topology(&siblings, &[(0, "0-1,4-5\n"), (1, "2-3,6-7\n")]);
    }

    /// An NVMe drive on NUMA node 1 with a partition, device number 259:1, mounted on `/data`.
    pub(super) fn nvme(&self) {
        let pci = "sys/devices/pci0000:80/0000:80:01.0";
        let disk = format!("{pci}/nvme/nvme0/nvme0n1");
        self.file(&format!("{pci}/numa_node"), "1\n");
        self.file(&format!("{disk}/device/model"), "Fast Drive 9000   \n");
        self.file(&format!("{disk}/nvme0n1p1/partition"), "1\n");
        for (name, content) in [
            ("rotational", "0"),
            ("nr_requests", "1023"),
            ("scheduler", "[none] mq-deadline"),
            ("write_cache", "write back"),
            ("fua", "1"),
            ("logical_block_size", "512"),
            ("physical_block_size", "4096"),
            ("max_sectors_kb", "128"),
            ("io_poll", "1"),
        ] {
            self.file(&format!("{disk}/queue/{name}"), format!("{content}\n"));
        }
        self.link(
            "sys/dev/block/259:1",
            "../../devices/pci0000:80/0000:80:01.0/nvme/nvme0/nvme0n1/nvme0n1p1",
        );
        self.file(
            "proc/self/mountinfo",
            "22 1 0:5 / /proc rw - proc proc rw\n\
             23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
             24 23 259:1 / /data rw,relatime shared:2 - xfs /dev/nvme0n1p1 rw\n",
        );
    }

    /// What a process sees that may run on `cpus` and whose data lies in `/data/store` on device 259:1.
    pub(super) fn standpoint(&self, cpus: std::ops::Range<u32>) -> Standpoint {
        Standpoint {
            allowed: Some(cpus.map(CpuId).collect::<CpuSet>()),
            data_path: PathBuf::from("/data/store"),
            device: Some(DeviceNumber { major: 259, minor: 1 }),
        }
    }

    pub(super) fn report(&self, cpus: std::ops::Range<u32>) -> HardwareReport {
        HardwareReport::read(&self.root(), &self.standpoint(cpus))
    }
}
