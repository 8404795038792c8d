//! Against a real node, if there is one on PATH: its block files go in, and its own list of unspent outputs must come
//! out, before and after it reorganises.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod chain_support;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::secp256k1::PublicKey;
use chain_support::{Coins, check_block, check_coins, config, folder};
use op_engine::chain::Ingest;
use op_engine::chain::block_files::{BlockFiles, BlockFilesOptions};
use op_engine::chain::collections::Utxo;
use op_engine::{Engine, Height};
use op_engine_io::block_on;

/// The generator of the curve, the public key of the secret key 1.
const KEY_X: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const KEY_Y: &str = "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";

const CALL_MAX: Duration = Duration::from_secs(60);

/// A node of our own on a regression test network of its own.
struct Node {
    process: Child,
    datadir: PathBuf,
    port: u16,
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Waits for a process, and kills it when the time is over.
fn wait_bounded(process: &mut Child, time: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().ok();
    process.wait().ok();
    None
}

impl Node {
    fn start(datadir: &Path) -> Self {
        // The port was free a moment ago; nothing else keeps two nodes apart.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        std::fs::create_dir_all(datadir).unwrap();
        let process = Command::new("bitcoind")
            .arg(format!("-datadir={}", datadir.display()))
            .arg(format!("-rpcport={port}"))
            .args(["-regtest", "-server=1", "-listen=0", "-dnsseed=0", "-fallbackfee=0.0002"])
            .args(["-printtoconsole=0", "-dbcache=16"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let node = Self { process, datadir: datadir.to_owned(), port };
        node.call(&["-rpcwait", "-rpcwaittimeout=50", "getblockchaininfo"]);
        node
    }

    fn call(&self, arguments: &[&str]) -> String {
        let mut process = Command::new("bitcoin-cli")
            .arg(format!("-datadir={}", self.datadir.display()))
            .arg(format!("-rpcport={}", self.port))
            .arg("-regtest")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdout, mut stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let answers = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let status = wait_bounded(&mut process, CALL_MAX);
        let (answer, errors) = (answers.join().unwrap(), errors.join().unwrap());
        assert!(status.is_some_and(|status| status.success()), "{arguments:?}: {errors}");
        answer.trim().to_owned()
    }

    fn generate(&self, blocks: u32, address: &str) {
        self.call(&["generatetoaddress", &blocks.to_string(), address]);
    }

    fn height(&self) -> u64 {
        self.call(&["getblockcount"]).parse().unwrap()
    }

    /// The node's own list of unspent outputs.
    fn utxos(&self, name: &str) -> Coins {
        let file = self.datadir.join(name);
        self.call(&["dumptxoutset", file.to_str().unwrap(), "latest"]);
        Snapshot::parse(&std::fs::read(file).unwrap())
    }

    fn stop(mut self) {
        self.call(&["stop"]);
        assert!(wait_bounded(&mut self.process, CALL_MAX).is_some(), "the node did not stop");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().ok();
            self.process.wait().ok();
        }
    }
}

/// A file of `dumptxoutset`, version 2.
///
/// | bytes | field |
/// |---|---|
/// | 5 | `utxo`, 0xff |
/// | 2 | version |
/// | 4 | magic of the network |
/// | 32 | hash of the block |
/// | 8 | number of coins |
///
/// Then for each txid: 32 bytes, the number of its coins, and for each of them the output's number, twice the height
/// plus one for a coinbase, the compressed value and the compressed script.
struct Snapshot<'a>(&'a [u8]);

impl Snapshot<'_> {
    fn parse(bytes: &[u8]) -> Coins {
        let mut input = Snapshot(bytes);
        assert_eq!(input.take(5), b"utxo\xff");
        assert_eq!(input.take(2), 2u16.to_le_bytes());
        assert_eq!(input.take(4), bitcoin::p2p::Magic::REGTEST.to_bytes());
        input.take(32);
        let count = u64::from_le_bytes(input.take(8).try_into().unwrap());
        let mut coins = Coins::new();
        while !input.0.is_empty() {
            let txid: [u8; 32] = input.take(32).try_into().unwrap();
            for _ in 0..input.compact_size() {
                let vout = u32::try_from(input.compact_size()).unwrap();
                let code = input.varint();
                let (height, coinbase) = (code / 2, code % 2 == 1);
                let value = decompress_value(input.varint());
                let script = input.script();
                assert!(coins.insert((txid, vout), Utxo { value, height, coinbase, script }).is_none());
            }
        }
        assert_eq!(u64::try_from(coins.len()).unwrap(), count);
        coins
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn compact_size(&mut self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.take(1)[0] {
            0xfd => number(self.take(2)),
            0xfe => number(self.take(4)),
            0xff => number(self.take(8)),
            small => small.into(),
        }
    }

    /// Seven bits a byte, the highest first; each further byte adds one, so that every number has one form.
    fn varint(&mut self) -> u64 {
        let mut value = 0;
        loop {
            let byte = self.take(1)[0];
            value = value << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return value;
            }
            value += 1;
        }
    }

