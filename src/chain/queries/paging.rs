//! Long answers, a page at a time.

use std::ops::Bound;

use crate::key::{Key, KeyReader, KeyWriter};
use crate::{Error, Result, Scan};

/// In which order rows come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    #[default]
    Ascending,
    /// From the last to the first.
    Descending,
}

/// How much of an answer is wanted, in which order, and where it goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paging {
    /// Rows at most.
    pub limit: usize,
    /// Their order. The orders of the functions that take this are those of ascending pages.
    pub order: Order,
    /// The end of the page before; `None` for the first page.
    pub after: Option<PageToken>,
}

impl Paging {
    /// The first rows.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The last rows, the last one first.
    #[must_use]
    pub fn last(limit: usize) -> Self {
        Self { limit, order: Order::Descending, after: None }
    }

    /// What follows a page, in the same order.
    #[must_use]
    pub fn after(self, token: PageToken) -> Self {
        Self { after: Some(token), ..self }
    }
}

/// Where a page ended. It is good for the same question on any state of the store, also after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(Vec<u8>);

impl PageToken {
    /// A token that was kept as bytes. What is no token of the question is refused when it is used.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The token as bytes: the key of the last row.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there are more rows.
    pub next: Option<PageToken>,
}

/// A row that knows its place in the scan that gave it.
pub(super) trait Placed {
    fn place(&self) -> Vec<u8>;
}

/// Rows of collections.
impl<K: Key, V> Placed for (K, V) {
    fn place(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

/// Rows of indexes that are not unique.
impl<K: Key, R: Key, C> Placed for (K, R, C) {
    fn place(&self) -> Vec<u8> {
        let mut out = KeyWriter::new();
        self.0.encode(&mut out);
        self.1.encode(&mut out);
        out.into_vec()
    }
}

/// A page of the rows whose keys are in `range`, both ends included.
pub(super) async fn page<K: Key, R: Placed, I>(
    scan: Scan<K, R, I>,
    range: (K, K),
    paging: &Paging,
) -> Result<Page<R>> {
    let scan = if paging.after.is_none() { scan.limit(paging.limit.saturating_add(1)) } else { scan };
    filtered_page(scan, range, paging, |_| true).await
}

/// A page of those rows that `keep` keeps. The others are passed over and do not count.
pub(super) async fn filtered_page<K: Key, R: Placed, I>(
    scan: Scan<K, R, I>,
    (first, last): (K, K),
    paging: &Paging,
    keep: impl Fn(&R) -> bool,
) -> Result<Page<R>> {
    let after = paging.after.as_ref().map(|token| place_of(token, &first, &last)).transpose()?;
    let (mut start, mut end) = (Bound::Included(&first), Bound::Included(&last));
    if let Some((key, _)) = &after {
        match paging.order {
            Order::Ascending => start = Bound::Included(key),
            Order::Descending => end = Bound::Included(key),
        }
    }
    let mut scan = scan.range(start, end);
    if paging.order == Order::Descending {
        scan = scan.descending();
    }
    let mut page = Page { rows: Vec::new(), next: None };
    while let Some(row) = scan.next().await? {
        if after.as_ref().is_some_and(|(_, place)| is_before(&row.place(), place, paging.order))
            || !keep(&row)
        {
            continue;
        }
        if page.rows.len() >= paging.limit {
            page.next = page.rows.last().map(|last: &R| PageToken(last.place()));
            break;
        }
        page.rows.push(row);
    }
    Ok(page)
}

/// Whether a row was on the pages before.
fn is_before(row: &[u8], place: &[u8], order: Order) -> bool {
    match order {
        Order::Ascending => row <= place,
        Order::Descending => row >= place,
    }
}

/// The key that a token begins with, which must be one of the question's.
fn place_of<'a, K: Key>(token: &'a PageToken, first: &K, last: &K) -> Result<(K, &'a [u8])> {
    let foreign = || Error::Setting {
        name: "page token",
        why: "it is none of this question. Begin with the first page".to_owned(),
    };
    let key = K::decode(&mut KeyReader::new(&token.0)).map_err(|_| foreign())?;
    let bytes = key.to_bytes();
    if bytes < first.to_bytes() || bytes > last.to_bytes() {
        return Err(foreign());
    }
    Ok((key, &token.0))
}

impl<T> Page<T> {
    /// The same page of other rows.
    pub(super) fn map<U>(self, row: impl FnMut(T) -> U) -> Page<U> {
        Page { rows: self.rows.into_iter().map(row).collect(), next: self.next }
    }
}
