//! The cold target of the simulated machine.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::disk::InFlight;
use super::faults::Fault;
use super::host::Host;
use super::io::{Completion, FILE_BYTES_MAX};
use super::objects::{Upload, UploadId};
use super::rng::Rng;
use super::trace::{IoEvent, IoPhase};
use super::world::Inner;
use crate::cold::{ColdFault, ColdStore, ColdUpload};
use crate::env::{Dir, FileName};
use crate::error::{Error, FileOp, Result};
use crate::num::{to_u64, to_usize};

/// What goes wrong with the cold target. Probabilities are in parts per 10,000. Nothing does by default.
#[derive(Debug, Clone, Default)]
pub struct ColdFaults {
    /// Whether every operation fails with [`ColdFault::Unreachable`].
    pub unreachable: bool,
    /// Faults of exact operations, counted from 0 over all cold operations of the machine
    /// ([`super::SimWorld::cold_count`]).
    pub at: Vec<(u64, ColdFault)>,
    /// [`ColdFault::Unreachable`] or [`ColdFault::TimedOut`] of any operation. A change may have been made all the same.
    pub error: u16,
    /// [`ColdFault::Short`] of a read: the answer was cut off.
    pub short: u16,
    /// One inverted bit in what a read returns. The object itself is unharmed.
    pub bit_flip: u16,
    /// An operation that takes a hundred times as long as the slowest ordinary one.
    pub slow: u16,
    /// What each operation takes in addition.
    pub delay: Duration,
    /// The bytes that objects and uploads may have together; `None` for no limit.
    pub capacity_bytes: Option<u64>,
}

impl ColdFaults {
    /// The fault of the `nth` operation.
    pub(super) fn draw(&self, nth: u64, op: FileOp, rng: &mut Rng) -> Option<Fault> {
        if self.unreachable {
            return Some(Fault::Cold(ColdFault::Unreachable));
        }
        if let Some((_, fault)) = self.at.iter().find(|(at, _)| *at == nth) {
            return Some(Fault::Cold(*fault));
        }
        if rng.chance(self.error) {
            let fault = if rng.coin() { ColdFault::Unreachable } else { ColdFault::TimedOut };
            return Some(Fault::Cold(fault));
        }
        let reads = op == FileOp::Read;
        if reads && rng.chance(self.short) {
            return Some(Fault::Cold(ColdFault::Short));
        }
        if reads && rng.chance(self.bit_flip) {
            return Some(Fault::BitFlip);
        }
        rng.chance(self.slow).then_some(Fault::Slow)
    }
}

/// The cold target of the simulated machine, as one of its hosts sees it.
#[derive(Clone)]
pub struct SimCold {
    world: Rc<Inner>,
    host: Rc<Host>,
}

/// An object in the making.
pub struct SimUpload {
    store: SimCold,
    name: FileName,
    id: UploadId,
    len: u64,
    /// Whether an append has failed or was dropped.
    broken: bool,
}

const TARGET: &str = "simulated";

fn failure(op: FileOp, file: String, fault: ColdFault, what: &str) -> Error {
    Error::Cold { target: TARGET.to_owned(), op, file, fault, what: what.to_owned() }
}

/// What an operation on an object completes with.
struct Done<'a, 'b> {
    done: &'a mut Completion<'b>,
    op: FileOp,
    name: FileName,
}

impl Done<'_, '_> {
    fn fails<T>(&self, fault: ColdFault, what: &str) -> Result<T> {
        Err(failure(self.op, self.name.to_string(), fault, what))
    }

    fn injected(&self) -> Option<ColdFault> {
        self.done.cold_fault()
    }

    /// The injected fault of a change, and whether the change is made: it may be, though nobody is told.
    fn injected_change(&mut self) -> (Option<ColdFault>, bool) {
        let fault = self.injected();
        let made = match fault {
            None => true,
            Some(ColdFault::Unreachable | ColdFault::TimedOut) => self.done.rng.coin(),
            Some(_) => false,
        };
        (fault, made)
    }
}

impl SimCold {
    pub(super) fn new(world: &Rc<Inner>, host: &Rc<Host>) -> Self {
        Self { world: Rc::clone(world), host: Rc::clone(host) }
    }

    fn event(op: FileOp, dir: Dir, file: Option<FileName>) -> IoEvent {
        IoEvent {
            phase: IoPhase::Submitted,
            op,
            dir,
            file,
            offset: 0,
            len: 0,
            durable: false,
            grows: false,
            cold: true,
            errno: 0,
        }
    }

    async fn run<T: 'static>(
        &self,
        event: IoEvent,
        name: FileName,
        begin: Option<InFlight>,
        finish: impl FnOnce(&mut Done<'_, '_>) -> Result<T> + 'static,
    ) -> Result<T> {
        let op = event.op;
        let finish = move |done: &mut Completion<'_>| {
            let result = finish(&mut Done { done, op, name });
            let errno = super::io::errno_of(&result);
            (result, errno)
        };
        self.world.perform(&self.host, event, (), begin, finish).await
    }
}

impl ColdStore for SimCold {
    type Upload = SimUpload;

