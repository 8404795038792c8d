//! Reading a store and comparing it with the oracle.

use std::ops::Range;

use op_engine::{Engine, Error, Height, Snapshot};
use op_engine_io::sim::Rng;

use super::model::{Content, State, same};
use super::schema::{ByOwner, ByTag, Coins, Mempool, Names, Plain, States, Wallet};
use super::script::Script;

/// What a check found.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The engine refused with a typed error.
    Engine(Error),
    /// An answer is wrong, or something happened that must not.
    Wrong(#[allow(dead_code, reason = "read through Debug")] String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<String> for Trouble {
    fn from(wrong: String) -> Self {
        Self::Wrong(wrong)
    }
}

pub type Checked<T = ()> = Result<T, Trouble>;

/// Which collections the store was opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Without those that are added later.
    Early,
    All,
}

/// What a snapshot was taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Tip,
    Height,
}

/// Reads everything that a snapshot shows.
pub async fn read_all(snapshot: &Snapshot, schema: Schema, of: Of) -> Checked<Content> {
    let by_owner = snapshot.scan_index::<ByOwner>().collect().await?;
    let by_tag = snapshot.scan_index::<ByTag>().collect().await?;
    let mut content = Content {
        plain: snapshot.scan::<Plain>().collect().await?,
        coins: snapshot.scan::<Coins>().collect().await?,
        by_owner: by_owner
            .into_iter()
            .map(|((owner, amount), id, (c,))| ((owner, amount.0), id, c))
            .collect(),
        names: snapshot.scan::<Names>().collect().await?,
        by_tag: by_tag.into_iter().map(|(tag, key, ())| (tag, key)).collect(),
        wallet: snapshot.scan::<Wallet>().collect().await?,
        ..Content::default()
    };
    if schema == Schema::All {
        content.states = snapshot.scan::<States>().collect().await?;
        content.mempool = match snapshot.scan::<Mempool>().collect().await {
            // What it held at a height is not kept, and that is said.
            Err(Error::HistoryGone { .. }) if of == Of::Height => Vec::new(),
            rows if of == Of::Tip => rows?,
            other => return Err(Trouble::Wrong(format!("a cleared collection at a height gives {other:?}"))),
        };
    }
    Ok(content)
}

/// Finds the one state between `window.start` and `window.end` operations that the store shows, and compares
/// everything else with it. Returns how many operations it holds.
pub async fn verify(
    engine: &Engine,
    script: &Script,
    window: Range<usize>,
    schema: Schema,
    rng: &mut Rng,
) -> Checked<usize> {
    let snapshot = engine.snapshot().await?;
    let content = read_all(&snapshot, schema, Of::Tip).await?;
    let tip = snapshot.tip().map(|tip| (tip.height.0, tip.hash));
    let mut wrong = String::new();
    let found = window.clone().rev().find(|at| {
        let state = &script.states[*at];
        if state.tip().map(|tip| (tip.height, tip.hash)) != tip {
            return false;
        }
        content
            .expect(&state.content)
            .map_err(|why| wrong = format!("as after {at} operations: {why}"))
            .is_ok()
    });
    let Some(found) = found else {
        let tips: Vec<_> = window.clone().map(|at| script.states[at].tip().map(|tip| tip.height)).collect();
        return Err(Trouble::Wrong(format!(
            "no state of {window:?} fits: the tip is {:?}, wanted one of {tips:?}; {wrong}",
            tip.map(|tip| tip.0)
        )));
    };
    let state = &script.states[found];
    check_chain(engine, state)?;
    check_points(&snapshot, &content, schema, rng).await?;
    if rng.below(4) == 0 {
        check_orders(engine, &content, schema).await?;
    }
    check_heights(engine, state, schema, rng).await?;
    Ok(found)
}

/// The heights and hashes that a reorg can reach.
fn check_chain(engine: &Engine, state: &State) -> Checked {
    let (Some(tip), Some(first)) = (state.tip(), state.first()) else { return Ok(()) };
    let horizon = engine.horizon().0;
    if horizon > tip.height {
        return Err(Trouble::Wrong(format!("the horizon {horizon} is above the tip {}", tip.height)));
    }
    for height in horizon..=tip.height {
        let wanted = state.at(height).map(|entry| entry.hash);
        let got = engine.block_at(Height(height)).map(|block| block.hash);
        if got != wanted {
            return Err(Trouble::Wrong(format!("block {height} is {got:?}, wanted {wanted:?}")));
        }
    }
    if engine.block_at(Height(tip.height + 1)).is_some()
        || first > 0 && engine.block_at(Height(first - 1)).is_some()
    {
        return Err(Trouble::Wrong("a block outside the chain is shown".to_owned()));
    }
    Ok(())
}

