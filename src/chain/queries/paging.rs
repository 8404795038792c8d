//! Long answers, a page at a time.

use crate::key::Key;
use crate::{Page, Scan, Token};

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
    /// Their order. The orders that the functions tell of are those of ascending pages.
    pub order: Order,
    /// The token of the page before; `None` for the first page.
    pub after: Option<Token>,
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
    pub fn after(self, token: Token) -> Self {
        Self { after: Some(token), ..self }
    }
}

/// A scan in the order that is wanted, from where it goes on.
pub(super) fn paged<K: Key, R, I>(mut scan: Scan<K, R, I>, paging: &Paging) -> Scan<K, R, I> {
    if paging.order == Order::Descending {
        scan = scan.descending();
    }
    match &paging.after {
        Some(token) => scan.resume(token),
        None => scan,
    }
}

/// The same page of other rows.
pub(super) fn mapped<T, U>(page: Page<T>, row: impl FnMut(T) -> U) -> Page<U> {
    Page { rows: page.rows.into_iter().map(row).collect(), token: page.token }
}
