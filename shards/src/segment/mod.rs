//! Segments: immutable sorted files of one collection on one shard.
//!
//! Entries are in the order of [`crate::range::internal_order`]: keys ascending, and of one key the newest version
//! first, so that a reader meets the version it wants before the older ones. The layout of a file is in [`format`].
//!
//! A point read asks the filter, then the page index, both in memory, and reads one page in one device read.

mod builder;
mod cursor;
mod filter;
mod format;
mod index;
mod page;
mod reader;
#[cfg(test)]
mod tests;
mod verify;

pub use builder::{SegmentBuilder, SegmentConfig};
pub use cursor::{CursorOptions, SegmentCursor, Step};
pub use filter::{Filter, FilterBuilder, FilterKey, FilterPartitions, FilterStep};
pub use format::SegmentHome;
pub use index::{IndexWriter, PageIndex};
pub use page::{EntryRef, Lookup, Page, PageWriter};
pub use reader::{PageNo, Segment};
pub use verify::verify;
