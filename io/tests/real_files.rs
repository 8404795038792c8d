//! Files of the real world: what is written is what is read, whatever happens around it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests fail like tests"
)]

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use op_engine_io::real::{RealEnv, RealSettings, RealWorld};
use op_engine_io::{
    Dir, Env, Error, File, FileKind, FileName, IO_UNIT_BYTES, IoBuf, OpenMode, Place, SyncMode, TaskClass,
    World, WriteSync,
};

const LIMIT: Duration = Duration::from_secs(60);

fn temp() -> tempfile::TempDir {
    // Beside the build, because the system's temporary directory may be a tmpfs.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn settings(root: &Path) -> RealSettings {
    RealSettings { arena_bytes: 2 << 20, ..RealSettings::new(root) }
}

/// Runs a task in a world of its own, within the time limit.
fn run<F, Fut>(settings: RealSettings, main: F) -> RealWorld
where
    F: FnOnce(RealEnv) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let world = RealWorld::open(settings).unwrap();
    let (panicked, panics) = mpsc::channel();
    let hook = std::sync::Arc::new(move |report| panicked.send(report).unwrap());
    let running = world.start(Place::Shard(0), "test", hook, main).unwrap();
    let (done, ended) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        op_engine_io::block_on(running.finished());
        done.send(()).unwrap();
    });
    ended.recv_timeout(LIMIT).expect("the host ends in time");
    waiter.join().unwrap();
    if let Ok(report) = panics.try_recv() {
        panic!("{report:?}");
    }
    world
}

fn name(kind: FileKind, number: u64) -> FileName {
    FileName { dir: Dir::Root, kind, number }
}

fn pattern(seed: u64, buf: &mut IoBuf) {
    for (index, word) in buf.as_mut_slice().as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mixed = (seed ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *word = (mixed ^ mixed >> 29).to_le_bytes();
    }
}

fn assert_pattern(seed: u64, buf: &IoBuf) {
    let mut expected = IoBuf::zeroed(buf.len());
    pattern(seed, &mut expected);
    assert!(buf.as_slice() == expected.as_slice(), "the page of seed {seed} holds something else");
}

#[test]
fn writes_of_all_sizes_come_back_in_every_sync_mode() {
    for sync_mode in SyncMode::ALL {
        let temp = temp();
        let world = run(RealSettings { sync_mode, ..settings(temp.path()) }, |env| async move {
            let file = env.open(name(FileKind::Wal, 1), OpenMode::CreateNew).await.unwrap();
            let mut offset = 0;
            let mut written = Vec::new();
            // From one unit to more than the arena's largest buffer, arena and heap both.
            for units in [1, 2, 3, 16, 64, 100, 256, 300] {
                for heap in [false, true] {
                    let bytes = units * IO_UNIT_BYTES;
                    let mut buf = if heap { IoBuf::zeroed(bytes) } else { env.buffer(bytes).await };
                    assert!(buf.as_slice().iter().all(|byte| *byte == 0));
                    pattern(offset, &mut buf);
                    let sync = if units % 2 == 0 { WriteSync::Durable } else { WriteSync::None };
                    let (buf, result) = file.write_at(offset, buf, sync).await;
                    result.unwrap();
                    written.push((offset, buf.len()));
                    offset += buf.len() as u64;
                }
            }
            file.sync_data().await.unwrap();
            env.sync_dir(Dir::Root).await.unwrap();
            assert_eq!(file.len().await.unwrap(), offset);
            drop(file);
            let file = env.open(name(FileKind::Wal, 1), OpenMode::Read).await.unwrap();
            for (offset, bytes) in written {
                let (buf, result) = file.read_at(offset, env.read_buffer(bytes).await).await;
                result.unwrap();
                assert_pattern(offset, &buf);
            }
        });
        let counters = world.counters();
        assert_eq!((counters.writes, counters.reads, counters.failures), (16, 16, 0));
        assert_eq!(counters.overflows, 0);
        assert!(counters.syncs >= 10, "{counters:?}");
    }
}

