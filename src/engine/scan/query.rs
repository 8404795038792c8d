//! What a scan is asked for, without its types.

use std::ops::Bound;

use op_engine_shards::CollectionId;
use op_engine_shards::bytes::ByteWriter;
use op_engine_shards::message::{Direction, KeyRange};

use crate::engine::reader::PrefixOf;
use crate::key::{Key, prefix_range};
use crate::placement::Placement;

/// Which rows of a collection or an index, in which order.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) collection: CollectionId,
    pub(super) range: KeyRange,
    pub(super) direction: Direction,
    /// The shard that has all rows of the range, if one has.
    pub(super) only_shard: Option<usize>,
    /// How many leading components of a key choose the shard.
    partition: usize,
    placement: Placement,
}

impl Query {
    /// All rows, ascending.
    pub(super) fn all(collection: CollectionId, partition: usize, placement: Placement) -> Self {
        Self {
            collection,
            range: KeyRange::all(),
            direction: Direction::Forward,
            only_shard: None,
            partition,
            placement,
        }
    }

    /// Keeps rows whose keys begin with these components.
    pub(super) fn narrow_to_prefix<K: Key, P: PrefixOf<K>>(&mut self, prefix: &P) {
        self.narrow_to_bytes(&prefix.to_bytes());
        if self.has_partition::<P>() {
            self.narrow_to_partition(&prefix.leading_bytes(self.partition));
        }
    }

    /// Keeps rows whose encoded keys begin with these bytes.
    pub(super) fn narrow_to_bytes(&mut self, prefix: &[u8]) {
        let (start, end) = prefix_range(prefix);
        self.range.narrow(Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
    }

    /// Keeps rows between two prefixes, those with an included prefix too.
    pub(super) fn narrow_to_range<K: Key, P: PrefixOf<K>>(&mut self, start: Bound<&P>, end: Bound<&P>) {
        // Keys go on after a prefix, and entries of an index after the index's key: a bound speaks of all of them.
        let after = |prefix: &P| prefix_range(&prefix.to_bytes()).1;
        let low = match start {
            Bound::Included(prefix) => Bound::Included(prefix.to_bytes()),
            // Nothing comes after a prefix of the highest bytes only.
            Bound::Excluded(prefix) => {
                after(prefix).map_or_else(|| Bound::Excluded(HIGHEST.to_vec()), Bound::Included)
            }
            Bound::Unbounded => Bound::Unbounded,
        };
        let high = match end {
            Bound::Included(prefix) => after(prefix).map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Excluded(prefix) => Bound::Excluded(prefix.to_bytes()),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.range.narrow(low, high);
        if let (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) =
            (start, end)
            && self.has_partition::<P>()
        {
            let (a, b) = (a.leading_bytes(self.partition), b.leading_bytes(self.partition));
            if a == b {
                self.narrow_to_partition(&a);
            }
        }
    }

    fn has_partition<P: Key>(&self) -> bool {
        (1..=P::COMPONENTS).contains(&self.partition)
    }

    fn narrow_to_partition(&mut self, partition: &[u8]) {
        self.only_shard = Some(self.placement.shard(self.collection, partition));
    }

    /// What tells this query from others in tokens. Filters and limits are no part of it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut out = ByteWriter::new();
        out.raw(b"query");
        out.u32(self.collection.0);
        out.u8(match self.direction {
            Direction::Forward => 1,
            Direction::Backward => 2,
        });
        for bound in [self.range.start(), self.range.end()] {
            let (kind, key) = match bound {
                Bound::Unbounded => (1, &[][..]),
                Bound::Included(key) => (2, key),
                Bound::Excluded(key) => (3, key),
            };
            out.u8(kind);
            out.bytes(key);
        }
        self.placement.seal(out.as_slice())
    }
}

/// No key has so many bytes.
const HIGHEST: &[u8] = &[0xff; op_engine_shards::ops::KEY_BYTES_MAX + 1];
