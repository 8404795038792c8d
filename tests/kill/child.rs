//! The process that is killed, and what the killer knows of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant};

use op_engine::{Config, Durability, Engine, Pending, ShardConfig};

use crate::model::{Chain, Op, WINDOW, batch, block, plan};
use crate::schema::{Coins, Pool, Slots, Wallet};

/// Set in the environment of a child to what it shall do.
const ROLE: &str = "OP_ENGINE_KILL_ROLE";
/// The name of the test function that a child runs.
const ENTRY: &str = "child_process";
const STORE: &str = "OP_ENGINE_KILL_STORE";
/// Blocks that a writer has on their way at once.
const PIPELINE: usize = 24;
/// Operations between two counts of what the engine has done.
const COUNTED_EVERY: u64 = 8;

/// The configuration that every process uses: small files, so that all that happens in months happens in seconds.
pub fn config(path: &Path) -> Config {
    let settings = ShardConfig {
        wal_file_bytes: 128 << 10,
        wal_gather_bytes: 8 << 10,
        memtable_bytes_max: 12 << 10,
        cache_bytes: 64 << 10,
        memtable_age_max: Duration::from_millis(200),
        segment_write_bytes: 16 << 10,
        segment_bytes_max: 20 << 10,
        append_run_bytes_max: 120 << 10,
        young_runs_max: 3,
        merge_fan_in: 3,
        merge_inputs_max: 6,
        merge_runs_soft: 12,
        merge_runs_max: 20,
        ..ShardConfig::default()
    };
    Config::new(path)
        .collection::<Coins>()
        .collection::<Slots>()
        .collection::<Pool>()
        .collection::<Wallet>()
        .shards(2)
        .calibrate(false)
        .arena(2 << 20)
        .reorg_window(WINDOW)
        .shard_settings(settings)
}

/// What is counted of an engine's work: flushes, merges above the bottom, descents, steps that trimmed an input,
/// segments that a reorg killed, large values, and commits that were held up.
pub const COUNTS: [&str; 7] = ["flushes", "merges", "descents", "trims", "orphans", "large values", "stalls"];
pub type Counts = [u64; COUNTS.len()];

/// Sums over all shards since the store was opened.
pub fn counts(engine: &Engine) -> Result<Counts, op_engine::Error> {
    let mut sums = Counts::default();
    for shard in engine.blocking().stats()?.shards {
        let stalls = shard.stalls.iter().map(|(_, stall)| stall.count).sum();
        let merges = shard.merges - shard.descents - shard.segments_cleaned;
        let (trims, orphans) = (shard.segments_trimmed, shard.orphans_deleted);
        let counts = [shard.flushes, merges, shard.descents, trims, orphans, shard.large_values, stalls];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    Ok(sums)
}

/// What a child reports, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The store is open.
    Open,
    /// An operation is about to be submitted.
    Submitted(u64),
    /// An operation is acknowledged.
    Acknowledged(u64),
    /// All operations up to this one survive a crash.
    Durable(u64),
    /// What the engine has done so far.
    Counted(Counts),
}

impl Report {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("@")?.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse().ok();
        match kind {
            "open" => Some(Self::Open),
            "submitted" => number().map(Self::Submitted),
            "acknowledged" => number().map(Self::Acknowledged),
            "durable" => number().map(Self::Durable),
            "counted" => {
                let mut counts = Counts::default();
                for count in &mut counts {
                    *count = number()?;
                }
                Some(Self::Counted(counts))
            }
            _ => None,
        }
    }
}

/// What a writer is to do.
pub struct Task<'a> {
    pub store: &'a Path,
    pub seed: u64,
    /// The last operation that the store holds.
    pub number: u64,
    pub chain: &'a Chain,
    pub deferred: bool,
}

/// A child, killed when this is dropped.
pub struct Child {
    process: std::process::Child,
    reports: Receiver<Report>,
}

impl Child {
    /// Starts a child that writes until it is killed.
    pub fn writer(task: &Task<'_>) -> Self {
        let durability = if task.deferred { "deferred" } else { "block" };
        let role = format!("write {durability} {} {} {}", task.seed, task.number, task.chain.to_text());
        Self::start(task.store, &role)
    }

    /// Starts a child that opens the store and waits.
    pub fn holder(store: &Path) -> Self {
        Self::start(store, "hold")
    }

