//! Blocks in the making, and states that never become one: compared with plain maps, through whatever else happens to
//! the store meanwhile.

use std::rc::Rc;

use crate::support::check::{Checked, Of, Trouble, read_all, verify};
use crate::support::model::{Change, CommitOp, State};
use crate::support::run::{Driver, Machine, Progress, Setup, block_of, fill, on_two_threads};
use crate::support::schema::{Coins, Mempool, Names, Plain, States, Wallet};
use crate::support::script::{Recipe, Script, write};
use crate::support::trial::{Trial, apply};
use op_engine::{Batch, BlockHash, Draft, Engine, Error, Height, Overlay};
use op_engine_io::sim::{Rng, SimDisk};

struct Unregistered;

impl op_engine::Collection for Unregistered {
    const NAME: &'static str = "unregistered";
    type Key = u64;
    type Value = u64;
}

fn setup_of(rng: &mut Rng) -> Setup {
    let mut setup = Setup { window: 8, pipeline: 3, ..Setup::small(1 + rng.below(4) as u16) };
    setup.settings.memtable_bytes_max = 1 << (11 + rng.below(4));
    setup
}

/// Runs `work` on a store with some blocks in it.
fn with_store<F: Future<Output = Checked>>(
    seed: u64,
    blocks: usize,
    work: impl FnOnce(Rc<Machine>, Engine, State, Rng) -> F,
) {
    let mut rng = Rng::new(seed);
    let setup = setup_of(&mut rng);
    let reorgs_at = vec![blocks / 2];
    let recipe = Recipe { seed, blocks, window: setup.window, reorgs_at, ..Recipe::default() };
    let script = write(&recipe, State::default());
    let machine = Rc::new(Machine::new(setup.options(seed), SimDisk::new()));
    let done = machine.finish(async {
        let engine = setup.open(&machine.0, false).await?;
        let progress = Progress::default();
        Driver::new(&engine, &machine.0, &script, &progress, &setup).run().await?;
        let state = script.states.last().cloned().unwrap_or_default();
        work(Rc::clone(&machine), engine.clone(), state, rng).await?;
        Ok(engine.close().await?)
    });
    done.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
}

fn next_of(state: &State) -> (u64, BlockHash, BlockHash) {
    let (height, parent) = state.tip().map_or((1, BlockHash([0; 32])), |tip| (tip.height + 1, tip.hash));
    let mut hash = [0xD7; 32];
    hash[..8].copy_from_slice(&height.to_le_bytes());
    hash[8] = parent.0[8].wrapping_add(1);
    (height, BlockHash(hash), parent)
}

async fn draft_on(engine: &Engine, state: &State) -> Result<Draft, Error> {
    let (height, _, parent) = next_of(state);
    engine.draft(Height(height), parent).await
}

async fn expect_state(engine: &Engine, state: &State) -> Checked {
    let content = read_all(&engine.snapshot().await?, crate::support::check::Schema::All, Of::Tip).await?;
    Ok(content.expect(&state.content)?)
}

async fn commit(engine: &Engine, state: &mut State, op: CommitOp) -> Checked {
    match &op {
        CommitOp::Block { .. } => drop(engine.commit(block_of(&op).unwrap()).await?),
        CommitOp::Reorg(height) => drop(engine.reorg_to(Height(*height)).await?),
        CommitOp::Global(changes) => {
            let mut batch = Batch::new();
            fill(&mut batch, changes);
            engine.commit_global(batch).await?;
        }
    }
    *state = state.after(&op);
    Ok(())
}

/// What else happens to the store while a draft is made.
async fn meanwhile(engine: &Engine, state: &mut State, rng: &mut Rng) -> Checked<Meanwhile> {
    let mut done = Meanwhile::default();
    match rng.below(8) {
        0 => {
            done.wallet = true;
            commit(engine, state, CommitOp::Global(vec![Change::Wallet(1, Some(vec![9; 3]))])).await?;
        }
        1 => {
            let (height, mut hash, parent) = next_of(state);
            hash.0[9] = 1;
            done.tip = true;
            let changes = vec![Change::Coin(3, Some((5, 1))), Change::State((1, 1), Some(vec![]))];
            commit(engine, state, CommitOp::Block { height, hash, parent, changes }).await?;
        }
        2 => {
            let tip = state.tip().unwrap().height;
            let to = tip.saturating_sub(rng.below(3)).max(engine.horizon().0);
            (done.tip, done.reorg) = (to < tip, true);
            commit(engine, state, CommitOp::Reorg(to)).await?;
        }
        3 => engine.flush().await?,
        _ => {}
    }
    Ok(done)
}

#[derive(Debug, Default, Clone, Copy)]
struct Meanwhile {
    wallet: bool,
    tip: bool,
    reorg: bool,
}

