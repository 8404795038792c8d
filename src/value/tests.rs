//! Every type of field comes back, in one form only, and no bytes do harm.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::record;

record! {
    #[derive(Debug, Clone, PartialEq)]
    struct Inner {
        version 1 {
            id: u32 as Compact,
            tags: Vec<String>,
        }
    }
}

record! {
    /// A record with every kind of field.
    #[derive(Debug, Clone, PartialEq)]
    struct Outer {
        version 1 {
            hash: [u8; 4],
            amount: u64 as Compact,
            delta: i64,
            flag: bool,
            items: Vec<Inner>,
            maybe: Option<(u16, Vec<u8>)>,
        }
        version 2 {
            fee: u64 = 9,
            parent: Option<Inner> = None,
        }
        version 5 {
            small: u16 as Compact = 3,
        }
    }
}

record! {
    /// An enum with every kind of variant.
    #[derive(Debug, Clone, PartialEq)]
    enum Action {
        1 = Idle,
        2 = Note(String),
        7 = Weigh(Option<Vec<u64>> as Compact),
        8 = Record(Inner),
        255 = Call {
            version 1 { target: [u8; 3], gas: i32 as Compact }
            version 3 { trace: Vec<Action2> = vec![Action2::B], deep: Option<Inner> = None }
        },
    }
}

record! {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Action2 {
        1 = A,
        2 = B,
    }
}

record! {
    /// Enums and numbers, alone and in everything.
    #[derive(Debug, Clone, PartialEq)]
    struct Journal {
        version 1 {
            first: Action,
            more: Vec<Action>,
            last: Option<(u8, Action)>,
            deltas: Vec<i64> as Compact,
            nested: Vec<Vec<Option<u32>>> as Compact,
        }
    }
}

fn action() -> impl Strategy<Value = Action> + Clone {
    let trace = vec(prop_oneof![Just(Action2::A), Just(Action2::B)], 0..3);
    let call = (any::<[u8; 3]>(), any::<i32>(), trace, proptest::option::of(inner()));
    prop_oneof![
        Just(Action::Idle),
        "[a-z]{0,3}".prop_map(Action::Note),
        proptest::option::of(vec(any::<u64>(), 0..3)).prop_map(Action::Weigh),
        inner().prop_map(Action::Record),
        call.prop_map(|(target, gas, trace, deep)| Action::Call { target, gas, trace, deep }),
    ]
}

fn journal() -> impl Strategy<Value = Journal> + Clone {
    let nested = vec(vec(proptest::option::of(any::<u32>()), 0..3), 0..3);
    let last = proptest::option::of((any::<u8>(), action()));
    (action(), vec(action(), 0..3), last, vec(any::<i64>(), 0..4), nested)
        .prop_map(|(first, more, last, deltas, nested)| Journal { first, more, last, deltas, nested })
}

fn inner() -> impl Strategy<Value = Inner> + Clone {
    (any::<u32>(), vec("[a-z]{0,3}", 0..3)).prop_map(|(id, tags)| Inner { id, tags })
}

fn outer() -> impl Strategy<Value = Outer> + Clone {
    let maybe = proptest::option::of((any::<u16>(), vec(any::<u8>(), 0..4)));
    let first = (any::<[u8; 4]>(), any::<u64>(), any::<i64>(), any::<bool>(), vec(inner(), 0..3), maybe);
    (first, any::<u64>(), proptest::option::of(inner()), any::<u16>()).prop_map(
        |((hash, amount, delta, flag, items, maybe), fee, parent, small)| Outer {
            hash,
            amount,
            delta,
            flag,
            items,
            maybe,
            fee,
            parent,
            small,
        },
    )
}

