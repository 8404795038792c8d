//! Feeds one decoder with inputs that the fuzzer makes up: the one that the environment names in `FUZZ_TARGET`.
//!
//! A decoder fails if it panics, takes long, or takes more memory than any input of this size justifies. With
//! `FUZZ_SEEDS`, a directory, what our own encoders make for every decoder is written there, and that is all.
#![no_main]

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use op_engine::fuzzing::{Target, target, targets};

/// Inputs have some KiB, and decoding takes at most 128 times their bytes, or a few megabytes to read a file with.
const MEMORY_BYTES_MAX: usize = 32 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_BYTES_MAX);

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(init: begin(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(bytes);
    }
});

fn begin() {
    if let Some(dir) = std::env::var_os("FUZZ_SEEDS") {
        write_seeds(Path::new(&dir)).expect("the seeds can be written");
        std::process::exit(0);
    }
    // To tell of a panic takes memory for the names of functions.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        ALLOCATOR.set_limit(usize::MAX).expect("no limit is above the memory in use");
        tell(panic);
    }));
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let chosen = target(&name).unwrap_or_else(|| {
        let known: Vec<_> = targets().map(|target| target.name).collect();
        panic!("FUZZ_TARGET is `{name}`, and not one of: {}", known.join(" "))
    });
    TARGET.get_or_init(|| chosen);
}

fn write_seeds(dir: &Path) -> std::io::Result<()> {
    for target in targets() {
        let dir = dir.join(target.name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(dir.join(format!("{number:02}")), seed)?;
        }
    }
    Ok(())
}
