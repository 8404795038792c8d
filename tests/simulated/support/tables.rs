//! Tables of one record type with indexes of every kind, in collections of every scope, and a model of them.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use op_engine::{Batch, Block, BlockHash, Collection, Desc, Height, History, Index, IndexList, Scope};
use op_engine_io::sim::Rng;

/// Group, weight, tag (no two records of a table have the same), parts as bits.
pub type Item = (u8, u32, u32, u8);
pub type Rows = BTreeMap<u16, Item>;

pub const CHAIN: u8 = 0;
pub const HISTORY: u8 = 1;
pub const GLOBAL: u8 = 2;
pub const CLEARED: u8 = 3;

/// A table, with the indexes whose bits are set in `WITH`.
pub struct Table<const SCOPE: u8, const WITH: u8>;

pub const BY_GROUP: u8 = 1;
pub const BY_PART: u8 = 2;
pub const HEAVY: u8 = 4;
pub const BY_TAG: u8 = 8;
pub const ALL: u8 = 15;

impl<const SCOPE: u8, const WITH: u8> Collection for Table<SCOPE, WITH> {
    const NAME: &'static str = ["items", "slots", "notes", "pool"][SCOPE as usize];
    type Key = u16;
    type Value = Item;
    const SCOPE: Scope = [Scope::Chain, Scope::Chain, Scope::Global, Scope::Cleared][SCOPE as usize];
    const HISTORY: History = if SCOPE == HISTORY { History::All } else { History::Window };

    fn indexes() -> IndexList<Self> {
        let mut list = IndexList::new();
        if WITH & BY_GROUP != 0 {
            list = list.with::<ByGroup<Self>>();
        }
        if WITH & BY_PART != 0 {
            list = list.with::<ByPart<Self>>();
        }
        if WITH & HEAVY != 0 {
            list = list.with::<Heavy<Self>>();
        }
        if WITH & BY_TAG != 0 {
            list = list.with::<ByTag<Self>>();
        }
        list
    }
}

/// Composite with mixed directions, covering.
pub struct ByGroup<C>(PhantomData<C>);
/// Multi-valued: an entry for every part.
pub struct ByPart<C>(PhantomData<C>);
/// Partial: heavy items only, the heaviest first.
pub struct Heavy<C>(PhantomData<C>);
/// Unique.
pub struct ByTag<C>(PhantomData<C>);

pub const HEAVY_FROM: u32 = 500;

impl<C: Collection<Key = u16, Value = Item>> Index for ByGroup<C> {
    const NAME: &'static str = "by_group";
    type Of = C;
    type Key = (u8, Desc<u32>);
    type Covered = (u32, u8);

    fn entries(_: &u16, item: &Item, emit: &mut dyn FnMut(Self::Key, Self::Covered)) {
        emit((item.0, Desc(item.1)), (item.2, item.3));
    }
}

impl<C: Collection<Key = u16, Value = Item>> Index for ByPart<C> {
    const NAME: &'static str = "by_part";
    type Of = C;
    type Key = (Desc<u8>, u8);
    type Covered = ();

    fn entries(_: &u16, item: &Item, emit: &mut dyn FnMut(Self::Key, ())) {
        for part in (0..8).filter(|part| item.3 >> part & 1 == 1) {
            emit((Desc(part), item.0), ());
        }
    }
}

impl<C: Collection<Key = u16, Value = Item>> Index for Heavy<C> {
    const NAME: &'static str = "heavy";
    type Of = C;
    type Key = Desc<u32>;
    type Covered = ();
    const PARTITION: usize = 0;

    fn entries(_: &u16, item: &Item, emit: &mut dyn FnMut(Self::Key, ())) {
        if item.1 >= HEAVY_FROM {
            emit(Desc(item.1), ());
        }
    }
}

impl<C: Collection<Key = u16, Value = Item>> Index for ByTag<C> {
    const NAME: &'static str = "by_tag";
    type Of = C;
    type Key = u32;
    type Covered = (u8,);
    const UNIQUE: bool = true;

    fn entries(_: &u16, item: &Item, emit: &mut dyn FnMut(u32, (u8,))) {
        emit(item.2, (item.0,));
    }
}

/// What an index must hold for some rows.
pub fn expected<I: Index>(rows: &Rows) -> Vec<(I::Key, u16, I::Covered)>
where
    I::Of: Collection<Key = u16, Value = Item>,
    I::Key: Ord,
    I::Covered: Ord,
{
    let mut all = Vec::new();
    for (key, item) in rows {
        I::entries(key, item, &mut |index_key, covered| all.push((index_key, *key, covered)));
    }
    all.sort();
    all
}

/// A change of one table.
pub type Change = (u8, u16, Option<Item>);

/// The tables at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(pub [Rows; 4]);

impl Tables {
    fn apply(&mut self, changes: &[Change]) {
        for (table, key, item) in changes {
            let rows = &mut self.0[usize::from(*table)];
            match item {
                Some(item) => rows.insert(*key, *item),
                None => rows.remove(key),
            };
        }
    }
}

