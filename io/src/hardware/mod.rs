//! What the machine is, and which settings follow from it.
//!
//! [`HardwareReport::detect`] reads sysfs, procfs and cgroups; [`Tuning::derive`] turns the report into numbers, each
//! with a reason that a person can read. Nothing here opens a store or starts a thread.
//!
//! Whatever a file of the kernel contains, and whichever of them are missing, a report comes out: what could not be
//! read is `None`, and the tuning falls back to a default that it names.

mod cgroup;
mod cpu_set;
mod device;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod garbage_tests;
#[cfg(feature = "hwloc")]
mod hwloc;
mod line;
mod memory_split;
mod mounts;
mod overrides;
mod report;
mod sys_root;
mod topology;
mod tuning;
#[cfg(test)]
mod tuning_tests;

pub use cgroup::{CpuQuota, MemoryLimit};
pub use cpu_set::{CPU_COUNT_MAX, CpuId, CpuSet, NodeId};
pub use device::{BlockDevice, DeviceClass, DeviceNumber};
pub use line::Line;
pub use memory_split::MemorySplit;
pub use overrides::{CalibrationFigures, Overrides};
pub use report::{HardwareReport, Memlock, Standpoint};
pub use sys_root::SysRoot;
pub use topology::{Core, Topology};
pub use tuning::Tuning;
