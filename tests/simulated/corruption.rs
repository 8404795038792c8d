//! Damage to files at rest: every sector of every file, in several ways. What is read is right, or refused with a typed
//! error; it is never wrong.

use std::sync::Mutex;

use crate::support::damage::{AtRest, at_rest, lose_the_tail};
use crate::support::run::on_two_threads;
use op_engine::Error;
use op_engine_io::sim::SimDisk;
use op_engine_io::{Dir, FileKind, FileName};
use op_engine_shards::Error as StorageError;

const SECTOR: u64 = 512;

fn len(disk: &SimDisk, name: FileName) -> u64 {
    disk.read_file(name).map_or(0, |bytes| bytes.len() as u64)
}

/// Reads a store after each of `count` kinds of damage, half of them on each thread.
fn try_all(store: &AtRest, damages: &[(String, Damage)]) -> usize {
    let wrong: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let refused = Mutex::new(0);
    on_two_threads(|thread| {
        for (nth, (what, damage)) in damages.iter().enumerate().filter(|(nth, _)| *nth as u64 % 2 == thread) {
            let mut disk = store.disk.clone();
            if !damage.apply(&mut disk, &store.earlier) {
                continue;
            }
            match store.read_damaged(disk, nth as u64) {
                Ok(None) => {}
                Ok(Some(_)) => *refused.lock().unwrap() += 1,
                Err(why) => wrong.lock().unwrap().push(format!("{what}: {why}")),
            }
        }
    });
    let wrong = wrong.into_inner().unwrap();
    wrong.iter().take(10).for_each(|why| println!("{why}"));
    assert!(wrong.is_empty(), "{} of {} damages give wrong answers", wrong.len(), damages.len());
    refused.into_inner().unwrap()
}

enum Damage {
    Flip(FileName, u64, u8),
    Zero(FileName, u64),
    Truncate(FileName, u64),
    /// One file holds what another one does.
    Copy(FileName, FileName),
    Earlier(FileName),
}

impl Damage {
    /// False if it changes nothing.
    fn apply(&self, disk: &mut SimDisk, earlier: &SimDisk) -> bool {
        match self {
            Self::Flip(name, offset, bit) => disk.flip_bit(*name, *offset, *bit),
            Self::Zero(name, offset) => {
                let mut changed = false;
                disk.corrupt(*name, *offset, |bytes| {
                    let sector = bytes.iter_mut().take(SECTOR as usize);
                    sector.for_each(|byte| changed |= std::mem::take(byte) != 0);
                });
                changed
            }
            Self::Truncate(name, len) => disk.truncate_file(*name, *len),
            Self::Copy(to, from) => {
                let (Some(bytes), Some(old)) = (disk.read_file(*from), disk.read_file(*to)) else {
                    return false;
                };
                disk.write_file(*to, &bytes);
                bytes != old
            }
            Self::Earlier(name) => {
                let Some(bytes) = earlier.read_file(*name) else { return false };
                let changed = disk.read_file(*name).is_some_and(|old| old != bytes);
                disk.write_file(*name, &bytes);
                changed
            }
        }
    }
}

fn sectors(store: &AtRest) -> Vec<(FileName, u64)> {
    let files = store.disk.files().into_iter();
    files
        .flat_map(|name| (0..len(&store.disk, name) / SECTOR).map(move |sector| (name, sector * SECTOR)))
        .collect()
}

/// A store whose commits are in segments, and one whose newest are in the WAL only.
fn stores() -> [AtRest; 2] {
    [at_rest(2, 10, true, 3), at_rest(2, 10, false, 4)]
}

#[test]
fn a_flipped_bit_in_any_sector_is_found_out_or_harmless() {
    for store in stores() {
        let damages: Vec<_> = sectors(&store)
            .into_iter()
            .map(|(name, offset)| {
                let at = offset + offset.wrapping_mul(0x9E37_79B9) % SECTOR;
                let bit = (offset / SECTOR % 8) as u8;
                (format!("bit {bit} of {name} at {at}"), Damage::Flip(name, at, bit))
            })
            .collect();
        let refused = try_all(&store, &damages);
        assert!(refused > 20, "{refused} of {} are refused", damages.len());
    }
}

#[test]
fn a_zeroed_sector_is_found_out_or_harmless() {
    for store in stores() {
        let damages: Vec<_> = sectors(&store)
            .into_iter()
            .map(|(name, offset)| (format!("zeros in {name} at {offset}"), Damage::Zero(name, offset)))
            .collect();
        assert!(try_all(&store, &damages) > 20);
    }
}

#[test]
fn a_file_that_is_too_short_swapped_or_old_is_found_out_or_harmless() {
    for store in stores() {
        let mut damages = Vec::new();
        let files = store.disk.files();
        for name in &files {
            let bytes = len(&store.disk, *name);
            for part in 0..8 {
                damages.push((format!("{name} cut at {part}/8"), Damage::Truncate(*name, bytes * part / 8)));
            }
            damages.push((
                format!("{name} cut by a sector"),
                Damage::Truncate(*name, bytes.saturating_sub(SECTOR)),
            ));
            damages.push((format!("{name} from earlier"), Damage::Earlier(*name)));
            for other in files.iter().filter(|other| *other != name && other.kind == name.kind) {
                damages.push((format!("{name} holds {other}"), Damage::Copy(*name, *other)));
            }
        }
        assert!(try_all(&store, &damages) > 20);
    }
}

#[test]
fn a_missing_file_is_named_or_was_not_needed() {
    let mut named = 0;
    for store in stores() {
        for name in store.disk.files() {
            let mut disk = store.disk.clone();
            assert!(disk.remove_file(name));
            match store.read_damaged(disk, 1).unwrap_or_else(|why| panic!("without {name}: {why}")) {
                // Space that is kept is taken again.
                None if name.kind == FileKind::Reserve => {}
                None => assert_eq!(name.kind, FileKind::Wal, "the store needs {name}"),
                Some(Error::Storage(StorageError::Missing { file, .. })) => {
                    // Of a log, only the directory and the kind of the file that must be there are known.
                    let dir = if name.dir == Dir::Root { name.to_string() } else { name.dir.to_string() };
                    assert!(file.contains(&dir), "{file} is named for {name}");
                    named += 1;
                }
                Some(Error::Storage(StorageError::AcknowledgedDataMissing { shard, file, .. })) => {
                    assert_eq!(name.kind, FileKind::Wal);
                    assert_eq!(Dir::Shard(shard.0), name.dir, "{file}");
                    named += 1;
                }
                Some(other) => panic!("without {name}: {other:?}"),
            }
        }
    }
    assert!(named > 20);
}

#[test]
fn a_lost_tail_of_acknowledged_commits_is_refused() {
    (0..3).for_each(|seed| lose_the_tail(seed).unwrap());
}