/// The chain with the tables after each block, and the tables now.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub chain: Vec<(BlockHash, Tables)>,
    pub now: Tables,
    salt: u64,
    tag: u32,
}

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    Block(BlockHash, Vec<Change>),
    Global(Vec<Change>),
    Reorg(u64),
}

impl Model {
    pub fn tip(&self) -> Option<u64> {
        (self.chain.len() as u64).checked_sub(1)
    }

    pub fn at(&self, height: u64) -> &Tables {
        &self.chain[height as usize].1
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Block(hash, changes) => {
                self.now.apply(changes);
                self.chain.push((*hash, self.now.clone()));
            }
            Op::Global(changes) => self.now.apply(changes),
            Op::Reorg(height) => {
                self.chain.truncate(*height as usize + 1);
                let [items, slots, ..] = self.chain[*height as usize].1.0.clone();
                let notes = std::mem::take(&mut self.now.0[2]);
                self.now = Tables([items, slots, notes, Rows::new()]);
            }
        }
    }

    /// Random changes; those of the table outside the chain, or the others.
    pub fn changes(&mut self, rng: &mut Rng, global: bool, count: u64, keys: u64) -> Vec<Change> {
        let change = |_| {
            let table = if global { GLOBAL } else { [CHAIN, CHAIN, HISTORY, CLEARED][rng.index(4)] };
            self.tag += 1;
            let item = (rng.below(4) as u8, rng.below(1000) as u32, self.tag, rng.below(256) as u8);
            let key = rng.below(keys) as u16;
            let old = self.now.0[usize::from(table)].get(&key);
            let item = match (rng.below(6), old) {
                (0 | 1, _) => None,
                // The same but for one field: entries stay, or pass to another place.
                (2, Some(old)) => Some((old.0, old.1, old.2, item.3)),
                (3, Some(old)) => Some((old.0, item.1, old.2, old.3)),
                _ => Some(item),
            };
            (table, key, item)
        };
        let changes: Vec<Change> = (0..count).map(change).collect();
        // The last change of a key counts.
        let mut last: BTreeMap<_, _> =
            changes.into_iter().map(|(table, key, item)| ((table, key), item)).collect();
        if rng.below(3) == 0 {
            self.swap_tags(rng, if global { GLOBAL } else { CHAIN }, &mut last);
        }
        last.into_iter().map(|((table, key), item)| (table, key, item)).collect()
    }

    /// A key of a unique index passes from one record to another in one batch.
    fn swap_tags(&self, rng: &mut Rng, table: u8, changes: &mut BTreeMap<(u8, u16), Option<Item>>) {
        let rows = &self.now.0[usize::from(table)];
        let untouched = || rows.iter().filter(|(key, _)| !changes.contains_key(&(table, **key)));
        let count = untouched().count();
        if count < 2 {
            return;
        }
        let at = rng.index(count - 1);
        let pair: Vec<_> = untouched().skip(at).take(2).map(|(key, item)| (*key, *item)).collect();
        let [(a, item_a), (b, item_b)] = pair[..] else { return };
        let with_tag = |item: Item, tag| Some((item.0, item.1, tag, item.3));
        changes.insert((table, a), with_tag(item_a, item_b.2));
        // The other one goes, or takes the tag in turn.
        changes.insert((table, b), if rng.coin() { None } else { with_tag(item_b, item_a.2) });
    }

    pub fn block(&mut self, rng: &mut Rng, count: u64, keys: u64) -> Op {
        self.salt += 1;
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&self.salt.to_le_bytes());
        rng.fill(&mut hash[8..]);
        Op::Block(BlockHash(hash), self.changes(rng, false, count, keys))
    }

    /// The block of an operation on top of this state.
    pub fn to_block<const WITH: u8>(&self, hash: BlockHash, changes: &[Change]) -> Block {
        let parent = self.chain.last().map_or(BlockHash([0; 32]), |(hash, _)| *hash);
        let mut block = Block::new(Height(self.chain.len() as u64), hash, parent);
        for (table, key, item) in changes {
            match (*table, item) {
                (CHAIN, Some(item)) => block.put::<Table<CHAIN, WITH>>(key, item),
                (CHAIN, None) => block.delete::<Table<CHAIN, WITH>>(key),
                (HISTORY, Some(item)) => block.put::<Table<HISTORY, WITH>>(key, item),
                (HISTORY, None) => block.delete::<Table<HISTORY, WITH>>(key),
                (GLOBAL, Some(item)) => block.put::<Table<GLOBAL, WITH>>(key, item),
                (GLOBAL, None) => block.delete::<Table<GLOBAL, WITH>>(key),
                (_, Some(item)) => block.put::<Table<CLEARED, WITH>>(key, item),
                (_, None) => block.delete::<Table<CLEARED, WITH>>(key),
            };
        }
        block
    }

    pub fn to_batch<const WITH: u8>(changes: &[Change]) -> Batch {
        let mut batch = Batch::new();
        for (_, key, item) in changes {
            match item {
                Some(item) => batch.put::<Table<GLOBAL, WITH>>(key, item),
                None => batch.delete::<Table<GLOBAL, WITH>>(key),
            };
        }
        batch
    }
}
