//! Declaring collections and their indexes.
//!
//! A collection is a type that names its key, its value and its policies. An index is a type that says which entries
//! a record has in it. Both are listed in the [`Config`](crate::Config) with which a store is opened.
//!
//! [`collection!`](crate::collection) writes these types. This is what it writes, and what can be written by hand:
//!
//! ```
//! use op_engine::{Collection, Desc, Index, IndexList};
//!
//! /// Coins, by outpoint.
//! struct Coins;
//!
//! impl Collection for Coins {
//!     const NAME: &'static str = "coins";
//!     type Key = ([u8; 32], u32);
//!     type Value = (u64, [u8; 32]);
//!
//!     fn indexes() -> IndexList<Self> {
//!         IndexList::new().with::<CoinsByScript>()
//!     }
//! }
//!
//! /// Coins of a script, the most valuable first.
//! struct CoinsByScript;
//!
//! impl Index for CoinsByScript {
//!     const NAME: &'static str = "by_script";
//!     type Of = Coins;
//!     type Key = ([u8; 32], Desc<u64>);
//!     type Covered = ();
//!
//!     fn entries(_: &([u8; 32], u32), coin: &(u64, [u8; 32]), emit: &mut dyn FnMut(Self::Key, ())) {
//!         emit((coin.1, Desc(coin.0)), ());
//!     }
//! }
//! ```

use std::any::TypeId;
use std::marker::PhantomData;
use std::sync::Arc;

use op_engine_shards::Height;
use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};
pub use op_engine_shards::catalog::{History, Layout};
pub use op_engine_shards::segment::Compression;
pub use op_engine_shards::tier::{ColdAfter, TierPolicy};
pub use op_engine_shards::visibility::Scope;

use crate::error::{Error, Result, hex};
use crate::key::{Key, KeyError};
use crate::value::Record;

/// A set of records, ordered by key.
pub trait Collection: Sized + 'static {
    /// Its name, unique in a store. It is never part of a path.
    const NAME: &'static str;
    /// The key. Composite keys are tuples.
    type Key: Key;
    /// The record.
    type Value: Record;
    /// Whether it follows reorgs.
    const SCOPE: Scope = Scope::Chain;
    /// How far back its versions are kept.
    const HISTORY: History = History::Window;
    /// How its segments are merged.
    const LAYOUT: Layout = Layout::Mutable;
    /// How many leading components of the key choose the shard; 0 for the whole key. Records that are scanned
    /// together belong into one partition.
    const PARTITION: usize = 0;
    /// When its data moves to the cold target of the store, if that has one. Only collections whose keys are written once, and old
    /// versions of those with `History::All`, can move.
    const TIER: TierPolicy = TierPolicy::HOT;
    /// Bytes of a record at most, as it is stored. No collection may have more than 32 MiB, the default.
    const VALUE_BYTES_MAX: usize = op_engine_shards::ops::VALUE_BYTES_MAX;

    /// Its secondary indexes.
    fn indexes() -> IndexList<Self> {
        IndexList::new()
    }

    /// Which records are removed in the background once they are old; none if absent.
    fn purge() -> Option<Purge<Self>> {
        None
    }
}

/// Which records of a collection are removed in the background, and when.
///
/// ```
/// use op_engine::{Collection, Height, Purge};
///
/// /// Outputs by outpoint: value, and the height that spent it.
/// struct Outputs;
///
/// impl Collection for Outputs {
///     const NAME: &'static str = "outputs";
///     type Key = ([u8; 32], u32);
///     type Value = (u64, Option<u64>);
///
///     fn purge() -> Option<Purge<Self>> {
///         let is_spent = |_: &Self::Key, output: &Self::Value, below: Height| {
///             output.1.is_some_and(|spent| Height(spent) < below)
///         };
///         Some(Purge::beyond(2000, is_spent))
///     }
/// }
/// ```
///
/// A pass over the collection removes every record that the test picks, a bounded number with each commit, between
/// blocks. It is given a height: that of the tip less the blocks that the declaration says, or the horizon if that is
/// lower, so that it never speaks of what a reorg can change. Only a record that is the same at the horizon is removed. A
/// reorg takes back removals after its block, and a later pass repeats them. Snapshots that are held keep their records.
///
/// The test is run on every record of the collection in each pass: it should be quick. If it panics, the collection is not
/// purged any more until the store is opened again, and [`Stats`](crate::Stats) say why.
pub struct Purge<C: Collection> {
    blocks: u64,
    every: u64,
    test: Arc<PurgeTest<C>>,
}

