//! Tests of the tests: each deliberate fault of the engine must be caught by the runs that the other tests make.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::damage::lose_the_tail;
use crate::support::life::live;
use op_engine_shards::mutants::{Mutant, activate};

/// How many seeds a fault may survive.
const SEEDS: u64 = 1500;

/// Lives seeds with a fault until one fails. Gives its number.
fn caught(mutant: Mutant) -> Option<u64> {
    activate(Some(mutant));
    let found = (0..SEEDS).find(|seed| {
        let lived = catch_unwind(AssertUnwindSafe(|| live(*seed, false).0));
        !matches!(lived, Ok(Ok(_)))
    });
    activate(None);
    println!("{mutant:?} is caught by seed {found:?}");
    found
}

#[test]
fn a_skipped_sync_of_the_wal_is_caught() {
    assert!(caught(Mutant::SkipWalSync).is_some());
}

#[test]
fn a_skipped_sync_of_a_directory_is_caught() {
    assert!(caught(Mutant::SkipDirectorySync).is_some());
}

#[test]
fn an_early_acknowledgement_is_caught() {
    assert!(caught(Mutant::AcknowledgeEarly).is_some());
}

#[test]
fn frames_without_the_cut_are_caught() {
    lose_the_tail(7).expect("without the fault, the loss is found out");
    activate(Some(Mutant::DropCutMark));
    let lost = (0..20).map(lose_the_tail).find(Result::is_err);
    activate(None);
    assert!(lost.is_some(), "a lost tail goes unnoticed");
}

#[test]
fn a_reused_term_is_caught() {
    assert!(caught(Mutant::SkipNewTerm).is_some());
}

#[test]
fn a_segment_that_shows_dead_entries_is_caught() {
    assert!(caught(Mutant::SkipMask).is_some());
}

#[test]
fn a_wal_file_that_is_reused_early_is_caught() {
    assert!(caught(Mutant::RecycleEarly).is_some());
}

#[test]
fn a_skipped_sync_of_a_segment_is_caught() {
    assert!(caught(Mutant::SkipSegmentSync).is_some());
}

#[test]
fn a_merge_that_drops_tombstones_early_is_caught() {
    assert!(caught(Mutant::DropTombstonesEarly).is_some());
}

#[test]
fn a_merge_that_forgets_the_window_is_caught() {
    assert!(caught(Mutant::ForgetWindow).is_some());
}
