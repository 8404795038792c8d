//! Reading and damaging files from a test, with no machine running.

use super::disk::SimDisk;
use super::inode::Inode;
use super::pages::{Content, split};
use crate::env::FileName;
use crate::num::{to_u64, to_usize};

impl SimDisk {
    /// The names of all files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<FileName> {
        self.dirs.values().flat_map(|dir| dir.current.keys().copied()).collect()
    }

    /// What reads of a file see.
    #[must_use]
    pub fn read_file(&self, name: FileName) -> Option<Vec<u8>> {
        let inode = self.inode(self.lookup(name)?)?;
        let mut bytes = vec![0; to_usize(inode.len)];
        inode.current.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a file with this content in place, its name and directory included. All of it is durable.
    pub fn write_file(&mut self, name: FileName, bytes: &[u8]) {
        self.take(name);
        let mut content = Content::default();
        for (at, page) in split(bytes).iter().enumerate() {
            content.set(at, page.clone());
        }
        self.put(name, Inode::settled(name, content, to_u64(bytes.len())));
    }

    /// Changes the bytes of a file from `offset` to its end. The whole file is durable afterwards, and so is its
    /// name. False if there is no such file or it ends before `offset`.
    pub fn corrupt(&mut self, name: FileName, offset: u64, change: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut bytes) = self.read_file(name) else { return false };
        let Some(tail) = bytes.get_mut(to_usize(offset)..).filter(|tail| !tail.is_empty()) else {
            return false;
        };
        change(tail);
        self.write_file(name, &bytes);
        true
    }

    /// Inverts one bit of a file. False if there is no such file or byte.
    pub fn flip_bit(&mut self, name: FileName, offset: u64, bit: u8) -> bool {
        self.corrupt(name, offset, |bytes| {
            if let Some(byte) = bytes.first_mut() {
                *byte ^= 1 << (bit % 8);
            }
        })
    }

    /// Removes a file, durably. False if there is none.
    pub fn remove_file(&mut self, name: FileName) -> bool {
        self.take(name)
    }

    /// Sets the length of a file, durably; zeros follow its old end. False if there is none.
    pub fn truncate_file(&mut self, name: FileName, len: u64) -> bool {
        let Some(mut bytes) = self.read_file(name) else { return false };
        bytes.resize(to_usize(len), 0);
        self.write_file(name, &bytes);
        true
    }

    /// Removes a directory with its files, durably.
    pub fn remove_dir(&mut self, dir: crate::env::Dir) {
        for name in self.list(dir) {
            self.take(name);
        }
        if dir != crate::env::Dir::Root {
            self.dirs.remove(&dir);
        }
    }
}
