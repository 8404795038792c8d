//! From one state to the next: the changes of a block, and of a batch outside the chain.

use std::collections::BTreeMap;

use op_engine::chain::collections::*;
use op_engine::{Batch, Block, Collection};

use super::state::{Outside, State, Targets};

/// What a batch or a block does to one record.
enum Change<'a, C: Collection> {
    Put(&'a C::Key, &'a C::Value),
    Delete(&'a C::Key),
}

fn changes<'a, C: Collection>(
    before: &'a BTreeMap<C::Key, C::Value>,
    after: &'a BTreeMap<C::Key, C::Value>,
) -> impl Iterator<Item = Change<'a, C>>
where
    C::Key: Ord,
    C::Value: PartialEq,
{
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(Change::Delete);
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    gone.chain(new.map(|(key, value)| Change::Put(key, value)))
}

fn write<C: Collection>(
    block: &mut Block,
    before: &BTreeMap<C::Key, C::Value>,
    after: &BTreeMap<C::Key, C::Value>,
) where
    C::Key: Ord,
    C::Value: PartialEq,
{
    for change in changes::<C>(before, after) {
        match change {
            Change::Put(key, value) => block.put::<C>(key, value),
            Change::Delete(key) => block.delete::<C>(key),
        };
    }
}

/// Everything but outputs, which [`BlockCoins`] writes.
pub fn write_state(block: &mut Block, before: &State, after: &State) {
    write::<Blocks>(block, &before.blocks, &after.blocks);
    for change in changes::<Transactions>(&before.transactions, &after.transactions) {
        let Change::Put((height, position), transaction) = change else { panic!("none is removed") };
        transaction.put(TransactionPlace { height: *height, position: *position }, block);
    }
    write::<Events>(block, &before.events, &after.events);
    write::<ContractState>(block, &before.slots, &after.slots);
    write::<Contracts>(block, &before.contracts, &after.contracts);
    write::<Epochs>(block, &before.epochs, &after.epochs);
    write::<EpochSubmissions>(block, &before.submissions, &after.submissions);
    write::<BlockWitnesses>(block, &before.witnesses, &after.witnesses);
    write::<MldsaPublicKeys>(block, &before.mldsa, &after.mldsa);
    write::<Reorgs>(block, &before.reorgs, &after.reorgs);
}

pub fn write_targets(block: &mut Block, before: &Targets, after: &Targets) {
    write::<TargetEpochs>(block, before, after);
}

pub fn write_outside(before: &Outside, after: &Outside) -> Batch {
    fn write<C: Collection>(
        batch: &mut Batch,
        before: &BTreeMap<C::Key, C::Value>,
        after: &BTreeMap<C::Key, C::Value>,
    ) where
        C::Key: Ord,
        C::Value: PartialEq,
    {
        for change in changes::<C>(before, after) {
            match change {
                Change::Put(key, value) => batch.put::<C>(key, value),
                Change::Delete(key) => batch.delete::<C>(key),
            };
        }
    }
    let mut batch = Batch::new();
    write::<PublicKeys>(&mut batch, &before.keys, &after.keys);
    write::<Mempool>(&mut batch, &before.mempool, &after.mempool);
    write::<AnyoneCanSpend>(&mut batch, &before.anyone, &after.anyone);
    write::<BlockchainInformation>(&mut batch, &before.progress, &after.progress);
    batch
}
