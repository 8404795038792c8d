//! A Bloom filter of 10 bits and 7 probes a key, the usual choice.

const BITS_OF_KEY: usize = 10;
const PROBES: u64 = 7;

pub struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    pub fn new(hashes: &[u64]) -> Self {
        let mut bloom = Self { words: vec![0; (hashes.len() * BITS_OF_KEY).div_ceil(64)] };
        for hash in hashes {
            for bit in bloom.probes(*hash) {
                bloom.words[bit / 64] |= 1 << (bit % 64);
            }
        }
        bloom
    }

    pub fn may_contain(&self, hash: u64) -> bool {
        self.probes(hash).all(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
    }

    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Double hashing (Kirsch and Mitzenmacher 2006), brought into range by a multiplication instead of a division.
    fn probes(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let bits = self.words.len() as u64 * 64;
        let step = hash.rotate_left(32) | 1;
        (0..PROBES).map(move |probe| {
            let spread = hash.wrapping_add(probe.wrapping_mul(step));
            ((u128::from(spread) * u128::from(bits)) >> 64) as usize
        })
    }
}
