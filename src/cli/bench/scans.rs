//! Rows in order.

use std::ops::Bound;
use std::time::Instant;

use super::Session;
use super::chain::{Coins, CoinsByScript, Rng, coin_key, script_of};
use super::figure::{Figure, Limit};
use super::store::{BenchStore, Opening};
use super::workload::Workload;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::show::count;

const ROWS: usize = 10_000;
const READ_DEPTH: u32 = 32;

/// Long scans from random places, and the coins of one script.
pub(crate) fn scan(session: &mut Session, store: &BenchStore) -> Outcome {
    let engine = store.open(Opening::Uncached { read_depth: READ_DEPTH })?;
    let mut rng = Rng(21);
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        let mut rows = 0;
        while Instant::now() < end {
            let started = Instant::now();
            let from = coin_key(rng.below(store.records));
            let mut scan = engine.scan::<Coins>().range(Bound::Included(&from), Bound::Unbounded).limit(ROWS);
            let mut last = None;
            while let Some((key, _)) = scan.next_blocking()? {
                if last.is_some_and(|last| last >= key) {
                    return Err(Failure::Other("the engine gave rows out of order".to_owned()));
                }
                last = Some(key);
                rows += 1;
            }
            latencies.add(started.elapsed());
        }
        Ok(rows)
    })?;
    let reads_each = measured.cost().device_read_bytes / 4096.0;
    let limit = session.device.as_ref().filter(|_| reads_each > 0.0).map(|device| Limit {
        value: device.reads_per_second_max() / reads_each,
        of: "bare 4 KiB reads of the same bytes".to_owned(),
    });
    let name = format!("rows of scans of {}", count(10_000));
    session.add(store, Figure { limit, ..measured.figure(Workload::Scan, name) })?;
    let measured = session.meter.measure(Some(&engine), session.time, |end, latencies| {
        let mut scans = 0;
        while Instant::now() < end {
            let started = Instant::now();
            let script = script_of(rng.below(store.records));
            let rows = engine
                .scan_index::<CoinsByScript>()
                .range(Bound::Included(&script), Bound::Included(&script))
                .collect_blocking()?;
            if rows.is_empty() || rows.iter().any(|(found, ..)| *found != script) {
                return Err(Failure::Other("the engine gave wrong rows of an index".to_owned()));
            }
            latencies.add(started.elapsed());
            scans += 1;
        }
        Ok(scans)
    })?;
    session.add(store, measured.figure(Workload::Scan, "all coins of a script, by the index"))?;
    Ok(engine.close_blocking()?)
}
