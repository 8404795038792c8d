//! What the tests of logs share: simulated machines, and every moment at which their power may fail.

use std::cell::RefCell;
use std::rc::Rc;

use op_engine_io::sim::{DurableCover, Personality, SimDisk, SimEnv, SimOptions, SimWorld};
use op_engine_io::{Dir, Env};

use super::Identity;
use crate::ids::{ShardId, StoreId};

pub(crate) const IDENTITY: Identity =
    Identity { store: StoreId([0x5a; 16]), shard: ShardId(0), shard_count: 2 };

/// Runs a program on a machine with this disk until it returns.
pub(crate) fn run<T, F: Future<Output = T>>(
    disk: SimDisk,
    program: impl FnOnce(SimEnv) -> F,
) -> (T, SimDisk) {
    let world = SimWorld::new(SimOptions::with_seed(1), disk);
    let outcome = world.run(program(world.env())).done().expect("the program returns");
    (outcome, world.stop())
}

/// A disk with the directories of two shards.
pub(crate) fn empty_disk() -> SimDisk {
    let ((), disk) = run(SimDisk::new(), async |env: SimEnv| {
        env.create_dir(Dir::Root).await.unwrap();
        env.create_dir(Dir::Shard(0)).await.unwrap();
        env.create_dir(Dir::Shard(1)).await.unwrap();
    });
    disk
}

/// Runs a program that keeps `progress` up to date, and returns what disk and progress were at each I/O event.
pub(crate) fn moments<P: Clone + 'static, T, F: Future<Output = T>>(
    seed: u64,
    disk: SimDisk,
    progress: P,
    program: impl FnOnce(SimEnv, Rc<RefCell<P>>) -> F,
) -> (T, SimDisk, Vec<(SimDisk, P)>) {
    let durable_cover = if seed.is_multiple_of(2) { DurableCover::Write } else { DurableCover::File };
    let world = SimWorld::new(SimOptions { durable_cover, ..SimOptions::with_seed(seed) }, disk);
    let progress = Rc::new(RefCell::new(progress));
    let moments = Rc::new(RefCell::new(Vec::new()));
    let (seen, at) = (Rc::clone(&moments), Rc::clone(&progress));
    world.on_io(move |_, _, disk| seen.borrow_mut().push((disk.clone(), at.borrow().clone())));
    let outcome = world.run(program(world.env(), progress)).done().expect("the program returns");
    let disk = world.stop();
    let moments = moments.take();
    assert!(!moments.is_empty(), "the program does I/O");
    (outcome, disk, moments)
}

/// Images that a loss of power, or a kill, at this moment may leave behind.
pub(crate) fn images(disk: &SimDisk, seed: u64) -> [SimDisk; 4] {
    [
        disk.crash(seed, Personality::Strict),
        disk.crash(seed + 1_000_003, Personality::Strict),
        disk.crash(seed, Personality::Ext4),
        disk.kill(seed),
    ]
}
