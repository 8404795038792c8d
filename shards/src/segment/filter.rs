//! Tells, nearly always, that a key is not in a segment.
//!
//! A binary fuse filter over the keyed hashes of the segment's keys. It is cut into partitions by the hashes' highest
//! bits: each is built in one go, short enough not to hold the core, and each is read, verified and evicted by itself.
//! Which partition knows a hash follows from their number alone, so all of them are equally full.
//!
//! Measured beside filters that let equally many absent keys pass, 1 of 256 and 1 of 65,536, for 100,000 and 4 million
//! keys (`cargo bench --bench pieces -- filter`; ribbon with bands of 64 bits, in the same partitions):
//!
//! | | bits a key | build, ns a key | query, ns |
//! |---|---|---|---|
//! | binary fuse | 10.0 and 20.1 | 38, 41 | 4, 6 |
//! | blocked Bloom, 512 bits | 12 and 28 | 4, 25 | 5 to 9, 7 to 14 |
//! | ribbon | 8.3 and 16.7 | 58, 46 | 17 to 24, 27 to 32 |
//!
//! A read asks the filter of every run, up to some 15, so the time of a query counts most, and there the binary fuse
//! filter is the fastest. With four fifths of the keys in one run, at 8 bits, and the others at 16, it takes 1.5 bytes a
//! key; ribbon filters would take 0.25 bytes less and 0.3 microseconds more a read.
//!
//! The hash is keyed with the store's own secret: chosen keys can neither collide at will nor make building fail.
//!
//! A partition:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | seed |
//! | 4 | slice length, a power of two |
//! | 4 | slices' length: where the first of three probes can fall, a multiple of the slice length |
//! | 1 or 2 each | fingerprints: slices' length + 2 * slice length, so their number is not written |
//!
//! A partition without bytes lets every key pass. It stands where no filter exists for the hashes, which is next to
//! impossible.

use std::hash::Hasher;

use op_engine_io::num::{to_u64, to_usize};
use siphasher::sip::SipHasher13;
use xorf::{BinaryFuse8, BinaryFuse16, Descriptor, Filter as _};

use super::directory::PARTITION_BYTES_MAX;
use super::format::{from_u32, to_u32};
use crate::bytes::{ByteReader, ByteWriter, Malformed};

const BUCKET_BITS: u32 = 8;
/// Sorting so many takes about half a millisecond, and building their filter as long.
const PARTITION_KEYS_MAX: usize = 16 << 10;

/// The secret that filters hash keys with, the same for all segments of a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FilterKey(pub [u8; 16]);

impl FilterKey {
    /// The hash of a key, to ask the filters of any number of segments.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(key);
        hasher.finish()
    }
}

impl std::fmt::Debug for FilterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FilterKey")
    }
}

/// The length of a fingerprint: it decides how many absent keys pass, and what a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterBits {
    /// One of 256 absent keys passes: for a run that holds most of the keys.
    Eight,
    /// One of 65,536 absent keys passes: for the many runs above it, each of which is asked for every key.
    Sixteen,
}

impl FilterBits {
    pub(super) fn encode(self) -> u8 {
        match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }

    pub(super) fn decode(code: u8) -> Result<Self, Malformed> {
        match code {
            8 => Ok(Self::Eight),
            16 => Ok(Self::Sixteen),
            _ => Err(Malformed("the fingerprints of a filter have an impossible length")),
        }
    }
}

/// Which of `partitions` knows a hash.
#[must_use]
pub fn filter_partition_of(hash: u64, partitions: u32) -> u32 {
    (((hash >> 32) * u64::from(partitions)) >> 32) as u32
}

/// Gathers hashes, then builds the partitions one by one.
#[derive(Debug)]
pub struct FilterBuilder {
    bits: FilterBits,
    buckets: Vec<Vec<u64>>,
    count: usize,
}

impl FilterBuilder {
    /// Without hashes.
    #[must_use]
    pub fn new(bits: FilterBits) -> Self {
        Self { bits, buckets: vec![Vec::new(); 1 << BUCKET_BITS], count: 0 }
    }

    /// Adds the hash of a key.
    pub fn add(&mut self, hash: u64) {
        if let Some(bucket) = self.buckets.get_mut(to_usize(hash >> (64 - BUCKET_BITS))) {
            bucket.push(hash);
            self.count += 1;
        }
    }

    /// Begins to build.
    #[must_use]
    pub fn partitions(self) -> FilterPartitions {
        let count = to_u32(self.count.div_ceil(PARTITION_KEYS_MAX).max(1));
        FilterPartitions {
            bits: self.bits,
            buckets: self.buckets.into(),
            begun: 0,
            count,
            ready: None,
            rest: Vec::new(),
        }
    }
}

