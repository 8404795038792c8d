//! A directory as a cold target: on a disk of its own, or on a mounted network filesystem.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use super::failure::Failure;
use super::part::Part;
use super::place::Place;
use super::store::{ColdStore, ColdUpload};
use super::target::ColdLimits;
use super::workers::Workers;
use crate::env::{Dir, FileName};
use crate::error::{FileOp, Result};
use crate::real::sys::Affinity;

/// How much an upload holds back, so that it writes large pieces.
const STAGED_BYTES: usize = 4 << 20;

/// The directory of a cold target.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    place: Arc<Place>,
    workers: Workers,
    limits: ColdLimits,
}

/// A file in the making.
#[derive(Debug)]
pub(crate) struct DirectoryUpload {
    store: Directory,
    name: FileName,
    /// `None` while a request has it, and after one has failed.
    part: Option<Held>,
    /// The bytes that are not written yet.
    staged: Vec<u8>,
}

/// A part that is removed if it is dropped, though not by the thread that drops it.
#[derive(Debug)]
struct Held {
    part: Option<Part>,
    workers: Workers,
    limits: ColdLimits,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            self.workers.detach(self.limits.change, move || part.abort());
        }
    }
}

impl Directory {
    /// Does not touch the directory. The threads run on `cores`; without them, where their maker runs.
    pub(crate) fn new(path: PathBuf, limits: ColdLimits, cores: Option<Affinity>) -> Self {
        let place = Arc::new(Place::new(path));
        Self { place, workers: Workers::new(limits.concurrency, cores), limits }
    }

    /// Reads something off the directory, within the time for reads.
    async fn ask<T: Send + 'static>(
        &self,
        op: FileOp,
        file: String,
        call: impl FnOnce(&Place) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.place);
        self.told(op, file, self.workers.run(self.limits.read, move |_| call(&place))).await
    }

    async fn told<T>(
        &self,
        op: FileOp,
        file: String,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T> {
        request.await.map_err(|failure| failure.error(self.target(), op, file))
    }
}

impl ColdStore for Directory {
    type Upload = DirectoryUpload;

    fn target(&self) -> String {
        self.place.path().display().to_string()
    }

    async fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.ask(FileOp::Read, name.to_string(), move |place| place.read(name, offset, bytes)).await
    }

    async fn length(&self, name: FileName) -> Result<u64> {
        self.ask(FileOp::Length, name.to_string(), move |place| place.length(name)).await
    }

    async fn upload(&self, name: FileName) -> Result<DirectoryUpload> {
        let (place, workers, limits) = (Arc::clone(&self.place), self.workers.clone(), self.limits);
        let create = self.workers.run(limits.read, move |_| {
            let part = Part::create(&place, name)?;
            Ok(Held { part: Some(part), workers, limits })
        });
        let part = self.told(FileOp::Open, name.to_string(), create).await?;
        Ok(DirectoryUpload { store: self.clone(), name, part: Some(part), staged: Vec::new() })
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        let place = Arc::clone(&self.place);
        let remove = self.workers.run(self.limits.change, move |_| place.remove(name));
        self.told(FileOp::Remove, name.to_string(), remove).await
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        self.ask(FileOp::List, dir.to_string(), move |place| place.list(dir)).await
    }
}

impl ColdUpload for DirectoryUpload {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.part.is_some() {
            if self.staged.is_empty() {
                self.staged = bytes;
            } else {
                self.staged.extend_from_slice(&bytes);
            }
            if self.staged.len() < STAGED_BYTES {
                return Ok(());
            }
        }
        let file = self.name.to_string();
        let Some(mut held) = self.part.take() else {
            return Err(Failure::broken_upload().error(self.store.target(), FileOp::Write, file));
        };
        let rest = self.staged.split_off(Part::whole_units(self.staged.len()));
        let units = std::mem::replace(&mut self.staged, rest);
        let write = self.store.workers.run(self.store.limits.change, move |_| {
            held.part.as_mut().ok_or_else(Failure::broken_upload)?.write(&units)?;
            Ok(held)
        });
        self.part = Some(self.store.told(FileOp::Write, file, write).await?);
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        let (held, tail) = (self.part.take(), std::mem::take(&mut self.staged));
        let finish = self.store.workers.run(self.store.limits.change, move |has_gone| {
            let part = held.and_then(|mut held| held.part.take()).ok_or_else(Failure::broken_upload)?;
            part.finish(&tail, has_gone)
        });
        self.store.told(FileOp::Finish, self.name.to_string(), finish).await
    }
}
