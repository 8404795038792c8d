//! `op-engine bench`: what this machine's device gives, and how much of it the engine passes on.
//!
//! The device is measured bare in the same run, so that a slow disk and a slow engine are not mistaken for each other.
//! Every answer is checked; a wrong one ends the run with an error.

mod blocks;
pub(crate) mod chain;
mod compare;
mod csv_file;
mod device;
pub(crate) mod figure;
pub(crate) mod header;
mod meter;
mod page;
mod plot;
mod reads;
mod reopen;
mod report;
mod scans;
mod store;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use op_engine::Durability;
use op_engine_io::hardware::{CalibrationFigures, HardwareReport, Overrides, Tuning};
use op_engine_io::real::calibrate;

use super::detect::CALIBRATION;
use super::failure::{Failure, Outcome};
use super::show::{Out, tell};
use super::workdir::Workdir;

use csv_file::Results;
use device::Device;
use figure::Figure;
use header::Header;
use meter::Meter;
pub(crate) use reopen::{VictimArgs, run_victim};
use store::BenchStore;
use workload::Workload;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  op-engine bench --path /mnt/nvme\n  op-engine bench --path /mnt/nvme --duration 10 --size \
1m,10m --shards 1,2,4 --csv new.csv --html new.html\n  op-engine bench --only device,get,get-many\n  op-engine bench \
--compare old.csv new.csv"
)]
pub(crate) struct BenchArgs {
    /// Where to make a directory for it, on the device that is to be measured [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Seconds for each figure
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = parse_seconds)]
    duration: f64,
    /// Coins in the store, as in 500k or 10m; several for one run each
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "300k", value_parser = parse_count)]
    size: Vec<u64>,
    /// Shards of the store; several for one run each [default: what `op-engine detect` says]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    shards: Vec<u16>,
    /// Measure only these
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<Workload>,
    /// Write the figures to this file, for --compare
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with tables and plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure nothing: show two files of figures side by side
    #[arg(long, value_names = ["OLD", "NEW"], num_args = 2)]
    compare: Vec<PathBuf>,
    /// Make every read take that much longer, to test the measurement itself
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    delay_reads: Option<u64>,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number of seconds"))?;
    if (0.05..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("between 0.05 and 3600".to_owned()) }
}

pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.to_ascii_lowercase() {
        lower if lower.ends_with('k') => (lower.trim_end_matches('k').to_owned(), 1_000),
        lower if lower.ends_with('m') => (lower.trim_end_matches('m').to_owned(), 1_000_000),
        lower => (lower, 1),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is not a number such as 500k or 10m"))?;
    let number = number.saturating_mul(factor);
    if (1..=2_000_000_000).contains(&number) { Ok(number) } else { Err("between 1 and 2000m".to_owned()) }
}

/// One run: what was measured so far, and what is needed to measure more.
pub(crate) struct Session {
    pub(crate) time: Duration,
    pub(crate) meter: Meter,
    pub(crate) device: Option<Device>,
    figures: Vec<Figure>,
    bar: ProgressBar,
}

impl Session {
    /// Notes a figure of a store.
    pub(crate) fn add(&mut self, store: &BenchStore, figure: Figure) -> Outcome {
        self.note(Figure { shards: store.shards, records: store.records, ..figure });
        Ok(())
    }

    fn note(&mut self, figure: Figure) {
        let line = report::line(&figure);
        if self.bar.is_hidden() {
            tell(line)
        } else {
            self.bar.println(line)
        }
        self.figures.push(figure);
    }

    fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }
}

pub(crate) fn run(args: &BenchArgs, out: &mut Out) -> Outcome {
    if let [old, new] = args.compare.as_slice() {
        return compare::show(&Results::load(old)?, &Results::load(new)?, out);
    }
    if let Some(micros) = args.delay_reads
        && !op_engine_shards::mutants::delay_reads(Duration::from_micros(micros))
    {
        return Err(Failure::Usage("--delay-reads needs a program that was built for tests".to_owned()));
    }
    let workdir = Workdir::create("bench", args.path.as_deref(), false)?;
    let results = measure(args, workdir.path())?;
    report::show(&results, out)?;
    if let Some(path) = &args.csv {
        results.save(path)?;
    }
    if let Some(path) = &args.html {
        let written = std::fs::write(path, page::page(&results));
        written.map_err(|error| Failure::os(format!("write {}", path.display()), error))?;
    }
    Ok(())
}

