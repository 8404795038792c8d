//! The real machine as a world.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use super::counters::{Counters, Rings};
use super::directory::Root;
use super::env::{HostTuning, RealEnv};
use super::file_thread::FileThread;
use super::host::{self, Cores};
use super::lock::Lock;
use super::probe::{self, ProbeReport};
use super::pump::Plan;
use super::ring::{RingPlan, RingReport};
use super::settings::RealSettings;
use super::sys::Affinity;
use crate::cold::RealCold;
use crate::env::{PanicHook, Place, Running, World};
use crate::error::{Error, Result};

/// The real machine with one store's directory on it, which it owns while it or one of its hosts lives.
///
/// Clones are handles to the same world and may go to any thread.
#[derive(Clone)]
pub struct RealWorld {
    shared: Arc<Shared>,
}

struct Shared {
    settings: RealSettings,
    root: Arc<Root>,
    lock: Arc<Lock>,
    rings: Arc<Rings>,
    probe: ProbeReport,
    affinity: Affinity,
    cold: Option<RealCold>,
    epoch: Instant,
}

impl RealWorld {
    /// Opens or creates the store's directory, takes its lock, and checks that the machine offers what the engine
    /// needs.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the directory is missing and not to be created.
    /// - [`Error::Locked`] if another process owns the store for longer than the settings allow to wait.
    /// - [`Error::Unsupported`] if the kernel, its limits or the filesystem refuse something, with the remedy; also
    ///   if a chosen core is not one that the calling thread may run on.
    ///
    /// The cold target is not looked at: it may be out of reach, and the store is whole without it.
    pub fn open(settings: RealSettings) -> Result<Self> {
        let affinity = Affinity::of_this_thread().map_err(|errno| Error::Unsupported {
            what: "asking for the cores of this process".to_owned(),
            cause: std::io::Error::from_raw_os_error(errno).to_string(),
            remedy: "use a machine with at most 1024 cores".to_owned(),
        })?;
        if let Some(cpu) = settings.cores.iter().find(|cpu| !affinity.holds(**cpu)) {
            return Err(Error::Unsupported {
                what: format!("running a shard on core {cpu}"),
                cause: "the core does not exist or the process may not use it".to_owned(),
                remedy: "choose among the cores that `taskset -cp $$` and `op-engine detect` list".to_owned(),
            });
        }
        let new_cold = |target| RealCold::new(target, settings.cold_limits, Some(affinity.clone()));
        let cold = settings.cold.as_ref().map(new_cold).transpose()?;
        let root = Arc::new(Root::open(&settings.root, settings.create)?);
        let lock = Lock::take(&root, settings.lock_wait)?;
        let probe = probe::climb(&root, settings.arena_bytes);
        probe.require()?;
        let (rings, epoch) = (Arc::default(), Instant::now());
        let shared = Shared { settings, root, lock, rings, probe, affinity, cold, epoch };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The cold target, for use by any thread; `None` if there is none.
    #[must_use]
    pub fn cold(&self) -> Option<&RealCold> {
        self.shared.cold.as_ref()
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn settings(&self) -> &RealSettings {
        &self.shared.settings
    }

    /// What the machine was found to offer.
    #[must_use]
    pub fn probe(&self) -> &ProbeReport {
        &self.shared.probe
    }

    /// What all rings have done since the world was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.rings.sum()
    }

    /// How the rings of the running hosts were set up.
    #[must_use]
    pub fn ring_reports(&self) -> Vec<RingReport> {
        self.shared.rings.reports()
    }

    fn cores(&self, place: Place) -> Cores {
        let cores = &self.shared.settings.cores;
        let pinned = match place {
            Place::Shard(shard) if !cores.is_empty() => cores.get(usize::from(shard) % cores.len()).copied(),
            Place::Shard(_) | Place::Floating => None,
        };
        pinned.map_or_else(|| Cores::Any(self.shared.affinity.clone()), Cores::Pinned)
    }
}

impl World for RealWorld {
    type Env = RealEnv;

    fn start<F, Fut>(&self, place: Place, name: &str, on_panic: PanicHook, main: F) -> Result<Running>
    where
        F: FnOnce(RealEnv) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let Shared { settings, root, lock, rings, epoch, affinity, cold, .. } = &*self.shared;
        let files = FileThread::start(name, Some(affinity))?;
        let plan = Plan {
            ring: RingPlan {
                host: name.to_owned(),
                in_flight_max: settings.in_flight_max(),
                arena_bytes: settings.arena_bytes,
                file_places: settings.file_places,
                lock: Some(lock.fd()),
            },
            root: Arc::clone(root),
            rings: Arc::clone(rings),
            tuning: HostTuning {
                epoch: *epoch,
                read_depth: settings.queue_depth,
                sync_mode: settings.sync_mode,
            },
            file_calls: files.calls(),
            cold: cold.clone(),
            spin_max: settings.spin_max,
            on_panic,
        };
        host::start(self.cores(place), plan, files, Arc::clone(lock), main)
    }
}

impl fmt::Debug for RealWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealWorld").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

const _: () = {
    const fn goes_to_any_thread<T: Send + Sync>() {}
    goes_to_any_thread::<RealWorld>();
};
