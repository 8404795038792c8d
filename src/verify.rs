//! Checks a whole store and lists everything that is wrong with it.
//!
//! The check has two parts. The first reads every file: checksums, the order and ranges of entries, the manifest against
//! the files that are there, the frames of the WAL, every copy of the store's identity, and whether all shards end at one
//! commit. If the files are sound, the second part reads every record: it must decode, lie on its shard and have its
//! entries in all indexes; every index entry must belong to a record; every block must link to the one below.
//!
//! Nothing on disk is changed. The store is locked meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use op_engine_io::real::{RealSettings, RealWorld};
use op_engine_io::{Dir, Env, PanicHook, Place, World, block_on, reply};
use op_engine_shards::log::Identity;
use op_engine_shards::message::RecoveryReport;
use op_engine_shards::segment::FilterKey;
pub use op_engine_shards::segment::VerifyScope;
use op_engine_shards::superblock::Superblock;
use op_engine_shards::verify::{
    ShardVerification, SuperblockVerification, file_bytes, verify_shard, verify_superblock,
};
use op_engine_shards::{Error as StorageError, Seq, ShardConfig, ShardId};

use crate::config::Config;
use crate::engine::{Engine, Tip};
use crate::error::{Error, Result};

/// How far a check has come. Clones share the counts, so that another thread can show them.
#[derive(Debug, Clone, Default)]
pub struct VerifyProgress {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes_total: AtomicU64,
    bytes: AtomicU64,
    rows: AtomicU64,
}

impl VerifyProgress {
    /// The bytes of all files; 0 until they are known.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.counts.bytes_total.load(Ordering::Relaxed)
    }

    /// The bytes that have been checked.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// The records and index entries that have been compared.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.counts.rows.load(Ordering::Relaxed)
    }

    fn add_bytes(&self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Everything that is wrong.
    pub faults: Vec<Error>,
    /// What is worth knowing and not wrong: traces of unfinished work, and what was not checked.
    pub notes: Vec<String>,
    /// The shards.
    pub shards: u16,
    /// Files that belong to the store.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Live segments.
    pub segments: u64,
    /// Those of them whose data is in the cold target.
    pub cold_segments: u64,
    /// Bytes of that data.
    pub cold_bytes: u64,
    /// Versions in segments, tombstones included.
    pub segment_entries: u64,
    /// Commits in the WAL above the checkpoints, on all shards together.
    pub wal_commits: u64,
    /// The tip; `None` if the chain is empty or records were not compared.
    pub tip: Option<Tip>,
    /// What was compared; `None` if files are damaged.
    pub compared: Option<Compared>,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Blocks of the chain.
    pub blocks: u64,
    /// Records at the tip.
    pub records: u64,
    /// Index entries at the tip.
    pub index_entries: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn take_shard(&mut self, shard: ShardVerification) {
        self.faults.extend(shard.faults.into_iter().map(Error::from));
        self.files += shard.files;
        self.bytes += shard.bytes;
        self.segments += shard.segments;
        self.cold_segments += shard.cold_segments;
        self.cold_bytes += shard.cold_bytes;
        self.segment_entries += shard.entries;
        self.wal_commits += shard.commits;
        for name in shard.leftovers {
            self.notes.push(format!("{name} is a leftover of unfinished work: the next opening removes it"));
        }
    }
}

/// Checks the store that a configuration names, on the calling thread. Records of collections that the configuration
/// does not list are not compared with their indexes. Data in the cold target is read only if `scope` says so; what depends on
/// it is not compared otherwise.
///
/// # Errors
/// If there is no store, it is locked, or the machine lacks something. What is wrong with the store is in the report.
pub fn verify(config: Config, scope: VerifyScope, progress: &VerifyProgress) -> Result<VerifyReport> {
    let mut settings = RealSettings::new(config.path());
    settings.lock_wait = config.lock_wait;
    settings.cold = config.cold.clone();
    settings.cold_limits = config.cold_limits;
    let world = RealWorld::open(settings)?;
    let (mut report, names) = block_on(check_files(world, scope, progress))?;
    if let Some(config) = comparable(config, scope, &mut report, names) {
        match Engine::open_blocking(config) {
            Ok(engine) => block_on(compare(engine, progress, &mut report))?,
            Err(fault) => report.faults.push(fault),
        }
    }
    Ok(report)
}

