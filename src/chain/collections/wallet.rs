//! Keys and wallet data: not part of the chain, and untouched by reorgs.

use crate::{Collection, Index, IndexList, Scope, record};

/// What is known of public keys, by tweaked public key.
#[derive(Debug)]
pub struct PublicKeys;

record! {
    /// The forms in which a key occurs. What is not known yet is absent and added when it is seen.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct KeyForms {
        version 1 {
            /// The compressed key before the tweak.
            pub public_key: Option<[u8; 33]>,
            /// Its pay-to-taproot address.
            pub p2tr: Option<String>,
            /// Its OPNet address.
            pub p2op: Option<String>,
            /// Its pay-to-public-key-hash address.
            pub p2pkh: Option<String>,
            /// Its pay-to-witness-public-key-hash address.
            pub p2wpkh: Option<String>,
        }
    }
}

impl Collection for PublicKeys {
    const NAME: &'static str = "public_keys";
    type Key = [u8; 32];
    type Value = KeyForms;
    const SCOPE: Scope = Scope::Global;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<PublicKeysByAddress>()
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
        for address in [&forms.p2tr, &forms.p2op, &forms.p2pkh, &forms.p2wpkh].into_iter().flatten() {
            emit(address.clone(), ());
        }
    }
}

/// Whatever a wallet keeps, by name.
#[derive(Debug)]
pub struct WalletMeta;

impl Collection for WalletMeta {
    const NAME: &'static str = "wallet_meta";
    type Key = String;
    type Value = Vec<u8>;
    const SCOPE: Scope = Scope::Global;
}
