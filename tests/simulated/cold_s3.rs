//! The engine with its old data in an object store, on a server that speaks S3 and a network that fails.

#[path = "../../io/tests/support/s3.rs"]
#[allow(dead_code, reason = "another test program uses the rest")]
mod s3;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use op_engine::chain::collections::{StoredTransaction, Transactions};
use op_engine::chain::queries::block_transactions;
use op_engine::{
    Block, BlockHash, ColdLimits, ColdTarget, Collection, Config, Engine, Error, Height, Layout, TierPolicy,
};
use op_engine_io::sim::Rng;
use op_engine_io::{ColdFault, Dir, Error as IoError, FileKind, FileName, block_on};
use op_engine_shards::Error as StorageError;
use op_engine_shards::cold_mark::MARK_NAME;

use crate::chain_model::{Life, WINDOW, check_with_cold_target};
use crate::chain_support::folder;
use crate::support::check::Trouble as Wrong;
use s3::{BUCKET, S3, SECRET, Trouble, in_own_process};

const LIMIT: Duration = Duration::from_secs(400);
const LIMITS: ColdLimits =
    ColdLimits { concurrency: 8, read: Duration::from_secs(3), change: Duration::from_secs(6) };
const PREFIX: &str = "node-1";

fn with_target(config: Config) -> Config {
    let target = ColdTarget::parse(&format!("s3://{BUCKET}/{PREFIX}")).unwrap();
    config.cold(target).cold_limits(LIMITS)
}

/// The objects of a bucket, which outlive the server.
struct Bucket(BTreeMap<String, Vec<u8>>);

impl Bucket {
    fn of(s3: &S3) -> Self {
        let get = |name: String| {
            let (head, body) = s3.ask("GET", &format!("/{BUCKET}/{name}"), b"");
            assert!(head.contains(" 200"), "{name}: {head}");
            (name, body)
        };
        Self(s3.names().into_iter().map(get).collect())
    }

    fn start_server(&self, s3: &S3) {
        s3.start_server();
        for (name, bytes) in &self.0 {
            let (head, _) = s3.ask("PUT", &format!("/{BUCKET}/{name}"), bytes);
            assert!(head.contains(" 200"), "{name}: {head}");
        }
    }
}

