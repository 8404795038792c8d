//! Recovery over all shards: where the store's chain of commits ends.

use crate::error::{Error, Result};
use crate::ids::{Seq, Term};
use crate::message::{RecoveryReport, StartTerm};

/// Decides how all shards go on: at the lowest last commit, in a new term, with numbers above every number seen.
///
/// # Errors
/// [`Error::AcknowledgedDataMissing`] if some shard knows of an acknowledged commit that another one lacks. Nothing
/// has been changed then.
pub fn decide(reports: &[RecoveryReport]) -> Result<StartTerm> {
    let shortest = reports.iter().min_by_key(|report| report.last);
    let Some(shortest) = shortest else { return Err(Error::Closed) };
    let acknowledged = reports.iter().map(|report| report.acknowledged).max().unwrap_or(Seq::ZERO);
    if shortest.last < acknowledged {
        let (file, offset) = shortest.last_at.clone();
        return Err(Error::AcknowledgedDataMissing {
            shard: shortest.shard,
            file,
            offset,
            found: shortest.last,
            acknowledged,
        });
    }
    let seq_floor =
        reports.iter().map(|report| report.seq_seen_max.max(report.last)).max().unwrap_or(Seq::ZERO);
    let term = reports.iter().map(|report| report.term_max.0).max().unwrap_or(0);
    Ok(StartTerm { term: Term(term + 1), cut: shortest.last, seq_floor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::message::Horizon;

    fn report(shard: u16, last: u64, acknowledged: u64, seen: u64) -> RecoveryReport {
        RecoveryReport {
            shard: ShardId(shard),
            last: Seq(last),
            last_at: (format!("shard-{shard:03}/0000000000000001.wal"), 4096 * last),
            acknowledged: Seq(acknowledged),
            seq_seen_max: Seq(seen),
            term_max: Term(u64::from(shard) + 3),
            horizon: Horizon::default(),
            torn_tail_bytes: 0,
        }
    }

    #[test]
    fn the_store_goes_on_at_the_lowest_last_commit_with_numbers_above_all_that_were_seen() {
        let start = decide(&[report(0, 9, 7, 9), report(1, 7, 6, 12), report(2, 8, 7, 8)]).unwrap();
        assert_eq!((start.cut, start.seq_floor, start.term), (Seq(7), Seq(12), Term(6)));
    }

    #[test]
    fn a_shard_that_lacks_what_another_knows_to_be_acknowledged_is_refused_by_name() {
        let error = decide(&[report(0, 9, 8, 9), report(1, 7, 6, 7)]).unwrap_err();
        let Error::AcknowledgedDataMissing { shard, file, offset, found, acknowledged } = error else {
            panic!("{error}");
        };
        assert_eq!((shard, found, acknowledged), (ShardId(1), Seq(7), Seq(8)));
        assert_eq!((file.as_str(), offset), ("shard-001/0000000000000001.wal", 4096 * 7));
    }
}
