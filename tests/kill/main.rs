//! A process that writes is killed again and again, and after each time the store holds what was acknowledged: all of
//! it, in one piece, and nothing that was never submitted.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod child;
mod model;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use op_engine::{Desc, Engine, Error, Height, Index, IndexRow, Row, Scan};
use tempfile::TempDir;

use child::{COUNTS, Child, Counts, Report, Task, config, counts};
use model::{ChainState, Model, Rng};
use schema::{ByOwner, BySerial, Coins, Pool, Slots, Wallet};

const SEED: u64 = 0x0b17_c014;
const ROUNDS: u64 = 200;
/// The first rounds kill while the store is being created.
const ROUNDS_OF_CREATION: u64 = 8;
/// Longer than any step takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory on a disk, which stays if the test fails.
struct Place(Option<TempDir>);

impl Place {
    fn new() -> Self {
        Self(Some(TempDir::with_prefix_in("kill-", env!("CARGO_TARGET_TMPDIR")).unwrap()))
    }

    fn store(&self) -> PathBuf {
        self.0.as_ref().unwrap().path().join("store")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take()
            && std::thread::panicking()
        {
            eprintln!("the store is kept in {}", dir.keep().display());
        }
    }
}

/// Runs a test on a thread of its own and fails if it makes no progress for longer than any step takes.
fn bounded(test: impl FnOnce(&dyn Fn()) + Send + 'static) {
    let (sender, progress) = channel();
    let thread = std::thread::spawn(move || {
        test(&|| {
            let _ = sender.send(());
        })
    });
    loop {
        match progress.recv_timeout(2 * PATIENCE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("no progress within {:?}", 2 * PATIENCE),
        }
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Does nothing in the process that runs the tests: the others are made of it.
#[test]
fn child_process() {
    child::run();
}

/// What a round has heard of its child.
#[derive(Debug, Default)]
struct Heard {
    open: bool,
    submitted: u64,
    acknowledged: u64,
    durable: u64,
    counts: Counts,
}

impl Heard {
    fn take(&mut self, report: Report) {
        match report {
            Report::Open => self.open = true,
            Report::Submitted(number) => self.submitted = self.submitted.max(number),
            Report::Acknowledged(number) => self.acknowledged = self.acknowledged.max(number),
            Report::Durable(number) => self.durable = self.durable.max(number),
            Report::Counted(counts) => self.counts = counts,
        }
    }
}

/// How a round goes.
struct Round {
    deferred: bool,
    during_open: bool,
    /// After the first acknowledgement, or after the start.
    delay: Duration,
    /// The store is checked without a change, so that the next child finds it as the killed one left it.
    read_only: bool,
}

impl Round {
    fn new(number: u64) -> Self {
        let mut rng = Rng::new(!SEED, number);
        let during_open = number < ROUNDS_OF_CREATION || rng.below(6) == 0;
        let delay = Duration::from_micros(1000 + rng.below(59_000));
        Self { deferred: rng.below(5) == 0, during_open, delay, read_only: rng.below(3) > 0 }
    }
}

#[test]
fn nothing_acknowledged_is_lost_however_often_a_writer_is_killed() {
    bounded(|progress| {
        let place = Place::new();
        let mut model = Model::new(SEED);
        let (mut acknowledged, mut unacknowledged) = (0, 0);
        let (mut of_children, mut of_checks) = (Counts::default(), Counts::default());
        for number in 0..ROUNDS {
            progress();
            let round = Round::new(number);
            let heard = write_and_kill(&place.store(), &model, &round);
            let counts = check(&place.store(), &mut model, &heard, &round)
                .unwrap_or_else(|error| panic!("round {number}: {error}; {heard:?}"));
            acknowledged += u64::from(heard.acknowledged > 0);
            unacknowledged += u64::from(model.number > heard.acknowledged && heard.acknowledged > 0);
            of_children.iter_mut().zip(heard.counts).for_each(|(sum, count)| *sum += count);
            of_checks.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        println!("{} operations; {unacknowledged} rounds ended beyond the acknowledged", model.number);
        assert!(acknowledged > ROUNDS / 2, "most children write before they are killed: {acknowledged}");
        assert!(model.number > ROUNDS * 4, "children get somewhere: {}", model.number);
        println!("{COUNTS:?}: children did {of_children:?}, and those that checked {of_checks:?}");
        for (name, count) in COUNTS.iter().zip(of_children) {
            assert!(count > 0, "no {name} before a kill: {of_children:?}");
        }
    });
}

/// Lets a child write and kills it; returns while the kernel may still be at work for it.
fn write_and_kill(store: &Path, model: &Model, round: &Round) -> Heard {
    let task =
        Task { store, seed: SEED, number: model.number, chain: &model.chain, deferred: round.deferred };
    let mut heard = Heard { submitted: model.number, durable: model.number, ..Heard::default() };
    let started = Instant::now();
    let mut child = Child::writer(&task);
    let mut from = started;
    if !round.during_open {
        while heard.acknowledged == 0 {
            let report = child.report(PATIENCE).expect("a child opens the store and writes");
            heard.take(report);
        }
        from = Instant::now();
    }
    child.watch_until(from + round.delay, |report| heard.take(report));
    child.kill();
    child.last_words(|report| heard.take(report));
    heard
}

/// Compares the store with the model, which it takes to where the store is. Returns what the engine did meanwhile.
fn check(store: &Path, model: &mut Model, heard: &Heard, round: &Round) -> Result<Counts, Error> {
    let opened = Engine::open_blocking(config(store).read_only(round.read_only));
    let engine = match opened {
        Ok(engine) => engine,
        // Killed while it was created.
        Err(Error::NoStore { .. } | Error::UnknownCollection { .. }) if !heard.open && model.number == 0 => {
            return Ok(Counts::default());
        }
        Err(error) => return Err(error),
    };
    match engine.blocking().get::<Wallet>(&0)? {
        Some(journal) => model.advance_to(journal, engine.tip().expect("a journal has a tip").hash),
        None => assert_eq!(model.number, 0, "the store has lost everything"),
    }
    // Deferred commits that were acknowledged may go, with all that came after them.
    let kept = if round.deferred { heard.durable } else { heard.acknowledged.max(heard.durable) };
    assert!(kept <= model.number, "operation {} is lost: the store ends at {}", kept, model.number);
    assert!(model.number <= heard.submitted, "operation {} was never submitted", model.number);
    if model.number > 0 {
        compare(&engine, model);
    }
    let counts = counts(&engine)?;
    engine.close_blocking()?;
    Ok(counts)
}

fn compare(engine: &Engine, model: &Model) {
    let tip = engine.tip().expect("the store has blocks");
    assert_eq!(Some(tip.height.0), model.chain.tip().map(|(height, _)| height));
    compare_chain(
        &model.state,
        engine.scan::<Coins>(),
        engine.scan::<Slots>(),
        engine.scan_index::<ByOwner>(),
        engine.scan_index::<BySerial>(),
    );
    same(
        "pool",
        engine.scan::<Pool>().collect_blocking().unwrap(),
        &model.pool.iter().map(pair).collect::<Vec<_>>(),
    );
    same(
        "wallet",
        engine.scan::<Wallet>().collect_blocking().unwrap(),
        &model.wallet.iter().map(pair).collect::<Vec<_>>(),
    );
    let heights = model.heights();
    let mut rng = Rng::new(SEED, !model.number);
    let height = heights.start() + rng.below(heights.end() - heights.start() + 1);
    let old = engine.blocking().at(Height(height)).unwrap();
    compare_chain(
        &model.at(height),
        old.scan::<Coins>(),
        old.scan::<Slots>(),
        old.scan_index::<ByOwner>(),
        old.scan_index::<BySerial>(),
    );
    let keys: Vec<u64> = (0..200).map(|_| rng.below(3000)).collect();
    let wanted: Vec<_> = keys.iter().map(|key| model.state.coins.get(key).cloned()).collect();
    same("coins by key", engine.blocking().get_many::<Coins>(&keys).unwrap(), &wanted);
}

type IndexScan<I> = Scan<<I as Index>::Key, IndexRow<I>, I>;

fn compare_chain(
    wanted: &ChainState,
    coins: Scan<u64, Row<Coins>>,
    slots: Scan<(u32, u32), Row<Slots>>,
    by_owner: IndexScan<ByOwner>,
    by_serial: IndexScan<BySerial>,
) {
    same("coins", coins.collect_blocking().unwrap(), &wanted.coins.iter().map(pair).collect::<Vec<_>>());
    same("slots", slots.collect_blocking().unwrap(), &wanted.slots.iter().map(pair).collect::<Vec<_>>());
    let coins = || wanted.coins.iter();
    let mut owned: Vec<_> =
        coins().map(|(key, coin)| ((coin.1, Desc(coin.0)), *key, coin.0 ^ u64::from(coin.1))).collect();
    owned.sort_unstable_by_key(|(index, key, _)| (index.0, std::cmp::Reverse(index.1.0), *key));
    same("coins by owner", by_owner.collect_blocking().unwrap(), &owned);
    let numbered = coins().filter(|(_, coin)| !coin.0.is_multiple_of(3));
    let mut numbered: Vec<_> = numbered.map(|(key, coin)| (coin.0, *key, ())).collect();
    numbered.sort_unstable();
    same("coins by serial number", by_serial.collect_blocking().unwrap(), &numbered);
}

fn pair<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

/// Two lists are equal; if not, tells where they part rather than all of both.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: Vec<T>, wanted: &[T]) {
    let apart = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
    if let Some(at) = apart {
        panic!("{what}: row {at} is {:?}, not {:?}", found[at], wanted[at]);
    }
    assert_eq!(found.len(), wanted.len(), "{what}: the number of rows");
}

fn is_locked<T>(opened: &Result<T, Error>) -> bool {
    matches!(opened, Err(Error::Storage(op_engine_shards::Error::Io(op_engine_io::Error::Locked { .. }))))
}

#[test]
fn two_processes_cannot_own_one_store() {
    bounded(|progress| {
        let place = Place::new();
        let store = place.store();
        let mut holder = Child::holder(&store);
        assert_eq!(holder.report(PATIENCE), Some(Report::Open));
        for read_only in [false, true] {
            progress();
            let wait = Duration::from_millis(300);
            let started = Instant::now();
            let opened = Engine::open_blocking(config(&store).lock_wait(wait).read_only(read_only));
            let waited = started.elapsed();
            assert!(is_locked(&opened), "{:?}", opened.err());
            assert!(waited >= wait && waited < wait + PATIENCE / 2, "{waited:?}");
        }
        // One that waits gets the store as soon as the other is killed.
        let waiting = {
            let store = store.clone();
            std::thread::spawn(move || Engine::open_blocking(config(&store).lock_wait(PATIENCE)).map(drop))
        };
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the store is still owned by the other process");
        holder.kill();
        waiting.join().unwrap().unwrap();
        holder.last_words(|_| ());
    });
}

#[test]
fn a_store_is_free_in_the_instant_after_its_writer_was_killed() {
    bounded(|progress| {
        let place = Place::new();
        let store = place.store();
        let mut model = Model::new(SEED);
        for number in 0..25 {
            progress();
            let task = Task {
                store: &store,
                seed: SEED,
                number: model.number,
                chain: &model.chain,
                deferred: false,
            };
            let mut heard = Heard { submitted: model.number, durable: model.number, ..Heard::default() };
            let mut child = Child::writer(&task);
            while heard.acknowledged < model.number + 10 + number {
                heard.take(child.report(PATIENCE).expect("a child opens the store and writes"));
            }
            child.kill();
            // Not even its exit is awaited.
            let engine = Engine::open_blocking(config(&store).lock_wait(Duration::from_secs(5))).unwrap();
            child.last_words(|report| heard.take(report));
            let journal = engine.blocking().get::<Wallet>(&0).unwrap().expect("a journal");
            model.advance_to(journal, engine.tip().expect("a tip").hash);
            assert!(heard.acknowledged <= model.number, "{heard:?}: the store ends at {}", model.number);
            assert!(model.number <= heard.submitted, "{heard:?}: the store ends at {}", model.number);
            compare(&engine, &model);
            engine.close_blocking().unwrap();
        }
    });
}
