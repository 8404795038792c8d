//! Scans against a plain sorted list: every range, direction, filter and limit, tokens after every row, also when blocks
//! and reorgs come in between, and what is counted without being sent.

use std::fmt::Debug;
use std::future::poll_fn;
use std::ops::{Bound, RangeBounds};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use op_engine::{
    Block, BlockHash, Desc, Engine, Error, Height, Index, IndexRow, Row, Scan, Snapshot, Token, TokenError,
    Totals,
};
use op_engine_io::sim::{Rng, SimDisk};

use crate::support::check::Checked;
use crate::support::model::{Content, State, same};
use crate::support::run::{Driver, Machine, Progress, Setup, on_two_threads};
use crate::support::schema::{ByOwner, ByTag, Coins, Plain, States, Wallet};
use crate::support::script::{Recipe, Script, write};

const SEEDS: u64 = 240;

/// What has been seen in all runs together, so that none of it is missing by accident.
static ROWS: AtomicU64 = AtomicU64::new(0);
static RESUMED: AtomicU64 = AtomicU64::new(0);
static REORGANISED: AtomicU64 = AtomicU64::new(0);

/// What is scanned.
#[derive(Clone, Copy)]
enum View<'a> {
    Tip(&'a Engine),
    Held(&'a Snapshot),
}

impl View<'_> {
    fn scan<C: op_engine::Collection>(self) -> Scan<C::Key, Row<C>> {
        match self {
            Self::Tip(engine) => engine.scan::<C>(),
            Self::Held(snapshot) => snapshot.scan::<C>(),
        }
    }

    fn scan_index<I: Index>(self) -> Scan<I::Key, IndexRow<I>, I> {
        match self {
            Self::Tip(engine) => engine.scan_index::<I>(),
            Self::Held(snapshot) => snapshot.scan_index::<I>(),
        }
    }
}

/// A query of a kind of rows: how it is asked, and what the answer is.
trait Query: Clone + Debug {
    type Key: op_engine::key::Key + 'static;
    type Row: PartialEq + Debug + Clone + 'static;
    type Index;

    fn random(content: &Content, rng: &mut Rng) -> Self;
    fn scan(&self, view: View<'_>) -> Scan<Self::Key, Self::Row, Self::Index>;
    fn rows(&self, content: &Content) -> Vec<Self::Row>;
    /// Some number of a row.
    fn amount(row: &Self::Row) -> u64;
}

fn bound<T>(rng: &mut Rng, value: T) -> Bound<T> {
    match rng.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(value),
        _ => Bound::Included(value),
    }
}

fn lies_in<T: PartialOrd>(value: &T, start: &Bound<T>, end: &Bound<T>) -> bool {
    (start.as_ref(), end.as_ref()).contains(value)
}

fn in_order<R>(mut rows: Vec<R>, descending: bool) -> Vec<R> {
    if descending {
        rows.reverse();
    }
    rows
}

type OwnerKey = (u32, Desc<u64>);

/// Of the index of coins: by owner, by owners, by amounts of an owner, by a range of whole keys.
#[derive(Clone, Debug)]
struct OwnerQuery {
    owner: Option<u32>,
    owners: Option<(Bound<(u32,)>, Bound<(u32,)>)>,
    keys: Option<(Bound<OwnerKey>, Bound<OwnerKey>)>,
    descending: bool,
    filter: u64,
}

impl OwnerQuery {
    fn passes(filter: u64, ((_, Desc(amount)), id, (covered,)): &IndexRow<ByOwner>) -> bool {
        match filter {
            1 => amount % 2 == 0,
            2 => id % 3 == 0,
            3 => *covered == 7 && amount % 2 == 0,
            4 => false,
            _ => true,
        }
    }
}

impl Query for OwnerQuery {
    type Key = OwnerKey;
    type Row = IndexRow<ByOwner>;
    type Index = ByOwner;

