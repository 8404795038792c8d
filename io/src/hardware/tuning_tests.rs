//! Settings derived for made-up machines.

use std::path::PathBuf;

use super::fixture::Fixture;
use super::*;
use crate::error::Error;
use crate::sync_mode::SyncMode;

const GIB: u64 = 1 << 30;

/// Two sockets of two cores with two threads each, an NVMe drive on node 1, 16 GiB, no limits.
fn machine() -> HardwareReport {
    let fixture = Fixture::new();
    fixture.two_sockets();
    fixture.nvme();
    fixture.file("proc/meminfo", "MemTotal:       16777216 kB\n");
    HardwareReport { memlock: Memlock::Unlimited, ..fixture.report(0..8) }
}

fn cores(count: u32) -> HardwareReport {
    let allowed: CpuSet = (0..count).map(CpuId).collect();
    HardwareReport { topology: Topology::read(&Fixture::new().root(), &allowed), ..machine() }
}

fn quota(report: HardwareReport, quota_us: u64) -> HardwareReport {
    let source = PathBuf::from("/sys/fs/cgroup/cpu.max");
    HardwareReport { cpu_quota: Some(CpuQuota { quota_us, period_us: 100_000, source }), ..report }
}

fn derive(report: &HardwareReport) -> Tuning {
    Tuning::derive(report, &Overrides::default(), None).unwrap()
}

fn refused(overrides: &Overrides) -> &'static str {
    match Tuning::derive(&machine(), overrides, None).unwrap_err() {
        Error::Setting { name, why, .. } if !why.is_empty() => name,
        error => panic!("{error}"),
    }
}

fn ids(cpus: &[CpuId]) -> Vec<u32> {
    cpus.iter().map(|cpu| cpu.0).collect()
}

