//! Segments: immutable sorted files of one collection on one shard.
//!
//! Entries are in the order of [`crate::range::internal_order`]: keys ascending, and of one key the newest version
//! first, so that a reader meets the version it wants before the older ones. The layout of a file is in [`format`].
//!
//! A point read asks the filter, then the page index, both in memory if the budget allows, and reads one page in one
//! device read. What of them is not in memory is read first, in partitions.

mod builder;
mod cold_pages;
mod cold_part;
mod cursor;
mod directory;
mod filter;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod index;
mod packing;
mod page;
mod page_end;
#[cfg(test)]
mod partition_tests;
mod partitions;
mod reader;
mod resident;
#[cfg(test)]
mod tests;
mod trim;
#[cfg(test)]
mod trim_tests;
mod verify;

pub use builder::{SegmentBuilder, SegmentConfig};
pub use cold_pages::ColdPace;
pub use cold_part::{ObjectUse, restore};
pub use cursor::{CursorOptions, SegmentCursor, Step};
pub use directory::Partition;
pub use filter::filter_partition_of;
pub use filter::{FilterBits, FilterBuilder, FilterKey, FilterPartition, FilterPartitions, FilterStep};
pub use format::SegmentHome;
pub use index::{Bound, IndexPart, IndexPartition, IndexWriter, PageNo, PagePlace, Span};
pub use packing::Compression;
pub use page::{EntryRef, Lookup, Page, PageWriter};
pub use partitions::Completeness;
pub use reader::{Candidate, Fetched, Segment};
pub use resident::{Loaded, PartitionBytes, PartitionCache};
pub use verify::{VerifyScope, verify};
