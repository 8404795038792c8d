//! The rules of the data model that are easy to get wrong, each with a test of its name.

use std::collections::BTreeMap;

use crate::support::check::{Checked, Trouble};
use crate::support::opnet::{
    ByAddress, BySpentHeight, Keys, PLACES, Place, SlotKey, Slots, Spends, Unspent, UnspentByOwner, bury,
    commit, hash, on_store, settle,
};
use op_engine::{Batch, Engine, Height, Snapshot};
use op_engine_io::sim::Rng;

const ZERO: [u8; 32] = [0; 32];
const OTHER: [u8; 32] = [7; 32];

fn slot(n: u8) -> SlotKey {
    ([n; 32], [n ^ 0x55; 32])
}

/// Every way to look a slot up says the same.
async fn expect_slot(engine: &Engine, key: SlotKey, wanted: Option<[u8; 32]>, what: &str) -> Checked {
    let snapshot = engine.snapshot().await?;
    let height = engine.tip().unwrap().height;
    let rows = |rows: Vec<(SlotKey, [u8; 32])>| rows.first().map(|row| row.1);
    let contract = (key.0,);
    let mut draft = engine.draft(Height(height.0 + 1), engine.tip().unwrap().hash).await?;
    let answers = [
        ("get", engine.get::<Slots>(&key).await?),
        ("get_many", engine.get_many::<Slots>(&[slot(0xEE), key]).await?.pop().unwrap()),
        ("snapshot", snapshot.get::<Slots>(&key).await?),
        ("at", engine.at(height).await?.get::<Slots>(&key).await?),
        ("scan", rows(engine.scan::<Slots>().prefix(&contract).collect().await?)),
        ("draft", draft.get::<Slots>(&key).await?),
        ("draft scan", rows(draft.scan::<Slots>().prefix(&contract).collect().await?)),
    ];
    for (way, got) in answers {
        if got != wanted {
            return Err(Trouble::Wrong(format!("{what}, {way}: {got:?}, wanted {wanted:?}")));
        }
    }
    if draft.exists::<Slots>(&key).await? != wanted.is_some() {
        return Err(Trouble::Wrong(format!("{what}: exists is wrong")));
    }
    Ok(())
}

/// What a slot is, and what it was made above the height that a reorg goes back to.
const CELLS: [(&str, Option<[u8; 32]>, [u8; 32]); 5] = [
    ("absent, then zero", None, ZERO),
    ("absent, then nonzero", None, OTHER),
    ("zero, then nonzero", Some(ZERO), OTHER),
    ("nonzero, then zero", Some(OTHER), ZERO),
    ("nonzero, then the same again", Some(OTHER), OTHER),
];

async fn absent_zero_and_nonzero(engine: Engine, before: Place, after: Place) -> Checked {
    commit(&engine, 1, |block| {
        for (n, (_, value, _)) in (1..).zip(CELLS) {
            if let Some(value) = value {
                block.put::<Slots>(&slot(n), &value);
            }
        }
    })
    .await?;
    bury(&engine, 2).await?;
    settle(&engine, before).await?;
    for (n, (what, value, _)) in (1..).zip(CELLS) {
        expect_slot(&engine, slot(n), value, &format!("{before:?}, before a reorg, {what}")).await?;
    }

    let back = engine.tip().unwrap().height;
    commit(&engine, 1, |block| {
        for (n, (_, _, value)) in (1..).zip(CELLS) {
            block.put::<Slots>(&slot(n), &value);
        }
    })
    .await?;
    bury(&engine, 1).await?;
    settle(&engine, after).await?;
    for (n, (what, _, value)) in (1..).zip(CELLS) {
        expect_slot(&engine, slot(n), Some(value), &format!("{after:?}, written, {what}")).await?;
    }

    engine.reorg_to(back).await?;
    for (n, (what, value, _)) in (1..).zip(CELLS) {
        expect_slot(&engine, slot(n), value, &format!("{before:?} {after:?}, after a reorg, {what}")).await?;
    }
    // What the reorg has killed is purged, and other blocks take its heights.
    bury(&engine, 25).await?;
    settle(&engine, Place::Compacted).await?;
    for (n, (what, value, _)) in (1..).zip(CELLS) {
        expect_slot(&engine, slot(n), value, &format!("{before:?} {after:?}, purged, {what}")).await?;
    }
    Ok(())
}

