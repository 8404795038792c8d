//! The commands of a worker.

use std::time::Instant;

use super::Assignment;
use super::meter::{Meter, resident_bytes};
use crate::stores::{Store, Table, sum};
use crate::workload::{Block, CoinKey, CoinValue, OldValues, answers_digest, reads_digest};
use crate::{Error, Result};

/// Keys of a batch of reads.
const BATCH_KEYS: usize = 1000;

/// A worker's store and what it measures.
pub struct Commands {
    assignment: Assignment,
    store: Option<Box<dyn Store>>,
    meter: Meter,
}

impl Commands {
    /// Before the store is open.
    pub fn new(assignment: Assignment) -> Self {
        Self { assignment, store: None, meter: Meter::start() }
    }

    /// Does what a command says; the values of its answer.
    pub fn run(&mut self, words: &[&str], payload: &[u8]) -> Result<String> {
        match words {
            ["open"] => self.open(),
            ["start"] => {
                self.meter = Meter::start();
                Ok(String::new())
            }
            ["commit", durable] => self.commit(&Block::decode(payload)?, *durable == "durable"),
            ["settle"] => self.store()?.settle().map(|()| String::new()),
            ["measure"] => {
                let (peak, anonymous) = resident_bytes();
                Ok(format!("{} {peak} {anonymous}", self.meter.values()))
            }
            ["read", how] => self.read(*how == "batched", payload),
            ["roll-back", height] => self.roll_back(height.parse()?),
            ["sum", table] => self.sum(table.parse()?),
            ["close"] => self.close(),
            _ => Err(format!("unknown command {words:?}").into()),
        }
    }

    fn store(&mut self) -> Result<&mut Box<dyn Store>> {
        self.store.as_mut().ok_or_else(|| Error::from("the store is not open"))
    }

    /// Seconds until the store is open and has told its tip, and the tip.
    fn open(&mut self) -> Result<String> {
        let Assignment { kind, path, settings } = &self.assignment;
        let began = Instant::now();
        let mut store = kind.open(path, *settings)?;
        let tip = store.tip()?;
        let seconds = began.elapsed().as_secs_f64();
        self.store = Some(store);
        Ok(format!("{seconds} {}", tip.map_or("none".to_owned(), |tip| tip.to_string())))
    }

    /// Reads what a block replaces, then commits it; the digest of what was read.
    fn commit(&mut self, block: &Block, durable: bool) -> Result<String> {
        let store = self.store.as_mut().ok_or("the store is not open")?;
        let old = self.meter.time(|| {
            let old = read_old(store.as_mut(), block)?;
            store.commit(block, &old, durable)?;
            Ok::<_, Error>(old)
        })?;
        Ok(reads_digest(&old).to_string())
    }

    /// Reads coins, in batches or one by one; the digest of the answers.
    fn read(&mut self, batched: bool, payload: &[u8]) -> Result<String> {
        let store = self.store.as_mut().ok_or("the store is not open")?;
        let keys: Vec<&[u8]> = payload.chunks_exact(size_of::<CoinKey>()).collect();
        let mut answers: Vec<Option<CoinValue>> = vec![None; keys.len()];
        self.meter.time(|| {
            for (keys, answers) in keys.chunks(BATCH_KEYS).zip(answers.chunks_mut(BATCH_KEYS)) {
                if batched {
                    store.get_many(Table::Coins, keys, &mut |at, value| answers[at] = value.map(array))?;
                } else {
                    for (key, answer) in keys.iter().zip(answers) {
                        store.get(Table::Coins, key, &mut |_, value| *answer = value.map(array))?;
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(answers_digest(answers.iter().map(|answer| answer.as_ref().map(|value| &value[..]))).to_string())
    }

    /// Seconds that it took.
    fn roll_back(&mut self, height: u32) -> Result<String> {
        let began = Instant::now();
        self.store()?.roll_back(height)?;
        let seconds = began.elapsed().as_secs_f64();
        let tip = self.store()?.tip()?;
        if tip == Some(height) { Ok(seconds.to_string()) } else { Err(format!("the tip is {tip:?}").into()) }
    }

    /// Rows of a table and the sum of their hashes.
    fn sum(&mut self, table: usize) -> Result<String> {
        let table = *Table::ALL.get(table).ok_or("no such table")?;
        let sum = sum(self.store()?.as_mut(), table)?;
        Ok(format!("{} {}", sum.rows, sum.hash))
    }

    fn close(&mut self) -> Result<String> {
        self.store.take().map_or(Ok(()), |store| store.close())?;
        Ok(String::new())
    }
}

/// Reads the coins that a block spends and the slots that it writes.
///
/// # Errors
/// Whatever the store fails with.
pub fn read_old(store: &mut dyn Store, block: &Block) -> Result<OldValues> {
    let mut old = OldValues { coins: vec![None; block.spent.len()], slots: vec![None; block.slots.len()] };
    let coins: Vec<&[u8]> = block.spent.iter().map(|key| &key[..]).collect();
    if !coins.is_empty() {
        store.get_many(Table::Coins, &coins, &mut |at, value| old.coins[at] = value.map(array))?;
    }
    let slots: Vec<&[u8]> = block.slots.iter().map(|(key, _)| &key[..]).collect();
    store.get_many(Table::Slots, &slots, &mut |at, value| old.slots[at] = value.map(array))?;
    Ok(old)
}

/// Bytes of a known length. A value of another length becomes zeros, which no digest takes for the right one.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}
