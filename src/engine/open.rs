//! Opening a store: identity, shards, recovery over all of them, collections, and the chain's window.
//!
//! The order matters: nothing on disk is changed before every shard has recovered and the cut is known to hold every
//! acknowledged commit; nothing is committed before every shard has started the new term.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use op_engine_io::mailbox::{Receiver, Sender, mailbox};
use op_engine_io::{Env, PanicHook, Place, Reply, ReplySender, Running, TaskClass, World, reply};
use op_engine_shards::barrier::{Barrier, Commit};
use op_engine_shards::catalog::{Catalog, ColdMark};
use op_engine_shards::log::Identity;
use op_engine_shards::message::{
    CommitKind, Direction, Event, GoOn, Horizon, KeyRange, Progress, RecoveryReport, Request, ScanRequest,
    Select, SpaceNeed, StartTerm, Started,
};
use op_engine_shards::segment::FilterKey;
use op_engine_shards::shard::{self, Links, encode_catalog};
use op_engine_shards::superblock::{self, Loaded, Superblock};
use op_engine_shards::{
    BlockHash, CollectionId, Error as StorageError, Height, Seq, ShardConfig, ShardId, StoreId, recovery,
};

use crate::collection::CollectionDef;
use crate::config::{Config, Durability};
use crate::engine::chain_window::{ChainWindow, Tip};
use crate::engine::committer::{Committer, Found};
use crate::engine::order::Order;
use crate::engine::progress::{self, Stage};
use crate::engine::registry::{Registry, Wishes};
use crate::engine::shared::{PanicSlot, Shared};
use crate::engine::system::{self, BlockRecord};
use crate::engine::tiers;
use crate::engine::upkeep::Upkeep;
use crate::engine::{Engine, Recovered};
use crate::error::{Error, Result};
use crate::placement::Placement;

/// What shards may have told that the barrier has not taken in yet.
const EVENTS_LEN_MAX: usize = 4096;

/// What the committer's host needs to know.
struct Plan {
    path: std::path::PathBuf,
    create: bool,
    shards_wanted: u16,
    collections: Vec<CollectionDef>,
    durability: Durability,
    read_only: bool,
    window: u64,
    drops: Vec<String>,
    upkeep_rows_max: usize,
    orders: Receiver<Order>,
    panicked: PanicSlot,
}

/// The far ends of a shard's links.
struct ShardEnds {
    requests: Sender<Request>,
    recovered: Reply<op_engine_shards::Result<RecoveryReport>>,
    start: ReplySender<GoOn>,
    started: Reply<op_engine_shards::Result<Started>>,
}

/// The shards, once their hosts run.
struct Connected {
    shards: Vec<ShardEnds>,
    events: Receiver<Event>,
}

/// What the caller of open gets from the committer's host.
struct Opened {
    shared: Arc<Shared>,
    recovered: Recovered,
}

/// Opens a store on a world, real or simulated. `shards_wanted` counts only if the store is created.
pub(crate) async fn open_in<W: World>(
    world: W,
    config: Config,
    shards_wanted: u16,
    shard_config: impl Fn(u16) -> ShardConfig,
) -> Result<Engine> {
    let panicked: PanicSlot = Arc::new(OnceLock::new());
    let (orders, orders_end) = mailbox(config.commits_in_flight_max);
    let read_only = config.read_only;
    let mut collections = config.collections;
    for (type_id, purge) in config.purges {
        collections.iter_mut().filter(|def| def.type_id == type_id).for_each(|def| def.purge = purge.clone());
    }
    for (type_id, tier) in config.tiers {
        collections.iter_mut().filter(|def| def.type_id == type_id).for_each(|def| def.tier = tier);
    }
    let plan = Plan {
        path: config.path.clone(),
        create: config.create && !config.read_only,
        shards_wanted,
        collections,
        durability: config.durability,
        read_only: config.read_only,
        window: config.reorg_window_blocks,
        drops: config.drops,
        upkeep_rows_max: config.upkeep_rows_max,
        orders: orders_end,
        panicked: Arc::clone(&panicked),
    };
    let (identity, identity_end) = reply();
    let (connected_end, connected) = reply();
    let (opened, opened_end) = reply();
    let hook = panic_hook(&panicked, None);
    let committer = world.start(Place::Floating, "committer", hook, move |env| {
        run_committer(env, plan, identity, connected, opened)
    })?;
    let mut hosts = vec![committer];
    // Each early return drops the far ends, upon which every host that was started ends by itself.
    let archives = config.archives;
    let shard_config = |shards| ShardConfig {
        reorg_window_blocks: config.reorg_window_blocks,
        restores_cold_files: !read_only,
        archives_wal: archives.0,
        archives_orphans: archives.1,
        ..with_cold(shard_config(shards), config.cold_bytes_per_second, config.cold_segment_bytes)
    };
    let superblock = gone(&panicked, identity_end.await)??;
    let connected = connect(&world, &superblock, &panicked, &shard_config, &mut hosts)?;
    connected_end.send(connected);
    match gone(&panicked, opened_end.await) {
        Ok(Ok(Opened { shared, recovered })) => Ok(Engine::new(shared, orders, hosts, recovered, read_only)),
        Ok(Err(error)) | Err(error) => {
            drop(orders);
            for host in hosts {
                host.finished().await;
            }
            Err(error)
        }
    }
}