#[test]
fn errors_are_typed() {
    let temp = temp();
    run(settings(temp.path()), |env| async move {
        let wal = name(FileKind::Wal, 7);
        assert_eq!(
            env.open(wal, OpenMode::Read).await.unwrap_err(),
            Error::NotFound { file: "0000000000000007.wal".to_owned() }
        );
        let file = env.open(wal, OpenMode::CreateNew).await.unwrap();
        assert!(matches!(env.open(wal, OpenMode::CreateNew).await.unwrap_err(), Error::AlreadyExists { .. }));
        let (_, written) = file.write_at(0, env.buffer(8192).await, WriteSync::None).await;
        written.unwrap();

        for (offset, bytes) in [(8192, 4096), (4096, 8192), (1 << 40, 4096)] {
            let (buf, result) = file.read_at(offset, env.buffer(bytes).await).await;
            assert_eq!(buf.len(), bytes, "the buffer comes back");
            let wanted = offset + bytes as u64;
            assert_eq!(
                result.unwrap_err(),
                Error::ShortFile { file: "0000000000000007.wal".to_owned(), wanted, len: 8192 }
            );
        }
        for offset in [1, 512, u64::MAX - 4095, i64::MAX as u64 + 1] {
            let (_, read) = file.read_at(offset, env.buffer(4096).await).await;
            assert!(matches!(read.unwrap_err(), Error::Os { errno: libc::EINVAL, .. }));
        }
        let reader = env.open(wal, OpenMode::Read).await.unwrap();
        let (_, refused) = reader.write_at(0, env.buffer(4096).await, WriteSync::Durable).await;
        assert!(matches!(refused.unwrap_err(), Error::Os { errno: libc::EBADF, .. }));

        let missing = FileName { dir: Dir::Shard(3), ..wal };
        assert!(matches!(env.open(missing, OpenMode::CreateNew).await.unwrap_err(), Error::NotFound { .. }));
        assert!(matches!(env.remove(missing).await.unwrap_err(), Error::NotFound { .. }));
        assert!(matches!(env.sync_dir(Dir::Shard(3)).await.unwrap_err(), Error::NotFound { .. }));
    });
}

/// A file whose length is no multiple of the unit, as a crash or a copy may leave it.
#[test]
fn a_ragged_end_is_a_short_file() {
    let temp = temp();
    std::fs::write(temp.path().join("0000000000000001.segment"), vec![7; 6000]).unwrap();
    run(settings(temp.path()), |env| async move {
        let file = env.open(name(FileKind::Segment, 1), OpenMode::Read).await.unwrap();
        let (buf, first) = file.read_at(0, env.buffer(4096).await).await;
        first.unwrap();
        assert!(buf.as_slice().iter().all(|byte| *byte == 7));
        let (_, beyond) = file.read_at(0, env.buffer(8192).await).await;
        let file = "0000000000000001.segment".to_owned();
        assert_eq!(beyond.unwrap_err(), Error::ShortFile { file, wanted: 8192, len: 6000 });
    });
}

#[test]
fn zero_fill_writes_zeros_over_what_was_there() {
    let temp = temp();
    run(settings(temp.path()), |env| async move {
        let file = env.open(name(FileKind::Wal, 1), OpenMode::CreateNew).await.unwrap();
        let mut buf = env.buffer(64 << 10).await;
        buf.as_mut_slice().fill(0xEE);
        file.write_at(0, buf, WriteSync::None).await.1.unwrap();
        let bytes = (3 << 20) + 8192;
        file.zero_fill(bytes).await.unwrap();
        assert_eq!(file.len().await.unwrap(), bytes);
        let mut offset = 0;
        while offset < bytes {
            let (buf, read) = file.read_at(offset, env.read_buffer(8192).await).await;
            read.unwrap();
            assert!(buf.as_slice().iter().all(|byte| *byte == 0), "zeros at {offset}");
            offset += 8192;
        }
        file.zero_fill(0).await.unwrap();
        assert_eq!(file.len().await.unwrap(), bytes);
    });
    // Zeros that take no blocks would have to be allocated by later writes.
    let status = std::os::linux::fs::MetadataExt::st_blocks;
    let blocks = status(&std::fs::metadata(temp.path().join("0000000000000001.wal")).unwrap());
    assert!(blocks * 512 >= 3 << 20);
}