    fn random(_: &Content, rng: &mut Rng) -> Self {
        let owner = |rng: &mut Rng| [0, 1, 2, 3, 1000, 1001, 5][rng.index(7)];
        let key = |rng: &mut Rng, of: u32| (of, Desc(rng.below(42)));
        let (low, high) = (owner(rng), owner(rng));
        let high = if rng.coin() { low } else { high };
        let (low_key, high_key) = (key(rng, low), key(rng, high));
        Self {
            owner: (rng.below(3) == 0).then(|| owner(rng)),
            owners: (rng.below(4) == 0).then(|| (bound(rng, (low,)), bound(rng, (high,)))),
            keys: (rng.below(3) == 0).then(|| (bound(rng, low_key), bound(rng, high_key))),
            descending: rng.coin(),
            filter: rng.below(7),
        }
    }

    fn scan(&self, view: View<'_>) -> Scan<OwnerKey, IndexRow<ByOwner>, ByOwner> {
        let mut scan = view.scan_index::<ByOwner>();
        if let Some((start, end)) = &self.owners {
            scan = scan.range(start.as_ref(), end.as_ref());
        }
        if let Some(owner) = self.owner {
            scan = scan.prefix(&(owner,));
        }
        if let Some((start, end)) = &self.keys {
            scan = scan.range(start.as_ref(), end.as_ref());
        }
        if self.descending {
            scan = scan.descending();
        }
        match self.filter {
            0 => scan,
            1 => scan.filter_key(|(_, Desc(amount))| amount % 2 == 0),
            3 => scan.filter(|(_, _, (covered,))| *covered == 7).filter_key(|(_, amount)| amount.0 % 2 == 0),
            filter => scan.filter(move |row| Self::passes(filter, row)),
        }
    }

    fn rows(&self, content: &Content) -> Vec<IndexRow<ByOwner>> {
        let row = |((owner, amount), id, covered): &((u32, u64), u64, u32)| {
            ((*owner, Desc(*amount)), *id, (*covered,))
        };
        let rows = content.by_owner.iter().map(row).filter(|row| {
            let (key, ..) = row;
            self.owner.is_none_or(|owner| owner == key.0)
                && self.owners.as_ref().is_none_or(|(start, end)| lies_in(&(key.0,), start, end))
                && self.keys.as_ref().is_none_or(|(start, end)| lies_in(key, start, end))
                && Self::passes(self.filter, row)
        });
        in_order(rows.collect(), self.descending)
    }

    fn amount(((_, Desc(amount)), ..): &IndexRow<ByOwner>) -> u64 {
        *amount
    }
}

/// Of slots, which keep all versions: by contract or all.
#[derive(Clone, Debug)]
struct SlotQuery {
    contract: Option<u16>,
    slots: Option<(Bound<(u16, u32)>, Bound<(u16, u32)>)>,
    descending: bool,
    long_only: bool,
}

impl Query for SlotQuery {
    type Key = (u16, u32);
    type Row = Row<States>;
    type Index = ();

    fn random(_: &Content, rng: &mut Rng) -> Self {
        let key = |rng: &mut Rng| (rng.below(5) as u16, rng.below(12) as u32);
        let (low, high) = (key(rng), key(rng));
        Self {
            contract: rng.coin().then(|| rng.below(6) as u16),
            slots: (rng.below(3) == 0).then(|| (bound(rng, low), bound(rng, high))),
            descending: rng.coin(),
            long_only: rng.below(3) == 0,
        }
    }

    fn scan(&self, view: View<'_>) -> Scan<(u16, u32), Row<States>> {
        let mut scan = view.scan::<States>();
        if let Some(contract) = self.contract {
            scan = scan.prefix(&(contract,));
        }
        if let Some((start, end)) = &self.slots {
            scan = scan.range(start.as_ref(), end.as_ref());
        }
        if self.descending {
            scan = scan.descending();
        }
        if self.long_only { scan.filter(|(_, value)| value.len() > 10) } else { scan }
    }

    fn rows(&self, content: &Content) -> Vec<Row<States>> {
        let rows = content.states.iter().filter(|(key, value)| {
            self.contract.is_none_or(|contract| contract == key.0)
                && self.slots.as_ref().is_none_or(|(start, end)| lies_in(key, start, end))
                && (!self.long_only || value.len() > 10)
        });
        in_order(rows.cloned().collect(), self.descending)
    }

