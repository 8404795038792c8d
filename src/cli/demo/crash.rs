//! A process that ingests is killed, and nothing that it was told to be committed is lost.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use op_engine::Engine;
use op_engine::chain::Ingest;
use op_engine::chain::regtest::RegtestChain;
use op_engine_io::block_on;

use super::answers::Model;
use super::{SLOTS, Story, check, ingest, open_files, write_blocks};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::{Out, count, plural};
use crate::cli::store::config;
use crate::cli::workdir::Workdir;

/// How often a process is killed.
const KILLS: u64 = 3;
/// Blocks that each process may ingest at least: more than it can before it is killed.
const BLOCKS_MIN: u64 = 150;
/// The kernel holds the lock of a killed process until its writes have landed.
const LOCK_WAIT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct VictimArgs {
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    blocks: PathBuf,
}

/// Ingests, and tells the height of every block when it is acknowledged as durable.
pub(crate) fn run_victim(args: &VictimArgs, _: &mut Out) -> Outcome {
    let engine = Engine::open_blocking(config(&args.store).create(false).lock_wait(LOCK_WAIT))?;
    let mut pipe = std::io::stdout().lock();
    let tell = |now: &op_engine::chain::ingest::IngestProgress| {
        // Nobody listens any more if this fails, and then nobody needs to know.
        drop(writeln!(pipe, "{}", now.height).and_then(|()| pipe.flush()));
    };
    Ingest::new().demo_slots(SLOTS).on_progress(tell).run(&engine, &open_files(&args.blocks)?)?;
    Ok(block_on(engine.close())?)
}

pub(super) fn kill_and_reopen(
    chain: &mut RegtestChain,
    workdir: &Workdir,
    story: &mut Story<'_>,
    blocks: u64,
) -> Outcome {
    chain.mine_blocks(BLOCKS_MIN.max(blocks / 2));
    let files = write_blocks(chain, workdir, 3)?;
    let mut before = 0;
    for number in 1..=KILLS {
        let acknowledged = kill_one(&workdir.store(), &files)?;
        let begun = Instant::now();
        let engine = Engine::open_blocking(config(&workdir.store()).create(false).lock_wait(LOCK_WAIT))?;
        let took = begun.elapsed();
        let (tip, recovered) = (engine.tip().map_or(0, |tip| tip.height.0), engine.recovered());
        let known = chain.block_at(tip).map(|block| block.hash);
        let right = engine.tip().map(|tip| tip.hash.0) == known;
        block_on(engine.close())?;
        check(tip >= acknowledged, || {
            format!(
                "block {acknowledged} was acknowledged, but the tip is {tip} after the process was killed"
            )
        })?;
        check(right && tip >= before, || format!("its tip at height {tip} is not a block of the chain"))?;
        before = tip;
        story.detail(format_args!(
            "killed after it was told of block {}; {} of unfinished writes dropped",
            count(acknowledged),
            plural(recovered.torn_tail_bytes, "byte")
        ))?;
        let result = format!("last acknowledged {}, tip {}: none lost", count(acknowledged), count(tip));
        story.happened(&format!("reopened after SIGKILL {number}"), result, took)?;
    }
    let engine = Engine::open_blocking(config(&workdir.store()).create(false))?;
    let outcome = (|| {
        let report = ingest(&engine, &files)?;
        let result =
            format!("{} more, tip at {}", plural(report.counts.blocks, "block"), count(chain.height()));
        story.happened("ingested the rest", result, report.elapsed)?;
        let begun = Instant::now();
        Model::of(chain).compare(&block_on(engine.snapshot())?)?;
        story.happened("UTXO set compared with the chain's", "equal".to_owned(), begun.elapsed())
    })();
    let closed = block_on(engine.close());
    outcome?;
    Ok(closed?)
}

/// Starts a process that ingests and kills it while commits are on their way. Gives the last height it has told of.
fn kill_one(store: &Path, files: &Path) -> Outcome<u64> {
    let program = std::env::current_exe().map_err(|error| Failure::os("find this program", error))?;
    let mut command = Command::new(program);
    command.arg("demo-victim").arg("--store").arg(store).arg("--blocks").arg(files);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| Failure::os("start this program again", error))?;
    let told = child.stdout.take().map(BufReader::new);
    let mut lines = told.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    let (few, moment) = chance();
    let mut acknowledged: Option<u64> = None;
    let note = |acknowledged: &mut Option<u64>, line: &str| {
        *acknowledged = line.trim().parse().ok().max(*acknowledged);
    };
    for line in lines.by_ref().take(few) {
        note(&mut acknowledged, &line);
    }
    std::thread::sleep(moment);
    let killed = child.kill();
    // What it told before it died counts, too.
    for line in lines {
        note(&mut acknowledged, &line);
    }
    let status = child.wait().map_err(|error| Failure::os("wait for the process", error))?;
    killed.map_err(|error| Failure::os("kill the process", error))?;
    acknowledged
        .ok_or_else(|| Failure::Other(format!("the process ended before it committed a block: {status}")))
}

/// After how many acknowledgements, and how much later, to kill: different each time.
fn chance() -> (usize, Duration) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = now.subsec_nanos();
    let few = usize::try_from(3 + nanos / 1000 % 20).unwrap_or(3);
    (few, Duration::from_micros(u64::from(nanos / 7 % 4000)))
}
