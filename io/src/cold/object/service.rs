//! The thread that runs the requests to an object store, and how askers reach it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::super::failure::Failure;
use super::super::fault::ColdFault;
use super::super::store::ColdStore;
use super::super::target::ColdLimits;
use super::client::Client;
use super::upload::ObjectUpload;
use super::url::ObjectStoreUrl;
use crate::env::{Dir, FileName};
use crate::error::{Error, FileOp, Result};
use crate::real::sys::Affinity;
use crate::reply::reply;

/// How many requests wait at most.
const QUEUE_MAX: usize = 4096;

/// An object store as a cold target.
#[derive(Clone)]
pub(crate) struct ObjectStoreTarget {
    service: Arc<Service>,
}

/// What the requests share. Every request holds it, and so the thread does not end before all of them have.
pub(super) struct Service {
    pub(super) client: Client,
    pub(super) limits: ColdLimits,
    runtime: Handle,
    permits: Semaphore,
    waiting: AtomicUsize,
    /// Ends the thread when it is dropped.
    _running: oneshot::Sender<()>,
}

impl ObjectStoreTarget {
    /// Starts the thread, on `cores`; without them, where its maker runs. Does not connect.
    pub(crate) fn new(url: ObjectStoreUrl, limits: ColdLimits, cores: Option<Affinity>) -> Result<Self> {
        let refused = |error: std::io::Error| Error::Unsupported {
            what: "starting the thread for the object store".to_owned(),
            cause: error.to_string(),
            remedy: "raise the limits of threads and of open files".to_owned(),
        };
        let client = Client::new(url, limits)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (running, ended) = oneshot::channel::<()>();
        let service = Service {
            client,
            limits,
            runtime: runtime.handle().clone(),
            permits: Semaphore::new(limits.concurrency.clamp(1, QUEUE_MAX)),
            waiting: AtomicUsize::new(0),
            _running: running,
        };
        let body = move || {
            if let Some(Err(errno)) = cores.as_ref().map(Affinity::apply) {
                tracing::debug!(errno, "the thread for the object store stays on the core of its maker");
            }
            // It ends without a word, by being dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("cold-object".to_owned()).spawn(body).map_err(refused)?;
        Ok(Self { service: Arc::new(service) })
    }

    async fn ask<T, Fut>(
        &self,
        op: FileOp,
        file: String,
        limit: Duration,
        request: impl FnOnce(Arc<Service>) -> Fut + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let answer = Service::run(&self.service, limit, request).await;
        answer.map_err(|failure| failure.error(self.target(), op, file))
    }
}

impl Service {
    /// Runs a request on the thread and waits for it, `limit` at most, the wait for others included.
    pub(super) async fn run<T, Fut>(
        service: &Arc<Self>,
        limit: Duration,
        request: impl FnOnce(Arc<Self>) -> Fut + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        if service.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_MAX {
            service.waiting.fetch_sub(1, Ordering::Relaxed);
            let what =
                format!("{QUEUE_MAX} requests wait already: the target is too slow for what is asked of it");
            return Err(Failure::new(ColdFault::TimedOut, what));
        }
        let (sender, answer) = reply();
        let shared = Arc::clone(service);
        service.runtime.spawn(async move {
            let permitted = async {
                let _permit = shared.permits.acquire().await;
                request(Arc::clone(&shared)).await
            };
            let result = tokio::time::timeout(limit, permitted).await.unwrap_or_else(|_| {
                Err(Failure::new(ColdFault::TimedOut, format!("no answer within {} ms", limit.as_millis())))
            });
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            sender.send(result);
        });
        // Only a request that panicked leaves its asker without an answer.
        answer.await.unwrap_or_else(|_| Err(Failure::new(ColdFault::Other, "the request was given up")))
    }

    /// Runs a request for nobody.
    pub(super) fn detach<Fut>(service: &Arc<Self>, request: impl FnOnce(Arc<Self>) -> Fut + Send + 'static)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::clone(service);
        service.runtime.spawn(async move {
            let limit = shared.limits.change;
            // What does not end in time is left to the next listing.
            let _ = tokio::time::timeout(limit, request(Arc::clone(&shared))).await;
        });
    }
}

impl ColdStore for ObjectStoreTarget {
    type Upload = ObjectUpload;

    fn target(&self) -> String {
        self.service.client.url().to_string()
    }

    async fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let request = move |it: Arc<Service>| async move { it.client.read(name, offset, bytes).await };
        self.ask(FileOp::Read, name.to_string(), self.service.limits.read, request).await
    }

    async fn length(&self, name: FileName) -> Result<u64> {
        let request = move |it: Arc<Service>| async move { it.client.length(name).await };
        self.ask(FileOp::Length, name.to_string(), self.service.limits.read, request).await
    }

    async fn upload(&self, name: FileName) -> Result<ObjectUpload> {
        // What is small is stored at once when it is finished, so there is nothing to begin yet.
        Ok(ObjectUpload::new(self.clone(), Arc::clone(&self.service), name))
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        let request = move |it: Arc<Service>| async move { it.client.remove(&it.client.path(name)).await };
        self.ask(FileOp::Remove, name.to_string(), self.service.limits.change, request).await
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        let request = move |it: Arc<Service>| async move { it.client.list(dir).await };
        self.ask(FileOp::List, dir.to_string(), self.service.limits.change, request).await
    }
}

impl fmt::Debug for ObjectStoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStoreTarget").field("client", &self.service.client).finish_non_exhaustive()
    }
}
