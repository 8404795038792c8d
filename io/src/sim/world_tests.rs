//! Scheduling, time, hosts, crashes and traces.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::disk_tests::{A, page};
use super::{IoEvent, IoPhase, Outcome, Personality, SimDisk, SimEnv, SimOptions, SimWorld};
use crate::buf::IoBuf;
use crate::env::{
    Dir, Env, File, FileKind, FileName, OpenMode, PanicHook, PanicReport, Place, TaskClass, World, WriteSync,
};
use crate::mailbox::mailbox;
use crate::reply::reply;

fn no_hook() -> PanicHook {
    Arc::new(|_| {})
}

/// A shard-like host: a file of its own, a background task, and writes in parallel.
async fn busy_host(env: SimEnv, shard: u16, writes: u64) {
    let name = FileName { dir: Dir::Shard(shard), kind: FileKind::Wal, number: 1 };
    env.create_dir(name.dir).await.unwrap();
    let file = env.open(name, OpenMode::CreateNew).await.unwrap();
    env.sync_dir(name.dir).await.unwrap();
    file.zero_fill(1 << 20).await.unwrap();
    let background = env.clone();
    env.spawn(TaskClass::Background, "ticker", async move {
        loop {
            background.sleep(Duration::from_micros(100 + background.random() % 100)).await;
        }
    });
    for round in 0..writes {
        let at = round % 256 * 4096;
        let write = file.write_at(at, page(1), WriteSync::None);
        let read = file.read_at(0, IoBuf::zeroed(4096));
        let ((_, written), (_, read)) = futures_util::future::join(write, read).await;
        written.unwrap();
        read.unwrap();
        file.sync_data().await.unwrap();
    }
}

fn busy_world(options: SimOptions, hosts: u16, writes: u64) -> (SimWorld, Outcome<()>) {
    let world = SimWorld::new(options, SimDisk::new());
    let outcome = run_busy(&world, hosts, writes);
    (world, outcome)
}

fn run_busy(world: &SimWorld, hosts: u16, writes: u64) -> Outcome<()> {
    let starter = world.clone();
    world.run(async move {
        let running: Vec<_> = (0..hosts)
            .map(|shard| {
                let main = move |env| busy_host(env, shard, writes);
                starter.start(Place::Shard(shard), &format!("shard {shard}"), no_hook(), main).unwrap()
            })
            .collect();
        for host in running {
            host.finished().await;
        }
    })
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let run = |trace| {
            let (world, outcome) = busy_world(SimOptions { seed, trace, ..SimOptions::default() }, 3, 5);
            assert_eq!(outcome, Outcome::Done(()));
            let (hash, lines) = (world.trace_hash(), world.trace_lines());
            drop(world.stop());
            (hash, lines)
        };
        let (first, second) = (run(true), run(true));
        assert_eq!(first, second);
        assert_eq!(first.0, run(false).0, "recording does not change the run");
        assert!(first.1.iter().any(|line| line.contains("complete")) && run(false).1.is_empty());
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 20);
}

#[test]
fn a_crash_is_possible_at_every_index_and_agrees_with_the_fork_taken_there() {
    let forks: Rc<RefCell<Vec<(IoEvent, SimDisk)>>> = Rc::default();
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    let seen = Rc::clone(&forks);
    world.on_io(move |index, event, disk| {
        assert_eq!(seen.borrow().len() as u64, index);
        seen.borrow_mut().push((*event, disk.clone()));
    });
    assert_eq!(run_busy(&world, 2, 4), Outcome::Done(()));
    assert_eq!(world.io_count(), forks.borrow().len() as u64);
    drop(world.stop());
    let phases = |phase| forks.borrow().iter().filter(|(event, _)| event.phase == phase).count();
    assert_eq!(phases(IoPhase::Submitted), phases(IoPhase::Completed));

    for (index, (_, fork)) in forks.borrow().iter().enumerate() {
        let options = SimOptions { crash_at: Some(index as u64), ..SimOptions::default() };
        let (world, outcome) = busy_world(options, 2, 4);
        assert_eq!((outcome, world.io_count()), (Outcome::Crashed, index as u64 + 1));
        let disk = world.stop();
        assert_eq!(disk.in_flight_len(), fork.in_flight_len());
        for personality in [Personality::Strict, Personality::Ext4] {
            let (image, expected) = (disk.crash(7, personality), fork.crash(7, personality));
            assert_eq!(image.files(), expected.files());
            for file in image.files() {
                assert_eq!(image.read_file(file), expected.read_file(file));
            }
        }
    }
}

