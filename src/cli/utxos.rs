//! `op-engine utxos`

use std::str::FromStr;

use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use clap::Args;
use op_engine::chain::collections::{UtxosByScript, script_hash};
use op_engine::{Desc, Height};
use op_engine_io::block_on;

use super::failure::{Failure, Outcome};
use super::show::{Out, bitcoins, count, hash, limit, parse_hex, plural};
use super::store::StoreArgs;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  op-engine utxos --store DIR --address bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq\n  \
op-engine utxos --store DIR --script 76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac --at 849990"
)]
pub(crate) struct UtxosArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The output script, in hexadecimal digits
    #[arg(long, value_name = "HEX", required_unless_present = "address", conflicts_with = "address")]
    script: Option<String>,
    /// The address, of any network
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Outputs at most, the most valuable first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// As it was after the block at this height
    #[arg(long, value_name = "HEIGHT")]
    at: Option<u64>,
}

pub(crate) fn run(args: &UtxosArgs, out: &mut Out) -> Outcome {
    let script = script(args)?;
    let engine = args.store.open_to_read()?;
    let outcome = block_on(show(&engine, args, &script, out));
    let closed = block_on(engine.close());
    outcome?;
    Ok(closed?)
}

fn script(args: &UtxosArgs) -> Outcome<Vec<u8>> {
    if let Some(address) = &args.address {
        let parsed = Address::<NetworkUnchecked>::from_str(address);
        let parsed = parsed.map_err(|error| Failure::Usage(format!("{address} is no address: {error}")))?;
        return Ok(parsed.assume_checked().script_pubkey().into_bytes());
    }
    let script = args.script.as_deref().unwrap_or_default();
    parse_hex(script).map_err(|why| Failure::Usage(format!("the script cannot be used: {why}")))
}

async fn show(engine: &op_engine::Engine, args: &UtxosArgs, script: &[u8], out: &mut Out) -> Outcome {
    let snapshot = match args.at {
        Some(height) => engine.at(Height(height)).await?,
        None => engine.snapshot().await?,
    };
    let mut rows =
        snapshot.scan_index::<UtxosByScript>().prefix(&(script_hash(script),)).limit(limit(args.limit));
    let (mut outputs, mut satoshis) = (0u64, 0u64);
    while let Some(((_, Desc(value)), (txid, number), origin)) = rows.next().await? {
        let coinbase = if origin.coinbase { "  coinbase" } else { "" };
        out.line(format_args!(
            "{}:{number:<4} {:>18}  height {:>7}{coinbase}",
            hash(&txid),
            bitcoins(value),
            count(origin.height)
        ))?;
        outputs += 1;
        satoshis = satoshis.saturating_add(value);
        if out.is_closed() {
            return Ok(());
        }
    }
    let more = if outputs == args.limit { ", as many as the limit allows" } else { "" };
    out.line(format_args!("{} worth {} bitcoins{more}", plural(outputs, "output"), bitcoins(satoshis)))
}
