//! Files and directories: what is visible, what is durable, and what is on its way.
//!
//! | Event | strict | ext4 |
//! |---|---|---|
//! | write completes | visible, not durable | same |
//! | durable write completes | its pages, earlier completed writes of the file (see [`super::DurableCover`]) and the length needed | and all that an ext4 sync covers |
//! | sync of a file completes | writes of this file completed at submission, and the length needed | all data and metadata of all files completed at submission |
//! | sync of a directory completes | its entry operations completed at submission | same as above |
//!
//! What a crash makes of the rest is in the crash module.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inode::Inode;
use super::objects::{Objects, UploadId};
use super::options::Personality;
use super::pages::{PAGE_BYTES, WriteData};
use crate::env::{Dir, FileName};
use crate::num::to_u64;

/// Identifies a file whatever its name.
pub(super) type InodeId = u64;

/// A change of a directory that no sync has covered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) order: u64,
    pub(super) name: FileName,
    /// The file that the name leads to from then on; `None` for a removal.
    pub(super) target: Option<InodeId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct DirState {
    pub(super) current: BTreeMap<FileName, InodeId>,
    pub(super) durable: BTreeMap<FileName, InodeId>,
    /// In the order of completion.
    pub(super) pending: Vec<Entry>,
}

impl DirState {
    fn make_durable(&mut self, mark: u64) -> bool {
        let covered = self.pending.iter().take_while(|entry| entry.order <= mark).count();
        for entry in self.pending.drain(..covered) {
            apply(&mut self.durable, entry.name, entry.target);
        }
        covered > 0
    }

    fn knows(&self, inode: InodeId) -> bool {
        self.durable.values().any(|id| *id == inode)
            || self.pending.iter().any(|entry| entry.target == Some(inode))
    }
}

/// Changes the names of a directory by one entry operation.
pub(super) fn apply(names: &mut BTreeMap<FileName, InodeId>, name: FileName, target: Option<InodeId>) {
    match target {
        Some(inode) => names.insert(name, inode),
        None => names.remove(&name),
    };
}

/// An operation that was submitted and has not completed.
#[derive(Debug, Clone)]
pub(super) enum InFlight {
    Write { inode: InodeId, first: usize, data: WriteData },
    Create { name: FileName },
    Remove { name: FileName },
    CreateDir { dir: Dir },
    ColdFinish { upload: UploadId },
    ColdRemove { name: FileName },
}

impl InFlight {
    /// Whether it is on its way to the cold target.
    pub(super) fn is_cold(&self) -> bool {
        matches!(self, Self::ColdFinish { .. } | Self::ColdRemove { .. })
    }
}

/// A name is taken or missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameError {
    Missing,
    Taken,
}

