//! Every hot piece of the engine beside its alternatives, in time.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

mod common;
#[path = "common/pieces/mod.rs"]
mod pieces;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{SCRATCH, print_machine};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pieces::{AT_SCALE, LARGE_PIECES, PIECES};

fn all(criterion: &mut Criterion) {
    print_machine(Path::new(SCRATCH));
    // Without it the pieces are only tested.
    AT_SCALE.store(std::env::args().any(|argument| argument == "--bench"), Ordering::Relaxed);
    for (name, make) in PIECES.into_iter().chain(LARGE_PIECES) {
        let piece = make();
        for note in &piece.notes {
            println!("{name}: {note}");
        }
        let mut group = criterion.benchmark_group(name);
        group.throughput(match piece.bytes {
            Some(bytes) => Throughput::Bytes(bytes),
            None => Throughput::Elements(piece.operations),
        });
        for mut way in piece.ways {
            group.bench_function(way.name, |bencher| bencher.iter(|| (way.work)()));
        }
        group.finish();
    }
}

/// Short: there are many ways, and a noisy machine is better met by running all of it again.
fn settings() -> Criterion {
    let settings = Criterion::default().warm_up_time(Duration::from_millis(500));
    settings.measurement_time(Duration::from_secs(2)).sample_size(20)
}

criterion_group!(name = benches; config = settings(); targets = all);
criterion_main!(benches);
