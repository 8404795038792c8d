//! The WAL on a machine whose power fails at every moment.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use op_engine_io::sim::{Rng, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Dir, FileKind, FileName};

use super::*;
use crate::ids::{BlockHash, Height, StoreId};
use crate::log::testing::{IDENTITY, empty_disk, images, moments, run};
use crate::reserve::Reserve;

const CONFIG: WalConfig = WalConfig { file_bytes: 4 * UNIT_BYTES, free_files_max: 2 };

/// What is known at a moment: what must be there, and what may be there.
#[derive(Debug, Clone, Default)]
struct Progress {
    acknowledged: Seq,
    submitted: Seq,
    flushed: Seq,
    /// What was written under each number. A number that a later term gives again would be found out.
    frames: Vec<Frame>,
}

fn frame(seq: u64, prev: u64, cut: Seq, payload_bytes: usize) -> Frame {
    let mut payload = vec![0; payload_bytes];
    Rng::new(seq).fill(&mut payload);
    Frame {
        kind: FrameKind::Block,
        seq: Seq(seq),
        prev: Seq(prev),
        cut,
        height: Height(seq),
        hash: BlockHash([3; 32]),
        parent: BlockHash([4; 32]),
        payload: Arc::from(payload),
    }
}

fn frames(range: std::ops::RangeInclusive<u64>, payload_bytes: usize) -> Vec<Frame> {
    range.map(|seq| frame(seq, seq - 1, Seq(seq - 1), payload_bytes)).collect()
}

fn none(env: &SimEnv) -> Rc<Reserve<SimEnv>> {
    Rc::new(Reserve::none(env, ShardId(0)))
}

async fn first_term(env: &SimEnv) -> Wal<SimEnv> {
    let found = recover(env, IDENTITY, Seq::ZERO).await.unwrap();
    let (wal, frames) =
        found.start_term(env, CONFIG, none(env), Term(1), Seq::ZERO, Seq::ZERO).await.unwrap();
    assert_eq!(frames, []);
    wal
}

fn recovered(disk: SimDisk, flushed: Seq) -> Result<Recovered> {
    run(disk, async move |env: SimEnv| recover(&env, IDENTITY, flushed).await).0
}

fn wal_files(disk: &SimDisk) -> Vec<FileName> {
    disk.files().into_iter().filter(|name| name.kind == FileKind::Wal).collect()
}

/// Appends, syncs, checkpoints and prepares at random.
async fn script(env: SimEnv, progress: Rc<RefCell<Progress>>, seed: u64) {
    let wal = first_term(&env).await;
    let mut rng = Rng::new(seed);
    let mut next = 1;
    for _ in 0..14 {
        let cut = progress.borrow().acknowledged;
        let batch: Vec<Frame> = (0..=rng.index(2))
            .map(|_| {
                let bytes = if rng.chance(1_200) { 40_000 } else { rng.index(5_000) };
                next += 1;
                frame(next - 1, next - 2, cut, bytes)
            })
            .collect();
        let last = Seq(next - 1);
        progress.borrow_mut().submitted = last;
        progress.borrow_mut().frames.extend(batch.clone());
        let durable = rng.chance(6_000);
        wal.append(batch, durable).await.unwrap();
        if durable {
            progress.borrow_mut().acknowledged = last;
        }
        match rng.index(5) {
            0 => {
                wal.sync().await.unwrap();
                progress.borrow_mut().acknowledged = last;
            }
            1 => {
                let through = progress.borrow().acknowledged;
                progress.borrow_mut().flushed = through;
                wal.release(through).await.unwrap();
            }
            2 => wal.prepare().await.unwrap(),
            3 => {
                let mark = Frame::mark(last, cut);
                wal.append(vec![mark], durable).await.unwrap();
            }
            _ => {}
        }
    }
}