/// Drafts are worked on at random while the store goes its way, and committed: what is refused and what is there
/// afterwards, in records and indexes, is what the model says.
async fn drafts_against_a_model(engine: Engine, mut state: State, mut rng: Rng) -> Checked {
    for round in 0..6 {
        let mut draft = draft_on(&engine, &state).await?;
        let mut trial = Trial::new(state.tables.as_ref().clone());
        if rng.below(3) == 0 {
            // So little that what was read is forgotten over and over.
            draft.limit_bytes(40_000);
        }
        let steps = rng.below(120);
        let mut passed = Meanwhile::default();
        let at = rng.below(steps + 1);
        for step in 0..steps {
            if step == at {
                passed = meanwhile(&engine, &mut state, &mut rng).await?;
            }
            trial.step(&mut draft, &mut rng).await?;
        }
        let (_, hash, _) = next_of(&state);
        let op = CommitOp::Block {
            height: draft.height().0,
            hash,
            parent: draft.parent(),
            changes: trial.changes.clone(),
        };
        let stale = passed.tip
            || passed.wallet && trial.used_wallet
            || passed.reorg && (trial.used_wallet || trial.used_mempool);
        let committed = engine.commit(draft.finish(hash)).await;
        match committed {
            Err(Error::StaleDraft { .. }) if stale => {}
            Err(Error::DuplicateKey { .. }) if !stale && trial.contradicts() => {}
            Ok(_) if !stale && !trial.contradicts() => state = state.after(&op),
            other => {
                return Err(Trouble::Wrong(format!("round {round}, {passed:?}, stale {stale}: {other:?}")));
            }
        }
        expect_state(&engine, &state).await?;
    }
    Ok(())
}

#[test]
fn drafts_show_and_commit_what_the_model_says_whatever_happens_meanwhile() {
    on_two_threads(|thread| {
        for seed in (thread..400).step_by(2) {
            with_store(seed, 12, |_, engine, state, rng| drafts_against_a_model(engine, state, rng));
        }
    });
}

/// Overlays on held states of several heights, all worked on in turns while blocks come and go.
async fn overlays_against_a_model(engine: Engine, mut state: State, mut rng: Rng) -> Checked {
    let mut held: Vec<(Overlay, Trial)> = Vec::new();
    held.push((engine.snapshot().await?.overlay(), Trial::new(state.tables.as_ref().clone())));
    let tip = state.tip().unwrap().height;
    for height in engine.horizon().0.max(tip.saturating_sub(5))..=tip {
        let tables = state.at(height).unwrap().tables.as_ref().clone();
        let mut trial = Trial::new(tables);
        trial.with_mempool = false;
        held.push((engine.at(Height(height)).await?.overlay(), trial));
    }
    for _ in 0..12 {
        meanwhile(&engine, &mut state, &mut rng).await?;
        for (overlay, trial) in &mut held {
            for _ in 0..8 {
                trial.step(overlay, &mut rng).await?;
            }
        }
    }
    drop(held);
    expect_state(&engine, &state).await
}

#[test]
fn simulated_calls_on_any_state_see_themselves_and_leave_the_store_alone() {
    on_two_threads(|thread| {
        for seed in (thread..100).step_by(2) {
            with_store(1000 + seed, 14, |_, engine, state, rng| overlays_against_a_model(engine, state, rng));
        }
    });
}

#[test]
fn a_collection_that_cannot_be_read_at_a_height_cannot_be_simulated_there() {
    with_store(3, 6, |_, engine, state, _| async move {
        let tip = state.tip().unwrap().height;
        let mut overlay = engine.at(Height(tip)).await?.overlay();
        assert!(matches!(overlay.get::<Mempool>(&1).await, Err(Error::HistoryGone { .. })));
        assert!(matches!(overlay.put::<Mempool>(&1, &vec![1]), Err(Error::HistoryGone { .. })));
        assert!(matches!(overlay.scan::<Mempool>().collect().await, Err(Error::HistoryGone { .. })));
        assert!(overlay.is_empty());
        assert!(matches!(overlay.put::<Unregistered>(&1, &1), Err(Error::UnknownCollection { .. })));
        Ok(())
    });
}