/// Whether a record goes, given its key, itself, and a height.
type PurgeTest<C> = dyn Fn(&<C as Collection>::Key, &<C as Collection>::Value, Height) -> bool + Send + Sync;

impl<C: Collection> Purge<C> {
    /// Removes the records that `test` picks, which is given the height `blocks` below the tip.
    #[must_use]
    pub fn beyond(
        blocks: u64,
        test: impl Fn(&C::Key, &C::Value, Height) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { blocks, every: 144, test: Arc::new(test) }
    }

    /// How many blocks come between two passes. Default: 144, a day.
    #[must_use]
    pub fn every(self, blocks: u64) -> Self {
        Self { every: blocks, ..self }
    }

    pub(crate) fn spec(self) -> PurgeSpec {
        let Self { blocks, every, test } = self;
        let call = move |key: &[u8], value: &[u8], below: Height| {
            let typed_key = C::Key::decode_exact(key)
                .map_err(|why| Error::Key { collection: C::NAME.to_owned(), why })?;
            let typed_value = C::Value::decode_exact(value)
                .map_err(|why| Error::Value { collection: C::NAME.to_owned(), why })?;
            let function = || "purge test".to_owned();
            unless_panicking(C::NAME, function, key, || test(&typed_key, &typed_value, below))
        };
        PurgeSpec { blocks, every, test: Arc::new(call) }
    }
}

impl<C: Collection> std::fmt::Debug for Purge<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purge of {} beyond {} blocks, every {}", C::NAME, self.blocks, self.every)
    }
}

/// A purge without its types.
#[derive(Clone)]
pub(crate) struct PurgeSpec {
    pub(crate) blocks: u64,
    pub(crate) every: u64,
    pub(crate) test: Arc<RawPurgeTest>,
}

/// Whether a record goes, given its key, itself, and a height.
pub(crate) type RawPurgeTest = dyn Fn(&[u8], &[u8], Height) -> Result<bool> + Send + Sync;

impl std::fmt::Debug for PurgeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PurgeSpec({}, {})", self.blocks, self.every)
    }
}

/// A second order of a collection's records, maintained in the same commit.
pub trait Index: Sized + 'static {
    /// Its name, unique among the collection's indexes.
    const NAME: &'static str;
    /// The collection that it orders.
    type Of: Collection;
    /// The key by which it orders. Records with equal keys follow each other by their own key.
    type Key: Key;
    /// What each entry carries of its record, so that a scan need not read the record; `()` for nothing.
    type Covered: Record;
    /// Whether two records may not have the same key. A commit that would is refused.
    const UNIQUE: bool = false;
    /// How many leading components of the key choose the shard; 0 for the whole key.
    const PARTITION: usize = 1;

    /// Calls `emit` for every entry that a record has: none, one or many.
    fn entries(
        key: &<Self::Of as Collection>::Key,
        value: &<Self::Of as Collection>::Value,
        emit: &mut dyn FnMut(Self::Key, Self::Covered),
    );
}

/// A row of an index: its key, the record's key, and what is covered.
pub type IndexRow<I> = (<I as Index>::Key, <<I as Index>::Of as Collection>::Key, <I as Index>::Covered);

/// The indexes of a collection.
#[derive(Debug)]
pub struct IndexList<C> {
    specs: Vec<IndexSpec>,
    of: PhantomData<fn() -> C>,
}

impl<C: Collection> Default for IndexList<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Collection> IndexList<C> {
    /// No indexes.
    #[must_use]
    pub fn new() -> Self {
        Self { specs: Vec::new(), of: PhantomData }
    }