/// What was acknowledged is there, in order, without a hole, and nothing else than what was written.
fn check(found: &Recovered, progress: &Progress) {
    assert!(found.last >= progress.acknowledged, "{found:?} lacks {:?}", progress.acknowledged);
    assert!(found.last <= progress.submitted.max(progress.flushed));
    assert!(found.cut_mark <= progress.acknowledged, "a mark is never ahead");
    assert!(found.seq_seen_max >= found.last);
    found.check_acknowledged(progress.acknowledged).unwrap();
    let expected: Vec<&Frame> = progress
        .frames
        .iter()
        .filter(|frame| frame.seq > progress.flushed && frame.seq <= found.last)
        .collect();
    assert_eq!(found.frames.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_crash_at_any_moment_loses_nothing_acknowledged() {
    for seed in 0..6 {
        let (_, _, moments) =
            moments(seed, empty_disk(), Progress::default(), |env, progress| script(env, progress, seed));
        assert!(moments.len() > 60, "the script does enough");
        for (at, (disk, progress)) in (0..).zip(&moments) {
            for image in images(disk, at) {
                let found = recovered(image.clone(), progress.flushed).unwrap();
                check(&found, progress);
                assert_eq!(recovered(image, progress.flushed).unwrap(), found, "recovery changes nothing");
            }
        }
    }
}

/// Opens at every crash image of a script with a cut that other shards may have forced, crashes in that as well,
/// and checks that what was cut off is gone once and for all.
#[test]
fn a_crash_while_a_term_starts_never_brings_back_what_was_cut_off() {
    let mut crashes_in_open = 0;
    for seed in 0..3 {
        let (_, _, first) =
            moments(seed, empty_disk(), Progress::default(), |env, progress| script(env, progress, seed));
        for (at, (disk, progress)) in (0..).zip(&first).skip(3).step_by(5) {
            let image = disk.crash(at, op_engine_io::sim::Personality::Strict);
            let before = recovered(image.clone(), progress.flushed).unwrap();
            let cut = progress.acknowledged;
            let (_, after, second) =
                moments(at, image, false, |env, done| open_and_commit(env, done, progress.flushed, cut));
            for (inner, (disk, started)) in (0..).zip(&second) {
                for image in images(disk, inner) {
                    crashes_in_open += 1;
                    let found = recovered(image, progress.flushed).unwrap();
                    let new_commit = Seq(1_000);
                    let expected = if *started {
                        found.last == cut || found.last == new_commit
                    } else {
                        found.last == before.last || found.last == cut
                    };
                    assert!(expected, "{:?} after {:?} cut at {cut:?}", found.last, before.last);
                    found.check_acknowledged(cut).unwrap();
                }
            }
            let found = recovered(after, progress.flushed).unwrap();
            assert_eq!(found.last, Seq(1_000));
            assert!(found.frames.iter().all(|frame| frame.seq <= cut || frame.seq == Seq(1_000)));
        }
    }
    assert!(crashes_in_open > 500, "crashes while opening are exercised");
}

async fn open_and_commit(env: SimEnv, started: Rc<RefCell<bool>>, flushed: Seq, cut: Seq) {
    let found = recover(&env, IDENTITY, flushed).await.unwrap();
    let (term, floor) = (Term(found.term_max.0 + 1), Seq(999));
    let (wal, frames) = found.start_term(&env, CONFIG, none(&env), term, cut, floor).await.unwrap();
    *started.borrow_mut() = true;
    assert_eq!(frames.last().map_or(flushed, |frame| frame.seq), cut);
    wal.append(vec![frame(1_000, cut.0, cut, 3_000)], true).await.unwrap();
}

#[test]
fn many_opens_without_a_commit_need_no_more_files_and_bring_nothing_back() {
    let (_, mut disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        wal.append(frames(1..=5, 2_000), true).await.unwrap();
    });
    for open in 0..12 {
        let (_, after) = run(disk, async move |env: SimEnv| {
            let found = recover(&env, IDENTITY, Seq::ZERO).await.unwrap();
            assert_eq!(found.last, if open == 0 { Seq(5) } else { Seq(3) });
            assert_eq!(found.seq_seen_max, Seq(5));
            let term = Term(found.term_max.0 + 1);
            let (_, kept) = found.start_term(&env, CONFIG, none(&env), term, Seq(3), Seq(5)).await.unwrap();
            assert_eq!(kept, frames(1..=3, 2_000));
        });
        disk = after;
        assert!(wal_files(&disk).len() <= 6, "{:?}", wal_files(&disk));
    }
    let (_, disk) = run(disk, async |env: SimEnv| {
        let found = recover(&env, IDENTITY, Seq::ZERO).await.unwrap();
        let (wal, _) = found.start_term(&env, CONFIG, none(&env), Term(100), Seq(3), Seq(5)).await.unwrap();
        wal.append(vec![frame(6, 3, Seq(3), 100)], true).await.unwrap();
        wal.release(Seq(6)).await.unwrap();
        assert_eq!(wal.stats().files, 1);
    });
    assert_eq!(recovered(disk, Seq(6)).unwrap().last, Seq(6));
}

#[test]
fn what_recovery_reports_survives_the_next_crash() {
    for seed in 0..20 {
        let (_, disk) = run(empty_disk(), async |env: SimEnv| {
            let wal = first_term(&env).await;
            wal.append(frames(1..=6, 3_000), false).await.unwrap();
        });
        let (found, disk) =
            run(disk.kill(seed), async |env: SimEnv| recover(&env, IDENTITY, Seq::ZERO).await.unwrap());
        assert_eq!(found.last, Seq(6), "what was written is visible after a kill");
        let image = disk.crash(seed, op_engine_io::sim::Personality::Strict);
        assert_eq!(recovered(image, Seq::ZERO).unwrap(), found);
    }
}

#[test]
fn files_are_reused_and_their_number_is_bounded() {
    let (_, disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        for seq in 1..=60 {
            wal.append(frames(seq..=seq, 5_000), true).await.unwrap();
            wal.release(Seq(seq)).await.unwrap();
            assert!(wal.stats().files <= 2);
        }
        let stats = wal.stats();
        assert_eq!(stats.bytes_appended, 60 * 8192);
        assert_eq!(stats.padding_bytes, 60 * (8192 - 5_168));
    });
    assert!(wal_files(&disk).len() <= 3, "{:?}", wal_files(&disk));
    let found = recovered(disk, Seq(59)).unwrap();
    assert_eq!(found.frames, frames(60..=60, 5_000));
}