/// Fifty calls deep, each changing some slots of its own and some of its callers', a part of them failing.
#[test]
fn a_failed_call_leaves_no_trace_however_deep() {
    with_store(5, 4, |_, engine, state, mut rng| async move {
        let mut draft = draft_on(&engine, &state).await?;
        draft.put::<States>(&(0, 0), &vec![7])?;
        let (before, len) = (draft.bytes(), draft.len());
        let mut expected = state.tables.states.clone();
        expected.insert((0, 0), vec![7]);
        let mut open = Vec::new();
        for depth in 0..60u32 {
            open.push((draft.savepoint(), expected.clone()));
            for slot in [(0, 0), (1, depth), (2, rng.below(5) as u32)] {
                // The same slot many times costs as much as once.
                for value in 0..20 {
                    draft.put::<States>(&slot, &vec![value, depth as u8])?;
                }
                expected.insert(slot, vec![19, depth as u8]);
            }
        }
        assert!(draft.bytes() < before + 60 * 3 * 1000, "undoing takes {} bytes", draft.bytes());
        while let Some((call, states)) = open.pop() {
            if open.len() % 3 == 1 {
                draft.release(call)?;
            } else {
                draft.rollback(call)?;
                expected = states;
            }
            let rows = draft.scan::<States>().collect().await?;
            assert_eq!(rows, expected.clone().into_iter().collect::<Vec<_>>());
        }
        assert_eq!(draft.len(), len, "the outermost call was taken back");
        assert_eq!(draft.get::<States>(&(0, 0)).await?, Some(vec![7]));
        Ok(())
    });
}

#[test]
fn what_is_taken_back_leaves_no_memory_behind() {
    with_store(6, 4, |_, engine, state, _| async move {
        let mut draft = draft_on(&engine, &state).await?;
        draft.warm::<Plain>(&[vec![1]]).await?;
        let before = draft.bytes();
        for _ in 0..3 {
            let call = draft.savepoint();
            for key in 0..50u8 {
                draft.put::<Plain>(&vec![key], &vec![key; 100])?;
            }
            assert!(draft.bytes() > before + 50 * 100);
            draft.rollback(call)?;
            assert_eq!((draft.bytes(), draft.len()), (before, 0));
        }
        assert_eq!(draft.finish(BlockHash([1; 32])).len(), 0);
        Ok(())
    });
}

#[test]
fn the_limit_of_memory_forgets_reads_and_refuses_changes() {
    with_store(7, 4, |_, engine, state, _| async move {
        let mut draft = draft_on(&engine, &state).await?;
        draft.limit_bytes(60_000);
        let keys: Vec<Vec<u8>> = (0..40u8).map(|key| vec![1, key]).collect();
        for chunk in keys.chunks(10) {
            // Each has room only without the ones before.
            draft.put::<Plain>(&chunk[0], &vec![5; 9000])?;
            draft.warm::<Plain>(chunk).await?;
            assert!(draft.bytes() <= 60_000);
        }
        let (bytes, len) = (draft.bytes(), draft.len());
        let refused = draft.put::<Plain>(&vec![2], &vec![0; 59_000]);
        assert!(matches!(refused, Err(Error::Limit { max: 60_000, .. })), "{refused:?}");
        assert_eq!(draft.len(), len);
        assert!(draft.bytes() <= bytes);
        let many: Vec<Vec<u8>> = (0..2000u32).map(|key| key.to_be_bytes().to_vec()).collect();
        assert!(matches!(draft.warm::<Plain>(&many).await, Err(Error::Limit { .. })));
        assert!(matches!(draft.get_many::<Plain>(&many).await, Err(Error::Limit { .. })));
        for chunk in keys.chunks(10) {
            assert_eq!(draft.get::<Plain>(&chunk[0]).await?, Some(vec![5; 9000]));
            assert_eq!(draft.get::<Plain>(&chunk[1]).await?, None);
        }
        let too_large = draft.put::<Plain>(&vec![1; 2000], &vec![]);
        assert!(matches!(too_large, Err(Error::Limit { .. })), "{too_large:?}");
        Ok(())
    });
}

#[test]
fn a_draft_waits_for_its_parent_to_be_applied_but_not_to_be_acknowledged() {
    with_store(8, 4, |_, engine, mut state, _| async move {
        for round in 0..5 {
            let (height, hash, parent) = next_of(&state);
            let changes = vec![Change::Coin(round, Some((round, 2)))];
            let op = CommitOp::Block { height, hash, parent, changes };
            let pending = engine.submit(block_of(&op).unwrap()).await?;
            state = state.after(&op);
            let mut draft = draft_on(&engine, &state).await?;
            assert_eq!(draft.get::<Coins>(&round).await?, Some((round, 2)));
            let (height, hash, parent) = next_of(&state);
            let changes = vec![Change::Coin(round, None), Change::Coin(100, Some((round, 0)))];
            changes.iter().try_for_each(|change| apply(&mut draft, change))?;
            let next = engine.submit(draft.finish(hash)).await?;
            state = state.after(&CommitOp::Block { height, hash, parent, changes });
            pending.acknowledged().await?;
            next.acknowledged().await?;
        }
        expect_state(&engine, &state).await?;

        // The parent was submitted, and refused.
        let (height, hash, parent) = next_of(&state);
        let changes = vec![Change::Name(1, Some((1, 1))), Change::Name(2, Some((1, 1)))];
        let op = CommitOp::Block { height, hash, parent, changes };
        let pending = engine.submit(block_of(&op).unwrap()).await?;
        let refused = engine.draft(Height(height + 1), hash).await.err();
        assert!(matches!(refused, Some(Error::HeightMismatch { .. })), "{refused:?}");
        assert!(pending.acknowledged().await.is_err());
        let refused = engine.draft(Height(height), hash).await.err();
        assert!(matches!(refused, Some(Error::BrokenLink { .. })), "{refused:?}");
        Ok(())
    });
}

