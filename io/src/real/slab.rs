//! The operations of a ring, each in a slot whose number travels through the kernel.
//!
//! A slot lives until the kernel is done with the operation *and* somebody has taken the result. A future that is
//! dropped early gives up its slot: the operation, its buffer and its file stay until the completion and go then.

use std::task::{Context, Poll, Waker};

use io_uring::squeue::Entry;
use slab::Slab;

use super::operation::{Operation, Part, Step, Work};
use crate::error::Result;

/// What the kernel gets to know a slot by: the slot and the part of its operation.
pub(super) fn user_data(slot: usize, part: Part) -> u64 {
    crate::num::to_u64(slot) << 1 | u64::from(part == Part::LinkedSync)
}

fn from_user_data(user_data: u64) -> (usize, Part) {
    let part = if user_data & 1 == 0 { Part::Main } else { Part::LinkedSync };
    (crate::num::to_usize(user_data >> 1), part)
}

enum State {
    InFlight(Option<Waker>),
    Orphaned,
    Done(Result<()>),
}

struct Slot {
    operation: Operation,
    state: State,
}

/// The slots.
#[derive(Default)]
pub(super) struct Slots {
    slots: Slab<Slot>,
}

/// Up to two entries that go into the kernel together.
pub(super) type Entries = (Entry, Option<Entry>);

/// What a completion means for the ring.
pub(super) enum Outcome {
    /// Nothing yet.
    Wait,
    /// More to submit.
    Submit(Entries),
    /// An operation has ended.
    Finished(Finished),
}

/// An operation that has ended. Its parts are dropped and woken by the ring, outside of its borrows.
pub(super) struct Finished {
    pub(super) work: Work,
    pub(super) bytes: u64,
    pub(super) failed: bool,
    pub(super) waker: Option<Waker>,
    pub(super) orphan: Option<Operation>,
}

impl Slots {
    /// Takes an operation in; the entries are to be submitted.
    pub(super) fn insert(&mut self, operation: Operation) -> (usize, Entries) {
        let slot = self.slots.insert(Slot { operation, state: State::InFlight(None) });
        (slot, self.entries(slot))
    }

    fn entries(&self, slot: usize) -> Entries {
        let Some(Slot { operation, .. }) = self.slots.get(slot) else {
            return (io_uring::opcode::Nop::new().build(), None);
        };
        let (main, linked) = operation.entries();
        let linked = linked.map(|entry| entry.user_data(user_data(slot, Part::LinkedSync)));
        (main.user_data(user_data(slot, Part::Main)), linked)
    }

    /// Takes a completion; `None` if it belongs to no slot, which would be a fault of the ring's.
    pub(super) fn complete(&mut self, user_data: u64, result: i32) -> Option<Outcome> {
        let (number, part) = from_user_data(user_data);
        let slot = self.slots.get_mut(number)?;
        match slot.operation.complete(part, result) {
            Step::Wait => Some(Outcome::Wait),
            Step::Submit => Some(Outcome::Submit(self.entries(number))),
            Step::Done(result) => {
                let (work, bytes) = (slot.operation.work(), slot.operation.transferred());
                let failed = result.is_err();
                let (waker, orphan) = match std::mem::replace(&mut slot.state, State::Done(result)) {
                    State::InFlight(waker) => (waker, None),
                    State::Orphaned => (None, self.slots.try_remove(number).map(|slot| slot.operation)),
                    State::Done(_) => return None,
                };
                Some(Outcome::Finished(Finished { work, bytes, failed, waker, orphan }))
            }
        }
    }

    /// The operation and its result, once it has ended; frees the slot.
    pub(super) fn poll(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(Operation, Result<()>)>> {
        match self.slots.get_mut(number) {
            Some(Slot { state: State::InFlight(waker), .. }) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Some(Slot { state: State::Done(_), .. }) => match self.slots.try_remove(number) {
                Some(Slot { operation, state: State::Done(result) }) => {
                    Poll::Ready(Some((operation, result)))
                }
                _ => Poll::Ready(None),
            },
            _ => Poll::Ready(None),
        }
    }

    /// Gives a slot up. Returns its operation if the kernel is done with it.
    pub(super) fn abandon(&mut self, number: usize) -> Option<Operation> {
        let slot = self.slots.get_mut(number)?;
        match std::mem::replace(&mut slot.state, State::Orphaned) {
            State::Done(_) => self.slots.try_remove(number).map(|slot| slot.operation),
            State::InFlight(_) | State::Orphaned => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Target;
    use super::*;
    use crate::buf::IoBuf;
    use crate::env::{Dir, FileKind, FileName};
    use std::rc::Rc;

    fn operation() -> (Rc<Target>, Operation) {
        let name = FileName { dir: Dir::Root, kind: FileKind::Wal, number: 1 };
        let target = Rc::new(Target::file(tempfile::tempfile().unwrap().into(), name));
        (Rc::clone(&target), Operation::transfer(target, Work::Write(None), 0, IoBuf::zeroed(4096)))
    }

    #[test]
    fn an_abandoned_operation_keeps_its_file_until_the_completion() {
        let mut slots = Slots::default();
        let (target, operation) = operation();
        let (slot, _) = slots.insert(operation);
        assert!(slots.abandon(slot).is_none());
        assert_eq!(Rc::strong_count(&target), 2);
        let outcome = slots.complete(user_data(slot, Part::Main), 4096);
        let Some(Outcome::Finished(Finished { orphan: Some(orphan), waker: None, .. })) = outcome else {
            panic!("the operation has ended and belongs to nobody")
        };
        drop(orphan);
        assert_eq!((Rc::strong_count(&target), slots.slots.len()), (1, 0));
    }

    #[test]
    fn a_result_waits_for_its_taker() {
        let mut slots = Slots::default();
        let (_target, operation) = operation();
        let (slot, _) = slots.insert(operation);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(slots.poll(slot, &mut cx).is_pending());
        assert!(slots.complete(user_data(slot, Part::Main), 4096).is_some());
        assert!(
            slots.complete(user_data(slot, Part::Main), 4096).is_none(),
            "a second completion has no meaning"
        );
        let Poll::Ready(Some((operation, Ok(())))) = slots.poll(slot, &mut cx) else { panic!("done") };
        assert_eq!((operation.into_buf().unwrap().len(), slots.slots.len()), (4096, 0));
    }

    #[test]
    fn a_completion_for_an_empty_slot_is_refused() {
        assert!(Slots::default().complete(user_data(17, Part::Main), 0).is_none());
    }
}
