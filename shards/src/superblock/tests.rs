//! The superblock on a machine whose power fails at every moment.

use op_engine_io::sim::{SimDisk, SimEnv};

use super::*;
use crate::log::testing::{empty_disk, images, moments, run};

const WAL: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Wal, number: 0 };

fn sample() -> Superblock {
    Superblock {
        features: 0,
        store: StoreId([6; 16]),
        shard_count: 4,
        placement_key: [8; 16],
        created_by: "0.1.0".to_owned(),
        sequence: 1,
        parent_crc: 0,
    }
}

fn loaded(disk: SimDisk) -> Result<Loaded> {
    run(disk, async |env: SimEnv| load(&env).await).0
}

/// A store that has been opened.
fn used_store() -> SimDisk {
    let ((), mut disk) = run(empty_disk(), async |env: SimEnv| create(&env, &sample()).await.unwrap());
    disk.write_file(WAL, &[0; 4096]);
    disk
}

#[test]
fn round_trip() {
    assert_eq!(loaded(empty_disk()).unwrap(), Loaded::Absent);
    assert_eq!(loaded(used_store()).unwrap(), Loaded::Ready(sample()));
}

#[test]
fn a_creation_that_did_not_finish_can_begin_again() {
    let (_, _, moments) = moments(1, empty_disk(), false, async |env, done| {
        create(&env, &sample()).await.unwrap();
        *done.borrow_mut() = true;
    });
    for (at, (disk, _)) in (0..).zip(&moments) {
        for image in images(disk, at) {
            let (found, _) = run(image, async |env: SimEnv| {
                let found = load(&env).await.unwrap();
                match found {
                    Loaded::Absent => create(&env, &sample()).await.unwrap(),
                    Loaded::Unfinished => {
                        discard_unfinished(&env).await.unwrap();
                        create(&env, &sample()).await.unwrap();
                    }
                    Loaded::Ready(_) => {}
                }
                load(&env).await.unwrap()
            });
            assert_eq!(found, Loaded::Ready(sample()));
        }
    }
    let ((), disk) = run(empty_disk(), async |env: SimEnv| create(&env, &sample()).await.unwrap());
    for image in images(&disk, 5) {
        assert_eq!(loaded(image).unwrap(), Loaded::Ready(sample()), "a creation that returned is durable");
    }
}

#[test]
fn an_update_is_seen_whole_or_not_at_all() {
    let next = Superblock { placement_key: [9; 16], ..sample() };
    let expected = Superblock { sequence: 2, parent_crc: sample().crc(), ..next.clone() };
    let (updated, after, moments) = moments(1, used_store(), false, async move |env, done| {
        let updated = update(&env, &sample(), next).await.unwrap();
        *done.borrow_mut() = true;
        updated
    });
    assert_eq!(updated, expected);
    for (at, (disk, _)) in (0..).zip(&moments) {
        for image in images(disk, at) {
            let found = loaded(image).unwrap();
            assert!(found == Loaded::Ready(sample()) || found == Loaded::Ready(expected.clone()));
        }
    }
    for image in images(&after, 3) {
        assert_eq!(loaded(image).unwrap(), Loaded::Ready(expected.clone()));
    }
}

#[test]
fn two_good_copies_are_enough_and_one_is_not() {
    for broken in 0u64..16 {
        let mut disk = used_store();
        for copy in (0..4).filter(|copy| broken & (1 << copy) != 0) {
            disk.flip_bit(NAME, copy * 4096 + 41 + copy, 3);
        }
        if broken.count_ones() <= 2 {
            assert_eq!(loaded(disk).unwrap(), Loaded::Ready(sample()));
        } else {
            assert!(matches!(loaded(disk), Err(Error::Corruption { .. })));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_copy_is_noticed() {
    let mut sector = sample().encode(1);
    assert_eq!(Superblock::decode(&sector, 1).unwrap(), Some(sample()));
    assert_eq!(Superblock::decode(&sector, 2).unwrap(), None, "a misplaced copy is bad");
    for bit in 0..sector.len() * 8 {
        sector[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Superblock::decode(&sector, 1).unwrap(), None);
        sector[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(Superblock::decode(&[0; 4096], 1).unwrap(), None);
    assert_eq!(Superblock::decode(&[], 1).unwrap(), None);
}

#[test]
fn damage_and_loss_of_a_used_store_are_named() {
    let mut gone = used_store();
    assert!(gone.remove_file(NAME));
    assert!(matches!(loaded(gone), Err(Error::Missing { .. })));
    for len in [0, 4096, 8191] {
        let mut cut = used_store();
        cut.truncate_file(NAME, len);
        assert!(matches!(loaded(cut), Err(Error::Corruption { .. })));
    }
}

#[test]
fn another_version_or_feature_is_refused() {
    let mut disk = used_store();
    let mut sector = sample().encode(1);
    sector[4] = 3;
    let crc = crc32fast::hash(&sector[..CHECKED_BYTES]);
    sector[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
    disk.corrupt(NAME, 0, |bytes| bytes.iter_mut().zip(&sector).for_each(|(old, new)| *old = *new));
    assert!(matches!(loaded(disk), Err(Error::UnsupportedVersion { found: 3, supported: 2, .. })));
    let newer = Superblock { features: 4, ..sample() };
    let ((), disk) = run(empty_disk(), async move |env: SimEnv| create(&env, &newer).await.unwrap());
    let error = loaded(disk).unwrap_err();
    assert!(error.to_string().contains("0x4"), "{error}");
}

#[test]
fn limits_are_kept() {
    let long = Superblock { created_by: "x".repeat(65), ..sample() };
    let (outcome, _) = run(empty_disk(), async move |env: SimEnv| create(&env, &long).await);
    assert!(matches!(outcome, Err(Error::Limit { value: 65, max: 64, .. })));
    let longest = Superblock { created_by: "x".repeat(64), ..sample() };
    assert_eq!(Superblock::decode(&longest.encode(3), 3).unwrap(), Some(longest));
}