/// As [`verify`], on any world: for tests on the simulated one.
///
/// # Errors
/// As [`verify`].
pub async fn verify_on<W: World>(
    world: W,
    config: Config,
    settings: ShardConfig,
    scope: VerifyScope,
    progress: &VerifyProgress,
) -> Result<VerifyReport> {
    let (mut report, names) = check_files(world.clone(), scope, progress).await?;
    if let Some(config) = comparable(config, scope, &mut report, names) {
        match Engine::open_on(world, config, 1, settings).await {
            Ok(engine) => compare(engine, progress, &mut report).await?,
            Err(fault) => report.faults.push(fault),
        }
    }
    Ok(report)
}

/// The part of a configuration whose collections the store has; `None` if its files are damaged or it holds nothing.
fn comparable(
    config: Config,
    scope: VerifyScope,
    report: &mut VerifyReport,
    names: Vec<String>,
) -> Option<Config> {
    if !report.is_sound() {
        report.notes.push("records were not compared with indexes, because files are damaged".to_owned());
        return None;
    }
    if report.cold_segments > 0 && scope == VerifyScope::Hot {
        report
            .notes
            .push("records were not compared, because some of them are in the cold target".to_owned());
        return None;
    }
    if names.is_empty() {
        report.notes.push("the store has no collections: nothing was ever committed".to_owned());
        return None;
    }
    let mut config = config.create(false).read_only(true);
    config.collections.retain(|def| names.iter().any(|name| name == def.name));
    for name in names {
        // Indexes have a dot in their names, the engine's own collections a slash.
        let known = config.collections.iter().any(|def| def.name == name);
        if !known && !name.contains(['.', '/']) {
            report.notes.push(format!("collection {name} is not known here: its records were not compared"));
        }
    }
    Some(config)
}

async fn compare(engine: Engine, progress: &VerifyProgress, report: &mut VerifyReport) -> Result<()> {
    report.tip = engine.tip();
    let counts = Arc::clone(&progress.counts);
    let add = move |rows| {
        counts.rows.fetch_add(rows, Ordering::Relaxed);
    };
    match engine.cross_check(&add).await {
        Ok(found) => {
            let (blocks, records, index_entries) = (found.blocks, found.records, found.index_entries);
            report.compared = Some(Compared { blocks, records, index_entries });
            report.faults.extend(found.faults);
        }
        Err(fault) => report.faults.push(fault),
    }
    engine.close().await
}

/// Checks all files. Gives the names of the store's collections and indexes, too.
async fn check_files<W: World>(
    world: W,
    scope: VerifyScope,
    progress: &VerifyProgress,
) -> Result<(VerifyReport, Vec<String>)> {
    let mut report = VerifyReport::default();
    let found = on_host(&world, Place::Floating, "verify", {
        let progress = progress.clone();
        move |env| check_root(env, progress)
    });
    let found = found.await??;
    report.faults.extend(found.faults.into_iter().map(Error::from));
    report.files += found.files;
    report.bytes += found.bytes;
    let Some(superblock) = found.superblock else { return Ok((report, Vec::new())) };
    report.shards = superblock.shard_count;

    let mut running = Vec::with_capacity(usize::from(superblock.shard_count));
    for number in 0..superblock.shard_count {
        let identity =
            Identity { store: superblock.store, shard: ShardId(number), shard_count: superblock.shard_count };
        let filter_key = FilterKey(superblock.placement_key);
        let progress = progress.clone();
        let name = format!("verify-{number}");
        running.push(on_host(&world, Place::Shard(number), &name, move |env| async move {
            verify_shard(&env, identity, &filter_key, scope, &|bytes| progress.add_bytes(bytes)).await
        }));
    }
    let mut recovered = Vec::new();
    let mut catalogs = Vec::new();
    for shard in running {
        let mut shard = shard.await??;
        recovered.extend(shard.report.take());
        catalogs.extend(shard.catalog.take());
        report.take_shard(shard);
    }
    check_together(&superblock, &recovered, &mut report);
    if catalogs.windows(2).any(|pair| pair.first() != pair.last()) && report.is_sound() {
        // Commits above the cut are not durable everywhere: the shards agree about the checkpoint below it.
        report
            .notes
            .push("shards know different collections: their definition was being committed".to_owned());
    }
    let names = catalogs.into_iter().min_by_key(|catalog| catalog.collections.len());
    let names = names.unwrap_or_default().live().map(|spec| spec.name.clone()).collect();
    Ok((report, names))
}

