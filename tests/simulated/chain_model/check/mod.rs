//! Every query, on a view, compared with what the maps say.

mod chain;
mod coins;
mod contracts;
mod epochs;
mod keys;
mod mempool;

use std::fmt::Debug;

use op_engine::Page;
use op_engine::chain::queries::{ChainView, Order, Paging};
use op_engine_io::sim::Rng;

use super::state::Seen;
use crate::support::check::{Checked, Trouble};

pub use contracts::check_slots;

/// All queries, each with arguments of its own.
pub async fn check_all(view: &impl ChainView, seen: &Seen, rng: &mut Rng) -> Checked {
    chain::check(view, seen, rng).await?;
    coins::check(view, seen, rng).await?;
    contracts::check(view, seen, rng).await?;
    check_slots(view, &seen.state, rng).await?;
    epochs::check(view, seen, rng).await?;
    keys::check(view, seen, rng).await?;
    mempool::check(view, seen, rng).await
}

/// Compares an answer.
fn same<T: PartialEq + Debug>(what: &str, got: &T, wanted: &T) -> Checked {
    if got == wanted {
        return Ok(());
    }
    Err(Trouble::Wrong(format!("{what}\n    gave   {got:?}\n    wanted {wanted:?}")))
}

/// Asks for page after page, of some size and in some order, and compares all rows together.
async fn same_pages<T: PartialEq + Debug>(
    what: &str,
    rng: &mut Rng,
    mut wanted: Vec<T>,
    ask: impl AsyncFn(&Paging) -> op_engine::Result<Page<T>>,
) -> Checked {
    let limit = [1, 2, 5, 1000][rng.index(4)];
    let order = if rng.coin() { Order::Ascending } else { Order::Descending };
    if order == Order::Descending {
        wanted.reverse();
    }
    // No more pages than rows, when a page is never empty but the last one.
    let what = format!("{what}, {limit} a page, {order:?}");
    let (mut got, mut paging) = (Vec::new(), Paging { limit, order, after: None });
    // A long answer is not followed to its end every time.
    let rows_max = if rng.below(4) == 0 { usize::MAX } else { 12 };
    loop {
        let page = ask(&paging).await?;
        let full = page.rows.len() == limit;
        if page.rows.len() > limit || (page.token.is_some() && !full) {
            return Err(Trouble::Wrong(format!("{what}: {} rows, and {:?}", page.rows.len(), page.token)));
        }
        got.extend(page.rows);
        match page.token {
            Some(_) if got.len() >= rows_max => break wanted.truncate(got.len()),
            Some(next) => paging = paging.after(next),
            None => break,
        }
    }
    same(&what, &got, &wanted)
}

/// One of the items, or `None` if there are none.
fn any<T>(rng: &mut Rng, items: impl Iterator<Item = T>) -> Option<T> {
    let items: Vec<T> = items.collect();
    let at = rng.index(items.len().max(1));
    items.into_iter().nth(at)
}

/// A height: mostly of a block that there is.
fn any_height(rng: &mut Rng, tip: u64) -> u64 {
    (tip + 1).saturating_sub(rng.below(28))
}

/// A range of heights, some of which there are not; or an empty one.
fn any_heights(rng: &mut Rng, tip: u64) -> std::ops::RangeInclusive<u64> {
    let start = any_height(rng, tip);
    match rng.below(12) {
        0..=5 => start..=start,
        6 => start..=start.saturating_sub(1),
        7..=10 => start..=start + 4,
        _ => start..=start + 30,
    }
}
