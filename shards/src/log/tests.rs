//! Log files as a whole: the writer, the reader, and bytes that neither wrote.

use std::sync::Arc;

use op_engine_io::sim::{Fault, Faults, Rng, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Dir, Env, FileKind, FileName, OpenMode, WriteSync};

use super::frame::FrameContext;
use super::reader::{Beyond, Expect, LogReader};
use super::testing::{IDENTITY, empty_disk, run};
use super::writer::write_frames;
use super::{Frame, FrameKind, Purpose, UNIT_BYTES};
use crate::ids::{BlockHash, Height, Seq, Term};

const NAME: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Wal, number: 3 };
const CONTEXT: FrameContext =
    FrameContext { purpose: Purpose::Wal, identity: IDENTITY, number: 3, term: Term(2), generation: 4 };

fn frame(seq: u64, payload_bytes: usize) -> Frame {
    let mut payload = vec![0; payload_bytes];
    Rng::new(seq).fill(&mut payload);
    Frame {
        kind: FrameKind::Block,
        seq: Seq(seq),
        prev: Seq(seq - 1),
        cut: Seq(seq - 1),
        height: Height(seq),
        hash: BlockHash([1; 32]),
        parent: BlockHash([2; 32]),
        payload: Arc::from(payload),
    }
}

/// Writes the batches, damages the bytes, reads back.
fn written_then_read(batches: &[Vec<Frame>], damage: impl FnOnce(&mut Vec<u8>)) -> (Vec<Frame>, Beyond) {
    read(written(batches, damage), Expect::Context(CONTEXT))
}

fn written(batches: &[Vec<Frame>], damage: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let (end, mut disk) = run(empty_disk(), async |env: SimEnv| {
        let file = env.open(NAME, OpenMode::CreateNew).await.unwrap();
        let mut at = UNIT_BYTES;
        for batch in batches {
            at = write_frames(&env, &file, &CONTEXT, at, batch, WriteSync::Durable).await.unwrap();
        }
        at
    });
    let mut bytes = disk.read_file(NAME).unwrap();
    assert_eq!(bytes.len() as u64, end);
    damage(&mut bytes);
    disk.write_file(NAME, &bytes);
    disk
}

fn read(disk: SimDisk, expect: Expect) -> (Vec<Frame>, Beyond) {
    run(disk, async |env: SimEnv| read_all(env, expect).await).0
}

async fn read_all(env: SimEnv, expect: Expect) -> (Vec<Frame>, Beyond) {
    let file = env.open(NAME, OpenMode::Read).await.unwrap();
    let mut reader = LogReader::new(&env, file, expect).await.unwrap();
    let mut frames = Vec::new();
    while let Some((_, frame)) = reader.next().await.unwrap() {
        frames.push(frame);
    }
    let beyond = reader.scan_beyond().await.unwrap();
    (frames, beyond)
}

#[test]
fn frames_of_all_sizes_come_back() {
    let sizes = [0, 1, 7, 8, 3919, 3920, 3921, 4096, 100_000, 3 << 20];
    let frames: Vec<Frame> = (1..).zip(sizes).map(|(seq, bytes)| frame(seq, bytes)).collect();
    let one_each: Vec<Vec<Frame>> = frames.iter().map(|frame| vec![frame.clone()]).collect();
    for batches in [one_each, vec![frames.clone()]] {
        let (back, beyond) = written_then_read(&batches, |_| {});
        assert_eq!(back, frames);
        assert_eq!(beyond, Beyond::default());
    }
}

#[test]
fn random_batches_come_back() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut seq = 0;
        let batches: Vec<Vec<Frame>> = (0..10)
            .map(|_| {
                (0..=rng.index(3))
                    .map(|_| {
                        seq += 1;
                        frame(seq, rng.index(9000))
                    })
                    .collect()
            })
            .collect();
        assert_eq!(written_then_read(&batches, |_| {}).0, batches.concat());
    }
}

#[test]
fn what_lies_beyond_a_bad_frame_is_seen() {
    let batches = [vec![frame(1, 100)], vec![frame(2, 5000), frame(3, 10)], vec![frame(4, 10)]];
    let (back, beyond) = written_then_read(&batches, |bytes| bytes[2 * 4096 + 300] ^= 1);
    assert_eq!(back, batches[0]);
    assert_eq!((beyond.frames, beyond.seq, beyond.cut), (3, Seq(4), Seq(3)));
}

