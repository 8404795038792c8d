//! The threads of the hosts, with glommio as the executor on each.
//!
//! This is the only file that names glommio. It creates the executor, which pins the thread, and gives it one future
//! that runs the [pump](super::pump) and never waits in glommio: what goes wrong when glommio parks with work
//! pending cannot happen to us. A native host would pin the thread itself and call the pump.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::env::RealEnv;
use super::file_thread::FileThread;
use super::lock::Lock;
use super::pump::{self, Plan};
use super::sys::{self, Affinity};
use crate::env::Running;
use crate::error::{Error, Result};
use crate::reply::reply;

/// glommio's rings carry nothing of ours: the least that it accepts.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Below this limit of locked memory glommio refuses to start, even for root.
pub(super) const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// Far beyond every turn. A timer that fires before the executor has polled anything makes it sleep for ever.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);

/// Which cores a host may use.
pub(super) enum Cores {
    /// This one.
    Pinned(usize),
    /// These, whatever the core of the thread that starts it.
    Any(Affinity),
}

/// Starts a host on a thread of its own and waits until it is set up.
pub(super) fn start<F, Fut>(
    cores: Cores,
    plan: Plan,
    files: FileThread,
    lock: std::sync::Arc<Lock>,
    main: F,
) -> Result<Running>
where
    F: FnOnce(RealEnv) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let (started, setup) = mpsc::sync_channel(1);
    let (finished, running) = reply();
    let name: String = plan.ring.host.chars().filter(|character| *character != '\0').collect();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Err(errno) = sys::ask_for_prompt_turns() {
            tracing::debug!(errno, "a host waits as long for its core as any thread");
        }
        let report = move |result| drop(started.send(result));
        let drained = match executor(&cores) {
            Ok(executor) => {
                let run = AssertUnwindSafe(|| executor.run(async move { pump::run(plan, main, report) }));
                catch_unwind(run).unwrap_or(false)
            }
            Err(error) => {
                report(Err(error));
                true
            }
        };
        // Names must not change any more once the lock is given up.
        files.end();
        if drained {
            // This may be the last owner of the store's lock.
            drop(lock);
        } else {
            // The kernel may still write for this process: the lock stays until the process has gone.
            std::mem::forget(lock);
        }
        finished.send(());
    });
    let thread = thread.map_err(|error| Error::Unsupported {
        what: "starting a thread".to_owned(),
        cause: error.to_string(),
        remedy: "raise the limit of threads (TasksMax= of the service, or `ulimit -u`)".to_owned(),
    })?;
    match setup.recv() {
        Ok(Ok(())) => Ok(Running::new(running, Some(thread))),
        Ok(Err(error)) => {
            drop(thread.join());
            Err(error)
        }
        Err(mpsc::RecvError) => {
            drop(thread.join());
            Err(refused("its thread ended during set-up".to_owned()))
        }
    }
}

/// An executor for the calling thread, which it pins.
fn executor(cores: &Cores) -> Result<LocalExecutor> {
    let placement = match cores {
        Cores::Pinned(cpu) => Placement::Fixed(*cpu),
        Cores::Any(affinity) => {
            affinity
                .apply()
                .map_err(|errno| refused(std::io::Error::from_raw_os_error(errno).to_string()))?;
            Placement::Unbound
        }
    };
    let builder =
        LocalExecutorBuilder::new(placement).io_memory(IO_MEMORY_BYTES).preempt_timer(PREEMPT_TIMER);
    // glommio panics where it cannot have a ring, which the probe has ruled out, and on damaged topology files.
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(Ok(executor)) => Ok(executor),
        Ok(Err(error)) => Err(match cores {
            Cores::Pinned(cpu) => Error::Unsupported {
                what: format!("running on core {cpu}"),
                cause: error.to_string(),
                remedy:
                    "choose cores that exist and that the process may use (see `taskset -p` and the cgroup's \
                         cpuset), and keep the limit of locked memory at 512 KiB or more"
                        .to_owned(),
            },
            Cores::Any(_) => refused(error.to_string()),
        }),
        Err(_) => Err(refused("the executor panicked".to_owned())),
    }
}

fn refused(cause: String) -> Error {
    Error::Unsupported {
        what: "starting a host".to_owned(),
        cause,
        remedy: "run `op-engine detect`, and raise the limits of locked memory and of open files".to_owned(),
    }
}