/// Values come back, cut or longer bytes do not, and whatever decodes in the written version is canonical.
fn check_type<T: Record + Debug + PartialEq>(values: impl Strategy<Value = T>, self_delimiting: bool) {
    let mut runner = TestRunner::new(Config::with_cases(300));
    runner
        .run(&(values, any::<(u16, u8)>()), |(value, (place, bits))| {
            let bytes = value.to_bytes();
            prop_assert_eq!(T::decode_exact(&bytes), Ok(value));
            let mut longer = bytes.clone();
            longer.push(0);
            if self_delimiting {
                prop_assert_eq!(T::decode_exact(&longer), Err(ValueError::Trailing { bytes: 1 }));
                for cut in 0..bytes.len() {
                    prop_assert!(T::decode_exact(&bytes[..cut]).is_err());
                }
            }
            let mut damaged = bytes.clone();
            damaged[usize::from(place) % bytes.len()] ^= bits;
            check_canonical::<T>(&damaged)
        })
        .unwrap();
    let mut runner = TestRunner::new(Config::with_cases(500));
    runner.run(&vec(prop_oneof![0u8..4, any::<u8>()], 0..40), |bytes| check_canonical::<T>(&bytes)).unwrap();
}

fn check_canonical<T: Record>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = T::decode_exact(bytes)
        && bytes.first() == Some(&T::VERSION)
    {
        prop_assert_eq!(value.to_bytes(), bytes);
    }
    Ok(())
}

#[test]
fn every_type_comes_back() {
    check_type(any::<u8>(), true);
    check_type(any::<u16>(), true);
    check_type(any::<u32>(), true);
    check_type(any::<u64>(), true);
    check_type(any::<u128>(), true);
    check_type(any::<i8>(), true);
    check_type(any::<i16>(), true);
    check_type(any::<i32>(), true);
    check_type(any::<i64>(), true);
    check_type(any::<i128>(), true);
    check_type(any::<bool>(), true);
    check_type(any::<[u8; 20]>(), true);
    check_type(Just(()), true);
    check_type(vec(any::<u8>(), 0..50), false);
    check_type("\\PC{0,20}", false);
    check_type(proptest::option::of(any::<u32>()), true);
    check_type((any::<u8>(), vec(any::<u32>(), 0..5), any::<bool>()), true);
    check_type((vec(vec(any::<[u8; 2]>(), 0..3), 0..3), "[a-z]{0,5}"), true);
    check_type(inner(), true);
    check_type(outer(), true);
    check_type(action(), true);
    check_type(journal(), true);
}

#[test]
fn the_bytes_of_an_enum_are_fixed() {
    assert_eq!(Action::Idle.to_bytes(), [1, 1]);
    assert_eq!(Action::Note("a".into()).to_bytes(), [1, 2, 1, b'a']);
    assert_eq!(Action::Weigh(Some(vec![300])).to_bytes(), [1, 7, 1, 1, 0xac, 2]);
    let inner = Inner { id: 5, tags: vec![] };
    assert_eq!(Action::Record(inner.clone()).to_bytes(), [1, 8, 1, 5, 0]);
    let call = Action::Call { target: [7, 8, 9], gas: -1, trace: vec![Action2::B], deep: None };
    assert_eq!(call.to_bytes(), [1, 255, 3, 7, 8, 9, 1, 1, 2, 0]);
    assert_eq!(Action::BYTES_MIN, 1);
    assert_eq!(<(Inner, Action2)>::BYTES_MIN, 4);

    // Written before the version that brought the later fields.
    assert_eq!(Action::decode_exact(&[1, 255, 1, 7, 8, 9, 1]), Ok(call));
    for found in [0, 2, 4] {
        let unknown = ValueError::UnknownVersion { found, newest: 3 };
        assert_eq!(Action::decode_exact(&[1, 255, found, 7, 8, 9, 1]), Err(unknown));
    }
    for found in [0, 3, 6, 254] {
        assert_eq!(Action::decode_exact(&[1, found, 1]), Err(ValueError::UnknownVariant { found }));
    }
    assert_eq!(Action::decode_exact(&[2, 1]), Err(ValueError::UnknownVersion { found: 2, newest: 1 }));
}