    fn target(&self) -> String {
        TARGET.to_owned()
    }

    async fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let event = IoEvent { offset, len: bytes, ..Self::event(FileOp::Read, name.dir, Some(name)) };
        self.run(event, name, None, move |it| {
            if let Some(fault) = it.injected() {
                return it.fails(fault, "injected");
            }
            let Some(object) = it.done.disk.objects.finished.get(&name) else {
                return it.fails(ColdFault::Missing, "no such object");
            };
            let range = to_usize(offset)..to_usize(offset.saturating_add(bytes));
            let Some(found) = object.get(range) else {
                return it.fails(ColdFault::Short, &format!("it has {} bytes", object.len()));
            };
            let mut found = found.to_vec();
            it.done.flip_bit(&mut found);
            Ok(found)
        })
        .await
    }

    async fn length(&self, name: FileName) -> Result<u64> {
        let event = Self::event(FileOp::Length, name.dir, Some(name));
        self.run(event, name, None, move |it| {
            if let Some(fault) = it.injected() {
                return it.fails(fault, "injected");
            }
            match it.done.disk.objects.finished.get(&name) {
                Some(object) => Ok(to_u64(object.len())),
                None => it.fails(ColdFault::Missing, "no such object"),
            }
        })
        .await
    }

    async fn upload(&self, name: FileName) -> Result<SimUpload> {
        let event = IoEvent { grows: true, ..Self::event(FileOp::Open, name.dir, Some(name)) };
        let id = self.world.next_id();
        self.run(event, name, None, move |it| {
            if let Some(fault) = it.injected() {
                return it.fails(fault, "injected");
            }
            it.done.disk.objects.remnants.remove(&name);
            it.done.disk.objects.uploads.insert(id, Upload { name, bytes: Arc::default() });
            Ok(())
        })
        .await?;
        Ok(SimUpload { store: self.clone(), name, id, len: 0, broken: false })
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        let event = IoEvent { durable: true, ..Self::event(FileOp::Remove, name.dir, Some(name)) };
        self.run(event, name, Some(InFlight::ColdRemove { name }), move |it| {
            let (fault, made) = it.injected_change();
            if made {
                it.done.disk.objects.finished.remove(&name);
            }
            fault.map_or(Ok(()), |fault| it.fails(fault, "injected"))
        })
        .await
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        let event = Self::event(FileOp::List, dir, None);
        let finish = move |done: &mut Completion<'_>| match done.cold_fault() {
            Some(fault) => (Err(failure(FileOp::List, dir.to_string(), fault, "injected")), fault.errno()),
            None => (Ok(done.disk.objects.list(dir)), 0),
        };
        self.world.perform(&self.host, event, (), None, finish).await
    }
}

impl ColdUpload for SimUpload {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        let (name, id, len) = (self.name, self.id, to_u64(bytes.len()));
        if self.broken || self.len.saturating_add(len) > FILE_BYTES_MAX {
            return Err(failure(FileOp::Write, name.to_string(), ColdFault::Other, "the upload is broken"));
        }
        self.broken = true;
        let event = IoEvent {
            offset: self.len,
            len,
            grows: true,
            ..SimCold::event(FileOp::Write, name.dir, Some(name))
        };
        self.store
            .run(event, name, None, move |it| {
                if let Some(fault) = it.injected() {
                    return it.fails(fault, "injected");
                }
                let objects = &mut it.done.disk.objects;
                let free = it.done.cold_capacity.map(|all| all.saturating_sub(objects.used_bytes()));
                if free.is_some_and(|free| free < len) {
                    return it.fails(ColdFault::Full, "no space left");
                }
                match objects.uploads.get_mut(&id) {
                    Some(upload) => Arc::make_mut(&mut upload.bytes).extend_from_slice(&bytes),
                    None => return it.fails(ColdFault::Other, "the upload has gone"),
                }
                Ok(())
            })
            .await?;
        self.len = self.len.saturating_add(len);
        self.broken = false;
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        let (name, id) = (self.name, self.id);
        if self.broken {
            return Err(failure(FileOp::Finish, name.to_string(), ColdFault::Other, "the upload is broken"));
        }
        let event =
            IoEvent { durable: true, len: self.len, ..SimCold::event(FileOp::Finish, name.dir, Some(name)) };
        self.store
            .run(event, name, Some(InFlight::ColdFinish { upload: id }), move |it| {
                let (fault, made) = it.injected_change();
                if made {
                    it.done.disk.objects.finish(id);
                }
                fault.map_or(Ok(()), |fault| it.fails(fault, "injected"))
            })
            .await
    }
}

impl Drop for SimUpload {
    fn drop(&mut self) {
        // A machine that has stopped leaves its uploads to the crash.
        if !self.store.world.is_running() {
            return;
        }
        let mut disk = self.store.world.disk.borrow_mut();
        let finishing =
            |operation: &InFlight| matches!(operation, InFlight::ColdFinish { upload } if *upload == self.id);
        if !disk.in_flight.values().any(finishing) {
            disk.objects.uploads.remove(&self.id);
        }
    }
}
