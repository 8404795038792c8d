//! Opening a store whose process was killed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use op_engine::{Durability, Engine};

use super::Session;
use super::chain::Chain;
use super::figure::{Figure, Unit};
use super::store::{BenchStore, Opening, config};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::Out;

const KILLS: u64 = 3;
/// Blocks that the process has told of when it is killed.
const BLOCKS: usize = 25;

#[derive(Args)]
pub(crate) struct VictimArgs {
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    seed: u64,
}

/// Commits blocks until it is killed, and tells the height of each that is durable.
pub(crate) fn run_victim(args: &VictimArgs, _: &mut Out) -> Outcome {
    let engine = Engine::open_blocking(config(&args.store).create(false))?;
    let tip = engine.tip().ok_or(op_engine::Error::EmptyChain)?;
    let mut chain = Chain::behind(tip.height.0, tip.hash, args.seed);
    let mut pipe = std::io::stdout().lock();
    loop {
        let height = chain.height;
        engine.blocking().commit(chain.next_block_unspending().block().0)?;
        if writeln!(pipe, "{height}").and_then(|()| pipe.flush()).is_err() {
            return Ok(());
        }
    }
}

/// Kills a process that commits, and opens what it leaves behind.
pub(crate) fn reopen(session: &mut Session, store: &BenchStore) -> Outcome {
    let mut samples = Vec::new();
    for seed in 1..=KILLS {
        let told = kill_one(store, seed)?;
        let started = Instant::now();
        let engine = store.open(Opening::Usual(Durability::Block))?;
        samples.push(started.elapsed().as_secs_f64() * 1e3);
        let tip = engine.tip().map_or(0, |tip| tip.height.0);
        engine.close_blocking()?;
        if tip < told {
            return Err(Failure::Other(format!(
                "block {told} was durable, but the tip is {tip} after the kill"
            )));
        }
    }
    session.add(store, Figure::new(Workload::Reopen, "opening after SIGKILL", Unit::Millis, samples))?;
    Ok(())
}

fn kill_one(store: &BenchStore, seed: u64) -> Outcome<u64> {
    let program = std::env::current_exe().map_err(|error| Failure::os("find this program", error))?;
    let mut command = Command::new(program);
    command.arg("bench-victim").arg("--store").arg(&store.path).arg("--seed").arg(seed.to_string());
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| Failure::os("start this program again", error))?;
    let lines = child.stdout.take().map(BufReader::new);
    let mut lines = lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    let mut told: Option<u64> = None;
    for line in lines.by_ref().take(BLOCKS) {
        told = line.trim().parse().ok();
    }
    let killed = child.kill();
    for line in lines {
        told = line.trim().parse().ok().max(told);
    }
    let status = child.wait().map_err(|error| Failure::os("wait for the process", error))?;
    killed.map_err(|error| Failure::os("kill the process", error))?;
    told.ok_or_else(|| Failure::Other(format!("the process ended before it committed a block: {status}")))
}