    fn amount((_, value): &Row<States>) -> u64 {
        value.len() as u64
    }
}

/// Of byte strings, some of which are the beginning of others.
#[derive(Clone, Debug)]
struct PlainQuery {
    keys: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    descending: bool,
}

impl Query for PlainQuery {
    type Key = Vec<u8>;
    type Row = Row<Plain>;
    type Index = ();

    fn random(content: &Content, rng: &mut Rng) -> Self {
        let key = |rng: &mut Rng| {
            let known = content.plain.get(rng.index(content.plain.len() + 1)).map(|(key, _)| key.clone());
            known.unwrap_or_else(|| vec![0xFF; rng.index(4)])
        };
        let (low, high) = (key(rng), key(rng));
        Self { keys: (bound(rng, low), bound(rng, high)), descending: rng.coin() }
    }

    fn scan(&self, view: View<'_>) -> Scan<Vec<u8>, Row<Plain>> {
        let scan = view.scan::<Plain>().range(self.keys.0.as_ref(), self.keys.1.as_ref());
        if self.descending { scan.descending() } else { scan }
    }

    fn rows(&self, content: &Content) -> Vec<Row<Plain>> {
        let rows = content.plain.iter().filter(|(key, _)| lies_in(key, &self.keys.0, &self.keys.1));
        in_order(rows.cloned().collect(), self.descending)
    }

    fn amount((key, _): &Row<Plain>) -> u64 {
        key.len() as u64
    }
}

/// Of a unique index, whose entries hold the record's key in their value.
#[derive(Clone, Debug)]
struct TagQuery {
    tags: (Bound<u64>, Bound<u64>),
    descending: bool,
    even: bool,
}

impl Query for TagQuery {
    type Key = u64;
    type Row = IndexRow<ByTag>;
    type Index = ByTag;

    fn random(_: &Content, rng: &mut Rng) -> Self {
        let (low, high) = (rng.below(60), rng.below(80));
        Self { tags: (bound(rng, low), bound(rng, high)), descending: rng.coin(), even: rng.coin() }
    }

    fn scan(&self, view: View<'_>) -> Scan<u64, IndexRow<ByTag>, ByTag> {
        let mut scan = view.scan_index::<ByTag>().range(self.tags.0.as_ref(), self.tags.1.as_ref());
        if self.descending {
            scan = scan.descending();
        }
        if self.even { scan.filter(|(tag, key, ())| (tag + u64::from(*key)) % 2 == 0) } else { scan }
    }

    fn rows(&self, content: &Content) -> Vec<IndexRow<ByTag>> {
        let rows = content.by_tag.iter().filter(|(tag, key)| {
            lies_in(tag, &self.tags.0, &self.tags.1) && (!self.even || (tag + u64::from(*key)) % 2 == 0)
        });
        in_order(rows.map(|(tag, key)| (*tag, *key, ())).collect(), self.descending)
    }

    fn amount((tag, ..): &IndexRow<ByTag>) -> u64 {
        *tag
    }
}

/// A token as it comes back from a user.
fn returned(token: &Token) -> Token {
    let token: Token = token.to_string().parse().unwrap();
    Token::from_bytes(token.as_bytes()).unwrap()
}

/// The next row, by a caller who gives up now and then.
async fn next_of<K, R, I>(scan: &mut Scan<K, R, I>, rng: &mut Rng) -> Result<Option<R>, Error>
where
    K: op_engine::key::Key,
{
    while rng.below(3) == 0 {
        let mut next = pin!(scan.next());
        if let Some(row) = poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Ready(row) => Poll::Ready(Some(row)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            return row;
        }
    }
    scan.next().await
}