#[test]
fn a_bad_last_frame_has_nothing_beyond_but_itself() {
    let batches = [vec![frame(1, 100)], vec![frame(2, 5000)]];
    let (back, beyond) = written_then_read(&batches, |bytes| bytes[2 * 4096 + 4096] ^= 1);
    assert_eq!(back, batches[0]);
    assert_eq!((beyond.frames, beyond.seq), (1, Seq(2)));
    let (back, beyond) = written_then_read(&batches, |bytes| bytes.truncate(3 * 4096));
    assert_eq!(back, batches[0]);
    assert_eq!((beyond.frames, beyond.seq), (1, Seq(2)));
    let (back, beyond) = written_then_read(&batches, |bytes| bytes[2 * 4096..3 * 4096].fill(0));
    assert_eq!(back, batches[0]);
    assert_eq!(beyond, Beyond::default());
}

/// A bit that flipped on the way from the device, in the newest frame, looked like the torn end of the log: an
/// acknowledged block was then dropped for good.
#[test]
fn a_bit_that_flips_in_one_read_drops_no_frame() {
    let batches = [vec![frame(1, 100)], vec![frame(2, 900), frame(3, 10)], vec![frame(4, 200)]];
    let disk = written(&batches, |_| {});
    // The chance decides which bit flips: header, payload or padding.
    for seed in 0..2000 {
        // One of the operations after the opening is the read.
        let faults = Faults { at: vec![(2 + seed % 4, Fault::BitFlip)], ..Faults::default() };
        let world = SimWorld::new(SimOptions { faults, ..SimOptions::with_seed(seed) }, disk.clone());
        let program = read_all(world.env(), Expect::Context(CONTEXT));
        let (back, _) = world.run(program).done().expect("the program returns");
        assert_eq!(back, batches.concat(), "seed {seed}");
    }
}

#[test]
fn damaged_padding_hides_nothing() {
    let batches = [vec![frame(1, 100)], vec![frame(2, 100)]];
    for at in [4096 + 272, 4096 + 280, 8191] {
        let (back, _) = written_then_read(&batches, |bytes| bytes[at] = 0xff);
        assert_eq!(back, batches.concat());
    }
}

#[test]
fn a_bad_frame_within_a_write_hides_no_number() {
    let batches = [vec![frame(1, 100), frame(2, 100), frame(3, 100)]];
    let (back, beyond) = written_then_read(&batches, |bytes| bytes[4096 + 272 + 20] ^= 1);
    assert_eq!(back, batches[0][..1]);
    assert_eq!((beyond.frames, beyond.seq, beyond.cut), (1, Seq(3), Seq(2)));
}

#[test]
fn frames_of_another_generation_are_invisible() {
    let batches = [vec![frame(1, 100)]];
    let (_, disk) = run(empty_disk(), async |env: SimEnv| {
        let file = env.open(NAME, OpenMode::CreateNew).await.unwrap();
        write_frames(&env, &file, &CONTEXT, UNIT_BYTES, &batches[0], WriteSync::Durable).await.unwrap();
    });
    let later = FrameContext { generation: 5, ..CONTEXT };
    assert_eq!(read(disk.clone(), Expect::Context(later)), (Vec::new(), Beyond::default()));
    let claimed = Expect::Claimed { purpose: Purpose::Wal, identity: IDENTITY, number: 3 };
    let (frames, _) = read(disk, claimed);
    assert_eq!(frames, batches[0]);
}

#[test]
fn any_bytes_are_read_without_harm() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut bytes = vec![0; rng.index(30_000)];
        rng.fill(&mut bytes);
        // Magic numbers at aligned places lead the reader into the codec.
        for at in (0..bytes.len().saturating_sub(8)).step_by(8) {
            if rng.chance(500) {
                bytes[at..at + 4].copy_from_slice(&super::frame::MAGIC);
            }
        }
        let mut disk = empty_disk();
        disk.write_file(NAME, &bytes);
        let claimed = Expect::Claimed { purpose: Purpose::Wal, identity: IDENTITY, number: 3 };
        for expect in [claimed, Expect::Context(CONTEXT)] {
            assert_eq!(read(disk.clone(), expect), (Vec::new(), Beyond::default()));
        }
    }
}
