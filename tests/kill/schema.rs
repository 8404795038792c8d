//! Collections of every scope, with indexes of both kinds.

use op_engine::{Collection, Desc, History, Index, IndexList, Layout, Scope};

/// Coins: serial number, owner, script.
pub struct Coins;

/// What is stored of a coin.
pub type Coin = (u64, u32, Vec<u8>);

impl Collection for Coins {
    const NAME: &'static str = "coins";
    type Key = u64;
    type Value = Coin;

    fn indexes() -> IndexList<Self> {
        IndexList::new().with::<ByOwner>().with::<BySerial>()
    }
}

/// Coins by owner, the newest first.
pub struct ByOwner;

impl Index for ByOwner {
    const NAME: &'static str = "by_owner";
    type Of = Coins;
    type Key = (u32, Desc<u64>);
    type Covered = u64;

    fn entries(_: &u64, coin: &Coin, emit: &mut dyn FnMut(Self::Key, u64)) {
        emit((coin.1, Desc(coin.0)), coin.0 ^ u64::from(coin.1));
    }
}

/// Coins by serial number, which no two share; every third one is left out.
pub struct BySerial;

impl Index for BySerial {
    const NAME: &'static str = "by_serial";
    type Of = Coins;
    type Key = u64;
    type Covered = ();
    const UNIQUE: bool = true;

    fn entries(_: &u64, coin: &Coin, emit: &mut dyn FnMut(u64, ())) {
        if !coin.0.is_multiple_of(3) {
            emit(coin.0, ());
        }
    }
}

/// Contract state, of which every version is kept.
pub struct Slots;

impl Collection for Slots {
    const NAME: &'static str = "slots";
    type Key = (u32, u32);
    type Value = u64;
    const HISTORY: History = History::All;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;
}

/// What waits for a block, gone with every reorg.
pub struct Pool;

impl Collection for Pool {
    const NAME: &'static str = "pool";
    type Key = u32;
    type Value = u64;
    const SCOPE: Scope = Scope::Cleared;
}

/// Keys of a wallet, which no reorg touches. Key 0 is the number of the last operation that wrote.
pub struct Wallet;

impl Collection for Wallet {
    const NAME: &'static str = "wallet";
    type Key = u32;
    type Value = u64;
    const SCOPE: Scope = Scope::Global;
}
