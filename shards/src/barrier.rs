//! The barrier between shards: numbers commits, sends each shard its part, and knows what is applied and durable.
//!
//! The *cut* is the lowest durable number over all shards. A commit is acknowledged when the cut reaches it; no second
//! phase is needed, because recovery takes the same minimum. One task sends and one task listens, and the listening
//! one never waits for a shard, so that requests and acknowledgements cannot block each other.

use std::cell::RefCell;

use op_engine_io::mailbox::{Receiver, Sender};
use op_engine_io::num::to_usize;

use crate::error::{Error, Result};
use crate::ids::{BlockHash, Height, Seq, ShardId};
use crate::message::{CommitKind, CommitPart, Event, Progress, Request, SpaceNeed};
use crate::mutants::{Mutant, active};
use crate::signal::Signal;

/// A commit before it has a number.
#[derive(Debug)]
pub struct Commit {
    /// What it does.
    pub kind: CommitKind,
    /// The height of the block, or the height that a reorg goes back to.
    pub height: Height,
    /// The hash of the block at that height.
    pub hash: BlockHash,
    /// The hash of the block below.
    pub parent: BlockHash,
    /// A payload for each shard.
    pub payloads: Vec<Vec<u8>>,
    /// Whether it is made durable before it is acknowledged.
    pub durable: bool,
}

struct State {
    last: Seq,
    applied: Vec<Seq>,
    durable: Vec<Seq>,
    needs: Vec<SpaceNeed>,
    /// The highest number that a shard waits for before it can flush.
    cut_wanted: Seq,
    failed: Option<Error>,
}

/// Orders commits over all shards. One per engine.
pub struct Barrier {
    shards: Vec<Sender<Request>>,
    state: RefCell<State>,
    changed: Signal,
}

impl Barrier {
    /// A barrier over shards that all stand at `cut`, with numbers above `floor` free.
    #[must_use]
    pub fn new(shards: Vec<Sender<Request>>, cut: Seq, floor: Seq) -> Self {
        let state = State {
            last: floor.max(cut),
            applied: vec![cut; shards.len()],
            durable: vec![cut; shards.len()],
            needs: vec![SpaceNeed::default(); shards.len()],
            cut_wanted: Seq::ZERO,
            failed: None,
        };
        Self { shards, state: RefCell::new(state), changed: Signal::default() }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The number that the next commit gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.state.borrow().last.next()
    }

    /// Commits up to here are durable on every shard.
    #[must_use]
    pub fn cut(&self) -> Seq {
        let state = self.state.borrow();
        let durable = state.durable.iter().copied();
        let cut = if active(Mutant::AcknowledgeEarly) { durable.max() } else { durable.min() };
        cut.unwrap_or(Seq::ZERO)
    }

    /// Commits up to here are seen by readers of every shard.
    #[must_use]
    pub fn applied(&self) -> Seq {
        self.state.borrow().applied.iter().copied().min().unwrap_or(Seq::ZERO)
    }

    /// The highest number that a shard waits for before it can flush.
    #[must_use]
    pub fn cut_wanted(&self) -> Seq {
        self.state.borrow().cut_wanted
    }

    /// What each shard may still take from the disk.
    #[must_use]
    pub fn space_needs(&self) -> Vec<SpaceNeed> {
        self.state.borrow().needs.clone()
    }

    /// Takes in what a shard may still take from the disk.
    pub fn note_space(&self, shard: ShardId, need: SpaceNeed) {
        if let Some(place) = self.state.borrow_mut().needs.get_mut(usize::from(shard.0)) {
            *place = need;
        }
    }

    /// Asks every shard to give back what it can, and to try again what it could not do for lack of space.
    ///
    /// # Errors
    /// If a shard is gone.
    pub async fn make_room(&self) -> Result<()> {
        for shard in &self.shards {
            self.deliver(shard, Request::MakeRoom).await?;
        }
        Ok(())
    }

