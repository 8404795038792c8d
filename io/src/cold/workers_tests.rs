//! Threads that hang, and those who wait for them.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::reply::block_on;

const LONG: Duration = Duration::from_secs(60);
/// Long enough for a busy machine to begin a call within it.
const BRIEF: Duration = Duration::from_millis(400);

fn fault<T>(result: Result<T, Failure>) -> Option<ColdFault> {
    result.err().map(|failure| failure.fault)
}

/// A call that hangs until the sender goes.
fn hanging(gate: Receiver<()>) -> impl FnOnce(&dyn Fn() -> bool) -> Result<bool, Failure> + Send {
    move |has_gone| {
        let _ = gate.recv();
        Ok(has_gone())
    }
}

/// Lets threads hang; one more gate for each.
fn hang(workers: &Workers, threads: usize) -> Vec<Sender<()>> {
    let hang_one = |_| {
        let (opener, gate) = channel();
        assert_eq!(fault(block_on(workers.run(BRIEF, hanging(gate)))), Some(ColdFault::TimedOut));
        opener
    };
    (0..threads).map(hang_one).collect()
}

#[test]
fn calls_run_beside_each_other_up_to_the_number_of_threads() {
    let workers = Workers::new(3, None);
    let meeting = Arc::new(Barrier::new(3));
    let calls = (0..3).map(|nth| {
        let meeting = Arc::clone(&meeting);
        workers.run(LONG, move |_| {
            meeting.wait();
            Ok(nth)
        })
    });
    let answers = block_on(futures_util::future::join_all(calls));
    assert_eq!(answers, [Ok(0), Ok(1), Ok(2)]);
    assert!(workers.handle.shared.lock().threads <= 3);
}

#[test]
fn an_asker_does_not_wait_for_a_call_that_hangs_and_the_call_learns_of_it() {
    let workers = Workers::new(2, None);
    let (told, learnt) = channel();
    let (opener, gate) = channel::<()>();
    let call = move |has_gone: &dyn Fn() -> bool| {
        let _ = gate.recv();
        let _ = told.send(has_gone());
        Ok(())
    };
    assert_eq!(fault(block_on(workers.run(BRIEF, call))), Some(ColdFault::TimedOut));
    assert_eq!(block_on(workers.run(LONG, |has_gone| Ok(has_gone()))), Ok(false));
    drop(opener);
    assert_eq!(learnt.recv(), Ok(true));
}

#[test]
fn when_all_threads_hang_requests_fail_at_once_until_one_comes_back() {
    let workers = Workers::new(2, None);
    let mut gates = hang(&workers, 2);
    let began = Instant::now();
    assert_eq!(fault(block_on(workers.run(LONG, |_| Ok(())))), Some(ColdFault::Unreachable));
    assert!(began.elapsed() < Duration::from_secs(10));
    gates.pop();
    while workers.handle.shared.lock().stuck.len() == 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(block_on(workers.run(LONG, |_| Ok(7))), Ok(7));
    drop(gates);
}

#[test]
fn those_who_wait_when_the_last_thread_gets_stuck_are_told() {
    let workers = Workers::new(1, None);
    let (opener, gate) = channel();
    let hung = workers.run(BRIEF, hanging(gate));
    let waiting = workers.run(LONG, |_| Ok(()));
    let (hung, waiting) = block_on(futures_util::future::join(hung, waiting));
    assert_eq!((fault(hung), fault(waiting)), (Some(ColdFault::TimedOut), Some(ColdFault::Unreachable)));
    drop(opener);
}

#[test]
fn a_request_that_waits_too_long_is_never_made() {
    let workers = Workers::new(1, None);
    let (opener, gate) = channel();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let hung = workers.run(LONG, hanging(gate));
    let waiting = workers.run(BRIEF, move |_| Ok(count.fetch_add(1, Ordering::SeqCst)));
    let late = async {
        let answer = waiting.await;
        drop(opener);
        answer
    };
    let (hung, late) = block_on(futures_util::future::join(hung, late));
    assert_eq!((hung, fault(late)), (Ok(false), Some(ColdFault::TimedOut)));
    assert_eq!(made.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_is_an_error_and_the_thread_goes_on() {
    let workers = Workers::new(1, None);
    let panics = |_: &dyn Fn() -> bool| -> Result<(), Failure> { panic!("on purpose") };
    assert_eq!(fault(block_on(workers.run(LONG, panics))), Some(ColdFault::Other));
    assert_eq!(block_on(workers.run(LONG, |_| Ok(1))), Ok(1));
}

#[test]
fn what_was_handed_over_is_done_after_the_last_handle_has_gone_and_nobody_waits_for_it() {
    let workers = Workers::new(1, None);
    let (opener, gate) = channel::<()>();
    let (told, learnt) = channel();
    for nth in 0..3 {
        let told = told.clone();
        workers.detach(LONG, move || told.send(nth).unwrap());
    }
    workers.detach(LONG, move || assert!(gate.recv().is_err()));
    let shared = Arc::downgrade(&workers.handle.shared);
    drop(workers);
    assert_eq!(learnt.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
    drop(opener);
    while shared.upgrade().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
