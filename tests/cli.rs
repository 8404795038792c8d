//! The program as a user meets it: its help, its exit codes, what it says about mistakes, and a small demo.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use op_engine::chain::regtest::{RegtestChain, RegtestOptions};
use op_engine::{Config, Engine, chain};
use op_engine_io::block_on;

/// What a run of the program gave.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the program and ends it if it takes too long.
fn run_within(limit: Duration, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_op-engine"));
    let piped = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut streams = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || text(&mut streams.0));
    let err = std::thread::spawn(move || text(&mut streams.1));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > limit {
            child.kill().unwrap();
            panic!("op-engine {args:?} takes more than {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Run { code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}

fn text(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn run(args: &[&str]) -> Run {
    run_within(Duration::from_secs(60), args)
}

/// A directory that can hold a store: the system's own for temporary files may not.
fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Block files of a short chain, and a store with it.
fn chain_and_store(dir: &Path) -> (RegtestChain, PathBuf, PathBuf) {
    let options =
        RegtestOptions { coinbase_maturity: 5, transactions_per_block: 5, ..RegtestOptions::default() };
    let mut chain = RegtestChain::new(options);
    chain.mine_blocks(30);
    let (blocks, store) = (dir.join("blocks"), dir.join("store"));
    std::fs::create_dir(&blocks).unwrap();
    chain.write_block_files(&blocks, None).unwrap();
    let done = run(&["ingest", "--store", path(&store), "--blocks", path(&blocks), "--shards", "2"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("ingested  31 blocks"), "{}", done.out);
    (chain, blocks, store)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_command_has_help_and_wrong_usage_is_told() {
    let commands = ["detect", "demo", "ingest", "tip", "get", "utxos", "scan", "reorg", "stats", "verify"];
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in commands {
        assert!(help.out.contains(&format!("  {command} ")), "{}", help.out);
        let help = run(&[command, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(help.out.contains("Examples:"), "{}", help.out);
    }
    assert!(!help.out.contains("victim"));
    for wrong in
        [&[][..], &["no-such-command"], &["tip"], &["get", "--store", "x"], &["detect", "--memory", "1Q"]]
    {
        assert_eq!(run(wrong).code, Some(2), "{wrong:?}");
    }
    assert_eq!(run(&["--version"]).code, Some(0));
}

#[test]
fn the_machine_is_described() {
    let dir = temp();
    let detected = run(&["detect", "--path", path(dir.path()), "--shards", "3"]);
    assert_eq!(detected.code, Some(0), "{}", detected.err);
    for part in ["The machine", "direct I/O", "set by hand", "memory budget"] {
        assert!(detected.out.contains(part), "{part} is not in {}", detected.out);
    }
    assert!(detected.out.lines().all(|line| line.chars().count() <= 80), "{}", detected.out);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(run(&["detect", "--shards", "0"]).code, Some(1));
}

#[test]
fn a_small_demo_is_right_and_cleans_up() {
    let dir = temp();
    let args = ["demo", "--path", path(dir.path()), "--blocks", "20", "--transactions", "5"];
    let demo = run_within(Duration::from_secs(240), &args);
    assert_eq!(demo.code, Some(0), "{}\n{}", demo.out, demo.err);
    for part in ["6 blocks taken back", "reopened after SIGKILL 3", "none lost", "All answers were right"] {
        assert!(demo.out.contains(part), "{part} is not in {}", demo.out);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_store_is_filled_read_and_taken_back() {
    let dir = temp();
    let (chain, blocks, store) = chain_and_store(dir.path());
    let store = path(&store);
    let tip = chain.tip().unwrap();
    let shown = |hash: &[u8; 32]| hash.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tip_hash = shown(&tip.hash);

    let found = run(&["tip", "--store", store]);
    assert!(found.code == Some(0) && found.out.contains(&tip_hash) && found.out.contains("height   30"));
    for key in ["30", &tip_hash] {
        let found = run(&["get", "--store", store, "block", key]);
        assert!(found.code == Some(0) && found.out.contains(&tip_hash), "{}", found.err);
    }
    let txid = shown(tip.txids.last().unwrap());
    let found = run(&["get", "tx", &txid, "--store", store]);
    assert!(found.code == Some(0) && found.out.contains("block          30, position"), "{}", found.out);
    assert_eq!(run(&["get", "tx", &txid, "--store", store, "--height", "29"]).code, Some(1));

    let (outpoint, coin) = chain.utxos().iter().next().unwrap();
    let found = run(&["get", "--store", store, "utxo", &outpoint.to_string()]);
    assert_eq!(found.code, Some(0), "{}", found.err);
    let script: String =
        coin.output.script_pubkey.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(found.out.contains(&script));
    let found = run(&["utxos", "--store", store, "--script", &script]);
    assert!(found.code == Some(0) && found.out.contains(&outpoint.to_string()), "{}", found.out);

    let found = run(&["scan", "--store", store, "blocks", "--descending", "--limit", "2"]);
    assert!(found.code == Some(0) && found.out.lines().next().unwrap().contains(&tip_hash), "{}", found.out);
    let found = run(&["scan", "--store", store, "utxos", "--limit", "1000000"]);
    assert_eq!(found.out.lines().count(), chain.utxos().len());
    assert_eq!(run(&["scan", "--store", store, "no_such_collection"]).code, Some(2));

    let stats = run(&["stats", "--store", store]);
    assert!(stats.code == Some(0) && stats.out.contains("utxos.by_script"), "{}", stats.out);
    let levels: Vec<Vec<&str>> = stats.out.lines().map(|line| line.split_whitespace().collect()).collect();
    for shard in ["0", "1"] {
        let coins = levels.iter().find(|words| words.len() > 8 && words[..3] == ["utxos", shard, "1"]);
        let coins = coins.unwrap_or_else(|| panic!("{}", stats.out));
        assert!(coins.contains(&"young") && coins.iter().any(|word| word.ends_with("-30")), "{coins:?}");
    }
    for part in ["merges: 0 done", "in memory of at most", "commits held up by"] {
        assert!(stats.out.contains(part), "{part} is not in {}", stats.out);
    }
    let segments = run(&["stats", "--store", store, "--segments"]);
    assert!(segments.out.lines().count() > stats.out.lines().count() + 4, "{}", segments.out);
    assert!(stats.out.contains("a full disk") && stats.out.contains("in 16 files"), "{}", stats.out);
    let sound = run(&["verify", "--store", store]);
    assert!(sound.code == Some(0) && sound.out.contains("The store is sound"), "{}{}", sound.out, sound.err);

    assert_eq!(run(&["reorg", "--store", store, "--to", "25"]).code, Some(2));
    assert_eq!(run(&["reorg", "--store", store, "--to", "31", "--yes"]).code, Some(1));
    let back = run(&["reorg", "--store", store, "--to", "25", "--yes"]);
    assert!(back.code == Some(0) && back.out.contains("went back 5 blocks"), "{}", back.out);
    let again = run(&["ingest", "--store", store, "--blocks", path(&blocks)]);
    assert!(again.code == Some(0) && again.out.contains("ingested  5 blocks"), "{}", again.out);
}

#[test]
fn mistakes_are_told_and_nothing_is_left_behind() {
    let dir = temp();
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("notes.txt"), "mine").unwrap();
    let missing = dir.path().join("missing");
    for store in [&foreign, &missing] {
        for command in ["tip", "stats", "verify"] {
            let refused = run(&[command, "--store", path(store)]);
            assert_eq!(refused.code, Some(1));
            assert!(refused.err.contains("holds no store. Check the path\n"), "{}", refused.err);
            assert!(!refused.err.contains("creat") && refused.out.is_empty(), "{}", refused.err);
        }
    }
    let (chain, blocks, store) = chain_and_store(dir.path());
    let into_foreign = run(&["ingest", "--store", path(&foreign), "--blocks", path(&blocks)]);
    assert!(into_foreign.code == Some(1) && into_foreign.err.contains("notes.txt"), "{}", into_foreign.err);
    let no_blocks = run(&["ingest", "--store", path(&missing), "--blocks", path(&foreign)]);
    assert!(no_blocks.code == Some(1) && no_blocks.err.contains("no block files"), "{}", no_blocks.err);
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
    assert!(!missing.exists());

    let store = path(&store);
    for (args, code) in [
        (&["get", "--store", store, "block", "31"][..], 1),
        (&["get", "--store", store, "block", "30", "--height", "31"], 1),
        (&["get", "--store", store, "block", "zz"], 2),
        (&["get", "--store", store, "tx", "00"], 2),
        (&["get", "--store", store, "utxo", "00"], 2),
        (&["get", "--store", store, "slot", "00", "00"], 2),
        (&["utxos", "--store", store, "--address", "nobody"], 2),
        (&["utxos", "--store", store, "--script", "0"], 2),
        (&["scan", "--store", store, "blocks", "--prefix", "x"], 2),
        (&["ingest", "--store", store, "--blocks", store, "--magic", "00"], 2),
    ] {
        let refused = run(args);
        assert_eq!(refused.code, Some(code), "{args:?}: {}", refused.err);
        assert!(refused.err.starts_with("error: ") && refused.out.is_empty(), "{args:?}: {}", refused.err);
    }
    drop(chain);
}

#[test]
fn a_store_in_use_is_not_touched_and_damage_is_reported() {
    let dir = temp();
    let (_, _, store) = chain_and_store(dir.path());
    let engine = Engine::open_blocking(Config::new(&store).collections(chain::collections)).unwrap();
    let refused = run(&["tip", "--store", path(&store)]);
    assert!(refused.code == Some(1) && refused.err.contains("in use by another process"), "{}", refused.err);
    block_on(engine.close()).unwrap();

    let junk = store.join("shard-000/junk.txt");
    std::fs::write(&junk, "x").unwrap();
    for command in ["tip", "verify"] {
        let refused = run(&[command, "--store", path(&store)]);
        assert!(refused.code == Some(1) && refused.err.contains("junk.txt"), "{}", refused.err);
    }
    std::fs::remove_file(&junk).unwrap();

    let segment = std::fs::read_dir(store.join("shard-001")).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        segment.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let damaged = run(&["verify", "--store", path(&store)]);
    assert_eq!(damaged.code, Some(1));
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(damaged.err.contains(name) && damaged.err.contains("1 fault found"), "{}", damaged.err);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = temp();
    let (_, _, store) = chain_and_store(dir.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_op-engine"));
    command.args(["scan", "--store", path(&store), "transactions", "--hex", "--limit", "100000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let err = text(&mut child.stderr.take().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(0), "{err}");
    assert_eq!(err, "");
}

#[test]
fn old_data_moves_to_a_cold_directory_and_back() {
    let dir = temp();
    let options =
        RegtestOptions { coinbase_maturity: 5, transactions_per_block: 5, ..RegtestOptions::default() };
    let mut chain = RegtestChain::new(options);
    chain.mine_blocks(30);
    let (blocks, store, cold) =
        (dir.path().join("blocks"), dir.path().join("store"), dir.path().join("cold"));
    std::fs::create_dir(&blocks).unwrap();
    chain.write_block_files(&blocks, None).unwrap();
    let (blocks, store, cold) = (path(&blocks), path(&store), path(&cold));
    let done = run(&["ingest", "--store", store, "--blocks", blocks, "--shards", "2", "--reorg-window", "5"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let status = run(&["tier", "status", "--store", store]);
    assert!(status.code == Some(0) && status.out.contains("none is given"), "{}{}", status.out, status.err);
    assert_eq!(run(&["tier", "run", "--store", store]).code, Some(2), "without a target");
    let refused = run(&["tier", "run", "--store", store, "--cold-target", cold]);
    assert!(
        refused.code == Some(1) && refused.err.contains(cold),
        "a directory that is not there: {}",
        refused.err
    );

    std::fs::create_dir(cold).unwrap();
    let moved = run(&["tier", "run", "--store", store, "--cold-target", cold]);
    assert!(
        moved.code == Some(0) && moved.out.contains("moved to the cold target"),
        "{}{}",
        moved.out,
        moved.err
    );
    let status = run(&["tier", "status", "--store", store, "--cold-target", cold]);
    assert!(
        status.code == Some(0) && status.out.contains("to 1") && status.out.contains(cold),
        "{}",
        status.out
    );
    let shown = |hash: &[u8; 32]| hash.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let old = shown(chain.block_at(10).unwrap().txids.last().unwrap());
    let found = run(&["get", "--store", store, "--cold-target", cold, "tx", &old]);
    assert!(
        found.code == Some(0) && found.out.contains("block          10, position"),
        "{}{}",
        found.out,
        found.err
    );
    let refused = run(&["get", "--store", store, "tx", &old]);
    assert!(refused.code == Some(1) && refused.err.contains("cold target"), "{}", refused.err);
    assert_eq!(run(&["tip", "--store", store]).code, Some(0), "hot data needs no target");

    let sound = run(&["verify", "--store", store]);
    assert!(sound.code == Some(0) && sound.out.contains("in the cold target"), "{}{}", sound.out, sound.err);
    let sound = run(&["verify", "--store", store, "--cold", "--cold-target", cold]);
    assert!(sound.code == Some(0) && sound.out.contains("compared"), "{}{}", sound.out, sound.err);
    let refused = run(&["tier", "run", "--store", store, "--cold-target", "s3://me:hunter2@attic/x"]);
    assert_eq!(refused.code, Some(1), "a URL with a secret in it");
    assert!(refused.err.contains("s3://bucket") || refused.err.contains("object-store"), "{}", refused.err);
    assert!(!refused.err.contains("hunter2"), "a secret is told");
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let refused = run(&["tier", "run", "--store", store, "--cold-target", path(&other)]);
    assert!(refused.code == Some(1) && refused.err.contains("not that of this store"), "{}", refused.err);

    let back =
        run(&["tier", "warm-up", "--store", store, "--cold-target", cold, "--from", "0", "--to", "100"]);
    assert!(back.code == Some(0) && back.out.contains("brought back"), "{}{}", back.out, back.err);
    let found = run(&["get", "--store", store, "tx", &old]);
    assert!(found.code == Some(0), "{}", found.err);
    assert_eq!(run(&["tier", "warm-up", "--store", store, "--from", "9", "--to", "3"]).code, Some(2));
}
