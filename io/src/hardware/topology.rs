//! Cores, their hardware threads and their NUMA nodes.

use std::collections::BTreeMap;

use super::cpu_set::{CpuId, CpuSet, NodeId};
use super::sys_root::SysRoot;

/// A physical core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its hardware threads that this process may use. Never empty.
    pub cpus: CpuSet,
    /// Its NUMA node; 0 where the kernel knows no nodes.
    pub node: NodeId,
}

/// The part of the machine that this process may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The CPUs that this process may use.
    pub allowed: CpuSet,
    /// The cores that have at least one of them, in the order of their lowest CPU.
    pub cores: Vec<Core>,
}

impl Topology {
    /// Reads the topology of the allowed CPUs from sysfs.
    ///
    /// A CPU of which nothing can be read is a core of its own on node 0.
    #[must_use]
    pub fn read(root: &SysRoot, allowed: &CpuSet) -> Self {
        let siblings_of = |cpu: CpuId| {
            let dir = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            // The first name is newer, the second is there on every kernel.
            let list = root
                .filled_text(format!("{dir}/core_cpus_list"))
                .or_else(|| root.filled_text(format!("{dir}/thread_siblings_list")));
            list.and_then(|list| CpuSet::parse(&list)).unwrap_or_default()
        };
        let nodes = nodes(root);
        Self::assemble(allowed, siblings_of, |cpu| nodes.get(&cpu).copied().unwrap_or(NodeId(0)))
    }

    /// Groups the allowed CPUs into cores. Inconsistent siblings still give disjoint cores.
    pub(super) fn assemble(
        allowed: &CpuSet,
        siblings_of: impl Fn(CpuId) -> CpuSet,
        node_of: impl Fn(CpuId) -> NodeId,
    ) -> Self {
        let mut placed = CpuSet::default();
        let mut cores = Vec::new();
        for cpu in allowed.iter() {
            if !placed.insert(cpu) {
                continue;
            }
            let mut cpus: CpuSet =
                siblings_of(cpu).iter().filter(|cpu| allowed.contains(*cpu) && placed.insert(*cpu)).collect();
            cpus.insert(cpu);
            cores.push(Core { cpus, node: node_of(cpu) });
        }
        Self { allowed: allowed.clone(), cores }
    }

    /// The NUMA nodes with the allowed CPUs of each.
    #[must_use]
    pub fn nodes(&self) -> BTreeMap<NodeId, CpuSet> {
        let mut nodes: BTreeMap<NodeId, CpuSet> = BTreeMap::new();
        for core in &self.cores {
            let node = nodes.entry(core.node).or_default();
            core.cpus.iter().for_each(|cpu| {
                node.insert(cpu);
            });
        }
        nodes
    }

    /// The most hardware threads that one core has.
    #[must_use]
    pub fn threads_per_core(&self) -> usize {
        self.cores.iter().map(|core| core.cpus.len()).max().unwrap_or(0)
    }
}

/// The NUMA node of every CPU that a node claims. The lowest node wins where two claim one.
fn nodes(root: &SysRoot) -> BTreeMap<CpuId, NodeId> {
    let mut nodes = BTreeMap::new();
    let mut ids: Vec<u32> = root
        .names("/sys/devices/system/node")
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .collect();
    ids.sort_unstable();
    for id in ids {
        let list = root.text(format!("/sys/devices/system/node/node{id}/cpulist"));
        for cpu in list.and_then(|list| CpuSet::parse(&list)).unwrap_or_default().iter() {
            nodes.entry(cpu).or_insert(NodeId(id));
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn cpus(list: &str) -> CpuSet {
        CpuSet::parse(list).unwrap()
    }

    #[test]
    fn two_sockets_with_hardware_threads() {
        let fixture = Fixture::new();
        fixture.two_sockets();
        let topology = Topology::read(&fixture.root(), &cpus("0-7"));
        let found: Vec<_> = topology.cores.iter().map(|core| (core.cpus.to_string(), core.node.0)).collect();
        let expected = [("0,4", 0), ("1,5", 0), ("2,6", 1), ("3,7", 1)];
        assert_eq!(found, expected.map(|(list, node)| (list.to_owned(), node)));
        assert_eq!(topology.nodes()[&NodeId(1)], cpus("2-3,6-7"));
        assert_eq!(topology.threads_per_core(), 2);
    }

    #[test]
    fn only_allowed_cpus_count() {
        let fixture = Fixture::new();
        fixture.two_sockets();
        let topology = Topology::read(&fixture.root(), &cpus("1,4-5,7"));
        let found: Vec<_> = topology.cores.iter().map(|core| core.cpus.to_string()).collect();
        assert_eq!(found, ["1,5", "4", "7"]);
    }

    #[test]
    fn without_sysfs_each_cpu_is_a_core() {
        let topology = Topology::read(&Fixture::new().root(), &cpus("0-2"));
        assert_eq!(topology.cores.len(), 3);
        assert!(topology.cores.iter().all(|core| core.node == NodeId(0) && core.cpus.len() == 1));
    }

    #[test]
    fn contradicting_siblings_give_disjoint_cores() {
        let fixture = Fixture::new();
        fixture.topology(&[(0, "0-1"), (1, "1-2"), (2, "0-2"), (3, "nonsense")], &[(0, "0-2"), (1, "2-3")]);
        let topology = Topology::read(&fixture.root(), &cpus("0-3"));
        let found: Vec<_> = topology.cores.iter().map(|core| (core.cpus.to_string(), core.node.0)).collect();
        assert_eq!(found, [("0-1", 0), ("2", 0), ("3", 1)].map(|(list, node)| (list.to_owned(), node)));
    }
}