    fn start(store: &Path, role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", ENTRY, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(STORE, store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, reports) = channel();
        std::thread::spawn(move || {
            // What the test harness of the child prints is no report; a line that the kill cut short is none either.
            for line in output.lines() {
                let Ok(line) = line else { return };
                if let Some(report) = Report::parse(&line)
                    && sender.send(report).is_err()
                {
                    return;
                }
            }
        });
        Self { process, reports }
    }

    /// The next report; `None` after `patience`, or if the child has ended.
    pub fn report(&self, patience: Duration) -> Option<Report> {
        self.reports.recv_timeout(patience).ok()
    }

    /// Lets it run until a moment.
    pub fn watch_until(&self, end: Instant, mut seen: impl FnMut(Report)) {
        loop {
            match self.reports.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(report) => seen(report),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("the child has ended by itself"),
            }
        }
    }

    /// Kills it at once. Does not wait for it to be gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// What it had reported before it was killed.
    pub fn last_words(mut self, mut seen: impl FnMut(Report)) {
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
        while let Ok(report) = self.reports.recv_timeout(Duration::from_secs(10)) {
            seen(report);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The child's side of the pipe.
struct Reporter(File);

impl Reporter {
    fn new() -> Self {
        Self(std::io::stdout().as_fd().try_clone_to_owned().unwrap().into())
    }

    /// One write a line: it is in the pipe or it is not. Fails when the parent has gone, and so ends the child.
    fn tell(&self, line: &str) {
        (&self.0).write_all(format!("@{line}\n").as_bytes()).unwrap();
    }
}

/// What a process with a role does; returns at once in any other.
pub fn run() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let store = std::env::var(STORE).unwrap();
    // The harness has printed the name of the test without an end of line.
    println!();
    let words: Vec<&str> = role.split(' ').collect();
    match words[0] {
        "hold" => hold(Path::new(&store)),
        "write" => {
            let (seed, number) = (words[2].parse().unwrap(), words[3].parse().unwrap());
            write(Path::new(&store), seed, number, Chain::from_text(words[4]), words[1] == "deferred");
        }
        _ => panic!("no role: {role}"),
    }
    // Reached only if the parent has gone.
    std::process::exit(1);
}

fn hold(store: &Path) {
    let engine = Engine::open_blocking(config(store)).unwrap();
    Reporter::new().tell("open");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(engine);
}

fn write(store: &Path, seed: u64, mut number: u64, mut chain: Chain, deferred: bool) {
    let config = config(store);
    let config = if deferred {
        config.durability(Durability::Deferred { blocks: 20, interval: Duration::from_millis(15) })
    } else {
        config
    };
    let engine = Engine::open_blocking(config).unwrap();
    let reporter = Reporter::new();
    reporter.tell("open");
    let (sender, pending) = sync_channel::<(u64, Pending)>(PIPELINE);
    std::thread::spawn(move || {
        let reporter = Reporter::new();
        for (number, pending) in pending {
            let committed = pending.wait().unwrap_or_else(|error| end(&error));
            reporter.tell(&format!("acknowledged {number}"));
            if committed.durable {
                reporter.tell(&format!("durable {number}"));
            }
        }
    });
    loop {
        number += 1;
        let op = plan(seed, number, &chain);
        reporter.tell(&format!("submitted {number}"));
        if number.is_multiple_of(COUNTED_EVERY) {
            let counts = counts(&engine).unwrap_or_else(|error| end(&error));
            reporter.tell(&format!("counted {}", counts.map(|count| count.to_string()).join(" ")));
        }
        let before = chain.clone();
        chain.apply(number, &op);
        let durable = match op {
            Op::Block(changes) => {
                let block = block(seed, number, &before, changes);
                let pending = engine.blocking().submit(block).unwrap_or_else(|error| end(&error));
                sender.send((number, pending)).unwrap();
                continue;
            }
            Op::Global(changes) => engine.blocking().commit_global(batch(changes)).map(drop),
            Op::Reorg(target) => engine.blocking().reorg_to(op_engine::Height(target)).map(drop),
        };
        durable.unwrap_or_else(|error| end(&error));
        reporter.tell(&format!("acknowledged {number}"));
        reporter.tell(&format!("durable {number}"));
    }
}

/// Ends the child, whichever thread has met the error.
fn end(error: &op_engine::Error) -> ! {
    eprintln!("the store failed: {error}");
    std::process::exit(2);
}
