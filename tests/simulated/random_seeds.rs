//! Two thousand seeds, each a store of its own: its schema, settings, script, faults, crashes and file system are drawn
//! from the seed. `SEED=n cargo test --test simulated random_seeds` runs one of them and prints its trace, `SEEDS=n` the first n.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::coverage::Coverage;
use crate::support::life::{Ended, live};
use crate::support::run::on_two_threads;

const SEEDS: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = number("SEED") {
        let (ended, trace) = live(seed, true);
        trace.iter().for_each(|line| println!("{line}"));
        println!("{ended:?}");
        ended.unwrap();
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let wrong = Mutex::new(Vec::new());
    let coverage = Mutex::new(Coverage::default());
    let (crashed, faulted, closed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    on_two_threads(|thread| {
        for seed in (thread..seeds).step_by(2) {
            let (ended, _) = live(seed, false);
            match ended {
                Ok(Ended { crashes, faults, closes, coverage: covered, .. }) => {
                    *coverage.lock().unwrap() += covered;
                    crashed.fetch_add(crashes, Ordering::Relaxed);
                    faulted.fetch_add(faults, Ordering::Relaxed);
                    closed.fetch_add(closes, Ordering::Relaxed);
                }
                Err(why) => wrong.lock().unwrap().push((seed, why)),
            }
            if seed % 100 < 2 {
                let (first, again) = (live(seed, false).0, live(seed, false).0);
                if first.map(|ended| ended.trace_hash) != again.map(|ended| ended.trace_hash) {
                    wrong.lock().unwrap().push((seed, "the same seed gives another trace".to_owned()));
                }
            }
        }
    });
    let wrong = wrong.into_inner().unwrap();
    for (seed, why) in &wrong {
        println!("SEED={seed} cargo test --test simulated random_seeds -- --nocapture\n    {why}");
    }
    let counts = [crashed, faulted, closed].map(|count| count.load(Ordering::Relaxed));
    println!("crashes, failures, closes: {counts:?}");
    assert!(wrong.is_empty(), "{} seeds fail", wrong.len());
    let coverage = coverage.into_inner().unwrap();
    if seeds >= SEEDS {
        coverage.expect_more_than(3, &[]);
        assert!(coverage.refused > 10, "{} commits are refused on a full disk", coverage.refused);
    }
    assert!(counts.into_iter().all(|count| count > seeds / 20), "the seeds cover it all: {counts:?}");
}
