//! `op-engine tip`

use clap::Args;
use op_engine_io::block_on;

use super::failure::Outcome;
use super::show::{Out, count};
use super::store::{StoreArgs, tip_of};

#[derive(Args)]
#[command(after_help = "Examples:\n  op-engine tip --store /var/lib/opnet/store")]
pub(crate) struct TipArgs {
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &TipArgs, out: &mut Out) -> Outcome {
    let engine = args.store.open_to_read()?;
    let tip = tip_of(&engine)?;
    out.line(format_args!("height   {}", count(tip.height.0)))?;
    out.line(format_args!("hash     {}", tip.hash))?;
    out.line(format_args!("parent   {}", tip.parent))?;
    out.line(format_args!(
        "horizon  {} (the lowest height that a reorg can go back to)",
        count(engine.horizon().0)
    ))?;
    block_on(engine.close())?;
    Ok(())
}
