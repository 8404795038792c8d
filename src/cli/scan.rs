//! `op-engine scan`

use clap::Args;
use op_engine::chain::collections::{
    Blocks, ContractState, Contracts, Events, SpentUtxos, TransactionIds, Transactions, Utxos,
};
use op_engine::key::Key;
use op_engine::value::Record;
use op_engine::{Collection, Engine, Error};
use op_engine_io::block_on;

use super::failure::{Failure, Outcome};
use super::show::{Out, bitcoins, hash, hex, limit, parse_hex, plural, shortened};
use super::store::StoreArgs;

/// Characters of a value that does not say more in full.
const VALUE_CHARACTERS_MAX: usize = 64;

#[derive(Args)]
#[command(
    after_help = "Collections: blocks, transactions, transaction_ids, events, utxos, spent_utxos, script_totals, \
contract_state, contracts, epochs, epoch_submissions, target_epochs, block_witnesses, public_keys, mldsa_public_keys, mempool, \
anyone_can_spend, blockchain_information, reorgs, wallet_meta.\nIndexes: COLLECTION.INDEX, as `op-engine stats` lists those with rows: \
blocks.by_hash, utxos.by_script and others.\nA prefix is one of the stored key: numbers in it are \
big-endian, hashes in the order in which they are computed.\n\nExamples:\n  op-engine scan --store DIR blocks --descending --limit 5\n  op-engine \
scan --store DIR utxos --prefix 00ff --hex"
)]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The collection, or index
    #[arg(value_name = "COLLECTION")]
    collection: String,
    /// Only keys that begin with these bytes, in hexadecimal digits
    #[arg(long, value_name = "HEX", default_value = "")]
    prefix: String,
    /// Rows at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// From the last key to the first
    #[arg(long)]
    descending: bool,
    /// Show keys and values as they are stored, in hexadecimal digits
    #[arg(long)]
    hex: bool,
}

pub(crate) fn run(args: &ScanArgs, out: &mut Out) -> Outcome {
    let prefix =
        parse_hex(&args.prefix).map_err(|why| Failure::Usage(format!("the prefix cannot be used: {why}")))?;
    let engine = args.store.open_to_read()?;
    let outcome = block_on(show(&engine, args, &prefix, out));
    let closed = block_on(engine.close());
    outcome?;
    Ok(closed?)
}

async fn show(engine: &Engine, args: &ScanArgs, prefix: &[u8], out: &mut Out) -> Outcome {
    let rows = engine.scan_raw(&args.collection).map_err(|error| match error {
        Error::UnknownCollection { name } => {
            let names: Vec<_> = engine.collection_names().into_iter().map(|(_, name)| name).collect();
            let known: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| !name.contains('/')).collect();
            Failure::Usage(format!("there is no collection {name}: there are {}", known.join(", ")))
        }
        error => error.into(),
    })?;
    let mut rows = rows.prefix_bytes(prefix).limit(limit(args.limit));
    if args.descending {
        rows = rows.descending();
    }
    let mut shown = 0u64;
    while let Some((key, value)) = rows.next().await? {
        let readable = if args.hex { None } else { describe(&args.collection, &key, &value) };
        out.line(readable.unwrap_or_else(|| {
            let value = hex(&value);
            let value = if args.hex { value } else { shortened(&value, VALUE_CHARACTERS_MAX) };
            format!("{}  {value}", hex(&key))
        }))?;
        shown += 1;
        if out.is_closed() {
            return Ok(());
        }
    }
    if shown == args.limit && !args.hex {
        out.line(format_args!("({}, as many as the limit allows)", plural(shown, "row")))?;
    }
    Ok(())
}

fn row<C: Collection>(key: &[u8], value: &[u8]) -> Option<(C::Key, C::Value)> {
    Some((C::Key::decode_exact(key).ok()?, C::Value::decode_exact(value).ok()?))
}

/// A row as a person reads it, if its collection has a form for that.
fn describe(collection: &str, key: &[u8], value: &[u8]) -> Option<String> {
    Some(match collection {
        Blocks::NAME => {
            let (height, block) = row::<Blocks>(key, value)?;
            format!(
                "{height:>9}  {}  {}",
                hash(&block.hash),
                plural(block.transactions.into(), "transaction")
            )
        }
        Transactions::NAME => {
            let ((height, position), transaction) = row::<Transactions>(key, value)?;
            format!("{height:>9}/{position:<5} {}  {} bytes", hash(&transaction.txid), transaction.raw.len())
        }
        TransactionIds::NAME => {
            let (txid, place) = row::<TransactionIds>(key, value)?;
            format!("{}  block {}, position {}", hash(&txid), place.height, place.position)
        }
        Utxos::NAME => {
            let ((txid, number), utxo) = row::<Utxos>(key, value)?;
            let script = shortened(&hex(&utxo.script), VALUE_CHARACTERS_MAX);
            format!("{}:{number:<4} {:>18}  {:>9}  {script}", hash(&txid), bitcoins(utxo.value), utxo.height)
        }
        SpentUtxos::NAME => {
            let ((txid, number), spent) = row::<SpentUtxos>(key, value)?;
            let worth = spent.utxo.map_or_else(|| "unknown".to_owned(), |utxo| bitcoins(utxo.value));
            format!("{}:{number:<4} {worth:>18}  spent by block {}", hash(&txid), spent.spent_at)
        }
        Events::NAME => {
            let ((height, position, number), event) = row::<Events>(key, value)?;
            let name = shortened(&event.name, VALUE_CHARACTERS_MAX);
            format!(
                "{height:>9}/{position}/{number}  {}  {name}  {} bytes",
                hex(&event.contract),
                event.data.len()
            )
        }
        Contracts::NAME => {
            let (key, contract) = row::<Contracts>(key, value)?;
            format!("{}  {}  block {}", hex(&key), contract.address, contract.height)
        }
        ContractState::NAME => {
            let ((contract, pointer), slot) = row::<ContractState>(key, value)?;
            format!("{} {}  {}  block {}", hex(&contract), hex(&pointer), hex(&slot.value), slot.height)
        }
        _ => return None,
    })
}
