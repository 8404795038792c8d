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