#[test]
fn compact_numbers_near_zero_are_short() {
    let bytes = |number: i64| {
        let mut out = ValueWriter::new();
        <Compact as Codec<i64>>::write(&number, &mut out);
        out.into_vec()
    };
    assert_eq!([0, -1, 1, -2, 63, -64].map(bytes).concat(), [0, 1, 2, 3, 126, 127]);
    assert_eq!(bytes(64).len(), 2);
    for end in [i64::MIN, i64::MAX] {
        let bytes = bytes(end);
        assert_eq!(<Compact as Codec<i64>>::read(&mut ValueReader::new(&bytes)), Ok(end));
        assert!(<Compact as Codec<i32>>::read(&mut ValueReader::new(&bytes)).is_err());
    }
}

#[test]
fn the_bytes_of_a_record_are_fixed() {
    let inner = Inner { id: 300, tags: vec!["a".into()] };
    assert_eq!(inner.to_bytes(), [1, 0xac, 2, 1, 1, b'a']);
    let outer = Outer {
        hash: *b"hash",
        amount: 1,
        delta: -1,
        flag: true,
        items: vec![inner.clone()],
        maybe: Some((0x0102, vec![9])),
        fee: 5,
        parent: None,
        small: 2,
    };
    let mut first = b"hash".to_vec();
    first.extend_from_slice(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1]);
    first.extend_from_slice(&inner.to_bytes());
    first.extend_from_slice(&[1, 2, 1, 1, 9]);
    let second = [5, 0, 0, 0, 0, 0, 0, 0, 0];
    let whole = [&[5][..], &first, &second, &[2]].concat();
    assert_eq!(outer.to_bytes(), whole);

    let of_version_1 = Outer { fee: 9, small: 3, ..outer.clone() };
    assert_eq!(Outer::decode_exact(&[&[1][..], &first].concat()), Ok(of_version_1));
    let of_version_2 = Outer { small: 3, ..outer };
    assert_eq!(Outer::decode_exact(&[&[2][..], &first, &second].concat()), Ok(of_version_2));
    for found in [0, 3, 4, 6, 255] {
        let newest = 5;
        assert_eq!(
            Outer::decode_exact(&[&[found][..], &first].concat()),
            Err(ValueError::UnknownVersion { found, newest })
        );
    }
}

#[test]
fn other_forms_are_refused() {
    let refused = |result: Result<(), ValueError>| assert!(matches!(result, Err(ValueError::Malformed(_))));
    refused(bool::decode_exact(&[1, 2]).map(drop));
    refused(Option::<u8>::decode_exact(&[1, 2, 0]).map(drop));
    refused(String::decode_exact(&[1, 0xff]).map(drop));
    // A varint longer than it need be, and one above the type.
    refused(Inner::decode_exact(&[1, 0x80, 0, 0]).map(drop));
    refused(Inner::decode_exact(&[1, 0xff, 0xff, 0xff, 0xff, 0x1f, 0]).map(drop));
    assert!(u32::decode_exact(&[]).is_err());
    assert!(u32::decode_exact(&[0; 5]).is_err());
}

#[test]
fn a_length_beyond_the_bytes_allocates_nothing() {
    // Counts of up to 2^64 - 1 with nothing behind them.
    for bytes in 1..10 {
        let mut hostile = vec![1];
        hostile.extend(std::iter::repeat_n(0xff, bytes));
        hostile.push(1);
        assert!(<(Vec<u64>,)>::decode_exact(&hostile).is_err());
        assert!(<(Vec<Vec<u8>>,)>::decode_exact(&hostile).is_err());
        assert!(<(String,)>::decode_exact(&hostile).is_err());
    }
    // As many items as there are bytes, each of them larger in memory than in bytes.
    let items = 1_000_000u64;
    let mut out = ValueWriter::new();
    out.raw(&[1]);
    out.varint(items);
    out.raw(&vec![0; 1_000_000]);
    let bytes = out.into_vec();
    let (lists,) = <(Vec<Vec<u8>>,)>::decode_exact(&bytes).unwrap();
    assert_eq!(lists.len(), 1_000_000);
    // What an item may take at most, for each byte.
    let (options,) = <(Vec<Option<[u8; 127]>>,)>::decode_exact(&bytes).unwrap();
    assert_eq!(options.len(), 1_000_000);
    assert!(options.capacity() * 128 <= 2 * ITEM_EXPANSION_MAX * bytes.len());
}
