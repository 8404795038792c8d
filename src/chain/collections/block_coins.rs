//! What a block does to outputs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Balance, Outpoint, ScriptTotal, ScriptTotals, SpentUtxo, SpentUtxos, Utxo, Utxos, script_hash};
use crate::chain::queries::ChainView;
use crate::{Block, Result};

/// The outputs that a block makes and spends, in any order.
///
/// [`BlockCoins::put`] reads what the spent ones were, all at once. Without spent outputs and totals that is not needed:
/// [`block_changes`](crate::chain::block_changes) reads nothing.
///
/// An output that is made and spent by the same block is never unspent after a block, and is kept with both heights. An
/// output that the store does not know, because it was made before the first block of the store, is kept
/// with the height that spent it.
#[derive(Debug, Clone)]
pub struct BlockCoins {
    height: u64,
    made: BTreeMap<Outpoint, Utxo>,
    spent: BTreeSet<Outpoint>,
    keep_spent: bool,
    keep_totals: bool,
}

impl BlockCoins {
    /// Those of the block at `height`: none so far.
    #[must_use]
    pub fn new(height: u64) -> Self {
        Self { height, made: BTreeMap::new(), spent: BTreeSet::new(), keep_spent: false, keep_totals: false }
    }

    /// Keeps spent outputs in [`SpentUtxos`].
    #[must_use]
    pub fn keep_spent(mut self) -> Self {
        self.keep_spent = true;
        self
    }

    /// Keeps [`ScriptTotals`]. They are right only if they are kept from the first block on.
    #[must_use]
    pub fn keep_totals(mut self) -> Self {
        self.keep_totals = true;
        self
    }

    /// Adds an output that the block makes.
    pub fn make(&mut self, outpoint: Outpoint, utxo: Utxo) {
        self.made.insert(outpoint, utxo);
    }

    /// Adds an output that the block spends.
    pub fn spend(&mut self, outpoint: Outpoint) {
        self.spent.insert(outpoint);
    }

    /// Adds what follows to the changes of the block. `parent` shows the state before it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn put(self, parent: &impl ChainView, changes: &mut Block) -> Result<()> {
        let snapshot = parent.view().await?;
        // An output is made anew only if a transaction came twice: what it was before is gone then, as in a node.
        let touched: Vec<Outpoint> = self.spent.iter().chain(self.made.keys()).copied().collect();
        let found = snapshot.get_many::<Utxos>(&touched).await?;
        let before: BTreeMap<Outpoint, Utxo> =
            touched.into_iter().zip(found).filter_map(|(outpoint, utxo)| Some((outpoint, utxo?))).collect();

        for outpoint in before.keys() {
            changes.delete::<Utxos>(outpoint);
        }
        for (outpoint, utxo) in &self.made {
            if !self.spent.contains(outpoint) {
                changes.put::<Utxos>(outpoint, utxo);
            }
        }
        if self.keep_spent {
            for outpoint in &self.spent {
                let utxo = self.made.get(outpoint).or_else(|| before.get(outpoint)).cloned();
                changes.put::<SpentUtxos>(outpoint, &SpentUtxo { spent_at: self.height, utxo });
            }
        }
        if self.keep_totals {
            let left = self.made.iter().filter(|(outpoint, _)| !self.spent.contains(*outpoint));
            put_totals(&snapshot, left.map(|(_, utxo)| utxo), before.values(), changes).await?;
        }
        Ok(())
    }
}

/// Values of outputs that a script has gained and lost.
#[derive(Default)]
struct Moved {
    gained: Vec<u64>,
    lost: Vec<u64>,
}

async fn put_totals(
    snapshot: &crate::Snapshot,
    gained: impl Iterator<Item = &Utxo>,
    lost: impl Iterator<Item = &Utxo>,
    changes: &mut Block,
) -> Result<()> {
    let mut by_script: BTreeMap<[u8; 32], Moved> = BTreeMap::new();
    for utxo in gained {
        by_script.entry(script_hash(&utxo.script)).or_default().gained.push(utxo.value);
    }
    for utxo in lost {
        by_script.entry(script_hash(&utxo.script)).or_default().lost.push(utxo.value);
    }
    let scripts: Vec<[u8; 32]> = by_script.keys().copied().collect();
    let totals = snapshot.get_many::<ScriptTotals>(&scripts).await?;
    for ((script, moved), total) in by_script.into_iter().zip(totals) {
        let mut total = total.unwrap_or_default();
        // What is gained first, so that no sum falls below zero on the way.
        moved.gained.into_iter().for_each(|value| total.change(value, Balance::plus));
        moved.lost.into_iter().for_each(|value| total.change(value, Balance::minus));
        if total == ScriptTotal::default() {
            changes.delete::<ScriptTotals>(&script);
        } else {
            changes.put::<ScriptTotals>(&script, &total);
        }
    }
    Ok(())
}