    /// One more index.
    #[must_use]
    pub fn with<I: Index<Of = C>>(mut self) -> Self {
        self.specs.push(IndexSpec {
            type_id: TypeId::of::<I>(),
            name: format!("{}.{}", C::NAME, I::NAME),
            unique: I::UNIQUE,
            partition: I::PARTITION,
            key_shape: I::Key::shape(),
            covered_version: I::Covered::VERSION,
            entries: index_entries::<I>,
            owner: entry_owner::<I>,
        });
        self
    }
}

/// An entry of an index, encoded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexEntry {
    pub(crate) key: Vec<u8>,
    /// How many bytes of the key choose the shard.
    pub(crate) partition_bytes: usize,
    pub(crate) value: Vec<u8>,
}

/// The bytes of a key, and how many of them choose the shard.
pub(crate) type PlacedKey = (Vec<u8>, usize);

/// An index without its types.
#[derive(Debug, Clone)]
pub(crate) struct IndexSpec {
    pub(crate) type_id: TypeId,
    pub(crate) name: String,
    pub(crate) unique: bool,
    pub(crate) partition: usize,
    pub(crate) key_shape: String,
    pub(crate) covered_version: u8,
    pub(crate) entries: fn(&[u8], &[u8]) -> Result<Vec<IndexEntry>>,
    /// The record's key in an entry, and how many of its bytes choose the shard.
    pub(crate) owner: fn(&[u8], &[u8]) -> Result<PlacedKey>,
}

/// A collection without its types.
#[derive(Debug, Clone)]
pub(crate) struct CollectionDef {
    pub(crate) type_id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) history: History,
    pub(crate) layout: Layout,
    pub(crate) tier: TierPolicy,
    pub(crate) partition: usize,
    pub(crate) key_shape: String,
    pub(crate) value_version: u8,
    pub(crate) value_bytes_max: usize,
    pub(crate) indexes: Vec<IndexSpec>,
    /// Whether a key is what its codec makes of it.
    pub(crate) check_key: fn(&[u8]) -> Result<(), KeyError>,
    pub(crate) purge: Option<PurgeSpec>,
    /// Decodes a record, and says how many bytes of its key choose the shard.
    pub(crate) inspect: fn(&[u8], &[u8]) -> Result<usize>,
}

impl CollectionDef {
    pub(crate) fn of<C: Collection>() -> Self {
        Self {
            type_id: TypeId::of::<C>(),
            name: C::NAME,
            scope: C::SCOPE,
            history: C::HISTORY,
            layout: C::LAYOUT,
            tier: C::TIER,
            partition: C::PARTITION,
            key_shape: C::Key::shape(),
            value_version: C::Value::VERSION,
            value_bytes_max: const {
                assert!(C::VALUE_BYTES_MAX <= op_engine_shards::ops::VALUE_BYTES_MAX, "no value is larger");
                C::VALUE_BYTES_MAX
            },
            check_key: check_key::<C::Key>,
            indexes: C::indexes().specs,
            purge: C::purge().map(Purge::spec),
            inspect: inspect_record::<C>,
        }
    }
}

/// The bytes of a key, and how many of them choose the shard.
pub(crate) fn encode_key<K: Key>(key: &K, partition: usize) -> (Vec<u8>, usize) {
    let bytes = key.to_bytes();
    let partition_bytes = if partition == 0 || partition >= K::COMPONENTS {
        bytes.len()
    } else {
        key.leading_bytes(partition).len()
    };
    (bytes, partition_bytes)
}

