//! States that are not in the store: a block in the making, and simulated calls that never become one.
//!
//! Both are an [`Overlay`]: changes over a state that is held, seen by reads, taken back by [savepoints](Savepoint). A
//! [`Draft`] lies over the tip and can be made a block.

mod blocking;
mod index_entries;
mod indexes;
mod overlay;
mod savepoint;
mod scan;
mod table;

use std::ops::{Deref, DerefMut};

use op_engine_shards::visibility::Scope;
use op_engine_shards::{BlockHash, Height};

use crate::batch::{Below, Block, Change};
use crate::engine::{Basis, Snapshot};

pub use blocking::BlockingOverlay;
pub use overlay::Overlay;
pub use savepoint::Savepoint;
pub use scan::OverlayScan;

use table::{Own, Table};

/// A block in the making: an [`Overlay`] on the state after its parent.
///
/// Its reads see what it has changed so far, and below that exactly the parent's state, whatever is committed or taken
/// back meanwhile. When it is [finished](Draft::finish), it is a block as any other, with one difference: it is refused
/// if the tip is not the very block any more that the draft was made on, or if a collection outside the chain that it has
/// used was changed since.
///
/// ```
/// use op_engine::{BlockHash, Collection, Config, Engine, Height};
///
/// struct Slots;
///
/// impl Collection for Slots {
///     const NAME: &'static str = "slots";
///     type Key = ([u8; 32], [u8; 32]);
///     type Value = u64;
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open_blocking(Config::new(dir.path()).collection::<Slots>())?;
/// let slots = [([7; 32], [0; 32]), ([7; 32], [1; 32])];
/// let mut draft = engine.blocking().draft(Height(0), BlockHash([0; 32]))?;
/// draft.blocking().warm::<Slots>(&slots)?; // One read for all of them.
///
/// let call = draft.savepoint();
/// draft.put::<Slots>(&slots[0], &5)?;
/// draft.rollback(call)?; // The call has failed: it leaves no trace.
/// assert!(!draft.blocking().exists::<Slots>(&slots[0])?);
///
/// let call = draft.savepoint();
/// draft.put::<Slots>(&slots[1], &0)?;
/// draft.release(call)?;
/// assert_eq!(draft.blocking().get::<Slots>(&slots[1])?, Some(0)); // Zero is not absent.
///
/// engine.blocking().commit(draft.finish(BlockHash([1; 32])))?;
/// assert_eq!(engine.blocking().get::<Slots>(&slots[1])?, Some(0));
/// # engine.close_blocking()?;
/// # Ok(())
/// # }
/// ```
pub struct Draft {
    overlay: Overlay,
    height: Height,
    parent: BlockHash,
}

impl Draft {
    pub(crate) fn new(snapshot: Snapshot, height: Height, parent: BlockHash) -> Self {
        Self { overlay: Overlay::new(snapshot), height, parent }
    }

    /// The height of the block that it becomes.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// The hash of the block that it was made on.
    #[must_use]
    pub fn parent(&self) -> BlockHash {
        self.parent
    }

    /// The block that it has become: the last change of each record, ordered by collection and key. It is committed as
    /// any block is.
    ///
    /// Open savepoints are released. A record that was removed and that the state below is known not to have is not
    /// mentioned.
    #[must_use]
    pub fn finish(self, hash: BlockHash) -> Block {
        let (snapshot, mut tables) = self.overlay.into_parts();
        tables.sort_unstable_by_key(|table| table.collection);
        let outside = tables.iter().filter(|table| table.scope != Scope::Chain);
        let basis = Basis {
            tip: snapshot.tip(),
            view: snapshot.seq(),
            outside: outside.map(|table| table.collection).collect(),
        };
        let mut block = Block::new(self.height, hash, self.parent);
        block.batch.changes = tables.into_iter().flat_map(changes).collect();
        block.basis = Some(basis);
        block
    }
}

/// The changes of a collection.
fn changes(table: Table) -> impl Iterator<Item = Change> {
    let (type_id, name) = (table.type_id, table.name);
    table.into_changes().into_iter().filter_map(move |(key, slot)| {
        let value = match slot.own {
            Own::Untouched => return None,
            Own::Removed if matches!(slot.below, Below::Absent) => return None,
            Own::Removed => None,
            Own::Written(value) => Some(value),
        };
        let (key, partition_bytes) = (key.into_vec(), slot.partition_bytes);
        Some(Change { type_id, name, key, partition_bytes, value, below: slot.below })
    })
}

impl Deref for Draft {
    type Target = Overlay;

    fn deref(&self) -> &Overlay {
        &self.overlay
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut Overlay {
        &mut self.overlay
    }
}