fn with_cold(config: ShardConfig, rate: Option<u64>, segment_bytes: Option<u64>) -> ShardConfig {
    ShardConfig {
        cold_bytes_per_second: rate.unwrap_or(config.cold_bytes_per_second),
        cold_segment_bytes: segment_bytes.unwrap_or(config.cold_segment_bytes),
        ..config
    }
}

fn gone<T>(panicked: &PanicSlot, answer: Result<T, op_engine_io::Disconnected>) -> Result<T> {
    answer.map_err(|_| panicked.get().map_or(Error::Closed, |panic| panic.clone().into()))
}

/// Notes a panic, and stops commits on all shards by way of the barrier.
fn panic_hook(panicked: &PanicSlot, shard: Option<(ShardId, Sender<Event>)>) -> PanicHook {
    let panicked = Arc::clone(panicked);
    Arc::new(move |report| {
        let task = report.task.to_owned();
        let error = StorageError::Panicked { host: report.host, task, message: report.message };
        // The first panic is the one that matters.
        let _: Result<(), _> = panicked.set(error.clone());
        if let Some((shard, events)) = &shard {
            // If the barrier's mailbox is full, it learns of the end of the shard from the next request.
            drop(events.try_send(Event::Failed(*shard, error)));
        }
    })
}

/// Starts the hosts of all shards.
fn connect<W: World>(
    world: &W,
    superblock: &Superblock,
    panicked: &PanicSlot,
    shard_config: &impl Fn(u16) -> ShardConfig,
    hosts: &mut Vec<Running>,
) -> Result<Connected> {
    let (events_end, events) = mailbox(EVENTS_LEN_MAX);
    let mut shards = Vec::with_capacity(usize::from(superblock.shard_count));
    for number in 0..superblock.shard_count {
        let shard = ShardId(number);
        let config = shard_config(superblock.shard_count);
        let (requests, requests_end) = mailbox(config.mailbox_len_max);
        let (recovered_end, recovered) = reply();
        let (start, start_end) = reply();
        let (started_end, started) = reply();
        let links = Links {
            requests: requests_end,
            events: events_end.clone(),
            recovered: recovered_end,
            start: start_end,
            started: started_end,
        };
        let identity = identity_of(superblock, shard);
        let filter_key = FilterKey(superblock.placement_key);
        let hook = panic_hook(panicked, Some((shard, events_end.clone())));
        let name = format!("shard-{number}");
        let host = world.start(Place::Shard(number), &name, hook, move |env| {
            shard::run(env, identity, config, filter_key, links)
        })?;
        hosts.push(host);
        shards.push(ShardEnds { requests, recovered, start, started });
    }
    Ok(Connected { shards, events })
}

fn identity_of(superblock: &Superblock, shard: ShardId) -> Identity {
    Identity { store: superblock.store, shard, shard_count: superblock.shard_count }
}

