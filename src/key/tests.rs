//! Order, uniqueness and hostile bytes of every type of key.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Bytes with many zeros and ones in all bits, where the escapes are.
fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> + Clone {
    vec(prop_oneof![3 => Just(0u8), 2 => Just(0xffu8), 2 => Just(1u8), 1 => any::<u8>()], 0..6)
}

fn tricky_text() -> impl Strategy<Value = String> + Clone {
    vec(prop_oneof![Just('\0'), Just('a'), Just('\u{ff}'), any::<char>()], 0..5)
        .prop_map(|chars| chars.into_iter().collect())
}

/// The bytes of two keys sort as the keys do, each key comes back, and no key is the beginning of another.
fn check_type<K: Key + Ord + Debug + Clone>(keys: impl Strategy<Value = K> + Clone) {
    let mut runner = TestRunner::new(Config::with_cases(400));
    runner
        .run(&(keys.clone(), keys, any::<(u16, u8)>()), |(a, b, (place, bits))| {
            let (left, right) = (a.to_bytes(), b.to_bytes());
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert_eq!(K::decode_exact(&left), Ok(a.clone()));
            if a != b {
                prop_assert!(!left.starts_with(&right) && !right.starts_with(&left));
            }
            let mut longer = left.clone();
            longer.push(0);
            prop_assert_eq!(K::decode_exact(&longer), Err(KeyError::Trailing { bytes: 1 }));
            for cut in 0..left.len() {
                prop_assert!(K::decode_exact(&left[..cut]).is_err());
            }
            let mut damaged = left;
            if !damaged.is_empty() {
                let at = usize::from(place) % damaged.len();
                damaged[at] ^= bits;
            }
            if let Ok(key) = K::decode_exact(&damaged) {
                prop_assert_eq!(key.to_bytes(), damaged);
            }
            Ok(())
        })
        .unwrap();
    // What decodes at all is what the encoder writes.
    let mut runner = TestRunner::new(Config::with_cases(1000));
    runner
        .run(&prop_oneof![tricky_bytes(), vec(any::<u8>(), 0..64)], |bytes| {
            if let Ok(key) = K::decode_exact(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn numbers_sort_by_value() {
    check_type(any::<u8>());
    check_type(any::<u16>());
    check_type(any::<u32>());
    check_type(any::<u64>());
    check_type(any::<u128>());
    check_type(any::<i8>());
    check_type(any::<i16>());
    check_type(any::<i32>());
    check_type(any::<i64>());
    check_type(any::<i128>());
    let ends = [i64::MIN, -1, 0, 1, i64::MAX].map(|number| number.to_bytes());
    assert!(ends.is_sorted());
}

#[test]
fn texts_and_arrays_sort_bytewise() {
    check_type(any::<bool>());
    check_type(any::<[u8; 3]>());
    check_type(Just([0u8; 0]));
    check_type(tricky_bytes());
    check_type(tricky_text());
}

#[test]
fn composites_sort_from_left_to_right() {
    check_type((any::<u8>(),));
    check_type((tricky_bytes(), 0u8..3));
    check_type((tricky_text(), tricky_bytes(), 0u8..3));
    check_type((any::<bool>(), any::<bool>(), any::<bool>(), tricky_bytes()));
    check_type((0u8..2, 0u8..2, 0i8..2, 0u8..2, tricky_bytes()));
    check_type((0u8..2, 0u8..2, 0i8..2, 0u8..2, tricky_bytes(), any::<i16>()));
    check_type((tricky_bytes(), (tricky_bytes(), (0u8..3, tricky_bytes())), 0u8..3));
    check_type(proptest::option::of(tricky_bytes()));
    check_type((proptest::option::of(proptest::option::of(tricky_text())), any::<u8>()));
}

#[test]
fn desc_reverses() {
    check_type(any::<u64>().prop_map(Desc));
    check_type(tricky_bytes().prop_map(Desc));
    check_type((tricky_bytes().prop_map(Desc), tricky_bytes()));
    check_type((0u8..3, proptest::option::of(tricky_text()).prop_map(Desc), tricky_bytes()));
    check_type((tricky_bytes().prop_map(Desc), tricky_bytes()).prop_map(|pair| Desc(Desc(pair))));
    assert_eq!(Desc(1u16).to_bytes(), [0xff, 0xfe]);
}

#[test]
fn directions_mix() {
    check_type((any::<[u8; 2]>(), any::<i64>().prop_map(Desc), tricky_text(), any::<u32>().prop_map(Desc)));
    check_type((
        any::<bool>().prop_map(Desc),
        tricky_bytes(),
        proptest::option::of(any::<i8>().prop_map(Desc)),
    ));
    check_type(proptest::option::of((tricky_bytes().prop_map(Desc), tricky_text())).prop_map(Desc));
    let newest_first = |height: u64, index: u32| ([7u8; 2], Desc(height), index).to_bytes();
    assert!(newest_first(9, 3) < newest_first(8, 1) && newest_first(8, 1) < newest_first(8, 2));
}

#[test]
fn the_bytes_of_each_type_are_fixed() {
    assert_eq!(0x0102u16.to_bytes(), [1, 2]);
    assert_eq!((-1i16).to_bytes(), [0x7f, 0xff]);
    assert_eq!(1i8.to_bytes(), [0x81]);
    assert_eq!(true.to_bytes(), [1]);
    assert_eq!(b"a\0b".to_vec().to_bytes(), [b'a', 0, 0xff, b'b', 0, 0]);
    assert_eq!(String::new().to_bytes(), [0, 0]);
    assert_eq!((Some(5u8), None::<u8>).to_bytes(), [1, 5, 0]);
    assert_eq!(Desc(vec![0u8]).to_bytes(), [0xff, 0, 0xff, 0xff]);
}

#[test]
fn other_forms_are_refused() {
    let refused = |error| assert!(matches!(error, Err(KeyError::NotCanonical(_))));
    refused(bool::decode_exact(&[2]).map(drop));
    refused(Option::<u8>::decode_exact(&[2, 0]).map(drop));
    refused(Vec::<u8>::decode_exact(&[b'a', 0, 1, 0, 0]).map(drop));
    refused(String::decode_exact(&[0xff, 0, 0]).map(drop));
    assert_eq!(Vec::<u8>::decode_exact(&[b'a', 0]), Err(KeyError::TooShort));
    assert_eq!(u32::decode_exact(&[0; 3]), Err(KeyError::TooShort));
}

#[test]
fn leading_components_begin_every_key_that_has_them() {
    let key = (String::from("a\0"), 7u32, Desc(9u64));
    assert!(key.leading_bytes(0).is_empty());
    assert_eq!(key.leading_bytes(1), String::from("a\0").to_bytes());
    assert_eq!(key.leading_bytes(2), (String::from("a\0"), 7u32).to_bytes());
    assert_eq!(key.leading_bytes(3), key.to_bytes());
    assert_eq!(key.leading_bytes(9), key.to_bytes());
    assert!(7u32.leading_bytes(0).is_empty());
    assert_eq!(<(String, u32, Desc<u64>)>::COMPONENTS, 3);
    let longer = (String::from("a\0\0"), 7u32, Desc(9u64));
    assert!(!longer.to_bytes().starts_with(&key.leading_bytes(1)));
}

#[test]
fn a_prefix_range_holds_exactly_the_keys_with_the_prefix() {
    assert_eq!(prefix_range(&[]), (vec![], None));
    assert_eq!(prefix_range(&[0xff, 0xff]), (vec![0xff, 0xff], None));
    assert_eq!(prefix_range(&[1, 0xff]), (vec![1, 0xff], Some(vec![2])));
    let mut runner = TestRunner::new(Config::with_cases(2000));
    runner
        .run(&(tricky_bytes(), tricky_bytes()), |(prefix, key)| {
            let (start, end) = prefix_range(&prefix);
            let inside = start <= key && end.is_none_or(|end| key < end);
            prop_assert_eq!(inside, key.starts_with(&prefix));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_shape_names_every_component_and_its_direction() {
    type Composite = ([u8; 32], Desc<u64>, Option<Vec<u8>>, (bool, String), Desc<(i8,)>);
    assert_eq!(Composite::shape(), "(bytes32, desc u64, option bytes, (bool, text), desc (i8))");
    assert_eq!(u128::shape(), "u128");
}
