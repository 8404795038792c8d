//! Pages of compressed keys beside entries that lie in memory as they are.

use std::rc::Rc;
use std::sync::Arc;

use op_engine_io::{Dir, FileKind, FileName};
use op_engine_shards::Seq;
use op_engine_shards::segment::{Lookup, Page, PageWriter};
use op_engine_shards::visibility::Mask;

use super::data::{Entry, entries, outpoints, slots};
use super::{Piece, head, mixed};
use crate::common::Rng;

/// About a thousand pages: too large for the cache of a core.
const ENTRIES: usize = 40_000;
const ENCODED: usize = 10_000;
const LOOKUPS: usize = 1000;
const PAGE_BYTES: usize = 4096;
const FILE: FileName = FileName { dir: Dir::Shard(0), kind: FileKind::Segment, number: 1 };

pub fn search_outpoints() -> Piece {
    search::<36, 60>(entries(outpoints(ENTRIES)))
}

pub fn search_slots() -> Piece {
    search::<64, 32>(entries(slots(ENTRIES)))
}

/// Gives the bytes of one page after the other, and how many entries it has.
fn write_pages<const K: usize, const V: usize>(entries: &[Entry<K, V>], mut page: impl FnMut(&[u8], usize)) {
    let (mut writer, mut bytes, mut count) = (PageWriter::default(), Vec::new(), 0);
    for (key, value) in entries {
        if writer.bytes_with(key, Some(value)) > PAGE_BYTES {
            writer.finish(&mut bytes);
            page(&bytes, count);
            count = 0;
        }
        writer.push(key, Seq(1), Some(value));
        count += 1;
    }
    writer.finish(&mut bytes);
    page(&bytes, count);
}

/// The same with nothing shared: the length of the value, key, value.
fn write_plain_pages<const V: usize>(entries: &[Entry<36, V>], mut page: impl FnMut(&[u8])) {
    let mut bytes: Vec<u8> = Vec::with_capacity(PAGE_BYTES);
    for (key, value) in entries {
        if bytes.len() + 4 + key.len() + value.len() > PAGE_BYTES {
            bytes.resize(PAGE_BYTES, 0);
            page(&bytes);
            bytes.clear();
        }
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    bytes.resize(PAGE_BYTES, 0);
    page(&bytes);
}

fn plain_entries(mut page: &[u8]) -> Vec<Entry<36, 60>> {
    let mut entries = Vec::new();
    while let Some((&[60, 0, 0, 0], rest)) = page.split_first_chunk() {
        let (key, rest) = rest.split_first_chunk().expect("a key");
        let (value, rest) = rest.split_first_chunk().expect("a value");
        entries.push((*key, *value));
        page = rest;
    }
    entries
}

/// Asserts that a page answers with just these entries.
fn holds<const K: usize, const V: usize>(bytes: &[u8], entries: &[Entry<K, V>]) -> Page {
    let page = Page::parse(FILE, 0, bytes).expect("a page");
    assert_eq!(page.entries(), entries.len());
    for (key, value) in entries {
        let found = page.find(key, Seq::MAX, &Mask::default()).expect("a sound page");
        assert!(matches!(found, Lookup::Found(Seq(1), Some(found)) if *found == *value));
    }
    page
}

pub fn encode() -> Piece {
    let entries: Rc<Vec<Entry<36, 60>>> = Rc::new(entries(outpoints(ENCODED)));
    let plain = Rc::clone(&entries);
    let (mut pages, mut plain_pages, mut written) = (0, 0, 0);
    write_pages(&entries, |bytes, count| {
        holds(bytes, &entries[written..written + count]);
        (pages, written) = (pages + 1, written + count);
    });
    let mut read_back = Vec::new();
    write_plain_pages(&plain, |bytes| {
        plain_pages += 1;
        read_back.extend(plain_entries(bytes));
    });
    assert!(written == ENCODED && read_back == *plain);
    Piece::new(ENCODED)
        .way("page", move || {
            let mut digest = 0;
            write_pages(&entries, |bytes, _| digest = mixed(digest, head(&bytes[bytes.len() / 2..])));
            digest
        })
        .way("entries as they are", move || {
            let mut digest = 0;
            write_plain_pages(&plain, |bytes| digest = mixed(digest, head(&bytes[bytes.len() / 2..])));
            digest
        })
        .note(format!("{ENCODED} entries take {pages} pages, as they are {plain_pages}"))
}

/// Finds entries that are there, each in the page that holds it. The page's answer can be kept when the page is gone,
/// as a copy of the alternative's can.
fn search<const K: usize, const V: usize>(entries: Vec<Entry<K, V>>) -> Piece {
    let mask = Mask::default();
    let (mut pages, mut arrays, mut page_of) = (Vec::new(), Vec::new(), Vec::new());
    write_pages(&entries, |bytes, count| {
        let start = page_of.len();
        pages.push(holds(bytes, &entries[start..start + count]));
        arrays.push(entries[start..start + count].to_vec());
        page_of.resize(start + count, pages.len() - 1);
    });
    let keys: Vec<([u8; K], usize)> =
        entries.iter().zip(&page_of).map(|((key, _), page)| (*key, *page)).collect();
    let (keys, arrays) = (Rc::new(keys), Rc::new(arrays));
    let seen_arrays = Rc::clone(&arrays);
    let in_page = lookups(Rc::clone(&keys), move |key, page| {
        match pages[page].find(key, Seq::MAX, &mask).expect("a sound page") {
            Lookup::Found(_, Some(value)) => head(value),
            _ => panic!("the key is there"),
        }
    });
    let copied = lookups(Rc::clone(&keys), move |key, page| {
        let value: Arc<[u8]> = Arc::from(binary_search(&arrays[page], key).as_slice());
        head(&value)
    });
    let seen = lookups(keys, move |key, page| head(binary_search(&seen_arrays[page], key)));
    Piece::new(LOOKUPS)
        .way("page", in_page)
        .way("binary search in an array, value copied", copied)
        .way("binary search in an array, by reference", seen)
        .agreed()
}

fn binary_search<'a, const K: usize, const V: usize>(array: &'a [Entry<K, V>], key: &[u8; K]) -> &'a [u8; V] {
    let at = array.binary_search_by(|(other, _)| other.cmp(key)).expect("the key is there");
    &array[at].1
}

fn lookups<const K: usize>(
    keys: Rc<Vec<([u8; K], usize)>>,
    find: impl Fn(&[u8; K], usize) -> u64,
) -> impl FnMut() -> u64 {
    let mut rng = Rng(5);
    move || {
        (0..LOOKUPS).fold(0, |digest, _| {
            let (key, page) = &keys[rng.below(keys.len() as u64) as usize];
            mixed(digest, find(key, *page))
        })
    }
}
