//! One store's turns.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{disk_bytes, forget_cached};
use super::memory_group::Memory;
use super::process::Process;
use super::questions::{Question, expect};
use super::results::{Figure, Results};
use crate::Result;
use crate::arguments::{Arguments, Durability};
use crate::stores::{Kind, Settings, Table};
use crate::worker::Assignment;
use crate::workload::{Chain, Sum};

/// The deep reorg takes back this many blocks.
pub const DEEP_BLOCKS: u32 = 100;
const SYNC_BLOCKS: u32 = 100;
const MIB: f64 = (1 << 20) as f64;
/// Coins that are read again after a rollback.
const CHECK_COINS: usize = 1000;

/// A store on its way through the rounds.
pub struct Player<'a> {
    arguments: &'a Arguments,
    chain: &'a Chain,
    memory: &'a Memory,
    memory_bytes: u64,
    kind: Kind,
    path: PathBuf,
    /// Where the next round goes on.
    tip: u32,
}

impl<'a> Player<'a> {
    /// A store with memory of its own.
    pub fn new(
        arguments: &'a Arguments,
        chain: &'a Chain,
        memory: &'a Memory,
        memory_bytes: u64,
        kind: Kind,
    ) -> Self {
        let path = arguments.path.join(kind.name());
        Self { arguments, chain, memory, memory_bytes, kind, path, tip: 0 }
    }

    /// Its name.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Fills a new store, without measuring and without a limit of memory.
    ///
    /// # Errors
    /// If the store fails.
    pub fn fill(&mut self) -> Result<()> {
        fresh(&self.path)?;
        let mut process = self.start(false, &Memory::CachesOnly { why: String::new() })?;
        process.ask("open", &[])?;
        let last = self.arguments.shape.base_blocks - 1;
        self.ingest(&mut process, 0..=last, Durability::Hundred, Duration::MAX)?;
        process.ask("settle", &[])?;
        process.close()
    }

    /// Ingests, is killed, opens again, reads, and goes back. The last round compares everything with the model.
    ///
    /// # Errors
    /// If the store fails, or does not answer what the model says.
    pub fn play(&mut self, is_last: bool, results: &mut Results) -> Result<()> {
        let start = self.tip;
        for (number, durability) in self.arguments.durabilities.iter().enumerate() {
            let process = self.measure_ingest(*durability, results)?;
            if number + 1 == self.arguments.durabilities.len() { process.kill()? } else { process.close()? }
        }
        results.add(self.kind, Figure::Disk, disk_bytes(&self.path)? as f64 / MIB, true);
        let mut process = self.reopen(results)?;
        // Reads without the work that opening has left.
        process.ask("settle", &[])?;
        self.read(&mut process, results)?;
        if is_last {
            self.compare(&mut process)?;
        }
        let (top, measured) = (self.tip, self.tip - start);
        self.go_back(&mut process, 1, Figure::Shallow, 1.0, results)?;
        if is_last {
            self.compare(&mut process)?;
        }
        let deep = DEEP_BLOCKS.min(measured - 1);
        if deep > 0 {
            let scale = f64::from(DEEP_BLOCKS) / f64::from(deep);
            self.go_back(&mut process, deep, Figure::Deep, scale, results)?;
        }
        let touched = Question::coins(self.chain.touched(self.tip, top, CHECK_COINS));
        touched.ask(&mut process, "batched", "coins that a rollback touched")?;
        if is_last {
            self.compare(&mut process)?;
        }
        process.close()
    }

    fn start(&self, every_block_durable: bool, memory: &Memory) -> Result<Process> {
        let settings = Settings { memory_bytes: self.memory_bytes, every_block_durable };
        Process::start(&Assignment { kind: self.kind, path: self.path.clone(), settings }, memory)
    }

