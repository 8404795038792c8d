//! `op-engine detect`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use op_engine::Config;
use op_engine_io::SyncMode;
use op_engine_io::hardware::{CalibrationFigures, CpuId, HardwareReport, Line, Overrides, Tuning};
use op_engine_io::num::to_usize;
use op_engine_io::real::{Calibration, Outcome as ProbeOutcome, calibrate, probe};

use super::failure::{Failure, Outcome};
use super::show::{Out, parse_size, table};
use super::store::holds_store;

/// How long the device is measured.
pub(crate) const CALIBRATION: Duration = Duration::from_millis(1500);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  op-engine detect\n  op-engine detect --path /var/lib/opnet --calibrate\n  op-engine \
detect --shards 4 --memory 2G"
)]
pub(crate) struct DetectArgs {
    /// Where the store is, or will be
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Measure the device now, which takes two seconds, and keep the result if the directory holds a store
    #[arg(long)]
    calibrate: bool,
    #[command(flatten)]
    tuning: TuningArgs,
}

/// Settings that are made by hand.
#[derive(Args, Clone, Default)]
pub(crate) struct TuningArgs {
    /// The number of shards of a store that is created
    #[arg(long, value_name = "N", help_heading = "Settings made by hand")]
    pub(crate) shards: Option<u16>,
    /// The CPUs of the shards, as in 0,2,4
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Settings made by hand")]
    pub(crate) cores: Option<Vec<u32>>,
    /// Memory of the whole engine, as in 512M
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Settings made by hand")]
    pub(crate) memory: Option<u64>,
    /// Reads in flight on each shard
    #[arg(long, value_name = "N", help_heading = "Settings made by hand")]
    pub(crate) read_depth: Option<u32>,
    /// How the WAL is made durable: write-then-sync, linked or dsync
    #[arg(long, value_name = "MODE", help_heading = "Settings made by hand")]
    pub(crate) sync_mode: Option<SyncMode>,
}

impl TuningArgs {
    /// A configuration with these settings.
    pub(crate) fn apply(&self, mut config: Config) -> Config {
        if let Some(shards) = self.shards {
            config = config.shards(shards);
        }
        if let Some(cores) = &self.cores {
            config = config.cores(cores.clone());
        }
        if let Some(bytes) = self.memory {
            config = config.memory_budget(bytes);
        }
        if let Some(depth) = self.read_depth {
            config = config.read_depth(depth);
        }
        if let Some(mode) = self.sync_mode {
            config = config.sync_mode(mode);
        }
        config
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            shards: self.shards,
            shard_cpus: self.cores.as_ref().map(|cpus| cpus.iter().copied().map(CpuId).collect()),
            read_depth: self.read_depth,
            sync_mode: self.sync_mode,
            memory_budget_bytes: self.memory,
            ..Overrides::default()
        }
    }
}

pub(crate) fn run(args: &DetectArgs, out: &mut Out) -> Outcome {
    let report = HardwareReport::detect(&args.path)?;
    let dir = existing(&args.path)?;
    let calibration = if args.calibrate { Some(measure(&dir)?) } else { Calibration::load(&dir)? };
    let figures = calibration.as_ref().map(|found| CalibrationFigures {
        read_depth: u32::try_from(found.read_depth).ok(),
        sync_mode: Some(found.sync_mode),
    });
    let tuning = Tuning::derive(&report, &args.tuning.overrides(), figures.as_ref())?;

    out.table("The machine", &lines(&report.lines(), ["fact", "value", "from"]))?;
    let probed = probe(&dir, to_usize(tuning.arena_bytes));
    let mut steps = table(&["check", "result", "what was found"]);
    for step in &probed.steps {
        let (result, what) = match &step.outcome {
            ProbeOutcome::Passed(what) => ("ok", what.clone()),
            ProbeOutcome::Reduced(what) => ("reduced", what.clone()),
            ProbeOutcome::Failed(error) => ("FAILED", error.to_string()),
            _ => ("unknown", String::new()),
        };
        steps.add_row([step.name.to_owned(), result.to_owned(), what]);
    }
    out.table(&format!("What the engine needs, tried in {}", dir.display()), &steps)?;
    if let Some(found) = calibration.filter(|found| !found.measurements.is_empty()) {
        out.line("Measured on the device")?;
        for line in &found.measurements {
            out.line(format_args!("  {line}"))?;
        }
        out.line("")?;
    }
    out.table("Settings that follow", &lines(tuning.lines(), ["setting", "value", "because"]))?;
    probed.require()?;
    Ok(())
}

fn lines(lines: &[Line], columns: [&str; 3]) -> comfy_table::Table {
    let mut rows = table(&columns);
    for line in lines {
        rows.add_row([line.name, line.value.as_str(), line.why.as_str()]);
    }
    rows
}

/// The directory, or the nearest one above it that exists.
fn existing(path: &Path) -> Outcome<PathBuf> {
    let whole = std::path::absolute(path);
    let whole = whole.map_err(|error| Failure::os(format!("find {}", path.display()), error))?;
    let found = whole.ancestors().find(|dir| dir.is_dir()).map(Path::to_path_buf);
    found.ok_or_else(|| Failure::Usage(format!("{} is no directory", path.display())))
}

fn measure(dir: &Path) -> Outcome<Calibration> {
    let found = calibrate(dir, CALIBRATION)?;
    if holds_store(dir) {
        found.save(dir)?;
    }
    Ok(found)
}
