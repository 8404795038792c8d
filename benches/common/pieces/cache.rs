//! The cache of pages beside a hash map that forgets nothing, and beside the textbook's.

use std::collections::HashMap;
use std::rc::Rc;

use op_engine_io::{Dir, FileKind, FileName};
use op_engine_shards::Seq;
use op_engine_shards::cache::{PageCache, Shelf};
use op_engine_shards::segment::{Page, PageNo, PageWriter};

use super::data::{outpoints, value};
use super::lru::{Lru, Place};
use super::{Piece, mixed};
use crate::common::Rng;

const PAGES: u32 = 10_000;
const LOOKUPS: usize = 1000;
/// Room for a fifth of the pages.
const TIGHT_PAGES: usize = 2000;
const WARM_UP: usize = 100_000;
const SCAN_EVERY: u64 = 2000;
const SCAN_PAGES: u32 = 500;

/// Pages that differ in the number of their entries, so that an answer can be told from another.
fn pages() -> Rc<Vec<Rc<Page>>> {
    let file = FileName { dir: Dir::Shard(0), kind: FileKind::Segment, number: 1 };
    let mut keys = outpoints(40);
    keys.sort_unstable();
    let forms: Vec<Vec<u8>> = (30..40)
        .map(|entries| {
            let (mut writer, mut bytes) = (PageWriter::default(), Vec::new());
            for (n, key) in keys.iter().take(entries).enumerate() {
                writer.push(key, Seq(1), Some(&value::<60>(n as u64)));
            }
            writer.finish(&mut bytes);
            bytes
        })
        .collect();
    let page = |n: usize| Rc::new(Page::parse(file, 0, &forms[n % forms.len()]).expect("a page"));
    Rc::new((0..PAGES as usize).map(page).collect())
}

fn place(n: u32) -> Place {
    (u64::from(n % 7), PageNo(n))
}

/// Every page is in the cache.
pub fn hit() -> Piece {
    let pages = pages();
    let (cache, mut lru) = (PageCache::new(1 << 30, 0), Lru::new(1 << 30));
    let mut map = HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
    for (n, page) in (0..PAGES).zip(pages.iter()) {
        let (segment, number) = place(n);
        cache.insert(Shelf::Hot, segment, number, Rc::clone(page));
        lru.insert(place(n), Rc::clone(page));
        map.insert(place(n), Rc::clone(page));
    }
    Piece::new(LOOKUPS)
        .way("PageCache", hits(move |(segment, page)| cache.get(Shelf::Hot, segment, page)))
        .way("HashMap without a bound", hits(move |place| map.get(&place).cloned()))
        .way("LRU list", hits(move |place| lru.get(place)))
        .agreed()
}

fn hits(mut get: impl FnMut(Place) -> Option<Rc<Page>>) -> impl FnMut() -> u64 {
    let mut rng = Rng(1);
    move || {
        (0..LOOKUPS).fold(0, |digest, _| {
            let page = get(place(rng.below(u64::from(PAGES)) as u32)).expect("every page is there");
            mixed(digest, page.entries() as u64)
        })
    }
}

/// A page that is missing is put in, and another one goes. Few pages are wanted often and most of them seldom; now and
/// then a scan walks over many in a row.
pub fn turnover() -> Piece {
    let pages = pages();
    let bytes_max = TIGHT_PAGES * pages[0].memory_bytes();
    let (cache, lru) = (PageCache::new(bytes_max as u64, 0), Lru::new(bytes_max));
    let (mut ours, mut others) = (Reader::new(cache, &pages), Reader::new(lru, &pages));
    for _ in 0..WARM_UP {
        ours.read();
        others.read();
    }
    let percent = |hits: u64| hits as f64 * 100.0 / WARM_UP as f64;
    let note = format!(
        "pages found: {:.1} % by PageCache, {:.1} % by the LRU list",
        percent(ours.hits),
        percent(others.hits)
    );
    Piece::new(LOOKUPS)
        .way("PageCache", move || (0..LOOKUPS).fold(0, |digest, _| mixed(digest, ours.read())))
        .way("LRU list", move || (0..LOOKUPS).fold(0, |digest, _| mixed(digest, others.read())))
        .agreed()
        .note(note)
}

trait Bounded {
    fn find(&mut self, place: Place) -> Option<Rc<Page>>;
    fn add(&mut self, place: Place, page: Rc<Page>);
}

impl Bounded for PageCache {
    fn find(&mut self, (segment, page): Place) -> Option<Rc<Page>> {
        self.get(Shelf::Hot, segment, page)
    }

    fn add(&mut self, (segment, number): Place, page: Rc<Page>) {
        self.insert(Shelf::Hot, segment, number, page);
    }
}

impl Bounded for Lru {
    fn find(&mut self, place: Place) -> Option<Rc<Page>> {
        self.get(place)
    }

    fn add(&mut self, place: Place, page: Rc<Page>) {
        self.insert(place, page);
    }
}

struct Reader<C> {
    cache: C,
    pages: Rc<Vec<Rc<Page>>>,
    rng: Rng,
    /// Where a scan is, and how many pages it has before it.
    scan: (u32, u32),
    hits: u64,
}

impl<C: Bounded> Reader<C> {
    fn new(cache: C, pages: &Rc<Vec<Rc<Page>>>) -> Self {
        Self { cache, pages: Rc::clone(pages), rng: Rng(3), scan: (0, 0), hits: 0 }
    }

    fn read(&mut self) -> u64 {
        let wanted = self.wanted();
        let page = match self.cache.find(place(wanted)) {
            Some(page) => {
                self.hits += 1;
                page
            }
            None => {
                let page = &self.pages[wanted as usize];
                self.cache.add(place(wanted), Rc::clone(page));
                Rc::clone(page)
            }
        };
        page.entries() as u64
    }

    /// A scan of 500 pages each 2,000 reads or so; else the fourth power of a random number, which falls on a tenth
    /// of the pages more often than not.
    fn wanted(&mut self) -> u32 {
        if self.scan.1 > 0 {
            self.scan = ((self.scan.0 + 1) % PAGES, self.scan.1 - 1);
            return self.scan.0;
        }
        if self.rng.below(SCAN_EVERY) == 0 {
            self.scan = (self.rng.below(u64::from(PAGES)) as u32, SCAN_PAGES);
        }
        let part = self.rng.below(1 << 32) as f64 / (1u64 << 32) as f64;
        (part.powi(4) * f64::from(PAGES)) as u32
    }
}
