//! Answering requests.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use op_engine_io::mailbox::Receiver;
use op_engine_io::{Env, ReplySender};

use crate::catalog::History;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::message::{Pins, Request};

use super::Shard;

type Reads = FuturesUnordered<LocalBoxFuture<'static, ()>>;

impl<E: Env> Shard<E> {
    /// Serves requests until the shard is closed or every asker has gone.
    pub(super) async fn serve(self: Rc<Self>, mut requests: Receiver<Request>) {
        let mut reads = Reads::new();
        let reads_max = self.config.reads_in_flight_max;
        while let Some(request) = poll_fn(|cx| next_request(&mut requests, &mut reads, reads_max, cx)).await {
            match request {
                Request::Commit(part) => self.accept(part),
                Request::Sync => self.accept_sync(),
                Request::Stop(cause) => {
                    self.stop(cause);
                }
                Request::MakeRoom => self.make_room(),
                Request::Mark(progress) => self.record_mark(progress),
                Request::Pin { pins, added, reply } => reply.send(self.pin(pins, added)),
                Request::Get(request) => {
                    if let Some(lookup) = self.begin_get(request) {
                        reads.push(Box::pin(Rc::clone(&self).finish_get(lookup)));
                    }
                }
                Request::Scan(request) => reads.push(Box::pin(Rc::clone(&self).scan(request))),
                Request::Flush(reply) => reads.push(Box::pin(Rc::clone(&self).flush_on_request(reply))),
                Request::Compact(reply) => reads.push(Box::pin(Rc::clone(&self).compact_on_request(reply))),
                Request::Tier(order, reply) => self.tier_on_request(order, reply),
                Request::Stats(reply) => reply.send(self.describe()),
                Request::Close(reply) => return self.close(reads, reply).await,
            }
        }
        // Nobody can ask any more: end without a flush. The WAL has everything that was acknowledged.
        self.closing.set(true);
    }

    /// Replaces the set of pinned views, unless the new view has lost something that it needs.
    fn pin(&self, pins: Pins, added: Option<Seq>) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let refused = added.filter(|view| !state.can_pin(*view, History::Window));
        if pins.version > state.pins.version {
            state.pins = pins;
            drop(state);
            self.work.raise();
        }
        match refused {
            Some(view) => Err(Error::ViewExpired { view }),
            None => Ok(()),
        }
    }

    /// Whether all that was applied is durable everywhere. If it is not, nothing will make it so any more.
    fn can_flush_everything(&self) -> bool {
        let state = self.state.borrow();
        self.writer.is_some() && state.progress.cut >= state.applied
    }

    /// Finishes reads, flushes and ends. What cannot be flushed stays in the WAL, which is no failure if only the disk
    /// is full.
    async fn close(self: Rc<Self>, mut reads: Reads, reply: ReplySender<Result<()>>) {
        while reads.next().await.is_some() {}
        let flushed = if self.can_flush_everything() { self.flush_everything().await } else { Ok(()) };
        let flushed = if flushed.as_ref().is_err_and(Error::is_out_of_space) { Ok(()) } else { flushed };
        self.closing.set(true);
        reply.send(match self.failure() {
            Some(failure) => Err(failure),
            None => flushed,
        });
    }
}

/// The next request, while the reads in hand make progress; `None` when no request can come any more.
fn next_request(
    requests: &mut Receiver<Request>,
    reads: &mut Reads,
    reads_max: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<Request>> {
    while let Poll::Ready(Some(())) = reads.poll_next_unpin(cx) {}
    if reads.len() >= reads_max {
        return Poll::Pending;
    }
    requests.poll_recv(cx)
}
