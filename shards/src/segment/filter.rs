//! Tells, nearly always, that a key is not in a segment.
//!
//! A binary fuse filter over the keyed hashes of the segment's keys: below 10 bits a key, 1 of 256 absent keys passes.
//! It is cut into partitions by the hashes' highest bits, because one filter is built in one go and a large one would
//! hold the core for tens of milliseconds.
//!
//! The hash is keyed with the store's own secret: chosen keys can neither collide at will nor make building fail.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | partition bits, 0 to 8: there are 2^bits partitions |
//! | 8 | for each partition: seed |
//! | 4 | slice length, a power of two |
//! | 4 | slices' length: where the first of three probes can fall, a multiple of the slice length |
//! | n | fingerprints: slices' length + 2 * slice length, so it is not written |

use std::hash::Hasher;

use op_engine_io::num::to_usize;
use siphasher::sip::SipHasher13;
use xorf::{BinaryFuse8, Descriptor, Filter as _};

use super::format::from_u32;
use crate::bytes::{ByteReader, ByteWriter, Malformed};

const BUCKET_BITS: u32 = 8;
/// Building so many takes about half a millisecond.
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

/// Gathers hashes, then builds the partitions one by one.
#[derive(Debug)]
pub struct FilterBuilder {
    buckets: Vec<Vec<u64>>,
    count: usize,
}

impl FilterBuilder {
    /// Without hashes.
    #[must_use]
    pub fn new() -> Self {
        Self { buckets: vec![Vec::new(); 1 << BUCKET_BITS], count: 0 }
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
        let wanted = self.count.div_ceil(PARTITION_KEYS_MAX).next_power_of_two();
        let bits = wanted.trailing_zeros().min(BUCKET_BITS);
        let mut out = ByteWriter::new();
        out.u8(bits.to_le_bytes()[0]);
        FilterPartitions { buckets: self.buckets, buckets_each: 1 << (BUCKET_BITS - bits), done: 0, out }
    }
}

impl Default for FilterBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Builds one partition after the other, so that others can run between two.
#[derive(Debug)]
pub struct FilterPartitions {
    buckets: Vec<Vec<u64>>,
    buckets_each: usize,
    done: usize,
    out: ByteWriter,
}

/// How building goes.
#[derive(Debug)]
pub enum FilterStep {
    /// A partition is built, and another call goes on.
    More,
    /// The whole filter, as it is on disk.
    Done(Vec<u8>),
    /// No filter exists for these hashes: next to impossible, and the segment does without.
    Impossible,
}

impl FilterPartitions {
    /// Builds the next partition.
    pub fn step(&mut self) -> FilterStep {
        let Some(buckets) = self.buckets.get_mut(self.done..self.done + self.buckets_each) else {
            return FilterStep::Done(std::mem::take(&mut self.out).into_vec());
        };
        let mut hashes: Vec<u64> = Vec::with_capacity(buckets.iter().map(Vec::len).sum());
        for bucket in buckets {
            hashes.append(&mut std::mem::take(bucket));
        }
        hashes.sort_unstable();
        hashes.dedup();
        let Ok(filter) = BinaryFuse8::try_from(hashes.as_slice()) else { return FilterStep::Impossible };
        self.out.u64(filter.descriptor.seed);
        self.out.u32(filter.descriptor.segment_length);
        self.out.u32(filter.descriptor.segment_count_length);
        self.out.raw(&filter.fingerprints);
        self.done += self.buckets_each;
        FilterStep::More
    }
}

/// A filter in memory.
#[derive(Debug)]
pub struct Filter {
    bits: u32,
    partitions: Vec<BinaryFuse8>,
}

impl Filter {
    /// Takes the bytes of a filter whose checksum holds.
    ///
    /// # Errors
    /// [`Malformed`] if they are not what [`FilterPartitions`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        let bits = u32::from(input.u8()?);
        if bits > BUCKET_BITS {
            return Err(Malformed("a filter has too many partitions"));
        }
        let partitions = (0..1u32 << bits).map(|_| partition(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { bits, partitions })
    }