/// Builds one partition after the other, so that others can run between two steps.
#[derive(Debug)]
pub struct FilterPartitions {
    bits: FilterBits,
    /// Those whose hashes have not been taken yet.
    buckets: std::collections::VecDeque<Vec<u64>>,
    begun: u32,
    count: u32,
    /// The hashes of the partition to build, in order.
    ready: Option<Vec<u64>>,
    /// Hashes of a bucket that belong to later partitions.
    rest: Vec<u64>,
}

/// How building goes.
#[derive(Debug, PartialEq, Eq)]
pub enum FilterStep {
    /// Nothing is there yet, and another call goes on.
    More,
    /// The next partition, as it is on disk.
    Partition(Vec<u8>),
    /// There are no more.
    Done,
}

impl FilterPartitions {
    /// Does some of the work.
    pub fn step(&mut self) -> FilterStep {
        if let Some(hashes) = self.ready.take() {
            return FilterStep::Partition(build(self.bits, &hashes));
        }
        if self.begun == self.count {
            return FilterStep::Done;
        }
        let mut hashes = self.take_hashes(self.begun);
        hashes.sort_unstable();
        hashes.dedup();
        self.ready = Some(hashes);
        self.begun += 1;
        FilterStep::More
    }

    fn take_hashes(&mut self, partition: u32) -> Vec<u64> {
        let mut hashes = std::mem::take(&mut self.rest);
        loop {
            let next = (1 << BUCKET_BITS) - to_u64(self.buckets.len());
            let lowest = next.checked_shl(64 - BUCKET_BITS).filter(|_| next < 1 << BUCKET_BITS);
            if lowest.is_none_or(|lowest| filter_partition_of(lowest, self.count) > partition) {
                break;
            }
            hashes.append(&mut self.buckets.pop_front().unwrap_or_default());
        }
        let belongs = |hash: &u64| filter_partition_of(*hash, self.count) <= partition;
        self.rest = hashes.iter().copied().filter(|hash| !belongs(hash)).collect();
        hashes.retain(belongs);
        hashes
    }
}

/// A partition over hashes that differ; without bytes if none exists.
fn build(bits: FilterBits, hashes: &[u64]) -> Vec<u8> {
    let bytes = encoded(bits, hashes);
    // Hashes that were not spread evenly would make it too long to be read back.
    if bytes.len() > PARTITION_BYTES_MAX { Vec::new() } else { bytes }
}

fn encoded(bits: FilterBits, hashes: &[u64]) -> Vec<u8> {
    let mut out = ByteWriter::new();
    let mut head = |descriptor: &Descriptor| {
        out.u64(descriptor.seed);
        out.u32(descriptor.segment_length);
        out.u32(descriptor.segment_count_length);
    };
    match bits {
        FilterBits::Eight => {
            let Ok(filter) = BinaryFuse8::try_from(hashes) else { return Vec::new() };
            head(&filter.descriptor);
            out.raw(&filter.fingerprints);
        }
        FilterBits::Sixteen => {
            let Ok(filter) = BinaryFuse16::try_from(hashes) else { return Vec::new() };
            head(&filter.descriptor);
            filter.fingerprints.iter().for_each(|fingerprint| out.u16(*fingerprint));
        }
    }
    out.into_vec()
}

/// A partition in memory.
#[derive(Debug)]
pub enum FilterPartition {
    /// With fingerprints of 8 bits.
    Eight(BinaryFuse8),
    /// With fingerprints of 16 bits.
    Sixteen(BinaryFuse16),
}

impl FilterPartition {
    /// Takes the bytes of a partition whose checksum holds. Checks what keeps its probes inside its fingerprints.
    ///
    /// # Errors
    /// [`Malformed`] if they are not what [`FilterPartitions`] writes.
    pub fn decode(bits: FilterBits, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        let seed = input.u64()?;
        let slice = input.u32()?;
        let slices = input.u32()?;
        if !slice.is_power_of_two() || slices < slice || !slices.is_multiple_of(slice) {
            return Err(Malformed("the slices of a filter are impossible"));
        }
        let len = slice.checked_mul(2).and_then(|two| two.checked_add(slices));
        let len = from_u32(len.ok_or(Malformed("a filter is too long"))?);
        let descriptor = Descriptor {
            seed,
            segment_length: slice,
            segment_length_mask: slice - 1,
            segment_count_length: slices,
        };
        let partition = match bits {
            FilterBits::Eight => {
                Self::Eight(BinaryFuse8 { descriptor, fingerprints: Box::from(input.raw(len)?) })
            }
            FilterBits::Sixteen => {
                let (pairs, _) = input.raw(len.saturating_mul(2))?.as_chunks::<2>();
                let fingerprints = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
                Self::Sixteen(BinaryFuse16 { descriptor, fingerprints })
            }
        };
        input.finish()?;
        Ok(partition)
    }

    /// Whether a key with this hash may be among those that were added. `false` is certain.
    #[must_use]
    pub fn may_contain(&self, hash: u64) -> bool {
        match self {
            Self::Eight(filter) => filter.contains(&hash),
            Self::Sixteen(filter) => filter.contains(&hash),
        }
    }

