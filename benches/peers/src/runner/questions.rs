//! Reads whose answers are known.

use super::process::Process;
use crate::workload::{CoinKey, CoinValue, answers_digest};
use crate::{Error, Result};

/// Batches of reads have this many keys.
const BATCH_KEYS: usize = 1000;

/// Coins to read, with what must come back.
pub struct Question {
    keys: Vec<u8>,
    expected: u128,
}

impl Question {
    /// From coins in the order of their keys. Each batch has keys from everywhere, in ascending order.
    pub fn coins(coins: Vec<(CoinKey, Option<CoinValue>)>) -> Self {
        let batches = coins.len().div_ceil(BATCH_KEYS).max(1);
        let mut dealt: Vec<Vec<_>> = (0..batches).map(|_| Vec::new()).collect();
        coins.into_iter().enumerate().for_each(|(at, coin)| dealt[at % batches].push(coin));
        let coins: Vec<_> = dealt.into_iter().flatten().collect();
        let expected = answers_digest(coins.iter().map(|(_, value)| value.as_ref().map(|it| &it[..])));
        Self { keys: coins.iter().flat_map(|(key, _)| *key).collect(), expected }
    }

    /// Has a worker read them.
    pub fn ask(&self, process: &mut Process, how: &str, what: &str) -> Result<()> {
        let answers = process.ask(&format!("read {how}"), &self.keys)?;
        expect(&answers, &self.expected.to_string(), || format!("{what}, {how}"))
    }
}

/// Fails if a worker found something else than the model.
pub fn expect(found: &[String], expected: &str, what: impl Fn() -> String) -> Result<()> {
    let found = found.join(" ");
    if found == expected {
        return Ok(());
    }
    Err(Error::from(format!("WRONG ANSWER: {}: {found}, not {expected}", what())))
}
