//! Hosts of the real world: nothing that wakes them is lost, and they end cleanly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests fail like tests"
)]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use op_engine_io::mailbox::{Sender, mailbox};
use op_engine_io::real::{RealSettings, RealWorld};
use op_engine_io::{
    Dir, Env, File, FileKind, FileName, IoBuf, OpenMode, PanicHook, Place, ReplySender, Running, TaskClass,
    World, WriteSync, block_on, reply,
};

const STUCK: Duration = Duration::from_secs(5);

fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn world(root: &Path) -> RealWorld {
    RealWorld::open(RealSettings { arena_bytes: 1 << 20, ..RealSettings::new(root) }).unwrap()
}

fn no_panics() -> PanicHook {
    Arc::new(|report| panic!("{report:?}"))
}

fn finish(running: Running) {
    let (done, ended) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        block_on(running.finished());
        done.send(()).unwrap();
    });
    ended.recv_timeout(STUCK).expect("the host ends in time");
    waiter.join().unwrap();
}

/// Waits for a reply on a runtime of the caller's own, but not for ever.
fn answer_within<T: Send + 'static>(answer: op_engine_io::Reply<T>, what: &str) -> T {
    let mut answer = std::pin::pin!(answer);
    let this = std::thread::current();
    let waker = std::task::Waker::from(Arc::new(Unparker(this)));
    let mut cx = std::task::Context::from_waker(&waker);
    let started = Instant::now();
    loop {
        if let std::task::Poll::Ready(answer) = answer.as_mut().poll(&mut cx) {
            return answer.unwrap();
        }
        assert!(started.elapsed() < STUCK, "{what} got no answer in {STUCK:?}");
        std::thread::park_timeout(STUCK);
    }
}

struct Unparker(std::thread::Thread);

impl std::task::Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

type Request = (u64, ReplySender<u64>);

fn doubling_host(world: &RealWorld, place: Place) -> (Sender<Request>, Running) {
    let (requests, mut inbox) = mailbox::<Request>(64);
    let running = world.start(place, "doubling", no_panics(), move |_env| async move {
        while let Some((number, answer)) = inbox.recv().await {
            answer.send(number * 2);
        }
    });
    (requests, running.unwrap())
}