/// Everything that can be asked of one query on one state.
async fn answers<Q: Query>(view: View<'_>, content: &Content, rng: &mut Rng) -> Checked {
    let query = Q::random(content, rng);
    let rows = query.rows(content);
    let same =
        |what: &str, got: &[Q::Row], wanted: &[Q::Row]| same(&format!("{what} of {query:?}"), got, wanted);
    ROWS.fetch_add(rows.len() as u64, Ordering::Relaxed);
    let scan = || query.scan(view);
    same("all", &scan().collect().await?, &rows)?;
    let limit = rng.index(rows.len() + 2);
    same("a limit", &scan().limit(limit).collect().await?, &rows[..limit.min(rows.len())])?;

    // One by one, with a token after every row.
    let mut one_by_one = scan();
    for at in 0..=rows.len() {
        let next = next_of(&mut one_by_one, rng).await?;
        assert_eq!(next.as_ref(), rows.get(at), "row {at} of {query:?}");
        if let Some(token) = one_by_one.token() {
            let rest = scan().resume(&returned(&token)).collect().await?;
            same(&format!("after row {at}"), &rest, &rows[(at + 1).min(rows.len())..])?;
        } else {
            assert!(at + 1 >= rows.len(), "a token is missing after row {at} of {query:?}");
        }
    }
    assert_eq!(one_by_one.token(), None, "{query:?}");

    pages(&scan, &rows, rng, &query).await?;
    let count = scan().count().await?;
    assert_eq!(count, rows.len() as u64, "{query:?}");
    assert_eq!(scan().limit(limit).count().await?, count.min(limit as u64));
    let total = |rows: &[Q::Row]| Totals {
        rows: rows.len() as u64,
        sum: rows.iter().map(|row| u128::from(Q::amount(row))).sum(),
    };
    assert_eq!(scan().sum(|row| Q::amount(row)).await?, total(&rows), "{query:?}");
    let limited = scan().limit(limit).sum(|row| Q::amount(row)).await?;
    assert_eq!(limited, total(&rows[..limit.min(rows.len())]));
    Ok(())
}

/// Pages of every size, and pages that end because they have gone through so many entries.
async fn pages<Q: Query>(
    scan: &impl Fn() -> Scan<Q::Key, Q::Row, Q::Index>,
    rows: &[Q::Row],
    rng: &mut Rng,
    query: &Q,
) -> Checked {
    for effort in [None, Some(1 + rng.below(6))] {
        let (mut got, mut token) = (Vec::new(), None::<Token>);
        for number in 0.. {
            assert!(number < 2000, "pages come to an end: {query:?}");
            let size = rng.index(5);
            let mut next = scan();
            if let Some(token) = &token {
                next = next.resume(token);
            }
            if let Some(entries) = effort {
                next = next.effort(entries);
            }
            let page = next.page(size).await?;
            assert!(page.rows.len() <= size);
            got.extend(page.rows);
            match page.token {
                Some(next) => token = Some(returned(&next)),
                None => break,
            }
        }
        same(&format!("pages of {query:?} with {effort:?}"), &got, rows)?;
    }
    Ok(())
}

/// Entries of an index with their records.
async fn joins(view: View<'_>, state: &Content, rng: &mut Rng) -> Checked {
    let query = OwnerQuery::random(state, rng);
    let coin = |id: u64| state.coins.iter().find(|(key, _)| *key == id).unwrap().1;
    let rows: Vec<_> = query.rows(state).into_iter().map(|row| (row, coin(row.1))).collect();
    let scan = || query.scan(view);
    same("joined", &scan().with_records().collect().await?, &rows)?;
    let few: Vec<_> = rows.iter().filter(|(_, coin)| coin.1 % 2 == 1).copied().collect();
    let limit = rng.index(rows.len() + 2);
    let joined = scan().limit(limit).with_records().filter(|_, coin| coin.1 % 2 == 1);
    same("filtered", &joined.collect().await?, &few[..limit.min(few.len())])?;

    let (mut got, mut token) = (Vec::new(), None::<Token>);
    loop {
        let mut next = scan();
        if let Some(token) = &token {
            next = next.resume(token);
        }
        if rng.coin() {
            next = next.effort(1 + rng.below(9));
        }
        let page = next.with_records().filter(|_, coin| coin.1 % 2 == 1).page(3).await?;
        got.extend(page.rows);
        match page.token {
            Some(next) => token = Some(returned(&next)),
            None => break,
        }
    }
    same("joined pages", &got, &few)?;
    Ok(())
}