#[test]
fn absent_is_not_zero_in_memtables_and_segments_before_and_after_a_reorg() {
    for shards in [1, 3] {
        for before in PLACES {
            for after in PLACES {
                on_store(shards, 1, |engine| absent_zero_and_nonzero(engine, before, after));
            }
        }
    }
}

/// Random writes of zeros and others, in drafts, over flushes and reorgs: `exists` is what a set of keys says.
async fn exists_against_a_set(engine: Engine, seed: u64) -> Checked {
    let mut rng = Rng::new(seed);
    let mut chain: Vec<BTreeMap<SlotKey, [u8; 32]>> = vec![BTreeMap::new()];
    commit(&engine, 0, |_| ()).await?;
    for round in 0..40u8 {
        let tip = engine.tip().unwrap();
        let mut draft = engine.draft(Height(tip.height.0 + 1), tip.hash).await?;
        let mut state = chain.last().unwrap().clone();
        for _ in 0..rng.below(12) {
            let key = slot(rng.below(40) as u8);
            let failed = rng.below(4) == 0;
            let call = draft.savepoint();
            if draft.exists::<Slots>(&key).await? != state.contains_key(&key) {
                return Err(Trouble::Wrong(format!("round {round}, {key:?} in the draft")));
            }
            let value = if rng.coin() { ZERO } else { [round; 32] };
            draft.put::<Slots>(&key, &value)?;
            assert!(draft.exists::<Slots>(&key).await?);
            if failed {
                draft.rollback(call)?;
            } else {
                draft.release(call)?;
                state.insert(key, value);
            }
            assert_eq!(draft.exists::<Slots>(&key).await?, state.contains_key(&key));
        }
        engine.commit(draft.finish(hash(tip.height.0 + 1, round))).await?;
        chain.push(state);
        match rng.below(8) {
            0 => engine.flush().await?,
            1 => engine.compact().await?,
            2 => {
                let depth = rng.index(4).min(chain.len() - 1);
                chain.truncate(chain.len() - depth);
                engine.reorg_to(Height(chain.len() as u64)).await?;
            }
            _ => {}
        }
        let state = chain.last().unwrap();
        let keys: Vec<_> = (0..40).map(slot).collect();
        let got = engine.get_many::<Slots>(&keys).await?;
        let wanted: Vec<_> = keys.iter().map(|key| state.get(key).copied()).collect();
        assert_eq!(got, wanted, "round {round}");
    }
    Ok(())
}

#[test]
fn exists_is_told_apart_from_zero_in_random_drafts() {
    for seed in 0..60 {
        on_store(1 + (seed % 3) as u16, seed, |engine| exists_against_a_set(engine, seed));
    }
}

#[test]
fn zero_value_rows_are_real_rows_also_after_compaction() {
    for shards in [1, 4] {
        on_store(shards, 2, async |engine: Engine| {
            for _ in 0..6 {
                commit(&engine, 1, |block| {
                    for n in 0..100 {
                        block.put::<Slots>(&slot(n), &ZERO);
                        block.put::<Unspent>(&([n; 32], 0), &(0, 0));
                    }
                })
                .await?;
                engine.flush().await?;
            }
            bury(&engine, 25).await?;
            engine.compact().await?;
            for n in 0..100 {
                expect_slot(&engine, slot(n), Some(ZERO), "compacted").await?;
            }
            assert_eq!(engine.scan::<Unspent>().collect().await?.len(), 100);
            assert_eq!(engine.scan_index::<UnspentByOwner>().prefix(&0).collect().await?.len(), 100);
            Ok(())
        });
    }
}

async fn coins(engine: &Engine) -> Checked<(usize, usize, usize, usize)> {
    Ok((
        engine.scan::<Unspent>().collect().await?.len(),
        engine.scan_index::<UnspentByOwner>().collect().await?.len(),
        engine.scan::<Spends>().collect().await?.len(),
        engine.scan_index::<BySpentHeight>().collect().await?.len(),
    ))
}

