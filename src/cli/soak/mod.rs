//! `op-engine soak`: a store that is far larger than its memory, and what becomes of it.
//!
//! Fills it through block commits, lets merges settle, and measures reads that cannot be in memory; then commits and reads
//! while everything is merged at full speed. Every answer is checked.

mod gauge;
mod load;
mod marks;
mod reads;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use op_engine::{Config, Durability, Engine, Pending};
use op_engine_io::SyncMode;
use op_engine_io::hardware::HardwareReport;
use op_engine_io::real::Calibration;

use super::bench::figure::Latencies;
use super::bench::parse_count;
use super::failure::{Failure, Outcome};
use super::show::{Out, bytes, count, tell, time};
use super::workdir::Workdir;

use gauge::{Gauge, memory_per_key, resident_bytes_max, write_amplification};
use load::{BLOCK_GAIN, Load, SMALL_PERCENT, collections};
use marks::Marks;

/// Blocks on their way at once while the store is filled.
const PIPELINE: usize = 8;
/// How often the weight of the store is looked at.
const SAMPLE_BLOCKS: u64 = 50;
/// How long merges may go on by themselves once nothing is committed any more.
const SETTLING_MAX: Duration = Duration::from_secs(600);
/// Reads of each kind whose cost is counted.
const COUNTED_READS: u64 = 50_000;
/// How long each rate is measured.
const RATE_TIME: Duration = Duration::from_secs(8);
/// The same for commits of whole blocks, of which fewer are made.
const BLOCK_RATE_TIME: Duration = Duration::from_secs(20);
/// Blocks, in hundredths of all, that are added before everything is merged at full speed.
const MORE_BLOCKS_PERCENT: u64 = 10;
/// Page cache of a store whose reads shall all reach the device.
const COLD_CACHE_BYTES: u64 = 64 << 10;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  op-engine soak --path /mnt/nvme\n  op-engine soak --path /mnt/nvme --size 40m --memory 512 \
--minutes 60\n\nA million coins are 270 MiB on disk with the slots and bodies that belong to them, and take half a minute \
or more."
)]
pub(crate) struct SoakArgs {
    /// Where to make a directory for it, on the device that is to be measured [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Unspent coins at the end, as in 500k or 40m; three quarters as many slots come with them
    #[arg(long, value_name = "COUNT", default_value = "1m", value_parser = parse_count)]
    size: u64,
    /// Memory of the engine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Shards of the store [default: what `op-engine detect` says]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Stop filling after this time, whatever the size is by then
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    minutes: u64,
    /// Leave the store in place
    #[arg(long)]
    keep: bool,
}

/// One run.
struct Soak<'a> {
    args: &'a SoakArgs,
    dir: &'a Workdir,
    load: Load,
    gauge: Gauge,
    marks: Marks,
}

pub(crate) fn run(args: &SoakArgs, out: &mut Out) -> Outcome {
    let dir = Workdir::create("soak", args.path.as_deref(), args.keep)?;
    let report = HardwareReport::detect(dir.path())?;
    let gauge = Gauge::new(&dir.store(), args.size * 270 / 10);
    let mut soak = Soak { args, dir: &dir, load: Load::new(), gauge, marks: Marks::default() };
    soak.fill()?;
    soak.read_cold()?;
    soak.disturb()?;
    let peak = resident_bytes_max();
    soak.marks.memory(peak, args.memory << 20);
    // Without a measurement of its own the store syncs as it does by default.
    let calibration = Calibration::load(&dir.store())?;
    let sync_mode = calibration.map_or_else(SyncMode::default, |found| found.sync_mode);
    soak.marks.show(&report, sync_mode, &soak.load, args, out)
}