#[test]
fn a_frame_larger_than_a_file_gets_its_own_and_gives_it_back() {
    let (_, disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        wal.append(frames(1..=1, 10), true).await.unwrap();
        wal.append(frames(2..=2, 3 << 20), true).await.unwrap();
        wal.append(frames(3..=3, 10), true).await.unwrap();
    });
    let found = recovered(disk.clone(), Seq::ZERO).unwrap();
    assert_eq!(found.last, Seq(3));
    assert_eq!(found.frames[1].payload.len(), 3 << 20);
    let (_, disk) = run(disk, async |env: SimEnv| {
        let found = recover(&env, IDENTITY, Seq(3)).await.unwrap();
        found.start_term(&env, CONFIG, none(&env), Term(2), Seq(3), Seq(3)).await.unwrap();
    });
    let sizes: Vec<usize> =
        wal_files(&disk).iter().map(|name| disk.read_file(*name).unwrap().len()).collect();
    assert!(sizes.iter().all(|bytes| *bytes == 4 * 4096), "{sizes:?}");
}

/// A log of three commits, all marked as acknowledged.
fn small_log() -> SimDisk {
    let (_, disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        wal.append(frames(1..=2, 150), true).await.unwrap();
        wal.append(frames(3..=3, 150), true).await.unwrap();
        wal.append(vec![Frame::mark(Seq(3), Seq(3))], true).await.unwrap();
    });
    disk
}

