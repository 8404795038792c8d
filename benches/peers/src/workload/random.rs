//! The same random numbers in every run.

/// A generator of numbers that look random (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }

    /// A rank below `count` by Zipf's law with exponent 1: rank `k` comes up in proportion to `1 / (k + 1)`.
    pub fn zipf(&mut self, count: usize) -> usize {
        let unit = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        (((count + 1) as f64).powf(unit) as usize - 1).min(count - 1)
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Overwrites `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.number().to_le_bytes()[..part.len()]);
        }
    }
}

fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_stays_in_range_and_prefers_low_ranks() {
        let mut random = Random::new(1);
        let ranks: Vec<_> = (0..10_000).map(|_| random.zipf(1000)).collect();
        assert!(ranks.iter().all(|rank| *rank < 1000));
        let low = ranks.iter().filter(|rank| **rank < 31).count();
        assert!((4500..5500).contains(&low), "half of the draws are among the first square root: {low}");
    }
}