#[test]
fn a_run_with_nothing_left_to_happen_is_a_deadlock() {
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    let (sender, answer) = reply::<()>();
    assert_eq!(world.run(answer), Outcome::Deadlock);
    drop(sender);
    // A sleep that was given up does not keep the world going.
    let env = world.env();
    let (keep, mut answer) = reply::<()>();
    let slept = world.run(async {
        {
            let sleep = std::pin::pin!(env.sleep(Duration::from_secs(9)));
            let pause = std::pin::pin!(env.yield_now());
            futures_util::future::select(sleep, pause).await;
        }
        (&mut answer).await
    });
    assert_eq!((slept, world.now() < Duration::from_secs(1)), (Outcome::Deadlock, true));
    drop(keep);
    drop(world.stop());
}

#[test]
fn a_run_that_never_ends_hits_the_step_limit_and_its_clock_moves() {
    let world = SimWorld::new(SimOptions { step_max: 10_000, ..SimOptions::default() }, SimDisk::new());
    let env = world.env();
    let outcome: Outcome<()> = world.run(async {
        loop {
            env.yield_now().await;
        }
    });
    assert_eq!(outcome, Outcome::StepLimit);
    assert_eq!(world.now(), Duration::from_millis(10));
}

#[test]
fn sleepers_wake_in_the_order_of_their_times() {
    for seed in 0..20 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let woken: Rc<RefCell<Vec<u64>>> = Rc::default();
        for millis in [30, 10, 50, 20, 40] {
            let (sleeper, woken) = (env.clone(), Rc::clone(&woken));
            env.spawn(TaskClass::Background, "sleeper", async move {
                sleeper.sleep(Duration::from_millis(millis)).await;
                assert!(sleeper.now() >= Duration::from_millis(millis));
                woken.borrow_mut().push(millis);
            });
        }
        assert_eq!(world.run(env.sleep(Duration::from_secs(1))), Outcome::Done(()));
        assert!(world.now() < Duration::from_millis(1100));
        assert_eq!(*woken.borrow(), [10, 20, 30, 40, 50]);
        drop(world.stop());
    }
}

#[test]
fn a_panic_is_reported_and_ends_its_host_only() {
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    let reports: Arc<Mutex<Vec<PanicReport>>> = Arc::default();
    let seen = Arc::clone(&reports);
    let hook: PanicHook = Arc::new(move |report| seen.lock().unwrap().push(report));
    let starter = world.clone();
    let outcome = world.run(async move {
        let other = starter.start(Place::Shard(1), "other", no_hook(), |env| busy_host(env, 1, 20)).unwrap();
        let doomed = starter
            .start(Place::Shard(0), "doomed", hook, |env: SimEnv| async move {
                let worker = env.clone();
                env.spawn(TaskClass::Commit, "worker", async move {
                    worker.sleep(Duration::from_millis(1)).await;
                    panic!("seen by the test");
                });
                busy_host(env, 0, u64::MAX).await;
            })
            .unwrap();
        doomed.finished().await;
        other.finished().await;
    });
    assert_eq!(outcome, Outcome::Done(()));
    let report =
        PanicReport { host: "doomed".to_owned(), task: "worker", message: "seen by the test".to_owned() };
    let expected = [report];
    assert_eq!(*reports.lock().unwrap(), expected);
    assert_eq!(world.panics(), expected);
    assert_eq!(world.stop().in_flight_len(), 0, "operations of an ended host are drained");
}

#[test]
fn a_host_ends_with_its_main_future_after_its_operations_are_drained() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let mut disk = SimDisk::new();
    disk.write_file(A, &[1; 4096]);
    let world = SimWorld::new(SimOptions::default(), disk);
    let starter = world.clone();
    let outcome = world.run(async move {
        let (tell, told) = reply();
        let running = starter.start(Place::Floating, "short", no_hook(), |env: SimEnv| async move {
            let dropped = Dropped(Rc::new(Cell::new(false)));
            let flag = Rc::clone(&dropped.0);
            let writer = env.clone();
            env.spawn(TaskClass::Commit, "writer", async move {
                let _dropped = dropped;
                let file = writer.open(A, OpenMode::ReadWrite).await.unwrap();
                drop(file.write_at(0, page(2), WriteSync::None).await);
                tell.send(());
                drop(file.write_at(0, page(3), WriteSync::None).await);
                std::future::pending::<()>().await;
            });
            told.await.unwrap();
            assert!(!flag.get());
        });
        running.unwrap().finished().await;
    });
    assert_eq!(outcome, Outcome::Done(()));
    let disk = world.stop();
    assert_eq!((disk.in_flight_len(), world.panics().len()), (0, 0));
    assert!([2, 3].contains(&disk.read_file(A).unwrap()[0]));
}

