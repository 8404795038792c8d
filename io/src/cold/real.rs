//! The cold target of a real world, whatever it is.

use super::store::{ColdStore, ColdUpload};
use crate::env::{Dir, FileName};
use crate::error::{Error, Result};

/// The cold target of a real world.
#[derive(Debug, Clone)]
pub struct RealCold(std::convert::Infallible);

/// An object in the making in the cold target of a real world.
#[derive(Debug)]
pub struct RealUpload(std::convert::Infallible);

impl ColdStore for RealCold {
    type Upload = RealUpload;

    fn target(&self) -> String {
        match self.0 {}
    }

    async fn read(&self, _name: FileName, _offset: u64, _bytes: u64) -> Result<Vec<u8>> {
        Err(Error::Stopped)
    }

    async fn length(&self, _name: FileName) -> Result<u64> {
        Err(Error::Stopped)
    }

    async fn upload(&self, _name: FileName) -> Result<RealUpload> {
        Err(Error::Stopped)
    }

    async fn remove(&self, _name: FileName) -> Result<()> {
        Err(Error::Stopped)
    }

    async fn list(&self, _dir: Dir) -> Result<Vec<FileName>> {
        Err(Error::Stopped)
    }
}

impl ColdUpload for RealUpload {
    async fn append(&mut self, _bytes: Vec<u8>) -> Result<()> {
        Err(Error::Stopped)
    }

    async fn finish(self) -> Result<()> {
        Err(Error::Stopped)
    }
}
