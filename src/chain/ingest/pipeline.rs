//! From blocks to commits: threads prepare, the calling thread hands over in order and waits for acknowledgements.
//!
//! One thread takes blocks from the source, several turn them into changes. Each block comes with a channel for its
//! result, and these channels wait in the order of the chain, so results are taken in order whichever thread is first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use crossbeam_channel::{Receiver, Sender, bounded};
use op_engine_io::block_on;

use super::{DemoSlots, Ingest, IngestCounts, block_changes, changes};
use crate::chain::block_files::BlockFileError;
use crate::chain::{ChainBlock, ChainError};
use crate::{Block, Engine, Height, Pending};

type Read = Result<Arc<ChainBlock>, BlockFileError>;

/// A block to be turned into changes, and where the result goes.
struct Job {
    block: Arc<ChainBlock>,
    done: Sender<Prepared>,
}

/// A block that is ready to be committed.
struct Prepared {
    changes: Block,
    counts: IngestCounts,
}

/// The next block of the chain: where its changes will come out, or why it could not be read.
type Turn = Result<(u64, Receiver<Prepared>), BlockFileError>;

/// A block that has been handed over.
struct Submitted {
    height: u64,
    counts: IngestCounts,
    pending: Pending,
}

/// Commits blocks in order. All that come before an error are committed and told of.
pub(super) fn run(
    engine: &Engine,
    blocks: impl Iterator<Item = Read> + Send,
    options: &Ingest<'_>,
    acknowledged: &mut impl FnMut(u64, IngestCounts),
) -> Result<(), ChainError> {
    let (jobs_in, jobs) = bounded(options.depth);
    let (turns_in, turns) = bounded(options.depth);
    let slots = options.slots;
    scope(|scope| {
        let mut threads = Vec::with_capacity(options.threads + 1);
        for number in 0..options.threads {
            let jobs = jobs.clone();
            threads.push(spawn(scope, format!("changes-{number}"), move || prepare(&jobs, slots))?);
        }
        // With its last receiver gone, the feeder ends too.
        drop(jobs);
        threads.push(spawn(scope, "feed".to_owned(), move || feed(blocks, &jobs_in, &turns_in))?);
        let outcome = commit(engine, &turns, options.depth, acknowledged);
        drop(turns);
        for thread in threads {
            // A panic has been told of already: the block that it hit never came out.
            drop(thread.join());
        }
        outcome
    })
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    work: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, ()>, ChainError> {
    Builder::new().name(name).spawn_scoped(scope, work).map_err(|source| ChainError::Thread { source })
}

/// Hands out blocks until there are no more or nobody wants them.
fn feed(blocks: impl Iterator<Item = Read>, jobs: &Sender<Job>, turns: &Sender<Turn>) {
    for block in blocks {
        let block = match block {
            Ok(block) => block,
            Err(error) => {
                // If nobody listens, the run has failed already.
                drop(turns.send(Err(error)));
                return;
            }
        };
        let (done, result) = bounded(1);
        if turns.send(Ok((block.height, result))).is_err() || jobs.send(Job { block, done }).is_err() {
            return;
        }
    }
}

fn prepare(jobs: &Receiver<Job>, slots: Option<DemoSlots>) {
    for Job { block, done } in jobs {
        let counts = changes::counts(&block);
        let mut changes = block_changes(&block);
        if let Some(slots) = slots {
            slots.write(&block, &mut changes);
        }
        // If nobody listens, the run has failed already.
        drop(done.send(Prepared { changes, counts }));
    }
}

fn commit(
    engine: &Engine,
    turns: &Receiver<Turn>,
    depth: usize,
    acknowledged: &mut impl FnMut(u64, IngestCounts),
) -> Result<(), ChainError> {
    let mut submitted = VecDeque::with_capacity(depth);
    let outcome = submit_all(engine, turns, depth, &mut submitted, acknowledged);
    // What was handed over is on its way whatever happened to later blocks.
    let rest = submitted.into_iter().try_for_each(|next| wait(next, acknowledged));
    // Blocks that were handed over come before the one that could not be.
    rest.and(outcome)
}

fn submit_all(
    engine: &Engine,
    turns: &Receiver<Turn>,
    depth: usize,
    submitted: &mut VecDeque<Submitted>,
    acknowledged: &mut impl FnMut(u64, IngestCounts),
) -> Result<(), ChainError> {
    for turn in turns {
        let (height, result) = turn?;
        let Ok(Prepared { changes, counts }) = result.recv() else {
            return Err(ChainError::Panicked { height: Height(height) });
        };
        while submitted.len() >= depth {
            let Some(oldest) = submitted.pop_front() else { break };
            if let Err(error) = wait(oldest, acknowledged) {
                // Those behind it cannot link, and say no more than that.
                submitted.clear();
                return Err(error);
            }
        }
        let pending = block_on(engine.submit(changes))?;
        submitted.push_back(Submitted { height, counts, pending });
    }
    Ok(())
}

fn wait(block: Submitted, acknowledged: &mut impl FnMut(u64, IngestCounts)) -> Result<(), ChainError> {
    block.pending.wait()?;
    acknowledged(block.height, block.counts);
    Ok(())
}