/// A scan that was interrupted.
struct Interrupted<Q: Query> {
    query: Q,
    token: Token,
    /// How many rows had been taken.
    taken: usize,
    /// The rows of the state that it saw.
    rows: Vec<Q::Row>,
}

async fn interrupt<Q: Query>(
    view: View<'_>,
    content: &Content,
    rng: &mut Rng,
) -> Checked<Option<Interrupted<Q>>> {
    let query = Q::random(content, rng);
    let rows = query.rows(content);
    let taken = rng.index(rows.len() + 1);
    let page = query.scan(view).page(taken).await?;
    let token = page.token.map(|token| returned(&token));
    Ok(token.map(|token| Interrupted { query, token, taken, rows }))
}

impl<Q: Query> Interrupted<Q> {
    fn rest(&self) -> &[Q::Row] {
        &self.rows[self.taken..]
    }
}

fn refused<T: Debug>(result: Result<T, Error>) -> TokenError {
    match result {
        Err(Error::Token { why }) => why,
        other => panic!("{other:?}"),
    }
}

/// What a token is good for once more blocks have come, and some have gone.
async fn go_on_after_changes<Q>(
    engine: &Engine,
    interrupted: &Interrupted<Q>,
    old: &State,
    new: &State,
    position: impl Fn(&Q::Row) -> (Vec<u8>, bool),
) -> Checked
where
    Q: Query,
{
    let Interrupted { query, token, taken, rows } = interrupted;
    let resumed = query.scan(View::Tip(engine)).resume(token).collect().await;
    let tip = old.tip().unwrap();
    let stays = new.at(tip.height).is_some_and(|entry| entry.hash == tip.hash);
    // What the new state has after the last row that was taken.
    let wanted: Vec<_> = match taken.checked_sub(1).map(|last| position(&rows[last])) {
        None => query.rows(&new.content),
        Some((last, descending)) => {
            let follows = |row: &Q::Row| {
                let key = position(row).0;
                if descending { key < last } else { key > last }
            };
            query.rows(&new.content).into_iter().filter(follows).collect()
        }
    };
    if stays {
        RESUMED.fetch_add(1, Ordering::Relaxed);
        same(&format!("resumed {query:?}"), &resumed?, &wanted)?;
    } else {
        REORGANISED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(refused(resumed), TokenError::Reorganised { height: Height(tip.height) }, "{query:?}");
    }
    let anyhow = query.scan(View::Tip(engine)).resume_anyhow(token).collect().await?;
    same(&format!("resumed anyhow {query:?}"), &anyhow, &wanted)?;
    Ok(())
}

fn owner_position(query: &OwnerQuery) -> impl Fn(&IndexRow<ByOwner>) -> (Vec<u8>, bool) {
    use op_engine::key::Key;
    let descending = query.descending;
    move |(key, id, _)| ([key.to_bytes(), id.to_bytes()].concat(), descending)
}

fn slot_position(query: &SlotQuery) -> impl Fn(&Row<States>) -> (Vec<u8>, bool) {
    use op_engine::key::Key;
    let descending = query.descending;
    move |(key, _)| (key.to_bytes(), descending)
}

async fn drive(engine: &Engine, machine: &Machine, script: &Script, setup: &Setup) -> Checked {
    let progress = Progress::default();
    Driver::new(engine, &machine.0, script, &progress, setup).run().await
}

async fn all_answers(view: View<'_>, content: &Content, rng: &mut Rng) -> Checked {
    for _ in 0..3 {
        answers::<OwnerQuery>(view, content, rng).await?;
        joins(view, content, rng).await?;
    }
    answers::<SlotQuery>(view, content, rng).await?;
    answers::<PlainQuery>(view, content, rng).await?;
    answers::<TagQuery>(view, content, rng).await
}

fn recipe(seed: u64, blocks: usize, floor: u64) -> Recipe {
    let reorgs_at = if seed.is_multiple_of(3) { Vec::new() } else { vec![blocks / 2, blocks - 1] };
    let weights = [3, 8, 3, 4, 1, 1];
    Recipe { seed, blocks, reorgs_at, floor, weights, changes_max: 40, big_values: 50, ..Recipe::default() }
}

