use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;

use super::tests::{C, Model, Write, apply, build, flat, writes};
use super::*;
use crate::range::{Direction, KeyRange};

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forward), Just(Direction::Backward)]
}

/// What a view sees of collection [`C`], in order.
fn visible(model: &Model, view: u64) -> Vec<(Vec<u8>, u64)> {
    let entries = flat(model).into_iter().filter(|entry| entry.0 == C.0 && entry.2 <= view);
    entries.map(|(_, key, seq, _)| (key, seq)).collect()
}

proptest! {
    #[test]
    fn inserts_between_steps_change_nothing_for_an_older_view(
        before in writes(300),
        meanwhile in prop::collection::vec((0usize..4, writes(20)), 0..40),
        direction in direction(),
    ) {
        let (memtable, mut model) = build(&before);
        let view = memtable.seq_max().map_or(1, |seq| seq.0);
        let expected = visible(&model, view);
        let shared = Rc::new(RefCell::new(memtable));
        let mut cursor = MemtableCursor::new(shared.clone(), C, KeyRange::all(), direction);
        let (mut seq, mut found, mut meanwhile) = (view + 1, Vec::new(), meanwhile.into_iter());
        let mut steps = 0;
        loop {
            if steps == 0 && let Some((next, writes)) = meanwhile.next() {
                seq += 1;
                let writes: Vec<Write> = writes;
                apply(&writes, &mut seq, &mut shared.borrow_mut(), &mut model);
                steps = next;
            }
            steps = steps.saturating_sub(1);
            if !cursor.advance() {
                break;
            }
            let entry = cursor.entry().unwrap();
            let written = model.get(&(C.0, entry.key.to_vec())).and_then(|versions| versions.get(&entry.seq.0));
            prop_assert_eq!(written.map(Option::as_deref), Some(entry.value));
            if entry.seq.0 <= view {
                found.push((entry.key.to_vec(), entry.seq.0));
            }
        }
        if direction == Direction::Backward {
            found.reverse();
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_cursor_at_the_end_stays_there() {
    let shared = Rc::new(RefCell::new(Memtable::new()));
    let cursor = |direction| MemtableCursor::new(shared.clone(), C, KeyRange::all(), direction);
    let mut early = cursor(Direction::Forward);
    assert!(!early.advance());
    shared.borrow_mut().insert(C, b"b", Seq(1), Some(b"1"));
    assert!(!early.advance() && early.entry().is_none());
    let mut forward = cursor(Direction::Forward);
    let mut backward = cursor(Direction::Backward);
    assert!(forward.advance() && backward.advance());
    shared.borrow_mut().insert(C, b"c", Seq(2), Some(b"2"));
    shared.borrow_mut().insert(C, b"a", Seq(2), Some(b"2"));
    assert!(forward.advance() && forward.entry().is_some_and(|entry| entry.key == b"c"));
    assert!(backward.advance() && backward.entry().is_some_and(|entry| entry.key == b"a"));
    assert!(!forward.advance() && !backward.advance());
}
