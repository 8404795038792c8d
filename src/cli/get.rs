//! `op-engine get`

use std::fmt::Display;

use bitcoin::Transaction;
use clap::{Args, ValueEnum};
use op_engine::chain::collections::{
    BlockInfo, Blocks, BlocksByHash, ContractState, StoredTransaction, TransactionIds, Transactions, Utxos,
};
use op_engine::{Height, Snapshot};
use op_engine_io::block_on;
use op_engine_io::num::to_u64;

use super::failure::{Failure, Outcome};
use super::show::{Out, bitcoins, bytes, count, hash, hex, parse_hash, parse_hex, table};
use super::store::StoreArgs;

#[derive(Args)]
#[command(
    after_help = "What there is to get:\n  block HEIGHT | block HASH     a block, without its transactions\n  tx TXID                       \
a transaction, and where it is\n  utxo TXID:VOUT                an unspent output\n  slot CONTRACT POINTER         a slot of a \
contract, both in hexadecimal digits\n\nExamples:\n  op-engine get --store DIR block 850000\n  op-engine get --store DIR tx \
4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b --raw\n  op-engine get --store DIR utxo \
4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b:0 --height 849990"
)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// What to get
    #[arg(value_enum)]
    what: What,
    /// Its key
    #[arg(value_name = "KEY", required = true, num_args = 1..=2)]
    key: Vec<String>,
    /// As it was after the block at this height
    #[arg(long, value_name = "HEIGHT")]
    height: Option<u64>,
    /// Of a transaction, only its bytes as hexadecimal digits
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Block,
    Tx,
    Utxo,
    Slot,
}

/// What to get, parsed before anything is opened.
enum Wanted {
    Height(u64),
    Hash([u8; 32]),
    Transaction([u8; 32]),
    Output([u8; 32], u32),
    Slot([u8; 32], [u8; 32]),
}

pub(crate) fn run(args: &GetArgs, out: &mut Out) -> Outcome {
    let wanted = parse(args)?;
    let engine = args.store.open_to_read()?;
    let outcome = block_on(async {
        let snapshot = match args.height {
            Some(height) => engine.at(Height(height)).await?,
            None => engine.snapshot().await?,
        };
        show(&snapshot, &wanted, args.raw, out).await
    });
    let closed = block_on(engine.close());
    outcome?;
    Ok(closed?)
}

fn parse(args: &GetArgs) -> Outcome<Wanted> {
    let usage = |why: String| Failure::Usage(format!("the key cannot be used: {why}"));
    match (args.what, args.key.as_slice()) {
        (What::Block, [key]) => match key.parse() {
            // A hash has 64 digits, no height has.
            Ok(height) if key.len() < 20 => Ok(Wanted::Height(height)),
            _ => parse_hash(key)
                .map(Wanted::Hash)
                .map_err(|why| usage(format!("a block is a height or a hash, {key} is neither: {why}"))),
        },
        (What::Tx, [key]) => parse_hash(key).map(Wanted::Transaction).map_err(usage),
        (What::Utxo, [key]) => {
            let parts = key.split_once(':').ok_or_else(|| usage("an output is TXID:VOUT".to_owned()))?;
            let number = parts.1.parse().map_err(|_| usage(format!("{} is no output number", parts.1)))?;
            Ok(Wanted::Output(parse_hash(parts.0).map_err(usage)?, number))
        }
        (What::Slot, [contract, pointer]) => {
            let word = |text: &String| {
                let bytes = parse_hex(text).map_err(usage)?;
                let length = bytes.len();
                <[u8; 32]>::try_from(bytes)
                    .map_err(|_| usage(format!("{length} bytes are given, 32 are needed")))
            };
            Ok(Wanted::Slot(word(contract)?, word(pointer)?))
        }
        (What::Slot, _) => Err(usage("a slot takes a contract and a pointer".to_owned())),
        (What::Block | What::Tx | What::Utxo, _) => Err(usage("one key is needed".to_owned())),
    }
}

