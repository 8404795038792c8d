//! Tells the program which commit it was built from.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    let commit = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    let commit = commit.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=OP_ENGINE_COMMIT={commit}");
}
