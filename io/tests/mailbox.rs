//! Mailboxes between threads of the system.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use op_engine_io::block_on;
use op_engine_io::mailbox::mailbox;

const SENDERS: usize = 4;
const MESSAGES_PER_SENDER: u64 = 25_000;
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Runs a test on a thread of its own and fails if it does not end in time.
fn within_time_limit(test: impl FnOnce() + Send + 'static) {
    let (finished, watchdog) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        finished.send(()).unwrap();
    });
    match watchdog.recv_timeout(TIME_LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a wake was lost: no end after {TIME_LIMIT:?}"),
        // A dropped channel means a failed assertion, which joining brings here.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => runner.join().unwrap(),
    }
}

fn stress(capacity: usize, blocking: impl Fn(usize) -> bool + Send + 'static) {
    within_time_limit(move || {
        let (sender, mut receiver) = mailbox::<(usize, u64)>(capacity);
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let sender = sender.clone();
                let blocking = blocking(number);
                thread::spawn(move || {
                    for message in 0..MESSAGES_PER_SENDER {
                        let sent = if blocking {
                            sender.send_blocking((number, message))
                        } else {
                            block_on(sender.send((number, message)))
                        };
                        sent.unwrap();
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; SENDERS];
        block_on(async {
            while let Some((number, message)) = receiver.recv().await {
                assert_eq!(message, next[number]);
                next[number] += 1;
            }
        });
        assert_eq!(next, [MESSAGES_PER_SENDER; SENDERS]);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn waiting_senders_lose_no_message_and_no_wake_at_capacity_one() {
    stress(1, |_| false);
}

#[test]
fn waiting_senders_lose_no_message_and_no_wake_at_capacity_64() {
    stress(64, |_| false);
}

#[test]
fn blocking_and_waiting_senders_share_a_mailbox() {
    stress(2, |number| number % 2 == 0);
}

#[test]
fn a_receiver_that_goes_ends_every_sender() {
    within_time_limit(|| {
        for round in 0..200 {
            let (sender, mut receiver) = mailbox::<u64>(1);
            let senders: Vec<_> = (0..SENDERS)
                .map(|number| {
                    let sender = sender.clone();
                    thread::spawn(move || {
                        let send = |message| match number % 2 {
                            0 => sender.send_blocking(message),
                            _ => block_on(sender.send(message)),
                        };
                        while send(0).is_ok() {}
                    })
                })
                .collect();
            for _ in 0..round % 10 {
                block_on(receiver.recv()).unwrap();
            }
            drop(receiver);
            for sender in senders {
                sender.join().unwrap();
            }
        }
    });
}

/// Notes whether the thread that waits has woken itself.
struct SelfWake {
    waiting: thread::ThreadId,
    woken: AtomicBool,
    by_itself: AtomicU64,
}

impl Wake for SelfWake {
    fn wake(self: Arc<Self>) {
        if thread::current().id() == self.waiting {
            self.by_itself.fetch_add(1, Ordering::Relaxed);
        }
        self.woken.store(true, Ordering::Release);
    }
}

/// The committer once turned round and round for up to 4 ms, on the core of the shard that it waited for: a shard had
/// been preempted in the middle of waking it, and a receiver that met such a sender woke itself to look again.
#[test]
fn a_receiver_never_wakes_itself() {
    within_time_limit(|| {
        let (sender, mut receiver) = mailbox::<u64>(8);
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    (0..10 * MESSAGES_PER_SENDER).for_each(|message| sender.send_blocking(message).unwrap());
                })
            })
            .collect();
        drop(sender);
        let (waiting, woken) = (thread::current().id(), AtomicBool::new(false));
        let wakes = Arc::new(SelfWake { waiting, woken, by_itself: AtomicU64::new(0) });
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        loop {
            match receiver.poll_recv(&mut context) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => break,
                Poll::Pending => {
                    while !wakes.woken.swap(false, Ordering::AcqRel) {
                        thread::yield_now();
                    }
                }
            }
        }
        assert_eq!(wakes.by_itself.load(Ordering::Relaxed), 0);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}
