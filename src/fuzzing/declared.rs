//! Keys, values and entries of indexes.

use std::fmt::Debug;

use op_engine_shards::bytes::{ByteReader, ByteWriter};

use crate::collection::{CollectionDef, IndexEntry, IndexRow, decode_entry};
use crate::key::{Key, KeyError};
use crate::value::Record;
use crate::{Desc, Index, Result, collection, record};

collection! {
    pub(super) collection Notes = "notes": (String, Desc<u32>) => Note where partition: 1;

    /// A record with every kind of field.
    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Note {
        version 1 {
            id: [u8; 4],
            words: Vec<String>,
            size: u64 as Compact,
            change: i32 as Compact,
            flag: bool,
            maybe: Option<(u16, Vec<u8>)>,
        }
        version 2 {
            actions: Vec<Action> = Vec::new(),
            sizes: Vec<Option<u32>> as Compact = Vec::new(),
        }
        version 4 {
            origin: Option<Origin> = None,
        }
    }
    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Origin {
        version 1 { height: u64, total: i128 }
        version 2 { label: String = String::new() }
    }
    #[derive(Debug, Clone, PartialEq)]
    pub(super) enum Action {
        1 = Idle,
        2 = Move(Option<i64> as Compact),
        9 = Call {
            version 1 { target: [u8; 3], input: Vec<u8> }
            version 2 { depth: u8 = 1 }
        },
    }
    unique index NotesById = "by_id": ([u8; 4], Option<bool>), |_, note| (note.id, Some(note.flag));
    /// Partial, multi-valued and covering.
    pub(super) index NotesByWord = "by_word": (Vec<u8>, Desc<u64>) => Option<Origin>,
        |_, note, emit| if note.flag {
            for word in &note.words {
                emit((word.clone().into_bytes(), Desc(note.size)), note.origin.clone());
            }
        };
}

record! {
    /// A record without versions: any value has one form.
    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Plain {
        version 1 {
            numbers: (u8, u16, u32, u64, i128),
            lists: Vec<Vec<[u8; 2]>>,
            texts: Option<Vec<String>>,
            shorts: Vec<u16> as Compact,
        }
    }
}

type Compared<K> = (K, Vec<u8>);

/// A key that is accepted has one form, and its bytes sort as it does.
fn check_keys<K: Key + Ord + Debug>(first: &[u8], second: &[u8]) {
    let decode = |bytes: &[u8]| -> Result<Compared<K>, KeyError> {
        let key = K::decode_exact(bytes)?;
        assert_eq!(key.to_bytes(), bytes, "a key has one form");
        for components in 0..=K::COMPONENTS {
            assert!(bytes.starts_with(&key.leading_bytes(components)), "components follow each other");
        }
        Ok((key, bytes.to_vec()))
    };
    if let (Ok((first, first_bytes)), Ok((second, second_bytes))) = (decode(first), decode(second)) {
        assert_eq!(first.cmp(&second), first_bytes.cmp(&second_bytes), "bytes sort as keys do");
    }
}

