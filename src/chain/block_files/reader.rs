//! Delivers blocks in the order of the chain, read and checked by a pool of threads.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bitcoin::Block;
use bitcoin::blockdata::script::{Instruction, read_scriptint};
use bitcoin::consensus::deserialize;
use bitcoin::hashes::Hash;
use bitcoin::merkle_tree;
use crossbeam_channel::{Receiver, Sender, bounded};
use op_engine_io::num::to_usize;

use super::file::{BlockFile, OpenBlockFile};
use super::scan::RECORD_HEAD_BYTES;
use super::tree::HeaderNode;
use super::{BlockFileError, BlockFilesOptions, Index, Result};
use crate::chain::ChainBlock;

/// The blocks of the chain from a height to the tip, in order. The first error is the last item.
///
/// Dropping it stops the threads and waits for them; each finishes at most the block it is at.
#[derive(Debug)]
pub struct Blocks {
    pool: Arc<Pool>,
    /// `None` once the iterator has ended.
    results: Option<Receiver<Outcome>>,
    /// Blocks that came before their turn. What the gate lets through bounds it.
    early: BTreeMap<u64, (u64, Result<ChainBlock>)>,
    next_height: u64,
    threads: Vec<JoinHandle<()>>,
}

/// A block that was read, or why not.
#[derive(Debug)]
struct Outcome {
    height: u64,
    block_bytes: u64,
    block: Result<ChainBlock>,
}

#[derive(Debug)]
struct Pool {
    index: Arc<Index>,
    gate: Mutex<Gate>,
    room: Condvar,
}

/// Lets blocks through in the order of the chain, so that the block the caller waits for is never the one that
/// waits for room.
#[derive(Debug)]
struct Gate {
    next_height: u64,
    inflight_bytes: u64,
    stopped: bool,
}

impl Blocks {
    pub(super) fn start(index: Arc<Index>, from_height: u64) -> Result<Self> {
        let count = index.options.threads.max(1);
        let gate = Gate { next_height: from_height, inflight_bytes: 0, stopped: false };
        let pool = Arc::new(Pool { index, gate: Mutex::new(gate), room: Condvar::new() });
        let (sender, receiver) = bounded(count * 2);
        let mut blocks = Self {
            pool,
            results: Some(receiver),
            early: BTreeMap::new(),
            next_height: from_height,
            threads: Vec::with_capacity(count),
        };
        for number in 0..count {
            let pool = Arc::clone(&blocks.pool);
            let sender = sender.clone();
            let thread = std::thread::Builder::new()
                .name(format!("blocks-{number}"))
                .spawn(move || pool.work(&sender))
                .map_err(|source| BlockFileError::Thread { source })?;
            blocks.threads.push(thread);
        }
        Ok(blocks)
    }

    fn stop(&mut self) {
        self.pool.gate().stopped = true;
        self.pool.room.notify_all();
        // A thread that waits to send finds the channel closed.
        self.results = None;
        self.early.clear();
        for thread in self.threads.drain(..) {
            // Threads catch what panics in them; there is nothing to learn from the result.
            let _ = thread.join();
        }
    }

    /// The outcome of the next height, when it has come.
    fn receive(&mut self) -> Option<Result<ChainBlock>> {
        loop {
            if let Some((bytes, block)) = self.early.remove(&self.next_height) {
                self.pool.gate().inflight_bytes -= bytes;
                self.pool.room.notify_all();
                return Some(block);
            }
            match self.results.as_ref()?.recv() {
                Ok(Outcome { height, block_bytes, block }) => {
                    self.early.insert(height, (block_bytes, block));
                }
                Err(_) if self.pool.index.node_at(self.next_height).is_none() => return None,
                Err(_) => return Some(Err(BlockFileError::ReadersEnded)),
            }
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<ChainBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self.receive();
        match &received {
            Some(Ok(_)) => self.next_height += 1,
            Some(Err(_)) | None => self.stop(),
        }
        received
    }
}

impl std::iter::FusedIterator for Blocks {}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pool {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next block to read, once there is room for it; `None` when there is nothing left to do.
    fn admit(&self) -> Option<(u64, &HeaderNode)> {
        let mut gate = self.gate();
        loop {
            let height = gate.next_height;
            let node = self.index.node_at(height)?;
            let wanted = gate.inflight_bytes + u64::from(node.block_bytes);
            if gate.stopped {
                return None;
            }
            // A single block larger than the limit goes alone.
            if gate.inflight_bytes == 0 || wanted <= self.index.options.inflight_bytes_max {
                gate.next_height += 1;
                gate.inflight_bytes = wanted;
                return Some((height, node));
            }
            gate = self.room.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, results: &Sender<Outcome>) {
        let mut open = LastFile::default();
        while let Some((height, node)) = self.admit() {
            let read = || read_with(&mut open, &self.index.files, node, height, &self.index.options);
            let block = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                let file = file_of(&self.index.files, node).map(|file| file.path.clone()).unwrap_or_default();
                Err(BlockFileError::Panicked { file, offset: node.offset })
            });
            let outcome = Outcome { height, block_bytes: u64::from(node.block_bytes), block };
            if results.send(outcome).is_err() {
                return;
            }
        }
    }
}

