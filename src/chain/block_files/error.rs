//! What can go wrong with block files.

use std::fmt;
use std::path::PathBuf;

/// Why block files, or a block in them, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockFileError {
    /// The directory has no block files.
    #[error("{} has no block files (blk00000.dat and so on): give the data or blocks directory of a node", .dir.display())]
    NoBlockFiles {
        /// The directory.
        dir: PathBuf,
    },
    /// There are block files, but no block in them.
    #[error(
        "the block files in {} hold no block of this network ({} warnings): check the magic and that xor.dat belongs \
         to the files",
        .dir.display(), .warnings.len()
    )]
    NoBlocks {
        /// The directory.
        dir: PathBuf,
        /// What the files hold instead.
        warnings: Vec<BlockFileWarning>,
    },
    /// No file begins with a block, so the network is not known.
    #[error(
        "no block file in {} begins with a block: give the magic of the network, and check that xor.dat belongs to \
         the files",
        .dir.display()
    )]
    UnknownMagic {
        /// The directory.
        dir: PathBuf,
    },
    /// The key file does not hold a key.
    #[error("{} holds {len} bytes, a key has 8: copy it from the node again", .file.display())]
    BadXorKey {
        /// The key file.
        file: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The operating system refused.
    #[error("could not {op} {} at offset {offset}: {source}", .file.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// Where in the file, in bytes; 0 for the whole.
        offset: u64,
        /// The reason.
        source: std::io::Error,
    },
    /// The bytes of a record are not a block.
    #[error("{} is damaged at offset {offset}: block {height} cannot be parsed: {what}. {REMEDY}", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
        /// The height of the block.
        height: u64,
        /// Why not.
        what: String,
    },
    /// The transactions of a block are not those its header commits to.
    #[error("{} is damaged at offset {offset}: block {height} does not match its merkle root. {REMEDY}", .file.display())]
    MerkleMismatch {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
        /// The height of the block.
        height: u64,
    },
    /// The witnesses of a block are not those its coinbase commits to.
    #[error(
        "{} is damaged at offset {offset}: block {height} does not match its witness commitment. {REMEDY}",
        .file.display()
    )]
    WitnessMismatch {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
        /// The height of the block.
        height: u64,
    },
    /// A record is not the one that was there when the headers were read.
    #[error("{} has changed at offset {offset} since it was opened: open the block files again", .file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
    },
    /// The chain does not begin at the genesis block, and its first block does not name its height.
    #[error(
        "the first block, in {} at offset {offset}, does not name its height (BIP 34): give the height of the first \
         block",
        .file.display()
    )]
    UnknownHeight {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
    },
    /// The files do not reach down to a height.
    #[error(
        "the block files begin at height {first}, block {height} was asked for: use a node that is not pruned"
    )]
    BelowFirst {
        /// The height asked for.
        height: u64,
        /// The first height there is.
        first: u64,
    },
    /// There are more headers than the index can number.
    #[error("the block files hold more than {max} headers")]
    TooManyHeaders {
        /// The limit.
        max: u32,
    },
    /// A thread could not be started.
    #[error("could not start a thread that reads blocks: {source}")]
    Thread {
        /// The reason.
        source: std::io::Error,
    },
    /// Parsing a record panicked.
    #[error("a bug: reading {} at offset {offset} panicked. Please report it, with the record", .file.display())]
    Panicked {
        /// The file.
        file: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
    },
    /// The threads that read ended before their work was done.
    #[error("a bug: the threads that read blocks ended early. Please report it")]
    ReadersEnded,
}

const REMEDY: &str = "Let the node fetch the block again, or use files of another node";

/// Something in a block file that is not a block of the network. What comes before it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFileWarning {
    /// The file.
    pub file: PathBuf,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// What it is.
    pub damage: Damage,
}

/// What is wrong at a place in a block file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Bytes that belong to no record lie before the next record or the end of the file.
    Garbage {
        /// How many.
        bytes: u64,
    },
    /// A record goes beyond the end of the file, and no other one follows.
    TornRecord {
        /// How many bytes it should have, with its magic and size.
        announced: u64,
        /// How many there are.
        available: u64,
    },
    /// A record whose header has no valid proof of work.
    BadHeader,
    /// The file cannot be read from here on.
    Unreadable {
        /// Why.
        cause: String,
    },
}

impl fmt::Display for BlockFileWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: ", self.file.display(), self.offset)?;
        match &self.damage {
            Damage::Garbage { bytes } => write!(f, "{bytes} bytes belong to no record"),
            Damage::TornRecord { announced, available } => {
                write!(f, "a record of {announced} bytes is cut off after {available}")
            }
            Damage::BadHeader => f.write_str("a block header has no valid proof of work"),
            Damage::Unreadable { cause } => write!(f, "the rest cannot be read: {cause}"),
        }
    }
}