async fn live(seed: u64, setup: &Setup, machine: &Machine) -> Checked {
    let mut rng = Rng::new(seed);
    let rng = &mut rng;
    let engine = setup.open(&machine.0, false).await?;
    let first = write(&recipe(seed, 14, 0), State::default());
    drive(&engine, machine, &first, setup).await?;
    if rng.coin() {
        engine.flush().await?;
    }
    let old = first.states.last().unwrap().clone();
    let snapshot = engine.snapshot().await?;
    all_answers(View::Tip(&engine), &old.content, rng).await?;
    all_answers(View::Held(&snapshot), &old.content, rng).await?;
    let height = rng.below(old.tip().unwrap().height - engine.horizon().0 + 1) + engine.horizon().0;
    let at_height = old.at(height).unwrap().clone();
    let below = engine.at(Height(height)).await?;
    all_answers(View::Held(&below), &at_height.content, rng).await?;

    let of_tip = interrupt::<OwnerQuery>(View::Tip(&engine), &old.content, rng).await?;
    let of_slots = interrupt::<SlotQuery>(View::Tip(&engine), &old.content, rng).await?;
    let of_snapshot = interrupt::<OwnerQuery>(View::Held(&snapshot), &old.content, rng).await?;
    let of_height = interrupt::<SlotQuery>(View::Held(&below), &at_height.content, rng).await?;
    let of_wallet = engine.scan::<Wallet>().page(1).await?.token;

    let second = write(&recipe(seed ^ 0xABCD, 6, engine.horizon().0), old.clone());
    drive(&engine, machine, &second, setup).await?;
    let new = second.states.last().unwrap();

    if let Some(interrupted) = &of_tip {
        let position = owner_position(&interrupted.query);
        go_on_after_changes(&engine, interrupted, &old, new, position).await?;
    }
    if let Some(interrupted) = &of_slots {
        let position = slot_position(&interrupted.query);
        go_on_after_changes(&engine, interrupted, &old, new, position).await?;
    }
    if let Some(interrupted) = &of_snapshot {
        let (query, token) = (&interrupted.query, &interrupted.token);
        let rest = query.scan(View::Held(&snapshot)).resume(token).collect().await?;
        same("on the snapshot", &rest, interrupted.rest())?;
        let position = owner_position(query);
        go_on_after_changes(&engine, interrupted, &old, new, position).await?;
        let other = engine.snapshot().await?;
        let why = refused(query.scan(View::Held(&other)).resume(token).collect().await);
        assert_eq!(why, TokenError::OtherState { scanned: snapshot.seq(), shown: other.seq() });
    }
    if let Some(interrupted) = &of_height
        && new.at(height).is_some_and(|entry| entry.hash == at_height.hash)
    {
        let again = engine.at(Height(height)).await?;
        let rest = interrupted.query.scan(View::Held(&again)).resume(&interrupted.token).collect().await?;
        same("at the same height", &rest, interrupted.rest())?;
    }
    if let Some(token) = of_wallet {
        let first = old.content.wallet[0].0;
        let wanted: Vec<_> = new.content.wallet.iter().filter(|(key, _)| *key > first).cloned().collect();
        let rest = engine.scan::<Wallet>().resume(&token).collect().await?;
        same("no reorg changes what is global", &rest, &wanted)?;
    }
    drop((snapshot, below));
    all_answers(View::Tip(&engine), &new.content, rng).await?;
    Ok(engine.close().await?)
}

#[test]
fn scans_give_what_a_sorted_list_gives() {
    on_two_threads(|thread| {
        for seed in (thread..SEEDS).step_by(2) {
            let setup = Setup::small([1, 2, 3, 5][(seed / 2 % 4) as usize]);
            let machine = Machine::new(setup.options(seed), SimDisk::new());
            let done = machine.finish(live(seed, &setup, &machine));
            done.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        }
    });
    let seen = [&ROWS, &RESUMED, &REORGANISED].map(|count| count.load(Ordering::Relaxed));
    println!("rows, scans that went on, scans that a reorg ended: {seen:?}");
    assert!(seen[0] > 50 * SEEDS && seen[1] > SEEDS / 10 && seen[2] > SEEDS / 10, "{seen:?}");
}

