//! An object store as a cold target, against a server that speaks S3 and a network that fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the helpers of tests fail like tests"
)]

#[path = "support/s3.rs"]
mod s3;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use op_engine_io::real::{RealEnv, RealSettings, RealWorld};
use op_engine_io::{
    ColdFault, ColdLimits, ColdStore, ColdTarget, ColdUpload, Dir, Env, Error, FileKind, FileName, Place,
    RealCold, Result, World, block_on,
};
use s3::{BUCKET, S3, SECRET, Trouble, in_own_process};

const LIMIT: Duration = Duration::from_secs(120);
const LIMITS: ColdLimits =
    ColdLimits { concurrency: 4, read: Duration::from_secs(6), change: Duration::from_secs(20) };
const A: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Cold, number: 1 };
const B: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Wal, number: 2 };
const ROOT: FileName = FileName { dir: Dir::Root, kind: FileKind::Cold, number: 9 };
const MIB: usize = 1 << 20;

fn open(root: &std::path::Path) -> RealWorld {
    RealWorld::open(RealSettings {
        create: true,
        arena_bytes: MIB,
        cold: Some(ColdTarget::parse(&format!("s3://{BUCKET}/node-1")).unwrap()),
        cold_limits: LIMITS,
        ..RealSettings::new(root)
    })
    .unwrap()
}

/// Runs a client against a server of its own.
fn with(test: &str, client: impl AsyncFnOnce(&S3, &RealCold)) {
    in_own_process(test, LIMIT, |s3| {
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let world = open(temp.path());
        block_on(client(s3, world.cold().unwrap()));
    });
}

fn fault<T: std::fmt::Debug>(result: Result<T>) -> ColdFault {
    match result {
        Err(Error::Cold { fault, .. }) => fault,
        other => panic!("not a cold error: {other:?}"),
    }
}

/// Bytes that tell where they are.
fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u8 ^ seed).collect()
}

async fn store(cold: &RealCold, name: FileName, bytes: &[u8]) -> Result<()> {
    let mut upload = cold.upload(name).await?;
    for part in bytes.chunks(3 * MIB) {
        upload.append(part.to_vec()).await?;
    }
    upload.finish().await
}

/// Waits for what happens by itself.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn objects_of_any_length_are_read_back_from_any_place() {
    with("objects_of_any_length_are_read_back_from_any_place", async |s3, cold| {
        assert_eq!(cold.target(), "s3://attic/node-1");
        assert_eq!(fault(cold.length(A).await), ColdFault::Missing);
        assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Missing);
        assert_eq!(cold.list(A.dir).await.unwrap(), []);
        cold.remove(A).await.unwrap();
        for bytes in [0, 1, MIB, 8 * MIB, 8 * MIB + 1, 20 * MIB + 77] {
            let content = noise(bytes, bytes as u8);
            store(cold, A, &content).await.unwrap();
            assert_eq!(cold.length(A).await.unwrap(), bytes as u64);
            for (from, to) in
                [(0, bytes), (bytes / 3, bytes / 2), (bytes.saturating_sub(5), bytes), (bytes, bytes)]
            {
                let found = cold.read(A, from as u64, (to - from) as u64).await.unwrap();
                assert!(found == content[from..to], "{bytes} bytes, from {from} to {to}");
            }
            assert_eq!(fault(cold.read(A, 0, bytes as u64 + 1).await), ColdFault::Short);
            assert_eq!(fault(cold.read(A, bytes as u64 + 10, 1).await), ColdFault::Short);
            assert_eq!(fault(cold.read(A, u64::MAX, 2).await), ColdFault::Short);
        }
        store(cold, B, b"b").await.unwrap();
        store(cold, ROOT, b"root").await.unwrap();
        assert_eq!(cold.list(A.dir).await.unwrap(), [B, A]);
        assert_eq!(cold.list(Dir::Root).await.unwrap(), [ROOT]);
        cold.remove(A).await.unwrap();
        assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Missing);
        wait_until("notes of finished uploads are removed", || s3.names().len() == 2);
        assert_eq!(s3.names(), [format!("node-1/{}", ROOT.leaf()), format!("node-1/{B}")]);
        assert_eq!(s3.unfinished_uploads(), 0);
    });
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing_and_one_that_a_crash_cut_off_is_given_up_later() {
    let test = "an_upload_that_is_dropped_leaves_nothing_and_one_that_a_crash_cut_off_is_given_up_later";
    with(test, async |s3, cold| {
        store(cold, A, b"old").await.unwrap();
        let mut upload = cold.upload(A).await.unwrap();
        upload.append(noise(9 * MIB, 1)).await.unwrap();
        assert_eq!(s3.unfinished_uploads(), 1);
        assert_eq!(cold.list(A.dir).await.unwrap(), [A], "what goes on is neither listed nor given up");
        assert_eq!(s3.unfinished_uploads(), 1);
        drop(upload);
        wait_until("the upload is given up", || s3.unfinished_uploads() == 0 && s3.names().len() == 1);
        assert_eq!(cold.read(A, 0, 3).await.unwrap(), b"old");

        let mut upload = cold.upload(A).await.unwrap();
        upload.append(noise(9 * MIB, 2)).await.unwrap();
        // As if the process had gone.
        std::mem::forget(upload);
        assert_eq!((s3.unfinished_uploads(), s3.names().len()), (1, 2));
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let later = open(temp.path());
        assert_eq!(later.cold().unwrap().list(A.dir).await.unwrap(), [A]);
        assert_eq!((s3.unfinished_uploads(), s3.names().len()), (0, 1));
        assert_eq!(cold.read(A, 0, 3).await.unwrap(), b"old");
    });
}