/// The files and directories of a simulated machine. A clone is a fork that shares all content with the original.
#[derive(Debug, Clone)]
pub struct SimDisk {
    pub(super) inodes: BTreeMap<InodeId, Arc<Inode>>,
    pub(super) dirs: BTreeMap<Dir, Arc<DirState>>,
    /// By the number of the operation.
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    /// The cold target, which is on no disk of this machine and yet outlives it with this one.
    pub(super) objects: Objects,
    /// Counts completed changes.
    order: u64,
    next_inode: InodeId,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// A disk with an empty store directory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inodes: BTreeMap::new(),
            dirs: BTreeMap::from([(Dir::Root, Arc::default())]),
            in_flight: BTreeMap::new(),
            objects: Objects::default(),
            order: 0,
            next_inode: 0,
        }
    }

    /// How many operations have been submitted and not completed.
    #[must_use]
    pub fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// The number of the last completed change: what a sync submitted at this moment covers.
    pub(super) fn mark(&self) -> u64 {
        self.order
    }

    pub(super) fn advance(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn new_inode(&mut self, inode: Inode) -> InodeId {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Arc::new(inode));
        self.next_inode
    }

    pub(super) fn inode(&self, inode: InodeId) -> Option<&Inode> {
        self.inodes.get(&inode).map(Arc::as_ref)
    }

    pub(super) fn inode_mut(&mut self, inode: InodeId) -> Option<&mut Inode> {
        self.inodes.get_mut(&inode).map(Arc::make_mut)
    }

    pub(super) fn dir_mut(&mut self, dir: Dir) -> Option<&mut DirState> {
        self.dirs.get_mut(&dir).map(Arc::make_mut)
    }

    pub(super) fn lookup(&self, name: FileName) -> Option<InodeId> {
        self.dirs.get(&name.dir)?.current.get(&name).copied()
    }

    pub(super) fn write(&mut self, inode: InodeId, first: usize, data: &WriteData) {
        let order = self.advance();
        if let Some(inode) = self.inode_mut(inode) {
            inode.write(order, first, data);
        }
    }

    pub(super) fn write_durable(&mut self, inode: InodeId, first: usize, data: &WriteData) {
        self.advance();
        if let Some(inode) = self.inode_mut(inode) {
            inode.write_durable(first, data);
        }
    }

    pub(super) fn sync_file(&mut self, inode: InodeId, mark: u64, personality: Personality) {
        match personality {
            Personality::Strict => {
                if let Some(inode) = self.inode_mut(inode) {
                    inode.make_durable(mark);
                }
            }
            Personality::Ext4 => self.sync_all(mark),
        }
    }

    pub(super) fn sync_dir(
        &mut self,
        dir: Dir,
        mark: u64,
        personality: Personality,
    ) -> Result<(), NameError> {
        if !self.dirs.contains_key(&dir) {
            return Err(NameError::Missing);
        }
        match personality {
            Personality::Strict => {
                if self.dir_mut(dir).is_some_and(|state| state.make_durable(mark)) {
                    self.collect_unlinked();
                }
            }
            Personality::Ext4 => self.sync_all(mark),
        }
        Ok(())
    }

    /// What a sync covers under ext4: every change that had completed by `mark`.
    pub(super) fn sync_all(&mut self, mark: u64) {
        for inode in self.inodes.values_mut().filter(|inode| !inode.unsynced.is_empty()) {
            Arc::make_mut(inode).make_durable(mark);
        }
        let mut changed = false;
        for dir in self.dirs.values_mut().filter(|dir| !dir.pending.is_empty()) {
            changed |= Arc::make_mut(dir).make_durable(mark);
        }
        if changed {
            self.collect_unlinked();
        }
    }

    pub(super) fn create(&mut self, name: FileName) -> Result<InodeId, NameError> {
        match self.dirs.get(&name.dir) {
            None => return Err(NameError::Missing),
            Some(dir) if dir.current.contains_key(&name) => return Err(NameError::Taken),
            Some(_) => {}
        }
        let inode = self.new_inode(Inode::new(name));
        self.enter(name, Some(inode));
        Ok(inode)
    }

    pub(super) fn remove(&mut self, name: FileName) -> Result<(), NameError> {
        let inode = self.lookup(name).ok_or(NameError::Missing)?;
        self.enter(name, None);
        if let Some(inode) = self.inode_mut(inode) {
            inode.linked = false;
        }
        Ok(())
    }

    fn enter(&mut self, name: FileName, target: Option<InodeId>) {
        let order = self.advance();
        if let Some(dir) = self.dir_mut(name.dir) {
            apply(&mut dir.current, name, target);
            dir.pending.push(Entry { order, name, target });
        }
    }

    /// Creates a directory whose name is durable at once.
    pub(super) fn create_dir(&mut self, dir: Dir) {
        self.dirs.entry(dir).or_default();
    }

    pub(super) fn list(&self, dir: Dir) -> Vec<FileName> {
        self.dirs.get(&dir).map(|dir| dir.current.keys().copied().collect()).unwrap_or_default()
    }

    pub(super) fn add_handle(&mut self, inode: InodeId) {
        if let Some(inode) = self.inode_mut(inode) {
            inode.handles += 1;
        }
    }

    pub(super) fn drop_handle(&mut self, inode: InodeId) {
        let Some(state) = self.inode_mut(inode) else { return };
        state.handles = state.handles.saturating_sub(1);
        if state.handles == 0 && !state.linked {
            self.collect_unlinked();
        }
    }

    /// Forgets the handles of a machine that has stopped.
    pub(super) fn drop_handles(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.handles > 0) {
            Arc::make_mut(inode).handles = 0;
        }
        self.collect_unlinked();
    }

    /// Drops the files that no handle uses and no name, visible, durable or pending, can lead to again.
    fn collect_unlinked(&mut self) {
        let dirs = &self.dirs;
        self.inodes.retain(|id, inode| {
            inode.linked || inode.handles > 0 || dirs.get(&inode.name.dir).is_some_and(|dir| dir.knows(*id))
        });
    }

    /// The bytes of every file that a name or a handle leads to.
    pub(super) fn used_bytes(&self) -> u64 {
        let live = self.inodes.values().filter(|inode| inode.linked || inode.handles > 0);
        live.map(|inode| to_u64(inode.current.allocated().saturating_mul(PAGE_BYTES))).sum()
    }
}
