//! Contracts and their slots.

use op_engine::chain::queries::*;
use op_engine_io::sim::Rng;

use super::chain::deployed;
use super::{any_height, same, same_pages};
use crate::chain_model::pools::{
    CONTRACTS, DEPLOYERS, Of, POINTERS, contract_address, contract_key, hybrid_key, id, pointer,
};
use crate::chain_model::state::{Seen, State};
use crate::support::check::Checked;

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let state = &seen.state;
    let number = rng.below(CONTRACTS + 1);
    let key = contract_key(number);
    let wanted = state.contracts.get(&key).cloned();
    same("contract", &contract(view, &key).await?, &wanted)?;
    let address = wanted.as_ref().map(|contract| contract.address.clone());
    same("contract_address", &contract_address_of(view, &key).await?, &address)?;
    let wanted = wanted.map(|contract| (key, contract));
    same("contract_by_address", &contract_by_address(view, &contract_address(number)).await?, &wanted)?;
    same("contract_by_hybrid_key", &contract_by_hybrid_key(view, &hybrid_key(number)).await?, &wanted)?;

    let height = wanted.map_or(any_height(rng, seen.tip), |(_, contract)| contract.height);
    same_pages("contracts_deployed_at", rng, deployed(state, |at| at == height), async |paging| {
        contracts_deployed_at(view, height, paging).await
    })
    .await?;
    same_pages("contracts_deployed_up_to", rng, deployed(state, |at| at <= height), async |paging| {
        contracts_deployed_up_to(view, height, paging).await
    })
    .await?;
    let deployer = id(Of::Deployer, rng.below(DEPLOYERS + 1));
    let mut wanted = deployed(state, |_| true);
    wanted.retain(|found| state.contracts[&found.contract].deployer == deployer);
    same_pages("contracts_of_deployer", rng, wanted, async |paging| {
        contracts_of_deployer(view, &deployer, paging).await
    })
    .await
}

/// The library's name for it is that of a pool here.
async fn contract_address_of(view: &impl ChainView, key: &[u8; 32]) -> op_engine::Result<Option<String>> {
    op_engine::chain::queries::contract_address(view, key).await
}

/// Slots can be read in every state there ever was.
pub async fn check_slots(view: &impl ChainView, state: &State, rng: &mut Rng) -> Checked {
    let mut keys = Vec::new();
    for _ in 0..rng.below(30) {
        keys.push((contract_key(rng.below(CONTRACTS + 1)), pointer(rng.below(POINTERS + 1))));
    }
    let wanted: Vec<_> = keys.iter().map(|key| state.slots.get(key).cloned()).collect();
    same("slots", &slots(view, &keys).await?, &wanted)?;
    for ((contract, pointer), wanted) in keys.iter().zip(&wanted).take(2) {
        same("slot", &slot(view, contract, pointer).await?, wanted)?;
        // What is zero is there.
        same("slot_exists", &slot_exists(view, contract, pointer).await?, &wanted.is_some())?;
    }
    let contract = contract_key(rng.below(CONTRACTS + 1));
    let wanted = state.slots.range((contract, [0; 32])..=(contract, [0xff; 32]));
    let wanted = wanted.map(|((_, pointer), slot)| (*pointer, slot.clone())).collect();
    same_pages("slots_of_contract", rng, wanted, async |paging| {
        slots_of_contract(view, &contract, paging).await
    })
    .await
}
