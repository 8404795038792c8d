//! What the collections must hold: plain maps, and no engine.

use std::collections::BTreeMap;
use std::rc::Rc;

use op_engine::BlockHash;
use op_engine::chain::collections::{
    AnyoneCanSpendOutput, BlockInfo, BlockWitness, ChainProgress, Contract, ContractEvent, Epoch, EventKey,
    KeyForms, MempoolTransaction, MldsaKey, Outpoint, ReorgRecord, Slot, SlotKey, StoredTransaction,
    Submission, TargetEpoch, Utxo,
};

/// An output with its two heights: that of the block that made it, if it is known, and that of the one that spent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Coin {
    pub utxo: Option<Utxo>,
    pub spent_at: Option<u64>,
}

/// What follows the chain.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub blocks: BTreeMap<u64, BlockInfo>,
    pub transactions: BTreeMap<(u64, u32), StoredTransaction>,
    pub events: BTreeMap<EventKey, ContractEvent>,
    pub coins: BTreeMap<Outpoint, Coin>,
    pub slots: BTreeMap<SlotKey, Slot>,
    pub contracts: BTreeMap<[u8; 32], Contract>,
    pub epochs: BTreeMap<u64, Epoch>,
    pub submissions: BTreeMap<[u8; 32], Submission>,
    pub witnesses: BTreeMap<(u64, [u8; 32]), BlockWitness>,
    pub mldsa: BTreeMap<[u8; 32], MldsaKey>,
    pub reorgs: BTreeMap<(u64, u64), ReorgRecord>,
}

/// What is outside the chain.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    pub keys: BTreeMap<[u8; 32], KeyForms>,
    pub mempool: BTreeMap<[u8; 32], MempoolTransaction>,
    pub anyone: BTreeMap<Outpoint, AnyoneCanSpendOutput>,
    pub progress: BTreeMap<String, ChainProgress>,
}

/// What any reorg empties.
pub type Targets = BTreeMap<(u64, [u8; 32], [u8; 32]), TargetEpoch>;

/// A block of the chain, and what the store holds after it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub height: u64,
    pub hash: BlockHash,
    pub state: Rc<State>,
    pub outside: Rc<Outside>,
}

/// The chain, and what is there now.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub entries: Vec<Entry>,
    pub outside: Rc<Outside>,
    pub targets: Rc<Targets>,
    /// The blocks that the last reorg replaced, until the new branch has a block.
    pub replaced: Option<(u64, u64)>,
}

/// One state of the store, as a view must show it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub tip: u64,
    pub state: Rc<State>,
    pub outside: Rc<Outside>,
    /// Absent on the state at a height: what a reorg empties has no past.
    pub targets: Option<Rc<Targets>>,
}

impl Model {
    pub fn tip(&self) -> Option<&Entry> {
        self.entries.last()
    }

    pub fn state(&self) -> Rc<State> {
        self.tip().map(|tip| Rc::clone(&tip.state)).unwrap_or_default()
    }

    /// What the tip shows.
    pub fn now(&self) -> Option<Seen> {
        let tip = self.tip()?;
        Some(Seen {
            tip: tip.height,
            state: Rc::clone(&tip.state),
            outside: Rc::clone(&self.outside),
            targets: Some(Rc::clone(&self.targets)),
        })
    }

    /// What the state after the block at a height shows.
    pub fn at(&self, height: u64) -> Option<Seen> {
        let entry = self.entries.iter().find(|entry| entry.height == height)?;
        Some(Seen {
            tip: height,
            state: Rc::clone(&entry.state),
            outside: Rc::clone(&entry.outside),
            targets: None,
        })
    }

    pub fn reorg_to(&mut self, height: u64) {
        let Some(tip) = self.tip().map(|tip| tip.height) else { return };
        if height < tip {
            let from = self.replaced.map_or(height + 1, |(from, _)| from.min(height + 1));
            let to = self.replaced.map_or(tip, |(_, to)| to.max(tip));
            self.replaced = Some((from, to));
        }
        self.entries.retain(|entry| entry.height <= height);
        self.targets = Rc::default();
    }
}

impl State {
    /// Outputs that are unspent.
    pub fn unspent(&self) -> impl Iterator<Item = (&Outpoint, &Utxo)> {
        self.coins.iter().filter(|(_, coin)| coin.spent_at.is_none()).filter_map(|(at, coin)| {
            let utxo = coin.utxo.as_ref()?;
            Some((at, utxo))
        })
    }
}