/// The entries of a record in an index.
///
/// A unique index is keyed by its key alone; the value is the record's key, length-prefixed, and what is covered. Any
/// other index is keyed by its key and then the record's key; the value is what is covered.
fn index_entries<I: Index>(key: &[u8], value: &[u8]) -> Result<Vec<IndexEntry>> {
    let typed_key = <I::Of as Collection>::Key::decode_exact(key)
        .map_err(|why| Error::Key { collection: I::Of::NAME.to_owned(), why })?;
    let typed_value = <I::Of as Collection>::Value::decode_exact(value)
        .map_err(|why| Error::Value { collection: I::Of::NAME.to_owned(), why })?;
    let mut entries = Vec::new();
    let mut emit = |index_key: I::Key, covered: I::Covered| {
        let (mut bytes, partition_bytes) = encode_key(&index_key, I::PARTITION);
        let covered = covered.to_bytes();
        let value = if I::UNIQUE {
            let mut out = ByteWriter::new();
            out.bytes(key);
            out.raw(&covered);
            out.into_vec()
        } else {
            bytes.extend_from_slice(key);
            covered
        };
        entries.push(IndexEntry { key: bytes, partition_bytes, value });
    };
    unless_panicking(
        I::Of::NAME,
        || format!("entries of index {}", I::NAME),
        key,
        || {
            I::entries(&typed_key, &typed_value, &mut emit);
        },
    )?;
    entries.sort_unstable();
    entries.dedup_by(|a, b| a.key == b.key);
    Ok(entries)
}

/// Calls a function of a user's declaration. Its panic is the declaration's fault, and not the engine's.
pub(crate) fn unless_panicking<T>(
    collection: &str,
    function: impl FnOnce() -> String,
    key: &[u8],
    call: impl FnOnce() -> T,
) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Error::DeclarationPanicked {
            collection: collection.to_owned(),
            function: function(),
            key: hex(key),
            message: text.unwrap_or_else(|| "without a message".to_owned()),
        }
    })
}

/// Takes an index entry apart: the index's key, the record's key, and what is covered.
pub(crate) fn decode_entry<I: Index>(key: &[u8], value: &[u8]) -> Result<IndexRow<I>> {
    let name = || format!("{}.{}", I::Of::NAME, I::NAME);
    let key_error = |why| Error::Key { collection: name(), why };
    let value_error = |why| Error::Value { collection: name(), why };
    if I::UNIQUE {
        let index_key = I::Key::decode_exact(key).map_err(key_error)?;
        let (record, covered) = split_unique(value).map_err(|Malformed(what)| Error::Value {
            collection: name(),
            why: crate::value::ValueError::Malformed(what),
        })?;
        let record = <I::Of as Collection>::Key::decode_exact(record).map_err(key_error)?;
        return Ok((index_key, record, I::Covered::decode_exact(covered).map_err(value_error)?));
    }
    let mut input = crate::key::KeyReader::new(key);
    let index_key = I::Key::decode(&mut input).map_err(key_error)?;
    let record = <I::Of as Collection>::Key::decode(&mut input).map_err(key_error)?;
    input.finish().map_err(key_error)?;
    Ok((index_key, record, I::Covered::decode_exact(value).map_err(value_error)?))
}

/// A codec that is written by hand may contradict itself. A key that does not come back would be lost.
fn check_key<K: Key>(bytes: &[u8]) -> Result<(), KeyError> {
    if K::decode_exact(bytes)?.to_bytes() == bytes {
        return Ok(());
    }
    Err(KeyError::NotCanonical("the codec of its type makes another one of it"))
}

fn inspect_record<C: Collection>(key: &[u8], value: &[u8]) -> Result<usize> {
    let typed_key =
        C::Key::decode_exact(key).map_err(|why| Error::Key { collection: C::NAME.to_owned(), why })?;
    C::Value::decode_exact(value).map_err(|why| Error::Value { collection: C::NAME.to_owned(), why })?;
    Ok(encode_key(&typed_key, C::PARTITION).1)
}

fn entry_owner<I: Index>(key: &[u8], value: &[u8]) -> Result<PlacedKey> {
    let (_, record, _) = decode_entry::<I>(key, value)?;
    Ok(encode_key(&record, I::Of::PARTITION))
}

fn split_unique(value: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut input = ByteReader::new(value);
    let record = input.bytes(op_engine_shards::ops::KEY_BYTES_MAX)?;
    Ok((record, input.rest()))
}

/// The record's key in an entry of a unique index.
pub(crate) fn unique_owner(value: &[u8]) -> Option<&[u8]> {
    split_unique(value).ok().map(|(record, _)| record)
}
