//! What a scan wants of the rows that it comes to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result};

/// What a test says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is left out.
    Skip,
    /// It belongs to the answer, and adds so much to the sum.
    Take(u64),
    /// It cannot be read. It is sent, whatever was wanted, so that the asker can tell what is wrong with it.
    Unreadable,
}

type Judge = dyn Fn(&[u8], &[u8]) -> Verdict + Send + Sync;

/// A test of rows, by key and value. It runs on the shard's thread: it should be quick, and must not wait for anything.
#[derive(Clone)]
pub struct RowTest(Arc<Judge>);

impl RowTest {
    /// Asks this function about every row.
    pub fn new(judge: impl Fn(&[u8], &[u8]) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// What it says of a row. A panic ends the scan, and nothing else.
    fn judge(&self, key: &[u8], value: &[u8]) -> Result<Verdict> {
        let judged = catch_unwind(AssertUnwindSafe(|| (self.0)(key, value)));
        judged.map_err(|panic| {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            Error::RowTestPanicked { message: message.unwrap_or_default() }
        })
    }
}

impl std::fmt::Debug for RowTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RowTest")
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Keys and values.
    Rows,
    /// How many rows there are, and the sum of what they add.
    Totals,
}

/// What a scan wants of the rows that it comes to.
#[derive(Debug, Clone)]
pub struct Select {
    /// Which rows it wants; all without it.
    pub test: Option<RowTest>,
    /// What it wants of them.
    pub wants: Wants,
    /// Entries that one answer goes through at most, those of versions and rows that are not wanted too; at least the
    /// entries of one key. However few rows are wanted, the answer comes soon.
    pub entries_max: u64,
}

impl Select {
    /// Some milliseconds of work, if all pages are in memory.
    pub const ENTRIES_MAX: u64 = 16 << 10;

    /// Every row.
    #[must_use]
    pub fn all() -> Self {
        Self { test: None, wants: Wants::Rows, entries_max: Self::ENTRIES_MAX }
    }

    /// What the test says of a row.
    pub(crate) fn judge(&self, key: &[u8], value: &[u8]) -> Result<Verdict> {
        self.test.as_ref().map_or(Ok(Verdict::Take(0)), |test| test.judge(key, value))
    }
}

/// A number of rows, and a sum over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many rows.
    pub rows: u64,
    /// The sum of what each of them adds.
    pub sum: u128,
}

impl Totals {
    /// One more row.
    pub(crate) fn add(&mut self, amount: u64) {
        self.rows += 1;
        self.sum = self.sum.saturating_add(u128::from(amount));
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.sum = self.sum.saturating_add(other.sum);
    }
}
