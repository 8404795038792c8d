use proptest::prelude::*;

use op_engine_io::num::to_u64;

use super::*;

/// A page: its first and last entry, its units.
type PageOf = ((Vec<u8>, u64), (Vec<u8>, u64), u32);

fn write(pages: &[PageOf]) -> Vec<IndexPart> {
    let mut writer = IndexWriter::default();
    for (n, (first, _, units)) in pages.iter().enumerate() {
        let last = n.checked_sub(1).map(|before| (pages[before].1.0.as_slice(), Seq(pages[before].1.1)));
        writer.begin_page(last, &first.0);
        writer.end_page(*units, to_u32(n) + 7);
        assert_eq!(writer.pages(), to_u64(n) + 1);
    }
    writer.finish()
}

fn decode(parts: &[IndexPart], at: usize) -> Result<IndexPartition, crate::bytes::Malformed> {
    parts[at].decode(parts.get(at + 1))
}

fn locate(parts: &[IndexPart], key: &[u8], seq: u64) -> PagePlace {
    let after = parts.partition_point(|part| part.is_reached_by(key, Seq(seq)));
    decode(parts, after - 1).unwrap().locate(key, Seq(seq))
}

/// Pages of entries that ascend: keys, and of one key versions that descend.
fn paged(entries: &[(Vec<u8>, u64)], lens: &[(usize, u32)]) -> Vec<PageOf> {
    let mut pages = Vec::new();
    let mut rest = entries;
    for (len, units) in lens.iter().cycle() {
        let (page, after) = rest.split_at((*len).min(rest.len()));
        let Some((first, last)) = page.first().zip(page.last()) else { return pages };
        pages.push((first.clone(), last.clone(), *units));
        rest = after;
    }
    pages
}

/// The page that has the first entry at or after (`key`, `seq`), or the last one.
fn model(pages: &[PageOf], key: &[u8], seq: u64) -> usize {
    let before = |last: &(Vec<u8>, u64)| last.0.as_slice() < key || last.0 == key && last.1 > seq;
    pages.partition_point(|(_, last, _)| before(last)).min(pages.len() - 1)
}

fn check(pages: &[PageOf], probes: &[(Vec<u8>, u64)]) {
    let parts = write(pages);
    let mut start = 0;
    for (n, (_, last, units)) in pages.iter().enumerate() {
        let number = PageNo(to_u32(n));
        let part = parts.partition_point(|part| part.span.first <= number.0) - 1;
        let goes_on = pages.get(n + 1).is_some_and(|next| next.0.0 == last.0);
        let place = PagePlace { number, goes_on, start, units: *units, crc: number.0 + 7 };
        assert_eq!(decode(&parts, part).unwrap().page(number), Some(place));
        start += units;
    }
    for (key, seq) in probes {
        let found = locate(&parts, key, *seq).number.index();
        let right = model(pages, key, *seq);
        // Between two pages, the one before can be meant as well: it has nothing at or after the place.
        let between = found + 1 == right && {
            let (first, last) = (&pages[right].0, &pages[found].1);
            crate::range::internal_order((&last.0, Seq(last.1)), (key, Seq(*seq))).is_lt()
                && crate::range::internal_order((key, Seq(*seq)), (&first.0, Seq(first.1))).is_lt()
        };
        assert!(found == right || between, "page {found} for {key:?} {seq}, not {right}");
    }
}