    fn measure_ingest(&mut self, durability: Durability, results: &mut Results) -> Result<Process> {
        forget_cached(&self.path)?;
        let mut process = self.start(durability == Durability::Block, self.memory)?;
        process.ask("open", &[])?;
        process.ask("start", &[])?;
        let (before, wanted) = (self.tip, self.arguments.blocks);
        let time_max = Duration::from_secs(self.arguments.seconds_max);
        self.ingest(&mut process, before + 1..=before + wanted, durability, time_max)?;
        process.ask("settle", &[])?;
        let [elapsed, cpu, read, written, peak, _] = process.numbers("measure", &[])?;
        let done = self.tip - before;
        let blocks = f64::from(done);
        let mut add = |figure, value| results.add(self.kind, figure, value, done == wanted);
        add(Figure::Ingest(durability), blocks / elapsed);
        add(Figure::IngestCpu(durability), cpu * 1e3 / blocks);
        add(Figure::IngestWritten(durability), written / MIB / blocks);
        add(Figure::IngestRead(durability), read / MIB / blocks);
        add(Figure::IngestPeak(durability), peak / MIB);
        Ok(process)
    }

    /// Commits blocks until the last one or until the time is over; the last one that is committed is durable.
    fn ingest(
        &mut self,
        process: &mut Process,
        heights: RangeInclusive<u32>,
        durability: Durability,
        time_max: Duration,
    ) -> Result<()> {
        let (first, last, began) = (*heights.start(), *heights.end(), Instant::now());
        for height in heights {
            let ends = height == last || began.elapsed() > time_max;
            let hundredth = (height - first + 1).is_multiple_of(SYNC_BLOCKS);
            let durable = durability == Durability::Block || hundredth || ends;
            let command = if durable { "commit durable" } else { "commit volatile" };
            let read = process.ask(command, self.chain.block(height))?;
            expect(&read, &self.chain.reads_digest(height).to_string(), || {
                format!("reads of block {height}")
            })?;
            self.tip = height;
            if ends {
                break;
            }
        }
        Ok(())
    }

    fn reopen(&self, results: &mut Results) -> Result<Process> {
        forget_cached(&self.path)?;
        let mut process = self.start(true, self.memory)?;
        let [seconds, found] = process.numbers("open", &[])?;
        if found != f64::from(self.tip) {
            return Err(format!("after SIGKILL the tip is {found}, not {}", self.tip).into());
        }
        results.add(self.kind, Figure::Reopen, seconds * 1e3, true);
        Ok(process)
    }

    fn read(&self, process: &mut Process, results: &mut Results) -> Result<()> {
        let (count, height) = (self.arguments.reads, self.tip);
        let present = |seed| {
            let coins = self.chain.unspent(height, count, seed).into_iter();
            Question::coins(coins.map(|(key, value)| (key, Some(value))).collect())
        };
        let absent = self.chain.absent(height, count, 3).into_iter().map(|key| (key, None)).collect();
        let kinds = [
            ("batched", present(1), Figure::Batched, Figure::BatchedCpu),
            ("single", present(2), Figure::Single, Figure::SingleCpu),
            ("batched", Question::coins(absent), Figure::Absent, Figure::AbsentCpu),
        ];
        for (how, question, rate_figure, cpu_figure) in kinds {
            process.ask("start", &[])?;
            question.ask(process, how, "random reads")?;
            let [elapsed, cpu, read, ..]: [f64; 6] = process.numbers("measure", &[])?;
            let reads = count as f64;
            results.add(self.kind, rate_figure, reads / elapsed, true);
            results.add(self.kind, cpu_figure, cpu * 1e6 / reads, true);
            if rate_figure == Figure::Batched {
                results.add(self.kind, Figure::ReadBytes, read / reads, true);
            }
        }
        Ok(())
    }

    /// Takes blocks back. The time is multiplied by `scale`.
    fn go_back(
        &mut self,
        process: &mut Process,
        blocks: u32,
        figure: Figure,
        scale: f64,
        results: &mut Results,
    ) -> Result<()> {
        self.tip -= blocks;
        let [seconds] = process.numbers(&format!("roll-back {}", self.tip), &[])?;
        results.add(self.kind, figure, seconds * 1e3 * scale, scale == 1.0);
        Ok(())
    }

    /// Compares every row of every table with the model.
    fn compare(&self, process: &mut Process) -> Result<()> {
        for (number, table) in Table::ALL.iter().enumerate() {
            let Sum { rows, hash } = self.chain.digests(self.tip)[number];
            let found = process.ask(&format!("sum {number}"), &[])?;
            expect(&found, &format!("{rows} {hash}"), || format!("{table:?} at height {}", self.tip))?;
        }
        Ok(())
    }
}

/// An empty place for a store.
fn fresh(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    Ok(std::fs::create_dir_all(path.parent().unwrap_or(path))?)
}
