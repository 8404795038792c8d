//! Blocks, transactions, events, witnesses, reorgs.

use op_engine::chain::collections::{StoredTransaction, TransactionPlace};
use op_engine::chain::queries::*;
use op_engine_io::sim::Rng;

use super::{any, any_height, any_heights, same, same_pages};
use crate::chain_model::pools::{CONTRACTS, EVENT_NAMES, Of, contract_key, id};
use crate::chain_model::state::{Seen, State};
use crate::support::check::Checked;

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    blocks(view, seen, rng).await?;
    transactions(view, &seen.state, rng).await?;
    events(view, seen, rng).await?;
    witnesses(view, seen, rng).await?;
    reorgs(view, seen, rng).await
}

/// The contracts of a block, as the maps have them.
pub fn deployed(state: &State, wanted: impl Fn(u64) -> bool) -> Vec<DeployedContract> {
    let mut found: Vec<_> = state
        .contracts
        .iter()
        .filter(|(_, contract)| wanted(contract.height))
        .map(|(key, contract)| DeployedContract {
            contract: *key,
            address: contract.address.clone(),
            height: contract.height,
        })
        .collect();
    found.sort_by_key(|found| (found.height, found.contract));
    found
}

fn transactions_of(state: &State, height: u64) -> Vec<StoredTransaction> {
    state.transactions.range((height, 0)..(height + 1, 0)).map(|(_, found)| found.clone()).collect()
}

async fn blocks(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let state = &seen.state;
    let height = any_height(rng, seen.tip);
    let block = state.blocks.get(&height).cloned();
    same("block_at", &block_at(view, height).await?, &block)?;
    same(
        "latest_block",
        &latest_block(view).await?,
        &state.blocks.get(&seen.tip).map(|tip| (seen.tip, tip.clone())),
    )?;
    let hash = block.as_ref().map_or(id(Of::Block, rng.below(200)), |block| block.hash);
    let wanted = state.blocks.iter().find(|(_, block)| block.hash == hash);
    let wanted = wanted.map(|(height, block)| (*height, block.clone()));
    same("block_by_hash", &block_by_hash(view, &hash).await?, &wanted)?;
    let root = block.as_ref().and_then(|block| Some(block.opnet.as_ref()?.checksum_root)).unwrap_or([0; 32]);
    let has_root = |block: &&op_engine::chain::collections::BlockInfo| {
        block.opnet.as_ref().is_some_and(|opnet| opnet.checksum_root == root)
    };
    let wanted = state.blocks.iter().find(|(_, block)| has_root(block));
    let wanted = wanted.map(|(height, block)| (*height, block.clone()));
    same("block_by_checksum", &block_by_checksum(view, &root).await?, &wanted)?;
    let wanted = block.map(|block| BlockContents {
        height,
        block,
        transactions: transactions_of(state, height),
        deployed: deployed(state, |at| at == height),
    });
    same("block_contents", &block_contents(view, height).await?, &wanted)
}

async fn transactions(view: &impl ChainView, state: &State, rng: &mut Rng) -> Checked {
    // The last one of those that have an id.
    let find = |is: &dyn Fn(&StoredTransaction) -> bool| {
        let found = state.transactions.iter().rev().find(|(_, transaction)| is(transaction));
        found.map(|((height, position), found)| {
            (TransactionPlace { height: *height, position: *position }, found.clone())
        })
    };
    let (key, some) = match any(rng, state.transactions.iter()) {
        Some((key, some)) => (*key, (some.txid, some.hash())),
        None => ((1, 0), ([1; 32], [2; 32])),
    };
    // What was on another branch, maybe.
    let absent = id(Of::Transaction, rng.below(200));
    for (txid, hash) in [some, (absent, absent)] {
        let (by_txid, by_hash) = (find(&|found| found.txid == txid), find(&|found| found.hash() == hash));
        same("transaction_by_txid", &transaction_by_txid(view, &txid).await?, &by_txid)?;
        same("transaction_by_hash", &transaction_by_hash(view, &hash).await?, &by_hash)?;
        let either = find(&|found| found.txid == hash || found.hash() == hash);
        same("transaction", &transaction(view, &hash).await?, &either)?;
        let found = transactions_by_txid(view, &[absent, txid, hash]).await?;
        let wanted = [absent, txid, hash].map(|id| find(&|found| found.txid == id));
        same("transactions_by_txid", &found, &wanted.to_vec())?;
    }
    let found = transaction_in_block(view, key.0, key.1).await?;
    same("transaction_in_block", &found, &state.transactions.get(&key).cloned())?;
    same("block_transactions", &block_transactions(view, key.0).await?, &transactions_of(state, key.0))
}

