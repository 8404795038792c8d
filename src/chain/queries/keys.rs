//! Public keys by any of their forms.

use std::ops::Bound;

use super::paging::{mapped, paged};
use super::{ChainView, Paging};
use crate::chain::collections::{
    KeyForms, MldsaByHeight, MldsaByLegacyKey, MldsaByTweakedKey, MldsaKey, MldsaPublicKeys, PublicKeys,
    PublicKeysByAddress, PublicKeysByKey,
};
use crate::{Page, Result, Snapshot};

/// A form in which a key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm<'a> {
    /// The tweaked public key.
    Tweaked([u8; 32]),
    /// The compressed key before the tweak.
    Compressed([u8; 33]),
    /// An address, of any kind.
    Address(&'a str),
    /// The hash of its ML-DSA key.
    MldsaHash([u8; 32]),
}

/// A key in all forms that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// The tweaked public key.
    pub tweaked: [u8; 32],
    /// The other forms; absent if only its ML-DSA key was seen.
    pub forms: Option<KeyForms>,
    /// Its ML-DSA keys.
    pub mldsa: Vec<MldsaFound>,
}

/// An ML-DSA key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MldsaFound {
    /// Its hash.
    pub hash: [u8; 32],
    /// The key.
    pub key: MldsaKey,
}

/// A form in which an ML-DSA key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MldsaForm {
    /// Its hash.
    Hash([u8; 32]),
    /// The key on Bitcoin's curve that it belongs to.
    Legacy([u8; 33]),
}

/// The keys that are known in a form, by tweaked key, with their ML-DSA keys. There is one at most, unless different keys
/// were given the same address.
///
/// What is known of addresses is outside the chain; the ML-DSA keys are those of the state that is looked at.
///
/// # Errors
/// If the store cannot be read.
pub async fn public_keys(view: &impl ChainView, form: KeyForm<'_>) -> Result<Vec<KnownKey>> {
    let snapshot = view.view().await?;
    let tweaked = match form {
        KeyForm::Tweaked(key) => vec![key],
        KeyForm::Compressed(key) => {
            let rows = snapshot.scan_index::<PublicKeysByKey>().prefix(&key).collect().await?;
            rows.into_iter().map(|(_, tweaked, ())| tweaked).collect()
        }
        KeyForm::Address(address) => {
            let rows = snapshot.scan_index::<PublicKeysByAddress>().prefix(&address.to_owned());
            rows.collect().await?.into_iter().map(|(_, tweaked, ())| tweaked).collect()
        }
        KeyForm::MldsaHash(hash) => {
            let key = snapshot.get::<MldsaPublicKeys>(&hash).await?;
            key.map(|key| key.tweaked_key).into_iter().collect()
        }
    };
    let forms = snapshot.get_many::<PublicKeys>(&tweaked).await?;
    let mut found = Vec::with_capacity(tweaked.len());
    for (tweaked, forms) in tweaked.into_iter().zip(forms) {
        let mldsa = of_tweaked(&snapshot, &tweaked).await?;
        if forms.is_some() || !mldsa.is_empty() {
            found.push(KnownKey { tweaked, forms, mldsa });
        }
    }
    Ok(found)
}

/// An ML-DSA key, with its hash. Whether it was exposed is as the state that is looked at has it.
///
/// # Errors
/// If the store cannot be read.
pub async fn mldsa_key(view: &impl ChainView, form: MldsaForm) -> Result<Option<MldsaFound>> {
    let snapshot = view.view().await?;
    let found = match form {
        MldsaForm::Hash(hash) => snapshot.get::<MldsaPublicKeys>(&hash).await?.map(|key| (hash, key)),
        MldsaForm::Legacy(key) => snapshot.get_by::<MldsaByLegacyKey>(&key).await?,
    };
    Ok(found.map(|(hash, key)| MldsaFound { hash, key }))
}

/// The ML-DSA keys that belong to a tweaked key, by hash.
///
/// # Errors
/// If the store cannot be read.
pub async fn mldsa_keys_of_tweaked(view: &impl ChainView, tweaked: &[u8; 32]) -> Result<Vec<MldsaFound>> {
    of_tweaked(&view.view().await?, tweaked).await
}

async fn of_tweaked(snapshot: &Snapshot, tweaked: &[u8; 32]) -> Result<Vec<MldsaFound>> {
    let rows = snapshot.scan_index::<MldsaByTweakedKey>().prefix(tweaked).with_records().collect().await?;
    Ok(rows.into_iter().map(|((_, hash, ()), key)| MldsaFound { hash, key }).collect())
}

/// The ML-DSA keys that occurred first at or below a height, by height and hash.
///
/// # Errors
/// If the store cannot be read; [`Error::Token`](crate::Error::Token) if the page before was not one of this question.
pub async fn mldsa_keys_inserted_up_to(
    view: &impl ChainView,
    height: u64,
    paging: &Paging,
) -> Result<Page<MldsaFound>> {
    let rows = view.scan_index::<MldsaByHeight>().range(Bound::Unbounded, Bound::Included(&height));
    let rows = paged(rows, paging).with_records().page(paging.limit).await?;
    Ok(mapped(rows, |((_, hash, ()), key)| MldsaFound { hash, key }))
}