    fn script(&mut self) -> Vec<u8> {
        match self.varint() {
            0 => [&[0x76, 0xa9, 20], self.take(20), &[0x88, 0xac]].concat(),
            1 => [&[0xa9, 20], self.take(20), &[0x87]].concat(),
            sign @ 2..=3 => [&[33, u8::try_from(sign).unwrap()], self.take(32), &[0xac]].concat(),
            sign @ 4..=5 => {
                let compressed = [&[u8::try_from(sign - 2).unwrap()], self.take(32)].concat();
                let key = PublicKey::from_slice(&compressed).unwrap().serialize_uncompressed();
                [&[65], &key[..], &[0xac]].concat()
            }
            size => self.take(usize::try_from(size - 6).unwrap()).to_vec(),
        }
    }
}

fn decompress_value(compressed: u64) -> u64 {
    let Some(rest) = compressed.checked_sub(1) else { return 0 };
    let (exponent, rest) = (rest % 10, rest / 10);
    let digits = if exponent < 9 { rest / 9 * 10 + rest % 9 + 1 } else { rest + 1 };
    digits * 10u64.pow(u32::try_from(exponent).unwrap())
}

/// Pays to addresses of several types, and mines.
fn live(node: &Node, rounds: u32, blocks_per_round: u32) {
    let own = node.call(&["getnewaddress", "", "bech32"]);
    for round in 0..rounds {
        let kinds = ["legacy", "p2sh-segwit", "bech32", "bech32m"];
        let addresses = kinds.map(|kind| node.call(&["getnewaddress", "", kind]));
        let amounts: Vec<String> = addresses
            .iter()
            .enumerate()
            .map(|(place, address)| format!("\"{address}\":0.{}{}1", round % 10, place + 1))
            .collect();
        node.call(&["sendmany", "", &format!("{{{}}}", amounts.join(","))]);
        for address in &addresses[..2] {
            node.call(&["sendtoaddress", address, "0.05"]);
        }
        node.generate(blocks_per_round, &own);
    }
}

/// Brings the store up to the node, and compares all coins and the last blocks.
fn ingest_and_compare(engine: &Engine, node: &Node, dump: &str) -> op_engine::chain::IngestReport {
    let files = node.datadir.join("regtest");
    assert!(files.join("blocks/xor.dat").is_file());
    let source = BlockFiles::open(&files, BlockFilesOptions::default()).unwrap();
    assert_eq!(source.report().warnings, []);
    let report = Ingest::new().threads(2).run(engine, &source).unwrap();
    let tip = report.tip.unwrap();
    assert_eq!(tip.height, Height(node.height()));
    assert_eq!(tip.hash.to_string(), node.call(&["getbestblockhash"]));
    let expected = node.utxos(dump);
    block_on(async {
        let view = engine.snapshot().await.unwrap();
        check_coins(&view, &expected).await;
        for height in (0..=tip.height.0).rev().take(30) {
            check_block(&view, &source.block_at(height).unwrap().unwrap()).await;
        }
    });
    report
}

#[test]
fn the_store_has_the_coins_that_the_node_has() {
    if !is_on_path("bitcoind") || !is_on_path("bitcoin-cli") {
        println!("skipped: no bitcoind on PATH");
        return;
    }
    let folder = folder("bitcoind");
    let node = Node::start(&folder.path().join("node"));
    node.call(&["createwallet", "test"]);
    let own = node.call(&["getnewaddress"]);
    // Outputs to bare public keys have forms of their own in the node's list.
    for key in [format!("02{KEY_X}"), format!("04{KEY_X}{KEY_Y}")] {
        node.call(&["generatetodescriptor", "1", &format!("pk({key})")]);
    }
    node.generate(109, &own);
    live(&node, 18, 5);
    assert_eq!(node.height(), 201);

    let engine = Engine::open_blocking(config(folder.path().join("store"))).unwrap();
    let report = ingest_and_compare(&engine, &node, "before.dat");
    assert_eq!((report.counts.blocks, report.reorged), (202, None));
    assert!(report.counts.transactions > 202 + 50);

    // The node gives up six blocks, and its transactions are mined again in others.
    let dropped = node.call(&["getblockhash", "196"]);
    node.call(&["invalidateblock", &dropped]);
    assert_eq!(node.height(), 195);
    live(&node, 4, 2);
    let report = ingest_and_compare(&engine, &node, "after.dat");
    let reorged = report.reorged.unwrap();
    assert_eq!((reorged.from, reorged.to, report.counts.blocks), (Height(201), Height(195), 8));
    let stale: [u8; 32] = dropped.parse::<bitcoin::BlockHash>().unwrap().to_byte_array();
    assert_eq!(block_on(op_engine::chain::queries::block_by_hash(&engine, &stale)).unwrap(), None);

    node.stop();
    block_on(engine.close()).unwrap();
}
