//! The measurement itself: what it counts agrees with what the kernel counts, a slower engine shows as slower by what
//! it was slowed by, and the same engine does not show as another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Measurements would disturb each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn bench(dir: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_op-engine");
    let mut command = Command::new(program);
    command.arg("bench").args(["--path", dir.to_str().unwrap()]).args(arguments);
    command.output().unwrap()
}

fn succeed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The value after a fact's name.
fn fact<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim()
}

fn percent(text: &str) -> f64 {
    text.strip_suffix(" %").and_then(|number| number.parse().ok()).expect(text)
}

/// One column of the row of a figure.
fn column(csv: &Path, figure: &str, column: &str) -> f64 {
    let text = std::fs::read_to_string(csv).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let at = rows[0].split(',').position(|name| name == column).expect(column);
    let row = rows.iter().find(|row| row.contains(figure)).expect(figure);
    // Fields with commas are quoted, and none of them comes after a number that is looked for here.
    let row = row.replace(&format!("\"{figure}\""), "figure");
    row.rsplit(',').nth(rows[0].split(',').count() - 1 - at).unwrap().parse().unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn reads_and_cpu_time_agree_with_what_the_kernel_counts() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let (csv, html) = (dir.path().join("figures.csv"), dir.path().join("figures.html"));
    let arguments = ["--duration", "0.5", "--size", "40k", "--only", "get,get-many,slots,scan"];
    let files = ["--csv", csv.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let text = succeed(&bench(dir.path(), &[&arguments[..], &files[..]].concat()));
    let read = percent(fact(&text, "bytes read, ring to kernel"));
    assert!((99.0..=101.0).contains(&read), "{text}");
    // The scheduler's accounts of running threads lag behind by up to a tick each.
    let cpu = percent(fact(&text, "CPU time, getrusage to scheduler"));
    assert!((90.0..=110.0).contains(&cpu), "{text}");
    assert!(std::fs::read_to_string(html).unwrap().contains("<polyline"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(left.len(), 2, "nothing but the files that were asked for is left: {left:?}");
}

#[test]
fn a_slower_engine_shows_as_slower_by_what_it_was_slowed_by() {
    const DELAY_MICROS: f64 = 300.0;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let (plain, slowed) = (dir.path().join("plain.csv"), dir.path().join("slowed.csv"));
    let arguments = ["--duration", "0.6", "--size", "40k", "--shards", "1", "--only", "get-memory", "--csv"];
    succeed(&bench(dir.path(), &[&arguments[..], &[plain.to_str().unwrap()]].concat()));
    let delay = ["--delay-reads", "300"];
    succeed(&bench(dir.path(), &[&arguments[..], &[slowed.to_str().unwrap()], &delay[..]].concat()));
    let figure = "dependent chain of single gets, in memory";
    let [before, after] = [&plain, &slowed].map(|csv| column(csv, figure, "p50_us"));
    let grown = after - before;
    assert!((DELAY_MICROS * 0.9..DELAY_MICROS * 1.4).contains(&grown), "{before} us became {after} us");
    let files = ["--compare", plain.to_str().unwrap(), slowed.to_str().unwrap()];
    let text = succeed(&bench(dir.path(), &files));
    let line = text.lines().find(|line| line.contains(figure)).expect(figure);
    assert!(line.contains("WORSE"), "{text}");
}

/// Disturbances from outside last for a while, so the two builds are measured in turns and more than once: a build
/// differs from itself only if it does so every time.
#[test]
fn two_runs_of_the_same_build_are_not_called_different() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = scratch();
    let run = |name: &str| {
        let csv = dir.path().join(name);
        let arguments =
            ["--duration", "1", "--size", "40k", "--shards", "1", "--only", "get-absent", "--csv"];
        succeed(&bench(dir.path(), &[&arguments[..], &[csv.to_str().unwrap()]].concat()));
        csv
    };
    let mut different = Vec::new();
    for turn in 0..3 {
        let (old, new) = (run(&format!("old-{turn}.csv")), run(&format!("new-{turn}.csv")));
        let files = ["--compare", old.to_str().unwrap(), new.to_str().unwrap()];
        let text = succeed(&bench(dir.path(), &files));
        let called: Vec<String> = text
            .lines()
            .filter(|line| line.contains("get-absent") && (line.contains("BETTER") || line.contains("WORSE")))
            .map(str::to_owned)
            .collect();
        if called.is_empty() {
            return;
        }
        different.push(called);
    }
    panic!("one build differs from itself: {different:#?}");
}

#[test]
fn bad_arguments_are_told() {
    let dir = scratch();
    let missing = dir.path().join("missing.csv");
    let cases: [&[&str]; 6] = [
        &["--duration", "0"],
        &["--size", "none"],
        &["--only", "everything"],
        &["--compare", missing.to_str().unwrap()],
        &["--compare", missing.to_str().unwrap(), missing.to_str().unwrap()],
        &["--path", missing.to_str().unwrap()],
    ];
    for arguments in cases {
        let output =
            Command::new(env!("CARGO_BIN_EXE_op-engine")).arg("bench").args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    std::fs::write(&missing, "no figures").unwrap();
    let other = missing.to_str().unwrap();
    let output = bench(dir.path(), &["--compare", other, other]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no file of"));
}
