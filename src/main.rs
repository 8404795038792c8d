//! The program `op-engine`: looks at stores, fills them from block files, and shows what the engine does.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
