//! What happens between blocks.

use std::collections::BTreeSet;

use op_engine::chain::collections::*;

use super::Growth;
use crate::chain_model::pools::*;
use crate::chain_model::state::{Outside, State};

impl Growth {
    /// What happens between blocks.
    pub fn outside(&mut self, outside: &mut Outside, state: &State, tip: u64) {
        for _ in 0..self.rng.below(3) {
            let forms = outside.keys.entry(tweaked_key(self.rng.below(12))).or_default();
            let (key, form) = (legacy_key(self.rng.below(12)), address(self.rng.below(ADDRESSES)));
            match self.rng.below(7) {
                0 => forms.public_key = Some(key),
                1 => forms.p2tr = Some(form),
                2 => forms.p2op = Some(form),
                3 => forms.p2pkh = Some(form),
                4 => forms.p2wpkh = Some(form),
                5 => forms.p2sh_p2wpkh = Some(form),
                _ => forms.low_byte = Some(1),
            }
        }
        for _ in 0..self.rng.below(4) {
            let waiting = id(Of::Mempool, self.rng.below(12));
            if self.chance(3) {
                outside.mempool.remove(&waiting);
            } else {
                let transaction = self.waiting(state, tip);
                outside.mempool.insert(waiting, transaction);
            }
        }
        let output = (id(Of::Unknown, self.rng.below(10)), 0);
        let classification = format!("class {}", self.rng.below(3));
        outside.anyone.insert(output, AnyoneCanSpendOutput { classification });
        let network = NETWORKS[self.rng.index(2)].to_owned();
        outside.progress.insert(network, ChainProgress { block_in_progress: tip + 1 });
    }

    fn waiting(&mut self, state: &State, tip: u64) -> MempoolTransaction {
        let coins: Vec<Outpoint> = state.coins.keys().copied().collect();
        let mut inputs = BTreeSet::new();
        for _ in 0..1 + self.rng.below(3) {
            if self.rng.coin() || coins.is_empty() {
                // Of another one that waits, so that there are descendants.
                inputs.insert((id(Of::Mempool, self.rng.below(12)), self.rng.below(2) as u32));
            } else {
                inputs.insert(coins[self.rng.index(coins.len())]);
            }
        }
        let outputs = (0..self.rng.below(3)).map(|_| MempoolOutput {
            value: VALUES[self.rng.index(VALUES.len())],
            script: any_script(&mut self.rng),
            addresses: (0..self.rng.below(3)).map(|_| address(self.rng.below(ADDRESSES))).collect(),
        });
        let outputs = outputs.collect();
        let kind = if self.rng.coin() { TransactionKind::Generic } else { TransactionKind::Interaction };
        MempoolTransaction {
            form: if self.rng.coin() { MempoolForm::Signed } else { MempoolForm::Psbt },
            raw: bytes(&mut self.rng, 100),
            previous_psbt: None,
            height: tip,
            first_seen_ms: 1_700_000_000_000 + self.rng.below(6),
            kind,
            call: (kind != TransactionKind::Generic).then(|| self.call()),
            inputs: inputs.into_iter().collect(),
            outputs,
        }
    }
}
