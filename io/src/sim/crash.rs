//! What is left when the power fails or the process is killed.
//!
//! | Crash | strict | ext4 |
//! |---|---|---|
//! | unsynced sector | independently the durable version or any newer one; noise if a write was in flight | same, but pages never written read zeros until a sync or the journal covers them |
//! | length | the durable one or any newer one, independent of content | as of the point that the journal reached |
//! | names | each pending entry applied or not | a prefix of the pending entries of all directories |
//!
//! Each write draws how it fares as a whole (kept, lost, torn more or less), because sectors drawn one by one from even
//! odds would hardly ever keep or lose a large write as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::{DirState, InFlight, InodeId, SimDisk, apply};
use super::inode::Inode;
use super::options::Personality;
use super::pages::{ALL_SECTORS, Content, PAGE_BYTES, Page, WriteData, merge};
use super::rng::Rng;
use crate::env::FileName;
use crate::num::to_u64;

/// How the parts of one write, or the entries of one directory, fare in a crash.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Even,
    MostlyKept,
    MostlyLost,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 | 1 => Self::Lost,
            2 | 3 => Self::Kept,
            4 | 5 => Self::Even,
            6 => Self::MostlyKept,
            _ => Self::MostlyLost,
        }
    }

    /// Which of eight sectors are kept.
    fn mask(self, rng: &mut Rng) -> u8 {
        match self {
            Self::Lost => 0,
            Self::Kept => ALL_SECTORS,
            Self::Even => rng.byte(),
            Self::MostlyKept => rng.byte() | rng.byte() | rng.byte(),
            Self::MostlyLost => rng.byte() & rng.byte() & rng.byte(),
        }
    }

    fn keeps(self, rng: &mut Rng) -> bool {
        self.mask(rng) & 1 == 1
    }
}

impl SimDisk {
    /// An image that may be found after a loss of power at this moment.
    #[must_use]
    pub fn crash(&self, seed: u64, personality: Personality) -> Self {
        let mut rng = Rng::new(seed ^ 0x00C7_A511_D15C);
        let mut base = self.clone();
        let mut names_move = true;
        if personality == Personality::Ext4 {
            let orders = base.pending_orders();
            let reached = match rng.below(4) {
                0 => 0,
                1 => orders.len(),
                _ => rng.index(orders.len() + 1),
            };
            names_move = reached == orders.len();
            base.sync_all(reached.checked_sub(1).and_then(|last| orders.get(last)).copied().unwrap_or(0));
        }

        let mut image = Self::new();
        for (dir, state) in &base.dirs {
            let mut names = state.durable.clone();
            if personality == Personality::Strict {
                choose_entries(&mut names, state, &mut rng);
            }
            image.create_dir(*dir);
            image.adopt(&base, personality, &names, &mut rng);
        }
        if names_move {
            image.choose_in_flight_entries(&base, &mut rng);
        }
        image.objects = base.objects.clone();
        image.objects.crash(base.in_flight.values(), &mut rng);
        image
    }

