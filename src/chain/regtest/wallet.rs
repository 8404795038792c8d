//! The keys that own the coins of a regtest chain, and their scripts.

use bitcoin::blockdata::opcodes::all::{OP_CHECKMULTISIG, OP_PUSHNUM_2, OP_PUSHNUM_3, OP_RETURN};
use bitcoin::blockdata::script::Builder;
use bitcoin::key::Secp256k1;
use bitcoin::secp256k1::{All, SecretKey};
use bitcoin::{CompressedPublicKey, ScriptBuf, Witness};

use super::random::Random;

/// Who owns an output: a key, and the type of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    key: usize,
    kind: ScriptKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScriptKind {
    P2pkh,
    P2wpkh,
    /// P2WPKH in P2SH.
    P2sh,
    /// Two of three keys.
    P2wsh,
    P2tr,
}

/// A key, and its scripts made beforehand: deriving them takes longer than all the rest of a transaction.
#[derive(Debug)]
struct WalletKey {
    public_key: [u8; 33],
    p2pkh: ScriptBuf,
    p2wpkh: ScriptBuf,
    p2sh: ScriptBuf,
    p2wsh: ScriptBuf,
    multisig: ScriptBuf,
    p2tr: ScriptBuf,
}

#[derive(Debug)]
pub(super) struct Wallet {
    first: WalletKey,
    others: Vec<WalletKey>,
}

impl Wallet {
    /// A wallet of `count` keys, at least one.
    pub(super) fn new(count: usize, random: &mut Random) -> Self {
        let secp = Secp256k1::new();
        let first = WalletKey::new(&secp, random);
        let others = (1..count).map(|_| WalletKey::new(&secp, random)).collect();
        Self { first, others }
    }

    fn key(&self, owner: Owner) -> &WalletKey {
        self.others.get(owner.key).unwrap_or(&self.first)
    }

    /// An owner for a new output, the script types about as often as on the network.
    pub(super) fn owner(&self, random: &mut Random) -> Owner {
        let kind = match random.below(20) {
            0..4 => ScriptKind::P2pkh,
            4..12 => ScriptKind::P2wpkh,
            12..14 => ScriptKind::P2sh,
            14 => ScriptKind::P2wsh,
            _ => ScriptKind::P2tr,
        };
        Owner { key: random.below(self.others.len() + 1), kind }
    }

    /// The script of an output that belongs to `owner`.
    pub(super) fn script(&self, owner: Owner) -> ScriptBuf {
        let key = self.key(owner);
        match owner.kind {
            ScriptKind::P2pkh => &key.p2pkh,
            ScriptKind::P2wpkh => &key.p2wpkh,
            ScriptKind::P2sh => &key.p2sh,
            ScriptKind::P2wsh => &key.p2wsh,
            ScriptKind::P2tr => &key.p2tr,
        }
        .clone()
    }

    /// What spends an output of `owner`, with a signature that is none.
    pub(super) fn spend(&self, owner: Owner, random: &mut Random) -> (ScriptBuf, Witness) {
        let key = self.key(owner);
        match owner.kind {
            ScriptKind::P2pkh => {
                let script = Builder::new().push_slice(ecdsa_signature(random)).push_slice(key.public_key);
                (script.into_script(), Witness::new())
            }
            ScriptKind::P2wpkh => (ScriptBuf::new(), key.p2wpkh_witness(random)),
            ScriptKind::P2sh => {
                let mut script_sig = vec![0x16];
                script_sig.extend_from_slice(key.p2wpkh.as_bytes());
                (ScriptBuf::from_bytes(script_sig), key.p2wpkh_witness(random))
            }
            ScriptKind::P2wsh => {
                let (one, two) = (ecdsa_signature(random), ecdsa_signature(random));
                let parts: [&[u8]; 4] = [&[], &one, &two, key.multisig.as_bytes()];
                (ScriptBuf::new(), Witness::from_slice(&parts))
            }
            ScriptKind::P2tr => (ScriptBuf::new(), Witness::from_slice(&[random.bytes::<64>()])),
        }
    }
}

impl WalletKey {
    fn new(secp: &Secp256k1<All>, random: &mut Random) -> Self {
        let [key, second, third] = [(); 3].map(|()| public_key(secp, random));
        let public_key = key.to_bytes();
        let p2wpkh = ScriptBuf::new_p2wpkh(&key.wpubkey_hash());
        let multisig = Builder::new()
            .push_opcode(OP_PUSHNUM_2)
            .push_slice(public_key)
            .push_slice(second.to_bytes())
            .push_slice(third.to_bytes())
            .push_opcode(OP_PUSHNUM_3)
            .push_opcode(OP_CHECKMULTISIG)
            .into_script();
        Self {
            public_key,
            p2pkh: ScriptBuf::new_p2pkh(&key.pubkey_hash()),
            p2sh: p2wpkh.to_p2sh(),
            p2wpkh,
            p2wsh: multisig.to_p2wsh(),
            multisig,
            p2tr: ScriptBuf::new_p2tr(secp, key.into(), None),
        }
    }

    fn p2wpkh_witness(&self, random: &mut Random) -> Witness {
        let signature = ecdsa_signature(random);
        let parts: [&[u8]; 2] = [&signature, &self.public_key];
        Witness::from_slice(&parts)
    }
}

/// An output script of 8 to 72 bytes of data.
pub(super) fn data_script(random: &mut Random) -> ScriptBuf {
    let script = Builder::new().push_opcode(OP_RETURN);
    let script = match random.below(3) {
        0 => script.push_slice(random.bytes::<8>()),
        1 => script.push_slice(random.bytes::<32>()),
        _ => script.push_slice(random.bytes::<72>()),
    };
    script.into_script()
}

fn public_key(secp: &Secp256k1<All>, random: &mut Random) -> CompressedPublicKey {
    loop {
        // Nearly every number of 32 bytes is a key.
        if let Ok(secret) = SecretKey::from_slice(&random.bytes::<32>()) {
            return CompressedPublicKey(secret.public_key(secp));
        }
    }
}

/// Bytes in the form of a signature over all inputs and outputs: DER, two numbers of 32 bytes.
fn ecdsa_signature(random: &mut Random) -> [u8; 71] {
    let mut signature: [u8; 71] = random.bytes();
    let fixed = [(0, 0x30), (1, 0x44), (2, 0x02), (3, 0x20), (36, 0x02), (37, 0x20), (70, 0x01)];
    for (place, byte) in fixed {
        if let Some(at) = signature.get_mut(place) {
            *at = byte;
        }
    }
    // Positive, and without leading zeros.
    for place in [4, 38] {
        if let Some(at) = signature.get_mut(place) {
            *at = *at & 0x7f | 0x01;
        }
    }
    signature
}
