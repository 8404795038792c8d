//! The objects of the simulated cold target, and what a crash makes of them.
//!
//! | Crash while | the object afterwards |
//! |---|---|
//! | an upload goes on | as it was before; the upload leaves a remnant or nothing |
//! | finish is in flight | the old one or the new one, as a whole |
//! | remove is in flight | there or not |
//!
//! What has completed is durable under either personality: a target that says so keeps its word. Data without it is
//! what an upload holds, and nobody can read that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{InFlight, SimDisk};
use super::rng::Rng;
use crate::env::{Dir, FileName};
use crate::num::{to_u64, to_usize};

/// Identifies an upload whatever its name.
pub(super) type UploadId = u64;

/// The bytes of an upload that goes on.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) name: FileName,
    pub(super) bytes: Arc<Vec<u8>>,
}

/// What is on the target.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) finished: BTreeMap<FileName, Arc<Vec<u8>>>,
    pub(super) uploads: BTreeMap<UploadId, Upload>,
    /// Names whose uploads an earlier life has left behind.
    pub(super) remnants: BTreeSet<FileName>,
}

impl Objects {
    /// The bytes of all objects and uploads.
    pub(super) fn used_bytes(&self) -> u64 {
        let uploads = self.uploads.values().map(|upload| &upload.bytes);
        self.finished.values().chain(uploads).map(|bytes| to_u64(bytes.len())).sum()
    }

    pub(super) fn finish(&mut self, upload: UploadId) {
        if let Some(upload) = self.uploads.remove(&upload) {
            self.finished.insert(upload.name, upload.bytes);
        }
    }

    pub(super) fn list(&mut self, dir: Dir) -> Vec<FileName> {
        self.remnants.retain(|name| name.dir != dir);
        self.finished.keys().filter(|name| name.dir == dir).copied().collect()
    }

    /// What is left of uploads when the machine that made them has gone.
    pub(super) fn end_life(&mut self) {
        for upload in std::mem::take(&mut self.uploads).into_values() {
            self.remnants.insert(upload.name);
        }
    }

    /// What may be found after a crash: what was in flight has happened or has not.
    pub(super) fn crash<'a>(&mut self, in_flight: impl Iterator<Item = &'a InFlight>, rng: &mut Rng) {
        for operation in in_flight {
            match operation {
                InFlight::ColdFinish { upload } if rng.coin() => self.finish(*upload),
                InFlight::ColdRemove { name } if rng.coin() => drop(self.finished.remove(name)),
                _ => {}
            }
        }
        for upload in std::mem::take(&mut self.uploads).into_values() {
            if rng.coin() {
                self.remnants.insert(upload.name);
            }
        }
    }
}

/// Reading and damaging the cold target from a test, with no machine running.
impl SimDisk {
    /// The names of all finished objects of the cold target, in order.
    #[must_use]
    pub fn cold_files(&self) -> Vec<FileName> {
        self.objects.finished.keys().copied().collect()
    }

    /// The names under which unfinished uploads have left something in the cold target, in order.
    #[must_use]
    pub fn cold_remnants(&self) -> Vec<FileName> {
        self.objects.remnants.iter().copied().collect()
    }

    /// The bytes of an object of the cold target.
    #[must_use]
    pub fn read_cold(&self, name: FileName) -> Option<Vec<u8>> {
        self.objects.finished.get(&name).map(|bytes| bytes.to_vec())
    }

    /// Puts an object with these bytes in the cold target.
    pub fn write_cold(&mut self, name: FileName, bytes: &[u8]) {
        self.objects.finished.insert(name, Arc::new(bytes.to_vec()));
    }

    /// Changes the bytes of an object from `offset` to its end. False if there is no such object or it ends before
    /// `offset`.
    pub fn corrupt_cold(&mut self, name: FileName, offset: u64, change: impl FnOnce(&mut [u8])) -> bool {
        let bytes = self.objects.finished.get_mut(&name).map(Arc::make_mut);
        let tail = bytes.and_then(|bytes| bytes.get_mut(to_usize(offset)..)).filter(|tail| !tail.is_empty());
        tail.map(change).is_some()
    }

    /// Sets the length of an object; zeros follow its old end. False if there is none.
    pub fn truncate_cold(&mut self, name: FileName, len: u64) -> bool {
        let bytes = self.objects.finished.get_mut(&name).map(Arc::make_mut);
        bytes.map(|bytes| bytes.resize(to_usize(len), 0)).is_some()
    }

    /// Removes an object. False if there is none.
    pub fn remove_cold(&mut self, name: FileName) -> bool {
        self.objects.finished.remove(&name).is_some()
    }
}