    /// The memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let fingerprints = match self {
            Self::Eight(filter) => filter.fingerprints.len(),
            Self::Sixteen(filter) => filter.fingerprints.len() * 2,
        };
        size_of::<Self>() + fingerprints
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: FilterKey = FilterKey(*b"0123456789abcdef");
    const BOTH: [FilterBits; 2] = [FilterBits::Eight, FilterBits::Sixteen];

    fn hash(n: u64) -> u64 {
        KEY.hash(&n.to_le_bytes())
    }

    fn built(bits: FilterBits, hashes: impl Iterator<Item = u64>) -> Vec<Vec<u8>> {
        let mut builder = FilterBuilder::new(bits);
        hashes.for_each(|hash| builder.add(hash));
        let mut partitions = builder.partitions();
        let mut built = Vec::new();
        loop {
            match partitions.step() {
                FilterStep::More => {}
                FilterStep::Partition(bytes) => built.push(bytes),
                FilterStep::Done => return built,
            }
        }
    }

    /// A filter of several partitions, as a segment has it.
    struct Whole(Vec<FilterPartition>);

    impl Whole {
        fn of(bits: FilterBits, built: &[Vec<u8>]) -> Self {
            Self(built.iter().map(|bytes| FilterPartition::decode(bits, bytes).unwrap()).collect())
        }

        fn may_contain(&self, hash: u64) -> bool {
            let at = filter_partition_of(hash, u32::try_from(self.0.len()).unwrap());
            self.0[from_u32(at)].may_contain(hash)
        }
    }

    #[test]
    fn every_key_passes_and_few_others() {
        for count in [0, 1, 2, 3, 4, 5, 7, 8, 100, 5000, 16_384, 16_385, 100_000] {
            for (bits, passed_max, bits_max) in [(FilterBits::Eight, 560, 11), (FilterBits::Sixteen, 10, 21)]
            {
                let bytes = built(bits, (0..count).map(hash));
                assert_eq!(to_u64(bytes.len()), count.div_ceil(16_384).max(1));
                let filter = Whole::of(bits, &bytes);
                assert!((0..count).all(|n| filter.may_contain(hash(n))), "{count} keys");
                let passed = (1..=100_000u64).filter(|n| filter.may_contain(hash(n << 32))).count();
                assert!(passed < passed_max, "{passed} of 100000 absent keys pass with {count} keys");
                let len: usize = bytes.iter().map(Vec::len).sum();
                let memory: usize = filter.0.iter().map(FilterPartition::memory_bytes).sum();
                assert_eq!(memory - len, bytes.len() * (size_of::<FilterPartition>() - 16));
                if count >= 5000 {
                    let bits = to_u64(len * 8) / count;
                    assert!(bits <= bits_max, "{bits} bits a key for {count} keys");
                }
                assert!(bytes.iter().all(|partition| partition.len() <= 44 << 10));
            }
        }
    }

    #[test]
    fn partitions_are_equally_full() {
        for count in [1u32, 2, 3, 7, 255, 256, 257, 1000] {
            let per_partition = 16_384 / 64;
            let total = u64::from(count) * per_partition;
            let mut found = vec![0u64; from_u32(count)];
            (0..total).for_each(|n| found[from_u32(filter_partition_of(hash(n), count))] += 1);
            let most = found.iter().max().unwrap();
            assert!(*most < per_partition * 3 / 2, "{most} of {total} in one of {count}");
        }
        assert_eq!([0, u64::MAX].map(|hash| filter_partition_of(hash, u32::MAX)), [0, u32::MAX - 1]);
    }

    #[test]
    fn equal_hashes_do_no_harm() {
        for bits in BOTH {
            let bytes = built(bits, (0..40_000).map(|n| hash(n / 7)));
            assert_eq!(bytes.len(), 3);
            let filter = Whole::of(bits, &bytes);
            assert!((0..40_000).all(|n| filter.may_contain(hash(n / 7))));
        }
    }

    #[test]
    fn hashes_that_are_crowded_are_known_too() {
        let crowded = || (0..50_000u64).map(|n| if n % 2 == 0 { n } else { !n });
        let bytes = built(FilterBits::Eight, crowded());
        assert_eq!(bytes.len(), 4);
        let filter = Whole::of(FilterBits::Eight, &bytes);
        assert!(crowded().all(|hash| filter.may_contain(hash)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400, bit in 0u8..8) {
            for bits in BOTH {
                let _: Result<_, Malformed> = FilterPartition::decode(bits, &bytes);
            }
            for bits in BOTH {
                bytes = built(bits, (0..50).map(hash)).remove(0);
                let len = bytes.len();
                bytes[at % len] ^= 1 << bit;
                if let Ok(filter) = FilterPartition::decode(bits, &bytes) {
                    for n in 0..200 {
                        let _: bool = filter.may_contain(hash(n));
                    }
                }
                prop_assert!(FilterPartition::decode(bits, &bytes[..len - 1]).is_err());
            }
        }
    }
}
