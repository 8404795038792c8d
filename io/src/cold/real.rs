//! The cold target of a real world, whatever it is.

use super::directory::{Directory, DirectoryUpload};
#[cfg(feature = "object-store")]
use super::object::{ObjectStoreTarget, ObjectUpload};
use super::store::{ColdStore, ColdUpload};
use super::target::{ColdLimits, ColdTarget};
use crate::env::{Dir, FileName};
use crate::error::Result;
use crate::real::sys::Affinity;

/// The cold target of a real world. All hosts of a world share one, and it may go to any thread.
#[derive(Debug, Clone)]
pub struct RealCold(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Directory(Directory),
    #[cfg(feature = "object-store")]
    ObjectStore(ObjectStoreTarget),
}

/// An object in the making in the cold target of a real world.
#[derive(Debug)]
pub struct RealUpload(KindOfUpload);

#[derive(Debug)]
enum KindOfUpload {
    Directory(DirectoryUpload),
    #[cfg(feature = "object-store")]
    ObjectStore(ObjectUpload),
}

impl RealCold {
    /// Does not touch the target, which may be out of reach. Its threads run on `cores`.
    pub(crate) fn new(target: &ColdTarget, limits: ColdLimits, cores: Option<Affinity>) -> Result<Self> {
        match target {
            ColdTarget::Directory(path) => {
                Ok(Self(Kind::Directory(Directory::new(path.clone(), limits, cores))))
            }
            #[cfg(feature = "object-store")]
            ColdTarget::ObjectStore(url) => {
                Ok(Self(Kind::ObjectStore(ObjectStoreTarget::new(url.clone(), limits, cores)?)))
            }
        }
    }
}

impl ColdStore for RealCold {
    type Upload = RealUpload;

    fn target(&self) -> String {
        match &self.0 {
            Kind::Directory(store) => store.target(),
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => store.target(),
        }
    }

    async fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        match &self.0 {
            Kind::Directory(store) => store.read(name, offset, bytes).await,
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => store.read(name, offset, bytes).await,
        }
    }

    async fn length(&self, name: FileName) -> Result<u64> {
        match &self.0 {
            Kind::Directory(store) => store.length(name).await,
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => store.length(name).await,
        }
    }

    async fn upload(&self, name: FileName) -> Result<RealUpload> {
        Ok(RealUpload(match &self.0 {
            Kind::Directory(store) => KindOfUpload::Directory(store.upload(name).await?),
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => KindOfUpload::ObjectStore(store.upload(name).await?),
        }))
    }

    async fn remove(&self, name: FileName) -> Result<()> {
        match &self.0 {
            Kind::Directory(store) => store.remove(name).await,
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => store.remove(name).await,
        }
    }

    async fn list(&self, dir: Dir) -> Result<Vec<FileName>> {
        match &self.0 {
            Kind::Directory(store) => store.list(dir).await,
            #[cfg(feature = "object-store")]
            Kind::ObjectStore(store) => store.list(dir).await,
        }
    }
}

impl ColdUpload for RealUpload {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        match &mut self.0 {
            KindOfUpload::Directory(upload) => upload.append(bytes).await,
            #[cfg(feature = "object-store")]
            KindOfUpload::ObjectStore(upload) => upload.append(bytes).await,
        }
    }

    async fn finish(self) -> Result<()> {
        match self.0 {
            KindOfUpload::Directory(upload) => upload.finish().await,
            #[cfg(feature = "object-store")]
            KindOfUpload::ObjectStore(upload) => upload.finish().await,
        }
    }
}

const _: () = {
    const fn goes_to_any_thread<T: Send + Sync>() {}
    goes_to_any_thread::<RealCold>();
};