/// The type, and two keys with the length of the first before it.
pub(super) fn keys(bytes: &[u8]) {
    let Some(([kind, first_bytes], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let Some((first, second)) = bytes.split_at_checked(usize::from(*first_bytes)) else { return };
    match kind {
        0 => check_keys::<u64>(first, second),
        1 => check_keys::<i128>(first, second),
        2 => check_keys::<bool>(first, second),
        3 => check_keys::<[u8; 5]>(first, second),
        4 => check_keys::<Vec<u8>>(first, second),
        5 => check_keys::<String>(first, second),
        6 => check_keys::<Option<Option<String>>>(first, second),
        7 => check_keys::<(Vec<u8>, Desc<u32>, String)>(first, second),
        8 => check_keys::<Desc<(Option<i8>, Vec<u8>)>>(first, second),
        9 => check_keys::<([u8; 2], Desc<String>, bool, (i16, Vec<u8>), Option<u8>, u128)>(first, second),
        _ => {}
    }
}

pub(super) fn key_seeds() -> Vec<Vec<u8>> {
    fn seed(kind: u8, first: &impl Key, second: &impl Key) -> Vec<u8> {
        let (first, second) = (first.to_bytes(), second.to_bytes());
        [&[kind, first.len().to_le_bytes().into_iter().next().unwrap_or_default()], &first[..], &second]
            .concat()
    }
    let (low, high) = (b"a\0".to_vec(), b"a\0\0\xff".to_vec());
    let text = |text: &str| text.to_owned();
    vec![
        seed(0, &1u64, &u64::MAX),
        seed(1, &-5i128, &7i128),
        seed(2, &false, &true),
        seed(3, b"12345", b"12346"),
        seed(4, &low, &high),
        seed(5, &text("a\0"), &text("\u{ff}")),
        seed(6, &None::<Option<String>>, &Some(Some(text("x")))),
        seed(7, &(low.clone(), Desc(9u32), text("t")), &(low.clone(), Desc(8u32), text(""))),
        seed(8, &Desc((Some(-1i8), low.clone())), &Desc((None::<i8>, high.clone()))),
        seed(
            9,
            &(*b"ab", Desc(text("d")), true, (-3i16, low), Some(1u8), 5u128),
            &(*b"ab", Desc(text("d")), true, (-3i16, high), None::<u8>, 5u128),
        ),
    ]
}

/// A value that is accepted comes back, and has one form if its type has one version.
fn check_value<T: Record + PartialEq + Debug>(bytes: &[u8], has_one_form: bool) {
    let Ok(value) = T::decode_exact(bytes) else { return };
    let encoded = value.to_bytes();
    if has_one_form {
        assert_eq!(encoded, bytes, "a value has one form");
    }
    assert_eq!(T::decode_exact(&encoded), Ok(value), "a value comes back");
}

/// The type, and a value.
pub(super) fn values(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind {
        0 => check_value::<Note>(bytes, false),
        1 => check_value::<Action>(bytes, false),
        2 => check_value::<Plain>(bytes, true),
        3 => check_value::<String>(bytes, true),
        4 => check_value::<(bool, Option<[u8; 9]>, i64)>(bytes, true),
        5 => check_value::<Option<Vec<Option<u8>>>>(bytes, true),
        _ => {}
    }
}

fn note() -> Note {
    Note {
        id: *b"note",
        words: vec!["one".to_owned(), "two".to_owned()],
        size: 300,
        change: -2,
        flag: true,
        maybe: Some((7, vec![1, 2])),
        actions: vec![
            Action::Idle,
            Action::Move(Some(-70)),
            Action::Call { target: *b"abc", input: vec![9], depth: 2 },
        ],
        sizes: vec![Some(5), None, Some(1000)],
        origin: Some(Origin { height: 9, total: -1, label: "far".to_owned() }),
    }
}

pub(super) fn value_seeds() -> Vec<Vec<u8>> {
    fn seed(kind: u8, value: &impl Record) -> Vec<u8> {
        [&[kind], &value.to_bytes()[..]].concat()
    }
    let plain = Plain {
        numbers: (1, 2, 3, 4, -5),
        lists: vec![vec![[1, 2], [3, 4]], vec![]],
        texts: Some(vec!["a".to_owned()]),
        shorts: vec![1, 500],
    };
    // As it was before version 2.
    let first = b"\0\x01note\x01\x03one\xac\x02\x03\x01\0".to_vec();
    vec![
        seed(0, &note()),
        first,
        seed(1, &Action::Call { target: *b"abc", input: vec![9], depth: 2 }),
        seed(1, &Action::Move(Some(5))),
        seed(2, &plain),
        seed(3, &"text".to_owned()),
        seed(4, &(true, Some([8; 9]), -1i64)),
        seed(5, &Some(vec![Some(1u8), None])),
    ]
}

/// A record has entries that lead back to it.
fn check_record(key: &[u8], value: &[u8]) {
    for index in CollectionDef::of::<Notes>().indexes {
        let Ok(entries) = (index.entries)(key, value) else { return };
        for IndexEntry { key: entry, value, partition_bytes } in entries {
            assert!(partition_bytes <= entry.len(), "a partition is a part of the key");
            let owner = (index.owner)(&entry, &value);
            assert_eq!(owner.map(|(owner, _)| owner).as_deref(), Ok(key), "an entry leads to its record");
        }
    }
}

/// An entry that is accepted has one key, and comes back.
fn check_entry<I: Index>(key: &[u8], value: &[u8])
where
    IndexRow<I>: PartialEq + Debug,
{
    let Ok(row) = decode_entry::<I>(key, value) else { return };
    let (index_key, owner, covered) = (row.0.to_bytes(), row.1.to_bytes(), row.2.to_bytes());
    let (entry, value) = if I::UNIQUE {
        let mut out = ByteWriter::new();
        out.bytes(&owner);
        out.raw(&covered);
        (index_key, out.into_vec())
    } else {
        ([index_key, owner].concat(), covered)
    };
    assert_eq!(entry, key, "the key of an entry has one form");
    assert_eq!(decode_entry::<I>(&entry, &value), Ok(row), "an entry comes back");
}

/// A record, or an entry of one of two indexes: the kind, the length of the key, key and value.
pub(super) fn index_entries(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let mut input = ByteReader::new(bytes);
    let Ok(key) = input.bytes(usize::MAX) else { return };
    let value = input.rest();
    match kind {
        0 => check_record(key, value),
        1 => check_entry::<NotesById>(key, value),
        2 => check_entry::<NotesByWord>(key, value),
        _ => {}
    }
}

pub(super) fn index_entry_seeds() -> Vec<Vec<u8>> {
    let seed = |kind: u8, key: &[u8], value: &[u8]| {
        let mut out = ByteWriter::new();
        out.u8(kind);
        out.bytes(key);
        out.raw(value);
        out.into_vec()
    };
    let (key, value) = (("key".to_owned(), Desc(5u32)).to_bytes(), note().to_bytes());
    let mut seeds = vec![seed(0, &key, &value)];
    for (kind, index) in (1u8..).zip(CollectionDef::of::<Notes>().indexes) {
        let entries = (index.entries)(&key, &value).unwrap_or_default();
        seeds.extend(entries.iter().map(|entry| seed(kind, &entry.key, &entry.value)));
    }
    seeds
}