/// The typed error of a request to the target that failed. It names a remedy, and no secret.
fn cold_fault(error: &Error) -> ColdFault {
    let told = format!("{error} {error:?}");
    assert!(told.contains("Remedy") && told.contains("s3://attic/node-1"), "{told}");
    assert!(!told.contains(SECRET) && !told.contains("AKIA"), "a secret is told");
    match error {
        Error::Storage(StorageError::Io(IoError::Cold { fault, .. })) => *fault,
        other => panic!("not an error of the cold target: {other:?}"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A chain, and what becomes of reads and commits while the server of its old blocks is in trouble.
struct Trial<'a> {
    s3: &'a S3,
    engine: &'a Engine,
    life: &'a mut Life,
    /// What was in the target when the trial began.
    old: Vec<((u64, u32), StoredTransaction)>,
}

impl<'a> Trial<'a> {
    async fn new(s3: &'a S3, engine: &'a Engine, life: &'a mut Life) -> Self {
        let old = Self::transactions(engine, |confirmations| confirmations >= WINDOW).await;
        Self { s3, engine, life, old }
    }

    async fn transactions(
        engine: &Engine,
        are_meant: impl Fn(u64) -> bool,
    ) -> Vec<((u64, u32), StoredTransaction)> {
        let tip = engine.tip().unwrap().height.0;
        let mut found = engine.scan::<Transactions>().collect().await.unwrap();
        found.retain(|(key, _)| are_meant(tip - key.0));
        assert!(found.len() > 20, "only {} transactions", found.len());
        found
    }

    /// What is old fails in one of these ways, and nothing else does, while the trouble lasts; nothing does once it is over.
    async fn check(
        &mut self,
        what: &str,
        faults: &[ColdFault],
        begin: impl FnOnce(&S3),
        end: impl FnOnce(&S3),
    ) {
        let reads_failed = self.reads_failed().await;
        // Blocks grow old, and are moved, while the trial goes on.
        let young = Self::transactions(self.engine, |confirmations| confirmations < WINDOW).await;
        begin(self.s3);
        let few: Vec<_> = self.old.iter().step_by(self.old.len() / 6).collect();
        let reads = few.iter().map(|(key, _)| self.engine.get::<Transactions>(key));
        for failed in join_all(reads).await {
            let error = failed.map(|found| panic!("{what}: {found:?} was read")).unwrap_err();
            assert!(faults.contains(&cold_fault(&error)), "{what}: {error}");
        }
        let error = block_transactions(self.engine, self.old[0].0.0).await.unwrap_err();
        assert!(faults.contains(&cold_fault(&error)), "{what}: {error}");
        for (key, transaction) in &young {
            let found = self.engine.get::<Transactions>(key).await.unwrap();
            assert_eq!(found.as_ref(), Some(transaction), "{what}: {key:?}");
        }
        let mut committed = 0;
        for _ in 0..6 {
            match self.life.grow(self.engine, 1).await {
                Ok(()) => committed += 1,
                // The block changes a witness of an old one, and the index must know what that was.
                Err(Wrong::Engine(error)) => assert!(faults.contains(&cold_fault(&error)), "{what}: {error}"),
                Err(why) => panic!("{what}: {why:?}"),
            }
        }
        assert!(committed > 0, "{what}: no block was committed");
        assert!(self.reads_failed().await > reads_failed, "{what}");
        end(self.s3);
        self.life.look_now(self.engine).await.unwrap_or_else(|why| panic!("after {what}: {why:?}"));
        for (key, transaction) in few {
            let found = self.engine.get::<Transactions>(key).await.unwrap();
            assert_eq!(found.as_ref(), Some(transaction), "after {what}: {key:?}");
        }
    }

    async fn reads_failed(&self) -> u64 {
        let stats = self.engine.stats().await.unwrap();
        assert!(stats.failure.is_none());
        stats.shards.iter().map(|shard| shard.tiering.reads_failed).sum()
    }
}

#[test]
fn every_query_agrees_with_the_model_when_old_data_is_in_an_object_store() {
    let test = "cold_s3::every_query_agrees_with_the_model_when_old_data_is_in_an_object_store";
    in_own_process(test, LIMIT, |s3| {
        let folder = folder("cold_s3");
        let meanwhile = async |engine: &Engine, life: &mut Life| {
            let mut trial = Trial::new(s3, engine, life).await;
            let gone = [ColdFault::Unreachable, ColdFault::TimedOut];
            let bucket = Bucket::of(s3);
            trial.check("a server that died", &gone, S3::stop_server, |s3| bucket.start_server(s3)).await;
            let cut = [ColdFault::Short, ColdFault::Unreachable, ColdFault::TimedOut];
            let troubles: [(_, &[ColdFault]); 6] = [
                (Trouble::Refuse, &gone),
                (Trouble::Status(500), &gone),
                (Trouble::Status(503), &gone),
                (Trouble::Cut, &cut),
                (Trouble::Stall, &gone),
                (Trouble::StallBody, &cut),
            ];
            for (trouble, faults) in troubles {
                let what = format!("{trouble:?}");
                trial.check(&what, faults, |s3| s3.set(trouble), |s3| s3.set(Trouble::None)).await;
            }
        };
        block_on(check_with_cold_target(&folder.path().join("store"), with_target, meanwhile));
    });
}

const BLOCKS: u64 = 24;
const A_BLOCK: u32 = 16;

/// Values that are moved in an object of several parts.
struct Bodies;

impl Collection for Bodies {
    const NAME: &'static str = "bodies";
    type Key = (u64, u32);
    type Value = Vec<u8>;
    const LAYOUT: Layout = Layout::AppendOnly;
    const PARTITION: usize = 1;
    const TIER: TierPolicy = TierPolicy::after_confirmations(0);
}

fn body(height: u64, nth: u32) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    Rng::new(height << 32 | u64::from(nth)).fill(&mut bytes);
    bytes
}

fn hash(height: u64) -> BlockHash {
    BlockHash([height as u8; 32])
}

fn commit(engine: &Engine, height: u64) {
    let mut block = Block::new(Height(height), hash(height), hash(height - 1));
    for nth in 0..A_BLOCK {
        block.put::<Bodies>(&(height, nth), &body(height, nth));
    }
    engine.blocking().commit(block).unwrap();
}

fn open(folder: &tempfile::TempDir) -> Engine {
    let config = Config::new(folder.path().join("store")).collection::<Bodies>().reorg_window(1).shards(1);
    let config = config.memory_budget(256 << 20).arena(8 << 20).calibrate(false).cold_rate(0);
    Engine::open_blocking(with_target(config)).unwrap()
}

fn move_all(engine: &Engine) -> Result<u64, Error> {
    block_on(engine.move_to_cold(true)).map(|report| report.segments)
}

/// Every body is what it was.
fn check_bodies(engine: &Engine, what: &str) {
    for height in 1..=engine.tip().unwrap().height.0 {
        for nth in 0..A_BLOCK {
            let found = engine.blocking().get::<Bodies>(&(height, nth)).unwrap();
            assert!(found == Some(body(height, nth)), "{what}: {height}, {nth}");
        }
    }
}

/// The bucket comes to hold the objects of the store's cold segments and its mark, and nothing else.
fn check_bucket(s3: &S3, engine: &Engine, what: &str) -> usize {
    let stats = engine.blocking().stats().unwrap();
    let mut wanted = vec![format!("{PREFIX}/{}", MARK_NAME.leaf())];
    for segment in stats.shards[0].segments.iter().filter(|segment| segment.tier.is_cold()) {
        let name = FileName { dir: Dir::Shard(0), kind: FileKind::Cold, number: segment.number };
        wanted.push(format!("{PREFIX}/{name}"));
    }
    wanted.sort();
    let mut found = Vec::new();
    let began = Instant::now();
    while found != wanted || s3.unfinished_uploads() > 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: {found:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
        found = s3.names();
        found.sort();
    }
    wanted.len() - 1
}

/// A move that fails leaves everything as it was; one after it succeeds.
struct Moves<'a> {
    s3: &'a S3,
    engine: &'a Engine,
}