#[test]
fn a_coin_that_is_created_and_spent_in_one_block_keeps_both_heights_or_leaves_nothing() {
    for place in PLACES {
        on_store(2, 3, async |engine: Engine| {
            bury(&engine, 3).await?;
            let coin = ([9; 32], 1);
            let height = commit(&engine, 1, |block| {
                let height = block.height().0;
                block.put::<Unspent>(&coin, &(50, 3)).delete::<Unspent>(&coin);
                block.put::<Spends>(&coin, &(Some((50, height)), None));
                block.put::<Spends>(&coin, &(Some((50, height)), Some(height)));
            })
            .await?;
            settle(&engine, place).await?;
            assert_eq!(engine.get::<Spends>(&coin).await?, Some((Some((50, height.0)), Some(height.0))));
            assert_eq!(engine.get::<Unspent>(&coin).await?, None);
            assert_eq!(coins(&engine).await?, (0, 0, 1, 1));
            engine.reorg_to(Height(height.0 - 1)).await?;
            assert_eq!(coins(&engine).await?, (0, 0, 0, 0));

            // In a draft, too, and it mentions nothing of the coin that is not there afterwards.
            let tip = engine.tip().unwrap();
            let mut draft = engine.draft(height, tip.hash).await?;
            draft.warm::<Unspent>(&[coin]).await?;
            draft.put::<Unspent>(&coin, &(50, 3))?;
            assert_eq!(draft.scan_index::<UnspentByOwner>().prefix(&3).collect().await?.len(), 1);
            draft.delete::<Unspent>(&coin)?;
            assert_eq!(draft.scan_index::<UnspentByOwner>().collect().await?.len(), 0);
            let block = draft.finish(hash(height.0, 2));
            assert_eq!(block.len(), 0);
            engine.commit(block).await?;
            assert_eq!(coins(&engine).await?, (0, 0, 0, 0));
            Ok(())
        });
    }
}

#[test]
fn a_coin_that_is_created_and_spent_between_two_heights_is_reverted_one_by_one() {
    for place in PLACES {
        on_store(3, 4, async |engine: Engine| {
            let coin = ([8; 32], 0);
            let created = commit(&engine, 1, |block| {
                let height = block.height().0;
                block.put::<Spends>(&coin, &(Some((7, height)), None)).put::<Unspent>(&coin, &(7, 1));
            })
            .await?
            .0;
            bury(&engine, 2).await?;
            let spent = commit(&engine, 1, |block| {
                let height = block.height().0;
                block.put::<Spends>(&coin, &(Some((7, created)), Some(height))).delete::<Unspent>(&coin);
            })
            .await?
            .0;
            settle(&engine, place).await?;
            assert_eq!(coins(&engine).await?, (0, 0, 1, 1));
            engine.reorg_to(Height(spent - 1)).await?;
            assert_eq!(engine.get::<Spends>(&coin).await?, Some((Some((7, created)), None)));
            assert_eq!(engine.get::<Unspent>(&coin).await?, Some((7, 1)));
            assert_eq!(coins(&engine).await?, (1, 1, 1, 0));
            Ok(())
        });
    }
}

#[test]
fn a_record_that_is_created_and_removed_in_one_global_batch_leaves_nothing() {
    on_store(2, 5, async |engine: Engine| {
        let mut batch = Batch::new();
        batch.put::<Keys>(&1, &(10, vec![1])).put::<Keys>(&2, &(20, vec![2])).delete::<Keys>(&1);
        // The address passes to another record.
        batch.put::<Keys>(&3, &(10, vec![3]));
        engine.commit_global(batch).await?;
        assert_eq!(engine.get::<Keys>(&1).await?, None);
        assert_eq!(engine.get_by::<ByAddress>(&10).await?, Some((3, (10, vec![3]))));
        assert_eq!(engine.scan_index::<ByAddress>().collect().await?.len(), 2);
        engine.compact().await?;
        assert_eq!(engine.scan::<Keys>().collect().await?.len(), 2);
        Ok(())
    });
}