/// The main task of the committer's host.
async fn run_committer<E: Env>(
    env: E,
    plan: Plan,
    identity: ReplySender<Result<Superblock>>,
    connected: Reply<Connected>,
    opened: ReplySender<Result<Opened>>,
) {
    let superblock = match load_or_create(&env, &plan).await {
        Ok(superblock) => superblock,
        Err(error) => return identity.send(Err(error)),
    };
    identity.send(Ok(superblock.clone()));
    let Ok(Connected { shards, events }) = connected.await else { return };
    let Plan { collections, drops, upkeep_rows_max, durability, read_only, window, orders, panicked, .. } =
        plan;
    let started = match start_shards(shards, read_only).await {
        Ok(started) => started,
        Err(error) => return opened.send(Err(error)),
    };
    let StartedShards { requests, needs, catalog, in_use, term, horizon, torn_tail_bytes } = started;
    let barrier = Rc::new(Barrier::new(requests.clone(), term.cut, term.seq_floor));
    (0..).zip(needs).for_each(|(shard, need)| barrier.note_space(ShardId(shard), need));
    env.spawn(TaskClass::Foreground, "listen", listen(Rc::clone(&barrier), events));
    let placement = Placement::new(superblock.placement_key, requests.len());
    let prepared = async {
        // A new store has no collection to read it from.
        let is_new = catalog.collections.is_empty();
        let works = if is_new { BTreeMap::new() } else { progress::load(&requests, term.cut).await? };
        let failed = works.iter().filter(|(_, work)| matches!(work.stage, Stage::Failed(_)));
        let remake: Vec<_> = failed.map(|(id, _)| *id).filter(|_| !read_only).collect();
        let wishes = Wishes { collections: &collections, drops: &drops, remake: &remake, in_use: &in_use };
        let marked = if read_only {
            catalog.cold_mark
        } else {
            tiers::find_mark_at_open(&env, superblock.store, catalog.cold_mark).await?
        };
        let (registry, catalog, last) =
            define_collections(&barrier, wishes, catalog, term.cut, marked, read_only).await?;
        let shared = Arc::new(Shared::new(requests, placement, registry, panicked));
        shared.indexes.set_all(&works);
        shared.purges.set_all(&works);
        let chain = load_chain(&shared, last, window, horizon).await?;
        shared.publish_applied(last, |place| *place = chain);
        shared.publish_durable(barrier.cut());
        Ok::<_, Error>((shared, catalog, last))
    };
    let (shared, catalog, last) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => return opened.send(Err(error)),
    };
    let recovered = Recovered { cut: term.cut, torn_tail_bytes };
    opened.send(Ok(Opened { shared: Arc::clone(&shared), recovered }));
    let upkeep = Upkeep::new(upkeep_rows_max);
    let found = Found { store: superblock.store, catalog, last };
    let committer = Committer::new(env, shared, barrier, durability, upkeep, found);
    if read_only { committer.refuse(orders).await } else { committer.run(orders).await }
}

async fn listen(barrier: Rc<Barrier>, events: Receiver<Event>) {
    barrier.listen(events).await;
}

/// The identity of the store, which is created if there is none and that is wanted.
async fn load_or_create<E: Env>(env: &E, plan: &Plan) -> Result<Superblock> {
    match superblock::load(env).await? {
        Loaded::Ready(superblock) => return Ok(superblock),
        _ if !plan.create => return Err(Error::NoStore { path: plan.path.clone() }),
        Loaded::Unfinished => superblock::discard_unfinished(env).await?,
        Loaded::Absent => {}
    }
    let random = |env: &E| (u128::from(env.random()) << 64 | u128::from(env.random())).to_le_bytes();
    let superblock = Superblock {
        features: superblock::FEATURES,
        store: StoreId(random(env)),
        shard_count: plan.shards_wanted.max(1),
        placement_key: random(env),
        created_by: env!("CARGO_PKG_VERSION").to_owned(),
        sequence: 1,
        parent_crc: 0,
    };
    for number in 0..superblock.shard_count {
        shard::create(env, identity_of(&superblock, ShardId(number))).await?;
    }
    superblock::create(env, &superblock).await?;
    Ok(superblock)
}

struct StartedShards {
    requests: Vec<Sender<Request>>,
    needs: Vec<SpaceNeed>,
    catalog: Catalog,
    /// The collections that any shard holds anything of, ascending.
    in_use: Vec<CollectionId>,
    term: StartTerm,
    horizon: Horizon,
    torn_tail_bytes: u64,
}

/// Recovers every shard, finds the cut, and starts the new term everywhere before anything is committed.
async fn start_shards(shards: Vec<ShardEnds>, read_only: bool) -> Result<StartedShards> {
    let mut reports = Vec::with_capacity(shards.len());
    let mut ready = Vec::with_capacity(shards.len());
    for ShardEnds { requests, recovered, start, started } in shards {
        reports.push(recovered.await??);
        ready.push((requests, start, started));
    }
    let term = recovery::decide(&reports)?;
    let horizon = reports.iter().map(|report| report.horizon).max().unwrap_or_default();
    let torn_tail_bytes = reports.iter().map(|report| report.torn_tail_bytes).sum();
    let mut starting = Vec::with_capacity(ready.len());
    for (requests, start, started) in ready {
        start.send(if read_only { GoOn::ReadOnly(term.cut) } else { GoOn::Write(term) });
        starting.push((requests, started));
    }
    let mut requests = Vec::with_capacity(starting.len());
    let mut needs = Vec::with_capacity(starting.len());
    let mut catalog = None;
    let mut in_use = Vec::new();
    for (sender, started) in starting {
        let Started { catalog: found, in_use: used, need } = started.await??;
        in_use.extend(used);
        requests.push(sender);
        needs.push(need);
        if catalog.get_or_insert_with(|| found.clone()) != &found {
            let what = "shards disagree about the collections of the store".to_owned();
            return Err(StorageError::Corruption { file: ".".to_owned(), offset: 0, what }.into());
        }
    }
    let catalog = catalog.unwrap_or_default();
    in_use.sort_unstable();
    in_use.dedup();
    Ok(StartedShards { requests, needs, catalog, in_use, term, horizon, torn_tail_bytes })
}

