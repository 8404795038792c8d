//! What can go wrong, as users see it.

use std::path::PathBuf;

use op_engine_shards::{BlockHash, Height};

use crate::engine::TokenError;
use crate::key::KeyError;
use crate::value::ValueError;

/// The result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, as users see it. Corruption, I/O, misuse and limits are apart; a wrong answer is never given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage below failed: I/O, corruption, a foreign or missing file, or an earlier failure.
    #[error(transparent)]
    Storage(#[from] op_engine_shards::Error),
    /// The directory holds no store, and none was to be created.
    #[error("{} holds no store. Check the path", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A block's height is not the one above the tip.
    #[error("block {got} does not follow the tip: the next height is {expected}")]
    HeightMismatch {
        /// The height that the next block must have.
        expected: Height,
        /// The height that the block has.
        got: Height,
    },
    /// A block's parent is not the tip.
    #[error(
        "block {height} does not link: its parent is {got}, the tip is {expected}. Find the fork and `reorg_to` it first"
    )]
    BrokenLink {
        /// The height of the block.
        height: Height,
        /// The hash of the tip.
        expected: BlockHash,
        /// The parent that the block names.
        got: BlockHash,
    },
    /// A draft was made on a state that is not the tip's any more.
    #[error("the draft of block {height} was made on another state: {what}. Begin a new one on the tip")]
    StaleDraft {
        /// The height of the block.
        height: Height,
        /// What has changed since.
        what: String,
    },
    /// A savepoint has ended with one that was taken before it, or belongs to another overlay.
    #[error("the savepoint has ended with an earlier one, or belongs to another overlay. End each only once")]
    SavepointGone,
    /// A reorg's target is above the tip.
    #[error("cannot go back to height {target}: the tip is at {tip}")]
    ReorgAboveTip {
        /// The height asked for.
        target: Height,
        /// The height of the tip.
        tip: Height,
    },
    /// A reorg's target is below what can be reached.
    #[error(
        "cannot go back to height {target}: the lowest that can be reached is {horizon}. Index again from there, or use a larger window"
    )]
    ReorgBelowHorizon {
        /// The height asked for.
        target: Height,
        /// The lowest height that can be reached.
        horizon: Height,
    },
    /// There is no block yet.
    #[error("the chain is empty")]
    EmptyChain,
    /// A height is above the tip or below the first block.
    #[error("there is no block at height {height}: the chain reaches from {first} to {tip}")]
    NoSuchHeight {
        /// The height asked for.
        height: Height,
        /// The first height.
        first: Height,
        /// The height of the tip.
        tip: Height,
    },
    /// Versions this old are not kept for this collection.
    #[error(
        "{collection} keeps versions back to height {horizon}, but was asked for height {height}. Give it `History::All` to keep all"
    )]
    HistoryGone {
        /// The collection.
        collection: String,
        /// The height asked for.
        height: Height,
        /// The lowest height whose versions are kept.
        horizon: Height,
    },
    /// Two records have the same key in a unique index.
    #[error("index {index} is unique, but key {key} would occur twice")]
    DuplicateKey {
        /// The index.
        index: String,
        /// The encoded key, in hexadecimal.
        key: String,
    },
    /// The disk might have no room for what a commit makes necessary. The next commit is looked at afresh.
    #[error("no room on the disk for {what}: {}. Nothing was changed", room(*.needed, *.available))]
    OutOfSpace {
        /// What was to be committed.
        what: String,
        /// The bytes that must be free: for it, and for everything before it that is not in segments yet.
        needed: u64,
        /// The bytes that are.
        available: u64,
    },
    /// The store has no such collection.
    #[error("collection {name} is not registered: add it to the configuration before opening")]
    UnknownCollection {
        /// The name.
        name: String,
    },
    /// A collection or an index is not declared as the store has it.
    #[error("{}", schema_changed(.name, .differences))]
    SchemaChanged {
        /// The collection, or the index as `collection.index`.
        name: String,
        /// Everything that differs.
        differences: Vec<Difference>,
    },
    /// An index is not complete yet: it was added to a collection with records, which are entered in the background.
    #[error(
        "index {index} is not complete: {records_done} of about {records_estimated} records have been entered. Read \
         the collection itself, or wait"
    )]
    IndexIncomplete {
        /// The index, as `collection.index`.
        index: String,
        /// Records that have been entered.
        records_done: u64,
        /// Records that there are, roughly.
        records_estimated: u64,
    },
    /// A state is read that is older than an index. The collection itself can be read.
    #[error(
        "index {index} was completed after the state that is read. Read the collection itself, or a newer state"
    )]
    IndexTooNew {
        /// The index, as `collection.index`.
        index: String,
    },
    /// An index could not be completed. Its collection is as usable as before.
    #[error(
        "index {index} cannot be completed: {why}. Put that right and open the store again, upon which the index is \
         made anew; or remove it with `Config::drop_index`"
    )]
    IndexFailed {
        /// The index, as `collection.index`.
        index: String,
        /// Why not.
        why: String,
    },
    /// A function that a collection was declared with has panicked. What it was called for was not done.
    #[error("{function} of {collection} panicked at key {key}: {message}. Nothing was changed")]
    DeclarationPanicked {
        /// The collection.
        collection: String,
        /// The function: `entries of index` with the index's name, or `purge test`.
        function: String,
        /// The encoded key of the record, in hexadecimal.
        key: String,
        /// The message of the panic.
        message: String,
    },
    /// A batch outside the chain touches a collection that follows the chain.
    #[error("collection {name} follows the chain: change it in a block")]
    NotGlobal {
        /// The collection.
        name: String,
    },
    /// Something is larger than it may be.
    #[error("{what} is {value}, the limit is {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// How large it may be.
        max: u64,
    },
    /// A setting cannot be used.
    #[error("setting {name}: {why}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A key, stored or to be stored, does not decode as the collection's key type, or its codec makes another of it.
    #[error("a key of {collection} does not decode: {why}")]
    Key {
        /// The collection.
        collection: String,
        /// What is wrong.
        why: KeyError,
    },
    /// A stored value does not decode as the collection's record type.
    #[error("a value of {collection} does not decode: {why}")]
    Value {
        /// The collection.
        collection: String,
        /// What is wrong.
        why: ValueError,
    },
    /// A scan cannot go on from a token.
    #[error("the token cannot be used: {why}. Begin the scan again")]
    Token {
        /// Why not.
        why: TokenError,
    },
    /// A filter that was given to a scan panicked. The scan has ended, and nothing else has happened.
    #[error("the filter of a scan panicked: {message}. The scan has ended, and nothing else has happened")]
    FilterPanicked {
        /// The panic's message.
        message: String,
    },
    /// Parts of the store contradict each other. Found by [`verify`](crate::verify), and by scans of an index that read
    /// its records.
    #[error("{collection}, key {key}: {what}. Index again, and report this")]
    Contradiction {
        /// The collection or index.
        collection: String,
        /// The encoded key, in hexadecimal.
        key: String,
        /// What contradicts what.
        what: String,
    },
    /// The store was opened for reading only.
    #[error("the store was opened for reading only. Open it without `read_only` to change it")]
    ReadOnly,
    /// A snapshot, subscription or handle is used after the engine has been closed.
    #[error("the engine is closed")]
    Closed,
}