/// Both cores are kept busy by others, so that every thread is taken off its core at every possible moment.
#[test]
fn a_hundred_thousand_requests_from_other_threads_are_all_answered() {
    const CLIENTS: u64 = 4;
    const REQUESTS: u64 = 25_000;
    let temp = temp();
    let world = world(temp.path());
    let (requests, running) = doubling_host(&world, Place::Shard(0));
    let stop = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let requests = requests.clone();
            std::thread::spawn(move || {
                for number in 0..REQUESTS {
                    let (sender, answer) = reply();
                    requests.send_blocking((number + client, sender)).unwrap();
                    assert_eq!(answer_within(answer, "a request"), (number + client) * 2);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
    drop(requests);
    finish(running);
}

#[test]
fn two_hosts_talk_to_each_other() {
    let temp = temp();
    let world = world(temp.path());
    let (requests, doubling) = doubling_host(&world, Place::Shard(1));
    let (done, sum) = reply();
    let asking = world.start(Place::Floating, "asking", no_panics(), move |_env| async move {
        let mut sum = 0;
        for number in 0..5000 {
            let (sender, answer) = reply();
            requests.send((number, sender)).await.unwrap();
            sum += answer.await.unwrap();
        }
        done.send(sum);
    });
    assert_eq!(answer_within(sum, "the asking host"), 4999 * 5000);
    finish(asking.unwrap());
    finish(doubling);
}

#[test]
fn sleeps_end_in_order_and_on_time() {
    let temp = temp();
    let world = world(temp.path());
    let (done, took) = reply();
    let running = world.start(Place::Shard(0), "sleeper", no_panics(), move |env| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for millis in [30_u64, 10, 20, 250] {
            let (env, order) = (env.clone(), Rc::clone(&order));
            env.clone().spawn(TaskClass::Background, "nap", async move {
                env.sleep(Duration::from_millis(millis)).await;
                order.borrow_mut().push(millis);
            });
        }
        let before = env.now();
        env.sleep(Duration::from_millis(60)).await;
        let took = env.now() - before;
        let slept = order.borrow().clone();
        done.send((took, slept));
        // The nap of 250 ms is dropped with its host.
    });
    let (took, order) = answer_within(took, "the sleeper");
    assert_eq!(order, [10, 20, 30]);
    assert!(took >= Duration::from_millis(60) && took < Duration::from_secs(2), "{took:?}");
    finish(running.unwrap());
}

#[test]
fn busy_background_tasks_do_not_hold_up_requests_and_are_not_starved() {
    let temp = temp();
    let world = world(temp.path());
    let (requests, mut inbox) = mailbox::<Request>(64);
    let (turns, background_turns) = reply();
    let running = world.start(Place::Shard(0), "mixed", no_panics(), move |env| async move {
        let counted = Rc::new(std::cell::Cell::new([0_u64; 3]));
        for class in TaskClass::ALL {
            let (busy, counted) = (env.clone(), Rc::clone(&counted));
            env.spawn(class, "busy", async move {
                loop {
                    let mut turns = counted.get();
                    turns[class as usize] += 1;
                    counted.set(turns);
                    busy.yield_now().await;
                }
            });
        }
        while let Some((number, answer)) = inbox.recv().await {
            answer.send(number * 2);
        }
        turns.send(counted.get());
    });
    for number in 0..1000 {
        let (sender, answer) = reply();
        requests.send_blocking((number, sender)).unwrap();
        assert_eq!(answer_within(answer, "a request"), number * 2);
    }
    drop(requests);
    let turns = answer_within(background_turns, "the mixed host");
    assert!(turns.iter().all(|turns| *turns > 1000), "each class ran: {turns:?}");
    finish(running.unwrap());
}

#[test]
fn a_panicking_task_is_reported_and_ends_its_host_with_its_writes_drained() {
    struct Noisy(mpsc::Sender<&'static str>);
    impl Drop for Noisy {
        fn drop(&mut self) {
            self.0.send("dropped").unwrap();
        }
    }
    let temp = temp();
    let world = world(temp.path());
    let (reported, reports) = mpsc::channel();
    let (noise, noises) = mpsc::channel();
    let hook: PanicHook = Arc::new(move |report| reported.send(report).unwrap());
    let running = world.start(Place::Shard(0), "fragile", hook, move |env| async move {
        let noisy = Noisy(noise);
        let name = FileName { dir: Dir::Root, kind: FileKind::Wal, number: 1 };
        let file = env.open(name, OpenMode::CreateNew).await.unwrap();
        env.spawn(TaskClass::Commit, "writer", async move {
            let mut buf = IoBuf::zeroed(1 << 20);
            buf.as_mut_slice().fill(3);
            file.write_at(0, buf, WriteSync::Durable).await.1.unwrap();
        });
        env.spawn(TaskClass::Background, "culprit", async {
            panic!("on purpose");
        });
        std::future::pending::<()>().await;
        drop(noisy);
    });
    finish(running.unwrap());
    let report = reports.try_recv().unwrap();
    assert_eq!(
        (report.host.as_str(), report.task, report.message.as_str()),
        ("fragile", "culprit", "on purpose")
    );
    assert_eq!(noises.try_recv(), Ok("dropped"), "the other tasks are dropped");
    let bytes = std::fs::read(temp.path().join("0000000000000001.wal")).unwrap();
    assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == 3), "the write in flight has landed");
}

#[test]
fn a_panic_of_the_main_task_and_of_the_hook_end_the_host_too() {
    let temp = temp();
    let world = world(temp.path());
    let hook: PanicHook = Arc::new(|_| panic!("the hook as well"));
    let running = world.start(Place::Floating, "hopeless", hook, |_env| async { panic!("at once") });
    finish(running.unwrap());
    // The world still works.
    let (requests, running) = doubling_host(&world, Place::Shard(0));
    let (sender, answer) = reply();
    requests.send_blocking((21, sender)).unwrap();
    assert_eq!(answer_within(answer, "the next host"), 42);
    drop(requests);
    finish(running);
}

#[test]
fn a_shard_runs_on_its_core_and_a_foreign_core_is_refused() {
    let temp = temp();
    let settings = RealSettings { cores: vec![0], arena_bytes: 1 << 20, ..RealSettings::new(temp.path()) };
    let world = RealWorld::open(settings.clone()).unwrap();
    let (done, cpu) = reply();
    let running = world.start(Place::Shard(5), "pinned", no_panics(), move |_env| async move {
        let cpus = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        done.send(
            cpus.lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .map(|it| it.trim().to_owned()),
        );
    });
    assert_eq!(answer_within(cpu, "the pinned host").as_deref(), Some("0"));
    finish(running.unwrap());
    drop(world);
    let refused = RealWorld::open(RealSettings { cores: vec![1000], ..settings }).unwrap_err();
    assert!(matches!(refused, op_engine_io::Error::Unsupported { .. }), "{refused}");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Tests of one binary share its descriptors, so this one counts in a process of its own.
#[test]
fn starting_and_stopping_leaks_no_descriptors() {
    const VARIABLE: &str = "OP_ENGINE_IO_COUNT_DESCRIPTORS";
    const CYCLES: usize = 200;
    /// glommio keeps one event descriptor for every executor that ever ran.
    const LEAKED_BY_EXECUTOR: usize = 1;
    if std::env::var_os(VARIABLE).is_none() {
        let own = std::env::current_exe().unwrap();
        let arguments = ["--exact", "starting_and_stopping_leaks_no_descriptors", "--nocapture"];
        let output = std::process::Command::new(own).args(arguments).env(VARIABLE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let temp = temp();
    let world = world(temp.path());
    let cycle = |number: u64| {
        let running = world.start(Place::Shard(0), "short", no_panics(), move |env| async move {
            let name = FileName { dir: Dir::Root, kind: FileKind::Wal, number };
            let file = env.open(name, OpenMode::CreateNew).await.unwrap();
            file.write_at(0, env.buffer(4096).await, WriteSync::Durable).await.1.unwrap();
            env.remove(name).await.unwrap();
        });
        finish(running.unwrap());
    };
    cycle(0);
    let before = descriptors();
    for number in 0..CYCLES {
        cycle(number as u64 + 1);
    }
    let leaked = descriptors() - before;
    assert!(leaked <= CYCLES * LEAKED_BY_EXECUTOR, "{leaked} descriptors leaked in {CYCLES} cycles");
    assert_eq!(world.ring_reports(), [], "no ring is left");
    assert!(world.counters().writes > CYCLES as u64);
}
