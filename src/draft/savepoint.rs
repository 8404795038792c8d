//! What takes changes back: a list of what records were before, and the places in it to go back to.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Before;
use crate::error::{Error, Result};

/// No two savepoints of a process are the same, so none is taken for one of another overlay.
static LAST_SAVEPOINT: AtomicU64 = AtomicU64::new(0);

/// A state of an overlay to go back to.
///
/// Savepoints nest. [`Overlay::rollback`](super::Overlay::rollback) and
/// [`Overlay::release`](super::Overlay::release) end it, and with it all that were taken after it. One that is dropped
/// lasts until one before it ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a savepoint that is dropped cannot be rolled back to"]
pub struct Savepoint(u64);

/// What a change of one record has replaced.
#[derive(Debug)]
struct Undo {
    /// The position of its table.
    table: usize,
    before: Before,
}

impl Undo {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.before.heap_bytes()
    }
}

#[derive(Debug)]
struct Mark {
    savepoint: u64,
    /// How many undos there were when it was taken.
    undos: usize,
}

/// What the changes since the oldest open savepoint have replaced. A record is in it once for each savepoint after
/// which it was changed, however often.
#[derive(Debug, Default)]
pub(super) struct UndoList {
    undos: Vec<Undo>,
    /// The open savepoints, oldest first.
    marks: Vec<Mark>,
    bytes: usize,
}

impl UndoList {
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.marks.len() * size_of::<Mark>()
    }

    /// What remembering a record will take, beside the value that it had.
    pub(super) fn bytes_of(key: &[u8]) -> usize {
        size_of::<Undo>() + key.len()
    }

    pub(super) fn savepoint(&mut self) -> Savepoint {
        let savepoint = LAST_SAVEPOINT.fetch_add(1, Ordering::Relaxed) + 1;
        self.marks.push(Mark { savepoint, undos: self.undos.len() });
        Savepoint(savepoint)
    }

    /// The newest open savepoint.
    pub(super) fn newest(&self) -> Option<u64> {
        self.marks.last().map(|mark| mark.savepoint)
    }

    pub(super) fn remember(&mut self, table: usize, before: Before) {
        let undo = Undo { table, before };
        self.bytes += undo.bytes();
        self.undos.push(undo);
    }

    /// Ends a savepoint and all after it. Gives what the changes since then have replaced, the newest first.
    pub(super) fn roll_back(&mut self, to: &Savepoint) -> Result<impl Iterator<Item = (usize, Before)>> {
        let at = self.position(to)?;
        let undos = self.marks.get(at).map_or(self.undos.len(), |mark| mark.undos);
        self.marks.truncate(at);
        self.bytes -= self.undos.iter().skip(undos).map(Undo::bytes).sum::<usize>();
        Ok(self.undos.drain(undos..).rev().map(|undo| (undo.table, undo.before)))
    }

    /// Ends a savepoint and all after it, and keeps what was changed.
    pub(super) fn release(&mut self, savepoint: &Savepoint) -> Result<()> {
        let at = self.position(savepoint)?;
        self.marks.truncate(at);
        if self.marks.is_empty() {
            self.undos.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    fn position(&self, savepoint: &Savepoint) -> Result<usize> {
        self.marks.binary_search_by_key(&savepoint.0, |mark| mark.savepoint).map_err(|_| Error::SavepointGone)
    }
}
