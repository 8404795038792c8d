//! One process at a time owns a store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests fail like tests"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use op_engine_io::real::{RealSettings, RealWorld};
use op_engine_io::{Env, Error, Place, World, block_on};

const ROOT: &str = "OP_ENGINE_IO_LOCK_ROOT";
const HELD: &str = "the store is held";

fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn settings(root: &Path, wait_ms: u64) -> RealSettings {
    let lock_wait = Duration::from_millis(wait_ms);
    RealSettings { lock_wait, arena_bytes: 1 << 20, ..RealSettings::new(root) }
}

/// Runs this binary again as another process that owns the store and runs a host.
fn other_owner(root: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_process", "--nocapture"])
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(HELD)), "the other process takes the store");
    child
}

/// Not a test by itself: the body of the other process, which ends after a while if nobody kills it.
#[test]
fn other_process() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let world = RealWorld::open(settings(Path::new(&root), 0)).unwrap();
    let hook = std::sync::Arc::new(|report| panic!("{report:?}"));
    let running = world.start(Place::Shard(0), "owner", hook, |env| async move {
        println!("{HELD}");
        env.sleep(Duration::from_secs(20)).await;
    });
    block_on(running.unwrap().finished());
}

#[test]
fn a_second_process_is_refused_until_the_first_is_killed() {
    let temp = temp();
    let mut owner = other_owner(temp.path());
    let started = Instant::now();
    let refused = RealWorld::open(settings(temp.path(), 200)).unwrap_err();
    assert_eq!(refused, Error::Locked { path: temp.path().to_owned() });
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(5), "{waited:?}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    RealWorld::open(settings(temp.path(), 5000)).unwrap();
}

#[test]
fn the_lock_is_held_while_a_host_runs_and_free_at_once_when_the_last_has_ended() {
    let temp = temp();
    for _ in 0..20 {
        let world = RealWorld::open(settings(temp.path(), 0)).unwrap();
        let (stop, stopped) = op_engine_io::reply::<()>();
        let hook = std::sync::Arc::new(|report| panic!("{report:?}"));
        let running = world.start(Place::Shard(0), "owner", hook, |_env| async move {
            stopped.await.unwrap();
        });
        drop(world);
        let refused = RealWorld::open(settings(temp.path(), 0)).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "the host still owns the store: {refused}");
        stop.send(());
        block_on(running.unwrap().finished());
    }
    // No wait: what is drained is released before the host reports its end.
    RealWorld::open(settings(temp.path(), 0)).unwrap();
}
