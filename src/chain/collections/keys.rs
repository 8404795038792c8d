//! Public keys in all their forms, and the ML-DSA keys that belong to them.

use crate::{collection, record};

collection! {
    /// What is known of public keys, by tweaked public key.
    ///
    /// Outside the chain: what was learnt of a key stays true after a reorg; added to; spread by the key.
    pub collection PublicKeys = "public_keys": [u8; 32] => KeyForms where scope: Global;

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

    /// Keys by any of their addresses.
    pub index PublicKeysByAddress = "by_address": String,
        |_, forms, emit| for address in forms.addresses() {
            emit(address.clone(), ());
        };

    /// Keys by the compressed key before the tweak.
    pub index PublicKeysByKey = "by_public_key": [u8; 33],
        |_, forms, emit| if let Some(key) = forms.public_key {
            emit(key, ());
        };
}

impl KeyForms {
    /// All of its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        let first = [&self.p2tr, &self.p2op, &self.p2pkh, &self.p2pkh_uncompressed];
        first.into_iter().chain([&self.p2pkh_hybrid, &self.p2wpkh, &self.p2sh_p2wpkh]).flatten()
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

collection! {
    /// ML-DSA keys by their hash.
    ///
    /// Follows reorgs, with both of its heights; the window restores a key that was not exposed yet; changed once, when
    /// the key is exposed; spread by the key.
    pub collection MldsaPublicKeys = "mldsa_public_keys": [u8; 32] => MldsaKey;

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

    /// ML-DSA keys by the key on Bitcoin's curve: each has one.
    pub unique index MldsaByLegacyKey = "by_legacy_key": [u8; 33], |_, key| key.legacy_key;

    /// ML-DSA keys by tweaked key. Two keys on the curve that differ in their sign only have the same.
    pub index MldsaByTweakedKey = "by_tweaked_key": [u8; 32], |_, key| key.tweaked_key;

    /// ML-DSA keys by the height of the block in which they occurred first.
    pub index MldsaByHeight = "by_height": u64, |_, key| key.inserted;
}
