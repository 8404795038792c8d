//! Transactions, and the outputs that they make and spend.

use op_engine::chain::collections::*;

use super::{Growth, Moves};
use crate::chain_model::pools::*;
use crate::chain_model::state::{Coin, State};

impl Growth {
    pub(super) fn transactions(&mut self, state: &mut State, height: u64) -> Moves {
        let mut moves = Moves::default();
        for position in 0..1 + self.rng.below(4) as u32 {
            let coinbase = position == 0;
            let repeated = if coinbase && self.chance(12) { self.unspent_coinbase(state) } else { None };
            let (transaction, outputs) = match repeated {
                Some(again) => again,
                None => {
                    let kind = self.rng.below(3);
                    let transaction = self.transaction(kind);
                    let outputs = (0..self.rng.below(4) as u32).map(|number| {
                        let value = VALUES[self.rng.index(VALUES.len())];
                        let script = any_script(&mut self.rng);
                        (number, Utxo { value, height, coinbase, script })
                    });
                    let outputs = outputs.collect();
                    (transaction, outputs)
                }
            };
            if !coinbase {
                self.spends(state, height, &mut moves);
            }
            for (number, utxo) in outputs {
                let (outpoint, utxo) = ((transaction.txid, number), Utxo { height, ..utxo });
                state.coins.insert(outpoint, Coin { utxo: Some(utxo.clone()), spent_at: None });
                moves.made.push((outpoint, utxo));
            }
            state.transactions.insert((height, position), transaction);
        }
        // Also what the last transaction made, within the same block.
        self.spends(state, height, &mut moves);
        moves
    }

    fn transaction(&mut self, kind: u64) -> StoredTransaction {
        let number = self.next();
        let kind = [TransactionKind::Generic, TransactionKind::Deployment, TransactionKind::Interaction]
            [kind as usize];
        let call = (kind != TransactionKind::Generic).then(|| self.call());
        let execution = Execution {
            kind,
            burned: self.rng.below(1000),
            reward: 0,
            gas_used: self.rng.next_u64(),
            special_gas_used: 0,
            priority_fee: 1,
            revert: self.chance(5).then(|| b"out of gas".to_vec()),
            call,
        };
        StoredTransaction {
            txid: id(Of::Transaction, number),
            witness_hash: self.rng.coin().then(|| id(Of::WitnessHash, number)),
            raw: bytes(&mut self.rng, 200),
            execution: (!self.chance(4)).then_some(execution),
        }
    }

    pub(super) fn call(&mut self) -> Call {
        Call {
            calldata: bytes(&mut self.rng, 60),
            compressed: self.rng.coin(),
            preimage: vec![1; 20],
            sender_key_hash: [2; 32],
            contract_secret: vec![3; 32],
            interaction_key: vec![4; 33],
            from: [5; 32],
            from_legacy: None,
            contract: contract_key(self.rng.below(CONTRACTS)),
            receipt: self.rng.coin().then(|| vec![6; 8]),
            receipt_proofs: Vec::new(),
        }
    }

    /// The coinbase of an earlier block, none of whose outputs are spent: it may come again, as it did twice on the main
    /// network.
    fn unspent_coinbase(&mut self, state: &State) -> Option<(StoredTransaction, Vec<(u32, Utxo)>)> {
        let coinbases: Vec<_> =
            state.transactions.iter().filter(|((_, position), _)| *position == 0).collect();
        if coinbases.is_empty() {
            return None;
        }
        let (_, transaction) = coinbases[self.rng.index(coinbases.len())];
        let outputs = state.coins.range((transaction.txid, 0)..=(transaction.txid, u32::MAX));
        let outputs: Vec<_> = outputs.collect();
        if outputs.iter().any(|(_, coin)| coin.spent_at.is_some()) {
            return None;
        }
        let outputs =
            outputs.into_iter().filter_map(|((_, number), coin)| Some((*number, coin.utxo.clone()?)));
        Some((transaction.clone(), outputs.collect()))
    }

    fn spends(&mut self, state: &mut State, height: u64, moves: &mut Moves) {
        for _ in 0..self.rng.below(3) {
            let unspent: Vec<Outpoint> = state.unspent().map(|(outpoint, _)| *outpoint).collect();
            let outpoint = if self.chance(5) || unspent.is_empty() {
                (id(Of::Unknown, self.rng.below(30)), self.rng.below(2) as u32)
            } else {
                unspent[self.rng.index(unspent.len())]
            };
            let coin = state.coins.entry(outpoint).or_insert(Coin { utxo: None, spent_at: None });
            if coin.spent_at.is_none() {
                coin.spent_at = Some(height);
                moves.spent.push(outpoint);
            }
        }
    }
}