/// A store of some blocks.
fn on_a_store(shards: u16, body: impl AsyncFnOnce(Engine, Script) -> Checked) {
    let setup = Setup::small(shards);
    let script = write(&Recipe { seed: 4, blocks: 30, ..Recipe::default() }, State::default());
    let machine = Machine::new(setup.options(4), SimDisk::new());
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        drive(&engine, &machine, &script, &setup).await?;
        body(engine, script).await
    });
    done.unwrap();
}

#[test]
fn tokens_of_other_queries_and_damaged_ones_are_refused() {
    on_a_store(2, async |engine, script| {
        let content = &script.states.last().unwrap().content;
        let token = engine.scan_index::<ByOwner>().prefix(&(1,)).page(1).await?.token.unwrap();
        let of_owner = |owner: u32| engine.scan_index::<ByOwner>().prefix(&(owner,));
        let rest = of_owner(1).filter(|_| true).limit(1000).resume(&token).collect().await?;
        assert_eq!(rest.len() + 1, content.by_owner.iter().filter(|((owner, _), ..)| *owner == 1).count());

        assert_eq!(refused(of_owner(2).resume(&token).collect().await), TokenError::OtherQuery);
        assert_eq!(refused(of_owner(1).descending().resume(&token).next().await), TokenError::OtherQuery);
        assert_eq!(
            refused(of_owner(1).descending().resume_anyhow(&token).next().await),
            TokenError::OtherQuery
        );
        let all = engine.scan_index::<ByOwner>().resume(&token).count().await;
        assert_eq!(refused(all), TokenError::OtherQuery);
        let coins = engine.scan::<Coins>().resume(&token);
        assert_eq!(refused(coins.page(1).await), TokenError::OtherCollection);
        let joined = of_owner(2).resume(&token).with_records().page(1).await;
        assert_eq!(refused(joined), TokenError::OtherQuery);

        for at in 0..token.as_bytes().len() {
            let mut bytes = token.as_bytes().to_vec();
            bytes[at] ^= 0x10;
            let used = match Token::from_bytes(&bytes) {
                Ok(damaged) => of_owner(1).resume_anyhow(&damaged).collect().await,
                Err(error) => Err(error),
            };
            let why = refused(used);
            let version = matches!(why, TokenError::UnknownVersion { .. });
            assert!(version && at == 0 || why == TokenError::Damaged, "byte {at}: {why:?}");
        }
        assert!(matches!(refused("11".repeat(9000).parse::<Token>()), TokenError::TooLong { .. }));
        assert_eq!(refused("no digits".parse::<Token>()), TokenError::Damaged);
        Ok(engine.close().await?)
    });
}

#[test]
fn a_filter_that_panics_ends_its_scan_only() {
    on_a_store(2, async |engine, script| {
        let coins = script.states.last().unwrap().content.coins.len();
        let panics = |_: &Row<Coins>| -> bool { panic!("of no use") };
        let wanted = Error::FilterPanicked { message: "of no use".to_owned() };
        assert_eq!(engine.scan::<Coins>().filter(panics).collect().await.unwrap_err(), wanted);
        assert_eq!(engine.scan::<Coins>().filter(panics).count().await.unwrap_err(), wanted);
        let panics = |_: &Row<Coins>| -> u64 { panic!("of no use") };
        assert_eq!(engine.scan::<Coins>().sum(panics).await.unwrap_err(), wanted);
        assert_eq!(engine.scan::<Coins>().count().await?, coins as u64);
        Ok(engine.close().await?)
    });
}

/// A chain of blocks that change coins, outside of any script.
struct Chain<'a> {
    engine: &'a Engine,
    height: u64,
    hash: BlockHash,
    blocks: u8,
}

