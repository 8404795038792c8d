//! A blocked Bloom filter: all probes of a key fall into one block of 512 bits, so that a question costs one cache line.

const BLOCK_WORDS: usize = 8;
const BLOCK_BITS: u64 = 64 * BLOCK_WORDS as u64;

pub struct Bloom {
    blocks: Vec<[u64; BLOCK_WORDS]>,
    probes: u32,
}

impl Bloom {
    pub fn new(hashes: &[u64], bits_of_key: usize, probes: u32) -> Self {
        let blocks = (hashes.len() * bits_of_key).div_ceil(BLOCK_BITS as usize).max(1);
        let mut bloom = Self { blocks: vec![[0; BLOCK_WORDS]; blocks], probes };
        for hash in hashes {
            let block = bloom.block_of(*hash);
            for bit in bloom.bits(*hash) {
                bloom.blocks[block][bit / 64] |= 1 << (bit % 64);
            }
        }
        bloom
    }

    pub fn may_contain(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block_of(hash)];
        self.bits(hash).all(|bit| block[bit / 64] >> (bit % 64) & 1 == 1)
    }

    pub fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK_WORDS * 8
    }

    fn block_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }

    /// The highest bits chose the block. Each probe takes nine more, after a multiplication that spreads them.
    fn bits(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mut state = hash;
        (0..self.probes).map(move |_| {
            state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
            (state % BLOCK_BITS) as usize
        })
    }
}
