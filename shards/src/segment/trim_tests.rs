//! What is left of a segment when a merge has taken over its lowest keys and their space is given back.

use op_engine_io::sim::SimDisk;
use op_engine_io::{Env as _, File as _, OpenMode};
use proptest::prelude::*;

use super::tests::{
    Entries, HOME, KEY, NUMBER, build, check_gets, check_scans, config, entries, get, open_within, run,
};
use super::*;
use crate::segment_meta::SegmentMeta;
use crate::visibility::Mask;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_left_answers_as_before_when_the_rest_is_a_hole(
        entries in entries(),
        cut in any::<prop::sample::Index>(),
        probes in prop::collection::vec((0u8..3, prop::collection::vec(0u8..4, 0..5)), 4),
    ) {
        run(SimDisk::new(), async |env| {
            let meta = build(&env, NUMBER, &entries, config()).await;
            let key_min = cut.get(&entries).0.clone();
            let left: Entries = entries.iter().filter(|entry| entry.0 >= key_min).cloned().collect();
            let gone = entries.iter().find(|entry| entry.0 < key_min);
            let trimmed_meta = SegmentMeta { key_min: key_min.clone(), ..meta.clone() };
            for partitions in [PartitionCache::unbounded(), PartitionCache::new(0)] {
                let whole = open_within(&env, &meta, &partitions).await.unwrap();
                let first = whole.first_page_from(&env, &key_min).await.unwrap();
                let trimmed = whole.trimmed(trimmed_meta.clone(), first);
                prop_assert_eq!(trimmed.releasable(), None, "somebody may still read the whole");
                drop(whole);
                // As a crash before the release leaves it.
                let reopened = open_within(&env, &trimmed_meta, &partitions).await.unwrap();
                prop_assert_eq!(reopened.releasable(), trimmed.releasable());
                if let Some(range) = trimmed.releasable() {
                    let file = env.open(trimmed.file_name(), OpenMode::ReadWrite).await.unwrap();
                    file.release(range.start, range.end).await.unwrap();
                    trimmed.note_released(range.end);
                    prop_assert_eq!(trimmed.releasable(), None);
                }
                for segment in [trimmed, reopened] {
                    check_gets(&env, &segment, &left, &Mask::default()).await;
                    check_scans(&env, &segment, &left, &probes).await;
                    if let Some((key, ..)) = gone {
                        prop_assert_eq!(get(&env, &segment, key, 99).await.unwrap(), None);
                    }
                }
                let found = verify(&env, HOME, trimmed_meta.clone(), &KEY, VerifyScope::Hot).await.unwrap();
                prop_assert_eq!(found, []);
            }
            Ok(())
        }).0?;
    }
}

#[test]
fn a_second_cut_gives_back_only_what_the_first_has_left() {
    run(SimDisk::new(), async |env| {
        let entries: Entries = (0u8..200).map(|n| (vec![n], 7, Some(vec![n; 400]))).collect();
        let meta = build(&env, NUMBER, &entries, config()).await;
        let mut segment = open_within(&env, &meta, &PartitionCache::unbounded()).await.unwrap();
        let mut released = Vec::new();
        for key in [50, 51, 120] {
            let first = segment.first_page_from(&env, &[key]).await.unwrap();
            segment = segment.trimmed(SegmentMeta { key_min: vec![key], ..meta.clone() }, first);
            if let Some(range) = segment.releasable() {
                segment.note_released(range.end);
                released.push(range);
            }
        }
        assert_eq!(released.len(), 2, "keys 50 and 51 are in the same page: {released:?}");
        assert_eq!(released[0].start, 4096, "the header stays");
        assert_eq!(released[0].end, released[1].start);
    });
}

#[test]
fn a_reader_keeps_what_it_began_with_and_no_more() {
    run(SimDisk::new(), async |env| {
        let entries: Entries = (0u8..200).map(|n| (vec![n], 7, Some(vec![n; 400]))).collect();
        let meta = build(&env, NUMBER, &entries, config()).await;
        let whole = open_within(&env, &meta, &PartitionCache::unbounded()).await.unwrap();
        let cut = async |of: &std::rc::Rc<Segment<_>>, key: u8| {
            let first = of.first_page_from(&env, &[key]).await.unwrap();
            of.trimmed(SegmentMeta { key_min: vec![key], ..meta.clone() }, first)
        };
        let (early, late) = (cut(&whole, 60).await, cut(&whole, 150).await);
        assert_eq!(late.releasable(), None);
        drop(whole);
        let part = late.releasable().unwrap();
        assert_eq!(early.releasable(), Some(part.clone()), "what the early one does not need");
        drop(early);
        let all = late.releasable().unwrap();
        assert!(part.end < all.end && part.start == all.start, "{part:?} of {all:?}");
        // A version that was given up before anybody saw it leaves no trace.
        drop(cut(&late, 190).await);
        assert_eq!(late.releasable(), Some(all));
    });
}

#[cfg(feature = "mutants")]
#[test]
fn the_mutant_makes_a_hole_where_somebody_reads() {
    use super::tests::collect;
    use crate::mutants::{Mutant, activate};
    use crate::range::{Direction, KeyRange};

    let entries: Entries = (0u8..80).map(|n| (vec![n], 7, Some(vec![n; 90]))).collect();
    run(SimDisk::new(), async |env| {
        let meta = build(&env, NUMBER, &entries, config()).await;
        for mutant in [None, Some(Mutant::ReleaseUnderReaders)] {
            activate(mutant);
            let whole = open_within(&env, &meta, &PartitionCache::new(0)).await.unwrap();
            let first = whole.first_page_from(&env, &[79]).await.unwrap();
            let trimmed = whole.trimmed(SegmentMeta { key_min: vec![79], ..meta.clone() }, first);
            if let Some(range) = trimmed.releasable() {
                let file = env.open(trimmed.file_name(), OpenMode::ReadWrite).await.unwrap();
                file.release(range.start, range.end).await.unwrap();
            }
            activate(None);
            let all = KeyRange::from(None);
            let mut cursor =
                SegmentCursor::new(env.clone(), whole, all, Direction::Forward, CursorOptions::default());
            let read = collect(&mut cursor).await;
            assert_eq!(read.is_err_and(|error| error.is_corruption()), mutant.is_some());
        }
    });
}
