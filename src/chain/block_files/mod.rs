//! Reads the chain out of the block files of a Bitcoin Core node.
//!
//! A node appends every block it accepts to `blk00000.dat`, `blk00001.dat` and so on, in the order of arrival:
//! children may come before parents, and blocks of stale branches are among them.
//!
//! | Offset | Size | Field | Meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | of the network |
//! | 4 | 4 | size | of the block, little-endian |
//! | 8 | 80 | header | of the block |
//! | 88 | size - 80 | transactions | of the block |
//!
//! Records follow one another; the last file ends in zeros reserved for the next ones. If `xor.dat` holds a key of
//! eight bytes, every byte of a block file is the byte of the record XOR the key's byte at its offset modulo 8. The
//! reserved zeros are not.
//!
//! The work is done in two phases. [`BlockFiles::open`] reads the headers only, checks their proof of work, links
//! them and finds the chain with the most work. [`BlockFiles::blocks`] then delivers its blocks in order, read,
//! parsed and checked against their merkle roots by threads of its own.
//!
//! Damage in a file costs the blocks it hits. The chain ends before the first of them, and
//! [`BlockFiles::report`] tells what was found where.

mod error;
mod file;
mod reader;
mod scan;
mod tree;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use op_engine_io::num::to_u64;

pub use error::{BlockFileError, BlockFileWarning, Damage};
pub use reader::Blocks;
pub use scan::ScanReport;
pub use tree::{HeaderNode, HeaderTree, NodeId};
pub use writer::{BlockFileWriter, FILE_BYTES_MAX};

use super::ChainBlock;
use file::BlockFile;

/// The result of reading block files.
pub type Result<T, E = BlockFileError> = std::result::Result<T, E>;

/// How block files are read.
#[derive(Debug, Clone)]
pub struct BlockFilesOptions {
    /// The magic of the network. Without it, the magic of the first record that has a valid header.
    pub magic: Option<[u8; 4]>,
    /// The height of the first block, if the files do not begin at the genesis block. Without it, the height that
    /// the block's coinbase names (BIP 34).
    pub first_height: Option<u64>,
    /// How many threads read and parse. Start them from a thread that is not pinned to a shard's core: they
    /// inherit its cores.
    pub threads: usize,
    /// The largest block, in bytes.
    pub block_bytes_max: u32,
    /// How many bytes of blocks may be on their way to the caller. Parsed, a block takes about four times its bytes.
    pub inflight_bytes_max: u64,
    /// Whether witnesses are checked against the coinbase's commitment (BIP 141): the merkle root does not cover them.
    pub check_witnesses: bool,
}

impl Default for BlockFilesOptions {
    fn default() -> Self {
        Self {
            magic: None,
            first_height: None,
            threads: std::thread::available_parallelism().map_or(2, |threads| threads.get().min(8)),
            // The consensus limit on the serialised size.
            block_bytes_max: 4_000_000,
            inflight_bytes_max: 64 << 20,
            check_witnesses: true,
        }
    }
}

/// The block files of a directory, and the chain with the most work in them.
#[derive(Debug, Clone)]
pub struct BlockFiles {
    index: Arc<Index>,
}

/// What the threads of [`Blocks`] share.
#[derive(Debug)]
struct Index {
    files: Vec<BlockFile>,
    tree: HeaderTree,
    /// The best chain, from its first block to its tip.
    chain: Vec<NodeId>,
    first_height: u64,
    magic: [u8; 4],
    report: ScanReport,
    options: BlockFilesOptions,
}

impl BlockFiles {
    /// Finds the block files in `dir` or `dir/blocks` and reads their headers.
    ///
    /// # Errors
    /// If there are no block files, none of them holds a block, the magic cannot be told, or the height of the first
    /// block is not known. Damage to a file is no error but a warning in [`report`](Self::report).
    pub fn open(dir: impl AsRef<Path>, options: BlockFilesOptions) -> Result<Self> {
        let dir = dir.as_ref();
        let (files, magic, scanned, mut report) = scan::scan_directory(dir, &options)?;
        let tree = HeaderTree::link(scanned, &mut report)?;
        let chain = tree.best_chain();
        let Some(first) = chain.first().and_then(|id| tree.node(*id)) else {
            return Err(BlockFileError::NoBlocks { dir: dir.to_owned(), warnings: report.warnings });
        };
        let first_height = match options.first_height {
            Some(height) => height,
            None if tree.begins_at_genesis() => 0,
            None => reader::named_height(&files, first, &options)?,
        };
        report.stale = to_u64(tree.len() - chain.len()) - report.orphans;
        Ok(Self { index: Arc::new(Index { files, tree, chain, first_height, magic, report, options }) })
    }

    /// The magic of the network.
    #[must_use]
    pub fn magic(&self) -> [u8; 4] {
        self.index.magic
    }

    /// What the files hold, and what is wrong with them.
    #[must_use]
    pub fn report(&self) -> &ScanReport {
        &self.index.report
    }

    /// All headers.
    #[must_use]
    pub fn tree(&self) -> &HeaderTree {
        &self.index.tree
    }

    /// The height of the chain's first block: 0, unless the node has pruned its files.
    #[must_use]
    pub fn first_height(&self) -> u64 {
        self.index.first_height
    }

    /// The height of the chain's last block.
    #[must_use]
    pub fn tip_height(&self) -> u64 {
        // A chain has at least one block: `open` refuses files without any.
        self.index.first_height.saturating_add(to_u64(self.index.chain.len()).saturating_sub(1))
    }

    /// The hash of the chain's block at `height`.
    #[must_use]
    pub fn hash_at(&self, height: u64) -> Option<[u8; 32]> {
        self.index.node_at(height).map(|node| node.hash)
    }

    /// The chain's blocks from `from_height` to the tip. Reading starts at once, ahead of the caller, as far as
    /// [`BlockFilesOptions::inflight_bytes_max`] allows.
    ///
    /// # Errors
    /// If the chain begins above `from_height`, or no thread can be started.
    pub fn blocks(&self, from_height: u64) -> Result<Blocks> {
        if from_height < self.index.first_height {
            return Err(BlockFileError::BelowFirst { height: from_height, first: self.index.first_height });
        }
        Blocks::start(Arc::clone(&self.index), from_height)
    }

    /// Reads the chain's block at `height` on the calling thread.
    ///
    /// # Errors
    /// If it cannot be read, or is not what its header says.
    pub fn block_at(&self, height: u64) -> Result<Option<ChainBlock>> {
        self.index.node_at(height).map(|node| reader::read_block(&self.index, node, height)).transpose()
    }
}

impl Index {
    fn node_at(&self, height: u64) -> Option<&HeaderNode> {
        let position = usize::try_from(height.checked_sub(self.first_height)?).ok()?;
        self.tree.node(*self.chain.get(position)?)
    }
}