fn outcome(disk: SimDisk) -> Result<Vec<Frame>> {
    let found = recovered(disk, Seq::ZERO)?;
    found.check_acknowledged(Seq::ZERO)?;
    Ok(found.frames)
}

#[test]
fn every_flipped_byte_of_acknowledged_frames_is_refused() {
    let log = small_log();
    let name = wal_files(&log)[0];
    // Header sector; frames 1 and 2; frame 3. Each frame is 168 + 150 bytes, and 2 of padding.
    let data = [0..512, 4096..4096 + 318, 4416..4416 + 318, 8192..8192 + 318];
    for offset in data.into_iter().flatten() {
        let mut disk = log.clone();
        assert!(disk.flip_bit(name, offset, (offset % 8) as u8));
        let outcome = outcome(disk);
        let refused =
            matches!(outcome, Err(Error::AcknowledgedDataMissing { .. } | Error::Corruption { .. }));
        assert!(refused, "offset {offset}: {outcome:?}");
    }
    // Padding and the mark itself carry no commit.
    for offset in (512..4096).step_by(97).chain(4096 + 640..8192).step_by(13).chain(12_288..12_288 + 168) {
        let mut disk = log.clone();
        assert!(disk.flip_bit(name, offset, 5));
        let outcome = outcome(disk);
        let right = outcome.as_ref().is_ok_and(|found| *found == frames(1..=3, 150));
        assert!(right || outcome.is_err(), "offset {offset}: {outcome:?}");
    }
}

#[test]
fn the_error_names_the_place() {
    let mut disk = small_log();
    let name = wal_files(&disk)[0];
    disk.flip_bit(name, 4416 + 200, 0);
    let error = outcome(disk).unwrap_err();
    let expected = Error::AcknowledgedDataMissing {
        shard: ShardId(0),
        file: name.to_string(),
        offset: 4416,
        found: Seq(1),
        acknowledged: Seq(3),
    };
    assert_eq!(error, expected);
}

#[test]
fn zeroed_sectors_of_acknowledged_frames_are_refused() {
    let log = small_log();
    let name = wal_files(&log)[0];
    for sector in [0, 4096, 8192] {
        let mut disk = log.clone();
        disk.corrupt(name, sector, |bytes| bytes.iter_mut().take(512).for_each(|byte| *byte = 0));
        outcome(disk).unwrap_err();
    }
    let mut disk = log;
    disk.write_file(name, &[0; 4 * 4096]);
    assert_eq!(recovered(disk, Seq::ZERO).unwrap().last, Seq::ZERO, "a file of zeros holds nothing");
}

#[test]
fn garbage_above_the_mark_is_a_torn_tail() {
    let mut disk = small_log();
    let name = wal_files(&disk)[0];
    disk.corrupt(name, 12_288, |bytes| Rng::new(1).fill(bytes));
    let found = recovered(disk, Seq::ZERO).unwrap();
    assert_eq!(found.last, Seq(3));
    found.check_acknowledged(Seq(3)).unwrap();
    let error = found.check_acknowledged(Seq(4)).unwrap_err();
    assert!(matches!(error, Error::AcknowledgedDataMissing { found: Seq(3), acknowledged: Seq(4), .. }));
}

#[test]
fn files_of_others_are_refused() {
    let log = small_log();
    let name = wal_files(&log)[0];
    let bytes = log.read_file(name).unwrap();
    let mut disk = log.clone();
    disk.write_file(FileName { number: 9, ..name }, &bytes);
    assert!(matches!(recovered(disk, Seq::ZERO), Err(Error::Foreign { .. })));
    let others = [
        Identity { shard: ShardId(1), ..IDENTITY },
        Identity { store: StoreId([1; 16]), ..IDENTITY },
        Identity { shard_count: 3, ..IDENTITY },
    ];
    for other in others {
        let mut disk = empty_disk();
        disk.write_file(FileName { dir: Dir::Shard(other.shard.0), ..name }, &bytes);
        let (found, _) = run(disk, async move |env: SimEnv| recover(&env, other, Seq::ZERO).await);
        assert!(matches!(found, Err(Error::Foreign { .. })));
    }
}