#[test]
fn a_server_uses_its_cores_near_the_device_first() {
    let tuning = derive(&machine());
    assert_eq!((tuning.shards, ids(&tuning.shard_cpus)), (4, vec![2, 3, 0, 1]));
    assert_eq!((tuning.read_depth, tuning.sync_mode), (128, SyncMode::Linked));
    assert_eq!((tuning.arena_bytes, tuning.arena_registered), (8 << 20, true));
    assert_eq!(tuning.memory_budget_bytes, 4 * GIB);
    assert_eq!(tuning.memory.memtable_bytes, 4 * GIB * 95 / 100 * 40 / 95);
    let text = tuning.to_string();
    for line in [
        "shards: 4 (4 physical cores allowed)",
        "shard CPUs: 2,3,0,1 (distinct physical cores, those on the device's NUMA node 1 first)",
        "read depth: 128 (start for NVMe)",
        "arena per shard: 8 MiB, registered (the default)",
        "memory budget: 4 GiB (a quarter of 16 GiB, from physical memory)",
        "read cache: 1.2 GiB (30 parts of 100 of the budget)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_number_of_shards_follows_cores_and_quota() {
    let expected = [(1, 1), (2, 2), (4, 4), (5, 4), (8, 7), (64, 63), (65, 64), (200, 64)];
    for (count, shards) in expected {
        assert_eq!(derive(&cores(count)).shards, shards, "{count} cores");
    }
    for (quota_us, shards) in [(50_000, 1), (250_000, 2), (500_000, 4), (10_000_000, 7)] {
        assert_eq!(derive(&quota(cores(8), quota_us)).shards, shards, "{quota_us} us");
    }
    let line = derive(&quota(cores(8), 250_000)).lines()[0].to_string();
    assert_eq!(
        line,
        "shards: 2 (8 physical cores allowed, but a quota of 2.50 CPUs from /sys/fs/cgroup/cpu.max)"
    );
}

#[test]
fn little_memory_means_few_shards() {
    let limit = MemoryLimit { bytes: 128 << 20, source: PathBuf::from("/sys/fs/cgroup/memory.max") };
    let tuning = derive(&HardwareReport { memory_limit: Some(limit), ..cores(64) });
    assert_eq!((tuning.shards, tuning.memory_budget_bytes), (4, 64 << 20));
    assert_eq!(tuning.arena_bytes, 4 << 20);
    let unknown = derive(&HardwareReport { physical_memory_bytes: None, ..cores(2) });
    assert_eq!(unknown.memory_budget_bytes, 64 << 20);
}

#[test]
fn more_shards_than_cores_use_threads_and_then_share() {
    let overrides = Overrides { shards: Some(10), ..Overrides::default() };
    let tuning = Tuning::derive(&machine(), &overrides, None).unwrap();
    assert_eq!(ids(&tuning.shard_cpus), [2, 3, 0, 1, 6, 7, 4, 5, 2, 3]);
}

#[test]
fn the_read_depth_follows_the_device() {
    let device = machine().device.unwrap();
    let depth = |class, nr_requests| {
        let device = Some(BlockDevice { class, nr_requests, rotational: Some(true), ..device.clone() });
        derive(&HardwareReport { device, ..machine() }).read_depth
    };
    assert_eq!(depth(DeviceClass::Nvme, None), 128);
    assert_eq!(depth(DeviceClass::Virtual, Some(256)), 32);
    assert_eq!(depth(DeviceClass::Rotational, Some(64)), 8);
    assert_eq!(depth(DeviceClass::SolidState, Some(64)), 16);
    assert_eq!(depth(DeviceClass::Nvme, Some(2)), 1);
    assert_eq!(depth(DeviceClass::Nvme, Some(0)), 128);
    assert_eq!(derive(&HardwareReport { device: None, ..machine() }).read_depth, 32);
}

#[test]
fn calibration_beats_the_hardware_and_the_hand_beats_both() {
    let figures = CalibrationFigures { read_depth: Some(512), sync_mode: Some(SyncMode::Dsync) };
    let tuning = Tuning::derive(&machine(), &Overrides::default(), Some(&figures)).unwrap();
    assert_eq!((tuning.read_depth, tuning.sync_mode), (512, SyncMode::Dsync));
    let overrides =
        Overrides { read_depth: Some(3), sync_mode: Some(SyncMode::WriteThenSync), ..Overrides::default() };
    let tuning = Tuning::derive(&machine(), &overrides, Some(&figures)).unwrap();
    assert_eq!((tuning.read_depth, tuning.sync_mode), (3, SyncMode::WriteThenSync));
    let useless = CalibrationFigures { read_depth: Some(0), sync_mode: None };
    assert_eq!(Tuning::derive(&machine(), &Overrides::default(), Some(&useless)).unwrap().read_depth, 128);
}

#[test]
fn the_arena_fits_the_locked_memory() {
    let arena = |memlock, overrides: &Overrides| {
        let tuning = Tuning::derive(&HardwareReport { memlock, ..machine() }, overrides, None).unwrap();
        (tuning.arena_bytes, tuning.arena_registered)
    };
    let none = Overrides::default();
    let eight = 8 << 20;
    assert_eq!(arena(Memlock::Exempt, &none), (eight, true));
    assert_eq!(arena(Memlock::Limit(eight), &none), ((eight - eight / 8) / 4, true));
    assert_eq!(arena(Memlock::Limit(64 << 10), &none), (eight, false));
    assert_eq!(arena(Memlock::Limit(0), &none), (eight, false));
    assert_eq!(arena(Memlock::Unknown, &none), (eight, false));
    let off = Overrides { arena_bytes: Some(0), ..Overrides::default() };
    assert_eq!(arena(Memlock::Unlimited, &off), (eight, false));
    let by_hand = Overrides { arena_bytes: Some(3 << 20), ..Overrides::default() };
    assert_eq!(arena(Memlock::Limit(eight), &by_hand), (3 << 20, false));
    assert_eq!(arena(Memlock::Unlimited, &by_hand), (3 << 20, true));
}

#[test]
fn values_set_by_hand_are_kept() {
    let overrides = Overrides {
        shard_cpus: Some(vec![CpuId(7), CpuId(0)]),
        memory_budget_bytes: Some(100 << 30),
        filter_bytes: Some(1 << 30),
        ..Overrides::default()
    };
    let tuning = Tuning::derive(&machine(), &overrides, None).unwrap();
    assert_eq!((tuning.shards, ids(&tuning.shard_cpus)), (2, vec![7, 0]));
    assert_eq!((tuning.memory_budget_bytes, tuning.memory.filter_bytes), (100 << 30, 1 << 30));
    assert!(
        tuning
            .to_string()
            .contains("memory budget: 100 GiB (set by hand, although physical memory is only 16 GiB)")
    );
}

#[test]
fn values_that_cannot_be_used_are_refused_by_name() {
    let none = Overrides::default();
    assert_eq!(refused(&Overrides { shards: Some(0), ..none.clone() }), "shards");
    assert_eq!(refused(&Overrides { shards: Some(1025), ..none.clone() }), "shards");
    assert_eq!(refused(&Overrides { shard_cpus: Some(vec![]), ..none.clone() }), "shard_cpus");
    assert_eq!(refused(&Overrides { shard_cpus: Some(vec![CpuId(8)]), ..none.clone() }), "shard_cpus");
    let two_for_one =
        Overrides { shards: Some(1), shard_cpus: Some(vec![CpuId(0), CpuId(1)]), ..none.clone() };
    assert_eq!(refused(&two_for_one), "shards");
    assert_eq!(refused(&Overrides { read_depth: Some(0), ..none.clone() }), "read_depth");
    assert_eq!(refused(&Overrides { read_depth: Some(u32::MAX), ..none.clone() }), "read_depth");
    assert_eq!(refused(&Overrides { arena_bytes: Some(1), ..none.clone() }), "arena_bytes");
    assert_eq!(
        refused(&Overrides { memory_budget_bytes: Some((16 << 20) - 1), ..none.clone() }),
        "memory_budget_bytes"
    );
    let crowded = Overrides { shards: Some(64), memory_budget_bytes: Some(16 << 20), ..none.clone() };
    assert_eq!(refused(&crowded), "memory_budget_bytes");
    assert_eq!(refused(&Overrides { memtable_bytes: Some(u64::MAX), ..none }), "memory_budget_bytes");
}

#[test]
fn an_unknown_machine_still_runs() {
    let report = HardwareReport::read(&Fixture::new().root(), &Standpoint::default());
    let tuning = derive(&report);
    assert_eq!((tuning.shards, ids(&tuning.shard_cpus), tuning.read_depth), (1, vec![0], 32));
    assert_eq!(tuning.lines().len(), 10);
}