fn measure(args: &BenchArgs, dir: &Path) -> Outcome<Results> {
    let report = HardwareReport::detect(dir)?;
    let calibration = calibrate(dir, CALIBRATION)?;
    let found = CalibrationFigures {
        read_depth: u32::try_from(calibration.read_depth).ok(),
        sync_mode: Some(calibration.sync_mode),
    };
    let tuning = Tuning::derive(&report, &Overrides::default(), Some(&found))?;
    let shards = if args.shards.is_empty() { vec![tuning.shards] } else { args.shards.clone() };
    let wanted: Vec<Workload> =
        if args.only.is_empty() { Workload::value_variants().to_vec() } else { args.only.clone() };
    let steps = 1 + shards.len() * args.size.len() * (1 + wanted.len());
    let mut session = Session {
        time: Duration::from_secs_f64(args.duration),
        meter: Meter::default(),
        device: None,
        figures: Vec::new(),
        bar: bar(steps),
    };
    let header = Header::new(&report, &tuning, args, &shards);
    // The limits of the device are needed whatever is measured.
    session.begin("the bare device");
    let mut found = Vec::new();
    let time = if wanted.contains(&Workload::Device) { session.time } else { session.time / 2 };
    let device =
        Device::measure(dir, time, tuning.sync_mode, &mut session.meter, |figure| found.push(figure))?;
    session.device = Some(device);
    found.into_iter().for_each(|figure| session.note(figure));
    session.bar.inc(1);
    for records in &args.size {
        for count in &shards {
            let mut store = BenchStore::new(dir, *count, *records, &tuning);
            run_on(&mut session, &mut store, &wanted)?;
            let removed = std::fs::remove_dir_all(&store.path);
            removed.map_err(|error| Failure::os(format!("remove {}", store.path.display()), error))?;
        }
    }
    session.bar.finish_and_clear();
    Ok(Results { facts: header.facts(&session.meter.checks), figures: session.figures })
}

/// Everything that is wanted, on one store. Reads come first: blocks spend what they look for.
fn run_on(session: &mut Session, store: &mut BenchStore, wanted: &[Workload]) -> Outcome {
    if wanted.iter().all(|workload| *workload == Workload::Device) {
        return Ok(());
    }
    session.begin("filling a store");
    blocks::fill(session, store)?;
    session.bar.inc(1);
    let mut ordered = wanted.to_vec();
    ordered.sort_by_key(|workload| order(*workload));
    ordered.dedup();
    for workload in ordered {
        session.begin(&workload.name());
        match workload {
            Workload::Device => {}
            Workload::Get => reads::get(session, store)?,
            Workload::GetAbsent => reads::get_absent(session, store)?,
            Workload::GetMany => reads::get_many(session, store)?,
            Workload::GetMemory => reads::get_memory(session, store)?,
            Workload::Slots => reads::slots(session, store)?,
            Workload::Scan => scans::scan(session, store)?,
            Workload::Ingest => blocks::ingest(session, store, Durability::Block)?,
            Workload::IngestDeferred => blocks::ingest(session, store, Durability::deferred())?,
            Workload::Mixed => blocks::mixed(session, store)?,
            Workload::Reorg => blocks::reorg(session, store)?,
            Workload::Reopen => reopen::reopen(session, store)?,
        }
        session.bar.inc(1);
    }
    Ok(())
}

fn order(workload: Workload) -> u8 {
    match workload {
        Workload::Device => 0,
        Workload::Get | Workload::GetAbsent | Workload::GetMany | Workload::Slots | Workload::Scan => 1,
        Workload::GetMemory => 2,
        Workload::Ingest => 3,
        Workload::IngestDeferred => 4,
        Workload::Mixed => 5,
        Workload::Reorg => 6,
        // What a killed process leaves is not known to the chain that the others extend.
        Workload::Reopen => 7,
    }
}

fn bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(op_engine_io::num::to_u64(steps));
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos} of {len}: {msg}, {elapsed} so far") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_seconds_are_parsed_or_refused() {
        assert_eq!(["300k", "2M", "17"].map(parse_count), [Ok(300_000), Ok(2_000_000), Ok(17)]);
        assert!(["", "k", "0", "3g", "-1"].into_iter().all(|text| parse_count(text).is_err()));
        assert_eq!(parse_seconds("0.5"), Ok(0.5));
        assert!(["", "0", "-1", "nan", "1e9"].into_iter().all(|text| parse_seconds(text).is_err()));
    }
}
