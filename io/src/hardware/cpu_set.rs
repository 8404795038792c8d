//! Sets of CPUs.

use std::collections::BTreeSet;
use std::fmt;

/// No Linux kernel is built for more CPUs. Lists that name a higher one are malformed.
pub const CPU_COUNT_MAX: u32 = 8192;

/// A CPU as the kernel numbers them: one hardware thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of CPUs, in order. Printed as the kernel does: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<CpuId>);

impl CpuSet {
    /// Reads the kernel's list format, such as `0-3,8`. `None` if it is malformed or names a CPU that cannot be.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().ok()?;
            let last: u32 = last.trim().parse().ok()?;
            if first > last || last >= CPU_COUNT_MAX {
                return None;
            }
            cpus.extend((first..=last).map(CpuId));
        }
        Some(Self(cpus))
    }

    /// Whether a CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.contains(&cpu)
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0.iter().copied()
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest CPU.
    #[must_use]
    pub fn first(&self) -> Option<CpuId> {
        self.0.first().copied()
    }

    pub(super) fn insert(&mut self, cpu: CpuId) -> bool {
        self.0.insert(cpu)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| next.0 == last.0.saturating_add(1)) {
                last = next;
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// The CPUs that the calling thread may run on, which a CPU set of a cgroup has already narrowed.
pub(super) fn affinity_of_this_thread() -> Option<CpuSet> {
    const WORDS: usize = CPU_COUNT_MAX.div_ceil(u64::BITS) as usize;
    let mut mask = [0_u64; WORDS];
    // SAFETY: the kernel writes at most the given number of bytes to the mask, which is that long, aligned at least as
    // strictly as `cpu_set_t`, and valid for any bit pattern.
    let status =
        unsafe { libc::sched_getaffinity(0, size_of_val(&mask), (&raw mut mask).cast::<libc::cpu_set_t>()) };
    if status != 0 {
        return None;
    }
    let cpus = (0..CPU_COUNT_MAX)
        .zip(mask.iter().flat_map(|word| (0..u64::BITS).map(move |bit| word >> bit & 1 == 1)));
    let cpus: CpuSet = cpus.filter(|(_, allowed)| *allowed).map(|(cpu, _)| CpuId(cpu)).collect();
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for list in ["", "0", "0-3", "0-3,8", "1,3,5-7,64-127"] {
            assert_eq!(CpuSet::parse(list).unwrap().to_string(), list);
        }
        assert_eq!(CpuSet::parse("3,1-2\n").unwrap().to_string(), "1-3");
    }

    #[test]
    fn malformed_lists_are_refused_without_building_them() {
        for list in ["a", "3-1", "-", "1-", "0-4294967295", "8192", "-1", "1 2", "99999999999"] {
            assert_eq!(CpuSet::parse(list), None, "{list}");
        }
    }

    #[test]
    fn this_thread_may_run_somewhere() {
        let listed = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let listed = listed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        assert_eq!(affinity_of_this_thread(), CpuSet::parse(listed));
    }
}
