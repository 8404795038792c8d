//! The few contracts, scripts and keys that everything is about, so that much is about the same.

use op_engine_io::sim::Rng;

/// Scripts that own outputs. The first owns most.
pub const SCRIPTS: u64 = 4;
pub const CONTRACTS: u64 = 5;
pub const POINTERS: u64 = 9;
pub const PROPOSERS: u64 = 3;
pub const SALTS: u64 = 4;
pub const DEPLOYERS: u64 = 2;
pub const IDENTITIES: u64 = 4;
pub const ADDRESSES: u64 = 5;
pub const NETWORKS: [&str; 2] = ["regtest", "signet"];
/// One is the beginning of another.
pub const EVENT_NAMES: [&str; 3] = ["Transfer", "Transferred", ""];
/// On both sides of what a node counts from.
pub const VALUES: [u64; 9] = [0, 1, 329, 330, 331, 999, 1000, 5000, 100_000_000];

/// What an id is of.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Of {
    Block = 1,
    Transaction,
    WitnessHash,
    Contract,
    Pointer,
    Proposer,
    Salt,
    Deployer,
    Identity,
    Checksum,
    Epoch,
    Target,
    Submission,
    Solution,
    Mldsa,
    Tweaked,
    Mempool,
    Unknown,
    Other,
}

/// The id of a number. Ids of different things differ.
pub fn id(of: Of, number: u64) -> [u8; 32] {
    let mut id = [of as u8; 32];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id
}

pub fn script(number: u64) -> Vec<u8> {
    vec![0x51, number as u8]
}

pub fn any_script(rng: &mut Rng) -> Vec<u8> {
    script(if rng.below(2) == 0 { 0 } else { rng.below(SCRIPTS) })
}

pub fn contract_key(number: u64) -> [u8; 32] {
    id(Of::Contract, number)
}

pub fn contract_address(number: u64) -> String {
    format!("opr1contract{number}")
}

pub fn hybrid_key(number: u64) -> [u8; 65] {
    let mut key = [7; 65];
    key[1..33].copy_from_slice(&contract_key(number));
    key
}

pub fn pointer(number: u64) -> [u8; 32] {
    id(Of::Pointer, number)
}

pub fn address(number: u64) -> String {
    // Addresses that are the beginning of others.
    "bcrt1q".to_owned() + &"a".repeat(number as usize)
}

pub fn legacy_key(number: u64) -> [u8; 33] {
    let mut key = [2; 33];
    key[25..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Two keys of the curve have one tweaked key.
pub fn tweaked_key(number: u64) -> [u8; 32] {
    id(Of::Tweaked, number / 2)
}

pub fn bytes(rng: &mut Rng, length_below: u64) -> Vec<u8> {
    let mut bytes = vec![0; rng.below(length_below) as usize];
    rng.fill(&mut bytes);
    bytes
}