/// The same block again after a reorg is another state: outside the chain things may have happened.
#[test]
fn a_draft_is_stale_when_its_parent_was_taken_back_and_came_again() {
    with_store(9, 6, |_, engine, mut state, _| async move {
        let (height, hash, parent) = next_of(&state);
        let op = CommitOp::Block { height, hash, parent, changes: vec![] };
        commit(&engine, &mut state, op.clone()).await?;
        let mut draft = draft_on(&engine, &state).await?;
        draft.put::<Plain>(&vec![1], &vec![1])?;
        commit(&engine, &mut state, CommitOp::Reorg(height - 1)).await?;
        commit(&engine, &mut state, op).await?;
        let refused = engine.commit(draft.finish(BlockHash([3; 32]))).await;
        assert!(matches!(refused, Err(Error::StaleDraft { .. })), "{refused:?}");
        expect_state(&engine, &state).await
    });
}

#[test]
fn a_batch_between_makes_only_drafts_stale_that_use_what_it_changes() {
    with_store(10, 4, |_, engine, mut state, _| async move {
        for uses in [false, true] {
            let mut draft = draft_on(&engine, &state).await?;
            draft.put::<Plain>(&vec![1], &vec![1])?;
            if uses {
                draft.get::<Wallet>(&7).await?;
            }
            let batch = CommitOp::Global(vec![Change::Wallet(1, Some(vec![u8::from(uses)]))]);
            commit(&engine, &mut state, batch).await?;
            let (height, hash, parent) = next_of(&state);
            let committed = engine.commit(draft.finish(hash)).await;
            assert_eq!(matches!(committed, Err(Error::StaleDraft { .. })), uses, "{committed:?}");
            if !uses {
                let changes = vec![Change::Plain(vec![1], Some(vec![1]))];
                state = state.after(&CommitOp::Block { height, hash, parent, changes });
            }
            expect_state(&engine, &state).await?;
        }
        Ok(())
    });
}

/// Crashed at random moments, a store that was fed by drafts holds whole blocks.
#[test]
fn a_crash_keeps_whole_drafts_or_nothing_of_them() {
    use crate::support::run::{Then, reopen};
    use std::cell::RefCell;

    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let setup = setup_of(&mut rng);
        let recipe = Recipe { seed, blocks: 12, window: setup.window, between: [0; 6], ..Recipe::default() };
        let script: Script = write(&recipe, State::default());
        let progress = Rc::new(Progress::default());
        let machine = Machine::new(setup.options(seed), SimDisk::new());
        let crashed: Rc<RefCell<Vec<(SimDisk, std::ops::Range<usize>)>>> = Rc::default();
        let (notes, seen, personality) = (Rc::clone(&crashed), Rc::clone(&progress), setup.personality);
        machine.0.on_io(move |index, _, disk| {
            if index % 23 == seed % 23 {
                notes.borrow_mut().push((disk.crash(index, personality), seen.window()));
            }
        });
        let done = machine.finish(async {
            let engine = setup.open(&machine.0, false).await?;
            for (at, op) in script.ops.iter().enumerate() {
                let CommitOp::Block { height, hash, parent, changes } = op else { continue };
                let mut draft = engine.draft(Height(*height), *parent).await?;
                let call = draft.savepoint();
                draft.put::<Names>(&3, &(999, 9))?;
                draft.rollback(call)?;
                changes.iter().try_for_each(|change| apply(&mut draft, change))?;
                progress.submitted.set(at + 1);
                engine.commit(draft.finish(*hash)).await?;
                progress.durable.set(at + 1);
                progress.acked.set(at + 1);
            }
            let end = script.states.len() - 1;
            verify(&engine, &script, end..end + 1, setup.schema, &mut rng).await?;
            Ok(engine.close().await?)
        });
        done.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        let crashed = crashed.take();
        assert!(crashed.len() > 3, "{} crashes", crashed.len());
        for (disk, window) in crashed {
            let found = reopen(disk, &setup, &script, window.clone(), seed, Then::GoOn);
            found.unwrap_or_else(|why| panic!("seed {seed}, crashed in {window:?}: {why:?}"));
        }
    }
}