#[test]
fn a_spend_of_an_unknown_coin_is_kept_and_its_revert_leaves_no_trace() {
    for place in PLACES {
        on_store(2, 6, async |engine: Engine| {
            bury(&engine, 3).await?;
            let unknown = ([4; 32], 2);
            let height = commit(&engine, 1, |block| {
                let height = block.height().0;
                block.put::<Spends>(&unknown, &(None, Some(height))).delete::<Unspent>(&unknown);
            })
            .await?
            .0;
            settle(&engine, place).await?;
            assert_eq!(engine.get::<Spends>(&unknown).await?, Some((None, Some(height))));
            assert_eq!(coins(&engine).await?, (0, 0, 1, 1));
            engine.reorg_to(Height(height - 1)).await?;
            assert_eq!(coins(&engine).await?, (0, 0, 0, 0));
            assert_eq!(engine.get::<Spends>(&unknown).await?, None);
            bury(&engine, 25).await?;
            engine.compact().await?;
            let kept: u64 = engine
                .stats()
                .await?
                .shards
                .iter()
                .flat_map(|shard| &shard.segments)
                .filter(|segment| segment.collection != slots_of(&engine))
                .map(|segment| segment.entries)
                .sum();
            // What is left is the chain itself.
            assert_eq!(kept, engine.tip().unwrap().height.0);
            Ok(())
        });
    }
}

fn slots_of(engine: &Engine) -> op_engine_shards::CollectionId {
    engine.collection_names().into_iter().find(|(_, name)| name == "slots").unwrap().0
}

/// What a state says of one coin that changes in every block, by every kind of look-up.
async fn looked_up(view: &Snapshot, coin: ([u8; 32], u32), height: u64) -> Checked<Vec<u64>> {
    let of_owner = view.scan_index::<UnspentByOwner>().prefix(&(height as u32)).collect().await?;
    let up = view.scan::<Unspent>().collect().await?;
    let down = view.scan::<Unspent>().descending().limit(1).collect().await?;
    let by = view.get_by::<ByAddress>(&height).await?;
    let slot = view.get::<Slots>(&slot(1)).await?.map_or(0, |value| u64::from(value[0]));
    Ok(vec![
        view.get::<Unspent>(&coin).await?.map_or(0, |coin| coin.0),
        view.get_many::<Unspent>(&[coin]).await?[0].map_or(0, |coin| coin.0),
        up.first().map_or(0, |row| row.1.0),
        down.first().map_or(0, |row| row.1.0),
        if of_owner.is_empty() { 0 } else { height },
        by.map_or(0, |(_, key)| key.0),
        slot,
    ])
}

#[test]
fn every_look_up_means_the_state_after_the_block() {
    for place in PLACES {
        on_store(2, 7, async |engine: Engine| {
            let coin = ([1; 32], 0);
            for _ in 0..8 {
                commit(&engine, 1, |block| {
                    let height = block.height().0;
                    block.put::<Unspent>(&coin, &(height, height as u32));
                    block.put::<Keys>(&0, &(height, vec![]));
                    block.put::<Slots>(&slot(1), &[height as u8; 32]);
                })
                .await?;
            }
            settle(&engine, place).await?;
            for height in 1..=8 {
                let view = engine.at(Height(height)).await?;
                assert_eq!(view.tip().unwrap().height, Height(height));
                assert_eq!(looked_up(&view, coin, height).await?, [height; 7], "after block {height}");
                let later =
                    view.scan_index::<UnspentByOwner>().prefix(&(height as u32 + 1)).collect().await?;
                assert!(later.is_empty(), "block {} is not seen after block {height}", height + 1);
            }
            assert_eq!(looked_up(&engine.snapshot().await?, coin, 8).await?, [8; 7]);
            // A reorg to a height keeps what the block at that height wrote.
            engine.reorg_to(Height(5)).await?;
            assert_eq!(engine.get::<Unspent>(&coin).await?, Some((5, 5)));
            let mut draft = engine.draft(Height(6), engine.tip().unwrap().hash).await?;
            assert_eq!(draft.get::<Unspent>(&coin).await?, Some((5, 5)));
            Ok(())
        });
    }
}
