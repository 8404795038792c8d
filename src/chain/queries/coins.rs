//! Outputs: what scripts own, and what became of it.

use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;

use super::paging::{filtered_page, page};
use super::{ChainView, Page, Paging};
use crate::chain::collections::{
    Balance, CoinOrigin, Outpoint, ScriptTotal, ScriptTotals, SpentByHeight, SpentByScript, SpentOrigin,
    SpentUtxo, SpentUtxos, Utxo, Utxos, UtxosByScript, script_hash,
};
use crate::{Desc, Result};

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
/// If the store cannot be read, or the page does not belong to the question.
pub async fn utxos_of_script(
    view: &impl ChainView,
    script: &[u8],
    filter: &CoinFilter,
    paging: &Paging,
) -> Result<Page<ScriptUtxo>> {
    let snapshot = view.view().await?;
    let hash = script_hash(script);
    let range = ((hash, Desc(u64::MAX)), (hash, Desc(filter.value_min)));
    let rows = snapshot.scan_index::<UtxosByScript>().prefix(&(hash,));
    let rows = match filter.height_max {
        None => page(rows, range, paging).await?,
        Some(height) => filtered_page(rows, range, paging, |(.., origin)| origin.height <= height).await?,
    };
    Ok(rows.map(|((_, Desc(value)), outpoint, origin)| ScriptUtxo { outpoint, value, origin }))
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

/// What the unspent outputs of a script that pass the filter are worth. Reads their index entries, and none of the
/// outputs. [`total_of_script`] is one read, where totals are kept.
///
/// # Errors
/// If the store cannot be read.
pub async fn balance_of_script(view: &impl ChainView, script: &[u8], filter: &CoinFilter) -> Result<Balance> {
    let snapshot = view.view().await?;
    let hash = script_hash(script);
    let mut rows = snapshot.scan_index::<UtxosByScript>().prefix(&(hash,));
    let mut balance = Balance::default();
    while let Some(((_, Desc(value)), _, origin)) = rows.next().await? {
        if value < filter.value_min {
            break;
        }
        if filter.height_max.is_none_or(|height| origin.height <= height) {
            balance = balance.plus(value);
        }
    }
    Ok(balance)
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
/// If the store cannot be read, or the page does not belong to the question.
pub async fn outputs_spent_at(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<(Outpoint, SpentUtxo)>> {
    let snapshot = view.view().await?;
    let rows = snapshot.scan_index::<SpentByHeight>().prefix(&height);
    let found = page(rows, (height, height), paging).await?;
    let outpoints: Vec<Outpoint> = found.rows.iter().map(|(_, outpoint, ())| *outpoint).collect();
    let spent = snapshot.get_many::<SpentUtxos>(&outpoints).await?;
    let rows = outpoints.into_iter().zip(spent).filter_map(|(outpoint, spent)| Some((outpoint, spent?)));
    Ok(Page { rows: rows.collect(), next: found.next })
}

/// The outputs that a script owned, the last spent first, and of those of one block by outpoint.
///
/// # Errors
/// If the store cannot be read, or the page does not belong to the question.
pub async fn spent_outputs_of_script(
    view: &impl ChainView,
    script: &[u8],
    paging: &Paging,
) -> Result<Page<SpentOutput>> {
    let snapshot = view.view().await?;
    let hash = script_hash(script);
    let rows = snapshot.scan_index::<SpentByScript>().prefix(&(hash,));
    let found = page(rows, ((hash, Desc(u64::MAX)), (hash, Desc(0))), paging).await?;
    Ok(found.map(|((_, Desc(spent_at)), outpoint, origin)| SpentOutput { outpoint, spent_at, origin }))
}
