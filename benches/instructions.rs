//! Instructions of every hot piece: a count that repeats where times do not, on a machine that others share.
//!
//! The program runs itself again below Callgrind, for each piece with two numbers of calls, and takes the difference:
//! what comes before the first call cancels out. Caches and the pipeline do not count, so a piece can need fewer
//! instructions and more time: this finds changes, and `pieces` tells what they are worth.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

mod common;
#[path = "common/pieces/mod.rs"]
mod pieces;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use common::SCRATCH;
use pieces::PIECES;

const CALLS_FEW: u64 = 4;
const CALLS_MANY: u64 = 14;
const GROWTH_PERCENT: f64 = 5.0;
/// The piece that is to be made slower does one call in ten twice.
const CALLS_BEFORE_EXTRA: u64 = 10;
const USAGE: &str = "\
usage: cargo bench --bench instructions -- [NAME] [--all] [--save FILE] [--compare FILE]
  NAME            only pieces with this in their names
  --all           the alternatives too
  --save FILE     write the counts to a file
  --compare FILE  show the change from the counts in a file; exit with 1 if one grew by 5 % or more";

/// Instructions of an operation, by the name of the piece and of the way.
type Counts = BTreeMap<String, f64>;

#[derive(Default)]
struct Options {
    name: String,
    all: bool,
    save: Option<PathBuf>,
    compare: Option<PathBuf>,
    /// Hidden: a piece to make slower, to see that it is found.
    slower: Option<String>,
    /// Hidden: what a run below Callgrind does.
    count: Option<Call>,
    is_bench: bool,
}

/// Some calls of one way of one piece.
struct Call {
    piece: String,
    way: usize,
    calls: u64,
    is_slower: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--bench" => options.is_bench = true,
                "--all" => options.all = true,
                "--save" => options.save = Some(value()?.into()),
                "--compare" => options.compare = Some(value()?.into()),
                "--slower" => options.slower = Some(value()?),
                "--count" => {
                    let (piece, way, calls) = (value()?, value()?, value()?);
                    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
                    let way = usize::try_from(number(&way)?).map_err(|_| "no such way".to_owned())?;
                    let (calls, is_slower) = (number(&calls)?, false);
                    options.count = Some(Call { piece, way, calls, is_slower });
                }
                name if !name.starts_with('-') && options.name.is_empty() => {
                    name.clone_into(&mut options.name)
                }
                _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
            }
        }
        if let Some(call) = &mut options.count {
            call.is_slower = options.slower.as_ref() == Some(&call.piece);
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args().skip(1)).and_then(|options| match &options.count {
        Some(call) => perform(call).map(|()| ExitCode::SUCCESS),
        None if options.is_bench => report(&options),
        // As a test: every piece is made, which checks its answers.
        None => {
            PIECES.iter().for_each(|(_, make)| drop(make()));
            Ok(ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

/// What is counted.
fn perform(call: &Call) -> Result<(), String> {
    let (_, make) = PIECES.iter().find(|(name, _)| *name == call.piece).ok_or("no such piece")?;
    let mut piece = make();
    let way = piece.ways.get_mut(call.way).ok_or("no such way")?;
    for n in 1..=call.calls {
        black_box((way.work)());
        if call.is_slower && n.is_multiple_of(CALLS_BEFORE_EXTRA) {
            black_box((way.work)());
        }
    }
    Ok(())
}

fn report(options: &Options) -> Result<ExitCode, String> {
    let before = options.compare.as_deref().map(load).transpose()?.unwrap_or_default();
    let (mut now, mut grown) = (Counts::new(), 0);
    println!("{:<56} {:>12} {:>12} {:>9}", "instructions of an operation", "before", "now", "change");
    for (name, make) in PIECES.into_iter().filter(|(name, _)| name.contains(&options.name)) {
        let piece = make();
        let ways = if options.all { piece.ways.len() } else { 1 };
        for (number, way) in piece.ways.iter().enumerate().take(ways) {
            let calls = |calls| count(name, number, calls, options.slower.as_deref());
            let difference = calls(CALLS_MANY)? - calls(CALLS_FEW)?;
            let each = difference / (CALLS_MANY - CALLS_FEW) as f64 / piece.operations as f64;
            let label = if number == 0 { name.to_owned() } else { format!("{name}: {}", way.name) };
            grown += usize::from(print(&label, each, before.get(&label).copied()));
            now.insert(label, each);
        }
    }
    if let Some(path) = &options.save {
        save(path, &now)?;
    }
    if grown == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{grown} grew by {GROWTH_PERCENT} % or more");
    Ok(ExitCode::FAILURE)
}

/// Prints a line, and tells whether the count has grown too much.
fn print(label: &str, now: f64, before: Option<f64>) -> bool {
    let Some(before) = before else {
        println!("{label:<56} {:>12} {now:>12.1}", "-");
        return false;
    };
    let change = (now / before - 1.0) * 100.0;
    let grew = change >= GROWTH_PERCENT;
    println!("{label:<56} {before:>12.1} {now:>12.1} {change:>+7.2} %{}", if grew { "  grew" } else { "" });
    grew
}

/// The instructions of a whole run with so many calls.
fn count(piece: &str, way: usize, calls: u64, slower: Option<&str>) -> Result<f64, String> {
    let out = Path::new(SCRATCH).join(format!("callgrind-{}", std::process::id()));
    let program = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(program).args(["--count", piece, &way.to_string(), &calls.to_string()]);
    command.args(slower.into_iter().flat_map(|piece| ["--slower", piece]));
    // What lies on the stack above `main` moves everything below it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let run = command.env_clear().env("PATH", path).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "valgrind is not installed\n  help: install the package valgrind (apt-get install valgrind)"
                .to_owned()
        }
        _ => format!("valgrind does not start: {error}"),
    })?;
    let report = std::fs::read_to_string(&out);
    drop(std::fs::remove_file(&out));
    if !run.status.success() {
        return Err(format!(
            "{piece} below valgrind: {}\n{}",
            run.status,
            String::from_utf8_lossy(&run.stderr)
        ));
    }
    let report = report.map_err(|error| format!("{}: {error}", out.display()))?;
    let total = report.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok());
    total.ok_or_else(|| format!("{piece}: Callgrind has written no summary"))
}

/// A line for each piece: name, tab, instructions of an operation.
fn save(path: &Path, counts: &Counts) -> Result<(), String> {
    let lines: String = counts.iter().map(|(name, count)| format!("{name}\t{count:.3}\n")).collect();
    std::fs::write(path, lines).map_err(|error| format!("{}: {error}", path.display()))
}

fn load(path: &Path) -> Result<Counts, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = |line: &str| {
        let (name, count) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines()
        .map(line)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{}: not a file of counts", path.display()))
}
