//! What the maker of the chain knows, compared with what the store answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use op_engine::chain::collections::{ContractState, Utxos};
use op_engine::chain::ingest::DemoSlots;
use op_engine::chain::queries::{
    ChainView, CoinFilter, Paging, ScriptUtxo, block_by_hash, transaction_by_txid, utxos_of_script,
};
use op_engine::chain::regtest::RegtestChain;
use op_engine::{Engine, Height, Snapshot};
use op_engine_io::block_on;
use op_engine_io::num::to_u64;

use super::{Story, check};
use crate::cli::failure::Outcome;
use crate::cli::show::{bitcoins, count, hash, plural, shortened};

/// Outputs of a script that are listed.
const OUTPUTS_SHOWN: usize = 3;
/// Times that a question is asked: the middle of the times is told.
const ASKED: usize = 21;

/// The UTXO set of a chain at its tip: enough of it to tell it from any other that a fault could make.
pub(super) struct Model {
    height: u64,
    outputs: u64,
    satoshis: u64,
    /// The script that owns the most outputs, with their values, the highest first.
    script: Vec<u8>,
    values: Vec<u64>,
}

impl Model {
    pub(super) fn of(chain: &RegtestChain) -> Self {
        let mut by_script: BTreeMap<&[u8], Vec<u64>> = BTreeMap::new();
        let mut satoshis = 0;
        for coin in chain.utxos().values() {
            let value = coin.output.value.to_sat();
            satoshis += value;
            by_script.entry(coin.output.script_pubkey.as_bytes()).or_default().push(value);
        }
        let richest = by_script.into_iter().max_by_key(|(_, values)| values.len());
        let (script, mut values) =
            richest.map(|(script, values)| (script.to_vec(), values)).unwrap_or_default();
        values.sort_unstable_by(|a, b| b.cmp(a));
        Self { height: chain.height(), outputs: to_u64(chain.utxos().len()), satoshis, script, values }
    }

    /// Reads the whole UTXO set of a snapshot and compares it.
    pub(super) fn compare(&self, snapshot: &Snapshot) -> Outcome {
        let height = snapshot.tip().map(|tip| tip.height.0);
        check(height == Some(self.height), || {
            format!("its tip is at {height:?} instead of {}", self.height)
        })?;
        let (mut outputs, mut satoshis) = (0u64, 0u64);
        let mut rows = snapshot.scan::<Utxos>();
        while let Some((_, utxo)) = block_on(rows.next())? {
            outputs += 1;
            satoshis += utxo.value;
        }
        check((outputs, satoshis) == (self.outputs, self.satoshis), || {
            format!(
                "at height {} it has {outputs} outputs worth {satoshis} satoshis instead of {} worth {}",
                self.height, self.outputs, self.satoshis
            )
        })?;
        let owned = block_on(owned(snapshot, &self.script, usize::MAX))?;
        let values: Vec<u64> = owned.iter().map(|utxo| utxo.value).collect();
        check(values == self.values, || {
            format!("at height {} an index has other outputs of a script than the chain", self.height)
        })
    }
}

async fn owned(view: &impl ChainView, script: &[u8], limit: usize) -> op_engine::Result<Vec<ScriptUtxo>> {
    Ok(utxos_of_script(view, script, &CoinFilter::default(), &Paging::first(limit)).await?.rows)
}

/// Asks several times; the answer, and the middle of the times.
fn timed<T>(mut ask: impl FnMut() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let mut answer = ask()?;
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let begun = Instant::now();
        answer = ask()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok((answer, times.get(ASKED / 2).copied().unwrap_or_default()))
}

/// The questions that a node asks, at the tip and in the past.
pub(super) fn ask(engine: &Engine, chain: &RegtestChain, past: &Model, story: &mut Story<'_>) -> Outcome {
    let tip = engine.tip();
    let expected = chain.tip().map(|block| block.hash);
    check(tip.map(|tip| tip.hash.0) == expected, || "its tip is not the chain's".to_owned())?;
    let expected = expected.unwrap_or_default();

    let (found, took) = timed(|| Ok(block_on(block_by_hash(engine, &expected))?))?;
    let height = found.map(|(height, _)| height);
    check(height == Some(chain.height()), || "the block of the tip is not found by its hash".to_owned())?;
    let result = format!("{} is at height {}", shortened(&hash(&expected), 19), count(chain.height()));
    story.happened("block by hash", result, took)?;

    let middle = chain.block_at(chain.height() - chain.height() / 4);
    let txid = middle.and_then(|block| block.txids.last()).copied().unwrap_or_default();
    let (found, took) = timed(|| Ok(block_on(transaction_by_txid(engine, &txid))?))?;
    let parsed = found.as_ref().and_then(|(_, stored)| stored.parse().ok());
    let right = parsed.as_ref().is_some_and(|parsed| parsed.compute_txid().to_byte_array() == txid);
    check(right, || "a transaction is not found by its txid".to_owned())?;
    let place = found.map_or(0, |(place, _)| place.height);
    let outputs = parsed.map_or(0, |parsed| to_u64(parsed.output.len()));
    let result = format!("in block {}, with {}", count(place), plural(outputs, "output"));
    story.happened("transaction by txid", result, took)?;

    let model = Model::of(chain);
    let (owned, took) = timed(|| Ok(block_on(owned(engine, &model.script, OUTPUTS_SHOWN))?))?;
    let result = format!("the {} most valuable of {}", owned.len(), count(to_u64(model.values.len())));
    story.happened("UTXOs of a script", result, took)?;
    for utxo in &owned {
        let (txid, number) = utxo.outpoint;
        let txid = shortened(&hash(&txid), 19);
        story.detail(format_args!(
            "{:>16}  {txid}:{number}, height {}",
            bitcoins(utxo.value),
            utxo.origin.height
        ))?;
    }
    let begun = Instant::now();
    model.compare(&block_on(engine.snapshot())?)?;
    let result = format!("equal: {}, {}", plural(model.outputs, "output"), bitcoins(model.satoshis));
    story.happened("UTXO set compared with the chain's", result, begun.elapsed())?;

    let begun = Instant::now();
    past.compare(&block_on(engine.at(Height(past.height)))?)?;
    let result = format!("equal at height {}: {}", count(past.height), plural(past.outputs, "output"));
    story.happened("the same in the past", result, begun.elapsed())?;
    slot_in_the_past(engine, story)
}

/// Contract state is kept for ever: the oldest version of a slot is still there.
fn slot_in_the_past(engine: &Engine, story: &mut Story<'_>) -> Outcome {
    let key = (DemoSlots::contract(1), DemoSlots::pointer(1));
    let tip = engine.tip().map_or(0, |tip| tip.height.0);
    let first = (0..=tip).find_map(|height| {
        let snapshot = block_on(engine.at(Height(height))).ok()?;
        block_on(snapshot.get::<ContractState>(&key)).ok().flatten().map(|value| (height, value))
    });
    let now = block_on(engine.get::<ContractState>(&key))?;
    let Some((height, value)) = first else {
        return check(now.is_none(), || "the first version of a contract slot is gone".to_owned());
    };
    let begun = Instant::now();
    let then = block_on(async { engine.at(Height(height)).await?.get::<ContractState>(&key).await })?;
    check(then == Some(value), || "a contract slot in the past has changed".to_owned())?;
    let changed = if now == then { "the same" } else { "another value" };
    let result = format!("as written by block {}; {changed} at the tip", count(height));
    story.happened("contract slot in the past", result, begun.elapsed())
}
