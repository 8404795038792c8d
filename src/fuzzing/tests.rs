//! The corpora, and bytes near them, do no harm.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::targets;

/// A corpus is a few KiB.
const CORPUS_BYTES_MAX: u64 = 16 << 10;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_decoder_has_a_small_corpus() {
    let declared: BTreeSet<String> = targets().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&corpora()), declared);
    for target in &declared {
        let dir = corpora().join(target);
        let sizes = names(&dir).into_iter().map(|name| fs::metadata(dir.join(name)).unwrap().len());
        let bytes: u64 = sizes.sum();
        assert!(bytes > 0 && bytes <= CORPUS_BYTES_MAX, "{target}: {bytes} bytes");
    }
}

#[test]
fn corpora_do_no_harm() {
    for target in targets() {
        let dir = corpora().join(target.name);
        for name in names(&dir) {
            (target.run)(&fs::read(dir.join(name)).unwrap());
        }
    }
}

/// What our encoders write, cut anywhere and with each byte changed.
#[test]
fn bytes_near_what_encoders_write_do_no_harm() {
    for target in targets() {
        for seed in (target.seeds)() {
            (target.run)(&seed);
            // Long ones are large files, and slow: some of their bytes will do.
            for at in (0..seed.len()).step_by(seed.len().div_ceil(100)) {
                (target.run)(&seed[..at]);
                for change in [1, 0x80, 0xff] {
                    let mut damaged = seed.clone();
                    damaged[at] ^= change;
                    (target.run)(&damaged);
                }
            }
        }
    }
}