async fn show(snapshot: &Snapshot, wanted: &Wanted, raw: bool, out: &mut Out) -> Outcome {
    let missing = |what: String| Failure::Other(format!("{what} in the store{}", place(snapshot)));
    match wanted {
        Wanted::Height(height) => match snapshot.get::<Blocks>(height).await? {
            Some(block) => show_block(*height, &block, out),
            None => Err(missing(format!("there is no block at height {height}"))),
        },
        Wanted::Hash(wanted) => match snapshot.get_by::<BlocksByHash>(wanted).await? {
            Some((height, block)) => show_block(height, &block, out),
            None => Err(missing(format!("there is no block {}", hash(wanted)))),
        },
        Wanted::Transaction(txid) => {
            let none = || missing(format!("there is no transaction {}", hash(txid)));
            let place = snapshot.get::<TransactionIds>(txid).await?.ok_or_else(none)?;
            let key = (place.height, place.position);
            let stored = snapshot.get::<Transactions>(&key).await?.ok_or_else(none)?;
            if raw { out.line(hex(&stored.raw)) } else { show_transaction(snapshot, key, &stored, out) }
        }
        Wanted::Output(txid, number) => {
            let none = || missing(format!("there is no unspent output {}:{number}", hash(txid)));
            let utxo = snapshot.get::<Utxos>(&(*txid, *number)).await?.ok_or_else(none)?;
            let rows: [(&str, &dyn Display); 5] = [
                ("output", &format!("{}:{number}", hash(txid))),
                ("value", &bitcoins(utxo.value)),
                ("height", &count(utxo.height)),
                ("coinbase", &utxo.coinbase),
                ("script", &hex(&utxo.script)),
            ];
            lines(&rows, out)
        }
        Wanted::Slot(contract, pointer) => {
            let none = || missing("this slot was never written".to_owned());
            let slot = snapshot.get::<ContractState>(&(*contract, *pointer)).await?.ok_or_else(none)?;
            out.line(hex(&slot.value))
        }
    }
}

fn place(snapshot: &Snapshot) -> String {
    snapshot.tip().map_or_else(String::new, |tip| format!(", looked at after block {}", tip.height))
}

fn lines(rows: &[(&str, &dyn Display)], out: &mut Out) -> Outcome {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().try_for_each(|(name, value)| out.line(format_args!("{name:width$}  {value}")))
}

fn show_block(height: u64, block: &BlockInfo, out: &mut Out) -> Outcome {
    let rows: [(&str, &dyn Display); 11] = [
        ("height", &count(height)),
        ("hash", &hash(&block.hash)),
        ("parent", &hash(&block.parent)),
        ("merkle root", &hash(&block.merkle_root)),
        ("version", &format!("{:#x}", block.version)),
        ("time", &format!("{} seconds since 1970", count(u64::from(block.time)))),
        ("bits", &format!("{:#x}", block.bits)),
        ("nonce", &block.nonce),
        ("transactions", &count(u64::from(block.transactions))),
        ("size", &bytes(u64::from(block.size_bytes))),
        ("weight", &count(block.weight)),
    ];
    lines(&rows, out)
}

fn show_transaction(
    snapshot: &Snapshot,
    (height, position): (u64, u32),
    stored: &StoredTransaction,
    out: &mut Out,
) -> Outcome {
    let parsed: Transaction = stored
        .parse()
        .map_err(|error| Failure::Other(format!("the stored transaction does not parse: {error}")))?;
    let tip = snapshot.tip().map_or(height, |tip| tip.height.0);
    let confirmations = tip.saturating_sub(height).saturating_add(1);
    let rows: [(&str, &dyn Display); 6] = [
        ("txid", &hash(&stored.txid)),
        ("block", &format!("{}, position {position}", count(height))),
        ("confirmations", &count(confirmations)),
        ("size", &bytes(to_u64(stored.raw.len()))),
        ("inputs", &count(to_u64(parsed.input.len()))),
        ("outputs", &count(to_u64(parsed.output.len()))),
    ];
    lines(&rows, out)?;
    let mut outputs = table(&["output>", "value>", "script"]);
    for (number, output) in parsed.output.iter().enumerate() {
        outputs.add_row([
            number.to_string(),
            bitcoins(output.value.to_sat()),
            hex(output.script_pubkey.as_bytes()),
        ]);
    }
    out.table("", &outputs)
}