#[test]
#[should_panic(expected = "observer's assertion")]
fn a_failed_assertion_of_an_observer_fails_the_run_and_not_a_task() {
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    world.on_io(|index, _, _| assert!(index < 10, "observer's assertion"));
    run_busy(&world, 1, 10);
}

#[test]
fn ready_tasks_run_in_any_order_whatever_their_class() {
    let mut orders = BTreeSet::new();
    for seed in 0..100 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let order: Rc<RefCell<Vec<TaskClass>>> = Rc::default();
        for class in TaskClass::ALL {
            let order = Rc::clone(&order);
            env.spawn(class, "racer", async move { order.borrow_mut().push(class) });
        }
        assert_eq!(world.run(env.sleep(Duration::from_millis(1))), Outcome::Done(()));
        drop(world.stop());
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn completions_are_reordered() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let mut disk = SimDisk::new();
        disk.write_file(A, &[0; 3 * 4096]);
        let world = SimWorld::new(SimOptions::with_seed(seed), disk);
        let env = world.env();
        let order: Rc<RefCell<Vec<u64>>> = Rc::default();
        let seen = Rc::clone(&order);
        world.on_io(move |_, event, _| {
            if event.phase == IoPhase::Completed && event.len > 0 {
                seen.borrow_mut().push(event.offset / 4096);
            }
        });
        let outcome = world.run(async {
            let file = env.open(A, OpenMode::ReadWrite).await.unwrap();
            let write = |at: u64| file.write_at(at * 4096, page(1), WriteSync::None);
            drop(futures_util::future::join3(write(0), write(1), write(2)).await);
        });
        assert_eq!(outcome, Outcome::Done(()));
        drop(world.stop());
        orders.insert(order.take());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_run_of_twenty_thousand_steps_is_quick_enough_for_thousands_of_seeds() {
    let start = Instant::now();
    let (world, outcome) = busy_world(SimOptions::default(), 4, 800);
    let elapsed = start.elapsed();
    assert_eq!(outcome, Outcome::Done(()));
    println!("{} steps, {} I/O events, {elapsed:?}", world.steps(), world.io_count());
    assert!(world.steps() > 20_000 && elapsed < Duration::from_secs(10));
    drop(world.stop());

    let forks = Rc::new(RefCell::new(Vec::new()));
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    let seen = Rc::clone(&forks);
    world.on_io(move |_, _, disk| seen.borrow_mut().push(disk.clone()));
    let start = Instant::now();
    assert_eq!(run_busy(&world, 4, 800), Outcome::Done(()));
    println!("with a fork at each of {} I/O events: {:?}", world.io_count(), start.elapsed());
    assert_eq!(forks.borrow().len() as u64, world.io_count());
    drop(world.stop());
    let start = Instant::now();
    let images = forks
        .borrow()
        .iter()
        .step_by(10)
        .map(|fork| fork.crash(1, Personality::Strict).files().len())
        .sum::<usize>();
    println!("{} crash images: {:?}", forks.borrow().len() / 10, start.elapsed());
    assert!(images > 0 && start.elapsed() < Duration::from_secs(10));
}

#[test]
fn requests_and_replies_travel_between_hosts() {
    let world = SimWorld::new(SimOptions::default(), SimDisk::new());
    let starter = world.clone();
    let outcome = world.run(async move {
        let (requests, mut inbox) = mailbox::<(u64, crate::reply::ReplySender<u64>)>(4);
        let running = starter.start(Place::Shard(0), "doubler", no_hook(), |_: SimEnv| async move {
            while let Some((number, answer)) = inbox.recv().await {
                answer.send(number * 2);
            }
        });
        let mut sum = 0;
        for number in 0..100 {
            let (answer, doubled) = reply();
            requests.send((number, answer)).await.unwrap();
            sum += doubled.await.unwrap();
        }
        drop(requests);
        running.unwrap().finished().await;
        sum
    });
    assert_eq!(outcome, Outcome::Done(9900));
}
