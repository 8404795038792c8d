//! What a reorg does to a collection: the four rules that a collection can have, and batches that go by none of them.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::support::check::{Checked, Trouble};
use crate::support::model::State;
use crate::support::opnet::{
    ByAddress, BySpentHeight, Keys, PLACES, Slots, Spends, Targets, bury, commit, next, on_store, settle,
};
use crate::support::run::{Driver, Machine, Progress, Setup, Then, on_two_threads, reopen};
use crate::support::script::{Recipe, write};
use futures_util::future::{join, join_all};
use op_engine::{Batch, Engine, Error, Height};
use op_engine_io::sim::{Personality, Rng, SimDisk};

#[test]
fn a_collection_versioned_by_height_is_what_it_was_at_that_height() {
    for place in PLACES {
        on_store(2, 1, async |engine: Engine| {
            let slot = ([1; 32], [2; 32]);
            for value in 1..=9 {
                commit(&engine, 1, |block| {
                    block.put::<Slots>(&slot, &[value; 32]);
                })
                .await?;
            }
            settle(&engine, place).await?;
            for height in [7, 6, 2] {
                engine.reorg_to(Height(height)).await?;
                assert_eq!(engine.get::<Slots>(&slot).await?, Some([height as u8; 32]));
                assert_eq!(engine.at(Height(1)).await?.get::<Slots>(&slot).await?, Some([1; 32]));
            }
            Ok(())
        });
    }
}

#[test]
fn a_row_with_two_heights_is_reverted_by_either() {
    for place in PLACES {
        on_store(2, 2, async |engine: Engine| {
            let coins: Vec<_> = (0..6).map(|n| ([n; 32], 0)).collect();
            // Block n creates coin n and, from the third on, spends the one two before.
            for n in 0..6usize {
                commit(&engine, 1, |block| {
                    let height = block.height().0;
                    block.put::<Spends>(&coins[n], &(Some((n as u64, height)), None));
                    if let Some(old) = n.checked_sub(2) {
                        block.put::<Spends>(&coins[old], &(Some((old as u64, old as u64 + 1)), Some(height)));
                    }
                })
                .await?;
            }
            settle(&engine, place).await?;
            for height in (1..=6u64).rev() {
                engine.reorg_to(Height(height)).await?;
                for (n, coin) in (0..).zip(&coins) {
                    let spent = (n + 3 <= height).then_some(n + 3);
                    let wanted = (n < height).then_some((Some((n, n + 1)), spent));
                    assert_eq!(engine.get::<Spends>(coin).await?, wanted, "coin {n} at {height}");
                }
                let spent = engine.scan_index::<BySpentHeight>().collect().await?;
                assert_eq!(spent.len() as u64, height.saturating_sub(2));
            }
            Ok(())
        });
    }
}

#[test]
fn a_cleared_collection_is_emptied_by_any_reorg_and_by_nothing_else() {
    for place in PLACES {
        on_store(2, 3, async |engine: Engine| {
            commit(&engine, 1, |block| {
                block.put::<Targets>(&1, &10);
            })
            .await?;
            let mut between = Batch::new();
            between.put::<Targets>(&2, &20).put::<Keys>(&2, &(20, vec![]));
            engine.commit_global(between).await?;
            bury(&engine, 3).await?;
            settle(&engine, place).await?;
            assert_eq!(engine.scan::<Targets>().collect().await?, [(1, 10), (2, 20)]);

            // Even one that takes back nothing.
            let tip = engine.tip().unwrap().height;
            engine.reorg_to(tip).await?;
            assert_eq!(engine.scan::<Targets>().collect().await?, []);
            assert_eq!(engine.get::<Targets>(&1).await?, None);
            let mut between = Batch::new();
            between.put::<Targets>(&3, &30);
            engine.commit_global(between).await?;
            assert_eq!(engine.scan::<Targets>().collect().await?, [(3, 30)]);
            settle(&engine, place).await?;
            engine.reorg_to(Height(1)).await?;
            bury(&engine, 25).await?;
            engine.compact().await?;
            assert_eq!(engine.scan::<Targets>().collect().await?, []);
            assert_eq!(engine.scan::<Keys>().collect().await?.len(), 1);
            Ok(())
        });
    }
}

#[test]
fn an_untouched_collection_keeps_what_blocks_and_batches_wrote_through_any_reorg() {
    for place in PLACES {
        on_store(2, 4, async |engine: Engine| {
            bury(&engine, 2).await?;
            commit(&engine, 1, |block| {
                block.put::<Keys>(&1, &(10, vec![1]));
            })
            .await?;
            let mut batch = Batch::new();
            batch.put::<Keys>(&2, &(20, vec![2]));
            engine.commit_global(batch).await?;
            commit(&engine, 1, |block| {
                block.put::<Keys>(&1, &(11, vec![3]));
            })
            .await?;
            settle(&engine, place).await?;
            engine.reorg_to(Height(1)).await?;
            bury(&engine, 25).await?;
            settle(&engine, place).await?;
            let rows = engine.scan::<Keys>().collect().await?;
            assert_eq!(rows, [(1, (11, vec![3])), (2, (20, vec![2]))]);
            assert_eq!(engine.get_by::<ByAddress>(&11).await?.map(|(key, _)| key), Some(1));
            assert_eq!(engine.get_by::<ByAddress>(&10).await?, None);
            Ok(())
        });
    }
}