#[test]
fn a_server_that_refuses_connections_is_used_again_once_it_takes_them() {
    with("a_server_that_refuses_connections_is_used_again_once_it_takes_them", async |s3, cold| {
        store(cold, A, b"abc").await.unwrap();
        s3.set(Trouble::Refuse);
        let began = Instant::now();
        assert_eq!(fault(cold.read(A, 0, 3).await), ColdFault::Unreachable);
        assert_eq!(fault(store(cold, B, b"x").await), ColdFault::Unreachable);
        assert!(began.elapsed() < LIMITS.read + LIMITS.change);
        s3.set(Trouble::None);
        assert_eq!(cold.read(A, 0, 3).await.unwrap(), b"abc");
        store(cold, B, b"x").await.unwrap();
    });
}

#[test]
fn errors_of_the_server_are_waited_out_for_a_while() {
    with("errors_of_the_server_are_waited_out_for_a_while", async |s3, cold| {
        let content = noise(20 * MIB, 1);
        for status in [500, 503] {
            s3.set_for(Trouble::Status(status), 2, "PUT");
            store(cold, A, &content).await.unwrap();
            s3.set_for(Trouble::Status(status), 2, "GET");
            assert!(cold.read(A, 5, 9 * MIB as u64).await.unwrap() == content[5..9 * MIB + 5]);
            s3.set(Trouble::Status(status));
            assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Unreachable);
            assert_eq!(fault(cold.list(A.dir).await), ColdFault::Unreachable);
            assert_eq!(fault(cold.remove(A).await), ColdFault::Unreachable);
        }
        s3.set(Trouble::Status(507));
        assert_eq!(fault(store(cold, B, b"x").await), ColdFault::Full);
        s3.set(Trouble::None);
        assert!(cold.read(A, 0, 20 * MIB as u64).await.unwrap() == content);
    });
}

#[test]
fn a_body_that_is_cut_off_is_never_taken_for_data() {
    with("a_body_that_is_cut_off_is_never_taken_for_data", async |s3, cold| {
        let content = noise(2 * MIB, 1);
        store(cold, A, &content).await.unwrap();
        for times in [1, 2] {
            s3.set_for(Trouble::Cut, times, "GET");
            assert!(
                cold.read(A, 7, MIB as u64).await.unwrap() == content[7..MIB + 7],
                "the rest was asked for"
            );
        }
        // Halves of halves until nothing is left to cut: the answer is whole in the end or an error.
        s3.set(Trouble::Cut);
        for _ in 0..3 {
            match cold.read(A, 0, 2 * MIB as u64).await {
                Ok(found) => assert!(found == content),
                Err(error) => {
                    let fault = fault::<()>(Err(error));
                    assert!(matches!(fault, ColdFault::Short | ColdFault::TimedOut), "{fault:?}");
                }
            }
        }
        s3.set(Trouble::Lose);
        assert!(matches!(fault(cold.read(A, 0, 1).await), ColdFault::Unreachable | ColdFault::Short));
        s3.set(Trouble::None);
        assert!(cold.read(A, 0, 2 * MIB as u64).await.unwrap() == content);
    });
}