    /// The failure that has stopped commits, if one has.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.state.borrow().failed.clone()
    }

    /// Stops all commits: each from now on gets the cause.
    pub fn fail(&self, cause: Error) {
        let mut state = self.state.borrow_mut();
        if state.failed.is_none() {
            tracing::error!(%cause, "commits have stopped");
            state.failed = Some(cause.poison());
        }
        drop(state);
        self.changed.raise();
    }

    /// Raised whenever a watermark moves or a failure comes.
    #[must_use]
    pub fn changed(&self) -> &Signal {
        &self.changed
    }

    /// Gives a commit its number and sends every shard its part. `prev` is the commit before it.
    ///
    /// # Errors
    /// The failure that has stopped commits. The commit may or may not be there after the next open then.
    pub async fn send(&self, commit: Commit, prev: Seq, progress: Progress) -> Result<Seq> {
        assert_eq!(commit.payloads.len(), self.shards.len(), "a commit has a part for every shard");
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let seq = self.next_seq();
        self.state.borrow_mut().last = seq;
        let Commit { kind, height, hash, parent, payloads, durable } = commit;
        for (shard, payload) in self.shards.iter().zip(payloads) {
            let payload = payload.into();
            let part = CommitPart { kind, seq, prev, height, hash, parent, payload, durable, progress };
            self.deliver(shard, Request::Commit(part)).await?;
        }
        Ok(seq)
    }

    async fn deliver(&self, shard: &Sender<Request>, request: Request) -> Result<()> {
        if shard.send(request).await.is_err() {
            self.fail(Error::Closed);
            return Err(self.failure().unwrap_or(Error::Closed));
        }
        Ok(())
    }

    /// Asks every shard to make what it has durable.
    ///
    /// # Errors
    /// If a shard is gone.
    pub async fn request_sync(&self) -> Result<()> {
        for shard in &self.shards {
            self.deliver(shard, Request::Sync).await?;
        }
        Ok(())
    }

    /// Tells every shard what is durable everywhere, to be recorded.
    ///
    /// # Errors
    /// If a shard is gone.
    pub async fn mark(&self, progress: Progress) -> Result<()> {
        for shard in &self.shards {
            self.deliver(shard, Request::Mark(progress)).await?;
        }
        Ok(())
    }

    /// Waits until readers of every shard see a commit.
    ///
    /// # Errors
    /// The failure that has stopped commits.
    pub async fn until_applied(&self, seq: Seq) -> Result<()> {
        self.until(|barrier| barrier.applied() >= seq).await
    }

    /// Waits until a commit is durable on every shard.
    ///
    /// # Errors
    /// The failure that has stopped commits.
    pub async fn until_durable(&self, seq: Seq) -> Result<()> {
        self.until(|barrier| barrier.cut() >= seq).await
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) -> Result<()> {
        loop {
            let mark = self.changed.mark();
            if reached(self) {
                return Ok(());
            }
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            self.changed.raised_since(mark).await;
        }
    }

    /// Takes in what shards report, until the last one has gone.
    pub async fn listen(&self, mut events: Receiver<Event>) {
        while let Some(event) = events.recv().await {
            self.take_in(event);
        }
    }

    fn take_in(&self, event: Event) {
        if let Event::Applied(shard, _, need) | Event::Space(shard, need) = &event {
            self.note_space(*shard, *need);
        }
        let mut state = self.state.borrow_mut();
        match event {
            Event::Applied(shard, seq, _) => raise(&mut state.applied, shard, seq),
            Event::Space(..) => {}
            Event::Durable(shard, seq) => raise(&mut state.durable, shard, seq),
            Event::CutWanted(_, seq) => state.cut_wanted = state.cut_wanted.max(seq),
            Event::Failed(shard, cause) => {
                drop(state);
                tracing::error!(%shard, "a shard has failed");
                return self.fail(cause);
            }
        }
        drop(state);
        self.changed.raise();
    }
}

fn raise(watermarks: &mut [Seq], shard: ShardId, seq: Seq) {
    if let Some(mark) = watermarks.get_mut(to_usize(u64::from(shard.0))) {
        *mark = (*mark).max(seq);
    }
}

#[cfg(test)]
mod tests {
    use op_engine_io::block_on;
    use op_engine_io::mailbox::mailbox;

    use super::*;

    fn commit(shards: usize) -> Commit {
        Commit {
            kind: CommitKind::Global,
            height: Height::default(),
            hash: BlockHash::default(),
            parent: BlockHash::default(),
            payloads: vec![Vec::new(); shards],
            durable: true,
        }
    }

    #[test]
    fn a_commit_is_durable_when_the_last_shard_has_it_and_numbers_go_on_above_the_floor() {
        let (ends, mut mailboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| mailbox(4)).unzip();
        let barrier = Barrier::new(ends, Seq(5), Seq(11));
        let seq = block_on(barrier.send(commit(3), Seq(5), Progress::default())).unwrap();
        assert_eq!(seq, Seq(12));
        for requests in &mut mailboxes {
            let Some(Request::Commit(part)) = requests.try_recv() else { panic!("each shard gets its part") };
            assert_eq!((part.seq, part.prev), (Seq(12), Seq(5)));
        }
        for shard in [2, 0] {
            let need = SpaceNeed { bytes: 7, ..SpaceNeed::default() };
            barrier.take_in(Event::Applied(ShardId(shard), seq, need));
            assert_eq!(barrier.space_needs()[usize::from(shard)], need);
            barrier.take_in(Event::Durable(ShardId(shard), seq));
            assert_eq!((barrier.applied(), barrier.cut()), (Seq(5), Seq(5)));
        }
        barrier.take_in(Event::Space(ShardId(2), SpaceNeed::default()));
        assert_eq!(barrier.space_needs()[2].bytes, 0);
        barrier.take_in(Event::Durable(ShardId(1), seq));
        assert_eq!((barrier.applied(), barrier.cut()), (Seq(5), seq));
    }

    #[test]
    fn a_failed_shard_stops_commits_with_its_cause() {
        let (end, _requests) = mailbox(4);
        let barrier = Barrier::new(vec![end], Seq(1), Seq(1));
        let cause = Error::Io(op_engine_io::Error::Stopped);
        barrier.take_in(Event::Failed(ShardId(0), cause.clone()));
        let refused = block_on(barrier.send(commit(1), Seq(1), Progress::default())).unwrap_err();
        assert_eq!(refused, cause.poison());
        assert_eq!(block_on(barrier.until_durable(Seq(2))), Err(refused));
    }
}