async fn events(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let heights = any_heights(rng, seen.tip);
    let contract = contract_key(rng.below(CONTRACTS));
    let name = EVENT_NAMES[rng.index(EVENT_NAMES.len())];
    let found = |wanted: &dyn Fn(&FoundEvent) -> bool| -> Vec<FoundEvent> {
        let events = seen.state.events.iter().filter(|((height, ..), _)| heights.contains(height));
        let events = events.map(|((height, position, number), event)| FoundEvent {
            height: *height,
            position: *position,
            number: *number,
            event: event.clone(),
        });
        events.filter(wanted).collect()
    };
    let wanted = found(&|_| true);
    let transaction = wanted.first().map_or((0, 0), |event| (event.height, event.position));
    same_pages("events_of_block_range", rng, wanted, async |paging| {
        events_of_block_range(view, heights.clone(), paging).await
    })
    .await?;
    let wanted = found(&|found| found.event.contract == contract);
    same_pages("events_of_contract", rng, wanted, async |paging| {
        events_of_contract(view, &contract, heights.clone(), paging).await
    })
    .await?;
    let wanted = found(&|found| found.event.contract == contract && found.event.name == name);
    same_pages("events_with_name", rng, wanted, async |paging| {
        events_with_name(view, &contract, name, heights.clone(), paging).await
    })
    .await?;
    let (height, position) = transaction;
    let wanted = seen.state.events.range((height, position, 0)..=(height, position, u32::MAX));
    let wanted: Vec<_> = wanted.map(|(_, event)| event.clone()).collect();
    same("events_of_transaction", &events_of_transaction(view, height, position).await?, &wanted)
}

async fn witnesses(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let all = || {
        seen.state.witnesses.iter().map(|((height, id), witness)| FoundWitness {
            height: *height,
            id: *id,
            witness: witness.clone(),
        })
    };
    let heights = any_heights(rng, seen.tip);
    let height = *heights.start();
    let wanted = all().filter(|found| found.height == height).collect();
    same_pages("witnesses_of_block", rng, wanted, async |paging| {
        witnesses_of_block(view, height, paging).await
    })
    .await?;
    let limit = rng.index(3);
    let wanted =
        heights.clone().flat_map(|height| all().filter(move |found| found.height == height).take(limit));
    let wanted: Vec<_> = wanted.collect();
    same("witnesses_of_blocks", &witnesses_of_blocks(view, heights, limit).await?, &wanted)?;
    for _ in 0..2 {
        let (key, signature) = (vec![rng.below(3) as u8; 1312], vec![rng.below(6) as u8; 64]);
        let wanted = all().any(|found| {
            found.height == height
                && found.witness.public_key.as_ref() == Some(&key)
                && found.witness.signature == signature
        });
        same("witness_exists", &witness_exists(view, height, &key, &signature).await?, &wanted)?;
    }
    Ok(())
}

async fn reorgs(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let (first, last) = any_heights(rng, seen.tip).into_inner();
    let wanted = seen.state.reorgs.iter().filter(|((from, to), _)| *from >= first && *to <= last);
    let wanted = wanted.map(|((from, to), reorg)| FoundReorg {
        from: *from,
        to: *to,
        timestamp_ms: reorg.timestamp_ms,
    });
    let wanted = wanted.collect();
    same_pages("reorgs_between", rng, wanted, async |paging| reorgs_between(view, first, last, paging).await)
        .await
}
