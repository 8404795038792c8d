//! The only source of chance in the simulation.

/// A small generator (splitmix64). Equal seeds give equal sequences.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed. Any seed is good, zero included.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A generator whose sequence is independent of this one's later numbers.
    #[must_use]
    pub const fn split(&mut self) -> Self {
        Self(self.next_u64())
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias of the remainder does not matter to a test.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// An index below `bound`; 0 if `bound` is 0.
    pub fn index(&mut self, bound: usize) -> usize {
        crate::num::to_usize(self.below(crate::num::to_u64(bound)))
    }

    /// True with a probability of `parts` in 10,000.
    pub fn chance(&mut self, parts: u16) -> bool {
        parts > 0 && self.below(10_000) < u64::from(parts)
    }

    /// True half of the time.
    pub const fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// Eight independent coins.
    pub const fn byte(&mut self) -> u8 {
        self.next_u64().to_le_bytes()[7]
    }

    /// Fills bytes with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (byte, noise) in chunk.iter_mut().zip(self.next_u64().to_le_bytes()) {
                *byte = noise;
            }
        }
    }
}