#[test]
fn more_concurrent_reads_than_a_ring_takes_all_come_back() {
    const PAGES: u64 = 512;
    const READS: u64 = 3000;
    let temp = temp();
    let world = run(settings(temp.path()), |env| async move {
        let file = env.open(name(FileKind::Segment, 1), OpenMode::CreateNew).await.unwrap();
        for page in 0..PAGES {
            let mut buf = env.buffer(IO_UNIT_BYTES).await;
            pattern(page, &mut buf);
            file.write_at(page * 4096, buf, WriteSync::None).await.1.unwrap();
        }
        // 3000 buffers are more than the arena has, and 3000 reads more than the ring takes.
        let reads = (0..READS).map(|number| {
            let (env, file) = (env.clone(), file.clone());
            async move {
                let page = number * 7919 % PAGES;
                let (buf, read) = file.read_at(page * 4096, env.read_buffer(IO_UNIT_BYTES).await).await;
                read.unwrap();
                assert_pattern(page, &buf);
            }
        });
        join_all(reads).await;
        let heap = (0..READS).map(|number| {
            let file = file.clone();
            async move {
                let page = number * 6151 % PAGES;
                let (buf, read) = file.read_at(page * 4096, IoBuf::zeroed(IO_UNIT_BYTES)).await;
                read.unwrap();
                assert_pattern(page, &buf);
            }
        });
        join_all(heap).await;
    });
    let counters = world.counters();
    assert_eq!(counters.reads, 2 * READS);
    assert!(counters.queued > 0 && counters.buffer_waits > 0, "both limits were reached: {counters:?}");
    assert_eq!(counters.overflows, 0);
}

