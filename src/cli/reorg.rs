//! `op-engine reorg`

use std::io::{self, BufRead, IsTerminal};
use std::time::Instant;

use clap::Args;
use op_engine::Height;
use op_engine_io::block_on;

use super::failure::{Failure, Outcome};
use super::show::{Out, count, plural, tell, time};
use super::store::{StoreArgs, tip_of};

#[derive(Args)]
#[command(
    after_help = "The blocks above the height are taken back in all collections at once. They can be ingested \
again: `op-engine ingest` goes on from the tip.\n\nExamples:\n  op-engine reorg --store /var/lib/opnet/store --to 850000\n  \
op-engine reorg --store /var/lib/opnet/store --to 850000 --yes"
)]
pub(crate) struct ReorgArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The height to go back to: its block becomes the tip
    #[arg(long, value_name = "HEIGHT")]
    to: u64,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(args: &ReorgArgs, out: &mut Out) -> Outcome {
    if !args.yes && !io::stdin().is_terminal() {
        return Err(Failure::Usage("nobody can be asked here: give --yes to take blocks back".to_owned()));
    }
    let engine = args.store.open_to_write()?;
    let outcome = go_back(&engine, args, out);
    let closed = block_on(engine.close());
    outcome?;
    Ok(closed?)
}

fn go_back(engine: &op_engine::Engine, args: &ReorgArgs, out: &mut Out) -> Outcome {
    let tip = tip_of(engine)?;
    let blocks = tip.height.0.saturating_sub(args.to);
    if blocks > 0 && !args.yes {
        tell(format_args!(
            "Take back {}, from height {} to {}? [y/N]",
            plural(blocks, "block"),
            count(tip.height.0),
            count(args.to)
        ));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::os("read the answer", error))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::Other("nothing was changed".to_owned()));
        }
    }
    let started = Instant::now();
    let reorged = block_on(engine.reorg_to(Height(args.to)))?;
    let took = started.elapsed();
    let tip = tip_of(engine)?;
    out.line(format_args!(
        "went back {} in {}: the tip is {} at height {}",
        plural(reorged.from.0.saturating_sub(reorged.to.0), "block"),
        time(took),
        tip.hash,
        count(tip.height.0)
    ))
}
