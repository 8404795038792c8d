//! The page index beside a search in the whole first keys of the pages.

use std::rc::Rc;

use op_engine_shards::Seq;
use op_engine_shards::segment::{IndexPartition, IndexWriter};

use super::data::{Outpoint, outpoints};
use super::{Piece, mixed};
use crate::common::Rng;

/// A segment of 100 MiB.
const PAGES: usize = 25_000;
const LOOKUPS: usize = 1000;

pub fn search() -> Piece {
    // One output a transaction: a segment's pages end between transactions where they can.
    let mut keys = outpoints(5 * PAGES);
    keys.retain(|key| key.ends_with(&[0; 4]));
    keys.truncate(2 * PAGES);
    keys.sort_unstable();
    // The first and the last key of each page.
    let ends: Vec<[Outpoint; 2]> = keys.as_chunks::<2>().0.to_vec();
    let mut writer = IndexWriter::default();
    for (n, [first, _]) in ends.iter().enumerate() {
        let last = n.checked_sub(1).map(|before| (ends[before][1].as_slice(), Seq(1)));
        writer.begin_page(last, first);
        writer.end_page(1, 0);
    }
    let parts = writer.finish();
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let note = format!("bytes a page: {:.1}, and 36 of a whole key", bytes as f64 / PAGES as f64);
    let decode = |at: usize| parts[at].decode(parts.get(at + 1)).expect("a partition");
    let partitions: Vec<IndexPartition> = (0..parts.len()).map(decode).collect();
    let locate = move |key: &[u8]| {
        let after = parts.partition_point(|part| part.is_reached_by(key, Seq::MAX));
        partitions[after - 1].locate(key, Seq::MAX).number.0 as usize
    };
    for (n, [first, last]) in ends.iter().enumerate() {
        assert_eq!([locate(first), locate(last)], [n, n]);
    }
    let arrays: Vec<Outpoint> = ends.iter().map(|[first, _]| *first).collect();
    let vectors: Vec<Vec<u8>> = arrays.iter().map(|first| first.to_vec()).collect();
    let keys = Rc::new(keys);
    let in_index = lookups(Rc::clone(&keys), move |key| locate(key));
    let in_vectors = lookups(Rc::clone(&keys), move |key| {
        vectors.partition_point(|first| first.as_slice() <= key.as_slice()) - 1
    });
    let in_arrays = lookups(keys, move |key| arrays.partition_point(|first| first <= key) - 1);
    Piece::new(LOOKUPS)
        .way("page index", in_index)
        .way("partition_point over Vec<Vec<u8>>", in_vectors)
        .way("partition_point over Vec<[u8; 36]>", in_arrays)
        .agreed()
        .note(note)
}

fn lookups(keys: Rc<Vec<Outpoint>>, locate: impl Fn(&Outpoint) -> usize) -> impl FnMut() -> u64 {
    let mut rng = Rng(6);
    move || {
        let answers = (0..LOOKUPS).map(|_| locate(&keys[rng.below(keys.len() as u64) as usize]));
        answers.fold(0, |digest, page| mixed(digest, page as u64))
    }
}