/// One way in which a collection or an index is not declared as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs: the key, the partition, the scope, and so on.
    pub property: String,
    /// What it is in the store.
    pub stored: String,
    /// What it is declared as.
    pub declared: String,
}

fn schema_changed(name: &str, differences: &[Difference]) -> String {
    let mut text = format!("{name} is not declared as the store has it:");
    for Difference { property, stored, declared } in differences {
        text.push_str(&format!("\n  {property}\n    in the store: {stored}\n    declared:     {declared}"));
    }
    let is_index = name.contains('.') || differences.iter().all(|it| it.property.starts_with("index "));
    text.push_str(if is_index {
        "\nDeclare it as the store has it. Or open the store once without it and with `Config::drop_index`, which frees \
         its space; then declare it anew, and it is filled in the background"
    } else {
        "\nDeclare it as the store has it. Or declare the new form under a new name, copy the records, and remove the \
         old one with `Config::drop_collection`"
    });
    text
}

/// Bytes in hexadecimal, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn room(needed: u64, available: u64) -> String {
    if available < needed {
        return format!(
            "{needed} bytes must be free, {available} are. Free some space; it is used at once, without opening again"
        );
    }
    format!("it refuses to give more, although it reports {available} free bytes. Is there a quota?")
}

impl From<TokenError> for Error {
    fn from(why: TokenError) -> Self {
        Self::Token { why }
    }
}

impl From<op_engine_io::Error> for Error {
    fn from(error: op_engine_io::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<op_engine_io::Disconnected> for Error {
    fn from(_: op_engine_io::Disconnected) -> Self {
        Self::Closed
    }
}
