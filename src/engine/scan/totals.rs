//! Counting and adding up on the shards.

use op_engine_io::{block_on, num::to_u64};

use crate::engine::scan::{Scan, Totals, hex};
use crate::error::{Error, Result};
use crate::key::Key;

impl<K: Key + 'static, R: 'static, I> Scan<K, R, I> {
    /// How many rows there are. The shards count them, and send none.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn count(mut self) -> Result<u64> {
        let left = to_u64(self.left);
        self.stream()?;
        Ok(self.add_up(left).await?.rows.min(left))
    }

    /// As [`Scan::count`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn count_blocking(self) -> Result<u64> {
        block_on(self.count())
    }

    /// How many rows there are, and the sum of an amount of each. The shards add up, and send no row. `amount` runs as
    /// the test of [`Scan::filter_key`] does. With a [limit](Scan::limit), the rows are sent and added up here.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn sum(mut self, amount: impl Fn(&R) -> u64 + Send + Sync + 'static) -> Result<Totals> {
        if self.left == usize::MAX {
            self.filter.add_up(self.decode, amount);
            self.stream()?;
            return self.add_up(u64::MAX).await;
        }
        let mut totals = Totals::default();
        while let Some(row) = self.next().await? {
            totals += Totals { rows: 1, sum: u128::from(amount(&row)) };
        }
        Ok(totals)
    }

    /// As [`Scan::sum`], blocking the calling thread.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub fn sum_blocking(self, amount: impl Fn(&R) -> u64 + Send + Sync + 'static) -> Result<Totals> {
        block_on(self.sum(amount))
    }

    async fn add_up(self, enough: u64) -> Result<Totals> {
        let decode = self.decode.row;
        let unreadable = |key: &[u8], value: &[u8]| {
            decode(key, value).err().unwrap_or_else(|| Error::Contradiction {
                collection: self.name.to_owned(),
                key: hex(key),
                what: "it can be read as a whole, but not in part".to_owned(),
            })
        };
        self.stream?.totals(enough, unreadable).await
    }
}