/// Blocks, batches and reorgs all on their way at once, and readers among them. Every batch gives all keys the same
/// number.
async fn batches_among_blocks(engine: Engine, seed: u64) -> Checked {
    const KEYS: u64 = 12;
    let mut rng = Rng::new(seed);
    bury(&engine, 3).await?;
    let mut number = 0;
    for round in 0..12u8 {
        let mut orders = Vec::new();
        let mut height = engine.tip().unwrap().height.0;
        let mut block = next(&engine, round);
        for _ in 0..1 + rng.below(5) {
            if rng.coin() {
                number += 1;
                let mut batch = Batch::new();
                for key in 0..KEYS {
                    batch.put::<Keys>(&key, &(number * 100 + key, vec![7; 40]));
                }
                orders.push(Order::Batch(batch));
            } else {
                height += 1;
                block.put::<Slots>(&([round; 32], [height as u8; 32]), &[1; 32]);
                let after = op_engine::Block::new(
                    Height(height + 1),
                    crate::support::opnet::hash(height + 1, round),
                    block.hash(),
                );
                orders.push(Order::Block(std::mem::replace(&mut block, after)));
            }
        }
        let reorg = rng.coin();
        if reorg {
            height -= rng.below(3).min(height - engine.horizon().0);
            orders.push(Order::Reorg(Height(height)));
        }
        let engine = &engine;
        let work = join_all(orders.into_iter().map(|order| order.give(engine)));
        let readers = join_all((0..4).map(|_| async {
            let rows = engine.snapshot().await?.scan::<Keys>().collect().await?;
            let first = rows.first().map(|(_, (address, _))| address / 100);
            let torn =
                rows.iter().any(|(key, (address, _))| Some(address / 100) != first || address % 100 != *key);
            if torn || !(rows.is_empty() || rows.len() as u64 == KEYS) {
                return Err(Trouble::Wrong(format!("a batch is seen in part: {rows:?}")));
            }
            Ok(())
        }));
        let (done, read) = join(work, readers).await;
        done.into_iter().collect::<Result<Vec<()>, Error>>()?;
        read.into_iter().collect::<Checked<Vec<()>>>()?;
        assert_eq!(engine.tip().unwrap().height, Height(height), "round {round}");
        let rows = engine.scan::<Keys>().collect().await?;
        assert!(number == 0 || rows.iter().all(|(_, (address, _))| address / 100 == number), "{rows:?}");
        let by_address = engine.scan_index::<ByAddress>().collect().await?;
        assert_eq!(by_address.len(), rows.len(), "old entries of the index are gone");
        if rng.below(4) == 0 {
            engine.flush().await?;
        }
    }
    Ok(())
}

enum Order {
    Block(op_engine::Block),
    Batch(Batch),
    Reorg(Height),
}

impl Order {
    async fn give(self, engine: &Engine) -> Result<(), Error> {
        match self {
            Self::Block(block) => engine.commit(block).await.map(drop),
            Self::Batch(batch) => engine.commit_global(batch).await.map(drop),
            Self::Reorg(height) => engine.reorg_to(height).await.map(drop),
        }
    }
}

#[test]
fn batches_are_whole_among_blocks_and_reorgs_on_their_way() {
    for seed in 0..40 {
        on_store(1 + (seed % 4) as u16, seed, |engine| batches_among_blocks(engine, seed));
    }
}

#[test]
fn a_refused_batch_changes_nothing() {
    on_store(2, 5, async |engine: Engine| {
        let mut batch = Batch::new();
        batch.put::<Keys>(&1, &(10, vec![1]));
        engine.commit_global(batch).await?;
        let mut twice = Batch::new();
        twice.put::<Keys>(&2, &(20, vec![])).put::<Keys>(&3, &(10, vec![]));
        assert!(matches!(engine.commit_global(twice).await, Err(Error::DuplicateKey { .. })));
        let mut chain = Batch::new();
        chain.put::<Keys>(&2, &(20, vec![])).put::<Slots>(&([1; 32], [1; 32]), &[1; 32]);
        assert!(matches!(engine.commit_global(chain).await, Err(Error::NotGlobal { .. })));
        assert_eq!(engine.scan::<Keys>().collect().await?, [(1, (10, vec![1]))]);
        Ok(())
    });
}

/// A script of little else than batches, cut off at one in `every` of its I/Os.
fn crash_among_batches(shards: u16, personality: Personality, every: u64, part: u64) {
    let setup = Setup { personality, pipeline: 3, ..Setup::small(shards) };
    let recipe = Recipe {
        seed: 70 + u64::from(shards),
        blocks: 50,
        reorgs_at: vec![15, 30, 31],
        changes_max: 3,
        weights: [1, 2, 1, 1, 3, 1],
        between: [9000, 300, 300, 300, 0, 0],
        ..Recipe::default()
    };
    let script = write(&recipe, State::default());
    let progress = Rc::new(Progress::default());
    let machine = Machine::new(setup.options(u64::from(shards)), SimDisk::new());
    let images: Rc<RefCell<Vec<(SimDisk, Range<usize>, u64)>>> = Rc::default();
    let (taken, seen) = (Rc::clone(&images), Rc::clone(&progress));
    machine.0.on_io(move |index, _, disk| {
        if index % every == part {
            taken.borrow_mut().push((disk.crash(index, personality), seen.window(), index));
        }
    });
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        Ok(engine.close().await?)
    });
    done.unwrap();
    let images = images.take();
    assert!(images.len() > 40, "{} crashes", images.len());
    for (image, window, index) in images {
        let then = if index.is_multiple_of(4) { Then::GoOn } else { Then::Compare };
        let found = reopen(image, &setup, &script, window, index, then);
        found.unwrap_or_else(|why| panic!("{shards} shards, crash at {index}: {why:?}"));
    }
}

#[test]
fn a_crash_keeps_whole_batches_between_blocks_and_reorgs() {
    on_two_threads(|thread| {
        let personality = if thread == 0 { Personality::Strict } else { Personality::Ext4 };
        for shards in [1, 3] {
            crash_among_batches(shards, personality, 7, thread);
        }
    });
}
