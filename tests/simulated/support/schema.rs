//! The collections that the scripts write: one of each kind.

use op_engine::{Collection, Config, Desc, History, Index, IndexList, Layout, Scope, TierPolicy};

/// Byte strings, some of which are the beginning of others; values from empty to several pages. Its keys are written many
/// times although its layout is for those that are written once: that costs space, and changes no answer.
pub struct Plain;

impl Collection for Plain {
    const NAME: &'static str = "plain";
    type Key = Vec<u8>;
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
}

/// Amounts and owners, with an index that has one or two entries for each record.
pub struct Coins;

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = u64;
    type Value = (u64, u32);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByOwner>()
    }
}

/// Coins of an owner, the most valuable first. Every fifth amount belongs to a second owner, too.
pub struct ByOwner;

/// The entries of a coin in [`ByOwner`].
pub fn owners(coin: (u64, u32)) -> Vec<((u32, u64), u32)> {
    let mut entries = vec![((coin.1, coin.0), coin.1)];
    if coin.0.is_multiple_of(5) {
        entries.push(((coin.1 + 1000, coin.0), 7));
    }
    entries
}

impl Index for ByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Coins;
    type Key = (u32, Desc<u64>);
    type Covered = (u32,);

    fn entries(_: &u64, coin: &(u64, u32), emit: &mut dyn FnMut(Self::Key, (u32,))) {
        for ((owner, amount), covered) in owners(*coin) {
            emit((owner, Desc(amount)), (covered,));
        }
    }
}

/// Records with a tag that no other one has.
pub struct Names;

impl Collection for Names {
    const NAME: &'static str = "names";
    type Key = u32;
    type Value = (u64, u32);

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByTag>()
    }
}

/// Names by their tag.
pub struct ByTag;

impl Index for ByTag {
    const NAME: &'static str = "by_tag";
    type Of = Names;
    type Key = u64;
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &u32, name: &(u64, u32), emit: &mut dyn FnMut(u64, ())) {
        emit(name.0, ());
    }
}

/// Slots of contracts, with all their versions, one contract on one shard.
pub struct States;

impl Collection for States {
    const NAME: &'static str = "states";
    type Key = (u16, u32);
    type Value = Vec<u8>;
    const HISTORY: History = History::All;
    const PARTITION: usize = 1;
}

/// Outside the chain.
pub struct Wallet;

impl Collection for Wallet {
    const NAME: &'static str = "wallet";
    type Key = u32;
    type Value = Vec<u8>;
    const SCOPE: Scope = Scope::Global;
}

/// Emptied by any reorg.
pub struct Mempool;

impl Collection for Mempool {
    const NAME: &'static str = "mempool";
    type Key = u64;
    type Value = Vec<u8>;
    const SCOPE: Scope = Scope::Cleared;
}

/// All collections. Their order differs with `rotated`: it means nothing.
pub fn all(config: Config, rotated: bool) -> Config {
    if rotated {
        let config = config.collection::<Mempool>().collection::<States>().collection::<Wallet>();
        return config.collection::<Names>().collection::<Plain>().collection::<Coins>();
    }
    early(config).collection::<States>().collection::<Mempool>()
}

/// The collections of a store before the last two have been added.
pub fn early(config: Config) -> Config {
    config.collection::<Plain>().collection::<Coins>().collection::<Names>().collection::<Wallet>()
}

/// What can move to the cold target does as soon as no reorg can reach it.
pub fn tiered(config: Config) -> Config {
    let at_once = TierPolicy::after_confirmations(0);
    config.tier::<Plain>(at_once).tier::<States>(at_once)
}
