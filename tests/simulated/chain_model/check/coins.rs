//! Outputs, spent and unspent, and what scripts own.

use op_engine::Desc;
use op_engine::chain::collections::{
    Balance, CoinOrigin, Outpoint, ScriptTotal, SpentOrigin, SpentUtxo, Utxo, Utxos,
};
use op_engine::chain::queries::*;
use op_engine_io::sim::Rng;

use super::{any, any_height, same, same_pages};
use crate::chain_model::pools::{Of, SCRIPTS, VALUES, id, script};
use crate::chain_model::state::{Coin, Seen, State};
use crate::support::check::Checked;

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let state = &seen.state;
    unspent(view, seen, rng).await?;
    spent(view, seen, rng).await?;
    let some = any(rng, state.coins.keys()).copied().unwrap_or_default();
    for outpoint in [some, (id(Of::Unknown, rng.below(30)), 0), (id(Of::Transaction, rng.below(200)), 0)] {
        let wanted = state.coins.get(&outpoint).cloned().and_then(|coin| match coin {
            Coin { utxo, spent_at: Some(spent_at) } => Some(OutputState::Spent(SpentUtxo { spent_at, utxo })),
            Coin { utxo, spent_at: None } => utxo.map(OutputState::Unspent),
        });
        same("output", &output(view, &outpoint).await?, &wanted)?;
    }
    // The plain set has the unspent ones and no others.
    let rows = view.view().await?.scan::<Utxos>().collect().await?;
    let wanted: Vec<_> = state.unspent().map(|(outpoint, utxo)| (*outpoint, utxo.clone())).collect();
    same("utxos", &rows, &wanted)
}

/// The unspent outputs of a script that pass, the most valuable first.
fn of_script(state: &State, script: &[u8], filter: &CoinFilter) -> Vec<ScriptUtxo> {
    let passes = |utxo: &Utxo| {
        utxo.script == script
            && utxo.value >= filter.value_min
            && filter.height_max.is_none_or(|height| utxo.height <= height)
    };
    let unspent = state.unspent().filter(|(_, utxo)| passes(utxo));
    let mut found: Vec<_> = unspent
        .map(|(outpoint, utxo)| ScriptUtxo {
            outpoint: *outpoint,
            value: utxo.value,
            origin: CoinOrigin { height: utxo.height, coinbase: utxo.coinbase },
        })
        .collect();
    found.sort_by_key(|found| (Desc(found.value), found.outpoint));
    found
}

fn balance(found: &[ScriptUtxo]) -> Balance {
    Balance { value: found.iter().map(|utxo| utxo.value).sum(), utxos: found.len() as u64 }
}

async fn unspent(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let script = script(rng.below(SCRIPTS + 1));
    let filter = CoinFilter {
        value_min: VALUES[rng.index(VALUES.len())],
        height_max: rng.coin().then(|| any_height(rng, seen.tip)),
    };
    let found = of_script(&seen.state, &script, &filter);
    let got = balance_of_script(view, &script, &filter).await?;
    same("balance_of_script", &got, &balance(&found))?;
    same_pages("utxos_of_script", rng, found, async |paging| {
        utxos_of_script(view, &script, &filter, paging).await
    })
    .await?;
    let from =
        |value_min| balance(&of_script(&seen.state, &script, &CoinFilter { value_min, height_max: None }));
    let wanted = ScriptTotal { all: from(0), from_330: from(330), from_1000: from(1000) };
    same("total_of_script", &total_of_script(view, &script).await?, &wanted)
}

async fn spent(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let all = || {
        seen.state.coins.iter().filter_map(|(outpoint, coin)| {
            let spent_at = coin.spent_at?;
            Some((*outpoint, SpentUtxo { spent_at, utxo: coin.utxo.clone() }))
        })
    };
    let height = any_height(rng, seen.tip);
    let wanted: Vec<(Outpoint, SpentUtxo)> = all().filter(|(_, spent)| spent.spent_at == height).collect();
    same_pages("outputs_spent_at", rng, wanted, async |paging| outputs_spent_at(view, height, paging).await)
        .await?;
    let script = script(rng.below(SCRIPTS + 1));
    let wanted = all().filter_map(|(outpoint, SpentUtxo { spent_at, utxo })| {
        let Utxo { value, height, coinbase, .. } = utxo.filter(|utxo| utxo.script == script)?;
        Some(SpentOutput { outpoint, spent_at, origin: SpentOrigin { value, height, coinbase } })
    });
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort_by_key(|spent| (Desc(spent.spent_at), spent.outpoint));
    same_pages("spent_outputs_of_script", rng, wanted, async |paging| {
        spent_outputs_of_script(view, &script, paging).await
    })
    .await
}
