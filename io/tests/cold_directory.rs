//! A directory as a cold target: whole objects or none, and a mount that hangs, goes, comes back or fills up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the helpers of tests fail like tests"
)]

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use op_engine_io::real::{RealSettings, RealWorld};
use op_engine_io::{
    ColdFault, ColdLimits, ColdStore, ColdTarget, ColdUpload, Dir, Env, Error, FileKind, FileName, Place,
    RealCold, Result, World, block_on,
};

const LIMIT: Duration = Duration::from_secs(60);
const A: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Cold, number: 1 };
const B: FileName = FileName { dir: Dir::Shard(3), kind: FileKind::Wal, number: 2 };

/// A store, and a cold target beside it.
struct Setup {
    world: RealWorld,
    cold: RealCold,
    path: PathBuf,
    temp: tempfile::TempDir,
}

fn setup_with(limits: ColdLimits, make: bool) -> Setup {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (hot, path) = (temp.path().join("hot"), temp.path().join("cold"));
    std::fs::create_dir(&hot).unwrap();
    if make {
        std::fs::create_dir(&path).unwrap();
    }
    let world = RealWorld::open(RealSettings {
        arena_bytes: 1 << 20,
        cold: Some(ColdTarget::Directory(path.clone())),
        cold_limits: limits,
        ..RealSettings::new(hot)
    })
    .unwrap();
    let cold = world.cold().unwrap().clone();
    Setup { world, cold, path, temp }
}

fn setup() -> Setup {
    setup_with(ColdLimits::default(), true)
}

/// Fails if it takes too long, whatever hangs.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(call()).unwrap());
    let value = match ended.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    };
    thread.join().unwrap();
    value
}

fn fault<T: std::fmt::Debug>(result: Result<T>) -> ColdFault {
    match result {
        Err(Error::Cold { fault, .. }) => fault,
        other => panic!("not a cold error: {other:?}"),
    }
}

/// Bytes that tell where they are.
fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u8 ^ seed).collect()
}

async fn store(cold: &RealCold, name: FileName, bytes: &[u8], step: usize) -> Result<()> {
    let mut upload = cold.upload(name).await?;
    for part in bytes.chunks(step) {
        upload.append(part.to_vec()).await?;
    }
    upload.finish().await
}

fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