impl Soak<'_> {
    fn config(&self) -> Config {
        let config = Config::new(self.dir.store()).memory_budget(self.args.memory << 20);
        let config = collections(config);
        match self.args.shards {
            Some(shards) => config.shards(shards),
            None => config,
        }
    }

    /// Fills the store, and weighs it until nothing is merged any more.
    fn fill(&mut self) -> Outcome {
        let engine = Engine::open_blocking(self.config().durability(Durability::deferred()))?;
        let blocks = self.args.size.div_ceil(BLOCK_GAIN).max(1);
        let began = Instant::now();
        self.commit_blocks(&engine, blocks, "filling", Duration::from_secs(self.args.minutes * 60))?;
        let filled = began.elapsed();
        self.marks.note(
            "filling",
            format!("{}, {} operations/s", time(filled), {
                let each_second = self.load.operations as f64 / filled.as_secs_f64();
                format!("{each_second:.0}")
            }),
        );
        let bar = spinner("merging what is left");
        engine.blocking().flush()?;
        self.settle(&engine)?;
        self.marks.note("space for each live byte, when merges have come to rest", {
            format!("{:.3}", self.gauge.space(&self.load))
        });
        bar.set_message("compacting");
        let began = Instant::now();
        engine.blocking().compact()?;
        self.marks.note("compacting all", time(began.elapsed()));
        bar.finish_and_clear();
        let written = write_amplification(&engine, &self.load)?;
        self.marks.at_most("bytes written for each byte committed, Mutable", written.mutable, 6.0);
        self.marks.at_most("bytes written for each byte committed, AppendOnly", written.append_only, 4.0);
        self.marks.at_most("space for each live byte, after compacting", self.gauge.space(&self.load), 1.15);
        self.marks.at_most("space for each live byte, at any moment", self.gauge.space_max, 1.6);
        self.marks.note("live bytes at that moment", bytes(self.gauge.space_max_at));
        let stats = engine.blocking().stats()?;
        self.marks.at_most("memory of filters and indexes for each key, bytes", memory_per_key(&stats), 2.0);
        let runs = stats.shards.iter().map(|shard| shard.segments.len()).sum::<usize>();
        self.marks.note("segments", runs.to_string());
        Ok(engine.close_blocking()?)
    }

    fn commit_blocks(&mut self, engine: &Engine, blocks: u64, what: &str, limit: Duration) -> Outcome {
        let bar = progress(what, blocks);
        let began = Instant::now();
        let mut on_the_way: VecDeque<Pending> = VecDeque::new();
        for done in 0..blocks {
            on_the_way.push_back(engine.blocking().submit(self.load.next_block(100))?);
            if on_the_way.len() > PIPELINE
                && let Some(oldest) = on_the_way.pop_front()
            {
                oldest.wait()?;
            }
            if done % SAMPLE_BLOCKS == 0 {
                let space = self.gauge.space(&self.load);
                bar.set_position(done);
                bar.set_message(format!(
                    "{what}: {} coins, {} resident at most, {space:.2} bytes on disk for each",
                    count(self.load.coins()),
                    bytes(resident_bytes_max())
                ));
                if began.elapsed() > limit {
                    tell(format_args!("stopped filling after {}", time(limit)));
                    break;
                }
            }
        }
        for pending in on_the_way {
            pending.wait()?;
        }
        engine.blocking().sync()?;
        bar.finish_and_clear();
        Ok(())
    }

    /// Waits until merges have nothing to do.
    fn settle(&mut self, engine: &Engine) -> Outcome {
        let (began, mut before, mut quiet_turns) = (Instant::now(), None, 0);
        while quiet_turns < 4 && began.elapsed() < SETTLING_MAX {
            let written = engine.blocking().stats()?.device.unwrap_or_default().written_bytes;
            quiet_turns = if before == Some(written) { quiet_turns + 1 } else { 0 };
            before = Some(written);
            self.gauge.space(&self.load);
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// Reads that find nothing in memory but filters and indexes.
    fn read_cold(&mut self) -> Outcome {
        let bar = spinner("reading");
        let cold = self.config().read_cache_budget(COLD_CACHE_BYTES);
        let engine = Engine::open_blocking(cold)?;
        let reads = COUNTED_READS.min(self.load.coins());
        // Whatever is loaded on first use is there before anything is counted.
        reads::rate_until(&engine, &self.load, 30, once())?;
        let (present, absent) = reads::device_reads(&engine, &self.load, reads)?;
        self.marks.at_most("device reads of a present key", present, 1.05);
        self.marks.at_most("device reads of an absent key", absent, 0.02);
        bar.finish_and_clear();
        Ok(engine.close_blocking()?)
    }

    /// Commits and reads, first undisturbed, then while everything is merged.
    fn disturb(&mut self) -> Outcome {
        let more = self.config().durability(Durability::deferred());
        let engine = Engine::open_blocking(more)?;
        let blocks = (self.load.blocks() * MORE_BLOCKS_PERCENT / 100).max(1);
        self.commit_blocks(&engine, blocks, "filling more", Duration::from_secs(self.args.minutes * 60))?;
        engine.close_blocking()?;
        let engine = Engine::open_blocking(self.config())?;
        let bar = spinner("reading and committing, undisturbed");
        let for_a_while = |time: Duration| {
            let end = Instant::now() + time;
            move || Instant::now() < end
        };
        let blocks_quiet = self.commit_each(&engine, 100, for_a_while(BLOCK_RATE_TIME))?;
        self.settle(&engine)?;
        let reads_quiet = reads::rate_until(&engine, &self.load, 40, for_a_while(RATE_TIME))?;
        let small_quiet = self.commit_each(&engine, SMALL_PERCENT, for_a_while(RATE_TIME))?;
        bar.set_message("reading and committing while everything is merged");
        let (reads_busy, small_busy, blocks_busy) = std::thread::scope(|scope| {
            let merging = scope.spawn(|| engine.blocking().compact());
            // Only what was measured while merges went on counts.
            let goes_on = |end: Instant| {
                let merging = &merging;
                move || !merging.is_finished() && Instant::now() < end
            };
            let reads = reads::rate_until(&engine, &self.load, 41, goes_on(Instant::now() + RATE_TIME))?;
            let small = self.commit_each(&engine, SMALL_PERCENT, goes_on(Instant::now() + RATE_TIME))?;
            let blocks = self.commit_each(&engine, 100, goes_on(Instant::now() + BLOCK_RATE_TIME))?;
            let were_merging = !merging.is_finished();
            match merging.join() {
                Ok(merged) => merged?,
                Err(_) => return Err(Failure::Other("the thread that merges panicked".to_owned())),
            }
            if !were_merging {
                tell("note: merges ended before the measurement did; a larger --size measures longer");
            }
            Ok((reads, small, blocks))
        })?;
        bar.finish_and_clear();
        self.marks.note("point reads each second, undisturbed", format!("{reads_quiet:.0}"));
        let lost = (1.0 - reads_busy / reads_quiet) * 100.0;
        self.marks.at_most("of which are lost while everything is merged, percent", lost, 30.0);
        self.tell_commits("durable commits of whole blocks", &blocks_quiet, &blocks_busy);
        self.tell_commits("durable commits of small ones", &small_quiet, &small_busy);
        Ok(engine.close_blocking()?)
    }

    fn tell_commits(&mut self, what: &str, quiet: &Latencies, busy: &Latencies) {
        let show = |latencies: &Latencies| {
            let found = latencies.summary().unwrap_or_default();
            format!("{:.2} ms, {:.2} ms", found.p50 / 1e3, found.p999 / 1e3)
        };
        self.marks.note(&format!("{what}, undisturbed: median, 99.9 %"), show(quiet));
        self.marks.note("the same while everything is merged", show(busy));
        let stretch = "of which the second is so many of the first";
        match busy.summary() {
            None => self.marks.note(stretch, "not measured: the merges had ended".to_owned()),
            Some(busy) => self.marks.at_most(stretch, busy.p999 / busy.p50.max(f64::MIN_POSITIVE), 5.0),
        }
    }

    /// Commits blocks one after the other, each durable; `percent` is their size beside that of a whole one.
    fn commit_each(
        &mut self,
        engine: &Engine,
        percent: u64,
        mut goes_on: impl FnMut() -> bool,
    ) -> Outcome<Latencies> {
        let latencies = Latencies::new();
        let mut latencies = latencies.ok_or_else(|| Failure::Other("no histogram can be made".to_owned()))?;
        while goes_on() {
            let block = self.load.next_block(percent);
            let began = Instant::now();
            engine.blocking().commit(block)?;
            latencies.add(began.elapsed());
        }
        Ok(latencies)
    }
}

/// Goes on for one turn.
fn once() -> impl FnMut() -> bool {
    let mut turns = 0..1;
    move || turns.next().is_some()
}

fn progress(what: &str, blocks: u64) -> ProgressBar {
    let bar = ProgressBar::new(blocks);
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos} of {len} blocks, {eta} left; {msg}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
