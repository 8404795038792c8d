//! A standard ribbon filter (Dillinger and Walzer 2021) with bands of 64 bits: a system of linear equations over bits, one
//! a key, which is nearly triangular when the equations stand in the order of their first variable.
//!
//! The solution has a column for each bit of a fingerprint. 64 rows of all columns lie together, so that a question
//! touches two neighbouring blocks.

const BAND_BITS: usize = 64;
/// A system without a solution is tried again with another seed.
const TRIES: u64 = 64;

pub struct Ribbon {
    seed: u64,
    columns: usize,
    /// How many rows an equation can begin at.
    starts: u64,
    /// `columns` words for each 64 rows.
    solution: Vec<u64>,
}

/// Of a key: the first row, which variables it has from there on, and its fingerprint.
struct Equation {
    start: usize,
    coefficients: u64,
    fingerprint: u64,
}

impl Ribbon {
    /// With `rows_of_100_keys` rows: 100 would be the bound.
    pub fn new(hashes: &[u64], columns: usize, rows_of_100_keys: usize) -> Self {
        let rows = (hashes.len() * rows_of_100_keys).div_ceil(100).next_multiple_of(64).max(2 * BAND_BITS);
        let starts = (rows - BAND_BITS + 1) as u64;
        let tried = (1..=TRIES).find_map(|seed| {
            let ribbon = Self { seed, columns, starts, solution: Vec::new() };
            let triangle = ribbon.triangle(hashes, rows)?;
            Some(Self { solution: solve(&triangle, columns), ..ribbon })
        });
        tried.expect("a system with enough rows has a solution")
    }

    pub fn may_contain(&self, hash: u64) -> bool {
        let Equation { start, coefficients, fingerprint } = self.equation(hash);
        let (block, shift) = (start / 64, start % 64);
        let at = block * self.columns;
        let first = &self.solution[at..at + self.columns];
        // Below the mask of the first block, the second one's words are not needed and may not exist.
        let (low, high) = (coefficients << shift, if shift == 0 { 0 } else { coefficients >> (64 - shift) });
        if high == 0 {
            return first
                .iter()
                .enumerate()
                .all(|(column, word)| u64::from((word & low).count_ones() & 1) == fingerprint >> column & 1);
        }
        let second = &self.solution[at + self.columns..at + 2 * self.columns];
        first.iter().zip(second).enumerate().all(|(column, (first, second))| {
            u64::from(((first & low) ^ (second & high)).count_ones() & 1) == fingerprint >> column & 1
        })
    }

    pub fn bytes(&self) -> usize {
        self.solution.len() * 8
    }

    fn equation(&self, hash: u64) -> Equation {
        let mixed =
            (hash ^ self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let start = ((u128::from(mixed) * u128::from(self.starts)) >> 64) as usize;
        let coefficients = mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (mixed >> 29);
        let fingerprint = coefficients.wrapping_mul(0xA076_1D64_78BD_642F) >> (64 - self.columns);
        Equation { start, coefficients: coefficients | 1, fingerprint }
    }

    /// Brings the equations into a triangle as they come; `None` if one contradicts the others.
    fn triangle(&self, hashes: &[u64], rows: usize) -> Option<Vec<(u64, u64)>> {
        let mut triangle = vec![(0u64, 0u64); rows];
        for hash in hashes {
            let Equation { mut start, mut coefficients, mut fingerprint } = self.equation(*hash);
            loop {
                let row = &mut triangle[start];
                if row.0 == 0 {
                    *row = (coefficients, fingerprint);
                    break;
                }
                coefficients ^= row.0;
                fingerprint ^= row.1;
                if coefficients == 0 {
                    if fingerprint != 0 {
                        return None;
                    }
                    break;
                }
                let zeros = coefficients.trailing_zeros();
                start += zeros as usize;
                coefficients >>= zeros;
            }
        }
        Some(triangle)
    }
}

/// From the last row to the first. `state` has the 64 rows of each column that follow the current one.
fn solve(triangle: &[(u64, u64)], columns: usize) -> Vec<u64> {
    let mut solution = vec![0; triangle.len() / 64 * columns];
    let mut state = vec![0u64; columns];
    for (row, (coefficients, fingerprint)) in triangle.iter().enumerate().rev() {
        for (column, state) in state.iter_mut().enumerate() {
            let shifted = *state << 1;
            // A row without an equation is free: zero.
            let bit = if *coefficients == 0 {
                0
            } else {
                u64::from((shifted & coefficients).count_ones() & 1) ^ (fingerprint >> column & 1)
            };
            *state = shifted | bit;
        }
        if row % 64 == 0 {
            solution[row / 64 * columns..][..columns].copy_from_slice(&state);
        }
    }
    solution
}