impl Moves<'_> {
    fn check(&self, what: &str, begin: impl FnOnce(&S3), end: impl FnOnce(&S3)) {
        let (s3, engine) = (self.s3, self.engine);
        begin(s3);
        let error = move_all(engine).map(|moved| panic!("{what}: {moved} were moved")).unwrap_err();
        assert_ne!(cold_fault(&error), ColdFault::Full, "{what}: {error}");
        check_bodies(engine, what);
        end(s3);
        assert!(move_all(engine).unwrap() > 0, "{what}");
        assert!(check_bucket(s3, engine, what) > 0);
        check_bodies(engine, what);
        assert!(block_on(engine.warm_up(Height(0), Height(BLOCKS))).unwrap().segments > 0, "{what}");
        assert_eq!(check_bucket(s3, engine, what), 0, "{what}");
        assert!(engine.blocking().stats().unwrap().failure.is_none(), "{what}");
    }
}

#[test]
fn a_move_that_fails_in_the_middle_leaves_everything_where_it_is_and_succeeds_later() {
    let test = "cold_s3::a_move_that_fails_in_the_middle_leaves_everything_where_it_is_and_succeeds_later";
    in_own_process(test, LIMIT, |s3| {
        let folder = folder("cold_s3_moves");
        let engine = open(&folder);
        (1..=BLOCKS).for_each(|height| commit(&engine, height));
        let moves = Moves { s3, engine: &engine };
        let heal = |s3: &S3| s3.set(Trouble::None);
        let at_part = [Trouble::Status(503), Trouble::Lose, Trouble::Stall];
        for trouble in at_part {
            let begin = |s3: &S3| s3.set_for(trouble, usize::MAX, "partNumber=2");
            moves.check(&format!("a part that meets {trouble:?}"), begin, heal);
        }
        // The object is there then, and the store does not know.
        let lose = |s3: &S3| s3.set_for(Trouble::Lose, usize::MAX, ".cold?uploadId=");
        moves.check("an answer that is lost", lose, heal);
        for trouble in [Trouble::Cut, Trouble::Status(500)] {
            let begin = |s3: &S3| s3.set_for(trouble, usize::MAX, "GET /attic/node-1/shard");
            moves.check(&format!("reading back that meets {trouble:?}"), begin, heal);
        }
        let bucket = Bucket::of(s3);
        let killed = |s3: &S3| s3.set(Trouble::None);
        std::thread::scope(|scope| {
            let seen = parts(s3);
            scope.spawn(move || {
                wait_until("the second part is sent", || parts(s3) > seen);
                s3.stop_server();
            });
            moves.check("a server that died", killed, |s3| bucket.start_server(s3));
        });
        assert!(move_all(&engine).unwrap() > 0);
        engine.close_blocking().unwrap();
        let engine = open(&folder);
        check_bodies(&engine, "opened again");
        assert!(check_bucket(s3, &engine, "opened again") > 0);
        engine.close_blocking().unwrap();
    });
}

