//! The topology as the hwloc library sees it.

use std::collections::BTreeMap;

use hwlocality::object::types::ObjectType;

use super::cpu_set::{CPU_COUNT_MAX, CpuId, CpuSet, NodeId};
use super::topology::Topology;

impl Topology {
    /// Reads the topology of the allowed CPUs of this machine through hwloc. `None` if the library fails.
    #[must_use]
    pub fn read_hwloc(allowed: &CpuSet) -> Option<Self> {
        let machine = hwlocality::Topology::new().ok()?;
        let cpus_of = |object: &hwlocality::object::TopologyObject| -> CpuSet {
            let bits = object.cpuset().into_iter().flat_map(|set| {
                // A set may be endless.
                set.iter_set()
                    .map(usize::from)
                    .take_while(|bit| *bit < crate::num::to_usize(u64::from(CPU_COUNT_MAX)))
                    .collect::<Vec<_>>()
            });
            bits.filter_map(|bit| u32::try_from(bit).ok().map(CpuId)).collect()
        };
        let mut siblings: BTreeMap<CpuId, CpuSet> = BTreeMap::new();
        for core in machine.objects_with_type(ObjectType::Core) {
            let cpus = cpus_of(core);
            siblings.extend(cpus.iter().map(|cpu| (cpu, cpus.clone())));
        }
        let mut nodes: BTreeMap<CpuId, NodeId> = BTreeMap::new();
        for node in machine.objects_with_type(ObjectType::NUMANode) {
            let Some(id) = node.os_index().and_then(|index| u32::try_from(index).ok()) else { continue };
            for cpu in cpus_of(node).iter() {
                nodes.entry(cpu).or_insert(NodeId(id));
            }
        }
        Some(Self::assemble(
            allowed,
            |cpu| siblings.get(&cpu).cloned().unwrap_or_default(),
            |cpu| nodes.get(&cpu).copied().unwrap_or(NodeId(0)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu_set::affinity_of_this_thread;
    use super::super::sys_root::SysRoot;
    use super::*;

    #[test]
    fn hwloc_and_sysfs_agree_on_this_machine() {
        let allowed = affinity_of_this_thread().unwrap();
        let subset: CpuSet = allowed.iter().take(1).collect();
        for cpus in [&allowed, &subset] {
            let by_library = Topology::read_hwloc(cpus).unwrap();
            assert_eq!(by_library, Topology::read(&SysRoot::default(), cpus));
            assert_eq!(&by_library.allowed, cpus);
            assert!(!by_library.cores.is_empty());
        }
    }
}