/// Waits until nothing but finished objects is left.
fn wait_for_parts_to_go(path: &Path) {
    let began = Instant::now();
    while names(path).iter().any(|name| name.ends_with(".part")) {
        assert!(began.elapsed() < LIMIT, "{:?}", names(path));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[test]
fn objects_of_any_length_are_read_back_from_any_place() {
    let it = setup();
    block_on(async {
        for (bytes, step) in [
            (0, 1),
            (1, 1),
            (4095, 100),
            (4096, 4096),
            (4097, 4097),
            (9_000_000, 777_777),
            (12 << 20, 12 << 20),
        ] {
            let content = noise(bytes, 7);
            store(&it.cold, A, &content, step).await.unwrap();
            assert_eq!(it.cold.length(A).await.unwrap(), bytes as u64);
            for (from, to) in [
                (0, bytes),
                (0, bytes.min(1)),
                (bytes / 3, bytes / 2),
                (bytes.saturating_sub(5), bytes),
                (bytes, bytes),
            ] {
                let found = it.cold.read(A, from as u64, (to - from) as u64).await.unwrap();
                assert!(found == content[from..to], "{bytes} bytes, from {from} to {to}");
            }
            assert_eq!(fault(it.cold.read(A, 0, bytes as u64 + 1).await), ColdFault::Short);
            assert_eq!(fault(it.cold.read(A, u64::MAX, 2).await), ColdFault::Short);
        }
    });
    let file = std::fs::metadata(it.path.join("shard-003").join(A.leaf())).unwrap();
    assert_eq!((file.len(), file.mode() & 0o777), (12 << 20, 0o600));
    wait_for_parts_to_go(&it.path.join("shard-003"));
}

#[test]
fn an_object_is_there_as_a_whole_or_not_at_all() {
    let it = setup();
    let dir = it.path.join("shard-003");
    block_on(async {
        assert_eq!(it.cold.list(A.dir).await.unwrap(), []);
        assert_eq!(fault(it.cold.length(A).await), ColdFault::Missing);
        assert_eq!(fault(it.cold.read(A, 0, 1).await), ColdFault::Missing);
        it.cold.remove(A).await.unwrap();

        let mut upload = it.cold.upload(A).await.unwrap();
        upload.append(noise(5 << 20, 1)).await.unwrap();
        assert_eq!(fault(it.cold.length(A).await), ColdFault::Missing);
        assert_eq!(it.cold.list(A.dir).await.unwrap(), [], "what goes on is neither listed nor removed");
        upload.finish().await.unwrap();
        store(&it.cold, B, &[2], 1).await.unwrap();
        assert_eq!(it.cold.list(A.dir).await.unwrap(), [B, A]);

        let mut dropped = it.cold.upload(A).await.unwrap();
        dropped.append(noise(5 << 20, 2)).await.unwrap();
        drop(dropped);
        drop(it.cold.upload(A).await.unwrap().finish());
        assert!(it.cold.read(A, 0, 5 << 20).await.unwrap() == noise(5 << 20, 1));
        store(&it.cold, A, &[9], 1).await.unwrap();
        assert_eq!(it.cold.read(A, 0, 1).await.unwrap(), [9]);
        assert_eq!(it.cold.length(A).await.unwrap(), 1);
        it.cold.remove(A).await.unwrap();
        assert_eq!(fault(it.cold.read(A, 0, 1).await), ColdFault::Missing);
    });
    wait_for_parts_to_go(&dir);
    assert_eq!(names(&dir), [B.leaf()]);
}

#[test]
fn remnants_of_an_earlier_life_are_removed_and_what_is_not_ours_is_left_alone() {
    let it = setup();
    let dir = it.path.join("shard-003");
    std::fs::create_dir(&dir).unwrap();
    let remnant = format!("{}.0123456789abcdef.part", A.leaf());
    for name in [remnant.as_str(), "notes.txt", "notes.txt.part", &B.leaf()] {
        std::fs::write(dir.join(name), b"x").unwrap();
    }
    block_on(async {
        let mut upload = it.cold.upload(A).await.unwrap();
        assert_eq!(it.cold.list(A.dir).await.unwrap(), [B]);
        upload.append(vec![1, 2]).await.unwrap();
        upload.finish().await.unwrap();
    });
    let mut left = names(&dir);
    left.sort();
    let mut expected = [A.leaf(), B.leaf(), "notes.txt".to_owned(), "notes.txt.part".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn a_directory_that_is_missing_is_not_created_and_is_used_once_it_is_there() {
    let it = setup_with(ColdLimits::default(), false);
    block_on(async {
        let error = it.cold.read(A, 0, 1).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("mount") && text.contains(it.path.to_str().unwrap()), "{text}");
        assert_eq!(fault(Err::<(), _>(error)), ColdFault::Unreachable);
        assert_eq!(fault(store(&it.cold, A, &[1], 1).await), ColdFault::Unreachable);
        assert!(!it.path.exists());
        std::fs::create_dir(&it.path).unwrap();
        store(&it.cold, A, &[1, 2], 1).await.unwrap();

        // The mount goes, another directory is where it was, and it comes back.
        let away = it.temp.path().join("away");
        std::fs::rename(&it.path, &away).unwrap();
        assert_eq!(fault(store(&it.cold, B, &[1], 1).await), ColdFault::Unreachable);
        std::fs::create_dir(&it.path).unwrap();
        assert_eq!(
            fault(it.cold.list(A.dir).await.map(|names| assert_eq!(names, [])).and(it.cold.length(A).await)),
            ColdFault::Missing
        );
        std::fs::remove_dir(&it.path).unwrap();
        std::fs::rename(&away, &it.path).unwrap();
        assert_eq!(it.cold.read(A, 0, 2).await.unwrap(), [1, 2]);
        assert_eq!(it.cold.list(A.dir).await.unwrap(), [A]);
    });
}

#[test]
fn a_mount_that_hangs_stops_neither_a_host_nor_its_end_and_is_used_once_it_answers() {
    let brief = Duration::from_millis(100);
    let it = setup_with(ColdLimits { concurrency: 2, read: brief, change: brief }, true);
    let dir = it.path.join("shard-003");
    std::fs::create_dir(&dir).unwrap();
    // Opening a pipe waits for somebody at its other end.
    let pipe = dir.join(A.leaf());
    assert!(run("mkfifo", &[pipe.as_os_str()]));
    std::fs::write(dir.join(B.leaf()), b"abc").unwrap();

    let (told, learnt) = mpsc::channel();
    let hook = std::sync::Arc::new(|report| eprintln!("{report:?}"));
    let main = move |env: op_engine_io::real::RealEnv| async move {
        let cold = env.cold().unwrap();
        let (mut timed_out, mut last) = (0, fault(cold.read(A, 0, 1).await));
        // A busy machine may let a request wait until it is too late to begin it.
        while last == ColdFault::TimedOut {
            timed_out += 1;
            last = fault(cold.read(A, 0, 1).await);
        }
        let other = fault(cold.read(B, 0, 1).await);
        told.send((timed_out, last, other)).unwrap();
    };
    let running = it.world.start(Place::Floating, "test", hook, main).unwrap();
    in_time(move || block_on(running.finished()));
    let (timed_out, last, other) = learnt.recv().unwrap();
    assert!(timed_out >= 2, "{timed_out}");
    assert_eq!((last, other), (ColdFault::Unreachable, ColdFault::Unreachable), "no thread is left");

    // Both ways, so that this does not wait itself.
    let _opened = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let cold = it.cold.clone();
    in_time(move || {
        block_on(async {
            while cold.read(B, 0, 3).await.map_err(|error| assert!(error.is_cold())) != Ok(b"abc".to_vec()) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    });
}

#[test]
fn the_end_of_a_world_does_not_wait_for_a_request_that_hangs() {
    let it = setup_with(ColdLimits { read: Duration::from_millis(50), ..ColdLimits::default() }, true);
    let dir = it.path.join("shard-003");
    std::fs::create_dir(&dir).unwrap();
    let pipe = dir.join(A.leaf());
    assert!(run("mkfifo", &[pipe.as_os_str()]));
    assert_eq!(fault(block_on(it.cold.read(A, 0, 1))), ColdFault::TimedOut);
    let (world, cold) = (it.world, it.cold);
    in_time(move || drop((world, cold)));
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap());
}

/// Whatever is mounted here goes with it.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        while run("umount", &[OsStr::new("-l"), self.0.as_os_str()]) {}
    }
}

#[test]
fn a_full_or_read_only_mount_is_told_apart_and_used_again_when_it_is_not() {
    let it = setup();
    let (path, _unmounted) = (it.path.as_os_str(), Unmounted(it.path.clone()));
    let mount = |options: &str| {
        let arguments = ["-t", "tmpfs", "-o", options, "none"].map(OsStr::new);
        run("mount", &[&arguments[..], &[path]].concat())
    };
    if !mount("size=4m") {
        eprintln!("skipped: this process may not mount");
        return;
    }
    block_on(async {
        store(&it.cold, A, &noise(1 << 20, 1), 1 << 20).await.unwrap();
        assert_eq!(fault(store(&it.cold, B, &noise(8 << 20, 2), 1 << 20).await), ColdFault::Full);
        wait_for_parts_to_go(&it.path.join("shard-003"));
        assert!(it.cold.read(A, 0, 1 << 20).await.unwrap() == noise(1 << 20, 1));
        it.cold.remove(A).await.unwrap();
        store(&it.cold, B, &noise(3 << 20, 2), 1 << 20).await.unwrap();

        assert!(mount("remount,ro"));
        assert_eq!(fault(store(&it.cold, A, &[1], 1).await), ColdFault::Denied);
        assert_eq!(fault(it.cold.remove(B).await), ColdFault::Denied);
        assert!(it.cold.read(B, 0, 3 << 20).await.unwrap() == noise(3 << 20, 2));

        // A lazy unmount leaves the handle on the old mount; what the path leads to counts.
        assert!(run("umount", &[OsStr::new("-l"), path]));
        store(&it.cold, A, &[1, 2], 1).await.unwrap();
        assert_eq!(names(&it.path), ["shard-003"]);
        assert!(mount("size=4m"));
        store(&it.cold, B, &[3], 1).await.unwrap();
        assert_eq!(it.cold.list(A.dir).await.unwrap(), [B]);
        assert!(run("umount", &[OsStr::new("-l"), path]));
        assert_eq!(it.cold.read(A, 0, 2).await.unwrap(), [1, 2], "the mount that covered it has gone");
    });
}

#[test]
fn a_directory_that_may_not_be_used_is_refused() {
    let it = setup();
    std::fs::write(it.path.join("shard-003"), b"a file in the place of the directory").unwrap();
    assert_eq!(fault(block_on(store(&it.cold, A, &[1], 1))), ColdFault::Other);
    std::fs::remove_file(it.path.join("shard-003")).unwrap();
    std::os::unix::fs::symlink("/tmp", it.path.join("shard-003")).unwrap();
    assert!(block_on(store(&it.cold, A, &[1], 1)).unwrap_err().is_cold(), "a link is not followed");
    std::fs::set_permissions(&it.path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may do what nobody else may.
    let text = block_on(it.cold.length(B)).unwrap_err().to_string();
    assert!(text.contains("Remedy"), "{text}");
    std::fs::set_permissions(&it.path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn many_requests_at_once_get_their_own_answers() {
    let it = setup_with(ColdLimits { concurrency: 3, ..ColdLimits::default() }, true);
    block_on(async {
        let objects: Vec<FileName> = (0..20).map(|number| FileName { number, ..A }).collect();
        let content = |name: &FileName| noise(100_000, name.number as u8);
        let stores = objects.iter().map(|name| {
            let (cold, bytes) = (&it.cold, content(name));
            async move { store(cold, *name, &bytes, 30_000).await }
        });
        for stored in futures_util::future::join_all(stores).await {
            stored.unwrap();
        }
        let reads = (0..400_usize).map(|nth| {
            let name = objects[nth % objects.len()];
            let (from, cold) = ((nth * 211) as u64, &it.cold);
            async move { (name, from, cold.read(name, from, 1000).await.unwrap()) }
        });
        for (name, from, found) in futures_util::future::join_all(reads).await {
            assert!(found == content(&name)[from as usize..][..1000]);
        }
        assert_eq!(it.cold.list(A.dir).await.unwrap(), objects);
    });
}
