//! Tests of rows, made from closures over their types for shards that know bytes only.

use std::sync::Arc;

use op_engine_shards::message::{RowTest, Verdict};

/// How the rows of a scan are read.
#[derive(Debug)]
pub(super) struct Decoders<K, R> {
    /// The key by which the scan is ordered, from the front of a stored key.
    pub(super) key: fn(&[u8]) -> Option<K>,
    pub(super) row: fn(&[u8], &[u8]) -> crate::error::Result<R>,
}

impl<K, R> Clone for Decoders<K, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, R> Copy for Decoders<K, R> {}

/// Whether a row passes; `None` if it cannot be read.
type Test = Box<dyn Fn(&[u8], &[u8]) -> Option<bool> + Send + Sync>;
/// What a row adds to the sum; `None` if it cannot be read.
type Amount = Box<dyn Fn(&[u8], &[u8]) -> Option<u64> + Send + Sync>;

/// What a row has to pass.
#[derive(Default)]
pub(super) struct Filter {
    /// Tests of the key alone. They come first.
    keys: Vec<Test>,
    rows: Vec<Test>,
    amount: Option<Amount>,
}

impl Filter {
    pub(super) fn test_key<K: 'static, R: 'static>(
        &mut self,
        decode: Decoders<K, R>,
        test: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) {
        self.keys.push(Box::new(move |key, _| Some(test(&(decode.key)(key)?))));
    }

    pub(super) fn test_row<K: 'static, R: 'static>(
        &mut self,
        decode: Decoders<K, R>,
        test: impl Fn(&R) -> bool + Send + Sync + 'static,
    ) {
        self.rows.push(Box::new(move |key, value| Some(test(&(decode.row)(key, value).ok()?))));
    }

    pub(super) fn add_up<K: 'static, R: 'static>(
        &mut self,
        decode: Decoders<K, R>,
        amount: impl Fn(&R) -> u64 + Send + Sync + 'static,
    ) {
        self.amount = Some(Box::new(move |key, value| Some(amount(&(decode.row)(key, value).ok()?))));
    }

    /// The test for shards; `None` if every row passes and nothing is added up.
    pub(super) fn into_test(self) -> Option<RowTest> {
        if self.keys.is_empty() && self.rows.is_empty() && self.amount.is_none() {
            return None;
        }
        let filter = Arc::new(self);
        Some(RowTest::new(move |key, value| filter.judge(key, value)))
    }

    fn judge(&self, key: &[u8], value: &[u8]) -> Verdict {
        for test in self.keys.iter().chain(&self.rows) {
            match test(key, value) {
                Some(true) => {}
                Some(false) => return Verdict::Skip,
                None => return Verdict::Unreadable,
            }
        }
        match self.amount.as_ref().map(|amount| amount(key, value)) {
            None => Verdict::Take(0),
            Some(Some(amount)) => Verdict::Take(amount),
            Some(None) => Verdict::Unreadable,
        }
    }
}
