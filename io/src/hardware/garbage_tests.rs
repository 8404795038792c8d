//! Whatever the kernel's files contain, a report and a tuning come out.

use std::path::PathBuf;

use proptest::prelude::*;

use super::fixture::Fixture;
use super::{CpuSet, DeviceNumber, HardwareReport, Overrides, Standpoint, Tuning};

/// Every file that the report reads on a machine of one CPU.
const FILES: [&str; 33] = [
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/self/cgroup",
    "proc/self/limits",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/self/uid_map",
    "proc/sys/kernel/osrelease",
    "sys/class/dmi/id/sys_vendor",
    "sys/devices/disk/block/sda/device/model",
    "sys/devices/disk/block/sda/queue/fua",
    "sys/devices/disk/block/sda/queue/io_poll",
    "sys/devices/disk/block/sda/queue/logical_block_size",
    "sys/devices/disk/block/sda/queue/max_sectors_kb",
    "sys/devices/disk/block/sda/queue/nr_requests",
    "sys/devices/disk/block/sda/queue/physical_block_size",
    "sys/devices/disk/block/sda/queue/rotational",
    "sys/devices/disk/block/sda/queue/scheduler",
    "sys/devices/disk/block/sda/queue/write_cache",
    "sys/devices/disk/block/sda/slaves/x",
    "sys/devices/disk/numa_node",
    "sys/devices/system/cpu/cpu0/topology/core_cpus_list",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/devices/system/cpu/online",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node99999999999/cpulist",
    "sys/fs/cgroup/cpu.cfs_period_us",
    "sys/fs/cgroup/cpu.cfs_quota_us",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory.high",
    "sys/fs/cgroup/memory.limit_in_bytes",
    "sys/fs/cgroup/memory.max",
    "sys/hypervisor/type",
];

/// Any bytes, and texts that are close to what the parsers look for.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "18446744073709551615",
        "9223372036854771712",
        "0-8191",
        "0-8192",
        "7-3",
        "max",
        "-",
        ",",
        " ",
        ":",
        "\n",
        "/",
        "..",
        "\\",
        "\\040",
        "\\777",
        "[",
        "]",
        "é",
        "\0",
        "MemTotal:",
        "kB",
        "Max locked memory ",
        "CapEff:",
        "ffffffffffffffff",
        "Cpus_allowed_list:",
        "unlimited",
        "0::/",
        "1:cpu:/",
        "2:memory:/a",
        "1 0 0:1 / / rw - cgroup2 c rw",
        "1 0 0:1 / /sys/fs/cgroup rw - cgroup c cpu,memory",
        " - ",
        "/dev/sda",
        "write back",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_content_stops_a_report(contents in prop::collection::vec(prop::option::of(content()), FILES.len())) {
        let fixture = Fixture::new();
        fixture.link("sys/dev/block/8:0", "../../devices/disk/block/sda");
        for (file, content) in FILES.iter().zip(&contents) {
            if let Some(content) = content {
                fixture.file(file, content);
            }
        }
        let standpoint = Standpoint {
            allowed: None,
            data_path: PathBuf::from("/data"),
            device: Some(DeviceNumber { major: 8, minor: 0 }),
        };
        let report = HardwareReport::read(&fixture.root(), &standpoint);
        prop_assert!(!report.topology.cores.is_empty());
        let printable = report.lines().iter().all(|line| !line.to_string().contains(char::is_control));
        prop_assert!(printable);
        let tuning = Tuning::derive(&report, &Overrides::default(), None).unwrap();
        prop_assert!(tuning.shards >= 1 && usize::from(tuning.shards) == tuning.shard_cpus.len());
        prop_assert!(tuning.shard_cpus.iter().all(|cpu| report.topology.allowed.contains(*cpu)));
        prop_assert!(tuning.read_depth >= 1);
    }

    #[test]
    fn no_text_stops_the_list_parser(text in "[0-9,\\- a]{0,24}") {
        if let Some(cpus) = CpuSet::parse(&text) {
            prop_assert_eq!(CpuSet::parse(&cpus.to_string()), Some(cpus));
        }
    }
}
