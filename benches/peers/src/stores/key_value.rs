//! What the peers have in common: tables of bytes, and batches that change several of them at once.

use super::{Table, Visit, VisitRow};
use crate::Result;

/// A table of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// One that every store has.
    Data(Table),
    /// Undo records by height and number of the part.
    Undo,
    /// The tip, and how many parts each undo record has.
    Meta,
}

impl Space {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Data(Table::Coins),
        Self::Data(Table::Scripts),
        Self::Data(Table::Slots),
        Self::Data(Table::Transactions),
        Self::Data(Table::Ids),
        Self::Data(Table::Headers),
        Self::Undo,
        Self::Meta,
    ];

    /// Its number.
    pub fn number(self) -> usize {
        match self {
            Self::Data(table) => table as usize,
            Self::Undo => 6,
            Self::Meta => 7,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ["coins", "scripts", "slots", "transactions", "ids", "headers", "undo", "meta"][self.number()]
    }

    /// Whether point reads of it occur: then a filter is worth its memory.
    pub fn is_read_by_key(self) -> bool {
        !matches!(self, Self::Data(Table::Scripts) | Self::Undo)
    }
}

/// One change of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change<'a> {
    /// Where.
    pub space: Space,
    /// The key.
    pub key: &'a [u8],
    /// The value; none to delete.
    pub value: Option<&'a [u8]>,
}

/// An ordered key-value store with several tables.
pub trait KeyValue {
    /// Whether a batch is applied faster in the order of its keys.
    const SORTED: bool;
    /// The largest value that it stores well.
    const VALUE_BYTES_MAX: usize;

    fn get(&mut self, space: Space, key: &[u8], visit: &mut Visit) -> Result<()>;
    fn get_many(&mut self, space: Space, keys: &[&[u8]], visit: &mut Visit) -> Result<()>;
    /// Applies all changes, or none.
    fn apply(&mut self, changes: &[Change], durable: bool) -> Result<()>;
    fn scan(&mut self, space: Space, visit: &mut VisitRow) -> Result<()>;
    fn settle(&mut self) -> Result<()>;
    fn close(self) -> Result<()>;
}
