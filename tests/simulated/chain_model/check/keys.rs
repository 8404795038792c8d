//! Public keys by each of their forms.

use op_engine::chain::collections::{KeyForms, MldsaKey};
use op_engine::chain::queries::*;
use op_engine_io::sim::Rng;

use super::{any_height, same, same_pages};
use crate::chain_model::pools::{ADDRESSES, NETWORKS, Of, address, id, legacy_key, tweaked_key};
use crate::chain_model::state::Seen;
use crate::support::check::Checked;

pub async fn check(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    let number = rng.below(13);
    let (tweaked, compressed) = (tweaked_key(number), legacy_key(number));
    let (text, hash) = (address(rng.below(ADDRESSES + 1)), id(Of::Mldsa, number));
    let owners = |is: &dyn Fn(&KeyForms) -> bool| {
        let owners = seen.outside.keys.iter().filter(|(_, forms)| is(forms));
        owners.map(|(tweaked, _)| *tweaked).collect::<Vec<_>>()
    };
    let by_hash = seen.state.mldsa.get(&hash).map(|key| key.tweaked_key);
    for (form, wanted) in [
        (KeyForm::Tweaked(tweaked), vec![tweaked]),
        (KeyForm::Compressed(compressed), owners(&|forms| forms.public_key == Some(compressed))),
        (KeyForm::Address(&text), owners(&|forms| forms.addresses().any(|address| *address == text))),
        (KeyForm::MldsaHash(hash), by_hash.into_iter().collect()),
    ] {
        let known = wanted.into_iter().map(|tweaked| KnownKey {
            tweaked,
            forms: seen.outside.keys.get(&tweaked).cloned(),
            mldsa: of_mldsa(seen, |key| key.tweaked_key == tweaked),
        });
        let known: Vec<_> = known.filter(|key| key.forms.is_some() || !key.mldsa.is_empty()).collect();
        same("public_keys", &public_keys(view, form).await?, &known)?;
    }
    mldsa(view, seen, rng, number).await?;
    let network = NETWORKS[rng.index(2)];
    let progress = chain_progress(view, network).await?;
    same("chain_progress", &progress, &seen.outside.progress.get(network).copied())?;
    let output = (id(Of::Unknown, rng.below(11)), 0);
    let wanted = seen.outside.anyone.get(&output).cloned();
    same("anyone_can_spend", &anyone_can_spend(view, &output).await?, &wanted)
}

fn of_mldsa(seen: &Seen, is: impl Fn(&MldsaKey) -> bool) -> Vec<MldsaFound> {
    let found = seen.state.mldsa.iter().filter(|(_, key)| is(key));
    found.map(|(hash, key)| MldsaFound { hash: *hash, key: key.clone() }).collect()
}

async fn mldsa(view: &impl ChainView, seen: &Seen, rng: &mut Rng, number: u64) -> Checked {
    let (hash, legacy, tweaked) = (id(Of::Mldsa, number), legacy_key(number), tweaked_key(number));
    let wanted = of_mldsa(seen, |key| key.legacy_key == legacy).pop();
    same("mldsa_key by hash", &mldsa_key(view, MldsaForm::Hash(hash)).await?, &wanted)?;
    same("mldsa_key by legacy key", &mldsa_key(view, MldsaForm::Legacy(legacy)).await?, &wanted)?;
    let wanted = of_mldsa(seen, |key| key.tweaked_key == tweaked);
    same("mldsa_keys_of_tweaked", &mldsa_keys_of_tweaked(view, &tweaked).await?, &wanted)?;
    let height = any_height(rng, seen.tip);
    let mut wanted = of_mldsa(seen, |key| key.inserted <= height);
    wanted.sort_by_key(|found| (found.key.inserted, found.hash));
    same_pages("mldsa_keys_inserted_up_to", rng, wanted, async |paging| {
        mldsa_keys_inserted_up_to(view, height, paging).await
    })
    .await
}
