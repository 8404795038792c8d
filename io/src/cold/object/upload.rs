//! An object of an object store in the making.

use std::fmt;
use std::sync::Arc;

use super::super::failure::Failure;
use super::super::store::{ColdStore, ColdUpload};
use super::client::Parts;
use super::service::{ObjectStoreTarget, Service};
use crate::env::FileName;
use crate::error::{FileOp, Result};

/// The length of every part but the last.
const PART_BYTES: usize = 8 << 20;

/// An object of an object store in the making: in parts if it is longer than one.
pub(crate) struct ObjectUpload {
    store: ObjectStoreTarget,
    service: Arc<Service>,
    name: FileName,
    /// `None` before the first part, and while a request has it.
    begun: Option<Held>,
    /// The bytes that are not sent yet.
    staged: Vec<u8>,
    broken: bool,
}

/// An upload in parts that is given up if it is dropped.
struct Held {
    parts: Option<Parts>,
    service: Arc<Service>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            Service::detach(&self.service, move |it| async move { it.client.give_up(parts).await });
        }
    }
}

impl ObjectUpload {
    pub(super) fn new(store: ObjectStoreTarget, service: Arc<Service>, name: FileName) -> Self {
        Self { store, service, name, begun: None, staged: Vec::new(), broken: false }
    }

    fn fails(&self, op: FileOp, failure: Failure) -> crate::error::Error {
        failure.error(self.store.target(), op, self.name.to_string())
    }

    async fn send(&self, held: Option<Held>, part: Vec<u8>) -> Result<Held, Failure> {
        let name = self.name;
        Service::run(&self.service, self.service.limits.change, move |it| async move {
            let mut held = match held {
                Some(held) => held,
                None => Held { parts: Some(it.client.begin(name).await?), service: Arc::clone(&it) },
            };
            let parts = held.parts.as_mut().ok_or_else(Failure::broken_upload)?;
            it.client.put_part(parts, part).await?;
            Ok(held)
        })
        .await
    }
}

impl ColdUpload for ObjectUpload {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.broken {
            return Err(self.fails(FileOp::Write, Failure::broken_upload()));
        }
        if self.staged.is_empty() {
            self.staged = bytes;
        } else {
            self.staged.extend_from_slice(&bytes);
        }
        self.broken = true;
        while self.staged.len() >= PART_BYTES {
            let rest = self.staged.split_off(PART_BYTES);
            let part = std::mem::replace(&mut self.staged, rest);
            let held = self.begun.take();
            let sent = self.send(held, part).await;
            self.begun = Some(sent.map_err(|failure| self.fails(FileOp::Write, failure))?);
        }
        self.broken = false;
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        if self.broken {
            return Err(self.fails(FileOp::Finish, Failure::broken_upload()));
        }
        let (name, tail, held) = (self.name, std::mem::take(&mut self.staged), self.begun.take());
        let finished = Service::run(&self.service, self.service.limits.change, move |it| async move {
            let Some(mut held) = held else { return it.client.put(name, tail).await };
            let parts = held.parts.as_mut().ok_or_else(Failure::broken_upload)?;
            if !tail.is_empty() {
                it.client.put_part(parts, tail).await?;
            }
            it.client.complete(parts).await?;
            if let Some(parts) = held.parts.take() {
                Service::detach(&it, move |it| async move { it.client.settle(&parts).await });
            }
            Ok(())
        })
        .await;
        finished.map_err(|failure| self.fails(FileOp::Finish, failure))
    }
}

impl fmt::Debug for ObjectUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.begun.as_ref().and_then(|held| held.parts.as_ref()).map_or(0, Parts::len);
        f.debug_struct("ObjectUpload").field("name", &self.name).field("sent", &sent).finish_non_exhaustive()
    }
}