fn entries() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
    let key = prop_oneof![
        5 => prop::collection::vec(0u8..3, 0..8),
        2 => prop::collection::vec(any::<u8>(), 30..40),
        1 => (0u8..3, prop::collection::vec(any::<u8>(), 2)).prop_map(|(byte, end)| [vec![byte; 900], end].concat()),
    ];
    let versions = prop_oneof![4 => Just(1u64), 1 => 1u64..30];
    prop::collection::btree_map(key, versions, 1..300).prop_map(|keys| {
        keys.into_iter()
            .flat_map(|(key, versions)| (1..=versions).rev().map(move |seq| (key.clone(), seq)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_right_page_is_found(
        entries in entries(),
        lens in prop::collection::vec((1usize..4, prop_oneof![4 => Just(1u32), 1 => 1u32..40_000]), 1..20),
        probes in prop::collection::vec((prop::collection::vec(0u8..3, 0..8), 0u64..32), 20),
    ) {
        let pages = paged(&entries, &lens);
        check(&pages, &entries);
        check(&pages, &probes);
        let around = entries.iter().flat_map(|(key, seq)| {
            [(key.clone(), u64::MAX), (key.clone(), 0), ([key.as_slice(), b"\0"].concat(), *seq)]
        });
        check(&pages, &around.collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_decode_or_fail(
        entries in entries(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        key in prop::collection::vec(0u8..3, 0..8),
    ) {
        let mut parts = write(&paged(&entries, &[(1, 1), (2, 1), (1, 2)]));
        let span = parts[0].span;
        for (at, flip) in damage {
            let at = at.index(parts[0].bytes.len());
            parts[0].bytes[at] ^= flip;
        }
        if let Ok(index) = decode(&parts, 0) {
            // Whatever was damaged, the search goes on as if the bounds had been written so: in order.
            let mut last = 0;
            for key in [&[][..], &key, &[3], &[255; 1024]] {
                let found = index.locate(key, Seq(3)).number.0;
                prop_assert!(found >= last);
                prop_assert!(found < span.pages);
                last = found;
            }
            prop_assert!(index.page(PageNo(span.pages)).is_none());
        }
    }
}

fn outpoints(pages: u32) -> Vec<PageOf> {
    let key = |n: u32| [n.to_be_bytes().as_slice(), &[7; 32]].concat();
    (0..pages).map(|n| ((key(2 * n), 5), (key(2 * n + 1), 5), 1)).collect()
}

#[test]
fn many_pages_make_partitions_of_bounded_length() {
    for (units, bytes_max) in [([1, 1], 8), ([1, 2], 10)] {
        let mut pages = outpoints(10_000);
        pages.iter_mut().enumerate().for_each(|(n, page)| page.2 = units[n % 2]);
        let parts = write(&pages);
        assert!(parts.len() > 2 && parts.iter().all(|part| part.bytes.len() <= 16 << 10));
        let bytes: usize = parts.iter().map(|part| part.bytes.len() + part.bound.len()).sum();
        assert!(bytes < 10_000 * bytes_max, "{bytes} bytes for 10000 pages");
        let probes: Vec<_> =
            (0..20_000u32).map(|n| ([n.to_be_bytes().as_slice(), &[7; 32]].concat(), 5)).collect();
        check(&pages, &probes);
    }
}

#[test]
fn stretches_end_with_the_partition_or_the_bytes() {
    let mut pages = outpoints(100);
    pages[50].2 = 3;
    let parts = write(&pages);
    let index = decode(&parts, 0).unwrap();
    assert_eq!(index.stretch(PageNo(0), 0), (1, 1));
    assert_eq!(index.stretch(PageNo(1), 5), (5, 5));
    assert_eq!(index.stretch(PageNo(49), 3), (1, 1));
    assert_eq!(index.stretch(PageNo(49), 4), (2, 4));
    assert_eq!(index.stretch(PageNo(90), u32::MAX), (10, 10));
    assert_eq!(index.stretch(PageNo(100), 0), (0, 0));
    assert_eq!(index.first_of_stretch(PageNo(50), 4), PageNo(49));
    assert_eq!(index.first_of_stretch(PageNo(50), 0), PageNo(50));
    assert_eq!(index.first_of_stretch(PageNo(2), u32::MAX), PageNo(0));
}

#[test]
fn contradictions_are_refused() {
    let parts = write(&outpoints(40));
    let part = &parts[0];
    let lower = part.lower();
    IndexPartition::decode(&part.bytes, part.span, lower, None).unwrap();
    for end in 0..part.bytes.len() {
        IndexPartition::decode(&part.bytes[..end], part.span, lower, None).unwrap_err();
    }
    let span = part.span;
    let spans = [
        Span { pages: 0, ..span },
        Span { pages: 39, ..span },
        Span { pages: 41, ..span },
        Span { units: 41, ..span },
        Span { units: 0, ..span },
        Span { pages: u32::MAX, ..span },
    ];
    for span in spans {
        IndexPartition::decode(&part.bytes, span, lower, None).unwrap_err();
    }
    let high = [255; 3];
    let low = Bound { key: &high, below: None };
    IndexPartition::decode(&part.bytes, span, low, None).unwrap_err();
    let upper = Bound { key: b"\0", below: None };
    IndexPartition::decode(&part.bytes, span, lower, Some(upper)).unwrap_err();
    IndexPartition::decode(&part.bytes, span, lower, Some(low)).unwrap();
}
