//! The mempool.

use std::collections::{BTreeMap, BTreeSet};

use op_engine::Desc;
use op_engine::chain::collections::{Outpoint, TransactionKind};
use op_engine::chain::queries::*;
use op_engine_io::sim::Rng;

use super::{any, same, same_pages};
use crate::chain_model::pools::{ADDRESSES, Of, address, id};
use crate::chain_model::state::Seen;
use crate::support::check::Checked;

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let mempool = &seen.outside.mempool;
    let one = id(Of::Mempool, rng.below(12));
    same("mempool_entry", &mempool_entry(view, &one).await?, &mempool.get(&one).cloned())?;

    let mut newest: Vec<_> = mempool
        .iter()
        .map(|(id, transaction)| MempoolEntry { id: *id, transaction: transaction.clone() })
        .collect();
    newest.sort_by_key(|entry| (Desc(entry.transaction.first_seen_ms), entry.id));
    let addresses: Vec<String> = (0..rng.below(4)).map(|_| address(rng.below(ADDRESSES + 1))).collect();
    let limit = 1 + rng.index(4);
    let pays = |entry: &&MempoolEntry| {
        let outputs = entry.transaction.outputs.iter();
        outputs.flat_map(|output| &output.addresses).any(|paid| addresses.contains(paid))
    };
    let wanted: Vec<_> = newest.iter().filter(pays).take(limit).cloned().collect();
    same("mempool_of_addresses", &mempool_of_addresses(view, &addresses, limit).await?, &wanted)?;
    same_pages("mempool_latest", rng, newest, async |paging| mempool_latest(view, paging).await).await?;

    let counts = MempoolCounts {
        transactions: mempool.len() as u64,
        opnet: mempool.values().filter(|one| one.kind != TransactionKind::Generic).count() as u64,
        bytes: mempool.values().map(|one| one.raw.len() as u64).sum(),
    };
    same("mempool_counts", &mempool_counts(view).await?, &counts)?;
    conflicts(view, seen, rng).await
}

async fn conflicts(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let mempool = &seen.outside.mempool;
    let mut outputs: BTreeSet<Outpoint> =
        any(rng, mempool.values()).into_iter().flat_map(|one| one.inputs.clone()).collect();
    outputs.insert((id(Of::Mempool, rng.below(12)), 0));
    let outputs: Vec<Outpoint> = outputs.into_iter().collect();
    let mut wanted: BTreeMap<[u8; 32], Vec<Outpoint>> = BTreeMap::new();
    for (id, transaction) in mempool {
        let spent: Vec<_> =
            outputs.iter().filter(|output| transaction.inputs.contains(output)).copied().collect();
        if !spent.is_empty() {
            wanted.insert(*id, spent);
        }
    }
    same("mempool_conflicts", &mempool_conflicts(view, &outputs).await?, &wanted)?;

    let parent = id(Of::Mempool, rng.below(12));
    let mut wanted = BTreeSet::new();
    loop {
        let spends =
            |inputs: &[Outpoint]| inputs.iter().any(|(txid, _)| *txid == parent || wanted.contains(txid));
        let more =
            mempool.iter().filter(|(id, one)| **id != parent && !wanted.contains(*id) && spends(&one.inputs));
        let more: Vec<_> = more.map(|(id, _)| *id).collect();
        if more.is_empty() {
            break;
        }
        wanted.extend(more);
    }
    same("mempool_descendants", &mempool_descendants(view, &parent, 100).await?, &wanted)
}