impl Chain<'_> {
    async fn commit(&mut self, coins: impl IntoIterator<Item = (u64, Option<(u64, u32)>)>) -> Checked {
        self.blocks += 1;
        let hash = BlockHash([self.blocks; 32]);
        let mut block = Block::new(Height(self.height + 1), hash, self.hash);
        for (id, coin) in coins {
            match coin {
                Some(coin) => block.put::<Coins>(&id, &coin),
                None => block.delete::<Coins>(&id),
            };
        }
        self.engine.commit(block).await?;
        (self.height, self.hash) = (self.height + 1, hash);
        Ok(())
    }

    async fn go_back(&mut self) -> Checked {
        let back = self.engine.block_at(Height(self.height - 1)).unwrap();
        self.engine.reorg_to(back.height).await?;
        (self.height, self.hash) = (back.height.0, back.hash);
        Ok(())
    }
}

/// Of several pages from each shard, the next one asked for ahead.
#[test]
fn a_long_scan_shows_one_state_while_blocks_come_and_go() {
    const COINS: u64 = 6000;
    for shards in [1, 3] {
        let setup = Setup::small(shards);
        let machine = Machine::new(setup.options(7), SimDisk::new());
        let done = machine.finish(async {
            let engine = setup.open(&machine.0, false).await?;
            let mut chain = Chain { engine: &engine, height: 0, hash: BlockHash([0; 32]), blocks: 0 };
            let coin = |id: u64| (id * 7 % 101, (id % 3) as u32);
            chain.commit((0..COINS).map(|id| (id, Some(coin(id))))).await?;
            chain.commit([]).await?;
            engine.flush().await?;
            let whole: Vec<_> = (0..COINS).map(|id| (id, coin(id))).collect();
            for variant in 0..4 {
                let scan = || match variant {
                    0 => engine.scan::<Coins>(),
                    1 => engine.scan::<Coins>().descending(),
                    2 => engine.scan::<Coins>().filter(|(id, _)| id % 7 < 3),
                    _ => engine.scan::<Coins>().range(Bound::Excluded(&700), Bound::Included(&5300)),
                };
                let passes = |(id, _): &&(u64, (u64, u32))| match variant {
                    2 => id % 7 < 3,
                    3 => (701..=5300).contains(id),
                    _ => true,
                };
                let wanted = in_order(whole.iter().filter(passes).copied().collect(), variant == 1);
                let (mut rows, mut got) = (scan(), Vec::new());
                while let Some(row) = rows.next().await? {
                    got.push(row);
                    match got.len() % 1000 {
                        100 => chain.commit((0..COINS).step_by(11).map(|id| (id, None))).await?,
                        400 => chain.commit((0..COINS).step_by(5).map(|id| (id, Some((1, 1))))).await?,
                        600 | 800 => chain.go_back().await?,
                        _ => {}
                    }
                }
                same(&format!("scan {variant}"), &got, &wanted)?;
                while chain.height > 2 {
                    chain.go_back().await?;
                }
                let page = scan().page(wanted.len() / 2).await?;
                let rest = scan().resume(&page.token.unwrap()).collect().await?;
                same("the rest", &[page.rows, rest].concat(), &wanted)?;
                assert_eq!(scan().count().await?, wanted.len() as u64);
            }
            let of_owner = engine.scan_index::<ByOwner>().prefix(&(1,)).with_records().collect().await?;
            assert!(of_owner.iter().all(|((_, id, _), record)| *record == coin(*id)));
            assert_eq!(of_owner.len() as u64, COINS / 3);
            Ok(engine.close().await?)
        });
        done.unwrap();
    }
}

#[test]
fn an_effort_bounds_what_a_shard_goes_through() {
    on_a_store(3, async |engine, script| {
        let coins = script.states.last().unwrap().content.coins.len() as u64;
        let (mut token, mut pages) = (None::<Token>, 0);
        loop {
            let mut scan = engine.scan::<Coins>().filter(|_| false).effort(9);
            if let Some(token) = &token {
                scan = scan.resume(token);
            }
            let page = scan.page(10).await?;
            assert_eq!(page.rows, []);
            pages += 1;
            token = page.token;
            if token.is_none() {
                break;
            }
        }
        assert!(pages >= coins / 9, "{pages} pages for {coins} coins");
        Ok(engine.close().await?)
    });
}