/// Point reads of present and absent keys agree with what was scanned.
async fn check_points(snapshot: &Snapshot, content: &Content, schema: Schema, rng: &mut Rng) -> Checked {
    fn find<K: PartialEq, V: Clone>(rows: &[(K, V)], key: &K) -> Option<V> {
        rows.iter().find(|row| row.0 == *key).map(|row| row.1.clone())
    }
    let mut coins: Vec<u64> = (0..6).map(|_| rng.below(9000)).collect();
    coins.extend(content.coins.iter().map(|row| row.0));
    let wanted: Vec<_> = coins.iter().map(|key| find(&content.coins, key)).collect();
    same("coins by key", &snapshot.get_many::<Coins>(&coins).await?, &wanted)?;

    let mut plain = vec![vec![], vec![0], vec![0, 0], vec![0xFF, 0xFF], vec![2], vec![1, 0, 1, 0, 1]];
    plain.extend(content.plain.iter().map(|row| row.0.clone()));
    let wanted: Vec<_> = plain.iter().map(|key| find(&content.plain, key)).collect();
    same("plain by key", &snapshot.get_many::<Plain>(&plain).await?, &wanted)?;

    let names: Vec<u32> = (0..31).collect();
    let wanted: Vec<_> = names.iter().map(|key| find(&content.names, key)).collect();
    same("names by key", &snapshot.get_many::<Names>(&names).await?, &wanted)?;
    for tag in [rng.below(60), rng.below(60)] {
        let got = snapshot.get_by::<ByTag>(&tag).await?;
        let wanted = content.names.iter().find(|row| row.1.0 == tag).copied();
        same("a name by tag", &[got], &[wanted])?;
    }
    let wallet: Vec<u32> = (0..9).collect();
    let wanted: Vec<_> = wallet.iter().map(|key| find(&content.wallet, key)).collect();
    same("wallet by key", &snapshot.get_many::<Wallet>(&wallet).await?, &wanted)?;
    if schema == Schema::All {
        let states: Vec<(u16, u32)> = (0..6).flat_map(|a| (0..13).map(move |b| (a, b))).collect();
        let wanted: Vec<_> = states.iter().map(|key| find(&content.states, key)).collect();
        same("states by key", &snapshot.get_many::<States>(&states).await?, &wanted)?;
        let mempool: Vec<u64> = (0..13).collect();
        let wanted: Vec<_> = mempool.iter().map(|key| find(&content.mempool, key)).collect();
        same("mempool by key", &snapshot.get_many::<Mempool>(&mempool).await?, &wanted)?;
    }
    Ok(())
}

/// Descending scans, limits and prefixes, on the engine's own tip.
async fn check_orders(engine: &Engine, content: &Content, schema: Schema) -> Checked {
    let reversed: Vec<_> = content.coins.iter().rev().take(7).copied().collect();
    same("coins down", &engine.scan::<Coins>().descending().limit(7).collect().await?, &reversed)?;
    let down = engine.scan_index::<ByOwner>().descending().collect().await?;
    let down: Vec<_> =
        down.into_iter().map(|((owner, amount), id, (c,))| ((owner, amount.0), id, c)).collect();
    let wanted: Vec<_> = content.by_owner.iter().rev().copied().collect();
    same("by_owner down", &down, &wanted)?;
    let mine = engine.scan_index::<ByOwner>().prefix(&(2u32,)).collect().await?;
    let mine: Vec<_> =
        mine.into_iter().map(|((owner, amount), id, (c,))| ((owner, amount.0), id, c)).collect();
    let wanted: Vec<_> = content.by_owner.iter().filter(|row| row.0.0 == 2).copied().collect();
    same("by_owner of 2", &mine, &wanted)?;
    if schema == Schema::All {
        let slots = engine.scan::<States>().prefix(&(3u16,)).descending().collect().await?;
        let wanted: Vec<_> = content.states.iter().rev().filter(|row| row.0.0 == 3).cloned().collect();
        same("states of 3 down", &slots, &wanted)?;
    }
    let plain = engine
        .scan::<Plain>()
        .range(std::ops::Bound::Excluded(&vec![0]), std::ops::Bound::Included(&vec![1, 0]));
    let wanted: Vec<_> =
        content.plain.iter().filter(|row| row.0 > vec![0] && row.0 <= vec![1, 0]).cloned().collect();
    same("a range of plain", &plain.collect().await?, &wanted)?;
    Ok(())
}

/// The states after some blocks within the window, and what is left below it.
async fn check_heights(engine: &Engine, state: &State, schema: Schema, rng: &mut Rng) -> Checked {
    let (Some(tip), Some(first)) = (state.tip(), state.first()) else { return Ok(()) };
    let horizon = engine.horizon().0.max(first);
    let middle = horizon + rng.below(tip.height - horizon + 1);
    for height in [horizon, middle] {
        match check_height(engine, state, height, schema).await {
            // Commits on their way to the disk have moved the window meanwhile.
            Err(Trouble::Engine(Error::HistoryGone { .. })) if engine.horizon().0 > height => {}
            checked => checked?,
        }
    }
    if horizon > first && schema == Schema::All {
        let height = first + rng.below(horizon - first);
        let entry = state.at(height).expect("the chain has no gap");
        let snapshot = engine.at(Height(height)).await?;
        same(
            &format!("states at {height}"),
            &snapshot.scan::<States>().collect().await?,
            &entry.content.states,
        )?;
        match snapshot.get::<Plain>(&vec![0]).await {
            Err(Error::HistoryGone { .. }) => {}
            other => return Err(Trouble::Wrong(format!("below the horizon, a read gives {other:?}"))),
        }
    }
    Ok(())
}

pub async fn check_height(engine: &Engine, state: &State, height: u64, schema: Schema) -> Checked {
    let entry = state.at(height).expect("the chain has no gap");
    let snapshot = engine.at(Height(height)).await?;
    let got = read_all(&snapshot, schema, Of::Height).await?;
    let wanted = entry.content.without_mempool();
    got.expect(&wanted).map_err(|why| Trouble::Wrong(format!("at height {height}: {why}")))
}
