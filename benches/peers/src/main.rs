//! `op-engine-peers`: compares OP-Engine with other embedded stores. See README.md.

use std::process::ExitCode;

use op_engine_peers::arguments::{Arguments, USAGE};
use op_engine_peers::{Result, runner, worker};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("op-engine-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = words.as_slice()
        && role == "worker"
    {
        return worker::run(worker::Assignment::parse(rest)?);
    }
    match Arguments::parse(words.into_iter())? {
        Some(arguments) => runner::run(&arguments),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    }
}
