//! The command line: what there is to call, and how a command ends.

mod bench;
mod demo;
mod detect;
mod failure;
mod get;
mod ingest;
mod reorg;
mod scan;
mod show;
mod soak;
mod stats;
mod store;
mod tier;
mod tip;
mod utxos;
mod verify;
mod workdir;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use failure::Outcome;
use show::{Out, tell};

/// The storage engine of an OPNet node: reads Bitcoin block files into a store that follows reorgs, and looks into it.
#[derive(Parser)]
#[command(name = "op-engine", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Begin with `op-engine demo`: it needs no input and shows everything in half a minute."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Tell more of what goes on: -v for information, -vv for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Show the machine, what it offers, and the settings that follow, each with its reason
    Detect(detect::DetectArgs),
    /// Show everything the engine does, crashes included, on a chain made up for it
    Demo(demo::DemoArgs),
    /// Bring the chain in the block files of a node into a store, or follow it
    Ingest(ingest::IngestArgs),
    /// Show the tip of a store
    Tip(tip::TipArgs),
    /// Get a block, a transaction, an unspent output or a contract slot, at the tip or a height in the past
    Get(get::GetArgs),
    /// List the unspent outputs of a script or address, the most valuable first
    Utxos(utxos::UtxosArgs),
    /// List the rows of a collection or an index in order
    Scan(scan::ScanArgs),
    /// Take a store back to a height, as when Bitcoin reorganises
    Reorg(reorg::ReorgArgs),
    /// Show what a store holds and what its shards do
    Stats(stats::StatsArgs),
    /// Move old data to cheap storage and back, and show what is where
    Tier(tier::TierArgs),
    /// Read every byte of a store and list everything that is wrong with it
    Verify(verify::VerifyArgs),
    /// Measure this machine's device, and how much of it the engine passes on
    Bench(bench::BenchArgs),
    /// Fill a store far beyond its memory, and measure what that does to reads, writes, space and memory
    Soak(soak::SoakArgs),
    /// Ingest until killed: the demo's victim
    #[command(hide = true)]
    DemoVictim(demo::VictimArgs),
    /// Commit until killed: the benchmark's victim
    #[command(hide = true)]
    BenchVictim(bench::VictimArgs),
}

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to the standard output, which may be closed.
            drop(error.print());
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return ExitCode::from(code);
        }
    };
    log_to_stderr(cli.verbose);
    let mut out = Out::new();
    let outcome = dispatch(cli.command, &mut out);
    let flushed = out.flush();
    match outcome.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(format_args!("error: {failure}"));
            if let Some(remedy) = failure.remedy() {
                tell(format_args!("  help: {remedy}"));
            }
            failure.code()
        }
    }
}

fn dispatch(command: Command, out: &mut Out) -> Outcome {
    match command {
        Command::Detect(args) => detect::run(&args, out),
        Command::Demo(args) => demo::run(&args, out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Soak(args) => soak::run(&args, out),
        Command::BenchVictim(args) => bench::run_victim(&args, out),
        Command::DemoVictim(args) => demo::run_victim(&args, out),
        Command::Ingest(args) => ingest::run(&args, out),
        Command::Get(args) => get::run(&args, out),
        Command::Utxos(args) => utxos::run(&args, out),
        Command::Scan(args) => scan::run(&args, out),
        Command::Tip(args) => tip::run(&args, out),
        Command::Reorg(args) => reorg::run(&args, out),
        Command::Stats(args) => stats::run(&args, out),
        Command::Tier(args) => tier::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing_subscriber::filter::LevelFilter::WARN,
        1 => tracing_subscriber::filter::LevelFilter::INFO,
        2 => tracing_subscriber::filter::LevelFilter::DEBUG,
        _ => tracing_subscriber::filter::LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    // There is no other subscriber: this is the first thing that the process does.
    drop(log.try_init());
}