/// The file that was read last stays open: the next block is mostly in the same one.
#[derive(Debug, Default)]
struct LastFile(Option<(u32, OpenBlockFile)>);

fn file_of<'a>(files: &'a [BlockFile], node: &HeaderNode) -> Result<&'a BlockFile> {
    // The tree numbers the files as they are listed.
    files.get(to_usize(u64::from(node.file))).ok_or(BlockFileError::ReadersEnded)
}

/// Reads one block with a file of its own.
pub(super) fn read_block(index: &Index, node: &HeaderNode, height: u64) -> Result<ChainBlock> {
    read_with(&mut LastFile::default(), &index.files, node, height, &index.options)
}

fn read_with(
    last: &mut LastFile,
    files: &[BlockFile],
    node: &HeaderNode,
    height: u64,
    options: &BlockFilesOptions,
) -> Result<ChainBlock> {
    let file = file_of(files, node)?;
    let open = match last.0.take() {
        Some((number, open)) if number == node.file => open,
        _ => file.open().map_err(|source| file.io_error("open", 0, source))?,
    };
    let mut raw = vec![0; to_usize(u64::from(node.block_bytes))];
    open.read(node.offset + RECORD_HEAD_BYTES, &mut raw)
        .map_err(|source| file.io_error("read", node.offset, source))?;
    last.0 = Some((node.file, open));

    let place = || (file.path.clone(), node.offset);
    let block: Block = deserialize(&raw).map_err(|error| {
        let (file, offset) = place();
        BlockFileError::Malformed { file, offset, height, what: error.to_string() }
    })?;
    if block.block_hash().to_byte_array() != node.hash {
        let (file, offset) = place();
        return Err(BlockFileError::Changed { file, offset });
    }
    let txids: Vec<_> = block.txdata.iter().map(bitcoin::Transaction::compute_txid).collect();
    let root = merkle_tree::calculate_root(txids.iter().map(|txid| txid.to_raw_hash()));
    if root != Some(block.header.merkle_root.to_raw_hash()) {
        let (file, offset) = place();
        return Err(BlockFileError::MerkleMismatch { file, offset, height });
    }
    if options.check_witnesses && !block.check_witness_commitment() {
        let (file, offset) = place();
        return Err(BlockFileError::WitnessMismatch { file, offset, height });
    }
    Ok(ChainBlock {
        height,
        hash: node.hash,
        parent: block.header.prev_blockhash.to_byte_array(),
        txids: txids.iter().map(|txid| txid.to_byte_array()).collect(),
        block,
        raw,
    })
}

/// The height that the coinbase of a block names, as BIP 34 has it.
pub(super) fn named_height(
    files: &[BlockFile],
    node: &HeaderNode,
    options: &BlockFilesOptions,
) -> Result<u64> {
    let block = read_with(&mut LastFile::default(), files, node, 0, options)?.block;
    let unknown = || match file_of(files, node) {
        Ok(file) => BlockFileError::UnknownHeight { file: file.path.clone(), offset: node.offset },
        Err(error) => error,
    };
    if block.header.version.to_consensus() < 2 {
        return Err(unknown());
    }
    let input = block.coinbase().and_then(|coinbase| coinbase.input.first()).ok_or_else(unknown)?;
    let height = match input.script_sig.instructions().next() {
        Some(Ok(Instruction::PushBytes(bytes))) => read_scriptint(bytes.as_bytes()).ok(),
        // Heights up to 16 are single opcodes.
        Some(Ok(Instruction::Op(opcode))) => match opcode.to_u8() {
            opcode @ 0x51..=0x60 => Some(i64::from(opcode - 0x50)),
            _ => None,
        },
        _ => None,
    };
    height.and_then(|height| u64::try_from(height).ok()).ok_or_else(unknown)
}