/// Looks up the collections, and commits a catalog with those that are new. Gives the last commit.
async fn define_collections(
    barrier: &Barrier,
    wishes: Wishes<'_>,
    mut catalog: Catalog,
    last: Seq,
    marked: Option<ColdMark>,
    read_only: bool,
) -> Result<(Registry, Catalog, Seq)> {
    let is_new = catalog.collections.is_empty();
    if is_new {
        for spec in system::specs() {
            let (wanted, given) = (spec.id, catalog.add(spec));
            assert_eq!(wanted, given, "the engine's own collections come first");
        }
    }
    let names = wishes.collections.iter().flat_map(|def| {
        std::iter::once(def.name.to_owned()).chain(def.indexes.iter().map(|index| index.name.clone()))
    });
    let new_name = names.into_iter().find(|name| catalog.by_name(name).is_none());
    let (registry, changed) = Registry::resolve(wishes, &catalog)?;
    let wanted = match (changed, new_name) {
        (Some(_), Some(name)) if read_only => return Err(Error::UnknownCollection { name }),
        // What only tidies up can wait.
        (Some(_), None) if read_only => return Ok((registry, catalog, last)),
        (Some(wanted), _) => wanted,
        (None, _) if is_new || marked != catalog.cold_mark => catalog,
        (None, _) => return Ok((registry, catalog, last)),
    };
    let wanted = Catalog { cold_mark: marked, ..wanted };
    let payload = encode_catalog(&wanted);
    let commit = Commit {
        kind: CommitKind::Schema,
        height: Height::default(),
        hash: BlockHash::default(),
        parent: BlockHash::default(),
        payloads: vec![payload; barrier.shard_count()],
        durable: true,
    };
    let seq = barrier.send(commit, last, Progress { cut: last, horizon: Horizon::default() }).await?;
    barrier.until_applied(seq).await?;
    barrier.until_durable(seq).await?;
    Ok((registry, wanted, seq))
}

/// Reads the part of the chain that a reorg can reach.
async fn load_chain(shared: &Arc<Shared>, view: Seq, depth: u64, horizon: Horizon) -> Result<ChainWindow> {
    let wanted = usize::try_from(depth).unwrap_or(usize::MAX).saturating_add(1);
    let newest = chain_rows(shared, view, Direction::Backward, wanted, Some(horizon.height)).await?;
    let first =
        chain_rows(shared, view, Direction::Forward, 1, None).await?.first().map(|block| block.height);
    let mut blocks: VecDeque<Tip> = newest.into_iter().rev().collect();
    while blocks.front().is_some_and(|block| block.height < horizon.height) {
        blocks.pop_front();
    }
    let ascending = blocks
        .iter()
        .zip(blocks.iter().skip(1))
        .all(|(a, b)| a.height.0 + 1 == b.height.0 && b.parent == a.hash);
    if !ascending {
        let what = "the index of the chain has a gap".to_owned();
        return Err(StorageError::Corruption { file: ".".to_owned(), offset: 0, what }.into());
    }
    let mut window = ChainWindow::new(depth, first, horizon, blocks);
    window.advance(view);
    Ok(window)
}

/// Rows of the chain's own collection, merged over all shards.
async fn chain_rows(
    shared: &Arc<Shared>,
    view: Seq,
    direction: Direction,
    rows: usize,
    from: Option<Height>,
) -> Result<Vec<Tip>> {
    use std::ops::Bound;
    let mut tips = Vec::new();
    for sender in &shared.shards {
        let mut range = KeyRange::all();
        if let Some(from) = from {
            range.start = Bound::Included(system::chain_key(from).to_vec());
        }
        let (reply, answer) = reply();
        let request = ScanRequest {
            view,
            collection: system::chain_spec().id,
            range,
            direction,
            rows_max: rows,
            bytes_max: usize::MAX,
            goes_on: false,
            select: Select { entries_max: u64::MAX, ..Select::all() },
            reply,
        };
        sender.send(Request::Scan(request)).await?;
        for (key, value) in answer.await??.rows.iter() {
            let height = system::chain_height(key);
            let block = BlockRecord::decode(value);
            let (Ok(height), Ok(block)) = (height, block) else {
                let what = "a record of the chain does not decode".to_owned();
                return Err(StorageError::Corruption { file: ".".to_owned(), offset: 0, what }.into());
            };
            tips.push(block.at(height));
        }
    }
    tips.sort_by_key(|tip| tip.height);
    if direction == Direction::Backward {
        tips.reverse();
    }
    tips.truncate(rows);
    Ok(tips)
}
