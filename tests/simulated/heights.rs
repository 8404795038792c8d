//! Look-ups at every height: what the state after the block at that height held, in one call for many keys.

use op_engine::{Collection, Engine, Error, Height};
use op_engine_io::sim::{Rng, SimDisk};

use crate::support::check::Checked;
use crate::support::model::{State, same};
use crate::support::run::{Driver, Machine, Progress, Setup, on_two_threads};
use crate::support::schema::{Coins, Mempool, States};
use crate::support::script::{Recipe, write};

const SEEDS: u64 = 60;
const WINDOW: u64 = 6;

/// Reads keys at a height, at once and one by one, held and not held.
async fn read_at<C>(engine: &Engine, height: u64, keys: &[C::Key]) -> Checked<Vec<Option<C::Value>>>
where
    C: Collection<Value: PartialEq + std::fmt::Debug + Clone>,
{
    let values = engine.get_many_at::<C>(Height(height), keys).await?;
    let held = engine.at(Height(height)).await?.get_many::<C>(keys).await?;
    same("held", &held, &values)?;
    for (key, value) in keys.iter().zip(&values).step_by(17) {
        same("one", &[engine.get_at::<C>(Height(height), key).await?], std::slice::from_ref(value))?;
    }
    Ok(values)
}

async fn live(seed: u64, setup: &Setup, machine: &Machine) -> Checked {
    let engine = setup.open(&machine.0, false).await?;
    let missing = engine.get_at::<States>(Height(1), &(0, 0)).await;
    assert_eq!(missing, Err(Error::EmptyChain));
    let reorgs_at = vec![10, 20, 21, 35];
    let recipe = Recipe { seed, blocks: 40, window: WINDOW, reorgs_at, first_height: 3, ..Recipe::default() };
    let script = write(&recipe, State::default());
    let progress = Progress::default();
    Driver::new(&engine, &machine.0, &script, &progress, setup).run().await?;
    match seed % 3 {
        0 => {}
        1 => engine.flush().await?,
        _ => engine.compact().await?,
    }
    let state = script.states.last().unwrap();
    let (first, tip) = (state.first().unwrap(), state.tip().unwrap().height);
    let mut rng = Rng::new(seed);
    let slots: Vec<_> = (0..120).map(|_| (rng.below(6) as u16, rng.below(13) as u32)).collect();
    let horizon = engine.horizon().0;
    assert!(horizon > first + 5, "most heights are below the window");
    for height in first - 1..=tip + 1 {
        let Some(entry) = state.at(height) else {
            let (first, tip) = (Height(first), Height(tip));
            let missing = Error::NoSuchHeight { height: Height(height), first, tip };
            assert_eq!(engine.get_many_at::<States>(Height(height), &slots).await, Err(missing.clone()));
            assert_eq!(engine.at(Height(height)).await.err(), Some(missing));
            continue;
        };
        let wanted: Vec<_> = slots.iter().map(|slot| entry.tables.states.get(slot).cloned()).collect();
        let values = read_at::<States>(&engine, height, &slots).await?;
        same(&format!("slots at {height}"), &values, &wanted)?;

        let gone = |collection: &str| {
            let (collection, height) = (collection.to_owned(), Height(height));
            Some(Error::HistoryGone { collection, height, horizon: Height(horizon) })
        };
        let coins: Vec<u64> = script
            .states
            .iter()
            .rev()
            .step_by(4)
            .flat_map(|state| state.tables.coins.keys().copied())
            .collect();
        if height < horizon {
            assert_eq!(engine.get_many_at::<Coins>(Height(height), &coins).await.err(), gone("coins"));
        } else {
            let wanted: Vec<_> = coins.iter().map(|coin| entry.tables.coins.get(coin).copied()).collect();
            same(&format!("coins at {height}"), &read_at::<Coins>(&engine, height, &coins).await?, &wanted)?;
        }
        assert_eq!(engine.get_at::<Mempool>(Height(height), &1).await.err(), gone("mempool"));
    }
    Ok(engine.close().await?)
}

#[test]
fn any_height_shows_the_state_after_its_block() {
    on_two_threads(|thread| {
        for seed in (thread..SEEDS).step_by(2) {
            let setup = Setup { window: WINDOW, ..Setup::small([1, 2, 3][(seed / 2 % 3) as usize]) };
            let machine = Machine::new(setup.options(seed), SimDisk::new());
            let done = machine.finish(live(seed, &setup, &machine));
            done.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        }
    });
}