    /// Whether a key with this hash may be among those that were added. `false` is certain.
    #[must_use]
    pub fn may_contain(&self, hash: u64) -> bool {
        let at = to_usize(hash.checked_shr(64 - self.bits).unwrap_or(0));
        self.partitions.get(at).is_none_or(|partition| partition.contains(&hash))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.partitions.iter().map(|partition| partition.fingerprints.len() + size_of::<BinaryFuse8>()).sum()
    }
}

/// Reads a partition and checks what keeps its probes inside its fingerprints.
fn partition(input: &mut ByteReader<'_>) -> Result<BinaryFuse8, Malformed> {
    let seed = input.u64()?;
    let slice = input.u32()?;
    let slices = input.u32()?;
    if !slice.is_power_of_two() || slices < slice || !slices.is_multiple_of(slice) {
        return Err(Malformed("the slices of a filter are impossible"));
    }
    let len = slice
        .checked_mul(2)
        .and_then(|two| two.checked_add(slices))
        .ok_or(Malformed("a filter is too long"))?;
    let fingerprints = Box::from(input.raw(from_u32(len))?);
    let descriptor = Descriptor {
        seed,
        segment_length: slice,
        segment_length_mask: slice - 1,
        segment_count_length: slices,
    };
    Ok(BinaryFuse8 { descriptor, fingerprints })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use op_engine_io::num::to_u64;

    use super::*;

    const KEY: FilterKey = FilterKey(*b"0123456789abcdef");

    fn build(count: u64) -> Vec<u8> {
        let mut builder = FilterBuilder::new();
        for n in 0..count {
            builder.add(KEY.hash(&n.to_le_bytes()));
        }
        let mut partitions = builder.partitions();
        loop {
            match partitions.step() {
                FilterStep::More => {}
                FilterStep::Done(bytes) => return bytes,
                FilterStep::Impossible => panic!("distinct hashes have a filter"),
            }
        }
    }

    #[test]
    fn every_key_passes_and_few_others() {
        for count in [0, 1, 2, 3, 4, 5, 7, 8, 100, 5000, 16_384, 16_385, 100_000] {
            let bytes = build(count);
            let filter = Filter::decode(&bytes).unwrap();
            assert!((0..count).all(|n| filter.may_contain(KEY.hash(&n.to_le_bytes()))), "{count} keys");
            let passed =
                (1..=100_000u64).filter(|n| filter.may_contain(KEY.hash(&(n << 32).to_le_bytes()))).count();
            assert!(passed < 700, "{passed} of 100000 absent keys pass with {count} keys");
            if count >= 10_000 {
                let bits = to_u64(bytes.len() * 8) / count;
                assert!(bits <= 10, "{bits} bits a key for {count} keys");
            }
        }
    }

    #[test]
    fn equal_hashes_do_no_harm() {
        let mut builder = FilterBuilder::new();
        for n in 0..1000u64 {
            builder.add(KEY.hash(&(n / 7).to_le_bytes()));
        }
        let mut partitions = builder.partitions();
        assert!(matches!(partitions.step(), FilterStep::More));
        let FilterStep::Done(bytes) = partitions.step() else { panic!("one partition") };
        let filter = Filter::decode(&bytes).unwrap();
        assert!((0..1000u64).all(|n| filter.may_contain(KEY.hash(&(n / 7).to_le_bytes()))));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400, bit in 0u8..8) {
            let _: Result<Filter, Malformed> = Filter::decode(&bytes);
            bytes = build(50);
            let len = bytes.len();
            bytes[at % len] ^= 1 << bit;
            if let Ok(filter) = Filter::decode(&bytes) {
                for n in 0..200u64 {
                    let _: bool = filter.may_contain(KEY.hash(&n.to_le_bytes()));
                }
            }
        }
    }
}