#[test]
fn a_server_that_stalls_stops_neither_a_host_nor_its_end() {
    let test = "a_server_that_stalls_stops_neither_a_host_nor_its_end";
    in_own_process(test, LIMIT, |s3| {
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let world = open(temp.path());
        let cold = world.cold().unwrap().clone();
        block_on(store(&cold, A, &noise(MIB, 1))).unwrap();
        for trouble in [Trouble::Stall, Trouble::StallBody] {
            s3.set(trouble);
            let (told, learnt) = mpsc::channel();
            let hook = std::sync::Arc::new(|report| panic!("{report:?}"));
            let main = move |env: RealEnv| async move {
                let cold = env.cold().unwrap();
                let began = env.now();
                let read = fault(cold.read(A, 0, MIB as u64).await);
                told.send((read, env.now() - began)).unwrap();
                // Nobody waits for this one.
                let mut read = Box::pin(cold.read(A, 0, 1));
                let waker = std::task::Waker::noop();
                drop(std::future::Future::poll(read.as_mut(), &mut std::task::Context::from_waker(waker)));
            };
            let running = world.start(Place::Floating, "test", hook, main).unwrap();
            block_on(running.finished());
            let (fault, took) = learnt.recv().unwrap();
            assert!(matches!(fault, ColdFault::TimedOut | ColdFault::Short), "{fault:?}");
            assert!(took < LIMITS.read + Duration::from_secs(5), "{took:?}");
        }
        let began = Instant::now();
        s3.set(Trouble::None);
        assert!(block_on(cold.read(A, 0, MIB as u64)).unwrap() == noise(MIB, 1));
        s3.set(Trouble::Stall);
        drop((world, cold));
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_server_that_was_away_is_used_again() {
    with("a_server_that_was_away_is_used_again", async |s3, cold| {
        let content = noise(9 * MIB, 1);
        store(cold, A, &content).await.unwrap();
        let mut upload = cold.upload(B).await.unwrap();
        upload.append(content.clone()).await.unwrap();
        s3.stop_server();
        assert!(matches!(fault(cold.read(A, 0, 1).await), ColdFault::Unreachable | ColdFault::TimedOut));
        s3.start_server();
        // This server has forgotten everything, which is an error and nothing else.
        assert_eq!(fault(cold.read(A, 0, 1).await), ColdFault::Missing);
        assert!(upload.finish().await.unwrap_err().is_cold());
        assert_eq!(cold.list(A.dir).await.unwrap(), []);
        store(cold, A, &content).await.unwrap();
        assert!(cold.read(A, 0, 9 * MIB as u64).await.unwrap() == content);
    });
}

#[test]
fn an_upload_whose_last_answer_is_lost_is_known_to_be_complete() {
    with("an_upload_whose_last_answer_is_lost_is_known_to_be_complete", async |s3, cold| {
        for seed in [1, 2] {
            s3.set_for(Trouble::Lose, 1, "POST");
            store(cold, A, &noise(9 * MIB, seed)).await.unwrap_or_else(|error| {
                // The first POST begins the upload, and that is not repeated behind the caller's back.
                assert_eq!(fault::<()>(Err(error)), ColdFault::Unreachable);
            });
            let mut upload = cold.upload(A).await.unwrap();
            upload.append(noise(9 * MIB, seed)).await.unwrap();
            s3.set_for(Trouble::Lose, 1, "POST");
            upload.finish().await.unwrap();
            assert!(cold.read(A, 0, 9 * MIB as u64).await.unwrap() == noise(9 * MIB, seed));
        }
        let requests = s3.requests();
        let completions =
            requests.iter().filter(|line| line.starts_with("POST") && line.contains("uploadId"));
        assert!(completions.count() >= 4, "it was asked again");
    });
}

#[test]
fn credentials_are_in_no_text() {
    let test = "credentials_are_in_no_text";
    in_own_process(test, LIMIT, |s3| {
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let world = open(temp.path());
        let cold = world.cold().unwrap();
        s3.set(Trouble::Tell);
        let mut texts = vec![format!("{world:?} {cold:?} {} {:?}", cold.target(), world.settings())];
        block_on(async {
            let failures = [
                cold.read(A, 0, 1).await.map(drop),
                cold.list(A.dir).await.map(drop),
                cold.remove(A).await,
                store(cold, A, b"small").await,
                store(cold, A, &noise(9 * MIB, 1)).await,
            ];
            for failure in failures {
                let error = failure.unwrap_err();
                texts.push(format!("{error} {error:?}"));
                assert_eq!(fault::<()>(Err(error)), ColdFault::Denied);
            }
            texts.push(format!("{:?}", cold.upload(A).await.unwrap()));
        });
        let text = texts.join("\n");
        // The answers held them.
        assert!(text.contains("(secret)") && text.contains("credentials in the environment"), "{text}");
        for secret in [SECRET, "AKIAHUNTER2HUNTER2HU", "hunter2"] {
            assert!(!text.contains(secret), "{text}");
        }
    });
}

#[test]
fn many_requests_at_once_get_their_own_answers_and_few_are_under_way() {
    let test = "many_requests_at_once_get_their_own_answers_and_few_are_under_way";
    with(test, async |s3, cold| {
        let objects: Vec<FileName> = (0..6).map(|number| FileName { number, ..A }).collect();
        let content = |name: &FileName| noise(100_000, name.number as u8);
        for name in &objects {
            store(cold, *name, &content(name)).await.unwrap();
        }
        let reads = (0..100_usize).map(|nth| {
            let (name, from) = (objects[nth % objects.len()], nth * 211);
            async move { (name, from, cold.read(name, from as u64, 1000).await.unwrap()) }
        });
        for (name, from, found) in futures_util::future::join_all(reads).await {
            assert!(found == content(&name)[from..][..1000]);
        }
        assert_eq!(cold.list(A.dir).await.unwrap(), objects);
        // The proxy counts a request for a little longer than it lasts.
        assert!(s3.most_at_once() <= 2 * LIMITS.concurrency, "{}", s3.most_at_once());
    });
}
