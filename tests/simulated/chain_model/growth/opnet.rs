//! What contracts, epochs and witnesses do in a block.

use op_engine::chain::collections::*;

use super::Growth;
use crate::chain_model::pools::*;
use crate::chain_model::state::{State, Targets};

impl Growth {
    pub(super) fn events(&mut self, state: &mut State, height: u64) {
        let positions: Vec<u32> = state
            .transactions
            .range((height, 0)..(height + 1, 0))
            .map(|((_, position), _)| *position)
            .collect();
        for position in positions {
            for number in 0..self.rng.below(4) as u32 {
                let event = ContractEvent {
                    contract: contract_key(self.rng.below(3)),
                    name: EVENT_NAMES[self.rng.index(EVENT_NAMES.len())].to_owned(),
                    data: bytes(&mut self.rng, 80),
                };
                state.events.insert((height, position, number), event);
            }
        }
    }

    pub(super) fn slots(&mut self, state: &mut State, height: u64) {
        for _ in 0..self.rng.below(9) {
            let key = (contract_key(self.rng.below(CONTRACTS)), pointer(self.rng.below(POINTERS)));
            let before = state.slots.get(&key).map(|slot| slot.value);
            let value = match (self.rng.below(6), before) {
                (0 | 1, _) => [0; 32],
                (2, Some(before)) => before,
                _ => id(Of::Other, self.rng.next_u64()),
            };
            let proofs = vec![[height as u8; 32]; self.rng.index(3)];
            state.slots.insert(key, Slot { value, height, proofs });
        }
    }

    pub(super) fn contracts(&mut self, state: &mut State, height: u64) {
        let number = self.rng.below(3 * CONTRACTS);
        if number >= CONTRACTS || state.contracts.contains_key(&contract_key(number)) {
            return;
        }
        let deployed = self.next();
        let contract = Contract {
            address: contract_address(number),
            hybrid_key: hybrid_key(number),
            bytecode: bytes(&mut self.rng, 6000),
            compressed: self.rng.coin(),
            txid: id(Of::Transaction, deployed),
            tx_hash: id(Of::WitnessHash, deployed),
            deployer_key: vec![3; 33],
            deployer: id(Of::Deployer, self.rng.below(DEPLOYERS)),
            seed: [4; 32],
            salt_hash: [5; 32],
            height,
        };
        state.contracts.insert(contract_key(number), contract);
    }

    fn proposer(&mut self) -> Proposer {
        Proposer {
            solution: id(Of::Solution, self.rng.below(9)),
            mldsa_key: id(Of::Proposer, self.rng.below(PROPOSERS)),
            legacy_key: legacy_key(self.rng.below(9)),
            salt: id(Of::Salt, self.rng.below(SALTS)),
            graffiti: self.rng.coin().then_some([b'g'; 16]),
        }
    }

    /// Opens an epoch, closes it, or leaves a block between two.
    pub(super) fn epochs(&mut self, state: &mut State, height: u64) {
        let last = state.epochs.last_entry();
        if let Some(mut open) = last.filter(|last| last.get().end_block.is_none()) {
            if self.rng.below(2) == 0 {
                open.get_mut().end_block = Some(height);
            }
            return;
        }
        if self.chance(3) {
            return;
        }
        let number = state.epochs.last_key_value().map_or(0, |(number, _)| number + 1);
        let hash = id(Of::Epoch, self.next());
        let epoch = Epoch {
            hash,
            root: [1; 32],
            start_block: height,
            end_block: self.chance(5).then_some(height),
            difficulty: self.rng.below(100),
            target_hash: id(Of::Target, self.rng.below(3)),
            proposer: self.proposer(),
            proofs: vec![[2; 32]; self.rng.index(3)],
        };
        state.epochs.insert(number, epoch);
    }

    pub(super) fn submissions(&mut self, state: &mut State, height: u64) {
        for _ in 0..self.rng.below(3) {
            // Some are replaced.
            let key = id(Of::Submission, self.rng.below(20));
            let epoch = state.epochs.len() as u64;
            let submission = Submission {
                confirmed_at: height,
                epoch: epoch.saturating_sub(self.rng.below(3)),
                start_block: height,
                txid: id(Of::Transaction, self.rng.below(10)),
                hash: id(Of::Solution, self.rng.below(8)),
                proposed: self.proposer(),
            };
            state.submissions.insert(key, submission);
        }
    }

    pub(super) fn witnesses(&mut self, state: &mut State, height: u64) {
        for _ in 0..self.rng.below(4) {
            let witness = BlockWitness {
                timestamp_ms: self.rng.below(1 << 40),
                signature: vec![self.rng.below(6) as u8; 64],
                identity: self.rng.coin().then(|| id(Of::Identity, self.rng.below(IDENTITIES))),
                public_key: self.rng.coin().then(|| vec![self.rng.below(3) as u8; 1312]),
                proofs: Vec::new(),
            };
            state.witnesses.insert((height, witness.id()), witness);
        }
        // Proofs are added to one of an earlier block.
        let keys: Vec<_> = state.witnesses.keys().copied().collect();
        if !keys.is_empty() && self.rng.coin() {
            let witness = state.witnesses.get_mut(&keys[self.rng.index(keys.len())]);
            witness.expect("it is there").proofs.push([height as u8; 32]);
        }
    }

    pub(super) fn mldsa(&mut self, state: &mut State, height: u64) {
        let number = self.rng.below(12);
        let key = state.mldsa.entry(id(Of::Mldsa, number)).or_insert_with(|| MldsaKey {
            legacy_key: legacy_key(number),
            tweaked_key: tweaked_key(number),
            public_key: None,
            level: MldsaLevel::Level2,
            inserted: height,
            exposed: None,
        });
        if key.exposed.is_none() && self.rng.below(2) == 0 {
            key.public_key = Some(vec![number as u8; 1312]);
            key.exposed = Some(height);
        }
    }

    /// Adds and removes what is aimed at epochs.
    pub fn targets(&mut self, targets: &mut Targets) {
        for _ in 0..self.rng.below(3) {
            let salt = id(Of::Salt, self.rng.below(SALTS));
            let key = (self.rng.below(3), salt, id(Of::Proposer, self.rng.below(PROPOSERS)));
            let target = TargetEpoch {
                difficulty: self.rng.below(5),
                legacy_key: legacy_key(1),
                mldsa_public_key: vec![1; 50],
                signature: vec![2; 64],
                graffiti: None,
            };
            if self.chance(4) {
                targets.remove(&key);
            } else {
                targets.insert(key, target);
            }
        }
    }
}
