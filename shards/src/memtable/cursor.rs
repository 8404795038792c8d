//! Going through a range of a memtable that changes meanwhile.

use std::cell::RefCell;
use std::ops::Bound;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::ids::{CollectionId, Seq};
use crate::range::{Direction, KeyRange};
use crate::segment::EntryRef;

use super::Memtable;
use super::arena::Handle;
use super::records::VersionAt;
use super::slots::Keys;

/// Goes through a range of a memtable that others may add to meanwhile: it holds no borrow between steps. Entries
/// added behind it are missed and entries added before it are met, which is right for any view older than them.
///
/// It looks up some keys at once, more of them each time, and remembers where they lie: no key ever moves.
#[derive(Debug)]
pub struct MemtableCursor {
    memtable: Rc<RefCell<Memtable>>,
    collection: CollectionId,
    range: KeyRange,
    direction: Direction,
    /// Keys that were looked up at once, and how many of them are behind.
    keys: Vec<Handle>,
    keys_behind: usize,
    keys_at_once: usize,
    /// The key of the current entry.
    key: Vec<u8>,
    /// Its versions to come, the next one last.
    versions: SmallVec<[VersionAt; 2]>,
    /// The value of the current entry, unless it is a tombstone.
    value: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    At { seq: Seq, tombstone: bool },
    End,
}

impl MemtableCursor {
    const KEYS_FIRST: usize = 8;
    const KEYS_MAX: usize = 256;

    /// Before the first entry of a range.
    #[must_use]
    pub fn new(
        memtable: Rc<RefCell<Memtable>>,
        collection: CollectionId,
        range: KeyRange,
        direction: Direction,
    ) -> Self {
        Self {
            memtable,
            collection,
            range,
            direction,
            keys: Vec::new(),
            keys_behind: 0,
            keys_at_once: Self::KEYS_FIRST,
            key: Vec::new(),
            versions: SmallVec::new(),
            value: Vec::new(),
            state: State::Start,
        }
    }

    /// Goes to the next entry; `false` past the last one.
    pub fn advance(&mut self) -> bool {
        if self.versions.is_empty() && !self.next_key() {
            self.state = State::End;
            return false;
        }
        let memtable = self.memtable.borrow();
        let Some(at) = self.versions.pop() else {
            self.state = State::End;
            return false;
        };
        let version = memtable.records.version(at);
        self.value.clear();
        self.value.extend_from_slice(version.value.unwrap_or_default());
        self.state = State::At { seq: version.seq, tombstone: version.value.is_none() };
        true
    }

    /// The entry that the cursor is at.
    #[must_use]
    pub fn entry(&self) -> Option<EntryRef<'_>> {
        let State::At { seq, tombstone } = self.state else { return None };
        Some(EntryRef { key: &self.key, seq, value: (!tombstone).then_some(&self.value) })
    }

    fn next_key(&mut self) -> bool {
        if self.keys_behind == self.keys.len() && !self.look_up_keys() {
            return false;
        }
        let memtable = self.memtable.borrow();
        let Some(first) = self.keys.get(self.keys_behind) else { return false };
        self.keys_behind += 1;
        self.key.clear();
        self.key.extend_from_slice(memtable.records.key(*first));
        self.versions.extend(memtable.records.versions(*first).map(|version| version.at));
        if self.direction == Direction::Forward {
            self.versions.reverse();
        }
        true
    }

    /// Looks up the next keys. After the last one no more come, whatever is added.
    fn look_up_keys(&mut self) -> bool {
        match (&self.state, self.direction) {
            (State::Start, _) => {}
            (State::At { .. }, Direction::Forward) => self.range.start = Bound::Excluded(self.key.clone()),
            (State::At { .. }, Direction::Backward) => self.range.end = Bound::Excluded(self.key.clone()),
            (State::End, _) => return false,
        }
        let memtable = self.memtable.borrow();
        self.keys.clear();
        self.keys_behind = 0;
        if let Some(walk) = memtable.walk(self.collection, self.range.start(), self.range.end()) {
            match self.direction {
                Direction::Forward => self.keys.extend(walk.take(self.keys_at_once)),
                Direction::Backward => self.keys.extend(walk.rev().take(self.keys_at_once)),
            }
        }
        self.keys_at_once = (self.keys_at_once * 2).min(Self::KEYS_MAX);
        !self.keys.is_empty()
    }
}
