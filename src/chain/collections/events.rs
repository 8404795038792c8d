//! What contracts have told.

use crate::{Collection, Index, IndexList, Layout, record};

/// A block's height, the transaction's position in it, and the event's number in the transaction.
pub type EventKey = (u64, u32, u32);

/// Events by their place in the chain.
///
/// Follows reorgs; versions of the window are enough, since the height is a part of the key; written once, in the
/// order of blocks; those of a block are on one shard, beside its transactions.
#[derive(Debug)]
pub struct Events;

record! {
    /// An event.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ContractEvent {
        version 1 {
            /// The contract that told it.
            pub contract: [u8; 32],
            /// Its name, which OPNet calls its type.
            pub name: String,
            /// What it says.
            pub data: Vec<u8>,
        }
    }
}

impl Collection for Events {
    const NAME: &'static str = "events";
    type Key = EventKey;
    type Value = ContractEvent;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<EventsByContract>().with::<EventsByName>()
    }
}

/// Places of events by contract and height. Data of up to a MiB is not repeated here.
#[derive(Debug)]
pub struct EventsByContract;

impl Index for EventsByContract {
    const NAME: &'static str = "by_contract";
    type Of = Events;
    type Key = ([u8; 32], u64);
    type Covered = ();

    fn entries(key: &EventKey, event: &ContractEvent, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((event.contract, key.0), ());
    }
}

/// Places of events by contract, name and height.
#[derive(Debug)]
pub struct EventsByName;

impl Index for EventsByName {
    const NAME: &'static str = "by_name";
    type Of = Events;
    type Key = ([u8; 32], String, u64);
    type Covered = ();

    fn entries(key: &EventKey, event: &ContractEvent, emit: &mut dyn FnMut(Self::Key, ())) {
        emit((event.contract, event.name.clone(), key.0), ());
    }
}