#[test]
fn a_lost_file_is_noticed() {
    let (_, log) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        for seq in 1..=9 {
            wal.append(frames(seq..=seq, 5_000), true).await.unwrap();
        }
    });
    let names = wal_files(&log);
    assert!(names.len() > 4);
    for (at, name) in names.iter().enumerate() {
        let mut disk = log.clone();
        disk.remove_file(*name);
        let found = recovered(disk, Seq::ZERO).unwrap();
        let refused = found.check_acknowledged(Seq::ZERO).is_err();
        // The newest file is missed by the marks of other shards only.
        assert_eq!(refused, at + 1 < names.len());
        found.check_acknowledged(Seq(9)).unwrap_err();
    }
    let mut disk = log;
    names.iter().for_each(|name| assert!(disk.remove_file(*name)));
    let found = recovered(disk, Seq::ZERO).unwrap();
    assert!(matches!(found.check_term(Term(1)), Err(Error::Missing { .. })));
    found.check_term(Term(0)).unwrap();
}

#[test]
fn a_failed_write_ends_the_log() {
    use op_engine_io::sim::{Faults, SimOptions, SimWorld};
    let world = SimWorld::new(SimOptions::with_seed(3), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        let wal = first_term(&env).await;
        wal.append(frames(1..=1, 10), true).await.unwrap();
        world.set_faults(Faults { write_error: 10_000, ..Faults::default() });
        wal.append(frames(2..=2, 10), true).await.unwrap_err();
        world.set_faults(Faults::default());
        let again = wal.append(frames(2..=2, 10), true).await.unwrap_err();
        assert!(matches!(again, Error::Poisoned { .. }));
        assert!(wal.sync().await.is_err());
    });
    outcome.done().unwrap();
    assert!(recovered(world.stop(), Seq::ZERO).unwrap().last <= Seq(2));
}

#[test]
fn a_dropped_append_ends_the_log() {
    let (_, _) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        {
            let mut append = std::pin::pin!(wal.append(frames(1..=1, 10), true));
            let waker = futures_util::task::noop_waker();
            let polled = append.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        assert!(matches!(wal.append(frames(1..=1, 10), true).await, Err(Error::Closed)));
    });
}

/// The first term of a log of files of a MiB, with a whole reserve.
async fn first_term_with_reserve(env: &SimEnv, reserve_bytes: u64) -> (Wal<SimEnv>, Rc<Reserve<SimEnv>>) {
    let config = WalConfig { file_bytes: 1 << 20, free_files_max: 2 };
    let reserve = Reserve::find(env, ShardId(0), Some(reserve_bytes), &[]).await.unwrap();
    while reserve.refill().await.unwrap() {}
    let reserve = Rc::new(reserve);
    let found = recover(env, IDENTITY, Seq::ZERO).await.unwrap();
    let started = found.start_term(env, config, Rc::clone(&reserve), Term(1), Seq::ZERO, Seq::ZERO).await;
    let (wal, _) = started.unwrap();
    (wal, reserve)
}