/// All shards end at one commit, apart from what was never acknowledged.
fn check_together(superblock: &Superblock, shards: &[RecoveryReport], report: &mut VerifyReport) {
    let acknowledged = shards.iter().map(|shard| shard.acknowledged).max().unwrap_or(Seq::ZERO);
    for shard in shards.iter().filter(|shard| shard.last < acknowledged) {
        report.faults.push(Error::Storage(StorageError::AcknowledgedDataMissing {
            shard: shard.shard,
            file: shard.last_at.0.clone(),
            offset: shard.last_at.1,
            found: shard.last,
            acknowledged,
        }));
    }
    if shards.len() < usize::from(superblock.shard_count) {
        return;
    }
    let cut = shards.iter().map(|shard| shard.last).min().unwrap_or(Seq::ZERO);
    let ahead = shards.iter().filter(|shard| shard.last > cut).count();
    if ahead > 0 {
        report.notes.push(format!(
            "{ahead} of {} shards hold commits after {cut} that others lack and nobody was told of: the next opening \
             drops them",
            shards.len()
        ));
    }
    let torn: u64 = shards.iter().map(|shard| shard.torn_tail_bytes).sum();
    if torn > 0 {
        report.notes.push(format!(
            "{torn} bytes behind the last commits are of unfinished writes or earlier terms: no acknowledged commit is \
             among them"
        ));
    }
}

async fn check_root<E: Env>(
    env: E,
    progress: VerifyProgress,
) -> op_engine_shards::Result<SuperblockVerification> {
    let found = verify_superblock(&env).await?;
    let mut total = found.bytes;
    for number in 0..found.superblock.as_ref().map_or(0, |superblock| superblock.shard_count) {
        // A directory that cannot be listed is a fault that the check of its shard finds.
        let files = file_bytes(&env, Dir::Shard(number)).await.unwrap_or_default();
        total += files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    progress.counts.bytes_total.store(total, Ordering::Relaxed);
    progress.add_bytes(found.bytes);
    Ok(found)
}

/// Runs a task on a host of its own.
fn on_host<W, T, F, Fut>(
    world: &W,
    place: Place,
    name: &str,
    task: F,
) -> impl Future<Output = Result<T>> + use<W, T, F, Fut>
where
    W: World,
    F: FnOnce(W::Env) -> Fut + Send + 'static,
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let panicked: Arc<OnceLock<StorageError>> = Arc::default();
    let noted = Arc::clone(&panicked);
    let hook: PanicHook = Arc::new(move |report| {
        let task = report.task.to_owned();
        // The first panic is the one that matters.
        drop(noted.set(StorageError::Panicked { host: report.host, task, message: report.message }));
    });
    let (sender, answer) = reply();
    let started = world.start(place, name, hook, move |env| async move {
        sender.send(task(env).await);
    });
    async move {
        let running = started?;
        let answer = answer.await;
        running.finished().await;
        answer.map_err(|_| panicked.get().map_or(Error::Closed, |panic| panic.clone().into()))
    }
}