/// How many second parts of uploads were sent.
fn parts(s3: &S3) -> usize {
    s3.requests().iter().filter(|line| line.contains("partNumber=2")).count()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn wrong_credentials_are_a_typed_error_that_names_the_remedy_and_no_secret() {
    let test = "cold_s3::wrong_credentials_are_a_typed_error_that_names_the_remedy_and_no_secret";
    in_own_process(test, LIMIT, |s3| {
        let (log, folder) = (Log::default(), folder("cold_s3_denied"));
        let written = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || log.clone())
            .init();
        s3.set(Trouble::Tell);
        let engine = open(&folder);
        for height in 1..=3 {
            commit(&engine, height);
        }
        let error = move_all(&engine).unwrap_err();
        assert_eq!(cold_fault(&error), ColdFault::Denied, "{error}");
        assert!(error.to_string().contains("credentials"), "{error}");
        check_bodies(&engine, "without access");
        s3.set(Trouble::None);
        assert!(move_all(&engine).unwrap() > 0);

        s3.set(Trouble::Tell);
        let error = engine.blocking().get::<Bodies>(&(1, 0)).unwrap_err();
        assert_eq!(cold_fault(&error), ColdFault::Denied, "{error}");
        let error = block_on(engine.warm_up(Height(0), Height(BLOCKS))).unwrap_err();
        assert_eq!(cold_fault(&error), ColdFault::Denied, "{error}");
        let stats = engine.blocking().stats().unwrap();
        let told = format!("{stats:?} {:?}", engine.cold_target());
        assert!(told.contains("credentials") && !told.contains(SECRET), "{told}");
        s3.set(Trouble::None);
        check_bodies(&engine, "with access");
        engine.close_blocking().unwrap();

        s3.set(Trouble::Tell);
        let engine = open(&folder);
        commit(&engine, 4);
        engine.close_blocking().unwrap();
        let log = String::from_utf8_lossy(&written.0.lock().unwrap()).into_owned();
        assert!(log.contains("cold target"), "{log}");
        assert!(!log.contains(SECRET) && !log.contains("hunter2"), "a secret is in the log");
    });
}