/// Polls a future once, so that its operation is queued, and lets go of it.
fn poll_and_drop<T>(future: impl Future<Output = T>) {
    let mut future = pin!(future);
    let _: Poll<T> = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

/// A buffer freed while the kernel still reads into it would be lent again at once and then hold foreign bytes.
#[test]
fn a_dropped_read_never_writes_into_a_buffer_of_somebody_else() {
    const PAGES: u64 = 64;
    let temp = temp();
    let world = run(settings(temp.path()), |env| async move {
        let file = env.open(name(FileKind::Segment, 1), OpenMode::CreateNew).await.unwrap();
        for page in 0..PAGES {
            let mut buf = env.buffer(IO_UNIT_BYTES).await;
            buf.as_mut_slice().fill(0xAA);
            file.write_at(page * 4096, buf, WriteSync::None).await.1.unwrap();
        }
        let mut victims = Vec::new();
        for round in 0..10_000_u64 {
            let target = if round % 2 == 0 {
                env.read_buffer(IO_UNIT_BYTES).await
            } else {
                IoBuf::zeroed(IO_UNIT_BYTES)
            };
            poll_and_drop(file.read_at(round % PAGES * 4096, target));
            let mut victim = env.buffer(IO_UNIT_BYTES).await;
            pattern(round, &mut victim);
            victims.push((round, victim));
            if victims.len() == 32 {
                // Waits its turn behind the dropped reads, so that most rounds find room in the ring.
                let (_, read) = file.read_at(0, env.read_buffer(IO_UNIT_BYTES).await).await;
                read.unwrap();
                for (round, victim) in victims.drain(..) {
                    assert_pattern(round, &victim);
                }
            }
        }
    });
    let counters = world.counters();
    assert!(counters.reads >= 5000, "most dropped reads were in flight: {counters:?}");
    assert!(counters.reads + counters.queued >= 10_312, "each of them ran to its end: {counters:?}");
}

#[test]
fn a_dropped_write_lands_whole_and_its_file_stays_open_until_then() {
    let temp = temp();
    let world = run(settings(temp.path()), |env| async move {
        for number in 0..50 {
            let file = env.open(name(FileKind::Segment, number), OpenMode::CreateNew).await.unwrap();
            let mut buf = env.buffer(256 << 10).await;
            pattern(number, &mut buf);
            poll_and_drop(file.write_at(0, buf, WriteSync::Durable));
            // The last handle goes here, while the write is queued.
        }
    });
    assert_eq!(world.counters().writes, 50);
    for number in 0..50 {
        let path: PathBuf = temp.path().join(format!("{number:016x}.segment"));
        let bytes = std::fs::read(path).unwrap();
        let mut expected = IoBuf::zeroed(256 << 10);
        pattern(number, &mut expected);
        assert!(bytes == expected.as_slice());
    }
}

#[test]
fn a_removed_file_stays_usable_while_it_is_open() {
    let temp = temp();
    run(settings(temp.path()), |env| async move {
        env.create_dir(Dir::Shard(2)).await.unwrap();
        env.create_dir(Dir::Shard(2)).await.unwrap();
        let removed = FileName { dir: Dir::Shard(2), kind: FileKind::Segment, number: 5 };
        let file = env.open(removed, OpenMode::CreateNew).await.unwrap();
        assert_eq!(env.list(Dir::Shard(2)).await.unwrap(), [removed]);
        let mut buf = env.buffer(4096).await;
        pattern(1, &mut buf);
        file.write_at(0, buf, WriteSync::Durable).await.1.unwrap();
        env.remove(removed).await.unwrap();
        env.sync_dir(Dir::Shard(2)).await.unwrap();
        assert_eq!(env.list(Dir::Shard(2)).await.unwrap(), []);
        assert_eq!(env.list(Dir::Root).await.unwrap(), []);
        let (buf, read) = file.read_at(0, env.buffer(4096).await).await;
        read.unwrap();
        assert_pattern(1, &buf);
        assert!(env.space().await.unwrap().available_bytes > 0);
    });
}

/// The space of a removed file goes back piece by piece, by cutting the file off: not under those who still read it.
#[test]
fn a_large_removed_file_keeps_its_bytes_for_whoever_has_it_open() {
    const BYTES: usize = 9 << 20;
    let temp = temp();
    run(settings(temp.path()), |env| async move {
        let removed = name(FileKind::Segment, 5);
        let file = env.open(removed, OpenMode::CreateNew).await.unwrap();
        for (part, offset) in (0_u64..).zip((0..BYTES as u64).step_by(1 << 20)) {
            let mut buf = env.buffer(1 << 20).await;
            pattern(part, &mut buf);
            file.write_at(offset, buf, WriteSync::Durable).await.1.unwrap();
        }
        let reader = env.open(removed, OpenMode::Read).await.unwrap();
        env.remove(removed).await.unwrap();
        assert!(matches!(env.open(removed, OpenMode::Read).await, Err(Error::NotFound { .. })));
        drop(file);
        // Long enough for every piece, had they been freed.
        env.sleep(Duration::from_millis(300)).await;
        assert_eq!(reader.len().await.unwrap(), BYTES as u64);
        for (part, offset) in (0_u64..).zip((0..BYTES as u64).step_by(1 << 20)) {
            let (buf, read) = reader.read_at(offset, env.buffer(1 << 20).await).await;
            read.unwrap();
            assert_pattern(part, &buf);
        }
        drop(reader);
        // Other names are made and removed meanwhile.
        for number in 10..20 {
            drop(env.open(name(FileKind::Segment, number), OpenMode::CreateNew).await.unwrap());
            env.remove(name(FileKind::Segment, number)).await.unwrap();
            env.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(env.list(Dir::Root).await.unwrap(), []);
    });
}

#[test]
fn allocated_space_reads_as_zeros_and_is_taken_from_the_filesystem() {
    use std::os::unix::fs::MetadataExt;
    let temp = temp();
    let path = temp.path().join(name(FileKind::Reserve, 1).leaf());
    run(settings(temp.path()), |env| async move {
        let space = env.space().await.unwrap();
        assert!(0 < space.available_bytes && space.available_bytes < space.total_bytes, "{space:?}");
        let file = env.open(name(FileKind::Reserve, 1), OpenMode::CreateNew).await.unwrap();
        file.allocate(1 << 20).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 1 << 20);
        let (buf, read) = file.read_at((1 << 20) - 4096, env.buffer(4096).await).await;
        read.unwrap();
        assert!(buf.as_slice().iter().all(|byte| *byte == 0));
        // More than any disk has: refused at once, with what was asked for.
        let refused = file.allocate(1 << 50).await.unwrap_err();
        assert!(
            matches!(
                refused,
                Error::OutOfSpace { needed: 0x4_0000_0000_0000, .. } | Error::Os { errno: libc::EFBIG, .. }
            ),
            "{refused:?}"
        );
    });
    assert!(std::fs::metadata(path).unwrap().blocks() * 512 >= 1 << 20);
}

#[test]
fn released_space_goes_back_to_the_filesystem_and_the_rest_stays() {
    use std::os::unix::fs::MetadataExt;
    let temp = temp();
    let path = temp.path().join(name(FileKind::Segment, 1).leaf());
    let taken = {
        let path = path.clone();
        move || std::fs::metadata(&path).unwrap().blocks() * 512
    };
    run(settings(temp.path()), |env| async move {
        let file = env.open(name(FileKind::Segment, 1), OpenMode::CreateNew).await.unwrap();
        let mut buf = env.buffer(1 << 20).await;
        pattern(1, &mut buf);
        file.write_at(0, buf, WriteSync::None).await.1.unwrap();
        file.sync_data().await.unwrap();
        let before = taken();
        file.release(4096, 4096).await.unwrap();
        assert_eq!(taken(), before);
        file.release(4096, 513 << 10 & !4095).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 1 << 20);
        let (buf, read) = file.read_at(0, env.buffer(1 << 20).await).await;
        read.unwrap();
        let mut whole = env.buffer(1 << 20).await;
        pattern(1, &mut whole);
        let rest = 512 << 10;
        assert_eq!(buf.as_slice()[..4096], whole.as_slice()[..4096]);
        assert_eq!(buf.as_slice()[rest..], whole.as_slice()[rest..]);
        // A filesystem that makes no holes still has what was there.
        if taken() < before {
            assert!(taken() <= before - (500 << 10), "{} of {before}", taken());
            assert!(buf.as_slice()[4096..rest].iter().all(|byte| *byte == 0));
        }
        let read_only = env.open(name(FileKind::Segment, 1), OpenMode::Read).await.unwrap();
        let refused = read_only.release(0, 4096).await.unwrap_err();
        assert!(matches!(refused, Error::Os { errno: libc::EBADF, .. }), "{refused:?}");
    });
}