#[test]
fn a_frame_for_which_neither_disk_nor_reserve_have_room_ends_the_log() {
    let world = SimWorld::new(SimOptions::with_seed(3), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        let (wal, reserve) = first_term_with_reserve(&env, 256 << 10).await;
        wal.prepare().await.unwrap();
        world.set_free_bytes(Some(100 << 10));
        assert_eq!(wal.room_bytes(0), (1 << 20) - UNIT_BYTES);
        let mut seq = 0;
        let mut append = async |bytes| {
            seq += 1;
            wal.append(frames(seq..=seq, bytes), true).await
        };
        for _ in 0..2 {
            append(900 << 10).await.unwrap();
        }
        wal.prepare().await.unwrap();
        assert_eq!(wal.stats().free_files, 0, "there is no space for another");
        assert_eq!(wal.room_bytes(0), 116 << 10);
        // More than the disk and the reserve have together ends the log, and loses nothing that was acknowledged.
        assert!(append(400 << 10).await.unwrap_err().is_out_of_space());
        assert!(matches!(append(1).await, Err(Error::Poisoned { .. })));
        assert_eq!(reserve.bytes(), 0);
    });
    outcome.done().unwrap();
    let found = recovered(world.stop(), Seq::ZERO).unwrap();
    assert_eq!(found.frames, frames(1..=2, 900 << 10));
}

#[test]
fn files_of_a_full_disk_are_small_and_as_good_as_others() {
    let world = SimWorld::new(SimOptions::with_seed(3), empty_disk());
    let env = world.env();
    let outcome = world.run(async {
        let (wal, reserve) = first_term_with_reserve(&env, 512 << 10).await;
        world.set_free_bytes(Some(70 << 10));
        let mut seq = 0;
        let mut append = async |bytes| {
            seq += 1;
            wal.append(frames(seq..=seq, bytes), true).await.unwrap();
        };
        append(1010 << 10).await;
        let whole = reserve.bytes();
        append(20 << 10).await;
        assert_eq!(reserve.bytes(), whole, "a small file fits beside it");
        append(50 << 10).await;
        assert_eq!(reserve.bytes(), whole - (64 << 10));
        assert!(wal.room_bytes(0) < 16 << 10);
        append(20 << 10).await;
        wal.release(Seq(4)).await.unwrap();
        assert_eq!(wal.stats().free_files, 1, "the ordinary one is kept");
        assert_eq!(wal.stats().files, 1);
    });
    outcome.done().unwrap();
    let disk = world.stop();
    assert_eq!(wal_files(&disk).len(), 2);
    assert_eq!(recovered(disk, Seq(3)).unwrap().frames, frames(4..=4, 20 << 10));
}

/// Opens again and again while nothing can be flushed: each open writes a mark, and needs no more files than the first.
#[test]
fn opens_with_marks_only_need_no_more_files() {
    let (_, mut disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        wal.append(frames(1..=3, 2_000), true).await.unwrap();
    });
    for open in 0..10 {
        let (_, after) = run(disk, async move |env: SimEnv| {
            let found = recover(&env, IDENTITY, Seq::ZERO).await.unwrap();
            assert_eq!(found.last, Seq(3));
            found.check_acknowledged(Seq(3)).unwrap();
            let term = Term(found.term_max.0 + 1);
            let started = found.start_term(&env, CONFIG, none(&env), term, Seq(3), Seq(3)).await;
            let (wal, kept) = started.unwrap();
            assert_eq!(kept, frames(1..=3, 2_000));
            wal.append(vec![Frame::mark(Seq(3), Seq(3))], true).await.unwrap();
        });
        disk = if open % 2 == 0 { after.kill(open) } else { after };
        assert_eq!(wal_files(&disk).len(), 2);
    }
}

#[test]
fn an_open_uses_a_file_that_the_checkpoint_covers() {
    let (_, mut disk) = run(empty_disk(), async |env: SimEnv| {
        let wal = first_term(&env).await;
        wal.append(frames(1..=6, 5_000), true).await.unwrap();
    });
    let before = wal_files(&disk);
    assert!(before.len() > 2);
    for open in 2..5 {
        let (_, after) = run(disk, async move |env: SimEnv| {
            let found = recover(&env, IDENTITY, Seq(6)).await.unwrap();
            found.start_term(&env, CONFIG, none(&env), Term(open), Seq(6), Seq(6)).await.unwrap();
        });
        let files = wal_files(&after);
        assert!(files.len() <= 3 && files.iter().all(|name| before.contains(name)), "{files:?}");
        disk = after;
    }
}
