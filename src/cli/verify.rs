//! `op-engine verify`

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use op_engine::{Config, VerifyProgress, VerifyReport, VerifyScope};
use op_engine_io::num::to_u64;

use super::failure::{Failure, Outcome};
use super::show::{Out, bytes, count, plural, tell, time};
use super::store::StoreArgs;

#[derive(Args)]
#[command(
    after_help = "Nothing is changed. The store must not be in use. The exit code is 0 if the store is sound, 1 if \
it is not.\n\nExamples:\n  op-engine verify --store /var/lib/opnet/store\n  \
op-engine verify --store /var/lib/opnet/store --cold --cold-target /mnt/hdd/opnet"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Read what is in the cold target, too: all of it
    #[arg(long)]
    cold: bool,
}

pub(crate) fn run(args: &VerifyArgs, out: &mut Out) -> Outcome {
    let started = Instant::now();
    let scope = if args.cold { VerifyScope::ColdToo } else { VerifyScope::Hot };
    let report = check(args.store.config()?, scope)?;
    summary(&report, started.elapsed(), out)?;
    out.flush()?;
    if report.is_sound() {
        return out.line("The store is sound.");
    }
    for fault in &report.faults {
        tell(format_args!("fault: {fault}"));
    }
    Err(Failure::Other(format!(
        "{} found. Keep the store as it is, and restore it from a copy or index again",
        plural(to_u64(report.faults.len()), "fault")
    )))
}

/// Runs the check on a thread of its own and shows how far it is.
pub(crate) fn check(config: Config, scope: VerifyScope) -> Outcome<VerifyReport> {
    let progress = VerifyProgress::default();
    let (sender, done) = channel();
    let seen = progress.clone();
    let thread = std::thread::Builder::new().name("verify".to_owned()).spawn(move || {
        // The receiver waits for as long as this runs.
        drop(sender.send(op_engine::verify(config, scope, &seen)));
    });
    let thread = thread.map_err(|error| Failure::os("start a thread", error))?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} {msg}") {
        bar.set_style(style);
    }
    let report = loop {
        match done.recv_timeout(Duration::from_millis(100)) {
            Ok(report) => break report,
            Err(RecvTimeoutError::Timeout) => {
                bar.set_length(progress.bytes_total());
                bar.set_position(progress.bytes());
                let rows = progress.rows();
                if rows > 0 {
                    bar.set_message(format!("read, {} rows compared", count(rows)));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Other(
                    "a bug: the check ended without a result. Please report it".to_owned(),
                ));
            }
        }
    };
    bar.finish_and_clear();
    drop(thread.join());
    Ok(report?)
}

fn summary(report: &VerifyReport, took: Duration, out: &mut Out) -> Outcome {
    out.line(format_args!(
        "read      {} in {} on {} in {}",
        bytes(report.bytes),
        plural(report.files, "file"),
        plural(u64::from(report.shards), "shard"),
        time(took)
    ))?;
    out.line(format_args!(
        "files     {} with {}; {} in the WAL above the checkpoints",
        plural(report.segments, "segment"),
        plural(report.segment_entries, "version"),
        plural(report.wal_commits, "part") + " of commits"
    ))?;
    if report.cold_segments > 0 {
        out.line(format_args!(
            "cold      {} with {} in the cold target",
            plural(report.cold_segments, "segment"),
            bytes(report.cold_bytes)
        ))?;
    }
    if let Some(compared) = &report.compared {
        out.line(format_args!(
            "compared  {}, {}, {} index entries",
            plural(compared.blocks, "block"),
            plural(compared.records, "record"),
            count(compared.index_entries)
        ))?;
    }
    if let Some(tip) = &report.tip {
        out.line(format_args!("tip       {} {}", count(tip.height.0), tip.hash))?;
    }
    for note in &report.notes {
        out.line(format_args!("note      {note}"))?;
    }
    Ok(())
}