    /// An image that may be found after the process was killed at this moment and the machine went on: what completed
    /// is there, though still not durable; what was in flight happened or did not.
    #[must_use]
    pub fn kill(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0000_D1ED_900D);
        let mut image = self.clone();
        let (cold, files): (Vec<InFlight>, Vec<InFlight>) =
            std::mem::take(&mut image.in_flight).into_values().partition(InFlight::is_cold);
        for operation in files {
            if rng.coin() {
                image.finish(&operation);
            }
        }
        image.objects.crash(cold.iter(), &mut rng);
        image.drop_handles();
        image
    }

    /// Applies an operation that was in flight as if it had completed, without making it durable.
    fn finish(&mut self, operation: &InFlight) {
        match operation {
            InFlight::Write { inode, first, data } => self.write(*inode, *first, data),
            // A name taken or gone by then leaves nothing to do.
            InFlight::Create { name } => drop(self.create(*name)),
            InFlight::Remove { name } => drop(self.remove(*name)),
            InFlight::CreateDir { dir } => self.create_dir(*dir),
            InFlight::ColdFinish { .. } | InFlight::ColdRemove { .. } => {}
        }
    }

    /// When each change that is not durable completed, in order.
    fn pending_orders(&self) -> Vec<u64> {
        let writes = self.inodes.values().flat_map(|inode| inode.unsynced.iter().map(|record| record.order));
        let entries = self.dirs.values().flat_map(|dir| dir.pending.iter().map(|entry| entry.order));
        let mut orders: Vec<u64> = writes.chain(entries).collect();
        orders.sort_unstable();
        orders
    }

    /// Takes over the files that `names` lead to, as the crash left them.
    fn adopt(
        &mut self,
        base: &Self,
        personality: Personality,
        names: &BTreeMap<FileName, InodeId>,
        rng: &mut Rng,
    ) {
        for (name, id) in names {
            let Some(inode) = base.inode(*id) else { continue };
            let in_flight: Vec<(usize, &WriteData)> = base
                .in_flight
                .values()
                .filter_map(|operation| match operation {
                    InFlight::Write { inode, first, data } if inode == id => Some((*first, data)),
                    _ => None,
                })
                .collect();
            let survivor = Torn { inode, in_flight, personality }.draw(rng);
            self.put(*name, survivor);
        }
    }

    /// Enters a file under a durable name.
    pub(super) fn put(&mut self, name: FileName, inode: Inode) {
        self.create_dir(name.dir);
        let id = self.new_inode(inode);
        if let Some(dir) = self.dir_mut(name.dir) {
            dir.current.insert(name, id);
            dir.durable.insert(name, id);
        }
    }

    /// Takes a name out of a directory, durably.
    pub(super) fn take(&mut self, name: FileName) -> bool {
        let Some(id) = self.lookup(name) else { return false };
        if let Some(dir) = self.dir_mut(name.dir) {
            dir.pending.retain(|entry| entry.name != name);
            dir.current.remove(&name);
            dir.durable.remove(&name);
        }
        self.inodes.remove(&id);
        true
    }

    fn choose_in_flight_entries(&mut self, base: &Self, rng: &mut Rng) {
        for operation in base.in_flight.values() {
            if matches!(operation, InFlight::Write { .. }) || operation.is_cold() || rng.coin() {
                continue;
            }
            match operation {
                InFlight::Create { name }
                    if self.lookup(*name).is_none() && self.dirs.contains_key(&name.dir) =>
                {
                    self.put(*name, Inode::new(*name));
                }
                InFlight::Remove { name } => {
                    self.take(*name);
                }
                InFlight::CreateDir { dir } => self.create_dir(*dir),
                InFlight::Create { .. }
                | InFlight::Write { .. }
                | InFlight::ColdFinish { .. }
                | InFlight::ColdRemove { .. } => {}
            }
        }
    }
}

fn choose_entries(names: &mut BTreeMap<FileName, InodeId>, dir: &DirState, rng: &mut Rng) {
    let fate = Fate::draw(rng);
    for entry in &dir.pending {
        if fate.keeps(rng) {
            apply(names, entry.name, entry.target);
        }
    }
}

/// A file in the moment of a crash.
struct Torn<'a> {
    inode: &'a Inode,
    in_flight: Vec<(usize, &'a WriteData)>,
    personality: Personality,
}

impl Torn<'_> {
    fn draw(&self, rng: &mut Rng) -> Inode {
        let mut content = self.inode.durable.clone();
        for record in &self.inode.unsynced {
            let fate = Fate::draw(rng);
            for (at, dirty) in (record.first..).zip(&record.pages).filter(|(_, dirty)| dirty.live) {
                self.keep(&mut content, at, &dirty.data, fate.mask(rng));
            }
        }
        for (first, data) in &self.in_flight {
            let fate = Fate::draw(rng);
            let noisy = rng.chance(2_500);
            for (at, page) in (*first..).zip(data.iter()) {
                let kept = fate.mask(rng);
                self.keep(&mut content, at, &page, kept);
                if noisy {
                    let noise = Fate::MostlyLost.mask(rng) & !kept;
                    self.add_noise(&mut content, at, noise, rng);
                }
            }
        }
        let len = self.draw_len(rng);
        content.cut(len);
        Inode::settled(self.inode.name, content, len)
    }

    /// Whether a page that no sync covers can have any content but zeros.
    fn can_change(&self, at: usize) -> bool {
        self.personality == Personality::Strict || self.inode.durable.page(at).is_some()
    }

    fn keep(&self, content: &mut Content, at: usize, page: &Page, mask: u8) {
        if mask != 0 && self.can_change(at) {
            let merged = merge(content.page(at), page, mask);
            content.set(at, merged);
        }
    }

    fn add_noise(&self, content: &mut Content, at: usize, mask: u8, rng: &mut Rng) {
        if mask != 0 && self.can_change(at) {
            let mut noise = [0; PAGE_BYTES];
            rng.fill(&mut noise);
            self.keep(content, at, &Arc::new(noise), mask);
        }
    }

    fn draw_len(&self, rng: &mut Rng) -> u64 {
        let durable = self.inode.durable_len;
        if self.personality == Personality::Ext4 {
            return durable;
        }
        let mut lens = vec![durable];
        lens.extend(self.inode.unsynced.iter().map(|record| record.end).filter(|end| *end > durable));
        for (first, data) in &self.in_flight {
            lens.push(data.end(*first));
            // A write that grows the file may have got part of the way.
            let reached = first.saturating_add(rng.index(data.pages()));
            lens.push(to_u64(reached.saturating_mul(PAGE_BYTES)));
        }
        lens.get(rng.index(lens.len())).copied().unwrap_or(durable).max(durable)
    }
}
