//! Public keys in all their forms, and the ML-DSA keys that belong to them.

use crate::{Collection, Index, IndexList, Scope, record};

/// What is known of public keys, by tweaked public key.
///
/// Outside the chain: what was learnt of a key stays true after a reorg; added to; spread by the key.
#[derive(Debug)]
pub struct PublicKeys;

record! {
    /// The forms in which a key occurs. What is not known yet is absent and added when it is seen.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct KeyForms {
        version 1 {
            /// The compressed key before the tweak.
            pub public_key: Option<[u8; 33]>,
            /// The last byte of the hybrid form, which tells the two halves of the curve apart.
            pub low_byte: Option<u8>,
            /// Its pay-to-taproot address.
            pub p2tr: Option<String>,
            /// Its OPNet address.
            pub p2op: Option<String>,
            /// Its pay-to-public-key-hash address.
            pub p2pkh: Option<String>,
            /// The same of the uncompressed key.
            pub p2pkh_uncompressed: Option<String>,
            /// The same of the key in hybrid form.
            pub p2pkh_hybrid: Option<String>,
            /// Its pay-to-witness-public-key-hash address.
            pub p2wpkh: Option<String>,
            /// The same within a script hash.
            pub p2sh_p2wpkh: Option<String>,
        }
    }
}

impl KeyForms {
    /// All of its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        let first = [&self.p2tr, &self.p2op, &self.p2pkh, &self.p2pkh_uncompressed];
        first.into_iter().chain([&self.p2pkh_hybrid, &self.p2wpkh, &self.p2sh_p2wpkh]).flatten()
    }
}

impl Collection for PublicKeys {
    const NAME: &'static str = "public_keys";
    type Key = [u8; 32];
    type Value = KeyForms;
    const SCOPE: Scope = Scope::Global;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<PublicKeysByAddress>().with::<PublicKeysByKey>()
    }
}

/// Keys by any of their addresses.
#[derive(Debug)]
pub struct PublicKeysByAddress;

impl Index for PublicKeysByAddress {
    const NAME: &'static str = "by_address";
    type Of = PublicKeys;
    type Key = String;
    type Covered = ();

    fn entries(_: &[u8; 32], forms: &KeyForms, emit: &mut dyn FnMut(String, ())) {
        for address in forms.addresses() {
            emit(address.clone(), ());
        }
    }
}

/// Keys by the compressed key before the tweak.
#[derive(Debug)]
pub struct PublicKeysByKey;

impl Index for PublicKeysByKey {
    const NAME: &'static str = "by_public_key";
    type Of = PublicKeys;
    type Key = [u8; 33];
    type Covered = ();

    fn entries(_: &[u8; 32], forms: &KeyForms, emit: &mut dyn FnMut([u8; 33], ())) {
        if let Some(key) = forms.public_key {
            emit(key, ());
        }
    }
}

record! {
    /// The security level of an ML-DSA key (FIPS 204).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum MldsaLevel {
        /// ML-DSA-44: a key of 1312 bytes.
        2 = Level2,
        /// ML-DSA-65: a key of 1952 bytes.
        3 = Level3,
        /// ML-DSA-87: a key of 2592 bytes.
        5 = Level5,
    }
}

/// ML-DSA keys by their hash.
///
/// Follows reorgs, with both of its heights; the window restores a key that was not exposed yet; changed once, when
/// the key is exposed; spread by the key.
#[derive(Debug)]
pub struct MldsaPublicKeys;

record! {
    /// An ML-DSA key, which belongs to a key on Bitcoin's curve.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct MldsaKey {
        version 1 {
            /// The compressed key on Bitcoin's curve.
            pub legacy_key: [u8; 33],
            /// The same, tweaked: the key of [`PublicKeys`].
            pub tweaked_key: [u8; 32],
            /// The ML-DSA key, once it is exposed.
            pub public_key: Option<Vec<u8>>,
            /// Its level.
            pub level: MldsaLevel,
            /// The height of the block in which its hash occurred first.
            pub inserted: u64 as Compact,
            /// The height of the block that exposed it.
            pub exposed: Option<u64>,
        }
    }
}

impl Collection for MldsaPublicKeys {
    const NAME: &'static str = "mldsa_public_keys";
    type Key = [u8; 32];
    type Value = MldsaKey;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<MldsaByLegacyKey>().with::<MldsaByTweakedKey>().with::<MldsaByHeight>()
    }
}

/// ML-DSA keys by the key on Bitcoin's curve: each has one.
#[derive(Debug)]
pub struct MldsaByLegacyKey;

impl Index for MldsaByLegacyKey {
    const NAME: &'static str = "by_legacy_key";
    type Of = MldsaPublicKeys;
    type Key = [u8; 33];
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &[u8; 32], key: &MldsaKey, emit: &mut dyn FnMut([u8; 33], ())) {
        emit(key.legacy_key, ());
    }
}

/// ML-DSA keys by tweaked key. Two keys on the curve that differ in their sign only have the same.
#[derive(Debug)]
pub struct MldsaByTweakedKey;

impl Index for MldsaByTweakedKey {
    const NAME: &'static str = "by_tweaked_key";
    type Of = MldsaPublicKeys;
    type Key = [u8; 32];
    type Covered = ();

    fn entries(_: &[u8; 32], key: &MldsaKey, emit: &mut dyn FnMut([u8; 32], ())) {
        emit(key.tweaked_key, ());
    }
}

/// ML-DSA keys by the height of the block in which they occurred first.
#[derive(Debug)]
pub struct MldsaByHeight;

impl Index for MldsaByHeight {
    const NAME: &'static str = "by_height";
    type Of = MldsaPublicKeys;
    type Key = u64;
    type Covered = ();

    fn entries(_: &[u8; 32], key: &MldsaKey, emit: &mut dyn FnMut(u64, ())) {
        emit(key.inserted, ());
    }
}
