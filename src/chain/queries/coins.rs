//! Outputs: what scripts own, and what became of it.

use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;

use std::ops::Bound;

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    Balance, CoinOrigin, Outpoint, ScriptTotal, ScriptTotals, SpentByHeight, SpentByScript, SpentOrigin,
    SpentUtxo, SpentUtxos, Utxo, Utxos, UtxosByScript, script_hash,
};
use crate::{Desc, IndexRow, Page, Result, Scan};

/// Which outputs are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoinFilter {
    /// In satoshis. A node passes over outputs below 330, or 1000 when it wants few.
    pub value_min: u64,
    /// The highest block that may have made it. This is not the state at that height: what was spent later is not among
    /// them.
    pub height_max: Option<u64>,
}

/// An unspent output of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptUtxo {
    /// Where it is.
    pub outpoint: Outpoint,
    /// In satoshis.
    pub value: u64,
    /// The height of the block that made it, and whether a coinbase did.
    pub origin: CoinOrigin,
}

/// What became of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputState {
    /// It can be spent.
    Unspent(Utxo),
    /// It was spent. Known only where spent outputs are kept.
    Spent(SpentUtxo),
}

/// An output that a script owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentOutput {
    /// Where it is.
    pub outpoint: Outpoint,
    /// The height of the block that spent it.
    pub spent_at: u64,
    /// What it was.
    pub origin: SpentOrigin,
}

/// The unspent outputs of a script that pass the filter, the most valuable first, and of equal ones by outpoint. They are
/// read in this order on one shard, and nothing else is read.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn utxos_of_script(
    view: &impl ChainView,
    script: &[u8],
    filter: &CoinFilter,
    paging: &Paging,
) -> Result<Page<ScriptUtxo>> {
    let rows = paged(entries(view, script, filter), paging).page(paging.limit).await?;
    Ok(mapped(rows, |((_, Desc(value)), outpoint, origin)| ScriptUtxo { outpoint, value, origin }))
}

type CoinScan = Scan<([u8; 32], Desc<u64>), IndexRow<UtxosByScript>, UtxosByScript>;

/// The index entries of a script that pass the filter. Those of enough value are one range.
fn entries(view: &impl ChainView, script: &[u8], filter: &CoinFilter) -> CoinScan {
    let hash = script_hash(script);
    let (first, last) = ((hash, Desc(u64::MAX)), (hash, Desc(filter.value_min)));
    let rows = view.scan_index::<UtxosByScript>().range(Bound::Included(&first), Bound::Included(&last));
    match filter.height_max {
        None => rows,
        Some(height) => rows.filter(move |(.., origin)| origin.height <= height),
    }
}

/// As [`utxos_of_script`], of an address. Its network does not matter: the script is the same in all.
///
/// # Errors
/// As there.
pub async fn utxos_of_address(
    view: &impl ChainView,
    address: &Address<NetworkUnchecked>,
    filter: &CoinFilter,
    paging: &Paging,
) -> Result<Page<ScriptUtxo>> {
    let script = address.assume_checked_ref().script_pubkey();
    utxos_of_script(view, script.as_bytes(), filter, paging).await
}

/// What the unspent outputs of a script that pass the filter are worth. The shard adds up index entries, and sends the
/// sum. [`total_of_script`] is one read, where totals are kept.
///
/// # Errors
/// If the store cannot be read.
pub async fn balance_of_script(view: &impl ChainView, script: &[u8], filter: &CoinFilter) -> Result<Balance> {
    let totals = entries(view, script, filter).sum(|((_, Desc(value)), ..)| *value).await?;
    // All coins there are fit 51 bits.
    Ok(Balance { value: u64::try_from(totals.sum).unwrap_or(u64::MAX), utxos: totals.rows })
}

/// As [`balance_of_script`], of an address.
///
/// # Errors
/// As there.
pub async fn balance_of_address(
    view: &impl ChainView,
    address: &Address<NetworkUnchecked>,
    filter: &CoinFilter,
) -> Result<Balance> {
    balance_of_script(view, address.assume_checked_ref().script_pubkey().as_bytes(), filter).await
}

/// What a script owns, as it was summed up block by block: one read, whatever it owns. All is zero where totals
/// are not kept.
///
/// # Errors
/// If the store cannot be read.
pub async fn total_of_script(view: &impl ChainView, script: &[u8]) -> Result<ScriptTotal> {
    let total = view.view().await?.get::<ScriptTotals>(&script_hash(script)).await?;
    Ok(total.unwrap_or_default())
}

/// What became of an output; `None` if the store does not know it, or it was spent and spent outputs are not kept.
///
/// # Errors
/// If the store cannot be read.
pub async fn output(view: &impl ChainView, outpoint: &Outpoint) -> Result<Option<OutputState>> {
    let snapshot = view.view().await?;
    if let Some(utxo) = snapshot.get::<Utxos>(outpoint).await? {
        return Ok(Some(OutputState::Unspent(utxo)));
    }
    let spent = snapshot.get::<SpentUtxos>(outpoint).await?;
    Ok(spent.map(OutputState::Spent))
}

/// The outputs that the block at a height has spent, also those that the store does not know, by outpoint.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn outputs_spent_at(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<(Outpoint, SpentUtxo)>> {
    let rows = paged(view.scan_index::<SpentByHeight>().prefix(&height), paging);
    let rows = rows.with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, outpoint, ()), spent)| (outpoint, spent)))
}

/// The outputs that a script owned, the last spent first, and of those of one block by outpoint.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn spent_outputs_of_script(
    view: &impl ChainView,
    script: &[u8],
    paging: &Paging,
) -> Result<Page<SpentOutput>> {
    let rows = paged(view.scan_index::<SpentByScript>().prefix(&(script_hash(script),)), paging);
    let rows = rows.page(paging.limit).await?;
    Ok(mapped(rows, |((_, Desc(spent_at)), outpoint, origin)| SpentOutput { outpoint, spent_at, origin }))
}