/// More open files than the ring's table has places.
#[test]
fn files_beyond_the_table_work_unregistered() {
    let temp = temp();
    let limit = 60;
    run(RealSettings { file_places: 16, ..settings(temp.path()) }, move |env| async move {
        let mut files = Vec::new();
        for number in 0..limit {
            let file = env.open(name(FileKind::Segment, number), OpenMode::CreateNew).await.unwrap();
            let mut buf = env.buffer(4096).await;
            pattern(number, &mut buf);
            file.write_at(0, buf, WriteSync::None).await.1.unwrap();
            files.push(file);
        }
        // Places that are freed are used again, by the right file.
        for number in (0..limit).step_by(2) {
            files[usize::try_from(number).unwrap()] =
                env.open(name(FileKind::Segment, number), OpenMode::ReadWrite).await.unwrap();
        }
        for (number, file) in (0..limit).zip(&files) {
            let (buf, read) = file.read_at(0, env.buffer(4096).await).await;
            read.unwrap();
            assert_pattern(number, &buf);
        }
    });
}

#[test]
fn a_buffer_request_waits_for_one_that_comes_back() {
    let temp = temp();
    let world = run(RealSettings { arena_bytes: 1 << 20, ..settings(temp.path()) }, |env| async move {
        let whole = env.buffer(1 << 20).await;
        let got = Rc::new(Cell::new(false));
        let (waiting, flag) = (env.clone(), Rc::clone(&got));
        env.spawn(TaskClass::Foreground, "waiter", async move {
            drop(waiting.buffer(4096).await);
            flag.set(true);
        });
        env.sleep(Duration::from_millis(5)).await;
        assert!(!got.get());
        drop(whole);
        env.sleep(Duration::from_millis(5)).await;
        assert!(got.get());
    });
    assert_eq!(world.counters().buffer_waits, 1);
}
